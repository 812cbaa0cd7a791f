"""The stage check: is each exposure readable, complete, known, there only once? A verdict with reasons; no pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..config import CheckConfig, FieldConfig
from ..errors import ExposureError
from ..exposures import check, duplicates, summary
from ..exposures.check import ExposureReport
from ..exposures.summary import ExposureSummary
from ..products import FieldPaths, read_record, roles, tables, write_record
from .executor import UnitRunner
from .stage import Cost, Plan, Planned, Stage
from .work import REFUSED, Manifest, Step, Unit, Work

SECONDS_PER_EXPOSURE, SECONDS_PER_MB = 0.04, 0.0005  # CPU, as tests/benchmarks/chain.py measures them


def _work(config: FieldConfig, path: Path, zero_point: float | None) -> Work:
    mask, remark = roles.mask_of(path)  # the remark depends on what else lies there
    options = config.check.model_copy(update={"zero_points": ""})  # of that table only the exposure's own value counts
    facts = {"zero_point": zero_point, "mask": remark}
    return Work(path.name, files=[path, *([mask] if mask else [])], options=[options], facts=facts)


def check_exposure(config: FieldConfig, path: Path, zero_point: float | None) -> Manifest:
    """Judge one exposure, perhaps with a MAGZERO of the user's own, and keep the report."""
    record = FieldPaths.of(config).verdict(path.name)
    record.unlink(missing_ok=True)  # an older verdict must not outlive a failure
    points = {} if zero_point is None else {FieldPaths.root_of(path): zero_point}
    report = check.judge(path, config.check, points)
    write_record(record, asdict(report))
    return Manifest.of([record], **{REFUSED: "; ".join(report.refused)})


CHECK = Step("check", 4, _work, check_exposure)


def check_field(config: FieldConfig) -> list[ExposureReport]:
    """Collect the reports of all exposures, find duplicates, and write the quality table."""
    paths = FieldPaths.of(config)
    reports = duplicates.compare(_checked(config, path) for path in paths.exposures())
    write_quality(paths, reports)
    return reports


def judged(config: FieldConfig) -> list[ExposureReport]:
    """Return what is known of each exposure that was checked: from headers and, where it was measured, from pixels."""
    paths = FieldPaths.of(config)
    known = [path for path in paths.exposures() if not paths.has_plain_name(path) or paths.verdict(path.name).is_file()]
    return with_pixels(paths, duplicates.compare(_checked(config, path) for path in known))


def with_pixels(paths: FieldPaths, reports: Iterable[ExposureReport]) -> list[ExposureReport]:
    """Return reports with what the pixels have shown, where they have been looked at."""
    found = []
    for report in reports:
        record = None if report.refused else read_record(paths.measurements(report.root))
        found.append(summary.combine(report, ExposureSummary.from_record(record)) if record else report)
    return found


def _checked(config: FieldConfig, path: Path) -> ExposureReport:
    paths = FieldPaths.of(config)
    if not paths.has_plain_name(path):  # no task, record or table could have that name, and no file says more
        return check.judge(path, config.check, {})
    with suppress(KeyError, TypeError):
        record = read_record(paths.verdict(path.name))
        if record is not None:
            return ExposureReport.from_record(record)
    return ExposureReport(paths.root_of(path), path.name, refused=("it has not been checked; run the stage 'check'",))


def write_quality(paths: FieldPaths, reports: Iterable[ExposureReport]) -> None:
    """Write the verdicts for people."""
    table = tables.make(check.quality_rows(reports), tables.QUALITY)
    tables.write(table, paths.quality_table, f"Verdict on each exposure of {paths.field}")


def _units(config: FieldConfig) -> Iterator[Unit]:
    paths, points = FieldPaths.of(config), check.zero_points(config.check.zero_points)
    for path in paths.exposures():
        if paths.has_plain_name(path):  # the others are refused for their names
            yield path.name, {"path": path, "zero_point": points.get(paths.root_of(path))}


def _run(run: UnitRunner) -> None:
    run.each(CHECK, _units(run.config))
    run.outcome.reports = run.once(check_field)


def _plan(plan: Plan) -> Sequence[Planned]:
    config, paths = plan.config, plan.paths
    current = {a["path"] for _, a in _units(config) if CHECK.is_current(config, a)}
    exposures = paths.exposures()
    quick = config.check.model_copy(update={"verify_checksums": False})  # verifying them means reading every file
    points = check.zero_points(config.check.zero_points)
    found = []
    for path in exposures:
        record = read_record(paths.verdict(path.name)) if path in current else None
        found.append(ExposureReport.from_record(record) if record else _judged(path, quick, points))
    plan.reports = duplicates.compare(found)
    to_do = [path for path in exposures if path not in current]
    seconds = len(to_do) * SECONDS_PER_EXPOSURE + sum(path.stat().st_size for path in to_do) / 1e6 * SECONDS_PER_MB
    return [Planned("check", "exposures", len(exposures), len(to_do), Cost(seconds))]


def _judged(path: Path, config: CheckConfig, points: dict[str, float]) -> ExposureReport:
    try:
        return check.judge(path, config, points)
    except ExposureError as e:  # it may be readable when the run comes to it
        return ExposureReport(FieldPaths.root_of(path), path.name, refused=(str(e),))


STAGE = Stage("check", run=_run, plan=_plan, products=lambda config: [FieldPaths.of(config).quality_table])
