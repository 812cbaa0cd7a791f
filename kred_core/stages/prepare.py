"""The stage prepare: detectors in counts28 minus one background per exposure, for people who want to look at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..binned import BinnedGrid
from ..config import FieldConfig
from ..exposures.check import ExposureReport
from ..products import FieldPaths
from ..words import counted
from .exposures import Preparation, plan_preparation, prepare_exposure
from .plan import Plan, Planned
from .run import Run
from .stage import Cost, Stage
from .work import Manifest, Step, Work

__all__ = ["PREPARE", "STAGE", "copies_size"]

SECONDS_PER_EXPOSURE, SECONDS_PER_MPIX = 0.03, 0.0014  # CPU


def _work(config: FieldConfig, plan: Preparation) -> Work:
    facts = asdict(plan) | {"extnames": list(plan.extnames), "output": config.prepare.output}
    return Work(plan.root, files=[FieldPaths.of(config).exposure(plan.file)], facts=facts)


def _do(config: FieldConfig, plan: Preparation) -> Manifest:
    return Manifest.of(prepare_exposure(config, plan))


PREPARE = Step("prepare", 1, _work, _do)


def _run(run: Run) -> None:
    run.each(PREPARE, [(p.root, {"plan": p}) for p in run.once(plan_preparation)])


def _plan(plan: Plan) -> Sequence[Planned]:
    config, current = plan.config, set()
    if plan.is_fresh("summarize"):
        current = {p.root for p in plan_preparation(config) if PREPARE.is_current(config, {"plan": p})}
    to_do = [r for r in plan.usable if r.root not in current]
    return [Planned("prepare", "exposures", len(plan.usable), len(to_do), _cost(config, to_do))]


def _cost(config: FieldConfig, to_do: Sequence[ExposureReport], grid: BinnedGrid | None = None) -> Cost:
    seconds = len(to_do) * SECONDS_PER_EXPOSURE + sum(r.n_pixels for r in to_do) / 1e6 * SECONDS_PER_MPIX
    return Cost(seconds, sum(copies_size(config, config.prepare.output, r) for r in to_do))


def copies_size(config: FieldConfig, output: str, report: ExposureReport) -> float:
    """Return the bytes of rescaled copies of the usable detectors of an exposure: as large as what they are copies of."""
    match output:
        case "compressed":
            return FieldPaths.of(config).exposure(report.file).stat().st_size * len(report.detectors) / report.n_detectors
        case "plain":
            return report.n_pixels * 4
        case _:
            return 0.0


def _products(config: FieldConfig) -> list[Path]:
    if config.prepare.output == "none":
        return []
    paths, plain = FieldPaths.of(config), config.prepare.output == "plain"
    return [paths.prepared_detector(p.root, e, plain) for p in plan_preparation(config) for e in p.extnames]


def _leftovers(config: FieldConfig) -> list[str]:
    directory = FieldPaths.of(config).prepared
    old = set(directory.glob("[!.]*.fits*")) - set(_products(config))
    return [f"{counted(len(old), 'file')} of an earlier run in {directory}, not used"] if old else []


STAGE = Stage("prepare", run=_run, plan=_plan, products=_products, leftovers=_leftovers, cost=_cost, place="DECam_PREP")
