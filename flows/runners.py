"""How tasks are run side by side: from the configuration to a Prefect task runner.

Threads are the default. The heavy kernels release the interpreter lock, so threads keep all cores
busy at a fraction of a process pool's cost. Processes are there for what does not.
"""

from __future__ import annotations

import multiprocessing
import os
import threading

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from kred_core.config import RunConfig

from . import messages

__all__ = ["cores", "task_runner"]


def cores() -> int:
    """Number of cores that this process may use; batch systems and containers often grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def task_runner(run: RunConfig) -> TaskRunner:
    """Make the task runner that a configuration asks for.

    Parameters
    ----------
    run : `~kred_core.config.RunConfig`
        ``runner`` and ``workers``; 0 workers: one for each core.

    Returns
    -------
    `~prefect.task_runners.TaskRunner`
        Never unbounded, as Prefect's default is: a field would hold all its exposures in memory at once.
    """
    workers = run.workers or cores()
    if run.runner == "processes":
        return ProcessPoolTaskRunner(max_workers=workers, initializer=_begin_process)
    return ThreadPoolTaskRunner(max_workers=workers)


def _begin_process() -> None:
    messages.to_ui()
    messages.kred_only()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # the run was killed; Python would leave its processes waiting for more work for ever
