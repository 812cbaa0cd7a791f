"""The pages of a data root on the server of the service: to be read by those who know its password, and kept apart from its API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse

from flows.server_process import Pages

PAGE = "/pages/DECam_SWARP/index.html"


@pytest.fixture
def ask(tmp_path) -> Callable[..., httpx.Response]:
    """Ask a server with pages, which answers everything else with "Prefect"."""
    page = Path(tmp_path, "DECam_SWARP", "index.html")
    page.parent.mkdir()
    page.write_text("fields")

    def ask(path: str, method: str = "GET", wanted: str | None = None, **request) -> httpx.Response:
        async def asked() -> httpx.Response:
            server = httpx.ASGITransport(Pages(PlainTextResponse("Prefect"), tmp_path, wanted))
            async with httpx.AsyncClient(transport=server, base_url="http://127.0.0.1:4200") as client:
                return await client.request(method, path, **request)

        return asyncio.run(asked())

    return ask


def test_pages_are_beside_everything_else_and_only_read(ask):
    assert ask(PAGE).text == "fields"
    assert [ask(path).text for path in ("/", "/pages", "/api/flows")] == ["Prefect"] * 3
    missing = ask("/pages/DECam_SWARP/LMC_c99/index.html")
    assert (missing.status_code, missing.text) == (404, "no such page")
    assert [ask(PAGE, method).status_code for method in ("HEAD", "POST", "PUT", "DELETE")] == [200, 405, 405, 405]


def test_the_password_of_the_server_is_theirs_too(ask):
    def answer(**request) -> httpx.Response:
        return ask(PAGE, wanted="kred:secret", **request)

    refused = answer()
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, 'Basic realm="kred"')
    assert "fields" not in refused.text
    assert answer(auth=("kred", "wrong")).status_code == 401
    assert answer(headers={b"Authorization": b"Basic \xfc!"}).status_code == 401
    assert answer(auth=("kred", "secret")).text == "fields"


def test_the_browser_keeps_them_apart_from_the_server(ask):
    policy = ask(PAGE).headers["Content-Security-Policy"]
    assert "sandbox" in policy
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
