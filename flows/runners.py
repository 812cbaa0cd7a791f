"""How tasks are run side by side: from the configuration to a Prefect task runner.

Threads are the default. The heavy kernels release the interpreter lock, so threads keep all cores
busy at a fraction of a process pool's cost. Processes are there for what does not.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from contextlib import ExitStack
from typing import Any

from prefect import Task
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from kred_core.config import RunConfig
from tasks.interruption import interrupted, interruptible_process

from . import messages

__all__ = ["ConfiguredTaskRunner", "cores", "task_runner"]


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


class ConfiguredTaskRunner(TaskRunner):
    """The task runner that the flow's own parameter ``config`` asks for.

    Prefect fixes a flow's task runner where the flow is defined; a worker would run every field with that one. So this
    one waits for the first task, and then starts the runner that was chosen. A run that is stopped does not wait for its
    tasks: they are interrupted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._chosen: TaskRunner | None = None

    def duplicate(self) -> ConfiguredTaskRunner:
        return type(self)()

    def submit(self, task: Task, parameters: dict[str, Any], wait_for: Any = None, dependencies: Any = None) -> PrefectFuture:
        if self._chosen is None:
            self._chosen = task_runner(FlowRunContext.get().parameters["config"].run).__enter__()
        return self._chosen.submit(task, parameters, wait_for, dependencies)

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: Any, traceback: Any) -> None:
        with ExitStack() as stack:
            if exc_type is not None and not issubclass(exc_type, Exception):
                stack.enter_context(interrupted(end_process=issubclass(exc_type, TerminationSignal)))
            if self._chosen is not None:
                self._chosen.__exit__(exc_type, exc_value, traceback)
                self._chosen = None
        super().__exit__(exc_type, exc_value, traceback)


def _begin_process() -> None:
    interruptible_process()
    messages.to_ui()
    messages.kred_only()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # the run was killed; Python would leave its processes waiting for more work for ever
