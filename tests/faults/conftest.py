"""What several tests of faults start from."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """For the files of one example after the other."""
    return tmp_path_factory.mktemp("examples")
