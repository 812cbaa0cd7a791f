"""Check: is each exposure readable, complete and known? Verdicts with reasons, in the quality table and the UI."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from kred_core import inventory, stages
from kred_core.check import ExposureReport
from kred_core.config import FieldConfig
from kred_core.products import read_record

from .caching import REFUSED, Manifest, Work, stage_task

__all__ = ["check_exposure", "check_field"]


def _work(config: FieldConfig, path: Path, zero_point: float | None) -> Work:
    mask, remark = inventory.mask_of(path)  # the remark depends on what else lies there
    options = config.check.model_copy(update={"zero_points": ""})  # of that table only the exposure's own value counts
    facts = {"zero_point": zero_point, "mask": remark}
    return Work(path.name, files=[path, *([mask] if mask else [])], options=[options], facts=facts)


@stage_task("check", version=4, work=_work)
def check_exposure(config: FieldConfig, path: Path, zero_point: float | None) -> Manifest:
    """Judge one exposure by its headers, lengths and checksums."""
    record = stages.check_exposure(config, path, zero_point)
    return Manifest.of([record], **{REFUSED: "; ".join((read_record(record) or {}).get("refused", ()))})


@task(name="check field", task_run_name="check {config.field}")
def check_field(config: FieldConfig) -> list[ExposureReport]:
    """Collect the verdicts, find duplicates, write the quality table."""
    return stages.check_field(config)
