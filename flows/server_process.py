"""The process in which `flows.server` runs a Prefect server; nobody else needs to start it.

``python -P server_process.py DESCRIPTOR`` serves on the listening socket that it inherits, so that
no other program can take the port in between, and ends when its standard input does: that is when
the run that started it closes the pipe, or is gone in whatever way.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from types import ModuleType

    import uvicorn
    from sqlalchemy import TextClause
    from sqlalchemy.ext.asyncio import AsyncSession
    from starlette.types import ASGIApp

__all__ = ["serve"]

GRACE = 10  # s


def serve(descriptor: int) -> None:
    """Serve Prefect's API and UI on a listening socket until standard input ends; ends this process, too."""
    gc.disable()  # a fifth of the start would be spent in search of garbage among modules, which are none
    import uvicorn
    from prefect.server.api import background_workers
    from prefect.server.api.server import create_app  # here, because the run itself imports this module and not the server
    from prefect.server.utilities import worker_channel
    from sqlalchemy import text

    _wait_for_other_writers(worker_channel, text("UPDATE worker SET id = id WHERE false"))
    # It looks for work in the background, which nobody here waits for, four times a second: half of what an idle server costs.
    seldom = timedelta(seconds=2)
    background_workers.Worker = partial(background_workers.Worker, minimum_check_interval=seldom, scheduling_resolution=seldom)
    gc.freeze()
    gc.enable()
    app = _with_pages(create_app())
    config = uvicorn.Config(app, lifespan="on", log_level="error", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    threading.Thread(target=_stop_when_alone, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])
    # The server has closed its database; to take Python's modules apart would be a second of work for nothing.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if server.started else 1)


def _with_pages(app: ASGIApp) -> ASGIApp:
    """Prefect's pages, and with them those of the data root that the service names."""
    from kred_core.service.served import SERVED_ROOT

    if not (root := os.environ.get(SERVED_ROOT)):
        return app
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING

    from flows.pages import Pages

    return Pages(app, Path(root), PREFECT_SERVER_API_AUTH_STRING.value())


def _wait_for_other_writers(worker_channel: ModuleType, nothing: TextClause) -> None:
    """Let the heartbeat of a worker ask for the right to write before it reads, with a statement that writes nothing.

    As it is, it reads first. If somebody else writes in between, SQLite cannot let it write any more: "database is locked" at
    once, whatever the time-out, an error in the server's log, and the worker loses its connection for a while.
    """
    persist = worker_channel._persist_worker_channel_heartbeat

    async def persist_at_once(session: AsyncSession, **heartbeat: Any) -> datetime:
        await session.execute(nothing)
        return await persist(session=session, **heartbeat)

    worker_channel._persist_worker_channel_heartbeat = persist_at_once


def _stop_when_alone(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True
    time.sleep(GRACE)
    os._exit(1)  # whatever it is still busy with, there is nobody left to serve


if __name__ == "__main__":
    serve(int(sys.argv[1]))
