"""Binned maps come with the measurements, are made again without measuring, and are not missed where nobody keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import done

from flows.field import reduce
from kred_core import binned
from kred_core.config import FieldConfig
from kred_core.products import FieldPaths
from kred_core.stages import dry_run

pytestmark = pytest.mark.usefixtures("prefect_server")


def config(root: Path, **sections: dict) -> FieldConfig:
    return FieldConfig(field="LMC_c42", tiles=["T07"], root=root, run={"until": "summarize"}, **sections)


def maps(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in FieldPaths(root, "LMC_c42").binned.iterdir()}


@pytest.fixture(scope="module")
def measured(simulated, tmp_path_factory) -> Path:
    """A field that is checked and summarized; tests leave it as it was."""
    root = tmp_path_factory.mktemp("measured")
    (root / "DECam_MEF").symlink_to(simulated / "DECam_MEF")
    assert reduce(config(root)) == 0
    assert done(root) == {"check": 4, "summarize": 4}
    return root


def test_each_exposure_has_a_file_of_maps_on_one_grid(measured):
    paths = FieldPaths(measured, "LMC_c42")
    files = [paths.binned_file(paths.root_of(p)) for p in paths.exposures()]
    assert sorted(maps(measured)) == sorted(p.name for p in files)
    assert {len(binned.boxes(p)) for p in files} == {8}
    assert len({binned.grid_of(p) for p in files}) == 1


def test_maps_that_are_gone_are_made_again_without_measuring(measured):
    before, paths = maps(measured), FieldPaths(measured, "LMC_c42")
    records = {p: p.stat().st_mtime_ns for p in (paths.state / "summarize").iterdir()}
    next(paths.binned.iterdir()).unlink()
    assert reduce(config(measured)) == 0
    assert done(measured) == {"summarize": 1}
    assert maps(measured) == before
    assert {p: p.stat().st_mtime_ns for p in records} == records
    assert reduce(config(measured)) == 0
    assert done(measured) == {}


def test_maps_that_nobody_keeps_are_not_missed(measured):
    before, paths = maps(measured), FieldPaths(measured, "LMC_c42")
    for path in paths.binned.iterdir():
        path.unlink()
    assert reduce(config(measured, stamps={"keep": False})) == 0
    assert done(measured) == {}
    assert reduce(config(measured)) == 0  # and are there again for who wants them
    assert done(measured) == {"summarize": 4}
    assert maps(measured) == before


def test_another_grid_means_other_maps(measured):
    before = maps(measured)
    assert reduce(config(measured, stamps={"cell_size": 30.0})) == 0
    assert done(measured) == {"summarize": 4}
    assert {binned.grid_of(p).cell for p in FieldPaths(measured, "LMC_c42").binned.iterdir()} == {30.0}
    assert reduce(config(measured)) == 0
    assert maps(measured) == before


def test_the_dry_run_counts_their_disk(simulated, tmp_path, measured):
    (tmp_path / "DECam_MEF").symlink_to(simulated / "DECam_MEF")
    (line,) = (line for line in dry_run(config(tmp_path)).splitlines() if line.startswith("summarize"))
    number, unit = line.split()[-2:]
    found = sum(map(len, maps(measured).values()))
    assert float(number) * {"kB": 1e3, "MB": 1e6}[unit] == pytest.approx(found, rel=0.3)
