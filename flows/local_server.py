"""A Prefect server in a process of its own; nothing here needs Prefect, so that a command can start it before importing that."""

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
from typing import IO, BinaryIO, cast

from kred_core.errors import ToolError

__all__ = ["DATABASE", "HOST", "LocalServer", "begin", "own_server", "stop"]

log = logging.getLogger("kred_core.server")

HOST = "127.0.0.1"
SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "server_process.py")
STARTUP_TIMEOUT = 300  # s; 10-20 are normal, a new database or a busy machine takes several times that
STOP_TIMEOUT = 15  # s

DATABASE = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")

_SERVICES = "PREFECT_SERVER_SERVICES_"
UNWANTED = (
    *("CANCELLATION_CLEANUP", "CLEANUP_RECONCILER", "EVENT_PERSISTER", "FOREMAN", "LATE_RUNS"),
    *("PAUSE_EXPIRATIONS", "REPOSSESSOR", "SCHEDULER", "TRIGGERS"),
)
SETTINGS = {
    # Prefect would report to its makers, and log an error at each start where there is no network.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_API_BASE_PATH": "/api",
    # By default each change of state of each task is a transaction of its own: three times the work, and the end of a
    # run has to wait for it.
    f"{_SERVICES}TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    f"{_SERVICES}TASK_RUN_RECORDER_BATCH_SIZE": "500",
    f"{_SERVICES}TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",  # s; Prefect drops the part after the point, and 0 keeps a core busy
    # Schedules, workers and automations that the user's database may hold are not the business of this server.
    **{f"{_SERVICES}{name}_ENABLED": "false" for name in UNWANTED},
}


class LocalServer:
    """A Prefect server in a process of its own, on its way from here on; it ends with this process should that be killed.

    In a ``with`` block it answers; that block raises `ToolError` where it does not start.

    Parameters
    ----------
    port : int
        0: any that is free.
    environment : mapping
        Environment of the server.
    output : binary file
        For what the server prints. Must be open for reading, too.

    Raises
    ------
    ToolError
        The port is taken.
    """

    def __init__(self, port: int, environment: Mapping[str, str], output: BinaryIO):
        self._environment, self._output = environment, output
        try:
            listening = socket.create_server((HOST, port))  # only programs on this machine can connect to it
        except OSError as e:
            raise ToolError(
                f"port {port} of this machine cannot be used: {os.strerror(e.errno or 0)}. Is a Prefect server running already, or "
                "kred as a service? Stop that, or choose another port"
            ) from e
        with listening:
            self.port = listening.getsockname()[1]
            # No page of another place may speak to the server; Prefect would let all of them.
            own_pages = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{self.port},http://localhost:{self.port}"}
            self.process = subprocess.Popen(
                [sys.executable, "-P", SERVER, str(listening.fileno())],
                env={**own_pages, **environment, "PREFECT_UI_API_URL": f"http://{HOST}:{self.port}/api"},
                pass_fds=[listening.fileno()],
                stdin=subprocess.PIPE,  # nothing is written to it; its end tells the server to stop
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is for the run; the run then stops its server
            )

    def __enter__(self) -> LocalServer:
        began = time.monotonic()
        log.info("starting Prefect")
        if not _answers(self.port):
            self.stop()
            reason = _explain(_reason(self._output), self._environment)
            raise ToolError(f"no Prefect server after {time.monotonic() - began:.0f} s: {reason}")
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server."""
        stop(self.process, STOP_TIMEOUT)


def stop(process: subprocess.Popen, seconds: float) -> None:
    """Stop a process that ends when its standard input does; after so many seconds it is killed."""
    cast(IO[bytes], process.stdin).close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_begun: list[LocalServer] = []


def _own() -> LocalServer:
    return LocalServer(0, os.environ | SETTINGS | {"NO_PROXY": "*", "no_proxy": "*"}, tempfile.TemporaryFile())


def begin() -> None:
    """Launch the server that `own_server` will want, without waiting for it, unless the environment names another one.

    It starts while this process imports Prefect: a run with nothing to do takes 9 s instead of 18 s on two busy cores.
    """
    if not os.environ.get("PREFECT_API_URL"):
        _begun.append(_own())


@contextmanager
def own_server(wanted: bool) -> Iterator[int | None]:
    """The port of a server for this block: the one that was begun, or a new one.

    Parameters
    ----------
    wanted : bool
        Otherwise one that was begun is stopped; None instead of its port.

    Raises
    ------
    ToolError
        The server does not start.
    """
    if wanted:
        with _begun.pop() if _begun else _own() as server:
            yield server.port
    else:
        if _begun:
            _begun.pop().stop()
        yield None


def _reason(output: BinaryIO) -> str:
    """What went wrong in the server, from what it printed: the last exception, otherwise the last line."""
    output.seek(0)
    said = output.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return next((line for line in reversed(said) if re.match(r"[\w.]+(Error|Exception)\b", line)), said[-1]).strip()


def _explain(reason: str, environment: Mapping[str, str]) -> str:
    """What a person can do about a server that does not start: most often it is its database."""
    if not re.match(r"sqlalchemy|sqlite3|alembic", reason):
        return f"{reason}. To see more, start one by hand: prefect server start"
    who = "was made by another version of Prefect" if "locate revision" in reason else "cannot be used"
    name = next((name for name in DATABASE if environment.get(name)), "")
    home = os.path.expanduser(environment.get("PREFECT_HOME") or "~/.prefect")
    file = environment[name].partition(":///")[2] if name else os.path.join(home, "prefect.db")
    return (
        f"its database {f'{file} ' if file else ''}{who} ({reason}); set PREFECT_HOME to another directory that can be written to"
        f"{f', or correct {name}' if name else ''}"
    )


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
