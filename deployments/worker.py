"""A Prefect worker that is stopped properly: ``worker.py POOL``, and ``worker.py --end-runs PID`` for those that are not ours.

Prefect's worker, when it is stopped, kills its runs: their record would say Running for ever, and what they were writing and
the programs that they have started would be left behind. So the runs are told to end first. This process ends when its
standard input does: that is when the process that started it closes the pipe, or is gone in whatever way.
"""

import os
import runpy
import signal
import subprocess
import sys
import threading
import time

__all__ = ["end_runs", "work"]

PATIENCE = 25.0  # s; runs end within 15


def work(pool: str) -> None:
    """Run a worker until standard input ends."""
    threading.Thread(target=_stop_when_alone, daemon=True).start()
    sys.argv = ["prefect", "worker", "start", "--pool", pool, "--type", "process", "--no-create-pool-if-not-found"]
    runpy.run_module("prefect", run_name="__main__")


def _stop_when_alone() -> None:
    sys.stdin.buffer.read()
    end_runs(os.getpid())
    os.kill(os.getpid(), signal.SIGTERM)


def end_runs(worker: int) -> None:
    """Tell all runs of a worker (its process number) to end, and wait until they have."""
    deadline = time.monotonic() + PATIENCE
    told: set[int] = set()
    while (runs := _children(worker)) and time.monotonic() < deadline:
        for run in runs - told:
            try:
                os.killpg(run, signal.SIGTERM)  # Prefect gives each run a group of its own
            except ProcessLookupError:
                pass  # it has just ended, or is no run but a helper of the worker
        told |= runs
        time.sleep(0.2)


def _children(process: int) -> set[int]:
    columns = ["-o", "ppid=", "-o", "pid=", "-o", "pgid=", "-o", "stat="]
    listed = subprocess.run(["ps", "-A", *columns], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return {int(pid) for parent, pid, group, state in rows if int(parent) == process and pid == group and "Z" not in state}


if __name__ == "__main__":
    if sys.argv[1] == "--end-runs":
        end_runs(int(sys.argv[2]))
    else:
        work(sys.argv[1])
