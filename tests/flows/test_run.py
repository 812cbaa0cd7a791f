"""Runs wait for each other where they must, and say for whom."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.run import Run
from kred_core.config import FieldConfig, RunConfig
from kred_core.locks import held
from kred_core.products import FieldPaths


def run(root: Path, field: str = "LMC_c42", **options) -> Run:
    return Run(FieldConfig(field=field, root=root, run=RunConfig(**options)))


@contextmanager
def elsewhere(locks: Sequence[Path]) -> Iterator[threading.Event]:
    """Another run holds a lock until the event is set."""
    holds, release = threading.Event(), threading.Event()

    def hold() -> None:
        with held(locks, "LMC_c41 T07", pytest.fail):
            holds.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(10)
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
    thread = threading.Thread(target=lambda: said.wait(30) and release.set())
    thread.start()
    return thread


def test_the_second_run_of_a_field_waits_and_says_for_whom(tmp_path, said, caplog):
    with elsewhere([FieldPaths(tmp_path, "LMC_c42").run_lock]) as release:
        thread = release_when(said, release)
        with run(tmp_path).alone():
            assert release.is_set()
        thread.join()
    assert "run.lock: LMC_c41 T07 (process " in caplog.text


def test_runs_of_two_fields_do_not_wait_for_each_other(tmp_path, said):
    with run(tmp_path).alone(), run(tmp_path, "LMC_c41").alone():
        assert not said.is_set()


def test_heavy_stages_wait_for_memory_and_light_ones_do_not(tmp_path, said, caplog):
    ours = run(tmp_path)
    with elsewhere(ours.paths.heavy_locks(1)) as release:
        with ours.stage("tiles"), ours.memory("tiles"):
            assert not said.is_set()
        thread = release_when(said, release)
        with ours.stage("coadd"), ours.memory("coadd"):
            assert release.is_set()
        thread.join()
    assert "coadd waits: memory is taken by LMC_c41 T07" in caplog.text


@pytest.mark.parametrize("n", [0, 2])
def test_as_many_heavy_stages_at_once_as_the_options_say(tmp_path, said, n):
    ours = run(tmp_path, heavy_at_once=n)
    with elsewhere(ours.paths.heavy_locks(1)), ours.stage("match"), ours.memory("match"):
        assert not said.is_set()


def test_what_a_killed_run_left_is_removed_before_the_next_begins(tmp_path, caplog):
    paths = FieldPaths(tmp_path, "LMC_c42")
    left = paths.mosaic("T07", "r").with_name(".LMC_c42_T07.r.fits.abcdefgh.tmp")
    left.parent.mkdir(parents=True)
    left.touch()
    with caplog.at_level(logging.INFO, "kred_core"), run(tmp_path).alone():
        assert not left.exists()
    assert f"left behind: {left}" in caplog.text
