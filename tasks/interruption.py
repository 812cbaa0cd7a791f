"""Stop what is being worked on, at once and without leaving anything half done.

A run that is cancelled, or stopped by Ctrl-C, unwinds in its main thread; Prefect then waits for the tasks in the other
threads, and a mosaic can take many minutes. So these are interrupted: an exception is raised in each of them, as Ctrl-C
raises one in the main thread, and what they have open (unfinished files, SWarp) is cleaned up on its way out.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from uuid import UUID

from prefect.context import TaskRunContext

__all__ = ["Interrupted", "interrupt_run", "interrupted", "interruptible", "interruptible_process"]

PATIENCE = 8.0  # s; a kernel cannot be interrupted, and some take seconds
LAST_RESORT = 4.0  # s more; batch systems and Prefect kill after 10 to 30
CLEANUP = 6.0  # s for a worker process
TERMINATED = 128 + signal.SIGTERM


class Interrupted(BaseException):
    """The run was stopped. No `Exception`, so that nobody takes it for a failure of the work."""

    def __str__(self) -> str:
        return "the run was stopped"


_working: dict[int, UUID | None] = {}  # threads, and the run for which each works
_stopping = threading.Event()
_stopped: set[UUID] = set()  # runs that shall do nothing more in this process
_ending = threading.Event()  # this is a worker process, and it was told to terminate
_lock = threading.Lock()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the block be stopped by `interrupted`, in whatever thread or worker process of the run.

    Raises
    ------
    Interrupted
    """
    thread = threading.get_ident()
    task = TaskRunContext.get()
    run = task.task_run.flow_run_id if task else None
    with _lock:
        if _stopping.is_set() or run in _stopped:
            raise Interrupted
        _working[thread] = run
    try:
        yield
    except Interrupted:
        if _ending.is_set():
            os._exit(TERMINATED)
        raise
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

    Parameters
    ----------
    end_process : bool
        This process is to end: if something (a disk that does not answer) keeps it from ending by itself, it is ended.
    """
    if end_process:
        _end_after(PATIENCE + LAST_RESORT)
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


def interrupt_run(run: UUID) -> None:
    """Stop the `interruptible` blocks of one run in this process, and let none begin: in workers that runs share."""
    with _lock:
        _stopped.add(run)
        for thread, works_for in _working.items():
            if works_for == run:
                _interrupt(thread)


def _end_after(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, [TERMINATED])
    timer.daemon = True
    timer.start()


def interruptible_process() -> None:
    """Let a worker process stop what it does, without leaving anything half done, when it is told to terminate."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; a second one would interrupt the cleaning up
    if not _working:
        os._exit(TERMINATED)
    _ending.set()
    _end_after(CLEANUP)
    raise Interrupted
