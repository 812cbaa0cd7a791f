"""The stage match: pair differences, one background per detector from all of them at once, and a first look at the result.

Overlaps are measured, solved and looked at image by image (`kred_core.stages.matching`), each step from the files that the one
before it left. The unit of matched detectors is an exposure: each detector is written once and every tile links to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from ..background import Background
from ..config import BackgroundKind, FieldConfig
from ..errors import InputError
from ..exposures.check import ExposureReport
from ..exposures.masks import PixelRule
from ..match.image import explain
from ..products import FieldPaths, link_all, tables
from . import matching
from .executor import UnitRunner
from .prepare import Rescaled, Rescaling
from .stage import Cost, Plan, Planned, Stage
from .summarize import ensure_binned_maps
from .tiles import STAGE as TILES
from .tiles import foreseen_mosaics, images_of, tile_names, tile_tables, wanted_tiles
from .work import Step, Unit, Work

SECONDS_PER_STEP, SECONDS_PER_DETECTOR, SECONDS_PER_FIGURES = 0.07, 0.04, 2.3  # CPU; of an image, all its figures

BackgroundKey = tuple[str, str, str, str]  # Field, Root, EXTNAME, Image


def read_backgrounds(config: FieldConfig) -> dict[BackgroundKey, Background]:
    """Return the matched background of each detector of the field in each of its images."""
    table = tables.read(FieldPaths.of(config).background_table, tables.BACKGROUNDS, "match")
    keys = zip(*(map(str, table[name]) for name in ("Field", "Root", "EXTNAME", "Image")), strict=True)
    return dict(zip(keys, Background.from_table(table).each(), strict=True))


def plan_matched(config: FieldConfig) -> list[Rescaling]:
    """Return the matched detectors to write, with b in the place of their backgrounds: all that feed one of the tiles, once."""
    found: dict[tuple[str, str, str, float, str], dict[str, float]] = {}
    backgrounds = read_backgrounds(config)
    images: dict[tuple[str, str], set[str]] = {}
    for row in (row for _, table in tile_tables(config) for row in _rows(table)):
        key = row["Field"], row["Root"]
        images.setdefault(key, set()).add(row["Image"])
        of_exposure = found.setdefault((*key, row["File"], row["XFACTOR"], row["Image"]), {})
        of_exposure[row["EXTNAME"]] = backgrounds[*key, row["EXTNAME"], row["Image"]].b
    return [
        Rescaling(field, root, file, scale, tuple(sorted(values.items())), image if len(images[field, root]) > 1 else "")
        for (field, root, file, scale, image), values in sorted(found.items())
    ]


def _rows(table: Table) -> Iterator[dict[str, Any]]:
    """What says which detectors feed a tile, row by row, as plain values: astropy's rows take ten times as long."""
    names = ("Field", "Root", "EXTNAME", "File", "Image", "XFACTOR")
    for values in zip(*(table[name].tolist() for name in names), strict=True):
        yield dict(zip(names, values, strict=True))


MATCHED = Rescaled(
    lambda config: config.match.output,
    lambda paths, plan, extname, plain: paths.matched_detector(plan.root, extname, plain, plan.image),
)


def link_matched(config: FieldConfig, planned: Iterable[Rescaling]) -> None:
    """Link to the matched detectors in the directory of each tile, as many as there are, and to none from an earlier selection."""
    paths = FieldPaths.of(config)
    several = {(p.field, p.root) for p in planned if p.image}
    for tile, table in tile_tables(config):
        targets = []
        for row in _rows(table):
            image = row["Image"] if (row["Field"], row["Root"]) in several else ""
            targets += [paths.matched_detector(row["Root"], row["EXTNAME"], plain, image) for plain in (False, True)]
        if not link_all(paths.prepared_tile(tile.name, BackgroundKind.MATCHED), targets):
            break


def explain_matching(config: FieldConfig) -> list[str]:
    """Return how much better each image got, a line for each."""
    return [explain(row) for row in tables.read(FieldPaths.of(config).matching_table, tables.MATCHING, "match")]


def _background_rows(config: FieldConfig) -> list[dict[str, object]]:
    """The matched backgrounds for people, in counts28 per native pixel: a row for each exposure in each image."""
    table = tables.read(FieldPaths.of(config).background_table, tables.BACKGROUNDS, "match")
    found: dict[tuple[str, str], list[int]] = {}
    for i, exposure in enumerate(zip(table["Image"], table["Root"], strict=True)):
        found.setdefault(exposure, []).append(i)
    return [{"Image": image, "Root": root} | _of_exposure(table[rows]) for (image, root), rows in found.items()]


def _of_exposure(detectors: Table) -> dict[str, object]:
    """What stands out among the detectors of an exposure: their b - SUB_BACK, and overlaps that contradict the solution."""
    above = np.asarray(detectors["b"] - detectors["SUB_BACK"])
    errors = np.asarray(detectors["b_err"])
    known = errors[np.isfinite(errors)]
    remarks: dict[str, list[str]] = {}
    for name, remark in zip(detectors["EXTNAME"], detectors["Remark"], strict=True):
        if remark:
            remarks.setdefault(str(remark), []).append(str(name))
    numbers = {
        "SUB_BACK": detectors["SUB_BACK"][0],
        "Lowest": above.min(),
        "Median": np.median(above),
        "Highest": above.max(),
        "b_err": np.median(known) if len(known) else math.nan,
    }
    return {
        "N_det": len(detectors),
        **{name: float(f"{value:.4g}") for name, value in numbers.items()},
        "N_reject": int(np.sum(detectors["n_rejected"])),
        "Remarks": "; ".join(f"{remark}: {', '.join(names)}" for remark, names in remarks.items()),
    }


def _maps_work(config: FieldConfig, plan: matching.MatchPlan, unit: str, files: Iterable[Path] = (), **facts: Any) -> Work:
    """What is made from the binned maps of an image, and so depends on what these are made from; not on whether they are kept."""
    options = [config.summarize, config.stamps.model_copy(update={"keep": True})]
    pixels = PixelRule.of(config).facts(map(str, plan.detectors["EXTNAME"]))
    return Work(unit, files=[*matching.binned_sources(config, plan), *files], options=options, facts=facts | pixels)


def _measure_work(config: FieldConfig, plan: matching.MatchPlan) -> Work:
    options: dict[str, Any] = {"min_cells": config.match.min_cells, "amplifier_steps": config.match.amplifier_steps}
    return _maps_work(config, plan, plan.image, detectors=plan.digest((*matching.MEASURED_FROM, "XFACTOR")), **options)


def _solve_work(config: FieldConfig, plan: matching.MatchPlan) -> Work:
    paths = FieldPaths.of(config)
    files = [paths.pairs(plan.image), paths.record("match", f"{plan.image}.skies")]
    fixed = [Path(config.match.fixed).expanduser()] if config.match.fixed else []
    options = config.match.model_copy(update={"output": "none", "fixed": ""})
    return Work(plan.image, files=[*files, *fixed], options=[options], facts={"detectors": plan.digest(matching.SOLVED_FROM)})


def _look_work(config: FieldConfig, plan: matching.MatchPlan, tiles: list[str]) -> Work:
    places = [[tile.name, tile.ra, tile.dec, tile.size] for tile in wanted_tiles(config) if tile.name in tiles]
    return _maps_work(config, plan, plan.image, matching.solved_files(FieldPaths.of(config), plan.image), tiles=places)


def _draw_work(config: FieldConfig, plan: matching.MatchPlan, tiles: list[str]) -> Work:
    paths, compared = FieldPaths.of(config), matching.compared_tiles(config, tiles)
    quick = [matching.quick_look_record(paths, plan.image), *(paths.quick_look(plan.image, tile) for tile in ("", *compared))]
    files = [*matching.solved_files(paths, plan.image), paths.pairs(plan.image), *quick]
    facts = {"tiles": tiles, "compared": compared, "pixels": config.evaluate.figure_pixels}
    return _maps_work(config, plan, f"{plan.image}, figures", files, **facts)


def _table_work(config: FieldConfig, images: list[str]) -> Work:
    paths = FieldPaths.of(config)
    files = [path for image in images for path in (*matching.solved_files(paths, image), matching.quick_look_record(paths, image))]
    return Work(config.field, files=files, facts={"images": images})


MEASURE = Step("measure", 2, _measure_work, matching.measure_overlaps)
SOLVE = Step("solve", 2, _solve_work, matching.solve_backgrounds)
LOOK = Step("look", 3, _look_work, matching.make_quick_looks)
DRAW = Step("draw", 2, _draw_work, matching.draw_matching)
TABULATE = Step("tabulate", 2, _table_work, matching.tabulate_matching)
COPY = Step("copy", 1, MATCHED.work, MATCHED.write)


def _run(run: UnitRunner) -> None:
    plans = {p.image: p for p in run.once(matching.plan_matching)}
    to_measure = [(image, {"plan": plan}) for image, plan in plans.items()]
    _need_maps(run, MEASURE, to_measure)
    measured = run.each(MEASURE, to_measure)
    solved = run.each(SOLVE, [(image, {"plan": plans[image]}) for image in measured])
    tiles = tile_names(run.config)
    to_look = [(image, {"plan": plans[image], "tiles": tiles}) for image in solved]
    _need_maps(run, LOOK, to_look)
    looked = run.each(LOOK, to_look)
    run.each(TABULATE, [(run.config.field, {"images": solved})], required=True)
    run.outcome.matching = explain_matching(run.config)
    run.show(
        "backgrounds",
        f"Matched backgrounds of {run.config.field}, in counts28 per pixel: SUB_BACK is that of the exposure; Lowest, Median and "
        "Highest are those of its detectors minus SUB_BACK",
        _background_rows(run.config),
    )
    planned = run.once(plan_matched)
    run.each(COPY, [(p.unit, {"plan": p}) for p in planned])
    run.once(link_matched, planned=planned)
    figures = [(f"{image}, figures", arguments) for image, arguments in to_look if image in looked]
    _need_maps(run, DRAW, figures)
    run.in_background("figures", DRAW, figures)


def _need_maps(run: UnitRunner, step: Step, units: list[Unit]) -> None:
    """Make binned maps that are not kept again, if a step that reads them has anything to do."""
    if not all(step.is_current(run.config, arguments) for _, arguments in units):
        ensure_binned_maps(run)


def _plan(plan: Plan) -> Sequence[Planned]:
    """The stage, and its figures, which are drawn in the background of the stages that follow."""
    config, usable = plan.config, plan.usable
    fed = foreseen_mosaics(config, plan.reports)
    if not fed:
        if usable and not images_of(config, usable):
            found = ", ".join(sorted({f"{r.filter} {r.exptime:g} s" for r in usable}))
            raise InputError(f"no exposure of field {config.field} fits any row of the image table: the exposures are {found}")
        raise InputError(f"no detector of field {config.field} lies on any of the tiles that were asked for")
    images = len(images_of(config, usable))
    steps, written = 3 * images + 1, len({(p.image, i.root) for p in fed for i in p.inputs})
    to_do, to_draw = _steps_to_do(config) if plan.is_fresh(TILES) else (steps, images)
    to_write = written if to_do else sum(not COPY.is_current(config, {"plan": p}) for p in plan_matched(config))
    seconds = (to_do + to_write) * SECONDS_PER_STEP
    seconds += sum(len(r.detectors) for r in usable) * SECONDS_PER_DETECTOR if to_do else 0.0
    fed_detectors = Counter(root for root, _ in {(i.root, i.extname) for p in fed for i in p.inputs})
    disk = sum(fed_detectors[r.root] / len(r.detectors) * MATCHED.size(config, r) for r in usable)
    to_draw = images if to_do else to_draw
    return [
        Planned("match", "steps", steps + written, to_do + to_write, Cost(seconds, disk if to_write else 0.0)),
        Planned("figures", "images", images, to_draw, Cost(to_draw * SECONDS_PER_FIGURES)),
    ]


def _steps_to_do(config: FieldConfig) -> tuple[int, int]:
    """Steps (matched detectors apart) and images whose figures are missing or out of date."""
    plans, tiles = matching.plan_matching(config), tile_names(config)
    units: list[tuple[Step, dict[str, Any]]] = [(step, {"plan": p}) for p in plans for step in (MEASURE, SOLVE)]
    units += [(LOOK, {"plan": p, "tiles": tiles}) for p in plans]
    units.append((TABULATE, {"images": [p.image for p in plans]}))
    drawn = [DRAW.is_current(config, {"plan": p, "tiles": tiles}) for p in plans]
    return sum(not step.is_current(config, arguments) for step, arguments in units), drawn.count(False)


def _cost(config: FieldConfig, usable: Sequence[ExposureReport]) -> Cost:
    images = len(images_of(config, usable))
    seconds = sum(len(r.detectors) for r in usable) * SECONDS_PER_DETECTOR + images * SECONDS_PER_FIGURES
    return Cost(seconds, images * sum(MATCHED.size(config, r) for r in usable))


def _products(config: FieldConfig) -> Iterator[Path]:
    """Tables, quick looks, figures and matched detectors."""
    paths = FieldPaths.of(config)
    yield from (paths.overlap_table, paths.background_table, paths.matching_table)
    if not paths.background_table.is_file():
        return
    for image in sorted({image for *_, image in read_backgrounds(config)}):
        yield from (paths.matching_figure(image, kind) for kind in ("overlaps", "backgrounds", "pairs"))
        tiles = tile_names(config)
        yield from (paths.quick_look(image, tile) for tile in ("", *tiles))
        yield from (paths.comparison_figure(image, tile) for tile in ("", *matching.compared_tiles(config, tiles)))
    if config.match.output != "none":
        yield from MATCHED.files(config, plan_matched(config))


def _remove_binned_maps(config: FieldConfig) -> None:
    """Remove the binned maps of the field when no stage needs them any more, unless they are to be kept."""
    if not config.stamps.keep:
        for path in FieldPaths.of(config).binned.glob("*.stamps.fits"):
            path.unlink()


STAGE = Stage(
    "match", run=_run, plan=_plan, products=_products, cost=_cost, place="DECam_PREP", heavy=True, finish=_remove_binned_maps
)
