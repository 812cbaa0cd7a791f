"""A Prefect of its own for each test run: no test sees, or leaves anything in, the Prefect of the person who runs it; real data."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

LONGEST = ("test_kills.py", "test_service.py", "test_dask.py", "test_cli.py")  # begun first, they do not end alone on one core


def pytest_configure(config: pytest.Config) -> None:
    # Before any test module is imported: Prefect reads its settings once, when it is imported.
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="kred-prefect-")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["PREFECT_HOME"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


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
