"""The stage tiles: which detectors feed which tile and image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import FieldConfig
from ..products import FieldPaths
from .exposures import explain_images
from .mosaics import link_prepared, tile_inputs, tile_names, tiles_field
from .plan import Plan, Planned
from .run import Run
from .stage import Cost, Stage
from .work import Manifest, Step, Work

__all__ = ["STAGE", "TILES"]

SECONDS = 0.1  # CPU


def _work(config: FieldConfig) -> Work:
    return Work(
        "_".join([config.field, *config.tiles]),
        files=tile_inputs(config),
        options=[config.survey, config.tiling, config.prepare],
        facts={"tiles": list(config.tiles), "size": config.coadd.size},
    )


def _do(config: FieldConfig) -> Manifest:
    return Manifest.of(tiles_field(config).values())


TILES = Step("tiles", 2, _work, _do)


def _run(run: Run) -> None:
    run.outcome.notes += explain_images(run.config)
    run.each(TILES, [(run.config.field, {})], required=True)
    run.once(link_prepared)


def _plan(plan: Plan) -> Sequence[Planned]:
    to_do = not (plan.is_fresh("summarize") and TILES.is_current(plan.config, {}))
    return [Planned("tiles", "field", 1, int(to_do), Cost(to_do * SECONDS))]


def _products(config: FieldConfig) -> list[Path]:
    return [FieldPaths.of(config).tile_table(tile) for tile in tile_names(config)]


STAGE = Stage("tiles", run=_run, plan=_plan, products=_products, cost=lambda *_: Cost(SECONDS))
