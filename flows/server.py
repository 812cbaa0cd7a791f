"""The Prefect server of a command-line run: the one that is configured, or one of its own.

Without a server Prefect starts one in each process, lets them share one database file, and loses
most of the records when the run ends. So a run without a configured server starts exactly one,
lets all its processes use it, waits until everything is recorded, and stops it. The history stays
in the user's own Prefect database, where ``prefect server start`` shows it at any time.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from typing import BinaryIO

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL

from kred_core.errors import ToolError

from . import messages, server_process

__all__ = ["HOST", "address", "listen", "server", "started"]

log = logging.getLogger("kred_core.server")

HOST = "127.0.0.1"
STARTUP_TIMEOUT = 300  # s; 10-20 are normal, a new database or a busy machine takes several times that
RECORDING_TIMEOUT = 120  # s
STOP_TIMEOUT = 15  # s

_SERVICES = "PREFECT_SERVER_SERVICES_"
_SETTINGS = {
    # Prefect would report to its makers, and log an error at each start where there is no network.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # By default each change of state of each task is a transaction of its own: three times the work, and the end of a
    # run has to wait for it.
    f"{_SERVICES}TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    f"{_SERVICES}TASK_RUN_RECORDER_BATCH_SIZE": "500",
    f"{_SERVICES}TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    # Schedules, workers and automations that the user's database may hold are not the business of this server.
    f"{_SERVICES}CANCELLATION_CLEANUP_ENABLED": "false",
    f"{_SERVICES}CLEANUP_RECONCILER_ENABLED": "false",
    f"{_SERVICES}EVENT_PERSISTER_ENABLED": "false",
    f"{_SERVICES}FOREMAN_ENABLED": "false",
    f"{_SERVICES}LATE_RUNS_ENABLED": "false",
    f"{_SERVICES}PAUSE_EXPIRATIONS_ENABLED": "false",
    f"{_SERVICES}REPOSSESSOR_ENABLED": "false",
    f"{_SERVICES}SCHEDULER_ENABLED": "false",
    f"{_SERVICES}TRIGGERS_ENABLED": "false",
}


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
    if configured := PREFECT_API_URL.value():
        _require_answer(configured)
        yield configured
        return
    listening = listen(0)
    port = listening.getsockname()[1]
    with tempfile.TemporaryFile() as output, started(listening, os.environ | _SETTINGS, output):
        url = f"http://{HOST}:{port}/api"
        with _used_by_all(url):
            log.info("Prefect shows the run at http://%s:%d", HOST, port)
            yield url
            _wait_until_recorded()


def _require_answer(url: str) -> None:
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise ToolError(
            f"the Prefect server {url} does not answer: {problem}. Start it (prefect server start) or correct "
            "PREFECT_API_URL; where it is not set (prefect config view), kred starts a server for each run."
        )


def listen(port: int) -> socket.socket:
    """A socket that listens on a port of this machine; only programs on this machine can connect to it.

    Parameters
    ----------
    port : int
        0: any that is free.

    Raises
    ------
    ToolError
        The port is taken.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as e:
        raise ToolError(
            f"port {port} of this machine cannot be used: {os.strerror(e.errno)}. Is a Prefect server running already, or "
            "kred as a service? Stop that, or choose another port"
        ) from e


@contextmanager
def started(listening: socket.socket, environment: Mapping[str, str], output: BinaryIO) -> Iterator[subprocess.Popen]:
    """A server in a process of its own, which ends with this block, or with this process should that be killed.

    Parameters
    ----------
    listening : socket
        Where the server answers (`listen`); closed in this process.
    environment : mapping
        Environment of the server.
    output : binary file
        For what the server prints. Must be open for reading, too.

    Yields
    ------
    `subprocess.Popen`
        The server's process; the server answers.

    Raises
    ------
    ToolError
        The server does not start.
    """
    with listening:
        port = listening.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-P", server_process.__file__, str(listening.fileno())],
            env=environment | {"PREFECT_UI_API_URL": f"http://{HOST}:{port}/api"},
            pass_fds=[listening.fileno()],
            stdin=subprocess.PIPE,  # nothing is written to it; its end tells the server to stop
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the terminal is for the run; the run then stops its server
        )
    try:
        began = time.monotonic()
        log.info("starting Prefect")
        if not _answers(port):
            raise ToolError(
                f"no Prefect server after {time.monotonic() - began:.0f} s: {_reason(output)}. "
                "To see more, start one by hand: prefect server start"
            )
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reason(output: BinaryIO) -> str:
    """What went wrong in the server, from what it printed: the last exception, otherwise the last line."""
    output.seek(0)
    said = output.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return next((line for line in reversed(said) if re.match(r"[\w.]+(Error|Exception)\b", line)), said[-1]).strip()


def _answers(port: int) -> bool:
    """Wait until the server answers; False where it never will."""
    connection = HTTPConnection(HOST, port, timeout=STARTUP_TIMEOUT)  # the socket listens already: one request is enough
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def address(url: str) -> dict[str, str]:
    """Environment variables that make Prefect use a server on this machine, and no proxy on the way to it."""
    no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST]))
    return {"PREFECT_API_URL": url, "NO_PROXY": no_proxy, "no_proxy": no_proxy}


@contextmanager
def _used_by_all(url: str) -> Iterator[None]:
    """Make all threads and child processes of this run use a server, and no proxy on the way to it."""
    ours = address(url) | {
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # the last task, of `_wait_until_recorded`, belongs to no flow
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    # Prefect read its settings when it was imported. Its `temporary_settings` reach only this thread and those of a thread
    # runner; the threads of a process pool that forward events would start a second server.
    refresh_global_settings_context()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        refresh_global_settings_context()


@task(name="end of run", cache_policy=NO_CACHE)
def _end_of_run() -> None:
    pass


def _wait_until_recorded() -> None:
    """Wait until the server has recorded all task runs so far: it does so in their order, so one more tells when."""
    mark = _end_of_run(return_state=True).state_details.task_run_id
    deadline = time.monotonic() + RECORDING_TIMEOUT
    try:
        with get_client(sync_client=True) as client:
            while not _recorded(client, mark):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not all within {RECORDING_TIMEOUT} s")
                time.sleep(0.1)
            client.delete_task_run(mark)
    except (httpx.HTTPError, TimeoutError) as e:
        log.warning("Prefect's record of this run may lack some tasks (%s); the products are not affected", e)
    for worker in (EventsWorker, APILogWorker):
        worker.drain_all(timeout=STOP_TIMEOUT, at_exit=False)


def _recorded(client, task_run_id) -> bool:
    try:
        state = client.read_task_run(task_run_id).state
    except ObjectNotFound:
        return False
    return state is not None and state.is_final()
