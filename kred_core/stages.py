"""The stages of the pipeline, each from its inputs on disk to its products on disk.

This is the one place that knows which files a stage reads and writes; the
science is in the modules it calls. Every function can be called alone, from a
notebook too, and does its whole work each time: what is up to date is for the
caller to decide (`tasks.caching`). Units of work are exposures and mosaics, so
that thousands of detectors are a hundred calls.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from astropy.table import Table, vstack

from . import calibration, check, figures, quality, rescale, summary, survey, tables, tiling
from .check import ExposureReport
from .coadd import native, swarp
from .coadd.plan import CoaddPlan, make_plan
from .config import FieldConfig
from .errors import ExposureError, InputError
from .exposure import Exposure
from .products import FieldPaths, link, read_record, write_record
from .summary import ExposureSummary

__all__ = [
    "Preparation",
    "check_exposure",
    "check_field",
    "coadd",
    "evaluate_field",
    "evaluate_mosaic",
    "fields_to_use",
    "missing_products",
    "paths_of",
    "plan_coadds",
    "plan_preparation",
    "preflight",
    "prepare_exposure",
    "summarize_exposure",
    "summarize_field",
    "tile_inputs",
    "tiles_field",
]

log = logging.getLogger(__name__)


def paths_of(config: FieldConfig) -> FieldPaths:
    """Where the files of a field are."""
    return FieldPaths(config.root, config.field)


# check


def check_exposure(config: FieldConfig, path: Path, zero_point: float | None) -> Path:
    """Judge one exposure and keep the report.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    path : `~pathlib.Path`
        The MEF.
    zero_point : float or None
        MAGZERO that the user gave for it.

    Returns
    -------
    `~pathlib.Path`
        The record.
    """
    record = paths_of(config).record("check", path.name)
    record.unlink(missing_ok=True)  # an older verdict must not outlive a failure
    points = {} if zero_point is None else {FieldPaths.root_of(path): zero_point}
    write_record(record, asdict(check.judge(path, config.check, points)))
    return record


def check_field(config: FieldConfig) -> list[ExposureReport]:
    """Collect the reports of all exposures, find duplicates, and write the quality table."""
    paths = paths_of(config)
    reports = [_checked(paths, path) for path in paths.exposures()]
    reports = check.compare(reports)
    _write_quality(paths, reports)
    return reports


def _checked(paths: FieldPaths, path: Path) -> ExposureReport:
    with suppress(KeyError, TypeError):
        record = read_record(paths.record("check", path.name))
        if record is not None:
            return ExposureReport.from_record(record)
    return ExposureReport(paths.root_of(path), path.name, refused=("it has not been checked; run the stage 'check'",))


def _write_quality(paths: FieldPaths, reports: Iterable[ExposureReport]) -> None:
    table = tables.make(check.quality_rows(reports), tables.QUALITY)
    tables.write(table, paths.quality_table, f"Verdict on each exposure of {paths.field}")


# summarize


def summarize_exposure(config: FieldConfig, report: ExposureReport) -> Path:
    """Measure the usable detectors of one exposure and keep the result.

    Returns
    -------
    `~pathlib.Path`
        The record.
    """
    paths = paths_of(config)
    record = paths.record("summarize", report.root)
    record.unlink(missing_ok=True)
    measured = summary.summarize(paths.exposure(report.file), report.extnames, config.summarize)
    write_record(record, measured.to_record())
    return record


def summarize_field(config: FieldConfig) -> list[ExposureReport]:
    """Collect what was measured: exposure, detector and quality tables of the field.

    Returns
    -------
    list of ExposureReport
        The final verdict on each exposure.

    Raises
    ------
    InputError
        No exposure of the field can be used.
    """
    paths = paths_of(config)
    images = survey.images(config.survey)
    summaries: dict[str, ExposureSummary] = {}
    reports = []
    for report in check_field(config):
        if not report.refused:
            record = read_record(paths.record("summarize", report.root))
            if record is None:
                report = report.refuse("it has not been summarized; run the stage 'summarize'")
            else:
                summaries[report.root] = ExposureSummary.from_record(record)
                report = summary.combine(report, summaries[report.root])
        if not report.refused and not images.of_exposure(report.filter, report.exptime):
            report = report.remark(f"{report.filter} with {report.exptime:g} s belongs to no image")
        reports.append(report)
    _write_quality(paths, reports)
    usable = [r for r in reports if not r.refused]
    if not usable:
        raise InputError(f"field {paths.field}: none of its {len(reports)} exposures can be used; {paths.quality_table} says why")
    exposures = tables.make(summary.exposure_rows(reports, images, paths.field), tables.EXPOSURES)
    tables.write(exposures, paths.exposure_table, f"Exposures of {paths.field}")
    detectors = tables.make(summary.detector_rows(reports, summaries, paths.field), tables.DETECTORS)
    tables.write(detectors, paths.detector_table, f"Detectors of {paths.field}")
    return reports


# prepare


@dataclass(frozen=True)
class Preparation:
    """How one exposure becomes counts28: out = raw * scale - back."""

    root: str
    file: str
    extnames: tuple[str, ...]
    scale: float
    back: float


def plan_preparation(config: FieldConfig) -> list[Preparation]:
    """Factor and background of each usable exposure, from the tables."""
    return _preparations(config, *_summarized(paths_of(config)))


def _summarized(paths: FieldPaths) -> tuple[Table, Table]:
    exposures = tables.read(paths.exposure_table, tables.EXPOSURES, "summarize")
    detectors = tables.read(paths.detector_table, tables.DETECTORS, "summarize")
    return exposures, detectors


def _preparations(config: FieldConfig, exposures: Table, detectors: Table) -> list[Preparation]:
    members: dict[str, list[int]] = {}
    for i, root in enumerate(detectors["Root"]):
        members.setdefault(str(root), []).append(i)
    plans = []
    for row in exposures:
        own = detectors[members[str(row["Root"])]]
        scale = float(row["XFACTOR"])
        back = calibration.exposure_background(config.prepare.background, own["Mode"], own["Med"], scale)
        plans.append(Preparation(str(row["Root"]), str(row["File"]), tuple(map(str, own["EXTNAME"])), scale, back))
    return plans


def prepare_exposure(config: FieldConfig, plan: Preparation) -> list[Path]:
    """Write one exposure in counts28, minus its background.

    Returns
    -------
    list of `~pathlib.Path`
        One file for each detector; empty where the configuration asks for none.
    """
    paths = paths_of(config)
    wanted = config.prepare.output
    exposure = Exposure.open(paths.exposure(plan.file))
    written = []
    for detector in exposure.detectors:
        if detector.extname not in plan.extnames:
            continue
        for plain in (False, True):
            destination = paths.prepared_detector(plan.root, detector.extname, plain)
            if wanted == ("plain" if plain else "compressed"):
                rescale.rescale_detector(exposure.primary, detector, destination, plan.scale, plan.back, plain=plain)
                written.append(destination)
            else:
                destination.unlink(missing_ok=True)  # of an earlier choice
    return written


# tiles


def tiles_field(config: FieldConfig) -> dict[str, Path]:
    """Find which detectors feed which tile and image; write tile tables and links.

    Returns
    -------
    dict
        Table by tile; tiles that no detector touches are left out.

    Raises
    ------
    InputError
        A tile that was asked for by name, or every tile of the field, has no detector.
    """
    paths = paths_of(config)
    wanted = survey.tiles(config.field, config.survey, config.tiles)
    images = survey.images(config.survey)
    detectors = vstack([_joined(config, p) for p in fields_to_use(config)], metadata_conflicts="silent")
    written = {}
    for tile in wanted:
        selection = tiling.select(detectors, tile, images, config.tiling)
        log.info("%s %s: %s", config.field, tile.name, selection.explain())
        if len(selection.detectors) == 0:
            if config.tiles:
                raise InputError(f"no detector feeds tile {tile.name} of field {config.field}: {selection.explain()}")
            paths.tile_table(tile.name).unlink(missing_ok=True)
            continue
        table = selection.detectors[[c.name for c in tables.TILE]]
        tables.write(table, paths.tile_table(tile.name), f"Detectors that feed tile {tile.name} of {config.field}")
        _link_prepared(config, tile.name, table)
        written[tile.name] = paths.tile_table(tile.name)
    if not written:
        raise InputError(f"no detector of field {config.field} lies on any of its {len(wanted)} tiles; are its centre and tiles right?")
    return written


def fields_to_use(config: FieldConfig) -> list[FieldPaths]:
    """The field, and with ``tiling.all_fields`` every other summarized field of the same galaxy (name up to the first _)."""
    own = paths_of(config)
    if not config.tiling.all_fields:
        return [own]
    galaxy = config.field.split("_")[0]
    others = sorted(p.name.removesuffix("_det.tab") for p in own.detector_table.parent.glob(f"{galaxy}_*_det.tab"))
    return [own] + [FieldPaths(config.root, name) for name in others if name != config.field]


def tile_inputs(config: FieldConfig) -> list[Path]:
    """The tables that the selection of detectors depends on."""
    own = [Path(t) for t in (config.survey.tile_table, config.survey.image_table) if t]
    return own + [table for p in fields_to_use(config) for table in (p.exposure_table, p.detector_table)]


def _joined(config: FieldConfig, paths: FieldPaths) -> Table:
    """Detectors of one field with what their exposures add."""
    exposures, detectors = _summarized(paths)
    by_root = {str(row["Root"]): i for i, row in enumerate(exposures)}
    which = [by_root[str(root)] for root in detectors["Root"]]
    for name in ("File", "FILTER", "EXPTIME", "SEEING", "OBSID", "XFACTOR"):
        detectors[name] = exposures[name][which]
    backs = {p.root: p.back for p in _preparations(config, exposures, detectors)}
    detectors["SUB_BACK"] = [backs[str(root)] for root in detectors["Root"]]
    return detectors


def _link_prepared(config: FieldConfig, tile: str, table: Table) -> None:
    """Links to the prepared detectors of a tile, as many as there are, and none from an earlier selection."""
    directory = paths_of(config).prepared_tile(tile)
    for old in directory.glob("*.fits*") if directory.is_dir() else ():
        if old.is_symlink():
            old.unlink()
    for row in table:
        paths = FieldPaths(config.root, str(row["Field"]))
        for plain in (False, True):
            target = paths.prepared_detector(str(row["Root"]), str(row["EXTNAME"]), plain)
            if target.exists():
                link(directory / target.name, target)


# coadd


def plan_coadds(config: FieldConfig) -> list[CoaddPlan]:
    """The mosaics to make: one for each tile and image that has detectors, from the tile tables.

    Raises
    ------
    InputError
        No tile table, or none for a tile that was asked for by name.
    """
    paths = paths_of(config)
    images = survey.images(config.survey).names
    plans = []
    for tile in survey.tiles(config.field, config.survey, config.tiles):
        if not config.tiles and not paths.tile_table(tile.name).exists():
            continue  # all tiles of the field: those without detectors have no table
        table = tables.read(paths.tile_table(tile.name), tables.TILE, "tiles")
        centre = tiling.mosaic_centre(tile, table, config.tiling)
        for image in sorted(set(map(str, table["Image"])), key=lambda name: (images.index(name) if name in images else 0, name)):
            detectors = table[table["Image"] == image]
            plans.append(make_plan(config.field, tile.name, image, detectors, centre, _exposure_path(config), config.coadd))
    if not plans:
        raise InputError(f"field {config.field} has no tile table in {paths.exposure_table.parent}; run the stage 'tiles' first")
    return plans


def _exposure_path(config: FieldConfig):
    return lambda field, file: FieldPaths(config.root, field).exposure(file)


def coadd(config: FieldConfig, plan: CoaddPlan) -> list[Path]:
    """Make one mosaic and its coverage map.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    plan : CoaddPlan

    Returns
    -------
    list of `~pathlib.Path`
        The mosaic and its coverage map.
    """
    paths = paths_of(config)
    mosaic, coverage = paths.mosaic(plan.tile, plan.image), paths.coverage(plan.tile, plan.image)
    engine = {"native": native.coadd, "swarp": swarp.coadd}[config.coadd.engine]
    engine(plan, config.coadd, mosaic, coverage, plan.digest(config.coadd))
    return [mosaic, coverage]


# evaluate


def evaluate_mosaic(config: FieldConfig, tile: str, image: str) -> list[Path]:
    """Measure one mosaic and draw it.

    Returns
    -------
    list of `~pathlib.Path`
        The record of the numbers, the figure, the coverage figure.
    """
    paths = paths_of(config)
    record = paths.record("evaluate", f"{tile}.{image}")
    record.unlink(missing_ok=True)
    numbers, reduced = quality.measure_mosaic(
        paths.mosaic(tile, image), paths.coverage(tile, image), config.evaluate.figure_pixels
    )
    title = f"{config.field} {tile} {image}"
    figures.mosaic_figure(reduced, numbers, title, config.evaluate.stretch, paths.mosaic_figure(tile, image))
    figures.coverage_figure(reduced, numbers, title, paths.coverage_figure(tile, image))
    write_record(record, asdict(numbers))
    return [record, paths.mosaic_figure(tile, image), paths.coverage_figure(tile, image)]


def evaluate_field(config: FieldConfig) -> Path:
    """Collect the numbers of all mosaics that were evaluated into one table.

    Returns
    -------
    `~pathlib.Path`
        The table.
    """
    paths = paths_of(config)
    rows = []
    for plan in plan_coadds(config.model_copy(update={"tiles": []})):
        record = read_record(paths.record("evaluate", f"{plan.tile}.{plan.image}"))
        if record is not None and paths.mosaic(plan.tile, plan.image).exists():
            rows.append((plan.tile, plan.image, quality.MosaicNumbers(**record)))
    tables.write(quality.mosaic_table(config.field, rows), paths.mosaic_table, f"Numbers of the mosaics of {config.field}")
    return paths.mosaic_table


# before and after


def preflight(config: FieldConfig) -> None:
    """Find what would end a run before it begins.

    Raises
    ------
    InputError
        The data root, the field, a tile or a table is missing or unusable.
    ToolError
        SWarp is wanted and not installed.
    """
    paths = paths_of(config)
    if not config.root.is_dir():
        raise InputError(f"the data root {config.root} is no directory; give the one that holds DECam_MEF with --root")
    if not os.access(config.root, os.W_OK | os.X_OK):
        raise InputError(f"the data root {config.root} cannot be written to; products go below it")
    paths.exposures()
    check.zero_points(config.check.zero_points)
    survey.tiles(config.field, config.survey, config.tiles)
    survey.images(config.survey)
    if config.coadd.engine == "swarp" and "coadd" in config.run.stages:
        swarp.find()


def missing_products(config: FieldConfig) -> list[Path]:
    """Products of the stages of this run that are not on disk."""
    paths = paths_of(config)
    wanted = []
    if "check" in config.run.stages:
        wanted.append(paths.quality_table)
    if "summarize" in config.run.stages:
        wanted += [paths.exposure_table, paths.detector_table]
    if "prepare" in config.run.stages and config.prepare.output != "none":
        plain = config.prepare.output == "plain"
        wanted += [paths.prepared_detector(p.root, e, plain) for p in plan_preparation(config) for e in p.extnames]
    plans = plan_coadds(config) if {"tiles", "coadd", "evaluate"} & set(config.run.stages) else []
    for p in plans:
        if "coadd" in config.run.stages:
            wanted += [paths.mosaic(p.tile, p.image), paths.coverage(p.tile, p.image)]
        if "evaluate" in config.run.stages:
            wanted += [paths.mosaic_figure(p.tile, p.image), paths.coverage_figure(p.tile, p.image)]
    return [path for path in wanted if not path.is_file()]
