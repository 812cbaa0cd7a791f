"""Prefect tasks for the steps of the stages: named, retried and remembered as all of them are, and stopped at once.

What is remembered of a unit is kred's own (`kred_core.stages.work`): Prefect's cache policies know nothing of files, so that
a product that was deleted would still be "Cached". A task whose unit has nothing to do ends in that state too, at once.

A run that is cancelled, or stopped by Ctrl-C, unwinds in its main thread; Prefect then waits for the tasks in the other
threads, and a mosaic can take many minutes. So an exception is raised in each of them, as Ctrl-C raises one in the main
thread, and what they have open (unfinished files, SWarp) is cleaned up on the way out.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed, State

from kred_core.config import FieldConfig
from kred_core.errors import KredError, is_transient
from kred_core.stages.work import REFUSED, Manifest, Step

__all__ = ["Interrupted", "interrupt_run", "interrupted", "interruptible", "once_task", "step_task"]

log = logging.getLogger("kred_core.tasks")  # below kred_core, whose records Prefect shows in the UI

RETRY_DELAYS = [2.0, 20.0]  # s: a hiccup, then a file server that restarts
PATIENCE = 8.0  # s; a kernel cannot be interrupted, and some take seconds
LAST_RESORT = 4.0  # s more; batch systems and Prefect kill after 10 to 30
TERMINATED = 128 + signal.SIGTERM


def _retry(task: Task, run: TaskRun, state: State) -> bool:
    """Whether a task failed for a reason that may be gone at the next try."""
    error = state.result(raise_on_failure=False)
    passes = isinstance(error, BaseException) and is_transient(error, soon=True)
    if passes:
        log.warning("%s: %s; trying again", run.name, error.__cause__ or error)  # Prefect asks only while tries are left
    return passes


def _task(function: Callable[..., Any], **options: Any) -> Task:
    as_task = task(
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_condition_fn=_retry,
        cache_policy=NO_CACHE,
        persist_result=False,
        **options,
    )
    return as_task(function)


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


class Interrupted(BaseException):
    """The run was stopped. No `Exception`, so that nobody takes it for a failure of the work."""

    def __str__(self) -> str:
        return "the run was stopped"


_working: dict[int, str | None] = {}  # threads, and the run for which each works
_stopping = threading.Event()
_stopped: set[str] = set()  # runs that shall do nothing more in this process
_lock = threading.Lock()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the block be stopped by `interrupted`, in whatever thread of the run, which raises `Interrupted`."""
    thread = threading.get_ident()
    run = flow_run.id
    with _lock:
        if _stopping.is_set() or run in _stopped:
            raise Interrupted
        _working[thread] = run
    try:
        yield
    except Exception as e:
        if _stopping.is_set() or run in _stopped:
            raise Interrupted from e  # some libraries make an error of their own of it
        raise
    finally:
        with _lock:
            del _working[thread]


@contextmanager
def interrupted(end_process: bool) -> Iterator[None]:
    """Stop all `interruptible` blocks of this process, and let none begin in this block.

    Where this process is to end and something (a disk that does not answer) keeps it from that, it is ended.
    """
    if end_process:
        last_resort = threading.Timer(PATIENCE + LAST_RESORT, os._exit, [TERMINATED])
        last_resort.daemon = True
        last_resort.start()
    with _lock:
        _stopping.set()
        for thread in _working:
            _interrupt(thread)
    deadline = time.monotonic() + PATIENCE
    while _working and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        yield
    finally:
        _stopping.clear()


def _interrupt(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Interrupted))


def interrupt_run(run: str) -> None:
    """Stop the `interruptible` blocks of one run in this process, and let none begin: in workers that runs share."""
    with _lock:
        _stopped.add(run)
        for thread, works_for in _working.items():
            if works_for == run:
                _interrupt(thread)
