"""A stage of the pipeline: everything that the rest of kred has to know of it, in one place.

Each module of this package that is named in `kred_core.config.STAGES` has one `Stage`, called ``STAGE``. The loop of a run,
its Prefect tasks, the dry run, the room on disk, the products that are missing and the files that are left over all follow
from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..binned import BinnedGrid
from ..config import FieldConfig, stages
from ..exposures.check import ExposureReport

if TYPE_CHECKING:
    from .plan import Plan, Planned
    from .run import Run

__all__ = ["Cost", "Stage", "of_run", "table"]


def _nothing(config: FieldConfig) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Cost:
    """What work takes: CPU time in s, and bytes of products that will be written."""

    seconds: float = 0.0
    disk: float = 0.0


def _little(config: FieldConfig, usable: Sequence[ExposureReport], grid: BinnedGrid | None) -> Cost:
    return Cost()


@dataclass(frozen=True)
class Stage:
    """One stage.

    Parameters
    ----------
    name : str
    run : callable
        Does it: finds the units of each step and hands them to the `Run`, which does what is missing or out of date.
    plan : callable
        Says what that would be and cost, from headers and tables, without doing it.
    products : callable
        Files that the present tables call for when the stage is complete.
    leftovers : callable
        A sentence for each kind of file of an earlier run with other options.
    cost : callable
        What it takes where nothing has been made yet, at most and at once: from the usable exposures and the binned maps' grid.
    place : str
        Directory of the data root that takes them.
    heavy : bool
        Whether it needs much memory, so that few runs of a machine may be in it at once.
    require : callable
        Raises what would keep the stage from running (a program that is missing), before a run begins.
    finish : callable
        Called when the run has ended: to remove what only later stages needed.
    """

    name: str
    run: Callable[[Run], None]
    plan: Callable[[Plan], Sequence[Planned]]
    products: Callable[[FieldConfig], Iterable[Path]]
    leftovers: Callable[[FieldConfig], Iterable[str]] = _nothing
    cost: Callable[[FieldConfig, Sequence[ExposureReport], BinnedGrid | None], Cost] = _little
    place: str = ""
    heavy: bool = False
    require: Callable[[FieldConfig], object] = _nothing
    finish: Callable[[FieldConfig], object] = _nothing


def table() -> dict[str, Stage]:
    """Return all stages by name, in the order in which they run."""
    return {name: import_module(f"kred_core.stages.{name}").STAGE for name in stages.STAGES}


def of_run(config: FieldConfig) -> list[Stage]:
    """Return the stages that a run is asked for."""
    return [stage for name, stage in table().items() if name in config.run.stages]
