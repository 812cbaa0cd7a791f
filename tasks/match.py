"""Match: pair differences, one background per detector from all of them at once, and a first look at the result."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from prefect import task
from pydantic import BaseModel, JsonValue

from kred_core import stages
from kred_core.config import FieldConfig
from kred_core.masks import PixelRule
from kred_core.products import FieldPaths
from kred_core.stages import MatchedCopies, MatchPlan

from .caching import Manifest, Work, stage_task

__all__ = [
    "copy_matched",
    "draw_matching",
    "link_matched",
    "make_quick_looks",
    "measure_overlaps",
    "plan_copies",
    "plan_matching",
    "solve_backgrounds",
    "tabulate_matching",
]


@task(name="plan matching", task_run_name="images of {config.field}")
def plan_matching(config: FieldConfig) -> list[MatchPlan]:
    """The images to match, each with all its detectors."""
    return stages.plan_matching(config)


def _of_stamps(config: FieldConfig) -> list[BaseModel]:
    """The options that stamps depend on; whether they are kept is not one of them."""
    return [config.summarize, config.stamps.model_copy(update={"keep": True})]


def _of_pixels(config: FieldConfig, plan: MatchPlan) -> dict[str, JsonValue]:
    """Which pixels the stamps of a plan were made of."""
    return PixelRule.of(config).facts(map(str, plan.detectors["EXTNAME"]))


def _measure_work(config: FieldConfig, plan: MatchPlan) -> Work:
    options = {"min_cells": config.match.min_cells, "amplifier_steps": config.match.amplifier_steps}
    facts = {"detectors": plan.digest((*stages.MEASURED_FROM, "XFACTOR")), **options, **_of_pixels(config, plan)}
    return Work(plan.image, files=stages.stamp_sources(config, plan), options=_of_stamps(config), facts=facts)


@stage_task("measure", version=1, work=_measure_work)
def measure_overlaps(config: FieldConfig, plan: MatchPlan) -> Manifest:
    """Measure how the overlapping detectors of an image differ."""
    return Manifest.of(stages.measure_overlaps(config, plan))


def _solve_work(config: FieldConfig, plan: MatchPlan) -> Work:
    paths = FieldPaths.of(config)
    files = [paths.pairs(plan.image), paths.record("match", f"{plan.image}.skies")]
    fixed = [Path(config.match.fixed).expanduser()] if config.match.fixed else []
    options = config.match.model_copy(update={"output": "none"})
    return Work(plan.image, files=[*files, *fixed], options=[options], facts={"detectors": plan.digest(stages.SOLVED_FROM)})


@stage_task("solve", version=2, work=_solve_work)
def solve_backgrounds(config: FieldConfig, plan: MatchPlan) -> Manifest:
    """Find the backgrounds of an image."""
    return Manifest.of(stages.solve_backgrounds(config, plan))


def _look_work(config: FieldConfig, plan: MatchPlan, tiles: list[str]) -> Work:
    paths = FieldPaths.of(config)
    files = [*stages.stamp_sources(config, plan), *stages.solved_files(paths, plan.image)]
    places = [[tile.name, tile.ra, tile.dec, tile.size] for tile in stages.wanted_tiles(config) if tile.name in tiles]
    return Work(plan.image, files=files, options=_of_stamps(config), facts={"tiles": places, **_of_pixels(config, plan)})


@stage_task("look", version=3, work=_look_work)
def make_quick_looks(config: FieldConfig, plan: MatchPlan, tiles: list[str]) -> Manifest:
    """Make the quick looks of an image."""
    return Manifest.of(stages.make_quick_looks(config, plan, tiles))


def _draw_work(config: FieldConfig, plan: MatchPlan, tiles: list[str]) -> Work:
    paths = FieldPaths.of(config)
    compared = stages.compared_tiles(config, tiles)
    looks = [stages.look_record(paths, plan.image), *(paths.quick_look(plan.image, tile) for tile in ("", *compared))]
    files = [*stages.stamp_sources(config, plan), *stages.solved_files(paths, plan.image), paths.pairs(plan.image), *looks]
    facts = {"tiles": tiles, "compared": compared, "pixels": config.evaluate.figure_pixels, **_of_pixels(config, plan)}
    return Work(f"{plan.image}, figures", files=files, options=_of_stamps(config), facts=facts)


@stage_task("draw", version=2, work=_draw_work)
def draw_matching(config: FieldConfig, plan: MatchPlan, tiles: list[str]) -> Manifest:
    """Draw the figures of an image."""
    return Manifest.of_figures(stages.draw_matching(config, plan, tiles))


def _table_work(config: FieldConfig, images: list[str]) -> Work:
    paths = FieldPaths.of(config)
    files = [path for image in images for path in (*stages.solved_files(paths, image), stages.look_record(paths, image))]
    return Work(config.field, files=files, facts={"images": images})


@stage_task("tabulate", version=2, work=_table_work)
def tabulate_matching(config: FieldConfig, images: list[str]) -> Manifest:
    """Put the tables of the images together."""
    return Manifest.of(stages.tabulate_matching(config, images))


def _copy_work(config: FieldConfig, plan: MatchedCopies) -> Work:
    facts = asdict(plan) | {"backgrounds": [list(b) for b in plan.backgrounds], "output": config.match.output}
    return Work(plan.unit, files=[FieldPaths(config.root, plan.field).exposure(plan.file)], facts=facts)


@stage_task("copy", version=1, work=_copy_work)
def copy_matched(config: FieldConfig, plan: MatchedCopies) -> Manifest:
    """Write the matched copies of the detectors of one exposure."""
    return Manifest.of(stages.copy_matched(config, plan))


@task(name="plan copies", task_run_name="matched copies of {config.field}")
def plan_copies(config: FieldConfig) -> list[MatchedCopies]:
    """The matched copies to make."""
    return stages.plan_copies(config)


@task(name="link copies", task_run_name="links to matched copies of {config.field}")
def link_matched(config: FieldConfig, copies: list[MatchedCopies]) -> None:
    """Links to the matched copies in the directory of each tile."""
    stages.link_matched(config, copies)
