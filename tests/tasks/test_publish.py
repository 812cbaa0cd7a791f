"""What the Prefect UI shows of a field beside its tasks, read back from a real server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from kred_core.config import FieldConfig, RunConfig
from kred_core.exposures.check import ExposureReport
from kred_core.stages.outcome import Outcome, StageOutcome
from tasks import publish


@pytest.fixture
def config(tmp_path) -> FieldConfig:
    return FieldConfig(field="LMC_c42", root=tmp_path, run=RunConfig(only=["check", "summarize"]))


@pytest.fixture(autouse=True)
def server(prefect_server, monkeypatch):
    monkeypatch.setattr(publish, "PAUSE", 0.0)


def shown(key: str):
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
        return max(found, key=lambda artifact: artifact.created)


def report(root: str, **values) -> ExposureReport:
    return replace(ExposureReport(root, f"{root}.fits.fz"), **values)


def test_the_bar_moves_with_each_unit_and_never_back(config):
    seen = []

    @flow
    def run() -> None:
        bar = publish.Progress(config)
        for step in [("check", 1, 4), ("check", 4, 4), ("summarize", 1, 2), ("summarize", 1, 4), ("summarize", 2, 2)]:
            bar.show(*step, "c4d_1")
            seen.append((shown("lmc-c42-progress").data, shown("lmc-c42-progress").description))
        bar.end(Outcome("LMC_c42"))
        seen.append((shown("lmc-c42-progress").data, shown("lmc-c42-progress").description))

    run()
    assert [percent for percent, _ in seen] == [12.5, 50, 75, 75, 100, 100]
    assert seen[0][1] == "check 1 of 4: c4d_1"
    assert seen[-1][1] == "LMC_c42: complete"


def test_the_bar_of_a_run_that_failed_stays_where_it_was(config):
    @flow
    def run() -> None:
        bar = publish.Progress(config)
        bar.show("check", 1, 2, "c4d_1")
        bar.end(Outcome("LMC_c42", stopped="check: the disk is full"))

    run()
    assert (shown("lmc-c42-progress").data, shown("lmc-c42-progress").description) == (
        25.0,
        "LMC_c42: NOT complete: check: the disk is full",
    )


def test_a_run_goes_on_where_somebody_has_deleted_the_bar(config, caplog):
    @flow
    def run() -> None:
        bar = publish.Progress(config)
        with get_client(sync_client=True) as client:
            client.delete_artifact(shown("lmc-c42-progress").id)
        bar.show("check", 1, 2, "c4d_1")
        bar.end(Outcome("LMC_c42"))

    run()
    assert caplog.text.count("the Prefect server does not take how far this run is") == 1


def test_the_report_tells_what_is_wrong_first_and_why_exposures_are_refused(config):
    outcome = Outcome(
        "LMC_c42",
        stages=[StageOutcome("coadd", done=3, failed={"T07_b.r": "[Errno 28] No space left | on device"}, seconds=2.0)],
        reports=[report("c4d_1"), report("c4d_2", refused=("no MAGZERO",)), report("c4d_3", remarks=("S7: all NaN",))],
        missing=[Path("DECam_SWARP/x.fits")],
        notes=["a tile has no detectors"],
        disk={"DECam_SWARP": 2_000_000},
    )
    flow(name="report")(publish.publish_report)(config, outcome)
    artifact = shown("lmc-c42-report")
    assert artifact.description == outcome.headline()
    assert artifact.data.splitlines()[:5] == [
        "## What is wrong",
        "",
        r"- coadd T07_b.r failed: \[Errno 28\] No space left \| on device",
        "- missing: DECam_SWARP/x.fits",
        "",
    ]
    assert "| c4d_2 | refused | no MAGZERO |\n| c4d_3 | usable | S7: all NaN |\n" in artifact.data
    assert "c4d_1" not in artifact.data
    assert "| coadd | 3 done, 1 failed | 2.0 |" in artifact.data
    assert "- note: a tile has no detectors\n- disk: DECam_SWARP 2.0 MB" in artifact.data


def test_names_of_files_are_no_markdown():
    assert publish.plain("a|b <i> [x](y)\n*z*") == r"a\|b \<i\> \[x\](y) \*z\*"
    assert publish.table(["a"], []) == ""
    assert publish.table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
    assert publish.key("LMC_c42", "N662", "report") == "lmc-c42-n662-report"
