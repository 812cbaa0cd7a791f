"""Checksums against astropy's, as finders of damage, and in headers that kred writes, which astropy reads as they were meant."""

import io
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from kred_core.fits import checksum
from kred_core.fits.cards import hdu_bytes
from kred_core.fits.hdu import scan

REAL = Path(__file__).parents[3].parent / "shared" / "real_decam"


@pytest.fixture
def signed(tmp_path):
    """A compressed image whose checksums astropy wrote."""
    pixels = np.random.default_rng(1).normal(700, 14, (20, 30)).astype(np.float32)
    path = tmp_path / "signed.fits.fz"
    image = fits.CompImageHDU(pixels, name="N1", compression_type="RICE_1", quantize_level=4, quantize_method=1)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path, checksum=True)
    return path


def changed(path, at, new):
    raw = bytearray(path.read_bytes())
    raw[at : at + len(new)] = new
    path.write_bytes(raw)
    return scan(path)[1]


class TestSum:
    def test_known_sums(self):
        assert checksum.datasum(b"") == 0
        assert checksum.datasum(bytes.fromhex("00000001 00000002")) == 3
        assert checksum.datasum(bytes.fromhex("ffffffff 00000003")) == 3  # the carry comes back in at the lowest bit
        assert checksum.datasum(b"\x01") == 0x01000000

    def test_as_astropy_sums(self, signed):
        for hdu in scan(signed):
            raw = signed.read_bytes()[hdu.data_start : hdu.end]
            assert checksum.datasum(raw) == int(hdu.header["DATASUM"])

    @given(total=st.integers(0, 2**32 - 1))
    def test_encoded_sum_cancels_the_sum(self, total):
        string = checksum.encode(total)
        assert len(string) == 16
        assert string.isascii()
        assert string.isalnum()
        zeros, card = (("CHECKSUM= '" + s + "'").encode() for s in ("0" * 16, string))
        # the sum that is cancelled includes that of the zeros which the string replaces
        rest = checksum.add(total, 2**32 - 1 - checksum.datasum(zeros))
        assert checksum.add(rest, checksum.datasum(card)) in (0, 2**32 - 1)

    def test_encoded_as_astropy_encodes(self, signed):
        with fits.open(signed, disable_image_compression=True) as f:
            for total in (0, 1, 0x12345678, 0xDEADBEEF, 0xFFFFFFFF):
                assert checksum.encode(total) == f[1]._char_encode(0xFFFFFFFF - total)


class TestDamage:
    def test_a_whole_file_has_none(self, signed):
        for hdu in scan(signed):
            assert checksum.damage(hdu) is None
            assert checksum.edited_header(hdu) is None

    def test_one_changed_byte_of_data(self, signed):
        hdu = scan(signed)[1]
        byte = signed.read_bytes()[hdu.data_start + 700]
        hdu = changed(signed, hdu.data_start + 700, bytes([byte ^ 4]))
        assert "data are damaged: DATASUM is" in checksum.damage(hdu)

    def test_an_edited_header_is_no_damage(self, signed):
        hdu = scan(signed)[1]
        at = signed.read_bytes().index(b"EXTNAME = 'N1")
        hdu = changed(signed, at, b"EXTNAME = 'N2")
        assert checksum.damage(hdu) is None
        assert "edited" in checksum.edited_header(hdu)

    def test_checksum_alone_finds_damage_of_either(self, signed):
        at = signed.read_bytes().rindex(b"DATASUM =")
        hdu = changed(signed, at, b"COMMENT =")
        assert "CHECKSUM" in checksum.damage(hdu)
        assert checksum.edited_header(hdu) is None

    def test_no_checksums_no_verdict(self, signed):
        at = signed.read_bytes().rindex(b"DATASUM =")
        changed(signed, at, b"COMMENT  ")
        at = signed.read_bytes().rindex(b"CHECKSUM=")
        hdu = changed(signed, at, b"COMMENT  ")
        assert checksum.damage(hdu) is None
        assert checksum.edited_header(hdu) is None

    def test_a_datasum_that_is_no_number_is_none(self, signed):
        at = signed.read_bytes().rindex(b"DATASUM =")
        hdu = changed(signed, at, b"DATASUM = 'NaN'       ".ljust(80))
        assert "CHECKSUM" in checksum.damage(hdu)

    def test_real_file(self):
        path = REAL / "DECam_MEF/OBI_S13/mef/c4d_150416_232655_ooi_z_v1.fits.fz"
        if not path.exists():
            pytest.skip("real_decam is not here")
        for hdu in scan(path):
            assert "DATASUM" in hdu.header
            assert checksum.damage(hdu) is None
            assert checksum.edited_header(hdu) is None


# written

PRIMARY = {"SIMPLE": (True, "FITS standard"), "BITPIX": (8, ""), "NAXIS": (0, "")}


def read(cards, data=b""):
    raw = b"".join(hdu_bytes({**PRIMARY, **cards}, data))
    with fits.open(io.BytesIO(raw), checksum=True) as hdus:
        hdus.verify("exception")
        return hdus[0].header.copy()


@pytest.mark.parametrize("length", [0, 1, 8, 18, 64, 66, 67, 68, 69, 133, 134, 135, 201, 202, 255])
@pytest.mark.parametrize("sign", ["x", "'"])
def test_a_text_of_any_length_is_read_back(length, sign):
    text = ("abcdefghi" * 29)[: max(length - 1, 0)] + sign * min(length, 1)
    header = read({"ROOT": (text, "exposure"), "NEXT": (sign * length, ""), "LAST": (7, "after it")})
    assert (header["ROOT"], header["NEXT"], header["LAST"]) == (text, sign * length, 7)
    assert header.comments["LAST"] == "after it"
    if length < 50:
        assert header.comments["ROOT"] == "exposure"


def test_short_values_are_written_in_fixed_format():
    header, _ = hdu_bytes({**PRIMARY, "A": (1.5, "number"), "LONGKEYW": (-3, ""), "TEXT": ("it's", "c" * 90), "T": (False, "")})
    lines = [header[i : i + 80].decode() for i in range(0, len(header), 80)]
    assert lines[3] == "A       =                  1.5 / number".ljust(80)
    assert lines[4] == "LONGKEYW=                   -3".ljust(80)
    assert lines[5] == "TEXT    = 'it''s   '           / " + "c" * 47
    assert lines[6] == "T       =                    F".ljust(80)
    assert lines[9] == "END".ljust(80)


def test_a_text_that_looks_like_a_checksum_is_none():
    header = read({"ROOT": ("CHECKSUM= '", ""), "OTHER": ("CHECKSUM= ''0000000000000000'", "")})
    assert header["ROOT"] == "CHECKSUM= '"
