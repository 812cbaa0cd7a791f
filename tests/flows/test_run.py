"""Runs wait for each other where they must, and say for whom; what runs beside the stages waits for none; on how many threads."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import opaque

from flows.run import ConfiguredTaskRunner, PrefectTasks, cores, started
from kred_core.config import FieldConfig, RunConfig
from kred_core.errors import KredError
from kred_core.products import FieldPaths
from kred_core.products.locks import held
from kred_core.stages import table
from kred_core.stages.executor import Threads
from kred_core.stages.outcome import Outcome
from kred_core.stages.run import Run
from kred_core.stages.work import Manifest, Step, Work
from tasks.steps import step_task


def run(root: Path, field: str = "LMC_c42", **options) -> Run:
    config = FieldConfig(field=field, root=root, run=RunConfig(**options))
    return Run(config, Threads(config))


@contextmanager
def elsewhere(locks: Sequence[Path]) -> Iterator[threading.Event]:
    """Another run holds a lock until the event is set."""
    holds, release = threading.Event(), threading.Event()

    def hold() -> None:
        with held(locks, "LMC_c41 T07", pytest.fail):
            holds.set()
            release.wait(120)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(60)
    yield release
    release.set()
    thread.join()


@pytest.fixture
def said(caplog) -> Iterator[threading.Event]:
    """Set when kred has said that it waits."""
    event = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: event.set() if "wait" in record.getMessage() else None
    logger = logging.getLogger("kred_core.run")
    logger.addHandler(handler)
    with caplog.at_level(logging.INFO, "kred_core"):
        yield event
    logger.removeHandler(handler)


def release_when(said: threading.Event, release: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=lambda: said.wait(60) and release.set())
    thread.start()
    return thread


def test_the_second_run_of_a_field_waits_and_says_for_whom(tmp_path, said, caplog):
    with elsewhere([FieldPaths(tmp_path, "LMC_c42").run_lock]) as release:
        with run(tmp_path, "LMC_c41").exclusive():  # another field waits for nobody
            assert not said.is_set()
        thread = release_when(said, release)
        with run(tmp_path).exclusive():
            assert release.is_set()
        thread.join()
    assert "run.lock: LMC_c41 T07 (process " in caplog.text


def test_heavy_stages_wait_for_memory_and_light_ones_do_not(tmp_path, said, caplog):
    ours = run(tmp_path)
    with elsewhere(ours.paths.heavy_locks(1)) as release:
        with ours.stage("tiles"), ours.memory(table()["tiles"]):
            assert not said.is_set()
        thread = release_when(said, release)
        with ours.stage("coadd"), ours.memory(table()["coadd"]):
            assert release.is_set()
        thread.join()
    assert "coadd waits: memory is taken by LMC_c41 T07" in caplog.text


@pytest.mark.parametrize("n", [0, 2])
def test_as_many_heavy_stages_at_once_as_the_options_say(tmp_path, said, n):
    ours = run(tmp_path, heavy_at_once=n)
    with elsewhere(ours.paths.heavy_locks(1)), ours.stage("match"), ours.memory(table()["match"]):
        assert not said.is_set()


def _make(config: FieldConfig, unit: str, after: str) -> Manifest:
    """Make a file as soon as there is another one, and fail where that is asked for."""
    deadline = time.monotonic() + 60
    while after and not (config.root / after).exists():
        if time.monotonic() > deadline:
            raise KredError(f"{after} was not made while this waited")
        time.sleep(0.05)
    if unit == "fails":
        raise KredError("as it was asked to")
    (config.root / unit).touch()
    return Manifest.of([config.root / unit])


make = Step("make", 1, lambda config, unit, after: Work(unit), _make)


@pytest.fixture
def root(tmp_path, prefect_server) -> Path:
    """A data root whose field has an exposure, which nobody will open."""
    mef = FieldPaths(tmp_path, "LMC_c42").mef
    mef.mkdir(parents=True)
    (mef / "a_ooi_r_v1.fits.fz").touch()
    return tmp_path


@flow(task_runner=ConfiguredTaskRunner())
def stages_with_figures(config: FieldConfig) -> Outcome:
    ours = Run(config, PrefectTasks(config))
    ours.begin()
    with ours.stage("match"):
        ours.in_background("figures", make, [(unit, {"unit": unit, "after": "evaluated"}) for unit in ("drawn", "fails")])
    with ours.stage("coadd"):
        assert ours.each(make, [("co-added", {"unit": "co-added", "after": ""})]) == ["co-added"]
    with ours.stage("evaluate"):
        assert ours.each(make, [("evaluated", {"unit": "evaluated", "after": "co-added"})]) == ["evaluated"]
    ours.finish_background()
    return opaque(ours.outcome)


def test_what_runs_beside_the_stages_keeps_none_of_them_waiting(root):
    """Figures that can only be drawn when the stage after the next has ended: were they waited for, it would never begin."""
    outcome = stages_with_figures(FieldConfig(field="LMC_c42", root=root, run=RunConfig(workers=3))).unwrap()
    assert (root / "drawn").exists()
    counts = {stage.name: (stage.done, list(stage.failed.values())) for stage in outcome.stages}
    assert counts == {
        "match": (0, []),
        "figures": (1, ["as it was asked to"]),
        "coadd": (1, []),
        "evaluate": (1, []),
    }


def test_threads_are_the_default_and_as_many_as_cores():
    with started(FieldConfig(field="LMC_c42")) as runner:
        assert runner == ThreadPoolTaskRunner(max_workers=cores())
    assert 1 <= cores() <= os.cpu_count()


def _look_around(config: FieldConfig, unit: str) -> Manifest:
    time.sleep(0.05)
    return Manifest.of(process=os.getpid(), thread=threading.get_ident())


look_around = Step("look around", 1, lambda config, unit: Work(unit), _look_around)


@flow(task_runner=ConfiguredTaskRunner())
def look(config: FieldConfig, units: int) -> list[Manifest]:
    names = [f"exposure {i}" for i in range(units)]
    task = step_task(look_around)
    return [f.result() for f in [task.submit(unit=name, config=config, arguments={"unit": name}) for name in names]]


def test_threads_never_exceed_the_number_asked_for(tmp_path, prefect_server):
    manifests = look(FieldConfig(field="LMC_c42", root=tmp_path, run=RunConfig(workers=2)), 12)
    assert {m.values["process"] for m in manifests} == {os.getpid()}
    assert len({m.values["thread"] for m in manifests}) == 2
