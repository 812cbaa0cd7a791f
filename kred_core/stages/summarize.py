"""The stage summarize: decode each detector once, measure it, make its binned map; the tables that all later stages read.

A file of binned maps that is gone does not make an exposure be measured again. Binned maps are not kept where the configuration
says so; a stage that needs them later has them made again (`ensure_binned_maps`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from astropy.table import Table

from .. import binned, survey
from ..binned import BinnedGrid
from ..config import FieldConfig
from ..errors import InputError
from ..exposures import rescale, summary
from ..exposures.check import ExposureReport, quality_rows
from ..exposures.masks import PixelRule
from ..exposures.summary import ExposureSummary
from ..products import FieldPaths, read_record, tables, write_record
from ..words import counted
from .check import check_field, with_pixels, write_quality
from .executor import UnitRunner
from .stage import Cost, Plan, Planned, Stage
from .work import Manifest, Step, Work

SECONDS_PER_EXPOSURE, SECONDS_PER_MPIX = 0.12, 0.021  # CPU
MAP_BYTES_PER_CELL, MAP_BYTES = 2.2, 20_000  # compressed; headers


def binned_grid(config: FieldConfig, usable: Iterable[ExposureReport]) -> BinnedGrid:
    """Return the grid of cells for the detectors of a field, whose sides follow their median pixel scale."""
    scales = [d.pixel_scale for report in usable for d in report.detectors]
    if not scales:
        raise InputError(f"field {config.field}: none of its detectors can be used")
    return binned.binned_grid(config, median(scales))


def _grid(config: FieldConfig, usable: Sequence[ExposureReport]) -> BinnedGrid | None:
    return binned_grid(config, usable) if usable else None


def _work(config: FieldConfig, report: ExposureReport, grid: BinnedGrid) -> Work:
    paths = FieldPaths.of(config)
    exposure = paths.exposure(report.file)
    mask = paths.mask_of(exposure)
    facts = {"detectors": list(report.extnames), "magzero": report.magzero, "grid": asdict(grid)}
    facts |= PixelRule.of(config).facts(report.extnames)
    return Work(report.root, files=[exposure, *([mask] if mask else [])], options=[config.summarize], facts=facts)


def summarize_exposure(config: FieldConfig, report: ExposureReport, grid: BinnedGrid) -> Manifest:
    """Measure the usable detectors of one exposure, average them onto the grid, and keep the results.

    The manifest has the record of the measurements alone: the file of binned maps may go.
    """
    paths = FieldPaths.of(config)
    record, maps = paths.measurements(report.root), paths.binned_file(report.root)
    record.unlink(missing_ok=True)
    maps.unlink(missing_ok=True)
    scale = rescale.factor(report.magzero)
    path, rule = paths.exposure(report.file), PixelRule.of(config)
    measured, made = summary.summarize(path, report.extnames, config.summarize, grid, scale, rule)
    binned.write(maps, grid, made)
    write_record(record, measured.to_record())
    return Manifest.of([record])


def without_binned_maps(config: FieldConfig, usable: Iterable[ExposureReport], grid: BinnedGrid) -> list[ExposureReport]:
    """Return the exposures that have been measured and have no file of binned maps, an incomplete one, or one on another grid."""
    paths = FieldPaths.of(config)

    def lacks(report: ExposureReport) -> bool:
        path = paths.binned_file(report.root)
        try:
            binned.boxes(path)  # stand at the end of a whole file
            return binned.grid_of(path) != grid
        except InputError:
            return True

    return [r for r in usable if paths.measurements(r.root).is_file() and lacks(r)]


def _restore_work(config: FieldConfig, report: ExposureReport, grid: BinnedGrid) -> Work:
    work = _work(config, report, grid)
    return Work(work.unit, [*work.files, FieldPaths.of(config).measurements(report.root)], work.options, work.facts)


def restore_binned_maps(config: FieldConfig, report: ExposureReport, grid: BinnedGrid) -> Manifest:
    """Make the binned maps of one measured exposure again, as `summarize_exposure` made them, without measuring."""
    paths = FieldPaths.of(config)
    record = read_record(paths.measurements(report.root))
    if record is None:
        raise InputError(f"{report.root} has not been summarized; run the stage 'summarize' (--from summarize)")
    measured, scale = ExposureSummary.from_record(record), rescale.factor(report.magzero)
    maps = paths.binned_file(report.root)
    binned.write(maps, grid, summary.bin_exposure(paths.exposure(report.file), measured, grid, scale, PixelRule.of(config)))
    return Manifest.of([maps])


SUMMARIZE = Step("summarize", 3, _work, summarize_exposure)
RESTORE = Step("stamps", 2, _restore_work, restore_binned_maps)


def summarize_field(config: FieldConfig) -> list[ExposureReport]:
    """Collect what was measured in the exposure, detector and quality tables of the field; returns the final verdicts.

    Where no exposure of the field can be used, `InputError` is raised.
    """
    paths = FieldPaths.of(config)
    images = survey.images(config.field, config.survey)
    summaries: dict[str, ExposureSummary] = {}
    reports = []
    for report in check_field(config):
        if not report.refused:
            record = read_record(paths.measurements(report.root))
            if record is None:
                report = report.refuse("it has not been summarized; run the stage 'summarize'")
            else:
                summaries[report.root] = ExposureSummary.from_record(record)
                report = summary.combine(report, summaries[report.root])
        if not report.refused and not images.of_exposure(report.filter, report.exptime):
            report = report.remark(f"{report.filter} with {report.exptime:g} s belongs to no image (--survey.image-table)")
        reports.append(report)
    write_quality(paths, reports)
    if all(r.refused for r in reports):
        reason, n = Counter(r.refused[0] for r in reports).most_common(1)[0]
        raise InputError(
            f"field {paths.field}: none of its {counted(len(reports), 'exposure')} can be used; {n} of them: {reason} "
            f"({paths.quality_table} says it of each)"
        )
    exposures = tables.make(summary.exposure_rows(reports, images, paths.field), tables.EXPOSURES)
    tables.write(exposures, paths.exposure_table, f"Exposures of {paths.field}")
    detectors = tables.make(summary.detector_rows(reports, summaries, paths.field), tables.DETECTORS)
    tables.write(detectors, paths.detector_table, f"Detectors of {paths.field}")
    return reports


def read_summary(paths: FieldPaths) -> tuple[Table, Table]:
    """Return the exposure and detector tables of a field."""
    exposures = tables.read(paths.exposure_table, tables.EXPOSURES, "summarize")
    detectors = tables.read(paths.detector_table, tables.DETECTORS, "summarize")
    return exposures, detectors


def _run(run: UnitRunner) -> None:
    usable = [r for r in run.once(check_field) if not r.refused]
    grid = _grid(run.config, usable)
    run.each(SUMMARIZE, [(r.root, {"report": r, "grid": grid}) for r in usable])
    run.outcome.reports = run.once(summarize_field)
    if run.config.stamps.keep:  # otherwise they are made again only when somebody needs them
        ensure_binned_maps(run)
    names = ("Root", "Verdict", "Reasons", "FILTER", "EXPTIME", "N_used", "N_det")
    rows = [{name: row[name] for name in names} for row in quality_rows(run.outcome.reports)]
    run.show("exposures", f"Verdict on each exposure of {run.config.field}", rows)


def ensure_binned_maps(run: UnitRunner) -> None:
    """Make the binned maps again that a later step is going to read and that are not there."""
    usable = [r for r in run.outcome.reports or run.once(summarize_field) if not r.refused]
    grid = binned_grid(run.config, usable)
    run.each(RESTORE, [(r.root, {"report": r, "grid": grid}) for r in without_binned_maps(run.config, usable, grid)])


def _plan(plan: Plan) -> Sequence[Planned]:
    usable, grid = plan.usable, _grid(plan.config, plan.usable)
    to_do = [r for r in usable if not SUMMARIZE.is_current(plan.config, {"report": r, "grid": grid})]
    plan.reports = with_pixels(plan.paths, plan.reports)
    return [Planned("summarize", "exposures", len(usable), len(to_do), _cost(plan.config, to_do))]


def _cost(config: FieldConfig, to_do: Sequence[ExposureReport]) -> Cost:
    seconds = len(to_do) * SECONDS_PER_EXPOSURE + sum(r.n_pixels for r in to_do) / 1e6 * SECONDS_PER_MPIX
    places, grid = [d for r in to_do for d in r.detectors], _grid(config, to_do)
    cells = sum(d.naxis1 * d.naxis2 * d.pixel_scale**2 for d in places) / grid.cell**2 if grid else 0.0
    return Cost(seconds, cells * MAP_BYTES_PER_CELL + len(places) * MAP_BYTES)


def _products(config: FieldConfig) -> list[Path]:
    paths = FieldPaths.of(config)
    return [paths.exposure_table, paths.detector_table]


STAGE = Stage("summarize", run=_run, plan=_plan, products=_products, cost=_cost, place="DECam_BACK")
