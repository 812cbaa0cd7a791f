"""Account: what became of each detector of the input, in the table of the input, and whether that is all of them."""

from __future__ import annotations

from kred_core import stages
from kred_core.config import FieldConfig
from kred_core.products import FieldPaths

from .caching import Manifest, Work, stage_task

__all__ = ["account_for_input"]


def _work(config: FieldConfig) -> Work:
    return Work(
        config.field,
        files=stages.account_inputs(config),
        options=[config.survey, config.tiling],
        facts={
            "tiles": list(config.tiles),
            "stages": list(config.run.stages),
            "size": config.coadd.size,
            "mosaics": config.coadd.mosaics,
        },
    )


@stage_task("account", version=2, work=_work)
def account_for_input(config: FieldConfig) -> Manifest:
    """Tell what became of each detector of the input, and find what does not add up."""
    accounts = stages.account_for_input(config)
    return Manifest.of(
        [FieldPaths.of(config).input_table],
        sums=accounts.explain(),
        faults=list(accounts.faults),
        n_refused=accounts.n_refused,
        n_used=accounts.n_used,
        n_detectors=accounts.n_detectors,
    )
