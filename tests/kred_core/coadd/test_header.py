"""What a mosaic says about itself."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from nights import GRID, SHAPE, tan_cards

from kred_core import __version__
from kred_core.coadd import native
from kred_core.fits.checksum import damage, edited_header
from kred_core.fits.hdu import scan

SKY = np.full(SHAPE, 1000.0)


@pytest.fixture
def mosaic(night):
    """Two exposures of 600 and one of 400 s; the last one lies 45 pixels to the right."""
    facts = {"GAINA": 4.0, "GAINB": 4.4, "SATURATA": 40000.0, "SATURATB": 45000.0}
    night.expose(SKY, exptime=600.0, scale=0.5, back=500.0, seeing=1.2, **facts)
    night.expose(SKY, exptime=600.0, scale=0.5, back=500.0, seeing=0.9, **facts)
    night.expose(SKY, tan_cards(GRID, SHAPE, offset=(45.0, 0.0)), exptime=400.0, scale=0.4, back=400.0, seeing=1.6, **facts)
    night.coadd(native)
    return night.mosaic


def test_the_header_says_what_went_in(mosaic):
    header = fits.getheader(mosaic)
    expected = {"OBJECT": "LMC_c42_T07", "FIELD": "LMC_c42", "TILE": "T07", "IMAGE": "N662", "FILTER": "N662", "INSTRUME": "DECam"}
    expected |= {"TELESCOP": "CTIO 4.0-m telescope", "MAGZERO": 28.0, "BUNIT": "count", "COMBINE": "median", "ENGINE": "native"}
    expected |= {"KREDVER": __version__, "BACKGND": "original", "MASKCODE": "1,2,5", "RESAMPLE": "LANCZOS3"}
    expected |= {"SEEING": 1.2, "SEEINGLO": 0.9, "SEEINGHI": 1.6, "MJD-BEG": 57389.0, "DATE-BEG": "2016-01-02T00:00:00.000"}
    # Columns 17 to 101 have 1200 s; the third exposure, over the edge, has 62 to 119.
    once, twice, covered = 75 * 58, 75 * 85, 75 * (85 + 18)
    expected |= {"NEXP": 3, "NDET": 3, "TEXPTIME": 1600.0, "COVERED": covered}
    assert {key: header[key] for key in expected} == expected
    assert "DATE" not in header
    assert header["MJD-END"] == pytest.approx(57391 + 400 / 86400, abs=1e-9)
    assert header["EXPTIME"] == pytest.approx((twice * 1200 + once * 400) / covered, abs=1e-3)
    depth = (2 * twice + once) / covered
    assert header["MEANDET"] == pytest.approx(depth, abs=1e-3)
    assert header["GAIN"] == pytest.approx(depth * 3 / (0.5 / 4.2 + 0.5 / 4.2 + 0.4 / 4.2) * 2 / np.pi, rel=1e-4)
    assert header["SATURATE"] == pytest.approx(40000 * 0.4 - 400, rel=1e-4)
    table = fits.getdata(mosaic, "INPUTS")
    assert list(table["ROOT"]) == [f"c4d_16010{i}_ooi_N662_v1" for i in (1, 2, 3)]
    listed = [list(table[name]) for name in ("EXTNAME", "EXPTIME", "SCALE", "BACK", "PIXELS")]
    assert listed == [["N4"] * 3, [600.0, 600.0, 400.0], [0.5, 0.5, 0.4], [500.0, 500.0, 400.0], [twice, twice, once]]


def test_place(mosaic):
    header = fits.getheader(mosaic)
    wcs = WCS(header)
    assert list(wcs.wcs.ctype) == ["RA---TAN", "DEC--TAN"]
    for key, pixel in {"CEN": (60.5, 50.5), "COR1": (1, 1), "COR2": (120, 1), "COR3": (1, 100), "COR4": (120, 100)}.items():
        ra, dec = wcs.wcs_pix2world([pixel], 1)[0]
        assert header[f"{key}RA1"] == pytest.approx(ra, abs=1e-9)
        assert header[f"{key}DEC1"] == pytest.approx(dec, abs=1e-9)
    assert (header["CENRA1"], header["CENDEC1"]) == pytest.approx((80.0, -69.0), abs=1e-9)
    assert header["COR2RA1"] < header["COR1RA1"]  # east is left


def test_matched_backgrounds_are_named_and_listed(night):
    for b in (501.0, 503.0):
        night.expose(SKY, scale=0.5, back=500.0, matched=(b,), SATURATE=40000.0)
    night.coadd(native, backgrounds=("original", "matched"))
    header, inputs = fits.getheader(night.matched[0]), fits.getdata(night.matched[0], "INPUTS")
    assert header["BACKGND"] == "matched"
    assert header["SATURATE"] == pytest.approx(40000 * 0.5 - 503)
    assert list(inputs["BACK"]) == [501.0, 503.0]
    assert not {"GRADX", "GRADY", "STEP"} & set(inputs.names)
    original = fits.getheader(night.mosaic)
    different = {key for key in {*original, *header} if original.get(key) != header.get(key)}
    assert different == {"BACKGND", "SATURATE", "KREDCONF", "DATASUM", "CHECKSUM"}
    assert list(fits.getdata(night.mosaic, "INPUTS")["BACK"]) == [500.0, 500.0]


def test_what_is_not_known_is_not_there(night):
    night.expose(SKY, seeing=float("nan")).expose(SKY, seeing=float("nan"), SATURATA=40000.0)
    night.coadd(native)
    header = fits.getheader(night.mosaic)
    for key in ("SEEING", "GAIN", "SATURATE"):
        assert key not in header


def test_checksums_are_right_and_there_is_room_for_keywords(mosaic):
    with warnings.catch_warnings(), fits.open(mosaic, checksum=True) as hdus:
        warnings.simplefilter("error")
        hdus.verify("exception")
        assert len(hdus) == 2
    for hdu in scan(mosaic):
        assert damage(hdu) is None
        assert edited_header(hdu) is None
    size = mosaic.stat().st_size
    with fits.open(mosaic, mode="update") as hdus:
        hdus[0].header["NOTE"] = "added by hand"
    assert mosaic.stat().st_size == size
    assert fits.getheader(mosaic)["NOTE"] == "added by hand"


def test_other_programs_read_both_products(mosaic, night):
    fitsio = pytest.importorskip("fitsio")
    np.testing.assert_array_equal(fitsio.read(str(mosaic)), fits.getdata(mosaic))
    counts = fitsio.read(str(night.coverage))
    np.testing.assert_array_equal(counts, fits.getdata(night.coverage))
    assert counts.dtype == np.int16
    header = fits.getheader(night.coverage, 1)
    assert (header["OBJECT"], header["KREDCONF"]) == ("LMC_c42_T07", fits.getheader(mosaic)["KREDCONF"])
    for key in ("crval", "crpix", "cd"):
        np.testing.assert_array_equal(*(getattr(WCS(h).wcs, key) for h in (header, fits.getheader(mosaic))))
