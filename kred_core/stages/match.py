"""The stage match: pair differences, one background per detector from all of them at once, and a first look at the result.

Overlaps are measured, solved and looked at image by image, each step from the files that the one before it left: another
solution does not measure again, and another figure does not solve again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..binned import BinnedGrid
from ..config import FieldConfig
from ..errors import InputError
from ..exposures.check import ExposureReport
from ..exposures.masks import PixelRule
from ..products import FieldPaths
from . import copies, looks, matching
from .coadd import foreseen, images_of
from .copies import MatchedCopies
from .looks import compared_tiles
from .matching import MEASURED_FROM, SOLVED_FROM, MatchPlan, binned_sources, look_record, plan_matching, solved_files
from .mosaics import read_backgrounds, tile_names, wanted_tiles
from .plan import Plan, Planned
from .prepare import copies_size
from .run import Run
from .stage import Cost, Stage
from .summarize import restore_binned_maps
from .work import Manifest, Step, Unit, Work

__all__ = ["COPY", "DRAW", "LOOK", "MEASURE", "SOLVE", "STAGE", "TABULATE"]

SECONDS_PER_STEP, SECONDS_PER_DETECTOR, SECONDS_PER_FIGURES = 0.07, 0.04, 2.3  # CPU; of an image, all its figures


def _of_maps(config: FieldConfig) -> list[BaseModel]:
    """The options that binned maps depend on; whether they are kept is not one of them."""
    return [config.summarize, config.stamps.model_copy(update={"keep": True})]


def _of_pixels(config: FieldConfig, plan: MatchPlan) -> dict[str, Any]:
    """Which pixels the binned maps of a plan were made of."""
    return PixelRule.of(config).facts(map(str, plan.detectors["EXTNAME"]))


def _measure_work(config: FieldConfig, plan: MatchPlan) -> Work:
    options = {"min_cells": config.match.min_cells, "amplifier_steps": config.match.amplifier_steps}
    facts = {"detectors": plan.digest((*MEASURED_FROM, "XFACTOR")), **options, **_of_pixels(config, plan)}
    return Work(plan.image, files=binned_sources(config, plan), options=_of_maps(config), facts=facts)


def _solve_work(config: FieldConfig, plan: MatchPlan) -> Work:
    paths = FieldPaths.of(config)
    files = [paths.pairs(plan.image), paths.record("match", f"{plan.image}.skies")]
    fixed = [Path(config.match.fixed).expanduser()] if config.match.fixed else []
    options = config.match.model_copy(update={"output": "none"})
    return Work(plan.image, files=[*files, *fixed], options=[options], facts={"detectors": plan.digest(SOLVED_FROM)})


def _look_work(config: FieldConfig, plan: MatchPlan, tiles: list[str]) -> Work:
    files = [*binned_sources(config, plan), *solved_files(FieldPaths.of(config), plan.image)]
    places = [[tile.name, tile.ra, tile.dec, tile.size] for tile in wanted_tiles(config) if tile.name in tiles]
    return Work(plan.image, files=files, options=_of_maps(config), facts={"tiles": places, **_of_pixels(config, plan)})


def _draw_work(config: FieldConfig, plan: MatchPlan, tiles: list[str]) -> Work:
    paths, compared = FieldPaths.of(config), compared_tiles(config, tiles)
    quick = [look_record(paths, plan.image), *(paths.quick_look(plan.image, tile) for tile in ("", *compared))]
    files = [*binned_sources(config, plan), *solved_files(paths, plan.image), paths.pairs(plan.image), *quick]
    facts = {"tiles": tiles, "compared": compared, "pixels": config.evaluate.figure_pixels, **_of_pixels(config, plan)}
    return Work(f"{plan.image}, figures", files=files, options=_of_maps(config), facts=facts)


def _table_work(config: FieldConfig, images: list[str]) -> Work:
    paths = FieldPaths.of(config)
    files = [path for image in images for path in (*solved_files(paths, image), look_record(paths, image))]
    return Work(config.field, files=files, facts={"images": images})


def _copy_work(config: FieldConfig, plan: MatchedCopies) -> Work:
    facts = asdict(plan) | {"backgrounds": [list(b) for b in plan.backgrounds], "output": config.match.output}
    return Work(plan.unit, files=[FieldPaths(config.root, plan.field).exposure(plan.file)], facts=facts)


MEASURE = Step("measure", 2, _measure_work, lambda config, plan: Manifest.of(matching.measure_overlaps(config, plan)))
SOLVE = Step("solve", 2, _solve_work, lambda config, plan: Manifest.of(matching.solve_backgrounds(config, plan)))
LOOK = Step("look", 3, _look_work, lambda config, plan, tiles: Manifest.of(looks.make_quick_looks(config, plan, tiles)))
DRAW = Step("draw", 2, _draw_work, lambda config, plan, tiles: Manifest.of_figures(looks.draw_matching(config, plan, tiles)))
TABULATE = Step("tabulate", 2, _table_work, lambda config, images: Manifest.of(matching.tabulate_matching(config, images)))
COPY = Step("copy", 1, _copy_work, lambda config, plan: Manifest.of(copies.copy_matched(config, plan)))


def _run(run: Run) -> None:
    plans = {p.image: p for p in run.once(plan_matching)}
    measured = _from_maps(run, MEASURE, [(image, {"plan": plan}) for image, plan in plans.items()])
    solved = run.each(SOLVE, [(image, {"plan": plans[image]}) for image in measured])
    tiles = tile_names(run.config)
    to_look = [(image, {"plan": plans[image], "tiles": tiles}) for image in solved]
    looked = _from_maps(run, LOOK, to_look)
    run.each(TABULATE, [(run.config.field, {"images": solved})], required=True)
    run.outcome.matching = matching.explain_matching(run.config)
    run.show(
        "backgrounds",
        f"Matched backgrounds of {run.config.field}, in counts28 per pixel: SUB_BACK is that of the exposure; Lowest, Median and "
        "Highest are those of its detectors minus SUB_BACK",
        matching.background_rows(run.config),
    )
    planned = run.once(copies.plan_copies)
    run.each(COPY, [(c.unit, {"plan": c}) for c in planned])
    run.once(copies.link_matched, copies=planned)
    figures = [(f"{image}, figures", arguments) for image, arguments in to_look if image in looked]
    _need_maps(run, DRAW, figures)
    run.beside("figures", DRAW, figures)


def _from_maps(run: Run, step: Step, units: list[Unit]) -> list[str]:
    """Do a step that reads binned maps."""
    _need_maps(run, step, units)
    return run.each(step, units)


def _need_maps(run: Run, step: Step, units: list[Unit]) -> None:
    """Make binned maps that are not kept again, if a step that reads them has anything to do."""
    if not all(step.is_current(run.config, arguments) for _, arguments in units):
        restore_binned_maps(run)


def _plan(plan: Plan) -> Sequence[Planned]:
    """The stage, and its figures, which are drawn beside the stages that follow."""
    config, usable = plan.config, plan.usable
    fed = foreseen(config.model_copy(update={"coadd": config.coadd.model_copy(update={"mosaics": "original"})}), plan.reports)
    if not fed:
        raise InputError(f"no detector of field {config.field} lies on any of the tiles that were asked for")
    images = len(images_of(config, usable))
    steps, copied = 3 * images + 1, len({(p.image, i.root) for p in fed for i in p.inputs})
    to_do, to_draw = _steps_to_do(config) if plan.is_fresh("tiles") else (steps, images)
    to_copy = copied if to_do else sum(not COPY.is_current(config, {"plan": c}) for c in copies.plan_copies(config))
    seconds = (to_do + to_copy) * SECONDS_PER_STEP
    seconds += sum(len(r.detectors) for r in usable) * SECONDS_PER_DETECTOR if to_do else 0.0
    fed_detectors = Counter(root for root, _ in {(i.root, i.extname) for p in fed for i in p.inputs})
    disk = sum(fed_detectors[r.root] / len(r.detectors) * copies_size(config, config.match.output, r) for r in usable)
    to_draw = images if to_do else to_draw
    return [
        Planned("match", "steps", steps + copied, to_do + to_copy, Cost(seconds, disk if to_copy else 0.0)),
        Planned("figures", "images", images, to_draw, Cost(to_draw * SECONDS_PER_FIGURES)),
    ]


def _steps_to_do(config: FieldConfig) -> tuple[int, int]:
    """Steps without the copies, and images whose figures, are missing or out of date."""
    plans, tiles = plan_matching(config), tile_names(config)
    units: list[tuple[Step, dict[str, Any]]] = [(step, {"plan": p}) for p in plans for step in (MEASURE, SOLVE)]
    units += [(LOOK, {"plan": p, "tiles": tiles}) for p in plans]
    units.append((TABULATE, {"images": [p.image for p in plans]}))
    drawn = [DRAW.is_current(config, {"plan": p, "tiles": tiles}) for p in plans]
    return sum(not step.is_current(config, arguments) for step, arguments in units), drawn.count(False)


def _cost(config: FieldConfig, usable: Sequence[ExposureReport], grid: BinnedGrid | None) -> Cost:
    images = len(images_of(config, usable))
    seconds = sum(len(r.detectors) for r in usable) * SECONDS_PER_DETECTOR + images * SECONDS_PER_FIGURES
    return Cost(seconds, images * sum(copies_size(config, config.match.output, r) for r in usable))


def _products(config: FieldConfig) -> Iterator[Path]:
    """Tables, quick looks, figures and copies."""
    paths = FieldPaths.of(config)
    yield from (paths.overlap_table, paths.background_table, paths.matching_table)
    if not paths.background_table.is_file():
        return
    for image in sorted({image for *_, image in read_backgrounds(config)}):
        yield from (paths.matching_figure(image, kind) for kind in ("overlaps", "backgrounds", "pairs"))
        tiles = tile_names(config)
        yield from (paths.quick_look(image, tile) for tile in ("", *tiles))
        yield from (paths.comparison_figure(image, tile) for tile in ("", *compared_tiles(config, tiles)))
    if config.match.output != "none":
        plain = config.match.output == "plain"
        for planned in copies.plan_copies(config):
            yield from (paths.matched_detector(planned.root, name, plain, planned.image) for name, _ in planned.backgrounds)


def _finish(config: FieldConfig) -> None:
    if not config.stamps.keep:
        matching.remove_binned_maps(config)


STAGE = Stage("match", run=_run, plan=_plan, products=_products, cost=_cost, place="DECam_PREP", heavy=True, finish=_finish)
