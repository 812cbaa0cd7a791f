"""What is being worked on can be stopped, in threads and in worker processes, and cleans up on its way out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from kred_core.products import atomic
from tasks.interruption import Interrupted, interrupted, interruptible

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.flaky  # signals, and threads that others interrupt

# Two processes of a pool write files without end; a third and a fourth would follow.
POOL = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from kred_core.products import atomic
from tasks.interruption import interruptible, interruptible_process

def write(path):
    with interruptible(), atomic(path) as temporary:
        temporary.touch()
        time.sleep(600)

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=interruptible_process) as pool:
        futures = [pool.submit(write, Path(sys.argv[1], f"{n}.fits")) for n in range(4)]
        for future in futures:
            print(type(future.exception()).__name__, flush=True)
"""


def write_for_ever(path: Path, started: threading.Event) -> None:
    with interruptible(), atomic(path) as temporary:
        temporary.touch()
        started.set()
        while True:
            time.sleep(0.01)


def write_again_and_again(path: Path, started: threading.Event) -> None:
    with interruptible():
        while True:
            with atomic(path) as temporary:
                temporary.write_bytes(b"whole")
                started.set()


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_work_that_is_stopped_anywhere_leaves_nothing(tmp_path):
    for _ in range(40):  # each at another place; most often just after a call that has made, written or renamed a file
        events = [threading.Event() for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(write_again_and_again, tmp_path / f"{i}.fits", event) for i, event in enumerate(events)]
            wait_for(lambda: all(event.is_set() for event in events))  # noqa: B023 - it is done in this round
            with interrupted(end_process=False):
                assert [type(future.exception(timeout=60)) for future in futures] == [Interrupted] * 4
        assert [path.name for path in tmp_path.glob(".*")] == []


def test_work_in_threads_stops_and_removes_what_it_had_begun(tmp_path):
    events = [threading.Event() for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(write_for_ever, tmp_path / f"{n}.fits", event) for n, event in enumerate(events)]
        waiting = pool.submit(write_for_ever, tmp_path / "2.fits", threading.Event())
        for event in events:
            assert event.wait(60)
        with interrupted(end_process=False):
            for future in [*futures, waiting]:  # what begins meanwhile is stopped before it does anything
                with pytest.raises(Interrupted, match="the run was stopped"):
                    future.result(60)
    assert list(tmp_path.iterdir()) == []


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


def test_afterwards_work_goes_on_as_before():
    with interrupted(end_process=False):
        pass
    with interruptible():
        pass


def test_other_threads_are_left_alone():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with interrupted(end_process=False):
        assert thread.is_alive()
    done.set()
    thread.join()


def test_worker_processes_end_at_once_and_leave_nothing_half_written(tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    products = tmp_path / "products"
    products.mkdir()
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, script, products]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        try:
            wait_for(lambda: len(list(products.iterdir())) == 2)
            for worker in workers(run.pid):
                with suppress(ProcessLookupError):  # the first that ends makes the pool end the other
                    os.kill(worker, signal.SIGTERM)
            said, _ = run.communicate(timeout=60)
        finally:
            run.kill()
    assert said.split() == ["BrokenProcessPool"] * 4
    assert list(products.iterdir()) == []


def workers(run: int) -> list[int]:
    columns = ["-o", "ppid=", "-o", "pid=", "-o", "args="]
    listed = subprocess.run(["ps", "-A", "-ww", *columns], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [int(pid) for parent, pid, arguments in rows if int(parent) == run and "spawn_main" in arguments]


def test_a_process_that_does_not_end_by_itself_is_ended(tmp_path):
    code = (
        "import signal, time, tasks.interruption as i\n"
        "i.PATIENCE = i.LAST_RESORT = 0.5\n"
        "with i.interrupted(end_process=True):\n"
        "    time.sleep(600)\n"
    )
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 60
