"""What is being worked on can be stopped, in threads, and cleans up on its way out."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import wait_for

from kred_core.products import atomic
from tasks.steps import Interrupted, interrupted, interruptible

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.flaky  # signals, and threads that others interrupt


def write_again_and_again(path: Path, started: threading.Event) -> None:
    with interruptible():
        while True:
            with atomic(path) as temporary:
                temporary.write_bytes(b"whole")
                started.set()


def test_work_that_is_stopped_anywhere_leaves_nothing(tmp_path):
    for _ in range(40):  # each at another place; most often just after a call that has made, written or renamed a file
        events = [threading.Event() for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(write_again_and_again, tmp_path / f"{i}.fits", event) for i, event in enumerate(events)]
            wait_for(lambda: all(event.is_set() for event in events))  # noqa: B023 - it is done in this round
            with interrupted(end_process=False):
                late = pool.submit(write_again_and_again, tmp_path / "late.fits", threading.Event())
                assert [type(future.exception(timeout=60)) for future in [*futures, late]] == [Interrupted] * 5
        assert not (tmp_path / "late.fits").exists()  # what begins meanwhile is stopped before it does anything
        assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_program_that_a_thread_waits_for_is_interrupted_too(tmp_path):
    started = threading.Event()

    def run() -> None:
        with interruptible(), subprocess.Popen(["sleep", "600"]) as process:
            started.set()
            try:
                process.wait(600)
            finally:
                process.kill()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        assert started.wait(60)
        with interrupted(end_process=False):
            assert isinstance(future.exception(60), Interrupted)


def test_a_process_that_does_not_end_by_itself_is_ended(tmp_path):
    code = (
        "import signal, time, tasks.steps as i\n"
        "i.PATIENCE = i.LAST_RESORT = 0.5\n"
        "with i.interrupted(end_process=True):\n"
        "    time.sleep(600)\n"
    )
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 60
