"""The Prefect server of a command-line run: the one that is configured, or one of its own.

Prefect alone would start one in each process, and lose most of the records when the run ends. The history stays in the user's
own Prefect database, where ``prefect server start`` shows it at any time.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import cast
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_AUTH_STRING, temporary_settings
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY as HEARTBEAT

from kred_core.errors import ToolError

from . import messages
from .local_server import HOST, STOP_TIMEOUT, own_server
from .prefect_internals import read_settings_again, send_what_waits

__all__ = ["address", "client_of", "require_admission", "server", "without_proxy"]

log = logging.getLogger("kred_core.server")

RECORDING_TIMEOUT = 120  # s
LOCAL = (HOST, "localhost", "::1", "0.0.0.0")  # noqa: S104 - where a server answers that is on this machine


@contextmanager
def server() -> Iterator[str]:
    """Have a Prefect server for the flows in this block, and kred's messages in the terminal and in the UI.

    Yields
    ------
    str
        URL of the API: PREFECT_API_URL (environment or Prefect profile) where it is set, otherwise of a server
        that is started for this block and ends with it, or with this process should that be killed.

    Raises
    ------
    ToolError
        The configured server does not answer, or none could be started.
    """
    messages.to_ui()
    messages.kred_only()
    configured = PREFECT_API_URL.value()
    with own_server(wanted=not configured) as port:
        if configured:
            with _environment(without_proxy(configured)):
                with client_of(configured) as client:
                    if problem := client.api_healthcheck():
                        raise ToolError(
                            f"the Prefect server {configured} does not answer: {problem}. Start it (prefect server start) or "
                            "correct PREFECT_API_URL; where it is not set (prefect config view), kred starts a server for each run."
                        )
                    require_admission(client, configured)
                yield configured
            return
        url = f"http://{HOST}:{port}/api"
        # Nobody listens to heartbeats there, and the end of a run would wait for the next second of their clock.
        with _used_by_all(url), temporary_settings({HEARTBEAT: None}):
            log.info("Prefect shows the run at http://%s:%d", HOST, port)
            try:
                yield url
                _wait_until_recorded()
            finally:  # also of a run that was stopped
                send_what_waits(STOP_TIMEOUT)


def client_of(url: str) -> SyncPrefectClient:
    """A client of the configured server, which has this address.

    Raises
    ------
    ToolError
        A proxy that the environment names cannot be used.
    """
    try:
        return get_client(sync_client=True)
    except (ImportError, ValueError, httpx.InvalidURL) as e:
        raise ToolError(
            f"the way to the Prefect server {url} leads through a proxy that cannot be used: {str(e).rstrip('.')}. Look at "
            "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in the environment"
        ) from e


def require_admission(client: SyncPrefectClient, url: str) -> None:
    """Find out whether a server that answers lets us in.

    Raises
    ------
    ToolError
        It wants a password, or another one.
    """
    try:
        client.api_version()
    except httpx.HTTPStatusError as e:
        if e.response.status_code != httpx.codes.UNAUTHORIZED:
            raise
        raise ToolError(
            f"the Prefect server {url} wants a password: set PREFECT_API_AUTH_STRING to its PREFECT_SERVER_API_AUTH_STRING"
        ) from e


def without_proxy(url: str) -> dict[str, str]:
    """Environment variables that keep all proxies out of the way to a server on this machine; none for one on another.

    Exceptions for this machine alone would not do: httpx refuses a proxy of a kind that it does not know, and an exception that
    it cannot read, whatever the address.
    """
    return {"NO_PROXY": "*", "no_proxy": "*"} if urlsplit(url).hostname in LOCAL else {}


def address(url: str) -> dict[str, str]:
    """Environment variables that make Prefect use a server on this machine, and no proxy on the way to it."""
    return {"PREFECT_API_URL": url, **without_proxy(url)}


@contextmanager
def _environment(ours: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while, of this process and those that it starts."""
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _used_by_all(url: str) -> Iterator[None]:
    """Make all threads and child processes of this run use a server, and no proxy on the way to it."""
    ours = address(url) | {
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # the last task, of `_wait_until_recorded`, belongs to no flow
    }
    if password := PREFECT_SERVER_API_AUTH_STRING.value():  # the server was started with that
        ours["PREFECT_API_AUTH_STRING"] = password
    try:
        with _environment(ours):
            read_settings_again()
            yield
    finally:
        read_settings_again()


@task(name="end of run", cache_policy=NO_CACHE)
def _end_of_run() -> None:
    pass


def _wait_until_recorded() -> None:
    """Wait until the server has recorded all task runs so far: it does so in their order, so one more tells when."""
    mark = cast(UUID, _end_of_run(return_state=True).state_details.task_run_id)
    deadline = time.monotonic() + RECORDING_TIMEOUT
    state = None
    try:
        with get_client(sync_client=True) as client:
            while state is None or not state.is_final():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not all within {RECORDING_TIMEOUT} s")
                time.sleep(0.1)
                with suppress(ObjectNotFound):
                    state = client.read_task_run(mark).state
            client.delete_task_run(mark)
    except (httpx.HTTPError, TimeoutError) as e:
        log.warning("Prefect's record of this run may lack some tasks (%s); the products are not affected", e)
