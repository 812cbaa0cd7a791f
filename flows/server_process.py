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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn

__all__ = ["serve"]

GRACE = 10  # s


def serve(descriptor: int) -> None:
    """Serve Prefect's API and UI on a listening socket until standard input ends; ends this process, too."""
    gc.disable()  # a fifth of the start would be spent in search of garbage among modules, which are none
    import prefect.server.api.server  # noqa: F401 - here, because the run itself imports this module and not the server
    import uvicorn

    gc.freeze()
    gc.enable()
    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, lifespan="on", log_level="error", timeout_graceful_shutdown=3
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_stop_when_alone, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])
    # The server has closed its database; to take Python's modules apart would be a second of work for nothing.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if server.started else 1)


def _stop_when_alone(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True
    time.sleep(GRACE)
    os._exit(1)  # whatever it is still busy with, there is nobody left to serve


if __name__ == "__main__":
    serve(int(sys.argv[1]))
