"""Tiles: which detectors feed which tile and image."""

from __future__ import annotations

from prefect import task

from kred_core import stages
from kred_core.config import FieldConfig

from .caching import Manifest, Work, stage_task

__all__ = ["link_prepared", "tiles_field"]


def _work(config: FieldConfig) -> Work:
    return Work(
        "_".join([config.field, *config.tiles]),
        files=stages.tile_inputs(config),
        options=[config.survey, config.tiling, config.prepare],
        facts={"tiles": list(config.tiles), "size": config.coadd.size},
    )


@stage_task("tiles", version=2, work=_work)
def tiles_field(config: FieldConfig) -> Manifest:
    """Select the detectors of each tile; write tile tables."""
    return Manifest.of(stages.tiles_field(config).values())


@task(name="link prepared", task_run_name="links to prepared detectors of {config.field}")
def link_prepared(config: FieldConfig) -> None:
    """Links to the prepared detectors in the directory of each tile."""
    stages.link_prepared(config)
