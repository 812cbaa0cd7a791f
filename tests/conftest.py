"""A Prefect of its own for each test run: no test sees, or leaves anything in, the Prefect of the person who runs it; real data.

Tests that need a real server or a browser run a second time when they fail, and so do those marked ``flaky`` (signals, other
processes). Those that then pass are listed at the end, with the reason why they had failed. No other test is run twice.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Begun first, so that no file ends alone on one core.
LONGEST = ("test_kills.py", "test_service.py", "test_browser.py", "test_field.py", "test_dask.py", "test_cli.py")
REAL = {"prefect_server", "service", "browser"}  # fixtures


def pytest_configure(config: pytest.Config) -> None:
    # Before any test module is imported: Prefect reads its settings once, when it is imported.
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="kred-prefect-")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["PREFECT_HOME"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        if not REAL.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that failed at first and passed when they were run again, each with the reason of the failure."""
    stats = terminalreporter.stats
    failed = {report.nodeid for outcome in ("failed", "error") for report in stats.get(outcome, ())}
    flaky = [report for report in stats.get("rerun", ()) if report.nodeid not in failed]
    if flaky:
        terminalreporter.section("flaky: failed at first, passed when run again")
    for report in flaky:
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message if crash else str(report.longrepr)
        terminalreporter.line(f"FLAKY {report.nodeid} - {' '.join(reason.split())[:200]}")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """URL of a Prefect server for all tests that run flows."""
    from flows.server import server

    with server() as url:
        yield url


@pytest.fixture(scope="session")
def real_decam() -> Path:
    """Directory of the real DECam cut-outs."""
    path = Path(__file__).resolve().parents[1].parent / "shared" / "real_decam" / "DECam_MEF"
    if not path.is_dir():
        pytest.skip(f"the real DECam cut-outs are not at {path}")
    return path
