"""The stage evaluate: a figure, a coverage figure and numbers for each mosaic, one figure of the field for each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..binned import BinnedGrid
from ..config import BackgroundKind, FieldConfig
from ..exposures.check import ExposureReport
from ..products import FieldPaths
from . import mosaics
from .coadd import images_of, most_mosaics
from .mosaics import evaluated_tiles, mosaic_names, mosaic_unit, tabulate_mosaics
from .plan import Plan, Planned
from .run import Run
from .stage import Cost, Stage
from .work import Manifest, Step, Unit, Work

__all__ = ["DRAW_FIELD", "EVALUATE", "STAGE"]

SECONDS_PER_FIGURE, SECONDS_PER_MPIX = 0.7, 0.01  # CPU


def _work(config: FieldConfig, tile: str, image: str) -> Work:
    paths = FieldPaths.of(config)
    files = [file(tile, image, kind) for kind in config.coadd.backgrounds for file in (paths.mosaic, paths.coverage)]
    return Work(mosaic_unit(tile, image, config.coadd.backgrounds), files=files, options=[config.evaluate])


def _do(config: FieldConfig, tile: str, image: str) -> Manifest:
    return Manifest.of_figures(mosaics.evaluate_mosaic(config, tile, image))


def _field_work(config: FieldConfig, image: str, background: BackgroundKind, tiles: list[str]) -> Work:
    paths = FieldPaths.of(config)
    files = [paths.reduced(tile, image, background) for tile in tiles]
    return Work(paths.field_figure(image, background).stem, files=files, facts={"tiles": tiles})


def _draw_field(config: FieldConfig, image: str, background: BackgroundKind, tiles: list[str]) -> Manifest:
    return Manifest.of_figures([mosaics.draw_field(config, image, background, tiles)])


EVALUATE = Step("evaluate", 3, _work, _do)
DRAW_FIELD = Step("draw", 3, _field_work, _draw_field)


def _field_figures(config: FieldConfig) -> list[Unit]:
    return [
        (f"{image}, {background}", {"image": image, "background": background, "tiles": tiles})
        for (image, background), tiles in evaluated_tiles(config).items()
    ]


def _run(run: Run) -> None:
    backgrounds = run.config.coadd.backgrounds
    if not backgrounds:
        return  # no mosaics were asked for
    names = mosaic_names(run.config)
    run.each(EVALUATE, [(mosaic_unit(t, i, backgrounds), {"tile": t, "image": i}) for t, i in names])
    run.each(DRAW_FIELD, _field_figures(run.config))
    run.once(tabulate_mosaics)


def _plan(plan: Plan) -> Sequence[Planned]:
    config = plan.config
    drawn = [p for p in plan.made if EVALUATE.is_current(config, {"tile": p.tile, "image": p.image})]
    to_do = [p for p in plan.mosaics if p not in drawn]
    images = {p.image for p in plan.mosaics}
    complete = images - {p.image for p in to_do}
    shown = _field_figures(config) if complete else []
    current = sum(DRAW_FIELD.is_current(config, a) for _, a in shown if a["image"] in complete)
    of_field = len(images) * len(config.coadd.backgrounds)
    figures = sum(len(p.backgrounds) for p in to_do) + of_field - current
    seconds = figures * SECONDS_PER_FIGURE + sum(p.n_pixels for p in to_do) / 1e6 * SECONDS_PER_MPIX
    return [Planned("evaluate", "figures", len(plan.mosaics) + of_field, len(to_do) + of_field - current, Cost(seconds))]


def _products(config: FieldConfig) -> Iterator[Path]:
    """The figures that the present tables call for."""
    paths = FieldPaths.of(config)
    for tile, image in mosaic_names(config):
        for background in config.coadd.backgrounds:
            yield paths.mosaic_figure(tile, image, background)
            yield paths.coverage_figure(tile, image, background)
            yield paths.field_figure(image, background)
        if config.coadd.mosaics == "both":
            yield paths.comparison_figure(image, tile)


def _cost(config: FieldConfig, usable: Sequence[ExposureReport], grid: BinnedGrid | None) -> Cost:
    n, pixels = most_mosaics(config, usable)
    return Cost((n + len(images_of(config, usable))) * SECONDS_PER_FIGURE + pixels / 1e6 * SECONDS_PER_MPIX)


STAGE = Stage("evaluate", run=_run, plan=_plan, products=_products, cost=_cost)
