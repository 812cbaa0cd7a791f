"""What needs a real server or browser may fail once and is then listed with the reason; a test of the library never runs twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

tries = dict.fromkeys(["in a browser", "with a signal", "of the library"], 0)

@pytest.fixture(scope="module")
def browser():
    pass

def at_the_second_try(name):
    tries[name] += 1
    assert tries[name] == 2, f"{name}:\\nnobody answered"

def test_in_a_browser(browser):
    at_the_second_try("in a browser")

@pytest.mark.flaky
def test_with_a_signal():
    at_the_second_try("with a signal")

def test_of_the_library():
    at_the_second_try("of the library")

def test_that_fails_twice(browser):
    raise RuntimeError("the server is down")
"""


@pytest.mark.parametrize("processes", [0, 2])
def test_what_fails_once_is_listed_with_its_reason(tmp_path, processes):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_these.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-ra", "-n", str(processes), "--dist=loadfile"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    lines = ended.stdout.splitlines()
    flaky = [line.partition(" assert ")[0] for line in lines if line.startswith("FLAKY")]
    assert flaky == [
        "FLAKY test_these.py::test_in_a_browser - AssertionError: in a browser: nobody answered",
        "FLAKY test_these.py::test_with_a_signal - AssertionError: with a signal: nobody answered",
    ]
    failed = {line.split(" - ")[0] for line in lines if line.startswith("FAILED")}
    assert failed == {"FAILED test_these.py::test_of_the_library", "FAILED test_these.py::test_that_fails_twice"}
    assert "2 failed, 2 passed, 3 rerun" in lines[-1]
