"""Of an exposure that is there twice each detector is used once, from the better processing; two exposures stay two."""

import dataclasses
import math
from itertools import permutations

import pytest
from mefs import report

from kred_core.exposures.check import DetectorPlace, ExposureReport
from kred_core.exposures.duplicates import compare

NO_MAGZERO = "MAGZERO is missing"


def said(reports):
    return {r.file: (r.verdict, r.extnames, (*r.refused, *r.remarks)) for r in reports}


def test_two_processings_of_one_exposure_are_not_stacked_as_two():
    old, new = report("a_v1", version="V3.6.2"), report("b_ls9", version="V4.8.2")
    for reports in ([old, new], [new, old]):
        assert said(compare(reports)) == {
            "a_v1.fits.fz": ("refused", (), ("duplicate: another processing of the exposure b_ls9 (OBSID o1)",)),
            "b_ls9.fits.fz": ("good", ("N1", "N2"), ()),
        }


@pytest.mark.parametrize(
    ("older", "newer"),
    [("V3.9", "V3.10"), ("V4.8", "V4.8.2"), ("V4.8.2", "V4.8.2a"), ("", "V3.3.0"), ("V4.8.2b", "V4.8.10")],
)
def test_versions_are_compared_as_numbers(older, newer):
    for roots in (("a", "b"), ("b", "a")):
        found = compare([report(roots[0], version=older), report(roots[1], version=newer)])
        assert [r.version for r in found if not r.refused] == [newer]


def test_a_processing_that_can_be_used_comes_before_a_newer_one_that_cannot():
    new = report("new", version="V5.0").refuse(NO_MAGZERO)
    found = said(compare([new, report("old", version="V3.0")]))
    assert found["old.fits.fz"] == ("good", ("N1", "N2"), ())
    assert found["new.fits.fz"] == ("refused", (), (NO_MAGZERO, "duplicate: another processing of the exposure old (OBSID o1)"))


def test_the_newer_processing_comes_before_the_more_complete_one_and_what_only_that_has_is_said():
    found = said(
        compare([report("new", ("N1", "N2", "N3"), version="V5.5"), report("old", ("N1", "N2", "N3", "N4"), version="V3.6.1")])
    )
    assert found["new.fits.fz"] == ("good", ("N1", "N2", "N3"), ())
    duplicate = "duplicate: another processing of the exposure new (OBSID o1)"
    assert found["old.fits.fz"] == ("usable", ("N4",), (f"{duplicate}; N1, N2, N3 taken from there, only N4 from here",))


def test_of_two_of_one_version_the_more_complete_one_is_used_or_that_with_the_archives_name():
    found = said(compare([report("a", ("N1",)), report("b", ("N1", "N2"))]))
    assert found["b.fits.fz"] == ("good", ("N1", "N2"), ())
    assert found["a.fits.fz"][0] == "refused"
    found = said(compare([report("a copy"), report("c4d_160101_010101_ooi_r_v1")]))
    assert found["c4d_160101_010101_ooi_r_v1.fits.fz"][0] == "good"
    assert found["a copy.fits.fz"][0] == "refused"


EXACT = {"mjd": 57388.05432101, "filter": "r", "exptime": 60.0}


@pytest.mark.parametrize(
    ("first", "second", "key"),
    [
        ({"obsid": "o1", "expnum": "7"}, {"obsid": "o2", "expnum": "7"}, "EXPNUM 7"),
        ({"obsid": "", "expnum": "7"}, {"obsid": "o2", "expnum": "7"}, "EXPNUM 7"),
        ({"obsid": "7", "expnum": "7"}, {"obsid": "7", "expnum": "7"}, "OBSID 7"),  # without OBSID EXPNUM stands in its place
        ({"obsid": "o1"}, {"obsid": "o2"}, "MJD-OBS 57388.05432101"),
        ({"obsid": "o1", "expnum": "7"}, {"obsid": ""}, "MJD-OBS 57388.05432101"),
    ],
)
def test_an_exposure_under_two_obsids_is_known_by_its_number_and_its_start(first, second, key):
    found = said(compare([report("a", **EXACT, **first), report("b", **EXACT, **second)]))
    assert found["a.fits.fz"] == ("good", ("N1", "N2"), ())
    assert found["b.fits.fz"] == ("refused", (), (f"duplicate: another processing of the exposure a ({key})",))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"obsid": "o1", "mjd": 57388.05}, {"obsid": "o2", "mjd": 57388.05}),  # of a night, or rounded
        ({"obsid": "o1", "expnum": "7"}, {"obsid": "o2", "expnum": "8"}),  # a header that was copied, with its start
        ({"obsid": "o1", "expnum": "7"}, {"obsid": "o2", "expnum": "7", "mjd": 57389.05432101}),  # of two telescopes
        ({"obsid": "o1", "expnum": "7"}, {"obsid": "o2", "expnum": "7", "filter": "g"}),
        ({"obsid": "o1", "expnum": "7"}, {"obsid": "o2", "expnum": "7", "exptime": 90.0}),
        ({"obsid": "o1", "expnum": "7"}, {"obsid": "o1", "expnum": "8", "mjd": 57389.05432101}),
        ({"obsid": "", "mjd": math.nan}, {"obsid": "", "mjd": math.nan}),
    ],
)
def test_exposures_that_share_a_key_by_chance_are_two(first, second):
    found = compare([report("a", **EXACT | first), report("b", **EXACT | second)])
    assert [r.verdict for r in found] == ["good", "good"]


def test_exposures_with_one_number_of_two_places_are_two():
    there = DetectorPlace("N1", 48, 64, (10.5, -70.0), ((10.5, -70.0),) * 4, 0.262)
    a, b = report("a", ("N1",), expnum="7", **EXACT), report("b", ("N1",), obsid="o2", expnum="7", **EXACT)
    assert [r.verdict for r in compare([a, dataclasses.replace(b, detectors=(there,))])] == ["good", "good"]
    assert [r.verdict for r in compare([a, b])] == ["good", "refused"]


def test_three_files_of_which_only_the_middle_one_shares_a_key_with_each_are_one_exposure():
    middle = report("c", obsid="o2", expnum="7", version="V3", **EXACT)
    for reports in permutations([report("a", **EXACT, expnum="7"), report("b", obsid="o2"), middle]):
        assert [(r.root, r.verdict) for r in compare(reports)] == [("a", "good"), ("b", "refused"), ("c", "refused")]


def test_the_same_data_under_another_name_are_used_once_whatever_the_keys_and_other_detectors_stay():
    a = report("a", sums=(("N1", "1:5000"), ("N2", "2:5000")))
    same = report("b", obsid="o2", sums=(("N1", "1:5000"), ("N2", "2:5000")))
    assert said(compare([a, same]))["b.fits.fz"] == ("refused", (), ("duplicate: the same data as in a",))
    b = report("b", obsid="o2", sums=(("N1", "1:5000"), ("N2", "3:5000")))
    c = report("c", obsid="o3", sums=(("N1", "1:5001"), ("N2", "1:5000")))  # another length, another detector
    found = said(compare([a, b, c]))
    assert found["b.fits.fz"] == ("usable", ("N2",), ("duplicate: the same data as in a; N1 taken from there, only N2 from here",))
    assert found["c.fits.fz"] == ("good", ("N1", "N2"), ())


def test_data_that_are_used_are_not_displaced_by_an_exposure_that_is_refused():
    a = report("a", sums=(("N1", "1:5000"),), version="V5").refuse(NO_MAGZERO)
    b = report("b", obsid="o2", sums=(("N1", "1:5000"),))
    assert said(compare([a, b]))["b.fits.fz"] == ("good", ("N1", "N2"), ())


def test_another_exposure_under_a_name_that_is_taken_is_not_called_a_duplicate():
    found = said(compare([report("x", file="x.fits"), report("x", obsid="o2")]))
    assert found["x.fits.fz"] == ("refused", (), ("its name is that of x.fits, which is another exposure; give it another",))


def test_detectors_of_one_exposure_may_lie_in_several_files():
    refused = report("c", ("S2",)).refuse(NO_MAGZERO)
    found = said(compare([report("a", ("N1",)), report("b", ("S1",)), refused]))
    assert found["a.fits.fz"] == ("good", ("N1",), ())
    assert found["b.fits.fz"] == ("good", ("S1",), ())
    assert found["c.fits.fz"] == ("refused", ("S2",), (NO_MAGZERO,))


def test_a_packed_and_an_unpacked_copy_are_one_exposure():
    for obsid in ("o1", ""):
        copies = [report("x", file=file, obsid=obsid) for file in ("x.fits", "x.fits.fz")]
        for reports in (copies, copies[::-1]):
            assert said(compare(reports)) == {
                "x.fits": ("good", ("N1", "N2"), ()),
                "x.fits.fz": ("refused", (), ("duplicate: the same exposure as x.fits",)),
            }


def test_of_two_copies_the_one_that_can_be_read_is_used():
    broken = ExposureReport("x", "x.fits", refused=("x.fits: is empty",))
    found = said(compare([broken, report("x")]))
    assert found["x.fits.fz"] == ("good", ("N1", "N2"), ())
    assert found["x.fits"] == ("refused", (), ("x.fits: is empty", "duplicate: the same exposure as x.fits.fz"))
