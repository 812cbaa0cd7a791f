"""Co-add: a mosaic and its coverage map for each tile, image and background, straight from the MEFs."""

from __future__ import annotations

from prefect import task

from kred_core import stages
from kred_core.coadd.plan import CoaddPlan
from kred_core.config import FieldConfig
from kred_core.products import FieldPaths

from .caching import Manifest, Work, stage_task

__all__ = ["coadd_mosaic", "plan_coadds"]


def _work(config: FieldConfig, plan: CoaddPlan) -> Work:
    exposures = sorted({i.path for i in plan.inputs})
    masks = [mask for path in exposures if config.coadd.mask_codes and (mask := FieldPaths.mask_of(path))]
    digests = {background: plan.digest(config.coadd, background) for background in plan.backgrounds}
    return Work(stages.mosaic_unit(plan.tile, plan.image, plan.backgrounds), files=[*exposures, *masks], facts=digests)


@stage_task("coadd", version=3, work=_work)
def coadd_mosaic(config: FieldConfig, plan: CoaddPlan) -> Manifest:
    """Make the mosaics of one image of a tile, and their coverage maps."""
    return Manifest.of(stages.coadd(config, plan))


@task(name="plan co-adds", task_run_name="mosaics of {config.field}")
def plan_coadds(config: FieldConfig) -> list[CoaddPlan]:
    """The mosaics to make, from the tile tables."""
    return stages.plan_coadds(config)
