"""The stage check: is each exposure readable, complete, known, there only once? A verdict with reasons; no pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..config import CheckConfig, FieldConfig
from ..errors import ExposureError
from ..exposures import check, duplicates
from ..exposures.check import ExposureReport
from ..products import FieldPaths, read_record, roles
from .exposures import check_exposure, check_field, with_pixels
from .plan import Plan, Planned
from .run import Run
from .stage import Cost, Stage
from .work import REFUSED, Manifest, Step, Unit, Work

__all__ = ["CHECK", "STAGE"]

SECONDS_PER_EXPOSURE, SECONDS_PER_MB = 0.04, 0.0005  # CPU, as tests/benchmarks/chain.py measures them


def _work(config: FieldConfig, path: Path, zero_point: float | None) -> Work:
    mask, remark = roles.mask_of(path)  # the remark depends on what else lies there
    options = config.check.model_copy(update={"zero_points": ""})  # of that table only the exposure's own value counts
    facts = {"zero_point": zero_point, "mask": remark}
    return Work(path.name, files=[path, *([mask] if mask else [])], options=[options], facts=facts)


def _do(config: FieldConfig, path: Path, zero_point: float | None) -> Manifest:
    record = check_exposure(config, path, zero_point)
    return Manifest.of([record], **{REFUSED: "; ".join((read_record(record) or {}).get("refused", ()))})


CHECK = Step("check", 4, _work, _do)


def _units(config: FieldConfig) -> Iterator[Unit]:
    paths, points = FieldPaths.of(config), check.zero_points(config.check.zero_points)
    for path in paths.exposures():
        if paths.has_plain_name(path):  # the others are refused for their names
            yield path.name, {"path": path, "zero_point": points.get(paths.root_of(path))}


def _run(run: Run) -> None:
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
        record = read_record(paths.record("check", path.name)) if path in current else None
        found.append(ExposureReport.from_record(record) if record else _judged(path, quick, points))
    plan.reports = [with_pixels(paths, report) for report in duplicates.compare(found)]
    to_do = [path for path in exposures if path not in current]
    seconds = len(to_do) * SECONDS_PER_EXPOSURE + sum(path.stat().st_size for path in to_do) / 1e6 * SECONDS_PER_MB
    return [Planned("check", "exposures", len(exposures), len(to_do), Cost(seconds))]


def _judged(path: Path, config: CheckConfig, points: dict[str, float]) -> ExposureReport:
    try:
        return check.judge(path, config, points)
    except ExposureError as e:  # it may be readable when the run comes to it
        return ExposureReport(FieldPaths.root_of(path), path.name, refused=(str(e),))


STAGE = Stage("check", run=_run, plan=_plan, products=lambda config: [FieldPaths.of(config).quality_table])
