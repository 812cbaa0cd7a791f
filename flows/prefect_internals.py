"""Every use of what Prefect does not document: a new version of it may break these, and nothing else of kred.

Each has a test in tests/flows, most in test_prefect_internals.py, that fails when it breaks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, hydrated_context, refresh_global_settings_context, serialize_context
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.futures import PrefectWrappedFuture
from prefect.logging.handlers import APILogWorker, PrefectConsoleHandler, emit_api_log, set_api_log_sink

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = [
    "EndedFuture",
    "finish_events",
    "forget_results",
    "read_settings_again",
    "say_for_prefect",
    "send_events_to",
    "send_what_prefect_says",
    "send_what_waits",
    "server_application",
    "settings_here",
    "started_by_worker",
    "stay_silent_without_reader",
    "with_settings",
]

F = TypeVar("F")


def started_by_worker() -> bool:
    """Return whether a worker of Prefect has started this process for a run."""
    return "PREFECT__FLOW_RUN_ID" in os.environ


def read_settings_again() -> None:
    """Let all threads see environment variables that have changed: Prefect reads them when it is imported.

    Its `temporary_settings` reach one thread only. Threads that send events would start a second server.
    """
    refresh_global_settings_context()


def settings_here() -> dict[str, Any]:
    """Return the settings of this process, for `with_settings` in another one."""
    return serialize_context()["settings_context"]


def with_settings(settings: dict[str, Any]) -> AbstractContextManager[None]:
    """Use the settings of another process in a block: a worker of Dask asks the server of the run that it will work for."""
    return hydrated_context({"settings_context": settings})


def send_what_waits(seconds: float) -> None:
    """Send the events and messages that wait in this process: later there is no server that could take them."""
    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=seconds, at_exit=False)


def send_events_to(url: str) -> None:
    """Send all later events of this process to a server: a worker of Dask may outlive the server that it knew first."""
    EventsWorker.set_client_override(PrefectEventsClient, api_url=url)


def finish_events() -> None:
    """Wait until the events of this process are sent: they say how its tasks ended."""
    EventsWorker.instance().wait_until_empty()


def send_what_prefect_says(send: Callable[[dict[str, Any]], None]) -> None:
    """Give what Prefect itself says in this process to a function, and not to the server: it may have outlived that."""
    set_api_log_sink(send)


def say_for_prefect(values: dict[str, Any]) -> None:
    """Say what came from another process by `send_what_prefect_says`."""
    emit_api_log(values)


def stay_silent_without_reader(handler: logging.Handler) -> None:
    """Go on where nobody reads the terminal any more, as after ``2>&1 | head``; Prefect's console would end the run."""
    if isinstance(handler, PrefectConsoleHandler):
        vars(handler.console)["on_broken_pipe"] = partial(setattr, handler.console, "quiet", True)


def forget_results() -> None:
    """Forget which results belong to which tasks of this run.

    Prefect knows results by their addresses in memory. What comes to lie where one was would give the graph a line too many.
    """
    cast(FlowRunContext, FlowRunContext.get()).run_results.clear()


def server_application() -> FastAPI:
    """Return Prefect's server as a web application: ``prefect server start`` takes no socket that listens already."""
    from prefect.server.api.server import create_app  # here, because a run does not need the server's modules

    return create_app()


class EndedFuture(PrefectWrappedFuture[Any, F], Generic[F]):
    """A Prefect future that can be told how its task ended: workers may not live long enough to tell."""

    @property
    def ended(self) -> State | None:
        """How the task ended, if that is known."""
        return self._final_state

    @ended.setter
    def ended(self, state: State) -> None:
        self._final_state = state

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        """Return what the task returned, when it has ended."""
        self.wait(timeout)
        if self._final_state is None:
            raise TimeoutError(f"task run {self.task_run_id} has not ended within {timeout} s")
        return self._final_state.result(raise_on_failure=raise_on_failure)
