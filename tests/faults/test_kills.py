"""Runs that are killed at any moment, with everything that belongs to them: the same command goes on where they were.

Some fields are reduced by runs of which one after the other is killed (kill -9) at a moment that chance has chosen, until one may
end. A moment is so many units of work after the beginning and a part of a second more, so that it lies in all stages alike.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from fields import FIELD, PROJECT, everything, made, page, small_field, temporaries
from tally import tried

from kred_core.products import FieldPaths, read_record
from kred_core.stages.work import read_manifest

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "flows/field.py", FIELD, "T07", "T10", "--evaluate.figure-pixels", "200", "--workers", "2"]
SWARP = ["--coadd.engine", "swarp"]
PROCESSES = ["--runner", "dask"]
KILLS = 5  # of each field
UNITS = 38  # of work in a run
START = 6.0  # s; a run that nobody disturbs says its first word about then
PATIENCE = 300.0  # s for a run


def records(root: Path) -> dict[str, os.stat_result]:
    """The records of units of work that are done: stage/unit/record."""
    top = FieldPaths(root, FIELD).state / "results"
    found = (path for path in top.glob("*/*/[!.]*") if path.name != "lock")
    return {str(path.relative_to(top)): path.stat() for path in found}


def open_units(root: Path) -> set[str]:
    """Units of work that somebody has begun and nobody has done: stage/unit."""
    top = FieldPaths(root, FIELD).state / "results"
    begun = {str(lock.parent.relative_to(top)) for lock in top.glob("*/*/lock")}
    return begun - {name.rpartition("/")[0] for name in records(root)}


@dataclass
class Kill:
    """What was there when a run had been killed."""

    moment: str
    products: dict[str, bytes]
    records: dict[str, os.stat_result]
    damaged: list[str]
    open: set[str]


@dataclass
class Story:
    """A field and the runs that were killed on it."""

    root: Path
    options: list[str]
    only_the_run: bool
    server: str  # URL of a Prefect server that goes on; empty: each run has one of its own
    kills: list[Kill] = field(default_factory=list)
    status: int | None = None
    said: str = ""

    def __str__(self) -> str:
        return f"{self.root.name}, killed {', '.join(kill.moment for kill in self.kills)}: {self.said[-2000:]}"


class Runs:
    """Runs of the field in a data root.

    Parameters
    ----------
    root : `~pathlib.Path`
    home : `~pathlib.Path`
        Prefect's directory, with a database.
    options : list of str
    server : str
        URL of the Prefect server; without it each run has one of its own.
    """

    def __init__(self, root: Path, home: Path, options: list[str], server: str = ""):
        self.root, self.output = root, root.with_suffix(".txt")
        self._mark = f"TEST_OF_KILLS={uuid4()}"  # in the environment of all processes that belong to it
        name, value = self._mark.split("=")
        self._environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL" and not k.startswith("KRED_")}
        self._environment |= {"PREFECT_HOME": str(home), "PYTHONPATH": str(PROJECT), name: value}
        self._environment |= {"PREFECT_API_URL": server} if server else {}
        self._command = [*COMMAND, "--root", str(root), *options]

    def start(self) -> subprocess.Popen:
        with open(self.output, "ab") as output:
            return subprocess.Popen(
                self._command, cwd=PROJECT, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )

    def processes(self) -> list[int]:
        """All that live: the run, its server, its workers, SWarp and its shells."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:  # it has just ended
                continue
        return found

    def kill(self, run: subprocess.Popen, only_the_run: bool) -> None:
        """Kill a run with all its processes, or it alone: then the others have to notice."""
        if not only_the_run:
            self.kill_all(self.processes())
        run.kill()
        run.wait()
        deadline = time.monotonic() + 60
        while left := self.processes():
            assert time.monotonic() < deadline, f"processes {left} have survived the run that they belong to"
            if not only_the_run:
                self.kill_all(left)
            time.sleep(0.05)

    @staticmethod
    def kill_all(processes: list[int]) -> None:
        for process in processes:
            with suppress(ProcessLookupError):  # it has noticed that its run is gone
                os.kill(process, signal.SIGKILL)


def wait_for(run: subprocess.Popen, root: Path, moment: tuple[int, float]) -> bool:
    """Wait for so many records and some seconds more; False where the run has ended before."""
    units, seconds = moment
    deadline = time.monotonic() + PATIENCE
    while units > 0 and len(records(root)) < units and run.poll() is None:
        assert time.monotonic() < deadline, "the run hangs"
        time.sleep(0.01)
    end = time.monotonic() + seconds
    while time.monotonic() < end and run.poll() is None:
        time.sleep(0.01)
    return run.poll() is None


def moments(chance: random.Random) -> list[tuple[int, float]]:
    """When the runs on a field are killed, one after the other: the first of all perhaps while it starts."""
    found = []
    for units in sorted(chance.sample(range(UNITS + 1), KILLS)):
        found.append((units, chance.uniform(0, START if units == 0 else 1.0)))
    return found


def tell(story: Story, home: Path, seed: int) -> Story:
    """Kill one run after the other, and let the last one end."""
    runs = Runs(story.root, home, story.options, story.server)
    for moment in moments(random.Random(seed)):
        run = runs.start()
        was_killed = wait_for(run, story.root, moment)
        runs.kill(run, story.only_the_run)
        found = records(story.root)
        top = FieldPaths(story.root, FIELD).state / "results"
        damaged = [name for name in found if read_manifest(top / name, story.root) is None]
        if was_killed:
            when = f"{moment[1]:.2f} s after {moment[0]} units"
            story.kills.append(Kill(when, made(story.root), found, damaged, open_units(story.root)))
    run = runs.start()
    story.status = run.wait(PATIENCE)
    story.said = runs.output.read_text()
    runs.kill(run, only_the_run=True)
    return story


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A directory with the exposures, and a Prefect home whose database has been made."""
    directory = tmp_path_factory.mktemp("kills")
    small_field(directory / "simulated", tiles=["T07", "T10"], bands=["N662", "r"], n_detectors=4)
    (directory / "home").mkdir()
    return directory


def data_root(place: Path, name: str) -> Path:
    root = place / name
    root.mkdir()
    (root / "DECam_MEF").symlink_to(place / "simulated" / "DECam_MEF")
    return root


@pytest.fixture(scope="module")
def undisturbed(place) -> Iterator[dict[str, Path]]:
    """Data roots that one run has reduced, by engine; without SWarp only one."""
    found = {}
    for engine, options in (("native", []), ("swarp", SWARP)):
        if engine == "native" or shutil.which("SWarp") or shutil.which("swarp"):
            root = data_root(place, f"undisturbed-{engine}")
            runs = Runs(root, place / "home", options)
            assert runs.start().wait(PATIENCE) == 0, runs.output.read_text()
            found[engine] = root
    return found


@pytest.fixture(scope="module")
def stories(place, undisturbed, prefect_server) -> list[Story]:
    """What came of the killing, three fields at a time; some with a server that goes on, as that of the service does."""
    swarp = SWARP if "swarp" in undisturbed else []
    plans = [([], False, ""), (swarp, False, ""), ([], True, "")]
    plans += [(PROCESSES, False, prefect_server), (PROCESSES, True, prefect_server)]
    homes = [shutil.copytree(place / "home", place / f"home-{i}") for i in range(len(plans))]
    begun = [Story(data_root(place, f"field-{i}"), *plan) for i, plan in enumerate(plans)]
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(tell, begun, homes, range(1, len(plans) + 1)))


def reference(story: Story, undisturbed: dict[str, Path]) -> Path:
    return undisturbed["swarp" if story.options == SWARP else "native"]


def test_runs_were_killed(stories):
    assert sum(len(story.kills) for story in stories) >= KILLS * len(stories) - 2  # some may have ended first
    assert sum(bool(kill.open) for story in stories for kill in story.kills) >= 8  # in the middle of work


def test_whatever_has_its_final_name_is_whole_at_each_of_these_moments(stories, undisturbed):
    for story in stories:
        whole = made(reference(story, undisturbed))
        for kill in story.kills:
            assert [name for name, content in kill.products.items() if content != whole.get(name)] == [], story
            assert kill.damaged == [], story


def test_the_last_run_makes_what_an_undisturbed_one_makes_and_leaves_nothing_else(stories, undisturbed):
    for story in stories:
        assert story.status == 0, story
        assert "Traceback" not in story.said, story
        assert "unexpected" not in story.said, story
        expected = reference(story, undisturbed)
        found, whole = everything(story.root), everything(expected)
        assert sorted(found) == sorted(whole), story
        assert [name for name in found if found[name] != whole[name]] == [], story
        assert temporaries(story.root) == [], story
        assert sorted(p.name for p in story.root.iterdir()) == sorted(p.name for p in expected.iterdir())
        record = read_record(FieldPaths(expected, FIELD).record("run", "last"))
        assert page(story.root, record) == FieldPaths(expected, FIELD).page.read_bytes(), story
    tried("run killed with all its processes (kill -9)", sum(len(s.kills) for s in stories if not s.only_the_run))
    tried("run killed alone (kill -9)", sum(len(s.kills) for s in stories if s.only_the_run))


def is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_mtime_ns) == (other.st_ino, other.st_mtime_ns)


def test_only_what_was_being_done_is_done_twice(stories):
    for story in stories:
        last, begun = records(story.root), set()
        for kill in story.kills:
            again = [name for name, status in kill.records.items() if name not in last or not is_same(status, last[name])]
            assert again == [], story
            assert len(kill.open - begun) <= 2, story  # as many as there are workers
            begun |= kill.open
