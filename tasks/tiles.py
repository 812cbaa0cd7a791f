"""Tiles: which detectors feed which tile and image."""

from __future__ import annotations

from kred_core import stages
from kred_core.config import FieldConfig

from .caching import Manifest, Work, stage_task

__all__ = ["tiles_field"]


def _work(config: FieldConfig) -> Work:
    return Work(
        "_".join([config.field, *config.tiles]),
        files=stages.tile_inputs(config),
        options=[config.survey, config.tiling, config.prepare],
        facts={"tiles": list(config.tiles), "size": config.coadd.size},
    )


@stage_task("tiles", version=1, work=_work)
def tiles_field(config: FieldConfig) -> Manifest:
    """Select the detectors of each tile; write tile tables and links."""
    return Manifest.of(stages.tiles_field(config).values())
