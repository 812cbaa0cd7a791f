"""What several tests of faults start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import Survivors, answer
from fields import Heard, heard, small_field


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """For the files of one example after the other."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="session")
def simulated(tmp_path_factory) -> Path:
    """A data root with nothing but the exposures of a small field."""
    return small_field(tmp_path_factory.mktemp("simulated"))


@pytest.fixture
def said() -> Iterator[Heard]:
    """What the runs of a test say to people."""
    with heard() as listener:
        yield listener


@pytest.fixture(scope="module")
def ask() -> Iterator[Survivors]:
    """All that read exposures, where a crash can be survived."""
    with Survivors(answer) as survivors:
        yield survivors
