"""The stages whose unit is an exposure: check, summarize, prepare; and the tables of the field that they end in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from astropy.table import Table

from .. import binned, survey
from ..binned import BinnedGrid
from ..config import FieldConfig
from ..errors import InputError
from ..exposures import check, duplicates, rescale, summary
from ..exposures.check import ExposureReport
from ..exposures.exposure import Exposure
from ..exposures.masks import PixelRule
from ..exposures.summary import ExposureSummary
from ..products import FieldPaths, read_record, tables, write_record
from ..words import counted

__all__ = [
    "Preparation",
    "binned_grid",
    "check_exposure",
    "check_field",
    "explain_images",
    "judged",
    "plan_preparation",
    "preparations",
    "prepare_exposure",
    "read_summary",
    "restore_binned_maps",
    "summarize_exposure",
    "summarize_field",
    "with_pixels",
    "without_binned_maps",
]


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
    record = FieldPaths.of(config).record("check", path.name)
    record.unlink(missing_ok=True)  # an older verdict must not outlive a failure
    points = {} if zero_point is None else {FieldPaths.root_of(path): zero_point}
    write_record(record, asdict(check.judge(path, config.check, points)))
    return record


def check_field(config: FieldConfig) -> list[ExposureReport]:
    """Collect the reports of all exposures, find duplicates, and write the quality table."""
    paths = FieldPaths.of(config)
    reports = [_checked(config, path) for path in paths.exposures()]
    reports = duplicates.compare(reports)
    _write_quality(paths, reports)
    return reports


def judged(config: FieldConfig) -> list[ExposureReport]:
    """What is known of each exposure that was checked: from headers and, where it was measured, from pixels."""
    paths = FieldPaths.of(config)
    known = [path for path in paths.exposures() if not paths.has_plain_name(path) or paths.record("check", path.name).is_file()]
    return [with_pixels(paths, report) for report in duplicates.compare(_checked(config, path) for path in known)]


def with_pixels(paths: FieldPaths, report: ExposureReport) -> ExposureReport:
    """A report with what the pixels have shown, where they have been looked at."""
    record = read_record(paths.record("summarize", report.root)) if not report.refused else None
    return summary.combine(report, ExposureSummary.from_record(record)) if record else report


def _checked(config: FieldConfig, path: Path) -> ExposureReport:
    paths = FieldPaths.of(config)
    if not paths.has_plain_name(path):  # no task, record or table could have that name, and no file says more
        return check.judge(path, config.check, {})
    with suppress(KeyError, TypeError):
        record = read_record(paths.record("check", path.name))
        if record is not None:
            return ExposureReport.from_record(record)
    return ExposureReport(paths.root_of(path), path.name, refused=("it has not been checked; run the stage 'check'",))


def _write_quality(paths: FieldPaths, reports: Iterable[ExposureReport]) -> None:
    table = tables.make(check.quality_rows(reports), tables.QUALITY)
    tables.write(table, paths.quality_table, f"Verdict on each exposure of {paths.field}")


def binned_grid(config: FieldConfig, usable: Iterable[ExposureReport]) -> BinnedGrid:
    """The grid of cells for the detectors of a field: its cells follow the median pixel scale of all of them.

    Raises
    ------
    ConfigError, InputError
        See `kred_core.binned.binned_grid`; also where no detector can be used.
    """
    scales = [d.pixel_scale for report in usable for d in report.detectors]
    if not scales:
        raise InputError(f"field {config.field}: none of its detectors can be used")
    return binned.binned_grid(config, median(scales))


def summarize_exposure(config: FieldConfig, report: ExposureReport, grid: BinnedGrid) -> list[Path]:
    """Measure the usable detectors of one exposure, average them onto the grid, and keep the results.

    Returns
    -------
    list of `~pathlib.Path`
        The record of the measurements, and the file of binned maps.
    """
    paths = FieldPaths.of(config)
    record, maps = paths.record("summarize", report.root), paths.binned_file(report.root)
    record.unlink(missing_ok=True)
    maps.unlink(missing_ok=True)
    scale = rescale.factor(report.magzero)
    path, rule = paths.exposure(report.file), PixelRule.of(config)
    measured, made = summary.summarize(path, report.extnames, config.summarize, grid, scale, rule)
    binned.write(maps, grid, made)
    write_record(record, measured.to_record())
    return [record, maps]


def without_binned_maps(config: FieldConfig, usable: Iterable[ExposureReport], grid: BinnedGrid) -> list[ExposureReport]:
    """Those exposures that have been measured and have no file of binned maps, an incomplete one, or one on another grid."""
    paths = FieldPaths.of(config)

    def lacks(report: ExposureReport) -> bool:
        path = paths.binned_file(report.root)
        try:
            binned.boxes(path)  # stand at the end of a whole file
            return binned.grid_of(path) != grid
        except InputError:
            return True

    return [r for r in usable if paths.record("summarize", r.root).is_file() and lacks(r)]


def restore_binned_maps(config: FieldConfig, report: ExposureReport, grid: BinnedGrid) -> Path:
    """Make the binned maps of one measured exposure again, as `summarize_exposure` made them, without measuring.

    Returns
    -------
    `~pathlib.Path`
        The file of binned maps.

    Raises
    ------
    InputError
        The exposure has not been measured.
    """
    paths = FieldPaths.of(config)
    record = read_record(paths.record("summarize", report.root))
    if record is None:
        raise InputError(f"{report.root} has not been summarized; run the stage 'summarize' (--from summarize)")
    measured, scale = ExposureSummary.from_record(record), rescale.factor(report.magzero)
    maps = paths.binned_file(report.root)
    binned.write(maps, grid, summary.bin_exposure(paths.exposure(report.file), measured, grid, scale, PixelRule.of(config)))
    return maps


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
    paths = FieldPaths.of(config)
    images = survey.images(config.field, config.survey)
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
            report = report.remark(f"{report.filter} with {report.exptime:g} s belongs to no image (--survey.image-table)")
        reports.append(report)
    _write_quality(paths, reports)
    usable = [r for r in reports if not r.refused]
    if not usable:
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
    return preparations(config, *read_summary(FieldPaths.of(config)))


def explain_images(config: FieldConfig) -> list[str]:
    """A sentence about the images of a field without an image table; none where there is one."""
    exposures, _ = read_summary(FieldPaths.of(config))
    words = survey.images(config.field, config.survey).explain(map(str, exposures["FILTER"]))
    return [words] if words else []


def read_summary(paths: FieldPaths) -> tuple[Table, Table]:
    """The exposure and detector tables of a field."""
    exposures = tables.read(paths.exposure_table, tables.EXPOSURES, "summarize")
    detectors = tables.read(paths.detector_table, tables.DETECTORS, "summarize")
    return exposures, detectors


def preparations(config: FieldConfig, exposures: Table, detectors: Table) -> list[Preparation]:
    """Factor and background of each exposure in the tables."""
    members: dict[str, list[int]] = {}
    for i, root in enumerate(detectors["Root"]):
        members.setdefault(str(root), []).append(i)
    plans = []
    for row in exposures:
        own = detectors[members[str(row["Root"])]]
        scale = float(row["XFACTOR"])
        back = rescale.exposure_background(config.prepare.background, own["Mode"], own["Med"], scale)
        plans.append(Preparation(str(row["Root"]), str(row["File"]), tuple(map(str, own["EXTNAME"])), scale, back))
    return plans


def prepare_exposure(config: FieldConfig, plan: Preparation) -> list[Path]:
    """Write one exposure in counts28, minus its background.

    Returns
    -------
    list of `~pathlib.Path`
        One file for each detector; empty where the configuration asks for none.
    """
    paths = FieldPaths.of(config)
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
