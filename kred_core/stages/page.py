"""The page for people who only want to look, as a step at the end of each run."""

from __future__ import annotations

from .. import __version__, report
from ..config import FieldConfig
from ..products import FieldPaths
from .mosaics import tile_inputs
from .work import Manifest, Step, Work

__all__ = ["PAGE"]


def _work(config: FieldConfig) -> Work:
    files = [*report.inputs(FieldPaths.of(config)), *tile_inputs(config)]
    return Work(config.field, files=files, facts={"kred": __version__})


def _do(config: FieldConfig) -> Manifest:
    return Manifest.of(report.write_field_page(FieldPaths.of(config)))


PAGE = Step("report", 2, _work, _do)
