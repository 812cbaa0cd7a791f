"""The process in which `flows.server` runs a Prefect server; nobody else needs to start it.

``python -P server_process.py DESCRIPTOR`` serves on the listening socket that it inherits, so that
no other program can take the port in between, and ends when its standard input does: that is when
the run that started it closes the pipe, or is gone in whatever way.
"""

import os
import socket
import sys
import threading
import time

import uvicorn

__all__ = ["serve"]

GRACE = 10  # s


def serve(descriptor: int) -> None:
    """Serve Prefect's API and UI on a listening socket until standard input ends."""
    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, lifespan="on", log_level="error", timeout_graceful_shutdown=3
    )
    server = uvicorn.Server(config)
    threading.Thread(target=_stop_when_alone, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])


def _stop_when_alone(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True
    time.sleep(GRACE)
    os._exit(1)  # whatever it is still busy with, there is nobody left to serve


if __name__ == "__main__":
    serve(int(sys.argv[1]))
