"""Checksums against astropy's, as finders of damage, and in headers that kred writes, which astropy reads as they were meant."""

import io

import numpy as np
import pytest
from astropy.io import fits

from kred_core.fits import checksum
from kred_core.fits.checksum import hdu_bytes
from kred_core.fits.hdu import scan


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


def test_sums_are_those_of_the_standard_and_encoded_as_astropy_encodes_them():
    assert checksum.datasum(b"") == 0
    assert checksum.datasum(bytes.fromhex("ffffffff 00000003")) == 3  # the carry comes back in at the lowest bit
    assert checksum.datasum(b"\x01") == 0x01000000
    for total in (0, 1, 0x12345678, 0xDEADBEEF, 0xFFFFFFFF):
        assert checksum.encode(total) == fits.PrimaryHDU()._char_encode(0xFFFFFFFF - total)


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

    def test_a_datasum_that_is_no_number_is_none(self, signed):
        at = signed.read_bytes().rindex(b"DATASUM =")
        hdu = changed(signed, at, b"DATASUM = 'NaN'       ".ljust(80))
        assert "CHECKSUM" in checksum.damage(hdu)


# written

PRIMARY = {"SIMPLE": (True, "FITS standard"), "BITPIX": (8, ""), "NAXIS": (0, "")}


def test_short_values_are_written_in_fixed_format():
    header, _ = hdu_bytes({**PRIMARY, "A": (1.5, "number"), "LONGKEYW": (-3, ""), "TEXT": ("it's", "c" * 90), "T": (False, "")})
    lines = [header[i : i + 80].decode() for i in range(0, len(header), 80)]
    assert lines[3] == "A       =                  1.5 / number".ljust(80)
    assert lines[4] == "LONGKEYW=                   -3".ljust(80)
    assert lines[5] == "TEXT    = 'it''s   '           / " + "c" * 47
    assert lines[6] == "T       =                    F".ljust(80)
    assert lines[9] == "END".ljust(80)


def test_a_text_that_looks_like_a_checksum_is_none():
    cards = {"ROOT": ("CHECKSUM= '", ""), "OTHER": ("CHECKSUM= ''0000000000000000'", "")}
    with fits.open(io.BytesIO(b"".join(hdu_bytes(PRIMARY | cards))), checksum=True) as hdus:
        hdus.verify("exception")
        assert hdus[0].header["ROOT"] == "CHECKSUM= '"
