"""The self-check tells a working installation from a broken one, in words, and never with a traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kred_core import selfcheck
from kred_core.selfcheck import PROBLEM, WARNING, check_installation
from kred_core.statistics import kernels

ROOT = Path(__file__).parents[2]


def run(*options, python=(), directory=ROOT, **environment):
    """The self-check as a person starts it."""
    command = [sys.executable, *python, "-m", "kred_core.selfcheck", *map(str, options)]
    return subprocess.run(command, cwd=directory, env={**os.environ, **environment}, capture_output=True, text=True)


def until(text, root):
    """Findings up to the first that has this text: the checks behind it are not made."""
    findings = []
    for finding in check_installation(root):
        findings.append(finding)
        if text in finding.text:
            return findings
    raise AssertionError(f"no finding with {text!r} among {findings}")


def test_this_installation_works(tmp_path):
    (tmp_path / "DECam_MEF" / "LMC_c42" / "mef").mkdir(parents=True)
    done = run("--root", tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert "problem " not in done.stdout
    for package in ("astropy", "numba", "numpy", "prefect", "sqlalchemy"):
        assert re.search(rf"  ok +{package} \d", done.stdout)
    assert re.search(r"ok +a simulated field was reduced in \d+ s; its mosaic agrees .* to \d\.\d %", done.stdout)
    assert re.search(r"ok +1 field in DECam_MEF, LMC_c42 the first", done.stdout)
    assert re.search(r"no problems, (no|\d+) warnings?: kred works here$", done.stdout.rstrip())
    assert [p.name for p in tmp_path.iterdir()] == ["DECam_MEF"]  # nothing is left behind


def test_a_python_without_packages_is_told_what_is_missing(tmp_path):
    done = run("--root", tmp_path, python=["-S"])  # -S: site-packages are not on the path
    assert done.returncode == 1
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    assert re.search(r"problem +No module named 'numpy'; install kred with its dependencies: pip install", done.stdout)
    assert "kred does not work here" in done.stdout


def test_missing_packages_and_versions_out_of_range_are_named_with_what_to_do(tmp_path, monkeypatch):
    # what pip leaves of an installed kred, found before any other
    metadata = tmp_path / "kred-9.9.dist-info" / "METADATA"
    metadata.parent.mkdir()
    needs = ["numpy<1.20", "astropy>=1", "not-a-package-of-this-world>=2", "pytest-of-the-test-extra>=1; extra == 'test'"]
    metadata.write_text("Metadata-Version: 2.1\nName: kred\nVersion: 9.9\n" + "".join(f"Requires-Dist: {n}\n" for n in needs))
    monkeypatch.syspath_prepend(str(tmp_path))
    findings = {f.text: f.level for f in until("memory", tmp_path)}
    wrong, missing = (next(t for t in findings if name in t) for name in ("numpy", "world"))
    assert findings[wrong] == findings[missing] == PROBLEM
    assert re.fullmatch(r"numpy [\d.]+, but kred 9.9 needs <1.20; pip install 'numpy<1.20'", wrong)
    assert missing == "not-a-package-of-this-world is missing; pip install 'not-a-package-of-this-world>=2'"
    assert [level for text, level in findings.items() if text.startswith("astropy")] == ["ok"]
    assert not any("extra" in text for text in findings)


def test_the_data_root(tmp_path):
    absent = until("data root", tmp_path / "absent")[-1]
    assert absent.level == PROBLEM
    assert absent.text.endswith("is not a directory; make it, or give another one with --root")
    empty = until("no field", tmp_path)[-1]
    assert empty.level == WARNING
    assert "DECam_MEF/<field>/mef" in empty.text


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory in which not even root can write")
def test_a_data_root_that_cannot_be_written_to_is_a_problem():
    last = until("data root", Path("/proc"))[-1]
    assert last.level == PROBLEM
    assert "/proc: cannot write" in last.text


@pytest.mark.parametrize(
    ("limit", "level", "words"),
    [
        ("FIELD_DISK", WARNING, "of disk free there: a mosaic of the survey takes 0.3 GB"),
        ("LEAST_DISK", PROBLEM, "of disk free there: not enough for anything"),
        ("COMFORTABLE_MEMORY", WARNING, "use --workers 1"),
    ],
)
def test_little_disk_and_little_memory(tmp_path, monkeypatch, limit, level, words):
    monkeypatch.setattr(selfcheck, limit, 1e18)  # more than any machine has
    assert until(words, tmp_path)[-1].level == level


def test_swarp_is_optional(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    absent = until("SWarp", tmp_path)[-1]
    assert absent.level == "ok"
    assert "is not installed" in absent.text
    for script, level, words in (("echo SWarp version 9.8", "ok", "SWarp version 9.8 in"), ("exit 3", WARNING, "does not run")):
        (tmp_path / "SWarp").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "SWarp").chmod(0o755)
        found = until("SWarp", tmp_path)[-1]
        assert found.level == level
        assert words in found.text


@pytest.mark.parametrize(
    ("difference", "slow", "level", "words"),
    [
        (0.2, 120, PROBLEM, "20.0 %, which should be 5 % or less"),
        (float("nan"), 120, PROBLEM, "nan %"),
        (0.01, -1, WARNING, "10 s are usual"),
    ],
)
def test_a_reduction_that_gives_another_sky_or_takes_long(tmp_path, monkeypatch, difference, slow, level, words):
    monkeypatch.setattr(selfcheck, "_reduce", lambda root: difference)
    monkeypatch.setattr(selfcheck, "SLOW_REDUCTION", slow)
    (finding,) = selfcheck._reduction(tmp_path)
    assert finding.level == level
    assert words in finding.text


def test_a_check_that_cannot_be_made_is_a_problem():
    assert list(selfcheck._explained(lambda: iter([1 / 0]))) == [(PROBLEM, "ZeroDivisionError: division by zero")]


def test_a_compiler_that_computes_wrongly_is_a_problem(monkeypatch):
    monkeypatch.setattr(kernels, "median", lambda values: 30.0)
    (finding,) = selfcheck._compiler()
    assert finding.level == PROBLEM
    assert "the median of 0..63 is 31.5, not 30.0" in finding.text
