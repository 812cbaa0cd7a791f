"""A browser without a window, for tests that look at pages as people see them.

The Chromium of the system, because the one that Playwright would download is not to be had everywhere. Pages are slow to
draw on a busy machine, so waiting is long here and nowhere else. With SCREENSHOTS=DIR pictures of the pages are kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["PATIENCE", "chromium", "picture"]

PATIENCE = 30.0  # s; until something is on a page
ARGUMENTS = (
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(width: int = 1400, height: int = 1000) -> Iterator:
    """A browser with one empty page of the given size in pixels (a Playwright ``Page``); skips the test where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed (Debian and Ubuntu: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(1000 * PATIENCE)
            yield page
        finally:
            browser.close()


def picture(page, name: str, directory: Path, whole: bool = False) -> Path:
    """Keep a picture of what the page shows, or of the whole page, as PNG: in SCREENSHOTS, otherwise in a directory."""
    path = Path(os.environ.get("SCREENSHOTS", directory)) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path, full_page=whole)
    return path
