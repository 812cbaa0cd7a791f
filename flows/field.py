"""Reduce one field: ``python flows/field.py LMC_c42 [T07 ...] [--root DIR]``; ``--help`` tells the rest."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before all else that is called flows
    from flows import command

    command.begin()

from kred_core.config import settings

if __name__ == "__main__":  # --help and wrong options are answered before Prefect is imported, which takes seconds
    from flows import local_server
    from kred_core import progress

    asked = settings.answer(settings.field_config, sys.argv[1:])
    if not asked.run.dry_run:
        progress.announce(asked.title)
        local_server.begin()

import flows  # noqa: F401 - before Prefect, which would report home at its first start

# isort: split
from prefect import flow
from prefect.states import Completed, Failed, State

from flows import deployed, messages
from flows.prefect_internals import started_by_worker
from flows.run import ConfiguredTaskRunner, PrefectTasks, end_with_worker, preflight
from flows.server import server
from kred_core.config import FieldConfig
from kred_core.errors import ConfigError, KredError, explain
from kred_core.stages import dry_run
from kred_core.stages.run import Run
from tasks.publish import publish_report

__all__ = ["EXIT_COMPLETE", "EXIT_NOT_COMPLETE", "explained", "main", "reduce", "reduce_field"]

log = logging.getLogger("kred_core.run")

EXIT_COMPLETE, EXIT_NOT_COMPLETE, EXIT_WRONG_OPTIONS, EXIT_SOME_REFUSED = range(4)


@flow(name="reduce field", flow_run_name="{config.title}", task_runner=ConfiguredTaskRunner())
def reduce_field(config: Annotated[FieldConfig, deployed.completed(deployed.defaults)]) -> State:
    """Reduce one field, from its exposures to co-added tiles and figures.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
        Which field and tiles, and every option; what a deployment is not given is completed (`flows.deployed`).

    Returns
    -------
    `~prefect.states.State`
        Completed where everything that was asked for exists, otherwise Failed; the message says it in one sentence. The result
        is the number of detectors, and of exposures as a whole, that cannot be used.
    """
    messages.to_ui()
    end_with_worker()
    if started_by_worker():  # a worker starts it in no directory of a person's
        with suppress(OSError):  # told below
            os.chdir(config.root)
    try:
        preflight(config)
        plan = dry_run(config) if config.run.dry_run else ""
    except (KredError, OSError) as e:
        log.error("%s", explain(e))
        return Failed(message=explain(e))
    if plan:
        log.info("%s", plan)
        return Completed(message="dry run: the log says what would be done", data=0)
    run = Run(config, PrefectTasks(config))
    outcome = run.reduce()
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
    preflight(config)
    if config.run.dry_run:
        print(dry_run(config))
        return EXIT_COMPLETE
    with server():
        return reduce(config)


def explained(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Exit status of a command; what can be explained is one message and no traceback."""
    try:
        return command(arguments)
    except (KredError, OSError) as e:
        print(f"error: {explain(e)}", file=sys.stderr)
        return EXIT_WRONG_OPTIONS if isinstance(e, ConfigError) else EXIT_NOT_COMPLETE


if __name__ == "__main__":
    from flows.field import main as imported  # tasks on a Dask cluster must find the flow under this name

    command.run(imported)
