"""A field as large as they come, of tiny detectors: the server keeps up, its pages stay usable, nothing is lost."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from browsing import chromium, picture
from serving import Service, wait_for

from kred_core.products import FieldPaths, service_state
from kred_core.simulate import simulate_field

pytestmark = pytest.mark.large

BANDS = ("N662", "N673", "N708", "r")
N_TILES, N_EXPOSURES = 16, 200
DETECTORS = ["N2", "N20", "N24", "S15", "S18"]  # these five touch all tiles
MB = 1e6


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("large")
    options = {"bands": BANDS, "exposures": N_EXPOSURES // len(BANDS), "detectors": DETECTORS, "binning": 32}
    simulate_field(root, field="LMC_c42", star_density=0.0, noise=False, cosmic_rays=0.0, **options)
    service = Service(root, settle=1000)
    yield service
    service.stop()


def sizes(service: Service) -> tuple[int, int]:
    """Bytes of the server's database, and those of them that it keeps for a day only."""
    parts = "(SELECT name FROM sqlite_master WHERE tbl_name IN ('events', 'event_resources'))"
    with closing(sqlite3.connect(f"file:{re.search(r'history of the runs: (.+)', service.said)[1]}?mode=ro", uri=True)) as database:
        [size] = database.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
        [events] = database.execute(f"SELECT sum(pgsize) FROM dbstat WHERE name IN {parts}").fetchone()
    return size, events


@pytest.fixture(scope="module")
def run(service, tmp_path_factory) -> dict:
    """A run of the whole field, looked at with a browser while it is at work; how it ended, and how the database grew."""
    before = sizes(service)
    run = service.start(run={"until": "coadd"}, evaluate={"figure_pixels": 200})
    wait_for(lambda: service.paths.log.exists() and "match " in service.paths.log.read_text(), 600)
    with chromium() as page:
        for name, address, there in (
            ("runs", "/v2/runs", "text=LMC_c42"),
            ("run", f"/v2/runs/flow-run/{run}", "canvas"),
            ("Task Runs", None, "text=/\\d+ completed/i"),
            ("Artifacts", None, "text=lmc-c42-backgrounds"),
        ):
            if address:
                page.goto(f"{service.ui}{address}")
            else:
                page.get_by_role("tab", name=name).click()
            page.locator(there).last.wait_for()
            picture(page, f"large_{name}".replace(" ", "_"), tmp_path_factory.mktemp("pictures"))
    assert httpx.get(f"{service.url}/flow_runs/{run}/graph-v2", timeout=60).status_code == 200
    state = service.end_of(run, 900)
    wait_for(lambda: all(ended for _, _, ended in task_runs(service, run)), 60)
    growth, events = (after - size for after, size in zip(sizes(service), before, strict=True))
    return {"id": run, "state": state, "growth": growth, "events": events}


def task_runs(service: Service, run) -> list[tuple[str, str, bool]]:
    """Kind, name and whether it has ended, of all tasks of a run that the server knows."""
    found, offset = [], 0
    asked = {"flow_runs": {"id": {"any_": [str(run)]}}, "sort": "ID_DESC", "limit": 200}
    while part := httpx.post(f"{service.url}/task_runs/filter", json=asked | {"offset": offset}, timeout=60).json():
        found += [(task["name"].split()[0], task["name"], task["state_name"] == "Completed") for task in part]
        offset += len(part)
    return found


def test_the_field_is_complete(service, run):
    assert run["state"].is_completed()
    assert run["state"].message == f"LMC_c42: complete ({N_EXPOSURES} exposures: {N_EXPOSURES} good)"


def test_no_record_of_a_task_is_lost(service, run):
    recorded = task_runs(service, run["id"])
    kinds = Counter(kind for kind, _, _ in recorded)
    names = {name for _, name, _ in recorded}
    for exposure in service.paths.exposures():
        root = FieldPaths.root_of(exposure)
        assert {f"check {exposure.name}", f"summarize {root}", f"prepare {root}", f"copy {root}"} <= names
    assert kinds["coadd"] == N_TILES * len(BANDS) + 1  # and the stage


def test_the_database_was_never_locked(service, run):
    for log in ("server.log", "worker.log"):
        text = (service_state(service.root) / log).read_text()
        assert "locked" not in text
        assert "Traceback" not in text


def test_the_database_grows_within_bounds(run):
    assert run["growth"] < 50 * MB
    assert run["growth"] - run["events"] < 10 * MB  # what is kept for 90 days
