"""How a run's units become Prefect tasks, its stages the lines of the run's graph, and its options a task runner.

Threads are the default: the heavy kernels release the interpreter lock. A Dask cluster (`flows.cluster`) is for processes.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FailedRun, TerminationSignal
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import allow_failure, opaque

from kred_core import memory, stages
from kred_core.config import FieldConfig
from kred_core.errors import ToolError
from kred_core.stages.executor import Ended
from kred_core.stages.outcome import Outcome
from kred_core.stages.work import Step
from tasks.publish import Progress, publish_table
from tasks.steps import interrupted, once_task, step_task

from .prefect_internals import forget_results, started_by_worker

__all__ = ["ConfiguredTaskRunner", "PrefectTasks", "cores", "end_with_worker", "preflight", "started", "workers"]

log = logging.getLogger("kred_core.run")

T = TypeVar("T")
PAUSE = 1.0  # s between two looks for the worker
_watching = threading.Lock()


@task(name="stage", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def _stage(name: str, do: Callable[[], tuple[bool, str]]) -> State:
    """One stage, with its tasks inside, so that the graph of a run with a thousand tasks is that of its stages."""
    complete, words = do()
    return (Completed if complete else Failed)(message=words)


class PrefectTasks:
    """Runs the units of a `kred_core.stages.run.Run` as Prefect tasks, on the flow's task runner."""

    def __init__(self, config: FieldConfig):
        self.workers = workers(config)
        self._before: list[Any] = []

    def submit(self, step: Step, unit: str, config: FieldConfig, arguments: dict[str, Any]) -> PrefectFuture:
        # opaque: spare Prefect the search for other tasks' results in plans of thousands of values
        return step_task(step).submit(unit=unit, config=opaque(config), arguments=opaque(arguments))

    def ended(self, submitted: Iterable[PrefectFuture]) -> Iterator[tuple[PrefectFuture, Ended]]:
        for future in as_completed(list(submitted)):
            future.wait()  # it has ended; only now does it know its last state without asking the server
            state = future.state
            if state.is_completed():
                yield future, Ended(manifest=state.result(), current=state.name == "Cached")
            else:
                yield future, Ended(error=state.result(raise_on_failure=False))

    def once(self, function: Callable[..., T], config: FieldConfig, arguments: dict[str, Any]) -> T:
        # Prefect declares a coroutine, which only asynchronous functions give
        return cast(T, once_task(function)(config=opaque(config), arguments=opaque(arguments)))

    def stage(self, name: str, do: Callable[[], tuple[bool, str]]) -> None:
        forget_results()
        state = _stage(name, opaque(do), return_state=True, wait_for=self._before)
        with suppress(FailedRun):  # which the outcome knows; anything else is a defect
            state.result()
        self._before = [allow_failure(state)]

    def begin(self, config: FieldConfig) -> None:
        self._progress = Progress(config)

    def progress(self, stage: str, ended: int, units: int, unit: str) -> None:
        self._progress.show(stage, ended, units, unit)

    def show(self, key: str, words: str, rows: list[dict[str, Any]]) -> None:
        publish_table(key, words, rows)

    def end(self, outcome: Outcome) -> None:
        self._progress.end(outcome)


def cores() -> int:
    """Number of cores that this process may use; batch systems and containers often grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(config: FieldConfig) -> int:
    """Tasks at once."""
    return config.run.workers or cores()


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
    memory.fitted(config, workers(config))
    if config.run.runner == "dask":
        if importlib.util.find_spec("prefect_dask") is None:
            raise ToolError("the runner dask needs packages that are not installed: pip install 'kred[dask]'")
        from . import cluster  # here, because Dask is not needed, and not installed, everywhere

        cluster.preflight(config.run)


@contextmanager
def started(config: FieldConfig) -> Iterator[TaskRunner]:
    """The task runner that a configuration asks for, at work in this block.

    It is never unbounded, as Prefect's default is: a field would hold all its exposures in memory at once.
    """
    if config.run.runner == "dask":
        from . import cluster

        starting: AbstractContextManager[TaskRunner] = cluster.started(config, workers(config))
    else:
        starting = ThreadPoolTaskRunner(max_workers=workers(config))
    with starting as runner:
        yield runner


class ConfiguredTaskRunner(TaskRunner[PrefectFuture[Any]]):
    """The task runner that the flow's own parameter ``config`` asks for.

    Prefect fixes a flow's task runner where the flow is defined. So this one waits for the first task, and then starts the
    runner that was chosen. A run that is stopped does not wait for its tasks: they are interrupted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._chosen: TaskRunner | None = None

    def duplicate(self) -> ConfiguredTaskRunner:
        return type(self)()

    def submit(self, task: Task, parameters: dict[str, Any], wait_for: Any = None, dependencies: Any = None) -> PrefectFuture:
        if self._chosen is None:
            self._chosen = self._stack.enter_context(started(flow_run.parameters["config"]))
        return self._chosen.submit(task, parameters, wait_for, dependencies)

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: Any, traceback: Any) -> None:
        with ExitStack() as stack:
            if self._chosen is not None and exc_type is not None and not issubclass(exc_type, Exception):
                stack.enter_context(interrupted(end_process=issubclass(exc_type, TerminationSignal)))
            self._chosen = None
            self._stack.__exit__(exc_type, exc_value, traceback)
        super().__exit__(exc_type, exc_value, traceback)


def end_with_worker() -> None:
    """End this process when the worker that started it is gone; does nothing in other processes. May be called again.

    A worker that is killed leaves the processes of its runs behind, which nobody could cancel or count any more. The run
    ends as if it were cancelled; the record says Crashed, and another run goes on where it was.
    """
    if started_by_worker() and _watching.acquire(blocking=False):
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(worker: int) -> None:
    while os.getppid() == worker:
        time.sleep(PAUSE)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # the worker read them; writing to them would now be an error
        os.dup2(nowhere, stream)
    log.error("the worker of this run is gone, so the run ends; the next one goes on where it was")
    os.kill(os.getpid(), signal.SIGTERM)
