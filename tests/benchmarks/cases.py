"""What the benchmarks reduce: simulated fields, made once and kept, and the run of the real command on them.

A run works in a data root of its own that links to the simulated input, so that it begins from nothing
and what it leaves can be counted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import processes
from processes import Cost, Measured

from kred_core.config import STAGES
from kred_core.products import FieldPaths
from kred_core.simulate import simulate_field

PROJECT = Path(__file__).resolve().parents[2]
FIELD = "LMC_c42"
STAGE_LINE = re.compile(rf"^(\S+ \S+) INFO +({'|'.join(STAGES)}) +(.*) +[\d.]+ s$", re.MULTILINE)
FIRST_LINE = re.compile(r"^(\S+ \S+) INFO +kred \S+: .*, stages ", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """A simulated field and the tiles that are made of it."""

    name: str
    tiles: tuple[str, ...]
    options: dict = field(default_factory=dict)  # as of `kred_core.simulate.simulate_field`


@dataclass(frozen=True)
class Phase:
    """A part of a run: a stage, or what comes before the first and after the last."""

    name: str
    units: str  # what was done, in the words of the run
    cost: Cost
    left: int = 0  # bytes of the files that the phase has left on disk


@dataclass(frozen=True, eq=False)
class CaseRun:
    """A run of the command."""

    phases: tuple[Phase, ...]  # in their order
    whole: Phase
    left: dict[str, int]  # bytes of each file in the data root, by its path there

    @property
    def stages(self) -> tuple[Phase, ...]:
        """Without start and end."""
        return tuple(p for p in self.phases if p.name in STAGES)


def make(root: Path, case: Case) -> Path:
    """Simulate a case below a directory, unless it is there; returns its data root. ``case.json`` in it says what it is."""
    directory = root / "cases" / case.name
    kept = directory / "case.json"
    wanted = json.dumps({"field": FIELD, **case.options}, indent=1)
    if not kept.exists() or kept.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        print(f"simulating {case.name} in {directory}", file=sys.stderr, flush=True)
        simulate_field(directory, field=FIELD, **case.options)
        kept.write_text(wanted)
    return directory


def inputs(data: Path) -> list[Path]:
    """Science files and masks of a case."""
    return sorted(FieldPaths(data, FIELD).mef.iterdir())


def environment(root: Path, checkout: Path) -> dict[str, str]:
    """The environment of a run: nobody's options, and a Prefect database of the benchmarks' own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "KRED_"))}
    return kept | {"PREFECT_HOME": str(root / "prefect"), "PYTHONPATH": str(checkout)}


def reduce(root: Path, case: Case, checkout: Path, options: Sequence[str] = (), again: bool = False) -> CaseRun:
    """Reduce a case with the command that people type, and measure it.

    ``root`` is the directory of the benchmarks, ``checkout`` the kred that is measured, and ``options`` are those of
    ``flows/field.py``. The run begins from nothing, or ``again`` in what the last run has left. A run that fails ends the program.
    """
    data = root / "runs" / case.name
    if not again:
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True)
        (data / "DECam_MEF").symlink_to(make(root, case).resolve() / "DECam_MEF")
    command = [sys.executable, "flows/field.py", FIELD, *case.tiles, "--root", str(data.resolve()), *options]
    print("running", *command[1:], file=sys.stderr, flush=True)
    measured = processes.run(command, environment(root, checkout), checkout)
    if measured.status != 0:
        print(measured.output, file=sys.stderr)
        raise SystemExit(f"the run ended with status {measured.status}; its log is {FieldPaths(data, FIELD).log}")
    return _parts(measured, data)


def _parts(measured: Measured, data: Path) -> CaseRun:
    """Cut a run where its log says that a stage has ended."""
    log = FieldPaths(data, FIELD).log.read_text(encoding="utf-8")
    began = list(FIRST_LINE.finditer(log))[-1]
    ends = [("start", "Python, imports, Prefect's server", _moment(began[1]))]
    ends += [(name, units.strip(), _moment(end)) for end, name, units in STAGE_LINE.findall(log, began.end())]
    ends.append(("end", "summary, Prefect's records", measured.end))
    files = _files(data)
    phases, start = [], measured.start
    for name, units, end in ends:
        left = sum(size for written, size in files.values() if start < written <= end)
        phases.append(Phase(name, units, measured.between(start, end), left))
        start = end
    whole = Phase("all", "", measured.whole, sum(p.left for p in phases))
    return CaseRun(tuple(phases), whole, {str(path.relative_to(data)): size for path, (_, size) in files.items()})


def _moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").timestamp()


def _files(data: Path) -> dict[Path, tuple[float, int]]:
    """When each file of a data root was written, and its bytes; links, the input among them, are none."""
    found = {}
    for directory, _, names in os.walk(data):
        for path in (Path(directory, name) for name in names):
            if not path.is_symlink():
                status = path.stat()
                found[path] = status.st_mtime, status.st_size
    return found
