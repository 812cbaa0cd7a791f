"""Reduce several fields, one after the other: ``python flows/survey.py FIELD FIELD ... | --all``; ``--help`` tells the rest."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kred_core import settings

if __name__ == "__main__":  # --help and wrong options are answered before Prefect is imported, which takes seconds
    settings.answer(settings.survey_configs, sys.argv[1:])

import flows  # noqa: F401 - before Prefect, which would report home at its first start

# isort: split
from flows.field import explained, reduce
from flows.plan import dry_run
from flows.server import server
from kred_core import stages
from kred_core.config import FieldConfig
from kred_core.errors import KredError

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit status: 0 all complete, 1 not all, 2 wrong options."""
    return explained(_survey, arguments)


def _survey(arguments: Sequence[str]) -> bool:
    configs = settings.survey_configs(arguments)
    if configs[0].run.dry_run:
        return all([_ready(config) and _print(dry_run(config)) for config in configs])
    with server():
        return all([_ready(config) and reduce(config) for config in configs])


def _ready(config: FieldConfig) -> bool:
    """A field that cannot begin does not keep the others from it."""
    try:
        stages.preflight(config)
    except KredError as e:
        print(f"error: {e}", file=sys.stderr)
        return False
    return True


def _print(text: str) -> bool:
    print(text, end="\n\n")
    return True


if __name__ == "__main__":
    from flows.survey import main as imported  # tasks in other processes must find the flow under this name

    sys.exit(imported(sys.argv[1:]))
