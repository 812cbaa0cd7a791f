"""What a run would do and cost, foreseen from headers and tables without decoding a pixel.

Used by the dry run, and by a run that might not fit on the disk. Each stage foresees its own part (`Stage.plan`), with the
functions that select detectors and plan mosaics in the run itself, so that what is foreseen is what then happens. Costs
are rough, without Prefect's own time; they are meant to tell minutes from days.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import survey
from ..binned import BinnedGrid
from ..coadd.plan import CoaddPlan
from ..config import FieldConfig
from ..errors import InputError
from ..exposures.check import ExposureReport
from ..products import FieldPaths
from ..words import counted, human_size, human_time
from .exposures import binned_grid, judged
from .stage import Cost, of_run, table

__all__ = ["Plan", "Planned", "dry_run", "plan_run", "require_room"]

SPARE_DISK = 50e6  # bytes: tables, figures, logs, and the file that is being replaced


@dataclass(frozen=True)
class Planned:
    """One line of a plan: units of a stage that has not begun.

    Attributes
    ----------
    name, unit : str
        Stage (or what else they are), and what its units are.
    units, to_do : int
        All of them, and those that are missing or out of date.
    cost : Cost
        Of those.
    """

    name: str
    unit: str
    units: int
    to_do: int
    cost: Cost


@dataclass
class Plan:
    """What is foreseen so far; each stage reads what the earlier ones have found.

    Attributes
    ----------
    config : `~kred_core.config.FieldConfig`
    reports : list of ExposureReport
        The verdicts on all exposures; the stage check fills them in.
    planned : dict
        Lines by stage.
    mosaics, made : list of CoaddPlan
        The mosaics of the stage coadd, and those of them that are up to date.
    """

    config: FieldConfig
    reports: list[ExposureReport] = field(default_factory=list)
    planned: dict[str, Sequence[Planned]] = field(default_factory=dict)
    mosaics: list[CoaddPlan] = field(default_factory=list)
    made: list[CoaddPlan] = field(default_factory=list)

    @property
    def paths(self) -> FieldPaths:
        return FieldPaths.of(self.config)

    @property
    def usable(self) -> list[ExposureReport]:
        """The exposures that can be used."""
        return [r for r in self.reports if not r.refused]

    @property
    def grid(self) -> BinnedGrid | None:
        """The grid of the binned maps; None where no exposure can be used."""
        return binned_grid(self.config, self.usable) if self.usable else None

    def is_fresh(self, stage: str) -> bool:
        """Whether a stage has nothing to do, so that what it leaves on disk can be read; else what follows is foreseen."""
        return self.planned[stage][0].to_do == 0


def plan_run(config: FieldConfig) -> Plan:
    """Foresee every stage, also those that were not asked for: what follows depends on them."""
    plan = Plan(config)
    for name, stage in table().items():
        plan.planned[name] = stage.plan(plan)
    return plan


def _of_run(plan: Plan) -> list[Planned]:
    return [line for stage in of_run(plan.config) for line in plan.planned[stage.name]]


def dry_run(config: FieldConfig) -> str:
    """Return what a run with this configuration would do, for a person to read."""
    plan = plan_run(config)
    planned = _of_run(plan)
    workers = config.run.workers or os.cpu_count() or 1
    lines = [f"{config.field}: what would be done with these options (nothing has been done)", ""]
    lines.append(f"{'stage':<10} {'units':>16} {'to do':>7} {'CPU time':>10} {'disk':>10}")
    for p in planned:
        time, size = (human_time(p.cost.seconds), human_size(p.cost.disk)) if p.to_do else ("-", "-")
        unit = p.unit.removesuffix("s") if p.units == 1 else p.unit
        lines.append(f"{p.name:<10} {p.units:>6} {unit:<9} {p.to_do:>7} {time:>10} {size if p.cost.disk else '-':>10}")
    seconds, disk = sum(p.cost.seconds for p in planned if p.to_do), _disk_to_do(plan)
    needed = f"{human_size(sum(disk.values()))} of disk ({human_size(shutil.disk_usage(config.root).free)} are free)"
    lines += ["", f"about {human_time(seconds / workers)} with {counted(workers, 'task')} at once, {needed}"]
    if words := survey.images(config.field, config.survey).explain(r.filter for r in plan.usable):
        lines.append(words)
    if lacking := _shortage(config, disk):
        lines.append(f"WARNING: {lacking}")
    for r in plan.reports:
        if r.refused:
            lines.append(f"refused {r.root}: {'; '.join(r.refused)}")
    return "\n".join(lines)


def require_room(config: FieldConfig) -> dict[str, float]:
    """Find out whether there is room on the disk for what a run is going to make, once its exposures have been checked.

    Returns
    -------
    dict
        CPU time in s of each stage of the run where nothing has been made yet.

    Raises
    ------
    InputError
        There is not; the message says how much is lacking.
    """
    usable = [r for r in judged(config) if not r.refused]
    grid = binned_grid(config, usable) if usable else None
    costs = {stage.name: stage.cost(config, usable, grid) for stage in of_run(config)}
    if _shortage(config, {name: cost.disk for name, cost in costs.items()}):  # unless some of it is there already
        lacking = _shortage(config, _disk_to_do(plan_run(config)))
        if lacking:
            raise InputError(lacking)
    return {name: cost.seconds for name, cost in costs.items()}


def _disk_to_do(plan: Plan) -> dict[str, float]:
    """Bytes that stages will write, by stage."""
    sizes = {s.name: sum(p.cost.disk for p in plan.planned[s.name] if p.to_do) for s in of_run(plan.config)}
    return {name: size for name, size in sizes.items() if size}


def _shortage(config: FieldConfig, disk: Mapping[str, float]) -> str:
    """Why products will not fit on their disks, in words, and what can be done; empty where they fit.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    disk : mapping
        Bytes by stage.
    """
    directories, stages = FieldPaths.of(config).directories, table()
    needed: dict[int, list[tuple[float, Path]]] = {}  # by disk: directories may be links to others
    for name, size in disk.items():
        if not stages[name].place:
            continue
        directory = directories[stages[name].place]
        place = next(p for p in (directory, *directory.parents) if p.is_dir())
        needed.setdefault(place.stat().st_dev, []).append((size, place))
    lacking = []
    for parts in needed.values():
        size, free = sum(size for size, _ in parts), shutil.disk_usage(parts[0][1]).free
        if size > free - SPARE_DISK:
            lacking.append(
                f"{human_size(size)} and room to work in are needed on the disk of {parts[0][1]}, {human_size(free)} are free"
            )
    if not lacking:
        return ""
    what = ", ".join(f"{stage} {human_size(size)}" for stage, size in disk.items() if size)
    return (
        f"the products do not fit: {'; '.join(lacking)} ({what}). Make room, or make less: copies of the detectors can be left "
        "out (--prepare.output none --match.output none), or some tiles be made at a time"
    )
