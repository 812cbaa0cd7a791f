"""What a run would do, and what it would cost, without doing it: for the dry run, and for a run that might not fit on the disk.

Works from what is on disk, as the run itself does: units that are complete and
up to date are not counted. Where a stage has to be done first, what follows
from it is foreseen from the headers alone.
"""

from __future__ import annotations

from dataclasses import replace

from kred_core import check as checking
from kred_core import foresight, stages
from kred_core.check import ExposureReport
from kred_core.config import FieldConfig
from kred_core.errors import InputError
from kred_core.foresight import PlannedStage
from kred_core.products import FieldPaths
from tasks.caching import is_current
from tasks.check import check_exposure
from tasks.coadd import coadd_mosaic
from tasks.evaluate import draw_field, evaluate_mosaic
from tasks.match import (
    copy_matched,
    draw_matching,
    make_quick_looks,
    measure_overlaps,
    solve_backgrounds,
    tabulate_matching,
)
from tasks.prepare import prepare_exposure
from tasks.summarize import summarize_exposure
from tasks.tiles import tiles_field

__all__ = ["dry_run", "require_room"]


def dry_run(config: FieldConfig) -> str:
    """What a run with this configuration would do, for a person to read."""
    return foresight.describe(config, *_plan(config))


def require_room(config: FieldConfig) -> list[ExposureReport]:
    """Find out whether there is room on the disk for what a run is going to make, once its exposures have been checked.

    Returns
    -------
    list of ExposureReport
        What is known of each exposure.

    Raises
    ------
    InputError
        There is not; the message says how much is lacking.
    """
    found = stages.judged(config)
    usable = [r for r in found if not r.refused]
    grid = stages.stamp_grid(config, usable) if usable else None
    if not foresight.shortage(config, foresight.most_disk(config, found, grid)):
        return found  # where there is room for all of it, nobody needs to know how much of it is there already
    lacking = foresight.shortage(config, foresight.disk_to_do(_plan(config)[1]))
    if lacking:
        raise InputError(lacking)
    return found


def _plan(config: FieldConfig) -> tuple[list[ExposureReport], list[PlannedStage]]:
    """The verdicts on the exposures, and what each stage would do."""
    reports, check = _check(config)
    usable = [r for r in reports if not r.refused]
    summarize = _summarize(config, usable)
    prepare = _prepare(config, usable, fresh=summarize.to_do == 0)
    tiles = foresight.plan_tiles(summarize.to_do == 0 and is_current(tiles_field, config, {}))
    match, figures = _match(config, reports, fresh=tiles.to_do == 0)
    solved = match.to_do == 0 or "matched" not in config.coadd.backgrounds
    coadd, evaluate = _mosaics(config, reports, fresh=tiles.to_do == 0 and solved)
    planned = {p.name: [p] for p in (check, summarize, prepare, tiles, match, coadd, evaluate)}
    planned["match"].append(figures)
    return reports, [p for name in config.run.stages for p in planned[name]]


def _check(config: FieldConfig) -> tuple[list[ExposureReport], PlannedStage]:
    paths = FieldPaths.of(config)
    points = checking.zero_points(config.check.zero_points)
    exposures = paths.exposures()
    arguments = {p: {"path": p, "zero_point": points.get(paths.root_of(p))} for p in exposures}
    current = [p for p in exposures if is_current(check_exposure, config, arguments[p])]
    reports = foresight.reports(config, exposures, current, points)
    return reports, foresight.plan_check(exposures, current)


def _summarize(config: FieldConfig, usable: list[ExposureReport]) -> PlannedStage:
    grid = stages.stamp_grid(config, usable) if usable else None
    current = [r for r in usable if is_current(summarize_exposure, config, {"report": r, "grid": grid})]
    planned = foresight.plan_exposures("summarize", usable, current)
    return replace(planned, disk=foresight.stamp_disk(usable, current, grid))


def _prepare(config: FieldConfig, usable: list[ExposureReport], fresh: bool) -> PlannedStage:
    current = []
    if fresh:
        plans = {p.root: p for p in stages.plan_preparation(config)}
        current = [r for r in usable if r.root in plans and is_current(prepare_exposure, config, {"plan": plans[r.root]})]
    planned = foresight.plan_exposures("prepare", usable, current)
    return replace(planned, disk=foresight.prepared_disk(config, usable, current))


def _match(config: FieldConfig, reports: list[ExposureReport], fresh: bool) -> tuple[PlannedStage, PlannedStage]:
    """The stage, and its figures."""
    usable = [r for r in reports if not r.refused]
    fed = foresight.coadds(config.model_copy(update={"coadd": config.coadd.model_copy(update={"mosaics": "original"})}), reports)
    if not fed:
        raise InputError(f"no detector of field {config.field} lies on any of the tiles that were asked for")
    images = foresight.count_images(config, usable)
    steps, copies = 3 * images + 1, len({(p.image, i.root) for p in fed for i in p.inputs})
    to_do, to_draw = _steps_to_do(config) if fresh else (steps, images)
    copies_to_do = copies if to_do else sum(not is_current(copy_matched, config, {"plan": c}) for c in stages.plan_copies(config))
    disk = foresight.copies_disk(config, usable, fed) if copies_to_do else 0.0
    match = foresight.plan_match(usable, steps + copies, to_do, copies_to_do, disk)
    return match, foresight.plan_figures(images, images if to_do else to_draw)


def _steps_to_do(config: FieldConfig) -> tuple[int, int]:
    """Steps of the stage match without the copies, and images whose figures, are missing or out of date."""
    plans, tiles = stages.plan_matching(config), stages.tile_names(config)
    steps = [(task, {"plan": p}) for p in plans for task in (measure_overlaps, solve_backgrounds)]
    steps += [(make_quick_looks, {"plan": p, "tiles": tiles}) for p in plans]
    steps.append((tabulate_matching, {"images": [p.image for p in plans]}))
    drawn = [is_current(draw_matching, config, {"plan": p, "tiles": tiles}) for p in plans]
    return sum(not is_current(task, config, arguments) for task, arguments in steps), drawn.count(False)


def _mosaics(config: FieldConfig, reports: list[ExposureReport], fresh: bool) -> tuple[PlannedStage, PlannedStage]:
    plans = stages.plan_coadds(config) if fresh else foresight.coadds(config, reports)
    made = [p for p in plans if fresh and is_current(coadd_mosaic, config, {"plan": p})]
    drawn = [p for p in made if is_current(evaluate_mosaic, config, {"tile": p.tile, "image": p.image})]
    coadd, evaluate = foresight.plan_mosaics("coadd", plans, made), foresight.plan_mosaics("evaluate", plans, drawn)
    images = {p.image for p in plans}
    shown = stages.evaluated_tiles(config) if fresh else {}
    complete = images - {p.image for p in plans if p not in drawn}
    arguments = [{"image": i, "background": b, "tiles": tiles} for (i, b), tiles in shown.items() if i in complete]
    current = [a for a in arguments if is_current(draw_field, config, a)]
    figures = len(images) * len(config.coadd.backgrounds)
    return coadd, foresight.add_field_figures(evaluate, figures, figures - len(current))
