"""Each fault of an exposure is said in words that name the detector, and no light is counted twice."""

import math

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from mefs import SHAPE, detector_hdu, sky_pixels

from kred_core.config import CheckConfig
from kred_core.errors import InputError
from kred_core.exposures.check import judge, zero_points

CORNERS = [f"COR{i}{axis}1" for i in (1, 2, 3, 4) for axis in ("RA", "DEC")]
NO_MAGZERO = (
    "MAGZERO is missing in the primary header, so the counts cannot be calibrated; give it in a table with --check.zero-points"
)


def judged(path, points=None, **options):
    return judge(path, CheckConfig(**options), points or {})


def whole_detector(name, place=0, **changes):
    """A detector whose corner keywords are right, so that nothing is to be remarked."""
    hdu = detector_hdu(name, place, **changes)
    corners = astropys_corners(hdu.header)
    for key, value in zip(CORNERS, corners.ravel(), strict=True):
        hdu.header[key] = round(value, 6)
    return hdu


def astropys_corners(header, shape=SHAPE):
    ny, nx = shape
    return WCS(header).all_pix2world([[1, 1], [nx, 1], [1, ny], [nx, ny]], 1)


# one exposure


def test_an_exposure_without_faults_is_good_and_its_facts_are_those_of_its_header(mef):
    numbers = {"MAGZERO": "30", "EXPTIME": "600", "SEEING": "1.1"}  # as good as texts
    r = judged(mef("a_ooi_N662_v1.fits.fz", [whole_detector("N1"), whole_detector("S7", 1)], **numbers))
    assert (r.verdict, r.refused, r.remarks) == ("good", (), ())
    assert (r.root, r.file) == ("a_ooi_N662_v1", "a_ooi_N662_v1.fits.fz")
    assert (r.filter, r.exptime, r.magzero, r.seeing) == ("N662", 600, 30, 1.1)
    assert (r.mjd, r.target, r.obsid, r.version) == (57388.05, "LMC_c42", "ct4m20160101t010101", "V4.8.2")
    assert (r.extnames, r.n_detectors) == (("N1", "S7"), 2)


def test_a_detector_lies_where_astropys_wcs_puts_it(mef):
    hdu = detector_hdu("N1", 3)
    place = judged(mef("x.fits.fz", [hdu])).detectors[0]
    np.testing.assert_allclose(place.corners, astropys_corners(hdu.header), atol=2e-8)
    np.testing.assert_allclose(place.centre, WCS(hdu.header).all_pix2world([[24.5, 32.5]], 1)[0], atol=2e-8)
    assert (place.naxis1, place.naxis2, place.pixel_scale) == (48, 64, pytest.approx(0.262, abs=1e-5))


def test_what_the_primary_header_lacks_is_said_and_every_fault_at_once(mef):
    for magzero, exptime, reasons in (
        ("NaN", None, {NO_MAGZERO, "EXPTIME in the primary header is missing; it must be a positive number"}),
        (99.0, "long", {"MAGZERO is 99.0 in the primary header", "EXPTIME in the primary header is long; it must be"}),
    ):
        r = judged(mef("x.fits.fz", ["N1"], MAGZERO=magzero, EXPTIME=exptime, FILTER=None))
        assert r.verdict == "refused"
        for reason in (*reasons, "FILTER is missing in the primary header"):
            assert any(said.startswith(reason) for said in r.refused)
        assert len(r.refused) == 3
        assert math.isnan(r.exptime)


@pytest.mark.parametrize("seeing", [None, "NaN", -1.0])
def test_seeing_comes_from_the_fwhm_in_pixels_where_its_keyword_is_missing(seeing, mef):
    detectors = [whole_detector(name, i, FWHM=fwhm) for i, (name, fwhm) in enumerate([("N1", 4.0), ("N2", 5.0), ("N3", 9.0)])]
    r = judged(mef("x.fits.fz", detectors, SEEING=seeing))
    assert r.seeing == pytest.approx(5.0 * 0.262, abs=1e-3)
    assert r.verdict == "good"
    step = 4 * 0.262 / 3600
    binned = judged(mef("y.fits.fz", [detector_hdu("N1", CD1_2=step, CD2_1=-step, FWHM=1.1)], SEEING=None))
    assert binned.seeing == pytest.approx(4 * 0.262 * 1.1, abs=1e-3)


def test_seeing_that_nothing_tells_and_a_failed_astrometry_are_no_reason_to_refuse(mef):
    r = judged(mef("x.fits.fz", [whole_detector("N1")], WCSCAL="Failed    "))
    assert (r.verdict, r.remarks) == ("usable", ("WCSCAL Failed",))
    for fwhm in (None, "NaN", 0.0):
        r = judged(mef("x.fits.fz", [whole_detector("N1", FWHM=fwhm)], SEEING=None))
        assert (r.verdict, r.remarks) == ("usable", ("SEEING and FWHM are missing or absurd: the seeing is unknown",))
        assert math.isnan(r.seeing)


def test_what_stands_in_for_a_missing_obsid(mef):
    def obsid(**changes):
        return judged(mef("x.fits.fz", [whole_detector("N1")], **changes))

    assert obsid(OBSID=None, EXPNUM=405).obsid == obsid(OBSID=None, EXPNUM="405").obsid == "405"
    assert obsid(OBSID=None, **{"DATE-OBS": "2016-01-01T01:01:01"}).obsid == "2016-01-01T01:01:01"
    assert obsid(OBSID=None).remarks[0].startswith("no OBSID, EXPNUM or DATE-OBS: a second processing")


# its detectors


def test_missing_and_wrong_corner_keywords_are_remarked_and_never_used(mef):
    right, missing, wrong = whole_detector("N1"), whole_detector("N2", 1), whole_detector("N3", 2)
    del missing.header["COR3DEC1"]
    wrong.header["COR2RA1"] += 10 / 3600
    r = judged(mef("x.fits.fz", [right, missing, wrong]))
    assert r.remarks == ("no corner keywords (N2)", "wrong corner keywords (N3)")
    for hdu, place in zip((right, missing, wrong), r.detectors, strict=True):
        np.testing.assert_allclose(place.corners, astropys_corners(hdu.header), atol=2e-8)
    without = [f"N{i}" for i in range(1, 9)]
    assert judged(mef("x.fits.fz", without)).remarks == ("no corner keywords",)
    assert judged(mef("y.fits.fz", [*without, whole_detector("N9", 9)])).remarks == ("no corner keywords (8 detectors)",)


def test_corner_keywords_across_ra_0h_and_at_the_pole_are_compared_on_the_sky(mef):
    for ra, dec in [(359.9999, -70.0), (0.0, 0.0), (10.0, -89.99)]:
        hdu = whole_detector("N1", CRVAL1=ra, CRVAL2=dec)
        for shift in (0, 360, -360):
            for key in CORNERS[::2]:
                hdu.header[key] += shift
            assert judged(mef("x.fits.fz", [hdu])).verdict == "good"
            for key in CORNERS[::2]:
                hdu.header[key] -= shift


DETECTOR_FAULTS = {
    "detector N2 refused: it has no pixels, or its header is damaged (XTENSION is IMAGE, NAXIS 0)": None,
    "detector N2 refused: it has 40 x 64 pixels, the other detectors have 48 x 64": {"pixels": sky_pixels(1, (64, 40))},
    "detector N2 refused: has no usable WCS: CRVAL1 is missing": {"CRVAL1": None},
    "detector N2 refused: has no usable WCS: CD1_2 is not a finite number": {"CD1_2": "NaN"},
    "detector N2 refused: has no usable WCS: its CD matrix is singular": {"CD1_2": 0.0},
}


@pytest.mark.parametrize("message", DETECTOR_FAULTS)
def test_a_faulty_detector_is_named_and_the_others_are_used(message, mef):
    changes = DETECTOR_FAULTS[message]
    faulty = fits.ImageHDU(name="N2") if changes is None else detector_hdu("N2", 1, **changes)
    r = judged(mef("x.fits.fz", [whole_detector("N1"), faulty, whole_detector("N3", 2)]))
    assert (r.verdict, r.extnames, r.n_detectors) == ("usable", ("N1", "N3"), 3)
    assert r.remarks == (message,)


def test_images_that_are_no_planes_or_have_hardly_a_pixel_are_refused(mef):
    cube, line = fits.ImageHDU(np.zeros((2, 20, 20), np.float32), name="CUBE"), fits.ImageHDU(np.zeros((64, 15)), name="LINE")
    r = judged(mef("x.fits.fz", [whole_detector("N1"), cube, line, whole_detector("N2", 1), whole_detector("N3", 2)]))
    assert r.remarks == (
        "detector CUBE refused: expected an image of at least 16 x 16 pixels, found 20 x 20 x 2",
        "detector LINE refused: expected an image of at least 16 x 16 pixels, found 15 x 64",
    )


def test_cut_outs_may_each_have_their_own_size(mef):
    detectors = [detector_hdu(f"N{i}", i, pixels=sky_pixels(i, (40 + i, 50))) for i in range(1, 4)]
    assert judged(mef("x.fits.fz", detectors)).extnames == ("N1", "N2", "N3")
    assert judged(mef("x.fits.fz", detectors[:1])).extnames == ("N1",)
    assert judged(mef("x.fits.fz", detectors[:2])).extnames == ("N1", "N2")


def test_what_is_no_detector_is_remarked(mef):
    table = fits.BinTableHDU.from_columns([fits.Column("RA", "D", array=np.arange(40.0))], name="STARS")
    text_table = fits.TableHDU.from_columns([fits.Column("RA", "F8.3", array=np.arange(40.0))], name="NOTES")
    r = judged(mef("x.fits.fz", [whole_detector("N1"), table, text_table]))
    assert (r.extnames, r.n_detectors, r.remarks) == (("N1",), 1, ("not used, because no images: STARS[2], NOTES[3]",))
    path = mef("y.fits.fz", [whole_detector("N1")])
    with fits.open(path) as f:
        fits.HDUList([fits.PrimaryHDU(sky_pixels(), f[0].header), f[1]]).writeto(path, overwrite=True)
    assert "the image in its primary HDU is not used: detectors are in extensions" in judged(path).remarks


def test_a_detector_with_pixels_unlike_those_of_the_others_is_refused(mef):
    wide = detector_hdu("N2", 1, CD1_2=3 * 0.262 / 3600, CD2_1=-3 * 0.262 / 3600)
    r = judged(mef("x.fits.fz", [whole_detector("N1"), wide, whole_detector("N3", 2)]))
    assert r.lost == (("N2", "its WCS gives it pixels of 0.786 arcsec, those of the other detectors have 0.262"),)
    assert judged(mef("x.fits.fz", [whole_detector("N1"), wide])).extnames == ("N1", "N2")  # which of the two is wrong?
    for scale in (1e-9 / 3600, 1e6 / 3600):
        absurd = judged(mef("x.fits.fz", [detector_hdu("N1", CD1_2=scale, CD2_1=-scale)]))
        assert absurd.lost[0][1].startswith("has no usable WCS: ")


def test_an_exposure_whose_last_detector_is_refused_is_refused(mef):
    r = judged(mef("x.fits.fz", [detector_hdu("N1", CRVAL1=None)]))
    assert (r.verdict, r.refused, r.detectors) == ("refused", ("none of its detectors can be used",), ())
    assert "detector N1 refused: has no usable WCS: CRVAL1 is missing" in r.remarks


# damage and masks


def test_damaged_pixels_are_found_by_their_checksum_and_only_where_that_is_asked(mef):
    path = mef("x.fits.fz", [whole_detector("N1"), whole_detector("N2", 1)])
    raw = bytearray(path.read_bytes())
    raw[-3000] ^= 1  # in the heap of N2
    path.write_bytes(raw)
    r = judged(path)
    assert (r.verdict, r.extnames) == ("usable", ("N1",))
    assert r.remarks[0].startswith("detector N2 refused: its data are damaged: DATASUM is ")
    assert judged(path, verify_checksums=False).verdict == "good"


@pytest.mark.parametrize(
    ("key", "where"), [("FWHM    =                  4", "detector N1"), ("MAGZERO =                 30", "primary header")]
)
def test_a_header_that_was_edited_is_remarked_and_its_data_used(key, where, mef):
    path = mef("x.fits.fz", [whole_detector("N1")])
    path.write_bytes(path.read_bytes().replace(f"{key}.0".encode(), f"{key}.5".encode()))
    r = judged(path)
    assert (r.verdict, r.extnames, r.magzero) == ("usable", ("N1",), 30.5 if "MAGZERO" in key else 30)
    assert r.remarks[0].startswith(f"{where}: its header does not agree with CHECKSUM")
    assert judged(path, verify_checksums=False).verdict == "good"


def mask(name, shape=SHAPE):
    return fits.CompImageHDU(np.zeros(shape, np.int16), name=name, compression_type="GZIP_1")


@pytest.mark.parametrize(
    ("others", "extnames", "remark"),
    [
        ([("N2", (64, 40))], ("N1",), "detector N2 refused: its mask has 40 x 64 pixels, the image 48 x 64"),
        ([], ("N1", "N2"), "a_ood_r.fits.fz has no mask for N2"),
        ([("N2",), ("N2",)], ("N1",), "detector N2 refused: a_ood_r.fits.fz has 2 masks with its name; which of them is it?"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(others, extnames, remark, mef):
    path = mef("a_ooi_r.fits.fz", [whole_detector("N1"), whole_detector("N2", 1)])
    mef("a_ood_r.fits.fz", [mask("N1"), *(mask(*other) for other in others)])
    r = judged(path)
    assert (r.verdict, r.extnames, r.remarks) == ("usable", extnames, (remark,))


def test_the_header_of_a_mask_is_judged_as_that_of_an_image(mef):
    path = mef("a_ooi_r.fits.fz", [whole_detector("N1"), whole_detector("N2", 1)])
    masks = mef("a_ood_r.fits.fz", [mask("N1"), mask("N2")])
    raw = masks.read_bytes()
    masks.write_bytes(raw.replace(b"ZCMPTYPE= 'GZIP_1  '", b"ZCMPTYPE= 'GZIP_9  '", 1))
    r = judged(path)
    assert r.lost[0][0] == "N1"
    assert r.lost[0][1].startswith("its mask in a_ood_r.fits.fz: its header is damaged: ZCMPTYPE is GZIP_9, expected one of")
    masks.write_bytes(raw.replace(b"ZPCOUNT =                    0", b"ZPCOUNT =                    1"))
    edited = "detector N1: its mask in a_ood_r.fits.fz: its header does not agree"
    assert any(remark.startswith(edited) for remark in judged(path).remarks)


def test_a_damaged_mask_is_named_with_its_file(mef):
    path = mef("a_ooi_r.fits.fz", [whole_detector("N1"), whole_detector("N2", 1)])
    masks = mef("a_ood_r.fits.fz", [mask("N1"), mask("N2")])
    raw = masks.read_bytes()
    at = raw.rindex(b"\x1f\x8b") + 12
    masks.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    r = judged(path)
    assert r.extnames == ("N1",)
    assert r.remarks[0].startswith("detector N2 refused: its mask in a_ood_r.fits.fz: its data are damaged")
    masks.write_bytes(raw[: at + 10])
    assert judged(path).refused[0].startswith("a_ood_r.fits.fz[2] N2: the file is truncated")


# zero points


def test_a_zero_point_of_the_user_replaces_or_supplies_the_headers(mef):
    for stored in (None, 30.0, "NaN"):
        path = mef("x_ooi_r.fits.fz", [whole_detector("N1")], MAGZERO=stored)
        r = judged(path, {"x_ooi_r": 29.5, "other": 1.0})
        assert (r.verdict, r.magzero, r.remarks) == ("usable", 29.5, ("MAGZERO 29.5 from the user's table",))
    assert judged(path, {"other": 29.5}).refused == (NO_MAGZERO,)
    path = mef("x_ooi_r.fits.fz", [whole_detector("N1")], MAGZERO=29.123456789012345)
    assert judged(path, {"x_ooi_r": 29.123456789012345}).verdict == "good"


def test_an_empty_zero_point_leaves_that_of_the_header_or_none(mef, tmp_path):
    table = tmp_path / "zero.tab"
    table.write_text("Root     FILTER MAGZERO\nx_ooi_r  N662\ny_ooi_r  N662   29.5\nz_ooi_r  N662   nan\n")
    points = zero_points(str(table))
    assert judged(mef("x_ooi_r.fits.fz", [whole_detector("N1")], MAGZERO=30.25), points).magzero == 30.25
    assert judged(mef("y_ooi_r.fits.fz", [whole_detector("N1")], MAGZERO=None), points).magzero == 29.5
    for root in ("x_ooi_r", "z_ooi_r"):
        (reason,) = judged(mef(f"{root}.fits.fz", [whole_detector("N1")], MAGZERO=None), points).refused
        assert reason.endswith("cannot be calibrated; its row in the table of --check.zero-points is empty")


def test_a_table_of_zero_points_may_name_roots_or_files(tmp_path):
    table = tmp_path / "zero.csv"
    table.write_text("magzero,Root\n29.5,x_ooi_r\n30.25,y_ooi_r.fits.fz\n29.5,x_ooi_r.fits\n")
    assert zero_points(str(table)) == {"x_ooi_r": 29.5, "y_ooi_r": 30.25}
    assert zero_points("") == {}
    for rows in ("x,29.5\nx,\n", "x,\nx,29.5\n", "x.fits,\nx,29.5\nx.fits.fz,\n"):  # whichever of its rows is empty
        table.write_text("Root,MAGZERO\n" + rows)
        assert zero_points(str(table)) == {"x": 29.5}


def test_a_table_of_zero_points_with_two_values_for_one_exposure_names_the_row(tmp_path):
    table = tmp_path / "zero.txt"
    table.write_text("Root MAGZERO\nx 29.5\nx 30\n")
    words = r"row 2, column MAGZERO: found '30.0', expected one zero point for x; an earlier row has 29.5"
    with pytest.raises(InputError, match=rf"^zero point table .*zero\.txt: {words}"):
        zero_points(str(table))


# how it is kept and shown


# real files
