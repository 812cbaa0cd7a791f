"""Co-add: one mosaic and its coverage map for each tile and image, straight from the MEFs."""

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
    return Work(f"{plan.tile}.{plan.image}", files=[*exposures, *masks], facts={"plan": plan.digest(config.coadd)})


@stage_task("coadd", version=1, work=_work)
def coadd_mosaic(config: FieldConfig, plan: CoaddPlan) -> Manifest:
    """Make one mosaic and its coverage map."""
    return Manifest.of(stages.coadd(config, plan))


@task(name="plan co-adds", task_run_name="mosaics of {config.field}")
def plan_coadds(config: FieldConfig) -> list[CoaddPlan]:
    """The mosaics to make, from the tile tables."""
    return stages.plan_coadds(config)
