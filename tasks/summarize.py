"""Summarize: decode each detector once and measure it; the tables that all later stages read."""

from __future__ import annotations

from prefect import task

from kred_core import stages
from kred_core.check import ExposureReport
from kred_core.config import FieldConfig
from kred_core.products import FieldPaths

from .caching import Manifest, Work, stage_task

__all__ = ["summarize_exposure", "summarize_field"]


def _work(config: FieldConfig, report: ExposureReport) -> Work:
    paths = FieldPaths.of(config)
    exposure = paths.exposure(report.file)
    mask = paths.mask_of(exposure)
    files = [exposure, *([mask] if mask else [])]
    return Work(report.root, files=files, options=[config.summarize], facts={"detectors": list(report.extnames)})


@stage_task("summarize", version=1, work=_work)
def summarize_exposure(config: FieldConfig, report: ExposureReport) -> Manifest:
    """Decode and measure the detectors of one exposure."""
    return Manifest.of([stages.summarize_exposure(config, report)])


@task(name="summarize field", task_run_name="summarize {config.field}")
def summarize_field(config: FieldConfig) -> list[ExposureReport]:
    """Collect what was measured; write the exposure, detector and quality tables."""
    return stages.summarize_field(config)
