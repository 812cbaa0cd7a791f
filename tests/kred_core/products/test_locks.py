"""Locks between processes are exclusive, tell who holds them, and end with the process."""

from __future__ import annotations

import fcntl
import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kred_core.products.locks import held, try_lock

HOLD = "import sys, time\nfrom pathlib import Path\nfrom kred_core.products.locks import held\n"
HOLD += "with held([Path(p) for p in sys.argv[1:]], 'LMC_c42 T07', print):\n    print('held', flush=True)\n    time.sleep(600)\n"


def holder(*paths: Path) -> subprocess.Popen:
    """Another process that holds a lock until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, *paths], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_one_waits_for_the_other_and_is_told_for_whom(tmp_path):
    lock, said = tmp_path / "a" / "run.lock", []
    other = holder(lock)

    def waiting(who: str) -> None:
        said.append(who)
        other.kill()  # however the other ends, its lock ends with it

    with held([lock], "mine", waiting):
        assert other.wait() == -9
    assert len(said) == 1
    assert said[0].startswith(f"LMC_c42 T07 (process {other.pid} on ")


def test_threads_of_one_process_exclude_each_other(tmp_path):
    inside, most = set(), []

    def work() -> None:
        for _ in range(20):
            with held([tmp_path / "lock"], "mine", lambda who: None):
                inside.add(threading.get_ident())
                most.append(len(inside))
                inside.discard(threading.get_ident())

    with ThreadPoolExecutor(2) as pool:
        for ended in [pool.submit(work) for _ in range(2)]:
            ended.result()
    assert set(most) == {1}


def test_of_several_places_each_is_used_before_anybody_waits(tmp_path):
    places = [tmp_path / "1", tmp_path / "2"]
    first, second = holder(*places), holder(*places)

    def waiting(who: str) -> None:
        assert who.count("LMC_c42 T07") == 2
        second.kill()

    with held(places, "mine", waiting):
        second.wait()
    first.kill()
    first.wait()


def test_a_child_process_does_not_keep_the_lock(tmp_path):
    with held([tmp_path / "lock"], "mine", pytest.fail):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        pool = multiprocessing.get_context("spawn").Process(target=input)
        pool.start()
    with held([tmp_path / "lock"], "mine", pytest.fail):
        pass
    child.communicate()
    pool.join()


def test_a_full_disk_keeps_nobody_from_a_lock():
    full = Path("/dev/full")
    with held([full], "mine", pytest.fail), open(full, "ab") as file:
        assert not try_lock(file)
    with open(full, "ab") as file:
        assert try_lock(file)


def test_any_other_error_of_a_lock_is_told(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"), held([tmp_path / "lock"], "mine", pytest.fail):
        pass
