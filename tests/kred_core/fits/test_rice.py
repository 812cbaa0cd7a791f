"""The decoder against astropy and cfitsio, bit for bit, and against damaged bytes."""

from contextlib import suppress

import numba as nb
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mefs import starry_sky as sky

from kred_core.errors import ExposureError
from kred_core.fits import rice, storage
from kred_core.fits.hdu import scan

DITHERS = {"undithered": -1, "dither 1": 1, "dither 2": 2}


def stored(tmp_path, pixels, dither=1, level=4.0, seed=4785):
    """The HDU of an image that astropy compressed."""
    path = tmp_path / "image.fits.fz"
    image = fits.CompImageHDU(
        pixels, name="N1", compression_type="RICE_1", quantize_method=dither, quantize_level=level, dither_seed=seed
    )
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path, overwrite=True)
    return scan(path)[1]


def data_unit(hdu):
    return hdu.path.read_bytes()[hdu.data_start : hdu.data_start + hdu.data_length]


def decode(hdu):
    assert rice.can_decode(hdu.header)
    return rice.decode(hdu.header, data_unit(hdu))


def same_bits(a, b):
    """Equal as bits, except that one NaN is as good as another."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return a.shape == b.shape and np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b)))


def rewritten(hdu, path, columns, form="P", gap=0):
    """The same RICE bits in a table of other columns: forms that the standard allows and that nobody here writes.

    `columns` holds what comes after the descriptors: arrays become columns, numbers keywords.
    """
    raw = data_unit(hdu)
    descriptors = storage.table_values(hdu.header, raw, storage.table_columns(hdu.header)["COMPRESSED_DATA"])
    heap = raw[hdu.header["NAXIS1"] * hdu.header["NAXIS2"] :]
    parts = {"COMPRESSED_DATA": descriptors.astype(">i4" if form == "P" else ">i8")}
    header = hdu.header.copy()
    for key in [k for k in header if k.startswith(("TTYPE", "TFORM"))]:
        del header[key]
    header["TTYPE1"], header["TFORM1"] = "COMPRESSED_DATA", f"1{form}B"
    for name, values in columns.items():
        if np.ndim(values):
            header[f"TTYPE{len(parts) + 1}"] = name
            header[f"TFORM{len(parts) + 1}"] = "1J" if values.dtype.kind == "i" else "1D"
            parts[name] = values.astype(">i4" if values.dtype.kind == "i" else ">f8")
        else:
            header[name] = values
    rows = [b"".join(part[i : i + 1].tobytes() for part in parts.values()) for i in range(len(descriptors))]
    table = b"".join(rows) + bytes(gap)
    header["TFIELDS"], header["NAXIS1"], header["PCOUNT"] = len(parts), len(rows[0]), gap + len(heap)
    if gap:
        header["THEAP"] = len(table)
    data = table + heap
    path.write_bytes(fits.PrimaryHDU().header.tostring().encode() + header.tostring().encode() + data + bytes(-len(data) % 2880))
    return scan(path)[1]


class TestSameAsOthers:
    @pytest.mark.parametrize("dither", DITHERS.values(), ids=DITHERS.keys())
    @pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 64, 511])
    def test_every_width_and_dither(self, tmp_path, width, dither):
        hdu = stored(tmp_path, sky((9, width)), dither)
        assert same_bits(decode(hdu), fits.getdata(hdu.path, 1))

    @pytest.mark.parametrize("method", ["NO_DITHER", "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2"])
    def test_files_that_cfitsio_wrote(self, tmp_path, method):
        fitsio = pytest.importorskip("fitsio")
        pixels = sky((12, 130))
        pixels[2, 7], pixels[3, 5], pixels[4], pixels[5] = np.nan, 0, 5, np.nan
        path = tmp_path / "cfitsio.fits.fz"
        with fitsio.FITS(str(path), "rw", clobber=True) as f:
            f.write(pixels, compress="RICE", qlevel=4, qmethod=method, dither_seed=17)
        hdu = scan(path)[1]
        assert same_bits(decode(hdu), fitsio.read(str(path), ext=1))
        assert same_bits(decode(hdu), fits.getdata(path, 1))
        assert np.isnan(decode(hdu)[2, 7])
        assert (decode(hdu)[4] == 5).all()
        assert method[-1] == "1" or decode(hdu)[3, 5] == 0

    @pytest.mark.parametrize("seed", [1, 9998, 10000])
    def test_dither_sequence_starts_again_after_its_last_number(self, tmp_path, seed):
        hdu = stored(tmp_path, sky((4, 20500)), seed=seed)
        assert same_bits(decode(hdu), fits.getdata(hdu.path, 1))

    def test_noise_of_many_magnitudes(self, tmp_path):
        # a step far below the noise gives long codes, and blocks that are stored uncoded; equal pixels give empty ones
        random = np.random.default_rng(3)
        pixels = np.vstack([random.normal(0, 10.0**p, (2, 200)) for p in range(-4, 6)]).astype(np.float32)
        pixels[:, 64:128] = pixels[:, :1]
        for level in (-1e-3, -0.1, -30.0):
            hdu = stored(tmp_path, pixels, level=level)
            assert same_bits(decode(hdu), fits.getdata(hdu.path, 1))


class TestOtherWaysToSayIt:
    """Forms that the standard allows and that no program here writes."""

    def test_long_descriptors_and_a_heap_further_down(self, tmp_path):
        hdu = stored(tmp_path, sky((6, 90)))
        table = fits.getdata(hdu.path, 1, disable_image_compression=True)
        scales = {"ZSCALE": np.array(table["ZSCALE"]), "ZZERO": np.array(table["ZZERO"])}
        for form, gap in (("Q", 0), ("P", 100), ("Q", 77)):
            other = rewritten(hdu, tmp_path / "other.fits.fz", scales, form, gap)
            assert same_bits(decode(other), decode(hdu))
            assert same_bits(fits.getdata(other.path, 1), decode(hdu))

    def test_one_scale_and_zero_for_all_rows(self, tmp_path):
        hdu = stored(tmp_path, sky((6, 90)), level=-3.0)
        per_row = rewritten(hdu, tmp_path / "a.fits.fz", {"ZSCALE": np.full(6, 3.5), "ZZERO": np.full(6, 500.0)})
        for_all = rewritten(hdu, tmp_path / "b.fits.fz", {"ZSCALE": 3.5, "ZZERO": 500.0})
        assert set(storage.table_columns(for_all.header)) == {"COMPRESSED_DATA"}
        assert same_bits(decode(for_all), fits.getdata(per_row.path, 1))

    def test_null_value_per_row(self, tmp_path):
        hdu = stored(tmp_path, sky((3, 64)))
        raw = data_unit(hdu)
        start = hdu.header["NAXIS1"] * hdu.header["NAXIS2"]
        offset = storage.table_values(hdu.header, raw, storage.table_columns(hdu.header)["COMPRESSED_DATA"])[1][1]
        first = int.from_bytes(raw[start + offset : start + offset + 4], "big", signed=True)
        table = fits.getdata(hdu.path, 1, disable_image_compression=True)
        columns = {name: np.array(table[name]) for name in ("ZSCALE", "ZZERO")}
        nulls = rewritten(hdu, tmp_path / "nulls.fits.fz", columns | {"ZBLANK": np.array([-1, first, -1], np.int32)})
        assert np.isnan(decode(nulls)[1, 0])
        assert same_bits(decode(nulls), fits.getdata(nulls.path, 1))


class TestLeavesToAstropy:
    OTHERS = (
        ("ZBITPIX", -64), ("ZNAXIS1", 0), ("TTYPE3", "OTHER"), ("ZTILE2", 4), ("ZTILE1", 20), ("ZVAL1", 16), ("ZVAL2", 2),
        ("ZQUANTIZ", "SUBTRACTIVE_DITHER_9"), ("ZDITHER0", 0), ("BSCALE", 2.0), ("BZERO", 32768), ("TZERO3", 1.0),
        ("TFORM1", "1PI(99)"), ("TFORM3", "1E"), ("TFORM4", "junk"), ("TTYPE2", "UNCOMPRESSED_DATA"), ("ZBLANK", 2**40),
        ("TFIELDS", "four"),
    )  # fmt: skip

    def test_header_of_another_form(self, tmp_path):
        whole = stored(tmp_path, sky((8, 40))).header
        assert rice.can_decode(whole)
        for key, value in self.OTHERS:
            header = whole.copy()
            header[key] = value
            assert not rice.can_decode(header), key


class TestDamage:
    def with_descriptor(self, hdu, row, length=None, offset=None):
        raw = bytearray(data_unit(hdu))
        values = storage.table_values(hdu.header, raw, storage.table_columns(hdu.header)["COMPRESSED_DATA"])
        values[row] = [values[row][0] if length is None else length, values[row][1] if offset is None else offset]
        return bytes(raw)

    @pytest.mark.parametrize(("length", "offset"), [(3, None), (-1, 0), (50, 10**9), (50, -1), (2**31 - 1, 2**31 - 1)])
    def test_a_row_that_ends_too_early_or_lies_outside_the_data_is_named(self, tmp_path, length, offset):
        hdu = stored(tmp_path, sky((8, 400)))
        with pytest.raises(ExposureError, match="row 3 is damaged"):
            rice.decode(hdu.header, self.with_descriptor(hdu, 2, length, offset))

    def test_a_row_of_zeros_of_a_code_that_does_not_exist_or_of_no_gzip_is_named(self, tmp_path):
        pixels = sky((8, 400))
        pixels[3] = 17
        hdu = stored(tmp_path, pixels)
        raw, start = data_unit(hdu), hdu.header["NAXIS1"] * hdu.header["NAXIS2"]
        gzipped = raw.index(b"\x1f\x8b") + 4
        for row, at, damage in (
            (1, start + 5, bytes(len(raw) - start - 5)),
            (1, start + 4, b"\xff"),  # its first five bits: how the first block is coded
            (4, gzipped, b"\xff" * 20),
        ):
            with pytest.raises(ExposureError, match=f"row {row} is damaged"):
                rice.decode(hdu.header, raw[:at] + damage + raw[at + len(damage) :])
        with pytest.raises(ExposureError, match="does not fit"):
            rice.decode(hdu.header, raw[:100])

    def test_a_row_without_data_is_named(self, tmp_path):
        hdu = stored(tmp_path, sky((8, 400)))
        with pytest.raises(ExposureError, match=r"row 6 (has no data|is damaged)"):
            rice.decode(hdu.header, self.with_descriptor(hdu, 5, length=0))
        alone = rewritten(hdu, tmp_path / "alone.fits.fz", {"ZSCALE": 3.5, "ZZERO": 500.0})  # no column has such rows
        with pytest.raises(ExposureError, match="row 6 has no data"):
            rice.decode(alone.header, self.with_descriptor(alone, 5, length=0))

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
    @given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
    def test_any_damage_gives_an_image_or_an_error(self, tmp_path, changes):
        path = tmp_path / "image.fits.fz"
        hdu = scan(path)[1] if path.exists() else stored(tmp_path, sky((6, 100)))
        raw = bytearray(data_unit(hdu))
        for at, value in changes:
            raw[at % len(raw)] = value
        with suppress(ExposureError):
            assert rice.decode(hdu.header, bytes(raw)).shape == (6, 100)

    def test_no_read_leaves_the_padded_data(self):
        checked = nb.njit(boundscheck=True)(rice._read_differences.py_func)
        random = np.random.default_rng(5)
        quantised = np.empty(700, np.int32)
        whole = 0
        for case in range(3000):
            row = random.integers(0, 256, random.integers(0, 120), dtype=np.uint8)
            if case % 3:  # long codes, so that a block is far beyond the end before anybody looks
                row[4 : 4 + case % 40] = random.choice(np.array([0xCB, 0xD3, 0x01, 0x00, 0xFF], np.uint8))
            padded = np.concatenate([row, np.zeros(rice.PADDING, np.uint8)])
            whole += checked(padded, np.uint64(0), np.uint64(len(row)), quantised)
        assert 0 < whole < 300
        with pytest.raises(IndexError):  # the check is at work
            checked(np.zeros(4, np.uint8), np.uint64(0), np.uint64(4), quantised)
