"""Reduce several fields, one after the other: ``python flows/survey.py FIELD FIELD ... | --all``; ``--help`` tells the rest."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before all else that is called flows
    from flows import command

    command.begin()

from kred_core.config import settings

if __name__ == "__main__":  # --help and wrong options are answered before Prefect is imported, which takes seconds
    from flows import local_server
    from kred_core import progress

    asked = settings.answer(settings.survey_configs, sys.argv[1:])
    if not asked[0].run.dry_run:
        progress.announce(", ".join(config.title for config in asked))
        local_server.begin()

import flows  # noqa: F401 - before Prefect, which would report home at its first start

# isort: split
from prefect import flow
from prefect.states import Completed, Failed, State

from flows import deployed, messages
from flows.field import EXIT_COMPLETE, EXIT_NOT_COMPLETE, explained, reduce
from flows.run import preflight
from flows.server import server
from kred_core import service
from kred_core.config import SeveralConfig
from kred_core.errors import KredError, explain
from kred_core.stages import dry_run

__all__ = ["main", "reduce_survey"]

log = logging.getLogger("kred_core.survey")


def _options(root: Path) -> dict[str, Any]:
    given = deployed.defaults(root)
    return {name: given[name] for name in ("root", "run")}


@flow(name="reduce survey", flow_run_name="several fields")
def reduce_survey(config: Annotated[SeveralConfig, deployed.completed(_options)]) -> State:
    """Start a run of its own for each of several fields; as many at once as the work queue allows.

    Parameters
    ----------
    config : `~kred_core.config.SeveralConfig`
        Which fields and tiles; all other options are those in kred.toml.

    Returns
    -------
    `~prefect.states.State`
        Completed where all runs were started; they are not waited for.
    """
    messages.to_ui()
    fields = config.fields or service.fields(config.root)
    for field in fields:
        options = deployed.options(config.root, field)
        deployed.start_field(options.model_copy(update={"tiles": config.tiles, "run": config.run}))
        log.info("%s: started", field)
    return Completed(message=f"started: {', '.join(fields)}") if fields else Failed(message="no field is there yet")


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit status: 0 all complete, 1 not all, 2 wrong options, 3 all but for what was refused."""
    return explained(_survey, arguments)


def _survey(arguments: Sequence[str]) -> int:
    configs = settings.survey_configs(arguments)
    statuses = []
    with nullcontext() if configs[0].run.dry_run else server():
        for config in configs:
            try:
                preflight(config)
                if config.run.dry_run:
                    print(dry_run(config), end="\n\n")
                else:
                    statuses.append(reduce(config))
            except (KredError, OSError) as e:  # a field that cannot begin does not keep the others from it
                print(f"error: {explain(e)}", file=sys.stderr)
                statuses.append(EXIT_NOT_COMPLETE)
    return EXIT_NOT_COMPLETE if EXIT_NOT_COMPLETE in statuses else max(statuses, default=EXIT_COMPLETE)


if __name__ == "__main__":
    from flows.survey import main as imported  # tasks on a Dask cluster must find the flow under this name

    command.run(imported)
