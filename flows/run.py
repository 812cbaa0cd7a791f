"""How a run's units become Prefect tasks, and its stages the lines of the run's graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.exceptions import FailedRun
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Failed, State
from prefect.utilities.annotations import allow_failure, opaque

from flows import runners
from kred_core.config import FieldConfig
from kred_core.stages.executor import Ended
from kred_core.stages.outcome import Outcome
from kred_core.stages.work import Step
from tasks.publish import Progress, publish_table
from tasks.steps import once_task, step_task

__all__ = ["PrefectTasks"]

T = TypeVar("T")


@task(name="stage", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def _stage(name: str, do: Callable[[], tuple[bool, str]]) -> State:
    """One stage, with its tasks inside, so that the graph of a run with a thousand tasks is that of its stages."""
    complete, words = do()
    return (Completed if complete else Failed)(message=words)


class PrefectTasks:
    """Runs the units of a `kred_core.stages.run.Run` as Prefect tasks, on the flow's task runner."""

    def __init__(self, config: FieldConfig):
        self.workers = runners.workers(config)
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
        return once_task(function)(config=opaque(config), arguments=opaque(arguments))

    def stage(self, name: str, do: Callable[[], tuple[bool, str]]) -> None:
        # Prefect knows results by their addresses; what comes to lie where one was would give the graph a line too many.
        FlowRunContext.get().run_results.clear()
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
