"""Each detector of the input is told of once, and whatever does not add up is found."""

from dataclasses import replace

import pytest
from mefs import place_of, report

from kred_core.exposures.ledger import account, input_rows

MOSAIC = ("T07", "N662")


def told(accounts):
    return {(e.file.removesuffix(".fits.fz"), e.extname): (e.fate, e.reason) for e in accounts.entries}


ONE = report("a")
TWICE = replace(ONE, detectors=(place_of("N1"), place_of("N1")))
FILES = ["a.fits.fz"]
BOTH = {("a", "N1"): [MOSAIC], ("a", "N2"): [MOSAIC]}


def test_before_anything_is_chosen_detectors_are_usable_or_refused():
    bad = report("b", ("N1",), lost=(("N2", "all its pixels are NaN"),))
    unreadable = report("c", (), refused=("is not a FITS file",))
    found = account(["a.fits.fz", "b.fits.fz", "c.fits.fz"], [ONE, bad, unreadable])
    assert told(found) == {
        ("a", "N1"): ("usable", ""),
        ("a", "N2"): ("usable", ""),
        ("b", "N1"): ("usable", ""),
        ("b", "N2"): ("refused", "all its pixels are NaN"),
        ("c", ""): ("refused", "is not a FITS file"),
    }
    assert found.faults == ()
    assert found.n_refused == 2
    assert (found.n_used, found.n_detectors) == (None, 4)
    assert found.explain() == [
        "3 exposures, 4 detectors: 3 usable, 1 refused",
        "of 1 exposure that cannot be read not even the detectors are known",
    ]


def test_all_detectors_of_a_refused_exposure_are_refused_for_its_reason():
    refused = report("a", ("N1",), lost=(("N2", "no WCS"),), taken=("N3",)).refuse("FILTER is missing").refuse("too short")
    assert told(account(FILES, [refused])) == {
        ("a", "N1"): ("refused", "FILTER is missing; too short"),
        ("a", "N2"): ("refused", "no WCS"),
        ("a", "N3"): ("refused", "FILTER is missing; too short"),
    }


def test_detectors_are_used_in_the_mosaics_that_hold_pixels_of_them():
    chosen = {("a", "N1"): [("T08", "N662"), MOSAIC], ("a", "N2"): [MOSAIC]}
    made = {MOSAIC: [{("a", "N1"): 5, ("a", "N2"): 0}], ("T08", "N662"): [{("a", "N1"): 3}]}
    found = account(FILES, [ONE], chosen, made)
    assert found.faults == ()
    assert found.entries[0].mosaics == (MOSAIC, ("T08", "N662"))
    assert told(found)["a", "N2"] == ("left out", "no pixel of the mosaics that it was chosen for has data of it")
    rows = input_rows(found)
    assert (rows[0]["Image"], rows[0]["Tiles"]) == ("N662", "T07 T08")
    assert (rows[1]["Image"], rows[1]["Tiles"]) == ("", "")


def test_without_mosaics_what_was_chosen_is_used():
    found = account(FILES, [ONE], {("a", "N1"): [MOSAIC]}, None, {}, "on none of the field's tiles")
    assert told(found) == {("a", "N1"): ("used", ""), ("a", "N2"): ("left out", "on none of the field's tiles")}


def test_a_detector_is_left_out_on_purpose_for_another_processing_or_for_want_of_a_mosaic():
    found = account(FILES, [ONE], {("a", "N1"): [MOSAIC]}, None, {("a", "N2"): "detector N2"}, "elsewhere")
    assert (found.n_used, found.n_detectors) == (1, 2)
    assert told(found)["a", "N2"] == ("left out", "detector N2")
    found = account(FILES, [report("a", ("N1",), taken=("N2",))])
    assert told(found)["a", "N2"] == ("left out", "taken from another processing of the exposure")
    assert found.n_refused == 0
    found = account(FILES, [ONE], BOTH, {})
    assert told(found)["a", "N1"] == ("left out", "there is no mosaic T07 N662")
    assert found.faults == ()  # the run says itself that a mosaic is missing


@pytest.mark.parametrize(
    ("files", "reports", "chosen", "made", "fault"),
    [
        (["a.fits.fz", "b.fits.fz"], [ONE], None, None, "there was no verdict on b.fits.fz: arrived during this run, or"),
        ([], [ONE], None, None, "gone since the verdict: a.fits.fz"),
        (FILES, [replace(ONE, n_detectors=3)], None, None, "a.fits.fz has 3 detectors, the account 2"),
        (FILES, [TWICE], None, None, "detector N1 of a.fits.fz is in the account 2 times"),
        (FILES, [ONE], {("x", "N1"): [MOSAIC]}, None, "chosen for tiles, but not among the usable detectors: x_N1"),
        (
            FILES,
            [ONE],
            BOTH,
            {MOSAIC: [{("a", n): 1 for n in ("N1", "N2")}, {("a", "N1"): 1}]},
            "chosen for the mosaic T07 N662, but not in it: a_N2",
        ),
        (FILES, [ONE], {("a", "N1"): [MOSAIC]}, {MOSAIC: [{("a", n): 1 for n in ("N1", "N2")}]}, "in the mosaic T07 N662, but not"),
    ],
)
def test_what_does_not_add_up_is_found(files, reports, chosen, made, fault):
    (found,) = account(files, reports, chosen, made).faults
    assert found.startswith(fault)


def test_the_sums_name_the_reasons_with_most_detectors():
    names = [f"N{i}" for i in range(1, 32)]
    left_out = {("a", name): f"reason {min(int(name[1:]), 8)}" for name in names[1:]}
    found = account(FILES, [report("a", names)], {("a", "N1"): [MOSAIC]}, None, left_out)
    lines = found.explain()
    assert lines[:2] == ["1 exposure, 31 detectors: 1 used, 30 left out", "24 left out: reason 8"]
    assert lines[-1] == "1 left out for other reasons"
    assert len(lines) == 8
