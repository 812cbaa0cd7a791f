"""The stage summarize: decode each detector once, measure it, make its binned map; the tables that all later stages read.

A file of binned maps that is gone does not make an exposure be measured again. Binned maps are not kept where the configuration
says so; whoever needs them later has `restore_binned_maps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..binned import BinnedGrid
from ..config import FieldConfig
from ..exposures.check import ExposureReport, quality_rows
from ..exposures.masks import PixelRule
from ..products import FieldPaths
from . import exposures
from .exposures import binned_grid, check_field, summarize_field, without_binned_maps
from .plan import Plan, Planned
from .run import Run
from .stage import Cost, Stage
from .work import Manifest, Step, Work

__all__ = ["RESTORE", "STAGE", "SUMMARIZE", "restore_binned_maps"]

SECONDS_PER_EXPOSURE, SECONDS_PER_MPIX = 0.12, 0.021  # CPU
MAP_BYTES_PER_CELL, MAP_BYTES = 2.2, 20_000  # compressed; headers


def _work(config: FieldConfig, report: ExposureReport, grid: BinnedGrid) -> Work:
    paths = FieldPaths.of(config)
    exposure = paths.exposure(report.file)
    mask = paths.mask_of(exposure)
    facts = {"detectors": list(report.extnames), "magzero": report.magzero, "grid": asdict(grid)}
    facts |= PixelRule.of(config).facts(report.extnames)
    return Work(report.root, files=[exposure, *([mask] if mask else [])], options=[config.summarize], facts=facts)


def _do(config: FieldConfig, report: ExposureReport, grid: BinnedGrid) -> Manifest:
    record, _ = exposures.summarize_exposure(config, report, grid)
    return Manifest.of([record])


def _restore_work(config: FieldConfig, report: ExposureReport, grid: BinnedGrid) -> Work:
    work = _work(config, report, grid)
    return Work(work.unit, [*work.files, FieldPaths.of(config).record("summarize", report.root)], work.options, work.facts)


def _restore(config: FieldConfig, report: ExposureReport, grid: BinnedGrid) -> Manifest:
    return Manifest.of([exposures.restore_binned_maps(config, report, grid)])


SUMMARIZE = Step("summarize", 3, _work, _do)
RESTORE = Step("stamps", 2, _restore_work, _restore)


def _run(run: Run) -> None:
    usable = [r for r in run.once(check_field) if not r.refused]
    grid = binned_grid(run.config, usable) if usable else None
    run.each(SUMMARIZE, [(r.root, {"report": r, "grid": grid}) for r in usable])
    run.outcome.reports = run.once(summarize_field)
    if run.config.stamps.keep:  # otherwise they are made again only when somebody needs them
        restore_binned_maps(run)
    names = ("Root", "Verdict", "Reasons", "FILTER", "EXPTIME", "N_used", "N_det")
    rows = [{name: row[name] for name in names} for row in quality_rows(run.outcome.reports)]
    run.show("exposures", f"Verdict on each exposure of {run.config.field}", rows)


def restore_binned_maps(run: Run) -> None:
    """Make the binned maps again that a later step is going to read and that are not there."""
    usable = [r for r in run.outcome.reports or run.once(summarize_field) if not r.refused]
    grid = binned_grid(run.config, usable)
    run.each(RESTORE, [(r.root, {"report": r, "grid": grid}) for r in without_binned_maps(run.config, usable, grid)])


def _plan(plan: Plan) -> Sequence[Planned]:
    usable, grid = plan.usable, plan.grid
    to_do = [r for r in usable if not SUMMARIZE.is_current(plan.config, {"report": r, "grid": grid})]
    return [Planned("summarize", "exposures", len(usable), len(to_do), _cost(plan.config, to_do, grid))]


def _cost(config: FieldConfig, to_do: Sequence[ExposureReport], grid: BinnedGrid | None) -> Cost:
    seconds = len(to_do) * SECONDS_PER_EXPOSURE + sum(r.n_pixels for r in to_do) / 1e6 * SECONDS_PER_MPIX
    places = [d for r in to_do for d in r.detectors]
    cells = sum(d.naxis1 * d.naxis2 * d.pixel_scale**2 for d in places) / grid.cell**2 if grid else 0.0
    return Cost(seconds, cells * MAP_BYTES_PER_CELL + len(places) * MAP_BYTES)


def _products(config: FieldConfig) -> list[Path]:
    paths = FieldPaths.of(config)
    return [paths.exposure_table, paths.detector_table]


STAGE = Stage("summarize", run=_run, plan=_plan, products=_products, cost=_cost, place="DECam_BACK")
