"""Summarize: decode each detector once, measure it, make its stamp; the tables that all later stages read.

A file of stamps that is gone does not make an exposure be measured again. Stamps are not kept where
the configuration says so; whoever needs them later has `restore_stamps`.
"""

from __future__ import annotations

from dataclasses import asdict

from prefect import task

from kred_core import stages
from kred_core.check import ExposureReport
from kred_core.config import FieldConfig
from kred_core.masks import PixelRule
from kred_core.products import FieldPaths
from kred_core.stamp import StampGrid

from .caching import Manifest, Work, stage_task

__all__ = ["restore_stamps", "summarize_exposure", "summarize_field"]


def _work(config: FieldConfig, report: ExposureReport, grid: StampGrid) -> Work:
    paths = FieldPaths.of(config)
    exposure = paths.exposure(report.file)
    mask = paths.mask_of(exposure)
    facts = {"detectors": list(report.extnames), "magzero": report.magzero, "grid": asdict(grid)}
    facts |= PixelRule.of(config).facts(report.extnames)
    return Work(report.root, files=[exposure, *([mask] if mask else [])], options=[config.summarize], facts=facts)


@stage_task("summarize", version=3, work=_work)
def summarize_exposure(config: FieldConfig, report: ExposureReport, grid: StampGrid) -> Manifest:
    """Decode and measure the detectors of one exposure, and make their stamps."""
    record, _ = stages.summarize_exposure(config, report, grid)
    return Manifest.of([record])


def _restore_work(config: FieldConfig, report: ExposureReport, grid: StampGrid) -> Work:
    work = _work(config, report, grid)
    return Work(work.unit, [*work.files, FieldPaths.of(config).record("summarize", report.root)], work.options, work.facts)


@stage_task("stamps", version=2, work=_restore_work)
def restore_stamps(config: FieldConfig, report: ExposureReport, grid: StampGrid) -> Manifest:
    """Make the stamps of one exposure again that has been measured already."""
    return Manifest.of([stages.restore_stamps(config, report, grid)])


@task(name="summarize field", task_run_name="summarize {config.field}")
def summarize_field(config: FieldConfig) -> list[ExposureReport]:
    """Collect what was measured; write the exposure, detector and quality tables."""
    return stages.summarize_field(config)
