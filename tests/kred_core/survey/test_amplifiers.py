"""Which columns an amplifier reads, and what a user may leave out."""

import pytest
from astropy.io import fits

from kred_core.errors import ExposureError
from kred_core.survey import amplifiers

LOWER, UPPER = slice(0, 1023), slice(1023, 2046)


@pytest.mark.parametrize(
    ("extname", "amplifier", "half"), [("N4", "A", LOWER), ("N4", "B", UPPER), ("S7", "A", UPPER), ("s31", "B", LOWER)]
)
def test_amplifier_a_reads_lower_columns_of_n_and_upper_ones_of_s_detectors(extname, amplifier, half):
    """As DATASECA of DES images says; S7.A is what the Legacy Surveys cut off, columns above 1023."""
    assert amplifiers.columns(fits.Header(), extname, 2046, amplifier) == half


def test_the_header_decides_where_it_says_something():
    header = fits.Header({"DATASECA": "[1025:2048,1:4096]", "DATASECB": "[1:1024,1:4096]"})
    assert amplifiers.columns(header, "N4", 2046, "A") == amplifiers.columns(header, "CCD1", 2046, "A") == UPPER
    header["DATASECB"] = header["DATASECA"]
    assert amplifiers.columns(header, "N4", 2046, "A") == LOWER


def test_an_unknown_detector_without_sections_is_refused():
    with pytest.raises(ExposureError, match="which columns its amplifier A reads is not known"):
        amplifiers.columns(fits.Header(), "CCD1", 2046, "A")


def test_both_amplifiers_are_the_whole_detector():
    assert amplifiers.left_out(["S7.A", "n30", "N4.a", "N4.B", "S2", "S2.B"]) == ({"N30", "N4", "S2"}, {"S7": "A"})
    assert amplifiers.left_out([]) == (set(), {})
