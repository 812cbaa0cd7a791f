"""Headers that kred writes are read by astropy as they were meant, however long the name of a file is."""

import io

import pytest
from astropy.io import fits

from kred_core.fits.cards import hdu_bytes

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
