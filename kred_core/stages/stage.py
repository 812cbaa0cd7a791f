"""A stage of the pipeline: everything that the rest of kred has to know of it, in one place.

Each module of this package that is named in `kred_core.config.STAGES` has one `Stage`, called ``STAGE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..coadd.plan import CoaddPlan
from ..config import FieldConfig
from ..exposures.check import ExposureReport
from ..products import FieldPaths
from .executor import UnitRunner


@dataclass(frozen=True)
class Cost:
    """What work takes: CPU time in s, and bytes of products that will be written."""

    seconds: float = 0.0
    disk: float = 0.0


@dataclass(frozen=True)
class Planned:
    """One line of a plan: units of a stage that has not begun."""

    name: str  # the stage, or what else they are
    unit: str  # what they are called
    units: int
    to_do: int  # of the units: missing or out of date
    cost: Cost  # of those


@dataclass
class Plan:
    """What is foreseen so far; each stage reads what the earlier ones have found."""

    config: FieldConfig
    reports: list[ExposureReport] = field(default_factory=list)  # of check; summarize adds what is known of the pixels
    planned: dict[str, Sequence[Planned]] = field(default_factory=dict)  # by stage
    mosaics: list[CoaddPlan] = field(default_factory=list)
    made: list[CoaddPlan] = field(default_factory=list)  # of the mosaics: those that are up to date

    @property
    def paths(self) -> FieldPaths:
        return FieldPaths.of(self.config)

    @property
    def usable(self) -> list[ExposureReport]:
        """The exposures that can be used."""
        return [r for r in self.reports if not r.refused]

    def is_fresh(self, stage: Stage) -> bool:
        """Whether a stage has nothing to do, so that what it leaves on disk can be read; else what follows is foreseen."""
        return self.planned[stage.name][0].to_do == 0


@dataclass(frozen=True)
class Stage:
    """One stage."""

    name: str
    # Does it: finds the units of each step and hands them to the runner, which does what is missing or out of date.
    run: Callable[[UnitRunner], None]
    # Says what that would be and cost, from headers and tables, without doing it.
    plan: Callable[[Plan], Sequence[Planned]]
    # Files that the present tables call for when the stage is complete, and the directory of the data root that takes them.
    products: Callable[[FieldConfig], Iterable[Path]]
    place: str = ""
    # A sentence for each kind of file of an earlier run with other options.
    leftovers: Callable[[FieldConfig], Iterable[str]] = lambda config: ()
    # What it takes where nothing has been made yet, at most and at once: from the usable exposures.
    cost: Callable[[FieldConfig, Sequence[ExposureReport]], Cost] = lambda config, usable: Cost()
    heavy: bool = False  # needs much memory, so that few runs of a machine may be in it at once
    # Raises what would keep the stage from running (a program that is missing), before a run begins.
    require: Callable[[FieldConfig], object] = lambda config: None
    # Called when the run has ended: to remove what only later stages needed.
    finish: Callable[[FieldConfig], object] = lambda config: None
