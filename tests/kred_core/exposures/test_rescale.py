"""Prepared detectors: the right pixels from every storage form, headers that agree with them."""

import math

import fitsio
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from mefs import starry_sky

from kred_core.errors import ExposureError
from kred_core.exposures.exposure import Exposure
from kred_core.exposures.rescale import exposure_background, factor, rescale_detector
from kred_core.fits import checksum, storage
from kred_core.fits.hdu import scan
from kred_core.fits.pixels import read_pixels

MAGZERO, EXPTIME = 30.1, 120.0
SCALE = 10 ** (0.4 * (28 - MAGZERO))
BACK = 101.25
MODE, MEDIAN = [110.0, 100.0, 130.0, 120.0], [115.0, 104.0, 139.0, 127.0]

PRIMARY = [
    "FILTER  = 'N662 DECam c0009 6620.0 172.0' / Unique filter identifier",
    f"EXPTIME =                {EXPTIME} / [s] Exposure duration",
    "HIERARCH TIME_RECORDED = '2017-03-16T06:20:39.536585'",
    "        = '        '",
    "BUNIT   = 'adu     '           / Brightness units for pixel array",
    f"MAGZERO =                 {MAGZERO} / [mag] Magnitude zero point",
    "MAGZPT  =               24.902 / [mag] Magnitude zero point per sec",
    "NEXTEND =                   61",
    "COMMENT",
    *["HISTORY None"] * 2,
]
EXTENSION = [
    "INHERIT =                    T / Inherits global header",
    "GAINA   =                  4.0 / [electrons/adu] Gain for amp A",
    "GAINB   =                  5.0 / [electrons/adu] Gain for amp B",
    "RDNOISEA=                  6.0 / [electrons] Read noise for amp A",
    "RDNOISEB=                  8.0 / [electrons] Read noise for amp B",
    "SATURATA=              40000.0 / [adu] Saturation for amp A",
    "SATURATB=              41000.0 / [adu] Saturation for amp B",
    "SATURATE=              41000.0",
    "ARAWGAIN=                  4.4 / [e/adu] Average raw gain",
    "AVSKY   =                700.5",
    "AVSIG   =                 14.5",
    "SKYSIGMA= 'NaN     '",
    "ZPDELRA =             -25.9916 / [arcsec] Telescope zeropoint adjustment (RA)",
    "FZALGOR = 'RICE_1  '",
    *["HISTORY None"] * 2,
]


def sky():
    return starry_sky((40, 64))


def with_cards(path, index, lines):
    """Add cards as they stand, to a file whose headers astropy wrote."""
    raw, hdu = path.read_bytes(), scan(path)[index]
    header = raw[hdu.header_start : hdu.data_start].rstrip(b" ").removesuffix(b"END").ljust(0)
    header += b" " * (-len(header) % 80) + "".join(f"{line:<80}" for line in [*lines, "END"]).encode()
    header += b" " * (-len(header) % 2880)
    path.write_bytes(raw[: hdu.header_start] + header + raw[hdu.data_start :])


def exposure_of(hdu, tmp_path, primary=PRIMARY, extension=EXTENSION):
    path = tmp_path / "c4d_170316_062107_ooi_N662_v1.fits.fz"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)
    with_cards(path, 1, extension)
    with_cards(path, 0, primary)
    return Exposure.open(path)


def compressed(pixels, kind="RICE_1", dither=1, level=4.0):
    how = {"compression_type": kind, "quantize_method": dither, "quantize_level": level, "dither_seed": 4785}
    return fits.CompImageHDU(pixels, name="N1", **how)


def sky_with(value):
    """The sky, with this value in a pixel and in a row."""
    pixels = sky()
    pixels[7, 9], pixels[11] = value, value
    return pixels


def integers(scale=1.0, zero=0.0, blank=None):
    pixels = sky().clip(0, 30000).astype(np.int16)
    if blank is not None:
        pixels[3, 4:9] = blank
    hdu = fits.ImageHDU(pixels, name="N1")
    hdu.header["BSCALE"], hdu.header["BZERO"] = scale, zero
    if blank is not None:
        hdu.header["BLANK"] = blank
    return hdu


QUANTISED = {
    "RICE_1, dither 1": lambda: compressed(sky()),
    "RICE_1, NaN in a pixel": lambda: compressed(np.where(sky() == sky()[3, 3], np.float32(np.nan), sky())),
    "GZIP_2, quantised": lambda: compressed(sky(), "GZIP_2", dither=2),
    "HCOMPRESS_1, quantised": lambda: compressed(sky(), "HCOMPRESS_1"),
    "RICE_1, undithered, exact zeros": lambda: compressed(np.round(sky().clip(690)) - 690, dither=-1, level=-1.0),
    "RICE_1, float64": lambda: compressed(sky().astype(np.float64)),
}
OTHERWISE = {
    "RICE_1, dither 2, exact zeros": lambda: compressed(sky_with(0), dither=2),
    "RICE_1, a constant row": lambda: compressed(sky_with(17.25)),
    "RICE_1, a row of NaN": lambda: compressed(sky_with(np.nan)),
    "GZIP_2, lossless": lambda: compressed(sky(), "GZIP_2", level=0),
    "GZIP_2, lossless, NaN": lambda: compressed(sky_with(np.nan), "GZIP_2", level=0),
    "GZIP_2, float64": lambda: compressed(sky().astype(np.float64) * (1 + 1e-9), "GZIP_2", level=0),  # rounded once
    "NOCOMPRESS": lambda: compressed(sky(), "NOCOMPRESS", level=0),
    "RICE_1, integers": lambda: compressed(sky().astype(np.int16), "RICE_1"),
    "PLIO_1, integers": lambda: compressed(sky().astype(np.int16), "PLIO_1"),
}
PLAIN = {
    "float32": lambda: fits.ImageHDU(sky_with(np.nan), name="N1"),
    "float64": lambda: fits.ImageHDU(sky().astype(np.float64) + 1e-9, name="N1"),
    "unsigned integers": lambda: integers(zero=32768.0),
    "integers with BLANK": lambda: integers(blank=-32768),
    "scaled integers with BLANK": lambda: integers(0.25, 1000.0, blank=-32768),
}
FORMS = QUANTISED | OTHERWISE | PLAIN


def expected(exposure):
    """Pixels in float64, from what astropy says that the input holds."""
    with fits.open(exposure.path) as f:
        return f[1].data.astype(np.float64) * SCALE - BACK


def assert_rounding_only(pixels, truth):
    """Equal but for the rounding of the input and of the output to float32."""
    assert pixels.dtype.kind == "f"
    step = np.spacing(np.abs((truth + BACK) / SCALE).astype(np.float32)) * SCALE + np.spacing(np.abs(truth).astype(np.float32))
    np.testing.assert_array_equal(np.isnan(pixels), np.isnan(truth))
    good = np.isfinite(truth)
    assert good.sum() > truth.size / 2
    assert np.all(np.abs(pixels[good] - truth[good]) <= step[good])


def prepare(exposure, tmp_path, plain=False, scale=SCALE, back=BACK):
    destination = tmp_path / f"prepared_{exposure.detectors[0].extname}.fits{'' if plain else '.fz'}"
    rescale_detector(exposure.primary, exposure.detectors[0], destination, scale, back, plain=plain)
    return destination


def require_lossless(exposure, tmp_path):
    """What is not edited is rounded once, to float32, and stored without loss."""
    after = scan(prepare(exposure, tmp_path))[1]
    assert after.header["ZCMPTYPE"] == "GZIP_2"
    truth = (exposure.detectors[0].pixels().astype(np.float64) * SCALE - BACK).astype(np.float32)
    np.testing.assert_array_equal(read_pixels(after), truth)


def cards(path, index):
    hdu = scan(path)[index]
    raw = path.read_bytes()[hdu.header_start : hdu.data_start].decode("latin-1")
    return [raw[i : i + 80].rstrip() for i in range(0, len(raw), 80)]


class TestPixels:
    @pytest.mark.parametrize("plain", [False, True], ids=["as stored", "plain"])
    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
    def test_every_storage_form_to_float32_rounding(self, tmp_path, form, plain):
        exposure = exposure_of(form(), tmp_path)
        path = prepare(exposure, tmp_path, plain)
        with fits.open(path, checksum=True) as f:
            f.verify("exception")
            assert_rounding_only(f[1].data, expected(exposure))
            ours = read_pixels(scan(path)[1])
            np.testing.assert_array_equal(f[1].data.astype(np.float32), ours)
            np.testing.assert_array_equal(fitsio.read(str(path), ext=1).astype(np.float32), ours)
            assert [h.name for h in f] == ["PRIMARY", "N1"]
        for hdu in scan(path):
            assert "DATASUM" in hdu.header
            assert checksum.damage(hdu) is None
            assert checksum.edited_header(hdu) is None

    @pytest.mark.parametrize("form", QUANTISED.values(), ids=QUANTISED.keys())
    def test_quantised_pixels_are_not_touched(self, tmp_path, form):
        exposure = exposure_of(form(), tmp_path)
        before, after = exposure.detectors[0].hdu, scan(prepare(exposure, tmp_path))[1]
        assert after.data_length == before.data_length
        heaps = [
            h.path.read_bytes()[h.data_start + h.header["NAXIS1"] * h.header["NAXIS2"] : h.data_start + h.data_length]
            for h in (before, after)
        ]
        assert heaps[0] == heaps[1]
        tables = [fits.getdata(h.path, 1, disable_image_compression=True) for h in (before, after)]
        np.testing.assert_allclose(tables[1]["ZSCALE"], tables[0]["ZSCALE"] * SCALE, rtol=1e-15)
        np.testing.assert_allclose(tables[1]["ZZERO"], tables[0]["ZZERO"] * SCALE - BACK, rtol=1e-12)

    @pytest.mark.parametrize("form", OTHERWISE.values(), ids=OTHERWISE.keys())
    def test_what_cannot_be_edited_is_stored_without_loss(self, tmp_path, form):
        exposure = exposure_of(form(), tmp_path)
        compressed_file, plain_file = prepare(exposure, tmp_path), prepare(exposure, tmp_path, plain=True)
        header = scan(compressed_file)[1].header
        assert (header["ZCMPTYPE"], header["ZBITPIX"], "ZSCALE" in storage.table_columns(header)) == ("GZIP_2", -32, False)
        np.testing.assert_array_equal(fits.getdata(compressed_file, 1), fits.getdata(plain_file, 1))

    @pytest.mark.parametrize(("cards", "quantised"), [((1.0, 0.0), True), ((2.0, 0.0), False), ((1.0, -10.0), False)])
    def test_bscale_and_bzero_of_quantised_pixels(self, tmp_path, cards, quantised):
        lines = [f"BSCALE  = {cards[0]}", f"BZERO   = {cards[1]}"]
        exposure = exposure_of(compressed(sky()), tmp_path, extension=lines)
        path = prepare(exposure, tmp_path)
        assert ("ZSCALE" in storage.table_columns(scan(path)[1].header)) == quantised
        assert_rounding_only(fits.getdata(path, 1), expected(exposure))

    @pytest.mark.parametrize("line", ["TZERO3  = 17.0", "TSCAL2  = 2.0"])
    def test_scaled_columns_of_quantised_pixels(self, tmp_path, line):
        exposure = exposure_of(compressed(sky()), tmp_path, extension=[line])
        truth = read_pixels(exposure.detectors[0].hdu).astype(np.float64) * SCALE - BACK
        assert_rounding_only(read_pixels(scan(prepare(exposure, tmp_path))[1]), truth)

    def test_scales_and_zeros_in_float32_are_not_edited(self, tmp_path):
        """The standard allows such columns, too; rounded to float32 a zero point would shift all pixels of a row."""
        source = exposure_of(compressed(sky()), tmp_path).detectors[0].hdu
        header, raw = source.header.copy(), source.read()
        rows, columns = header["NAXIS2"], storage.table_columns(header)
        narrow = np.zeros(rows, [("COMPRESSED_DATA", ">i4", 2), ("ZSCALE", ">f4"), ("ZZERO", ">f4")])
        for i, (name, form) in enumerate(zip(narrow.dtype.names, ("1PB(99)", "1E", "1E"), strict=True), 1):
            narrow[name] = storage.table_values(header, raw, columns[name])
            header[f"TTYPE{i}"], header[f"TFORM{i}"] = name, form
        data = narrow.tobytes() + raw[header["NAXIS1"] * rows :]
        header["NAXIS1"], header["TFIELDS"] = 16, 3
        path = tmp_path / "narrow.fits.fz"
        path.write_bytes((fits.PrimaryHDU().header.tostring() + header.tostring()).encode() + data + bytes(-len(data) % 2880))
        require_lossless(Exposure.open(path), tmp_path)

    @pytest.mark.parametrize(("name", "value"), [("ZSCALE", 0.0), ("ZSCALE", np.nan), ("ZZERO", np.inf)])
    def test_a_row_whose_scale_or_zero_says_nothing_is_not_edited(self, tmp_path, name, value):
        exposure = exposure_of(compressed(sky()), tmp_path)
        hdu = exposure.detectors[0].hdu
        data = hdu.read()
        storage.table_values(hdu.header, data, storage.table_columns(hdu.header)[name])[5] = value
        raw = exposure.path.read_bytes()
        exposure.path.write_bytes(raw[: hdu.data_start] + data + raw[hdu.data_start + len(data) :])
        require_lossless(Exposure.open(exposure.path), tmp_path)

    def test_factor_1_and_no_background_change_no_pixel_and_the_same_input_gives_the_same_bytes(self, tmp_path):
        for form in (QUANTISED["RICE_1, dither 1"], OTHERWISE["GZIP_2, lossless"], PLAIN["float32"]):
            exposure = exposure_of(form(), tmp_path)
            before = fits.getdata(exposure.path, 1)
            np.testing.assert_array_equal(fits.getdata(prepare(exposure, tmp_path, scale=1, back=0), 1), before)
            first = prepare(exposure, tmp_path).read_bytes()
            assert prepare(exposure, tmp_path).read_bytes() == first


class TestHeader:
    def test_electrons_stay_what_they_were_and_levels_are_on_the_scale_of_the_pixels(self, tmp_path):
        """Gain x level is a number of electrons, which no rescaling changes; read noise is one already."""
        header = fits.getheader(prepare(exposure_of(compressed(sky()), tmp_path), tmp_path), 1)
        assert header["GAINA"] == pytest.approx(4.0 / SCALE)
        assert header["GAINB"] == pytest.approx(5.0 / SCALE)
        assert header["ARAWGAIN"] == pytest.approx(4.4 / SCALE)
        assert header["GAIN"] == pytest.approx(4.5 / SCALE)
        assert (header["SATURATA"] + BACK) * header["GAINA"] == pytest.approx(160000)
        assert header["AVSIG"] * header["GAINA"] == pytest.approx(14.5 * 4)
        assert (header["RDNOISEA"], header["RDNOISEB"], header["RDNOISE"]) == (6.0, 8.0, 7.0)
        for key, level in {"SATURATA": 40000, "SATURATB": 41000, "SATURATE": 41000, "SATURAT": 40000, "AVSKY": 700.5}.items():
            assert header[key] == pytest.approx(level * SCALE - BACK)
        assert header.comments["GAINA"] == "[electrons/counts28] Gain for amp A"
        assert header.comments["SATURATA"] == "[counts28] Saturation for amp A"
        assert header.comments["RDNOISEA"] == "[electrons] Read noise for amp A"

    def test_zero_point_factor_background_unit_and_origin_are_said(self, tmp_path):
        path = prepare(exposure_of(compressed(sky()), tmp_path), tmp_path)
        primary, header = (fits.getheader(path, index) for index in (0, 1))
        assert (primary["MAGZERO"], primary["MAGZERO0"]) == (28.0, MAGZERO)
        assert primary["MAGZPT"] + 2.5 * math.log10(primary["EXPTIME"]) == pytest.approx(28.0)
        assert primary["MAGZPT0"] == 24.902
        assert 10 ** (0.4 * (primary["MAGZERO"] - primary["MAGZERO0"])) == pytest.approx(primary["XFACTOR"])
        assert "MAGZERO" not in header
        for some in (primary, header):
            assert (some["XFACTOR"], some["SUB_BACK"]) == (SCALE, BACK)
            assert u.Unit(some["BUNIT"], format="fits") == u.count
        assert primary["KREDVER"]
        assert primary["NEXTEND"] == 1
        assert "kred: from c4d_170316_062107_ooi_N662_v1.fits.fz" in list(header["HISTORY"])

    @pytest.mark.parametrize("plain", [False, True])
    @pytest.mark.parametrize("form", ["RICE_1, dither 1", "GZIP_2, lossless", "float32"])
    def test_all_other_cards_survive_as_they_are(self, tmp_path, form, plain):
        path = prepare(exposure_of(FORMS[form](), tmp_path), tmp_path, plain)
        changed = ("BUNIT", "MAGZERO", "MAGZPT", "NEXTEND", "GAIN", "ARAW", "SATUR", "AVS")
        for index, lines in ((0, PRIMARY), (1, EXTENSION)):
            kept = [line for line in lines if not line.startswith(changed)]
            found = cards(path, index)
            assert [line for line in found if line in kept] == kept
            assert found.count("HISTORY None") == 2
        assert cards(path, 0)[:4] == cards(tmp_path / "c4d_170316_062107_ooi_N662_v1.fits.fz", 0)[:4]

    @pytest.mark.parametrize("plain", [False, True])
    def test_no_trace_of_the_old_structure(self, tmp_path, plain):
        exposure = exposure_of(compressed(sky().astype(np.int16)), tmp_path)
        with_cards(exposure.path, 1, ["ZHECKSUM= 'aaaaaaaaaaaaaaaa'", "ZDATASUM= '12345'", "DATASUM = '7'", "CHECKSUM= 'b'"])
        path = prepare(Exposure.open(exposure.path), tmp_path, plain)
        keys = [card[:8].rstrip() for card in cards(path, 1)]
        gone = {"ZHECKSUM", "ZDATASUM", "BZERO", "BSCALE", "ZNAME1", "ZVAL1", "TTYPE2"}
        assert not gone & set(keys)
        assert keys.count("DATASUM") == keys.count("CHECKSUM") == keys.count("BITPIX") == 1
        if plain:
            assert not [key for key in keys if key.startswith(("ZIM", "ZNA", "ZTI", "ZCM", "TF", "TT"))]

    @pytest.mark.parametrize(
        ("exptime", "zero_point"), [(1.0, 28.0), (0.5, 28.0 + 2.5 * math.log10(2)), (0.0, None), (-120.0, None), ("", None)]
    )
    def test_zero_point_per_second(self, tmp_path, exptime, zero_point):
        primary = [f"EXPTIME = {exptime}" if line.startswith("EXPTIME") else line for line in PRIMARY]
        header = fits.getheader(prepare(exposure_of(compressed(sky()), tmp_path, primary=primary), tmp_path))
        assert header.get("MAGZPT") == (zero_point and pytest.approx(zero_point, abs=1e-12))
        assert header["MAGZPT0"] == 24.902

    def test_a_keyword_that_is_there_three_times_has_one_value_afterwards(self, tmp_path):
        extension = ["AVSKY   = 700.5", "CCDNUM  = 33", "AVSKY   = 701.5", "AVSKY   = 702.5"]
        written = cards(prepare(exposure_of(compressed(sky()), tmp_path, extension=extension), tmp_path), 1)
        found = [i for i, card in enumerate(written) if card.startswith("AVSKY")]
        assert len(found) == 1
        assert written[found[0] + 1].split() == ["CCDNUM", "=", "33"]
        assert float(written[found[0]][10:]) == pytest.approx(700.5 * SCALE - BACK, rel=1e-12)

    def test_pixels_in_the_primary_are_left_out(self, tmp_path):
        path = tmp_path / "image.fits"
        fits.HDUList([fits.PrimaryHDU(sky()), compressed(sky())]).writeto(path)
        prepared = prepare(Exposure.open(path), tmp_path)
        with fits.open(prepared) as f:
            f.verify("exception")
            assert f[0].data is None
            assert f[1].shape == (40, 64)


class TestBadInput:
    @pytest.mark.parametrize(("scale", "back"), [(0, 0), (-1, 0), (math.nan, 0), (math.inf, 0), (1, math.nan)])
    def test_impossible_numbers(self, tmp_path, scale, back):
        exposure = exposure_of(compressed(sky()), tmp_path)
        with pytest.raises(ExposureError, match="N1: expected a factor above 0"):
            prepare(exposure, tmp_path, scale=scale, back=back)

    def test_nothing_is_left_of_a_damaged_detector(self, tmp_path):
        exposure = exposure_of(compressed(sky(), "GZIP_2", level=0), tmp_path)
        hdu = exposure.detectors[0].hdu
        raw = bytearray(exposure.path.read_bytes())
        raw[hdu.data_start + hdu.data_length - 3000 : hdu.data_start + hdu.data_length - 2000] = b"\x55" * 1000
        exposure.path.write_bytes(raw)
        with pytest.raises(ExposureError, match="N1"):
            prepare(exposure, tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [exposure.path.name]


def test_real_files(tmp_path, real_decam):
    """Lossless GZIP_2, RICE_ONE with dither 2, and uncompressed images under a .fits.fz name."""
    found = set()
    for path in sorted(real_decam.glob("*/mef/*_ooi_*")):
        exposure = Exposure.open(path)
        for detector in exposure.detectors:
            destination = tmp_path / f"{detector.name}.fits.fz"
            rescale_detector(exposure.primary, detector, destination, SCALE, BACK)
            hdu = scan(destination)[1]
            found.add((detector.header.get("ZCMPTYPE", "plain"), hdu.header.get("ZCMPTYPE", "plain")))
            assert_rounding_only(read_pixels(hdu), detector.pixels().astype(np.float64) * SCALE - BACK)
            assert checksum.damage(hdu) is None
            for key in ("CRPIX1", "PV1_7", "EXTNAME", "FWHM", "DETSEC"):
                assert hdu.header[key] == detector.header[key]
    assert found == {("GZIP_2", "GZIP_2"), ("RICE_ONE", "RICE_ONE"), ("plain", "plain")}


# the factor and the background


def test_a_source_of_28_mag_has_one_count():
    for magzero in (23.0, 28.0, 29.915, 30.537):
        adu = 10 ** (-0.4 * (28 - magzero))  # of such a source, by the meaning of the zero point
        assert adu * factor(magzero) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize(("method", "adu"), [("mode", 115.0), ("median", 121.0), ("min", 100.0), ("none", 0.0)])
def test_the_background_is_in_counts28_where_the_statistics_are_in_adu(method, adu):
    found = exposure_background(method, MODE, MEDIAN, 0.16)
    assert found == pytest.approx(adu * 0.16, rel=1e-15)
    assert type(found) is float
