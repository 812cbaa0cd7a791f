"""A small simulated field, copied for each test, and what its log says was done."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kred_core.simulate import simulate_field

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Path:
    """Data root with two bands of two exposures of LMC_c42, eight small detectors each, around tile T07."""
    root = tmp_path_factory.mktemp("simulated")
    simulate_field(root, field="LMC_c42", tiles=["T07"], binning=16, exposures=2, bands=["N662", "r"], n_detectors=8)
    return root


@pytest.fixture
def root(simulated, tmp_path) -> Path:
    """A copy of `simulated` to work in."""
    copy = tmp_path / "root"
    shutil.copytree(simulated, copy)
    return copy


def done(root: Path, field: str = "LMC_c42") -> dict[str, int]:
    """Units that the last run did, by stage, as its log says; stages with nothing to do are left out."""
    return {name: int(n) for name, n in re.findall(r"INFO +(\w+) +(\d+) done", last_log(root, field))}


def last_log(root: Path, field: str = "LMC_c42") -> str:
    """What the last run wrote into the field's log."""
    text = (root / "Log" / f"{field}.log").read_text()
    return text[text.rindex(" kred ") :]


def products(root: Path) -> dict[str, bytes]:
    """Contents of all products by name, links as their goals."""
    found = {}
    for top in ("Summary", "DECam_PREP", "DECam_SWARP"):
        for path in sorted((root / top).rglob("*")):
            if path.is_symlink():
                found[str(path.relative_to(root))] = os.readlink(path).encode()
            elif path.is_file() and path.name != "kred.toml":
                found[str(path.relative_to(root))] = path.read_bytes()
    return found


@pytest.fixture(scope="session")
def command(prefect_server) -> Callable[..., subprocess.CompletedProcess]:
    """Run a command line as a person does, with the server of the tests."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=PROJECT,
            env=os.environ | {"PREFECT_API_URL": prefect_server} | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
