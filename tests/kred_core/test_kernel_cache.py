"""numba compiles wherever kred and the home directory are, and keeps the result where it can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os
from pathlib import Path
from kred_core.selfcheck import check_installation
for finding in check_installation(Path(".")):
    if "numba compiles" in finding.text:
        print(finding.level, finding.text, os.environ.get("NUMBA_CACHE_DIR"), sep="|")
        break
"""


@pytest.fixture
def installation(tmp_path) -> Path:
    """A copy of kred where nobody can keep anything beside the modules: also root could not."""
    shutil.copytree(ROOT / "kred_core", tmp_path / "kred_core", ignore=shutil.ignore_patterns("__pycache__"))
    for package in {path.parent for path in (tmp_path / "kred_core").rglob("*.py")}:
        (package / "__pycache__").write_text("in the way")
    (tmp_path / "file").touch()
    return tmp_path


def compiled(installation: Path, **places: str) -> tuple[list[str], str]:
    """Level, text and NUMBA_CACHE_DIR of what the self-check says, and the standard error, with these environment variables."""
    unset = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | places
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, cwd=installation, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip().split("|"), run.stderr


def test_nowhere_to_keep_what_is_compiled_is_said_and_costs_time_only(installation):
    nowhere = str(installation / "file")
    (level, text, directory), said = compiled(installation, HOME=nowhere, NUMBA_CACHE_DIR=nowhere + "/x")
    assert (level, text.split(") ")[-1]) == (
        "warning", "and cannot keep the result; set NUMBA_CACHE_DIR to a directory that can be written to"
    )  # fmt: skip
    assert directory.startswith("/")
    assert not Path(directory).exists()
    assert said.startswith(f"compiled loops cannot be kept in any of {nowhere}/x, {installation}/kred_core/__pycache__, ")
    assert said.endswith("set NUMBA_CACHE_DIR to a directory that can be written to\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"])
def test_a_place_that_can_be_written_to_is_used(installation, name):
    nowhere, somewhere = str(installation / "file"), installation / "somewhere"
    (level, text, _), said = compiled(installation, **{"HOME": nowhere, name: str(somewhere)})
    assert (level, said) == ("ok", "")
    assert f"keeps the result in {somewhere}" in text
