"""Evaluate: a figure, a coverage figure and numbers for each mosaic."""

from __future__ import annotations

from prefect import task

from kred_core import stages
from kred_core.config import FieldConfig
from kred_core.products import FieldPaths

from .caching import Manifest, Work, stage_task

__all__ = ["evaluate_field", "evaluate_mosaic"]


def _work(config: FieldConfig, tile: str, image: str) -> Work:
    paths = FieldPaths.of(config)
    return Work(f"{tile}.{image}", files=[paths.mosaic(tile, image), paths.coverage(tile, image)], options=[config.evaluate])


@stage_task("evaluate", version=1, work=_work)
def evaluate_mosaic(config: FieldConfig, tile: str, image: str) -> Manifest:
    """Measure one mosaic and draw it."""
    return Manifest.of(stages.evaluate_mosaic(config, tile, image))


@task(name="evaluate field", task_run_name="evaluate {config.field}")
def evaluate_field(config: FieldConfig) -> None:
    """Collect the numbers of all mosaics; draw the field."""
    stages.evaluate_field(config)
