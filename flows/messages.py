"""What a person reads in the terminal, and what the Prefect UI keeps.

kred logs below the logger ``kred_core``. In the UI these records stand beside Prefect's own; in the terminal they stand alone:
every change of state of every task would bury them. Tasks on the workers of a Dask cluster send theirs to the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import FailedRun
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler

from .prefect_internals import say_for_prefect, send_what_prefect_says, stay_silent_without_reader

__all__ = ["kred_only", "say", "send_to_run", "to_ui"]

KRED = "kred_core"
RUNS = ("prefect.flow_runs", "prefect.task_runs")


class _RunLogHandler(APILogHandler):
    """Sends records to the log of the flow or task run in which they were made; there is no other place for them."""

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "flow_run_id") or FlowRunContext.get() or TaskRunContext.get():
            super().emit(record)


def to_ui() -> None:
    """Show kred's messages in the UI, with the run that they belong to. May be called again."""
    for name in RUNS:
        logging.getLogger(name).addFilter(_is_news)
    logger = logging.getLogger(KRED)
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _RunLogHandler) for handler in logger.handlers):
        logger.addHandler(_RunLogHandler())


def _is_news(record: logging.LogRecord) -> bool:
    """Of a run that says itself that it failed Prefect tells once more, as of an unexpected error, with a traceback."""
    return not record.exc_info or not isinstance(record.exc_info[1], FailedRun | None)


class _Sender(logging.Handler):
    """Sends records that a task makes to the process of its run, as plain values."""

    def __init__(self, send: Callable[[dict[str, Any]], None]):
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        task = TaskRunContext.get()
        if task is None:
            return
        values = {name: getattr(record, name) for name in ("name", "levelno", "levelname", "created", "msecs")}
        values["msg"] = record.getMessage()
        values["exc_text"] = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        self._send(values | {"flow_run_id": str(task.task_run.flow_run_id), "task_run_id": str(task.task_run.id)})


def send_to_run(send: Callable[[dict[str, Any]], None]) -> None:
    """In a process that only runs tasks: what these say, and Prefect about them, goes to the run. May be called again.

    ``send`` brings a dictionary of plain values to `say` in the process of the run.
    """
    logger = logging.getLogger(KRED)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # the run shows it in its terminal
    logger.handlers = [_Sender(send)]
    send_what_prefect_says(send)


def say(values: dict[str, Any]) -> None:
    """Say what a task in another process has sent (`send_to_run`) as if it had been said here."""
    if "levelno" in values:
        logging.getLogger(values["name"]).handle(logging.makeLogRecord(values))
    else:
        say_for_prefect(values)


def kred_only() -> None:
    """Show kred's messages in the terminal, and of Prefect only what is wrong with Prefect itself. May be called again."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler) and _for_people not in handler.filters:
            handler.addFilter(_for_people)
            handler.setFormatter(_OneLine("%(asctime)s %(message)s", "%H:%M:%S"))
            stay_silent_without_reader(handler)


class _OneLine(logging.Formatter):
    """Messages without tracebacks: those are in the field's log and in the UI."""

    def format(self, record: logging.LogRecord) -> str:
        bare = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None, "stack_info": None})
        return super().format(bare)


def _for_people(record: logging.LogRecord) -> bool:
    if record.name.startswith(RUNS):
        return False  # kred says itself which unit failed, and why
    return record.name.startswith(KRED) or record.levelno >= logging.WARNING
