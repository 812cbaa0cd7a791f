"""What a person reads in the terminal, and what the Prefect UI keeps.

kred says what it does through Python's logging, below the logger ``kred_core``. In the UI these
records stand beside Prefect's own; in the terminal they stand alone: every change of state of
every task would bury them.
"""

from __future__ import annotations

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler

__all__ = ["kred_only", "to_ui"]

KRED = "kred_core"
RUNS = ("prefect.flow_runs", "prefect.task_runs")


class _RunLogHandler(APILogHandler):
    """Sends records to the log of the flow or task run in which they were made; there is no other place for them."""

    def emit(self, record: logging.LogRecord) -> None:
        if FlowRunContext.get() or TaskRunContext.get():
            super().emit(record)


def to_ui() -> None:
    """Show kred's messages in the UI, with the run that they belong to. May be called again."""
    logger = logging.getLogger(KRED)
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _RunLogHandler) for handler in logger.handlers):
        logger.addHandler(_RunLogHandler())


def kred_only() -> None:
    """Show kred's messages in the terminal, and of Prefect only what is wrong with Prefect itself. May be called again."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler) and _for_people not in handler.filters:
            handler.addFilter(_for_people)
            handler.setFormatter(_OneLine("%(asctime)s %(message)s", "%H:%M:%S"))


class _OneLine(logging.Formatter):
    """Messages without tracebacks: those are in the field's log and in the UI."""

    def format(self, record: logging.LogRecord) -> str:
        bare = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None, "stack_info": None})
        return super().format(bare)


def _for_people(record: logging.LogRecord) -> bool:
    if record.name.startswith(RUNS):
        return False  # kred says itself which unit failed, and why
    return record.name.startswith(KRED) or record.levelno >= logging.WARNING
