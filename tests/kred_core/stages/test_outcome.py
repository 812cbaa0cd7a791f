"""At the end a person reads what was made, what was refused and why, and whether everything is there."""

from pathlib import Path

import pytest

from kred_core.exposures.check import ExposureReport
from kred_core.stages.outcome import Outcome, StageOutcome, disk_usage

GOOD = ExposureReport("a", "a.fits.fz")
USABLE = ExposureReport("b", "b.fits.fz", remarks=("WCSCAL Failed",)).lose("S7", "all NaN")
ALSO_USABLE = ExposureReport("d", "d.fits.fz", remarks=("WCSCAL Failed", "the seeing is unknown"))
REFUSED = ExposureReport("c", "c.fits.fz", refused=("MAGZERO is missing", "too old"), remarks=("the seeing is unknown",))


def test_a_run_is_complete_unless_something_failed_stopped_or_is_missing():
    assert Outcome("LMC_c42").complete
    assert Outcome("LMC_c42", [StageOutcome("check", done=3)], [REFUSED], notes=["odd"]).complete
    for fault in (
        {"missing": [Path("mosaic.fits")]},
        {"stopped": "no exposure can be used"},
        {"stages": [StageOutcome("check"), StageOutcome("coadd", failed={"T07.r": "disk full"}), StageOutcome("evaluate")]},
    ):
        assert not Outcome("LMC_c42", **fault).complete


@pytest.mark.parametrize(
    ("outcome", "headline"),
    [
        (Outcome("LMC_c42", reports=[GOOD, GOOD, USABLE, REFUSED]), "LMC_c42: complete (4 exposures: 2 good, 1 usable, 1 refused)"),
        (Outcome("LMC_c42", reports=[GOOD]), "LMC_c42: complete (1 exposure: 1 good)"),
        (
            Outcome("LMC_c42", [StageOutcome("coadd", failed={"T7": "x", "T8": "y"})], missing=[Path("a")], stopped="no tiles"),
            "LMC_c42: NOT complete: no tiles; 2 failed; 1 product missing",
        ),
        (
            Outcome("LMC_c42", reports=[GOOD, REFUSED], n_used=2, n_detectors=11),
            "LMC_c42: complete, 2 of 11 detectors used (2 exposures: 1 good, 1 refused)",
        ),
        (Outcome("LMC_c42", n_used=0, n_detectors=1), "LMC_c42: complete, 0 of 1 detector used"),
    ],
)
def test_the_result_in_one_sentence(outcome, headline):
    assert outcome.headline() == headline


def test_the_whole_story_names_every_refusal_remark_failure_and_missing_product():
    outcome = Outcome(
        "LMC_c42",
        [StageOutcome("check", done=3), StageOutcome("coadd", done=1, failed={"T07.r": "disk full"})],
        [GOOD, USABLE, ALSO_USABLE.lose("N1", "constant"), REFUSED, ExposureReport("e", "e").lose("N2", "constant")],
        ["r with 5 s belongs to no image"],
        [Path("DECam_SWARP/x.fits")],
        disk={"DECam_PREP": 1_500_000, "DECam_SWARP": 0},
    )
    assert outcome.details() == [
        "  coadd T07.r failed: disk full",
        "  refused c: MAGZERO is missing",
        "  refused b S7: all NaN",
        "  refused 2 detectors: constant",
        "  WCSCAL Failed: 2 exposures",
        "  d: the seeing is unknown",
        "  all reasons and remarks: Summary/LMC_c42_mef_qual.tab",
        "  note: r with 5 s belongs to no image",
        "  missing: DECam_SWARP/x.fits",
        "disk       DECam_PREP 1.5 MB, DECam_SWARP 0 B",
        outcome.headline(),
    ]


def test_the_disk_holds_files_and_not_links(tmp_path):
    for name, size in [("PREP/data/a", 1000), ("PREP/data/b", 500), ("SWARP/T07/c", 7)]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (tmp_path / "PREP" / "T07").mkdir()
    (tmp_path / "PREP" / "T07" / "a").symlink_to("../data/a")
    (tmp_path / "PREP" / "T07" / "gone").symlink_to("../data/gone")
    (tmp_path / "PREP" / "T08").symlink_to("data")
    directories = {"prep": tmp_path / "PREP", "swarp": tmp_path / "SWARP", "none": tmp_path / "NONE"}
    assert disk_usage(directories) == {"prep": 1500, "swarp": 7}
