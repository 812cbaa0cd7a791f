"""The pages of a data root beside those of Prefect, on the same server: only to be read, behind the same password.

Whoever can write the data root can write these pages, and Prefect's server starts programs for whoever can speak to it. So
browsers are told to keep the pages apart from that server: no script in them can ask it, or anybody else, for anything.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from pathlib import Path

from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from kred_core.service.served import PLACE, served_file

__all__ = ["Pages"]

ALONE = {
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads; default-src 'none'; img-src 'self' data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # the next run makes them again
}


class Pages:
    """A web application with the pages of a data root before another one, which answers everything else.

    Parameters
    ----------
    app : callable
        The other one (ASGI).
    root : `~pathlib.Path`
        Data root.
    password : str or None
        What a browser must know, as USER:PASSWORD.
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
