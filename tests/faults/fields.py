"""A small field to make faults happen to, and what its runs leave behind."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kred_core.config import STAGES, FieldConfig
from kred_core.products import FieldPaths, write_record
from kred_core.report import write_field_page
from kred_core.simulate import simulate_field

FIELD = "LMC_c42"
PROJECT = Path(__file__).resolve().parents[2]
TOPS = ("Summary", "DECam_PREP", "DECam_BACK", "DECam_SWARP")
NATIVE = {"coadd": {"mosaics": "original"}, "run": {"only": [name for name in STAGES if name != "match"]}}  # a quick run
SWARP = NATIVE | {"coadd": {"mosaics": "original", "engine": "swarp"}}
needs_swarp = pytest.mark.skipif(not (shutil.which("SWarp") or shutil.which("swarp")), reason="SWarp is not installed")


def small_field(root: Path, **options) -> Path:
    """Simulate two exposures of one band, two small detectors each, around tile T07; returns the data root."""
    small = {"tiles": ["T07"], "binning": 32, "exposures": 2, "bands": ["r"], "n_detectors": 2, "star_density": 300}
    simulate_field(root, field=FIELD, **small | options)
    return root


def copy_of(simulated: Path, root: Path) -> Path:
    """A data root of its own with a copy of the exposures of another one."""
    shutil.copytree(simulated / "DECam_MEF", root / "DECam_MEF")
    return root


def config(root: Path, **sections) -> FieldConfig:
    """All stages, with figures that are drawn quickly."""
    return FieldConfig(**{"field": FIELD, "root": root, "tiles": ["T07"], "evaluate": {"figure_pixels": 200}} | sections)


def made(root: Path) -> dict[str, bytes]:
    """Contents of all products by name, links as their goals: of everything that does not tell when it was made.

    SWarp's run files name the exposures; here they do so without the data root.
    """
    found = {}
    for path in (p for top in TOPS for p in sorted((root / top).rglob("*"))):
        name = str(path.relative_to(root))
        if "/." in name:
            continue
        if path.is_symlink():
            found[name] = os.readlink(path).encode()
        elif path.is_file() and path.suffix != ".log" and path.name != "index.html":
            found[name] = path.read_bytes().replace(bytes(root), b"ROOT")
    return found


def page(root: Path, record: dict) -> bytes:
    """The page of the field as it is where its runs were as a record says; only they have times."""
    paths = FieldPaths(root, FIELD)
    write_record(paths.record("run", "last"), record)
    return write_field_page(paths)[0].read_bytes()


def everything(root: Path) -> dict[str, bytes]:
    """`made`, and what kred keeps for itself; of what has times or random names in it, only that it is there."""
    found = made(root)
    for path in sorted(p for top in (*TOPS, ".kred") for p in (root / top).rglob("*") if p.is_file() and not p.is_symlink()):
        name = str(path.relative_to(root))
        if "/results/" in name:
            found[re.sub(r"/(\d+)-[0-9a-f]+$", r"/\1", name)] = b""
        elif name not in found:
            timed = path.suffix in (".lock", ".log") or path.name in ("index.html", "last.json", "card.json")
            found[name] = b"" if timed else path.read_bytes().replace(bytes(root), b"ROOT")
    return found


def temporaries(root: Path) -> list[str]:
    """Hidden files below the data root: what somebody is writing, or has left half written."""
    return sorted(str(path.relative_to(root)) for path in root.rglob(".*") if path.name != ".kred")


class Heard(logging.Handler):
    """What runs in this process say to people."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self.at: tuple[str, Callable[[], object]] | None = None  # what to do once, when a line starts like this

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))
        if self.at and record.getMessage().startswith(self.at[0]):
            _, do = self.at
            self.at = None
            do()

    def text(self) -> str:
        """What was said since somebody asked last: what a person can mend is never a defect, and has no traceback."""
        text, self._lines = "\n".join(self._lines), []
        assert "unexpected" not in text
        assert "Traceback" not in text
        return text


@contextmanager
def heard() -> Iterator[Heard]:
    """Listen to the runs in this process."""
    listener, logger = Heard(), logging.getLogger("kred_core")
    logger.addHandler(listener)
    try:
        yield listener
    finally:
        logger.removeHandler(listener)


@contextmanager
def when(start: str, do: Callable[[], object]) -> Iterator[None]:
    """Do something at the moment when a run in this process says something that starts like this: a line of a stage is its end."""
    with heard() as listener:
        listener.at = start, do
        yield
        assert listener.at is None, f"the run never said {start!r}"


@contextmanager
def mounted(directory: Path, *arguments: str) -> Iterator[Path]:
    """Something mounted at a directory, for `mount` with these arguments; skips the test where nobody may mount."""
    directory.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(directory)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount, which needs root (unshare -rm python -m pytest ...): {done.stderr.strip()}")
    try:
        yield directory
    finally:
        busy = subprocess.run(["umount", str(directory)], capture_output=True, check=False).returncode
        if busy:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)
    assert not busy, f"something still has a file open below {directory}"
