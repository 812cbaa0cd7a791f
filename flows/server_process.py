"""The process in which `flows.local_server` runs a Prefect server; nobody else needs to start it.

``python -P server_process.py DESCRIPTOR`` serves on the listening socket that it inherits, so that no other program can take the
port in between, and ends when its standard input does: when the run that started it closes the pipe, or is gone. The service
has the pages of its data root on the same server: only to be read, behind the same password.

Whoever can write the data root can write these pages, and Prefect's server starts programs for whoever can speak to it. So
browsers are told to keep the pages apart from that server: no script in them can ask it, or anybody else, for anything.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import socket
import sys
import threading
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before all else that is called flows

import uvicorn
from prefect.settings import PREFECT_SERVER_API_AUTH_STRING
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.prefect_internals import server_application
from kred_core.service import PLACE, SERVED_ROOT, served_file

__all__ = ["Pages", "serve", "this_machine_only"]

ALONE = {
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads; default-src 'none'; img-src 'self' data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # the next run makes them again
}


HERE = "'self' http://127.0.0.1:* http://localhost:* ws://127.0.0.1:* ws://localhost:*"
THIS_MACHINE_ONLY = f"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src {HERE}"


def this_machine_only(app: ASGIApp) -> ASGIApp:
    """Return a web application whose pages ask no other machine for anything.

    Prefect's ask amplitude.com when they are opened, also where its analytics are switched off, and others for logos.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", THIS_MACHINE_ONLY.encode())]
            await send(message)

        await app(scope, receive, with_policy)

    return answer


class Pages:
    """A web application with the pages of a data root before another one (ASGI), which answers everything else.

    The password is what a browser must know, as USER:PASSWORD.
    """

    def __init__(self, app: ASGIApp, root: Path, password: str | None) -> None:
        self._app, self._root, self._password = app, root, password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        ours = scope["type"] == "http" and scope["path"].startswith(PLACE)
        await (self._answer(scope) if ours else self._app)(scope, receive, send)

    def _answer(self, scope: Scope) -> Response:
        if not self._is_admitted(dict(scope["headers"]).get(b"authorization", b"")):
            return PlainTextResponse("a password is needed", 401, {"WWW-Authenticate": 'Basic realm="kred"'})
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("only to be read", 405, {"Allow": "GET, HEAD"})
        found = served_file(self._root, scope["path"].removeprefix(PLACE))
        if found is None:
            return PlainTextResponse("no such page", 404, ALONE)
        return FileResponse(found[0], headers=ALONE, media_type=found[1])

    def _is_admitted(self, authorization: bytes) -> bool:
        if not self._password:
            return True
        try:
            given = base64.b64decode(authorization.removeprefix(b"Basic "), validate=True)
        except binascii.Error:
            return False
        return hmac.compare_digest(given, self._password.encode())


def serve(descriptor: int) -> int:
    """Serve Prefect's API and UI on a listening socket until standard input ends; returns the exit status."""
    app = this_machine_only(server_application())
    if root := os.environ.get(SERVED_ROOT):
        app = Pages(app, Path(root), PREFECT_SERVER_API_AUTH_STRING.value())
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_level="error", timeout_graceful_shutdown=3))
    threading.Thread(target=_stop_when_alone, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=descriptor)])
    return 0 if server.started else 1


def _stop_when_alone(server: uvicorn.Server) -> None:
    os.read(sys.stdin.fileno(), 1)
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1])))
