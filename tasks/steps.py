"""Prefect tasks for the steps of the stages: named, retried and remembered as all of them are.

What a unit depends on, whether it is up to date and what is remembered of it is kred's own (`kred_core.stages.work`), the
same with and without Prefect: Prefect's cache policies know nothing of files, so that a product that was deleted would still
be "Cached". A task whose unit has nothing to do ends in that state too, at once.
"""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.states import Completed, State

from kred_core.config import FieldConfig
from kred_core.errors import KredError, is_transient
from kred_core.stages.work import REFUSED, Manifest, Step

from .interruption import interruptible

__all__ = ["once_task", "step_task"]

log = logging.getLogger("kred_core.tasks")  # below kred_core, whose records Prefect shows in the UI

RETRY_DELAYS = [2.0, 20.0]  # s: a hiccup, then a file server that restarts


def _retry(task: Task, run: TaskRun, state: State) -> bool:
    """Whether a task failed for a reason that may be gone at the next try."""
    error = state.result(raise_on_failure=False)
    passes = isinstance(error, BaseException) and is_transient(error, soon=True)
    if passes:
        log.warning("%s: %s; trying again", run.name, error.__cause__ or error)  # Prefect asks only while tries are left
    return passes


def _task(function: Callable[..., Any], **options: Any) -> Task:
    return task(
        function,
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_condition_fn=_retry,
        cache_policy=NO_CACHE,
        persist_result=False,
        **options,
    )


@functools.cache
def step_task(step: Step) -> Task:
    """Return the task of a step; it takes the name of a unit, the configuration, and the step's other arguments."""

    def do(unit: str, config: FieldConfig, arguments: dict[str, Any]) -> Manifest | State:
        try:
            with interruptible():
                manifest, current = step.ensure(config, arguments)
        except (KredError, OSError, MemoryError) as e:
            _forget_frames(e)
            raise
        except Exception as e:
            log.exception("%s %s: unexpected error", step.name, unit)  # a defect: Prefect alone would not show where
            _forget_frames(e)
            raise
        if current:
            return Completed(name="Cached", data=manifest)
        refused = manifest.values.get(REFUSED)
        return Completed(name="Refused", message=refused, data=manifest) if refused else manifest

    return _task(do, name=step.name, version=str(step.version), task_run_name=f"{step.name} {{unit}}")


@functools.cache
def once_task(function: Callable[..., Any]) -> Task:
    """Return the task of a function that concerns the whole field."""

    def do(config: FieldConfig, arguments: dict[str, Any]) -> Any:
        with interruptible():
            return function(config, **arguments)

    name = function.__name__.replace("_", " ")
    return _task(do, name=name, task_run_name=f"{name}, {{config.field}}")


def _forget_frames(error: BaseException | None) -> None:
    """Let go of the images and files that a failure has ended the work on: Prefect keeps the error, and so would keep them."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
