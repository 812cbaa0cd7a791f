"""A command line made from models: its options, their help, and what is said of an option that is not known.

Every option is text here; the models say what it means.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

__all__ = ["Command", "as_list", "is_list", "meant", "option_paths", "parse", "section_of", "typed"]

REPLACED = {"summarize.use_masks": "coadd.mask_codes"}  # options of earlier versions, and what decides now
SHORT = ("run.", "service.discover.", "service.")  # sections whose options people type daily, without the name of the section
WORDS = {"True": "yes", "False": "no", str: "TEXT", Path: "PATH", float: "NUMBER", int: "N"}


@dataclass(frozen=True)
class Command:
    """What a command takes."""

    model: type[BaseModel]  # all of its options
    description: str
    usage: str  # with {prog} for the name of the program, as in the examples
    examples: str
    positional: tuple[str, ...] = ()  # options that are typed without a name; the last may be a list
    hidden: tuple[str, ...] = ()  # options and sections that are not typed


def section_of(info: FieldInfo) -> type[BaseModel] | None:
    """The model of a section; None for an option."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def option_paths(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every section and option below a model, as in coadd.size."""
    for name, info in model.model_fields.items():
        path = prefix + (info.alias or name)
        yield path, info
        if inner := section_of(info):
            yield from option_paths(inner, f"{path}.")


def typed(path: str) -> str:
    """How people type an option, without the dashes before it."""
    for section in SHORT:
        path = path.removeprefix(section)
    return path.replace("_", "-")


def is_list(info: FieldInfo) -> bool:
    return get_origin(info.annotation) is list


def as_list(text: str) -> list[str]:
    """The one way in which lists are written on a command line and in the environment: A,B,C; an empty one is []."""
    items = [item.strip().strip("\"'") for item in text.strip().removeprefix("[").removesuffix("]").split(",")]
    return [] if items == [""] else items


def parse(command: Command, arguments: Sequence[str], prog: str) -> dict[str, Any]:
    """Return what was given, as text or lists of text, by path; tiles may follow options.

    Ends the program after ``--help`` (status 0) and where arguments cannot be parsed (status 2).
    """
    width = min(110, shutil.get_terminal_size((110, 24)).columns)
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=command.usage.format(prog=prog),
        description=command.description,
        epilog=command.examples.format(prog=prog),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=width),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    flags = ["-h", "--help"]
    group: Any = parser
    for path, info in option_paths(command.model):
        if path.split(".")[0] in command.hidden:
            continue
        if inner := section_of(info):
            group = parser.add_argument_group(f"{path} options", inner.__doc__)
        else:
            flags += _add(group if "." in path else parser, path, info, path in command.positional)
    values, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        given = unknown[0].split("=")[0]
        name = re.sub("^--(no-)?", "", given).replace("-", "_")
        parser.error(f"option {given} is not known{meant(given, flags, name)}")
    found = vars(values)
    for path, info in option_paths(command.model):
        if path in found and is_list(info):
            nothing = [""] if path in command.positional else []  # an empty tile is a mistake, and not all tiles
            found[path] = [item for text in found[path] for item in as_list(text) or nothing]
    return found


def _add(group: Any, path: str, info: FieldInfo, positional: bool) -> list[str]:
    """Add an option; returns its flags."""
    details: dict[str, Any] = {"help": (info.description or "").replace("%", "%%") + _default(info)}
    if positional:
        details |= {"nargs": "*", "default": []} if is_list(info) else {}
        group.add_argument(path, metavar=path.upper(), **details)
        return []
    flags = [f"--{typed(path)}"]
    if path.startswith("service."):
        flags.insert(0, f"--{path.replace('_', '-')}")
    if info.annotation is bool:
        details["action"] = argparse.BooleanOptionalAction
        shown = [*flags, *(f"--no-{flag[2:]}" for flag in flags)]
    else:
        details |= {"metavar": _metavar(info), "action": "append" if is_list(info) else "store"}
        shown = flags
    group.add_argument(*flags, dest=path, **details)
    return shown


def _metavar(info: FieldInfo) -> str:
    kind = get_args(info.annotation)[0] if is_list(info) else info.annotation
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    word = "{" + ",".join(get_args(kind)) + "}" if get_origin(kind) is Literal else WORDS.get(kind, "TEXT")
    return word + ",..." * is_list(info)


def _default(info: FieldInfo) -> str:
    if info.is_required() or info.default in ("", []):
        return ""
    value = info.default
    plain = ",".join(map(str, value)) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)
    return f" (default: {WORDS.get(plain, plain)})"


def meant(given: str, known: Iterable[str], path: str) -> str:
    """How a message goes on about what is not known: what it resembles, or what takes the place of an earlier option."""
    if path in REPLACED:
        return f" any more: {REPLACED[path]} takes its place (--help explains it)"
    close = difflib.get_close_matches(given, known, 1)
    return f"; did you mean {close[0]}?" if close else ""
