"""The command ``kred``, as somebody has it who has installed kred with pip and has no other file of it."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

import kred_core

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def kred(tmp_path_factory):
    """Run the installed command in an empty directory; it finds kred itself and nothing else of this project."""
    place = tmp_path_factory.mktemp("installed")
    for part in ("kred_core", "flows", "tasks", "deployments"):
        shutil.copytree(PROJECT / part, place / "source" / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, place / "source")
    venv.create(place / "venv", symlinks=True)
    packages = next((place / "venv").glob("lib/*/site-packages"))
    theirs = [path for path in [*site.getsitepackages(), *sys.path] if Path(path).name == "site-packages"]
    (packages / "theirs.pth").write_text("\n".join(dict.fromkeys(theirs)))
    python = place / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    subprocess.run([*install, place / "source"], check=True, env=environment)
    shutil.rmtree(place / "source")
    for compiled in (PROJECT / "kred_core").rglob("*.nb[ci]"):  # what numba has compiled already; it looks at the times of modules
        kept = packages / compiled.relative_to(PROJECT)
        kept.parent.mkdir(exist_ok=True)
        shutil.copy(compiled, kept)
    for module in (PROJECT / "kred_core").rglob("*.py"):
        os.utime(packages / module.relative_to(PROJECT), ns=2 * (module.stat().st_mtime_ns,))
    (place / "empty").mkdir()

    def run(*arguments: str, status: int = 0) -> str:
        command = [place / "venv" / "bin" / "kred", *arguments]
        ended = subprocess.run(command, cwd=place / "empty", env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == status, ended.stderr
        return ended.stdout + ended.stderr

    return run


def test_the_help_teaches_and_is_there_at_once(kred):
    begun = time.perf_counter()
    said = kred("--help")
    assert time.perf_counter() - begun < 0.7
    for name in ("reduce", "survey", "tables", "report", "simulate", "serve", "check-install"):
        assert f"\n  {name} " in said
        assert kred(name, "--help").startswith(f"usage: kred {name}")
    assert "kred reduce LMC_c42 T07 --root demo" in said
    assert kred() == said
    assert kred("--version") == f"kred {kred_core.__version__}\n"
    assert "kred simulate --root demo" in kred("simulate", "--help")
    assert "kred reduce LMC_c42 --dry-run" in kred("reduce", "--help")


def test_what_is_mistyped_is_said(kred):
    assert kred("redcue", status=2) == "error: kred has no command redcue; did you mean reduce?\n"
    assert "options come after the command" in kred("--root", "X", "reduce", status=2)
    assert "option --coadd.engin is not known; did you mean --coadd.engine?" in kred("reduce", "X", "--coadd.engin=1", status=2)
    assert "field LMC_c42: there is no directory" in kred("reduce", "LMC_c42", status=1)


def test_a_field_is_simulated_reduced_and_shown(kred):
    kred("simulate", "--tiles", "T07", "--binning", "16", "--bands", "N662", "--exposures", "3", "--root", "demo")
    assert "kred reduce LMC_c42 --root demo" in kred("tables", "LMC_c42", "--root", "demo")
    assert "did you mean T07?" in kred("reduce", "LMC_c42", "T7", "--root", "demo", status=1)
    assert "LMC_c42: complete" in kred("reduce", "LMC_c42", "T07", "--root", "demo", "--until", "check")
    assert kred("report", "LMC_c42", "--root", "demo").endswith("index.html\n")
    assert "what would be done" in kred("survey", "--all", "--root", "demo", "--dry-run")
    assert "is no directory; give the one that holds DECam_MEF" in kred("serve", "--root", "nowhere", status=1)
