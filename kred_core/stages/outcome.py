"""What a run did: counted by stage, with every refusal and failure in words.

Whether it was a success is decided from what is on disk, not from what was tried.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..exposures.check import ExposureReport
from ..products import read_record, write_record
from ..words import counted, human_size


@dataclass
class StageOutcome:
    """One stage of a run."""

    name: str
    done: int = 0  # units that were made
    current: int = 0  # units that were complete and up to date already
    failed: dict[str, str] = dataclasses.field(default_factory=dict)  # reason by unit
    seconds: float = 0.0  # wall time

    def counts(self) -> str:
        """Return how many units, in words."""
        parts = [f"{self.done} done"] if self.done else []
        parts += [f"{self.current} up to date"] if self.current else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        return ", ".join(parts) or "nothing to do"

    def line(self) -> str:
        """Return one line for a person."""
        return f"{self.name:<10} {self.counts():<34} {self.seconds:8.1f} s"


@dataclass
class Outcome:
    """One run of a field."""

    field: str
    stages: list[StageOutcome] = dataclasses.field(default_factory=list)  # in the order in which they ran
    reports: list[ExposureReport] = dataclasses.field(default_factory=list)  # on each exposure, where the run came to know it
    notes: list[str] = dataclasses.field(default_factory=list)  # what a user should know beside the verdicts
    missing: list[Path] = dataclasses.field(default_factory=list)  # products that were asked for and are not there
    stopped: str = ""  # why the run ended before its last stage, if it did
    disk: dict[str, int] = dataclasses.field(default_factory=dict)  # bytes by directory below the data root
    matching: list[str] = dataclasses.field(default_factory=list)  # how much better each image got
    page: Path | None = None  # of the field, for people who only want to look
    input: list[str] = dataclasses.field(default_factory=list)  # what became of its detectors: sums, and why some were left out
    unaccounted: list[str] = dataclasses.field(default_factory=list)  # what of the input is not accounted for
    n_refused: int = 0  # detectors that cannot be used, and exposures of which not even the detectors are known
    n_used: int | None = None  # detectors that went into the result; None: the run did not come to choose any
    n_detectors: int = 0  # all of the input

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for exists, and all of the input is accounted for."""
        return not (self.missing or self.stopped or self.unaccounted or any(s.failed for s in self.stages))

    def headline(self) -> str:
        """Return the result in one sentence."""
        counts = {v: sum(r.verdict == v for r in self.reports) for v in ("good", "usable", "refused")}
        exposures = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
        about = f" ({counted(len(self.reports), 'exposure')}: {exposures})" if self.reports else ""
        if self.complete:
            part = self.n_used is not None and self.n_used < self.n_detectors
            used = f", {self.n_used} of {counted(self.n_detectors, 'detector')} used" if part else ""
            return f"{self.field}: complete{used}{about}"
        failed = sum(len(s.failed) for s in self.stages)
        parts = [self.stopped] if self.stopped else []
        parts += [f"{failed} failed"] if failed else []
        parts += [f"{counted(len(self.missing), 'product')} missing"] if self.missing else []
        parts += ["not all of the input is accounted for"] if self.unaccounted else []
        return f"{self.field}: NOT complete{about}: {'; '.join(parts)}"

    def details(self) -> list[str]:
        """Return what the stages' own lines do not tell: refusals and failures, disk, and the result."""
        result = [f"  {s.name} {unit} failed: {reason}" for s in self.stages for unit, reason in s.failed.items()]
        result += self.verdicts()
        result += [f"  matched {line}" for line in self.matching]
        result += [f"  note: {note}" for note in self.notes]
        result += [f"  missing: {path}" for path in self.missing]
        result += [f"  not accounted for: {fault}" for fault in self.unaccounted]
        result += [f"{'input' if i == 0 else '':<10} {line}" for i, line in enumerate(self.input)]
        if self.disk:
            result.append(f"disk       {self.disk_words()}")
        if self.page:
            result.append(f"page       {self.page}")
        return [*result, self.headline()]

    def verdicts(self) -> list[str]:
        """Return the first reason of each refused exposure, and each remark on the others once; the quality table has the rest."""
        result = [f"  refused {r.root}: {r.refused[0]}" for r in self.reports if r.refused]
        detectors: dict[str, list[str]] = {}
        remarks: dict[str, list[str]] = {}
        for r in self.reports:
            for name, reason in () if r.refused else r.lost:
                detectors.setdefault(reason, []).append(f"{r.root} {name}")
            told = {f"detector {name} refused: {reason}" for name, reason in r.lost}
            for remark in () if r.refused else r.remarks:
                if remark not in told:
                    remarks.setdefault(remark, []).append(r.root)
        for reason, names in detectors.items():
            result.append(f"  refused {names[0] if len(names) == 1 else counted(len(names), 'detector')}: {reason}")
        for remark, roots in remarks.items():
            result.append(f"  {roots[0]}: {remark}" if len(roots) == 1 else f"  {remark}: {counted(len(roots), 'exposure')}")
        return [*result, f"  all reasons and remarks: Summary/{self.field}_mef_qual.tab"] if result else []

    def disk_words(self) -> str:
        """Return how much disk the products take, by directory."""
        return ", ".join(f"{name} {human_size(size)}" for name, size in self.disk.items())

    def remember(self, path: Path, root: Path) -> None:
        """Keep what the run did in a record, with places of products from the data root, for the page of the field.

        A stage that found everything up to date keeps what an earlier run says of it; a run that did nothing leaves it as it is.
        """
        earlier = read_record(path) or {}
        stages, now = dict(earlier.get("stages", {})), time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        for s in self.stages:
            if s.done or s.failed or s.name not in stages or stages[s.name]["failed"]:
                counts = {"done": s.done, "current": s.current, "failed": s.failed}
                stages[s.name] = {**counts, "seconds": round(s.seconds, 1), "ended": now}
        found = {
            "complete": self.complete,
            "stopped": self.stopped,
            "missing": [str(product.relative_to(root)) for product in self.missing],
            "input": self.input,
            "unaccounted": self.unaccounted,
            "notes": self.notes,
            "stages": stages,
        }
        if found != {name: earlier.get(name) for name in found}:
            write_record(path, {"version": __version__, "ended": now, **found, "disk": self.disk})


def disk_usage(directories: Mapping[str, Path]) -> dict[str, int]:
    """Return the bytes of the files below directories; links count nothing."""
    return {name: _size(path) for name, path in directories.items() if path.is_dir()}


def _size(directory: str | Path) -> int:
    total = 0
    with suppress(OSError), os.scandir(directory) as entries:  # which tells of thousands of links without asking the disk
        for entry in entries:
            with suppress(OSError):  # another run may have removed it
                if entry.is_dir(follow_symlinks=False):
                    total += _size(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
