"""Prepare: detectors in counts28 minus one background per exposure, for people who want to look at them."""

from __future__ import annotations

from dataclasses import asdict

from prefect import task

from kred_core import stages
from kred_core.config import FieldConfig
from kred_core.products import FieldPaths
from kred_core.stages import Preparation

from .caching import Manifest, Work, stage_task

__all__ = ["plan_preparation", "prepare_exposure"]


def _work(config: FieldConfig, plan: Preparation) -> Work:
    facts = asdict(plan) | {"extnames": list(plan.extnames), "output": config.prepare.output}
    return Work(plan.root, files=[FieldPaths.of(config).exposure(plan.file)], facts=facts)


@stage_task("prepare", version=1, work=_work)
def prepare_exposure(config: FieldConfig, plan: Preparation) -> Manifest:
    """Write the detectors of one exposure in counts28."""
    return Manifest.of(stages.prepare_exposure(config, plan))


@task(name="plan preparation", task_run_name="backgrounds of {config.field}")
def plan_preparation(config: FieldConfig) -> list[Preparation]:
    """Factor and background of each exposure."""
    return stages.plan_preparation(config)
