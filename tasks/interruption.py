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

from prefect.runtime import flow_run

__all__ = ["Interrupted", "interrupt_run", "interrupted", "interruptible"]

PATIENCE = 8.0  # s; a kernel cannot be interrupted, and some take seconds
LAST_RESORT = 4.0  # s more; batch systems and Prefect kill after 10 to 30
TERMINATED = 128 + signal.SIGTERM


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
    """Let the block be stopped by `interrupted`, in whatever thread of the run.

    Raises
    ------
    Interrupted
    """
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

    Parameters
    ----------
    end_process : bool
        This process is to end: if something (a disk that does not answer) keeps it from ending by itself, it is ended.
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
