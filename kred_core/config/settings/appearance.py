"""How a command line looks and answers: its help, its examples, and what it says of an option that is not known.

Apart from where options come from, because pydantic-settings shows Python types where a person wants words.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
from collections.abc import Sequence

__all__ = [
    "CONFIG_FILE",
    "FIELD_EXAMPLES",
    "PREFIX",
    "SERVICE_EXAMPLES",
    "SURVEY_EXAMPLES",
    "add_argument",
    "formatter",
    "parse",
    "replaced",
]

PREFIX = "KRED_"
CONFIG_FILE = "kred.toml"

SOURCES = f"""\
Every option can also stand in {CONFIG_FILE} in the data root, as in
    [coadd]
    engine = "swarp"
or in the environment, as {PREFIX}COADD__ENGINE=swarp. The command line wins over the
environment, that over {CONFIG_FILE}. Paths of tables count from the current directory.
Lists are written A,B,C there, an empty one []. Others may write {CONFIG_FILE}: --dask-address, --dask-cluster
and --outside are not taken from it."""

FIELD_EXAMPLES = f"""\
examples:
  python flows/field.py LMC_c42                        all tiles of a field below the current directory
  python flows/field.py LMC_c42 T07 T08 --root DIR     two tiles, data below DIR
  python flows/field.py LMC_c42 --dry-run              what would be done, and what it would cost
  python flows/field.py LMC_c42 --until summarize      look at the exposures first
  python flows/field.py LMC_c42 --from coadd --coadd.engine swarp

{SOURCES}"""

SURVEY_EXAMPLES = f"""\
examples:
  python flows/survey.py LMC_c41 LMC_c42 --root DIR    two fields, one after the other
  python flows/survey.py --all                         every field below DECam_MEF

{SOURCES}"""

SERVICE_EXAMPLES = f"""\
examples:
  python deployments/serve.py --root DIR               look for new fields every 10 minutes
  python deployments/serve.py --root DIR --every 60 --fields-at-once 2

Options of the reductions stand in {CONFIG_FILE} in the data root, those shown here too, as in
    [service]
    every = 60"""


REPLACED = {"summarize.use_masks": "coadd.mask_codes"}  # options of earlier versions, and what decides now

PLAIN_WORDS = {"True": "yes", "False": "no", "0.0": "0"}
METAVARS = {"str": "TEXT", "Path": "PATH", "float": "NUMBER", "int": "N"}


def add_argument(group, *names, **details):
    """Show options as a person writes them, where pydantic-settings shows Python types."""
    short = [name for name in names if not name.startswith(("--run.", "--no-run."))]
    names = short or names
    metavar = details.get("metavar")
    if isinstance(metavar, str):
        listed = re.fullmatch(r"(?i)list\[(.*)\]", metavar)
        inner = listed[1] if listed else metavar
        details["metavar"] = METAVARS.get(inner, inner) + (",..." if listed else "")
    if isinstance(details.get("help"), str):
        details["help"] = re.sub(r" \(default: (.*)\)$", lambda m: _default(m[1]), details["help"])
    return argparse._ActionsContainer.add_argument(group, *names, **details)


def _default(text: str) -> str:
    text = PLAIN_WORDS.get(text, text.strip("[]").replace(", ", ","))
    return f" (default: {text})" if text else ""


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse arguments; tiles may follow options, and an option that is not known is named with the one that was meant."""
    values, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        given = unknown[0].split("=")[0]
        known = [option for action in parser._actions for option in action.option_strings]
        close = difflib.get_close_matches(given, known, 1)
        name = re.sub("^--(no-)?", "", given).replace("-", "_")
        hint = replaced(name) or (f"; did you mean {close[0]}?" if close else "")
        parser.error(f"option {given} is not known{hint}")
    return values


def replaced(name: str) -> str:
    """How a message goes on about an option of an earlier version; empty for any other name."""
    return f" any more: {REPLACED[name]} takes its place (--help explains it)" if name in REPLACED else ""


def formatter(prog: str) -> argparse.HelpFormatter:
    width = min(110, shutil.get_terminal_size((110, 24)).columns)
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=width)
