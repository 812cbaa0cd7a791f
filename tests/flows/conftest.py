"""A small simulated field, copied for each test, and a command line to run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import PROJECT

from kred_core.config import FieldConfig
from kred_core.simulate import simulate_field


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


@pytest.fixture(scope="session")
def reduced(simulated, tmp_path_factory, prefect_server) -> Path:
    """`simulated`, reduced once for all tests that begin after a complete run."""
    from flows.field import reduce  # conftest.py is read before Prefect has its own home

    root = tmp_path_factory.mktemp("reduced") / "root"
    shutil.copytree(simulated, root)
    assert reduce(FieldConfig(field="LMC_c42", tiles=["T07"], root=root)) == 0
    return root


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
