"""A run keeps to the memory that is stated, under a limit that kills what exceeds it; with less it says so and does not begin."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from fields import PROJECT
from tally import tried

from kred_core import memory
from kred_core.config import BackgroundKind
from kred_core.products import FieldPaths
from kred_core.simulate import simulate_field

WORKERS = 2
PAGE = os.sysconf("SC_PAGE_SIZE")

pytestmark = pytest.mark.long


class ControlGroup:
    """A control group of Linux with a limit of memory, of version 1 or 2."""

    def __init__(self, limit: float):
        version_1 = Path("/sys/fs/cgroup/memory")
        self.path = (version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")) / f"kred-{uuid4()}"
        names = ("memory.limit_in_bytes", "memory.max_usage_in_bytes") if version_1.is_dir() else ("memory.max", "memory.peak")
        self.path.mkdir()
        self._limit, self._peak = (self.path / name for name in names)
        self._limit.write_text(str(-(-round(limit) // PAGE) * PAGE))  # the kernel rounds down

    def reduce(self, root: Path) -> subprocess.CompletedProcess:
        """Reduce a field in this group: the shell moves itself there and becomes the command."""
        command = [sys.executable, "flows/field.py", "LMC_c42", "T07", "--root", str(root), "--workers", str(WORKERS)]
        return subprocess.run(
            ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"), *command],
            cwd=PROJECT,
            env={name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    @property
    def peak(self) -> int:
        return int(self._peak.read_text())


@pytest.fixture
def group() -> Iterator:
    made = []

    def make(limit: float) -> ControlGroup:
        try:
            made.append(ControlGroup(limit))
        except OSError as e:
            pytest.skip(f"a control group cannot be made here ({e}); needs root")
        return made[-1]

    yield make
    for one in made:
        one.path.rmdir()


@pytest.fixture(scope="module")
def full_size(tmp_path_factory) -> Path:
    """Four exposures of three detectors of full size, on one tile."""
    root = tmp_path_factory.mktemp("full-size")
    simulate_field(root, field="LMC_c42", tiles=["T07"], bands=["N662", "r"], exposures=2, n_detectors=3, star_density=1.0)
    return root


def test_full_size_detectors_keep_to_the_stated_memory(full_size, group):
    """The bound is that of all processes together, Prefect's server too; pages of files in memory are not counted by the limit
    as long as they can be dropped."""
    bound = memory.needed(WORKERS, False, memory.LEAST)
    limited = group(bound)
    result = limited.reduce(full_size)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "so that each mosaic in the making gets 0.25 GB and not 1" in result.stdout + result.stderr
    assert FieldPaths(full_size, "LMC_c42").mosaic("T07", "r", BackgroundKind.MATCHED).is_file()
    assert limited.peak <= bound + PAGE
    tried("memory limited to what is stated")


def test_below_it_a_run_says_so_and_does_not_begin(full_size, group, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "DECam_MEF").symlink_to(full_size / "DECam_MEF")
    result = group(0.9 * memory.needed(WORKERS, False, memory.LEAST)).reduce(root)
    assert result.returncode == 1
    assert re.search(r"error: 2 tasks at once need 1\.4 GB of memory, and no more than 1\.3 GB .*; use --workers 1", result.stderr)
    assert "Traceback" not in result.stderr
    assert [path.name for path in root.iterdir()] == ["DECam_MEF"]
    tried("memory limited to less")
