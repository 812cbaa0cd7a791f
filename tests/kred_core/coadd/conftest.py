"""Nights of small exposures, and whether SWarp is here."""

import shutil

import pytest
from nights import Night


@pytest.fixture
def night(tmp_path):
    return Night(tmp_path)


@pytest.fixture
def swarp_installed():
    if shutil.which("SWarp") is None and shutil.which("swarp") is None:
        pytest.skip("SWarp is not installed")
