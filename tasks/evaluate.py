"""Evaluate: a figure, a coverage figure and numbers for each mosaic, one figure of the field for each image and background, and
the page that shows all of it."""

from __future__ import annotations

from prefect import task

from kred_core import __version__, report, stages
from kred_core.config import FieldConfig
from kred_core.products import FieldPaths

from .caching import Manifest, Work, stage_task

__all__ = ["draw_field", "evaluate_mosaic", "tabulate_mosaics", "write_page"]


def _work(config: FieldConfig, tile: str, image: str) -> Work:
    paths = FieldPaths.of(config)
    made = [background == "matched" for background in config.coadd.backgrounds]
    files = [file(tile, image, matched) for matched in made for file in (paths.mosaic, paths.coverage)]
    return Work(stages.mosaic_unit(tile, image, config.coadd.backgrounds), files=files, options=[config.evaluate])


@stage_task("evaluate", version=3, work=_work)
def evaluate_mosaic(config: FieldConfig, tile: str, image: str) -> Manifest:
    """Measure the mosaics of one image of a tile and draw them."""
    return Manifest.of_figures(stages.evaluate_mosaic(config, tile, image))


def _field_work(config: FieldConfig, image: str, background: str, tiles: list[str]) -> Work:
    paths, matched = FieldPaths.of(config), background == "matched"
    files = [paths.reduced(tile, image, matched) for tile in tiles]
    return Work(paths.field_figure(image, matched).stem, files=files, facts={"tiles": tiles})


@stage_task("draw", version=3, work=_field_work)
def draw_field(config: FieldConfig, image: str, background: str, tiles: list[str]) -> Manifest:
    """Draw the tiles of one image where they lie on the sky."""
    return Manifest.of_figures([stages.draw_field(config, image, background, tiles)])


@task(name="tabulate mosaics", task_run_name="mosaic table of {config.field}")
def tabulate_mosaics(config: FieldConfig) -> None:
    """Collect the numbers of all mosaics of the field."""
    stages.tabulate_mosaics(config)


def _page_work(config: FieldConfig) -> Work:
    files = [*report.inputs(FieldPaths.of(config)), *stages.tile_inputs(config)]
    return Work(config.field, files=files, facts={"kred": __version__})


@stage_task("report", version=2, work=_page_work)
def write_page(config: FieldConfig) -> Manifest:
    """Make the page for people who only want to look."""
    return Manifest.of(report.write_field_page(FieldPaths.of(config)))
