"""Reduce one field: ``python flows/field.py LMC_c42 [T07 ...] [--root DIR]``; ``--help`` tells the rest.

Which tasks run, in which order, for which units; everything else is in tasks
and kred_core.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before all else that is called flows
    from flows import command

    command.begin()

from kred_core import settings

if __name__ == "__main__":  # --help and wrong options are answered before Prefect is imported, which takes seconds
    from flows import local_server, progress

    asked = settings.answer(settings.field_config, sys.argv[1:])
    if not asked.run.dry_run:
        progress.announce(asked.title)
        local_server.begin()
    gc.disable()  # until `explained`: modules are no garbage, and to look for some among them takes a fifth of the time

import flows  # noqa: F401 - before Prefect, which would report home at its first start

# isort: split
from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.exceptions import FailedRun
from prefect.states import Completed, Failed, State
from prefect.utilities.annotations import allow_failure, opaque

from flows import messages, parameters, runners, start
from flows.orphan import end_with_worker
from flows.plan import dry_run
from flows.run import Run
from flows.server import server
from kred_core import check as checking
from kred_core import stages
from kred_core.check import ExposureReport
from kred_core.config import FieldConfig
from kred_core.errors import ConfigError, KredError, explain
from tasks.caching import each_by_itself, is_current
from tasks.check import check_exposure, check_field
from tasks.coadd import coadd_mosaic, plan_coadds
from tasks.evaluate import draw_field, evaluate_mosaic, tabulate_mosaics
from tasks.match import (
    copy_matched,
    draw_matching,
    link_matched,
    make_quick_looks,
    measure_overlaps,
    plan_copies,
    plan_matching,
    solve_backgrounds,
    tabulate_matching,
)
from tasks.prepare import plan_preparation, prepare_exposure
from tasks.publish import publish_backgrounds, publish_report, publish_verdicts
from tasks.summarize import restore_stamps, summarize_exposure, summarize_field
from tasks.tiles import link_prepared, tiles_field

__all__ = ["EXIT_COMPLETE", "EXIT_NOT_COMPLETE", "explained", "main", "reduce", "reduce_field"]

log = logging.getLogger("kred_core.run")

EXIT_COMPLETE, EXIT_NOT_COMPLETE, EXIT_WRONG_OPTIONS, EXIT_SOME_REFUSED = range(4)


def _check(run: Run) -> None:
    points = checking.zero_points(run.config.check.zero_points)
    named = [p for p in run.paths.exposures() if run.paths.has_plain_name(p)]  # the others are refused for their names
    run.each(check_exposure, [(p.name, {"path": p, "zero_point": points.get(run.paths.root_of(p))}) for p in named])
    run.outcome.reports = check_field(run.config)


def _summarize(run: Run) -> None:
    usable = [r for r in check_field(run.config) if not r.refused]
    grid = stages.stamp_grid(run.config, usable) if usable else None
    run.each(summarize_exposure, [(r.root, {"report": r, "grid": grid}) for r in usable])
    run.outcome.reports = summarize_field(run.config)
    if run.config.stamps.keep:  # otherwise they are made again only when somebody needs them
        _restore_stamps(run, run.outcome.reports)
    publish_verdicts(run.config.field, run.outcome.reports)


def _prepare(run: Run) -> None:
    run.each(prepare_exposure, [(p.root, {"plan": p}) for p in plan_preparation(run.config)])


def _tiles(run: Run) -> None:
    run.outcome.notes += stages.explain_images(run.config)
    run.each(tiles_field, [(run.config.field, {})], required=True)
    link_prepared(run.config)


def _match(run: Run) -> None:
    plans = {p.image: p for p in plan_matching(run.config)}
    measured = _from_stamps(run, measure_overlaps, [(image, {"plan": plan}) for image, plan in plans.items()])
    solved = run.each(solve_backgrounds, [(image, {"plan": plans[image]}) for image in measured])
    tiles = stages.tile_names(run.config)
    looks = [(image, {"plan": plans[image], "tiles": tiles}) for image in solved]
    looked = _from_stamps(run, make_quick_looks, looks)
    run.each(tabulate_matching, [(run.config.field, {"images": solved})], required=True)
    run.outcome.matching = stages.explain_matching(run.config)
    publish_backgrounds(run.config)
    copies = plan_copies(run.config)
    run.each(copy_matched, [(c.unit, {"plan": c}) for c in copies])
    link_matched(run.config, copies)
    figures = [(f"{image}, figures", arguments) for image, arguments in looks if image in looked]
    _need_stamps(run, draw_matching, figures)
    run.beside("figures", draw_matching, figures)


def _from_stamps(run: Run, task: Task, units: list[tuple[str, dict]]) -> list[str]:
    """Run a task that reads stamps."""
    _need_stamps(run, task, units)
    return run.each(task, units)


def _need_stamps(run: Run, task: Task, units: list[tuple[str, dict]]) -> None:
    """Stamps that are not kept are made again, if a task that reads them has anything to do."""
    if not all(is_current(task, run.config, arguments) for _, arguments in units):
        _restore_stamps(run, run.outcome.reports or summarize_field(run.config))


def _restore_stamps(run: Run, reports: list[ExposureReport]) -> None:
    usable = [r for r in reports if not r.refused]
    grid = stages.stamp_grid(run.config, usable)
    run.each(restore_stamps, [(r.root, {"report": r, "grid": grid}) for r in stages.stampless(run.config, usable, grid)])


def _coadd(run: Run) -> None:
    plans = plan_coadds(run.config)
    run.each(coadd_mosaic, [(stages.mosaic_unit(p.tile, p.image, p.backgrounds), {"plan": p}) for p in plans])


def _evaluate(run: Run) -> None:
    backgrounds = run.config.coadd.backgrounds
    if not backgrounds:
        return  # no mosaics were asked for
    mosaics = stages.mosaic_names(run.config)
    run.each(evaluate_mosaic, [(stages.mosaic_unit(t, i, backgrounds), {"tile": t, "image": i}) for t, i in mosaics])
    run.each(
        draw_field,
        [
            (f"{image}, {background}", {"image": image, "background": background, "tiles": tiles})
            for (image, background), tiles in stages.evaluated_tiles(run.config).items()
        ],
    )
    tabulate_mosaics(run.config)


STAGES: dict[str, Callable[[Run], None]] = {
    "check": _check,
    "summarize": _summarize,
    "prepare": _prepare,
    "tiles": _tiles,
    "match": _match,
    "coadd": _coadd,
    "evaluate": _evaluate,
}


@task(name="stage", task_run_name="{name}", cache_policy=NO_CACHE)
def _stage(name: str, run: Run) -> State:
    """One stage, with its tasks inside, so that the graph of a run with a thousand tasks is that of its stages."""
    with run.stage(name), run.memory(name), each_by_itself():
        run.require_room(name)
        STAGES[name](run)
    return run.state()


@flow(name="reduce field", flow_run_name="{config.title}", task_runner=runners.ConfiguredTaskRunner())
def reduce_field(config: Annotated[FieldConfig, parameters.completed(start.defaults)]) -> State:
    """Reduce one field, from its exposures to co-added tiles and figures.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
        Which field and tiles, and every option; what a deployment is not given is completed (`flows.parameters`).

    Returns
    -------
    `~prefect.states.State`
        Completed where everything that was asked for exists, otherwise Failed; the message says it in one sentence. The result
        is the number of detectors, and of exposures as a whole, that cannot be used.
    """
    messages.to_ui()
    end_with_worker()
    if "PREFECT__FLOW_RUN_ID" in os.environ:  # a worker starts it in no directory of a person's
        with suppress(OSError):  # told below
            os.chdir(config.root)
    try:
        runners.preflight(config)
        plan = dry_run(config) if config.run.dry_run else ""
    except (KredError, OSError) as e:
        log.error("%s", explain(e))
        return Failed(message=explain(e))
    if plan:
        log.info("%s", plan)
        return Completed(message="dry run: the log says what would be done", data=0)
    run = Run(config)
    outcome = run.outcome
    with run.explained(), run.alone(), run.logged(), run.explained():
        run.begin()
        before: list[Any] = []
        for name in config.run.stages:
            # Prefect knows results by their addresses; what comes to lie where one was would give the graph a line too many.
            FlowRunContext.get().run_results.clear()
            state = _stage(name, opaque(run), return_state=True, wait_for=before)
            with suppress(FailedRun):  # which the outcome knows; anything else is a defect
                state.result()
            before = [allow_failure(state)]
            if outcome.stopped:
                break
        run.finish_besides()
        if "match" in config.run.stages and not config.stamps.keep:
            stages.remove_stamps(config)
        run.finish()
    with run.explained():
        publish_report(config, outcome)
    if not outcome.complete:
        return Failed(message=outcome.headline())
    return Completed(message=outcome.headline(), data=outcome.n_refused)


def reduce(config: FieldConfig) -> int:
    """Run `reduce_field`; returns the exit status that tells how it ended."""
    state = reduce_field(config, return_state=True)
    if not state.is_completed():
        return EXIT_NOT_COMPLETE
    return EXIT_SOME_REFUSED if state.result() else EXIT_COMPLETE


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit status: 0 complete, 1 not complete, 2 wrong options, 3 complete but for refusals."""
    return explained(_field, arguments)


def _field(arguments: Sequence[str]) -> int:
    config = settings.field_config(arguments)
    runners.preflight(config)
    if config.run.dry_run:
        print(dry_run(config))
        return EXIT_COMPLETE
    with server():
        return reduce(config)


def explained(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Exit status of a command; what can be explained is one message and no traceback."""
    gc.freeze()  # what has been imported stays; figures, which leave much to collect, would have it searched each time
    gc.enable()
    try:
        return command(arguments)
    except (KredError, OSError) as e:
        print(f"error: {explain(e)}", file=sys.stderr)
        return EXIT_WRONG_OPTIONS if isinstance(e, ConfigError) else EXIT_NOT_COMPLETE


if __name__ == "__main__":
    from flows.field import main as imported  # tasks in other processes must find the flow under this name

    command.run(imported)
