"""How tasks are run side by side: from the configuration to a Prefect task runner.

Threads are the default. The heavy kernels release the interpreter lock, so threads keep all cores
busy at a fraction of a process pool's cost. Processes are there for what does not; a Dask cluster
(`flows.cluster`) for more than one machine.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.queues import SimpleQueue
from typing import Any

from prefect import Task
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from kred_core import memory, stages
from kred_core.config import FieldConfig
from kred_core.errors import ToolError
from tasks.interruption import interrupted, interruptible_process

from . import messages

__all__ = ["ConfiguredTaskRunner", "cores", "fitted", "preflight", "started", "workers"]


def cores() -> int:
    """Number of cores that this process may use; batch systems and containers often grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(config: FieldConfig) -> int:
    """Tasks at once."""
    return config.run.workers or cores()


def fitted(config: FieldConfig) -> FieldConfig:
    """The same configuration with as much memory for each mosaic in the making as all tasks at once can have; see
    `kred_core.memory.fitted`. The machines of a cluster are for its own description to know."""
    return config if config.run.runner == "dask" else memory.fitted(config, workers(config))


def preflight(config: FieldConfig) -> None:
    """Find what would end a run before it begins: `kred_core.stages.preflight`, and whether its tasks can run.

    Raises
    ------
    ConfigError, InputError
        See `kred_core.stages.preflight`; also a description of a cluster that cannot be used, and too little memory.
    ToolError
        SWarp or Dask is wanted and not installed, or no scheduler answers at the address that was given.
    """
    stages.preflight(config)
    fitted(config)
    if config.run.runner != "dask":
        return
    if importlib.util.find_spec("prefect_dask") is None:
        raise ToolError("the runner dask needs packages that are not installed: pip install 'kred[dask]'")
    from . import cluster

    cluster.preflight(config.run)


@contextmanager
def started(config: FieldConfig) -> Iterator[TaskRunner]:
    """The task runner that a configuration asks for, at work in this block.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
        ``run.runner`` and ``run.workers``; 0 workers: one for each core.

    Yields
    ------
    `~prefect.task_runners.TaskRunner`
        Never unbounded, as Prefect's default is: a field would hold all its exposures in memory at once.
    """
    at_once = workers(config)
    if config.run.runner == "dask":
        from . import cluster  # here, because Dask is not needed, and not installed, everywhere

        with cluster.started(config, at_once) as runner:
            yield runner
    elif config.run.runner == "processes":
        said = multiprocessing.get_context("spawn").SimpleQueue()
        pool = ProcessPoolTaskRunner(max_workers=at_once, initializer=_begin_process, initargs=(said,))
        with messages.received(said), pool as runner:
            try:
                yield runner
            except BaseException as e:
                if not isinstance(e, Exception):
                    _stop_processes()
                raise
    else:
        with ThreadPoolTaskRunner(max_workers=at_once) as runner:
            yield runner


class ConfiguredTaskRunner(TaskRunner):
    """The task runner that the flow's own parameter ``config`` asks for.

    Prefect fixes a flow's task runner where the flow is defined; a worker would run every field with that one. So this
    one waits for the first task, and then starts the runner that was chosen. A run that is stopped does not wait for its
    tasks: they are interrupted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._chosen: TaskRunner | None = None

    def duplicate(self) -> ConfiguredTaskRunner:
        return type(self)()

    def submit(self, task: Task, parameters: dict[str, Any], wait_for: Any = None, dependencies: Any = None) -> PrefectFuture:
        if self._chosen is None:
            self._chosen = self._stack.enter_context(started(FlowRunContext.get().parameters["config"]))
        return self._chosen.submit(task, parameters, wait_for, dependencies)

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: Any, traceback: Any) -> None:
        with ExitStack() as stack:
            if self._chosen is not None and exc_type is not None and not issubclass(exc_type, Exception):
                stack.enter_context(interrupted(end_process=issubclass(exc_type, TerminationSignal)))
            self._chosen = None
            self._stack.__exit__(exc_type, exc_value, traceback)
        super().__exit__(exc_type, exc_value, traceback)


def _begin_process(said: SimpleQueue) -> None:
    interruptible_process()
    messages.send_to_run(said.put)
    messages.kred_only()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # the run was killed; Python would leave its processes waiting for more work for ever


def _stop_processes() -> None:
    for process in multiprocessing.active_children():
        process.terminate()  # the pool waits for them
