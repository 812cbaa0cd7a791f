"""Evaluate: a figure, a coverage figure and numbers for each mosaic, and one figure of the field for each image."""

from __future__ import annotations

from prefect import task

from kred_core import stages
from kred_core.config import FieldConfig
from kred_core.products import FieldPaths

from .caching import Manifest, Work, stage_task

__all__ = ["draw_field", "evaluate_mosaic", "tabulate_mosaics"]


def _work(config: FieldConfig, tile: str, image: str) -> Work:
    paths = FieldPaths.of(config)
    return Work(f"{tile}.{image}", files=[paths.mosaic(tile, image), paths.coverage(tile, image)], options=[config.evaluate])


@stage_task("evaluate", version=1, work=_work)
def evaluate_mosaic(config: FieldConfig, tile: str, image: str) -> Manifest:
    """Measure one mosaic and draw it."""
    return Manifest.of(stages.evaluate_mosaic(config, tile, image))


def _field_work(config: FieldConfig, image: str, tiles: list[str]) -> Work:
    paths = FieldPaths.of(config)
    return Work(image, files=[paths.reduced(tile, image) for tile in tiles], facts={"tiles": tiles})


@stage_task("draw", version=1, work=_field_work)
def draw_field(config: FieldConfig, image: str, tiles: list[str]) -> Manifest:
    """Draw the tiles of one image where they lie on the sky."""
    return Manifest.of([stages.draw_field(config, image, tiles)])


@task(name="tabulate mosaics", task_run_name="mosaic table of {config.field}")
def tabulate_mosaics(config: FieldConfig) -> None:
    """Collect the numbers of all mosaics of the field."""
    stages.tabulate_mosaics(config)
