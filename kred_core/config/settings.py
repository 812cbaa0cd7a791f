"""Where options come from: command line, environment, ``kred.toml``, defaults, in this order.

The command line is made from the models; every option is text there. Kept apart from the models because only a person's command
needs it: a flow or a notebook passes a `~kred_core.config.FieldConfig`.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tomli_w
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from .. import __version__
from ..errors import ConfigError
from ..words import program
from . import FieldConfig, Name, ServiceConfig

__all__ = ["CONFIG_FILE", "answer", "field_config", "service_config", "survey_configs", "to_toml", "typed"]

PREFIX = "KRED_"
CONFIG_FILE = "kred.toml"
# Whoever can write the data root can write its kred.toml; it must not start programs or lead elsewhere in the name of others.
NOT_IN_FILE = {"run": ("dask_address", "dask_cluster", "outside"), "service": ("notify",)}
REPLACED = {"summarize.use_masks": "coadd.mask_codes"}  # options of earlier versions, and what decides now
SHORT = ("run.", "service.discover.", "service.")  # sections whose options people type daily, without the name of the section
WORDS = {"True": "yes", "False": "no", str: "TEXT", Path: "PATH", float: "NUMBER", int: "N"}

SOURCES = f"""\
Every option can also stand in {CONFIG_FILE} in the data root, as in
    [coadd]
    engine = "swarp"
or in the environment, as {PREFIX}COADD__ENGINE=swarp. The command line wins over the
environment, that over {CONFIG_FILE}. Paths of tables count from the current directory.
Lists are written A,B,C there, an empty one []. Others may write {CONFIG_FILE}: --dask-address, --dask-cluster
and --outside are not taken from it."""


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


class _Reducing(FieldConfig):
    service: ServiceConfig = ServiceConfig()  # may stand in the same file; means nothing to a single run


class _Survey(_Reducing):
    field: Name = "fields"
    fields: list[Name] = Field(default=[], description="Fields to reduce, one after the other.")
    all: bool = Field(default=False, description="Reduce every field that has a directory below DECam_MEF.")


class _Service(_Reducing):
    field: Name = "field"


FIELD = Command(
    _Reducing,
    "Reduce one field: check its exposures, measure and rescale them, co-add its tiles, and show what came out.",
    "{prog} FIELD [TILE ...] [--root DIR] [options]",
    f"""\
examples:
  {{prog}} LMC_c42                        all tiles of a field below the current directory
  {{prog}} LMC_c42 T07 T08 --root DIR     two tiles, data below DIR
  {{prog}} LMC_c42 --dry-run              what would be done, and what it would cost
  {{prog}} LMC_c42 --until summarize      look at the exposures first
  {{prog}} LMC_c42 --from coadd --coadd.engine swarp

{SOURCES}""",
    positional=("field", "tiles"),
    hidden=("service",),
)
SURVEY = Command(
    _Survey,
    "Reduce several fields, one after the other.",
    "{prog} FIELD [FIELD ...] | --all [--root DIR] [options]",
    f"""\
examples:
  {{prog}} LMC_c41 LMC_c42 --root DIR    two fields, one after the other
  {{prog}} --all                         every field below DECam_MEF

{SOURCES}""",
    positional=("fields",),
    hidden=("field", "service"),
)
SERVICE = Command(
    _Service,
    "kred as a service: a Prefect server, a worker, and a look for new fields every few minutes.",
    "{prog} [--root DIR] [options]",
    f"""\
examples:
  {{prog}} --root DIR               look for new fields every 10 minutes
  {{prog}} --root DIR --every 60 --fields-at-once 2

Options of the reductions stand in {CONFIG_FILE} in the data root, those shown here too, as in
    [service]
    every = 60""",
    # Options of the reductions are for kred.toml: the runs read them there, at any time later.
    hidden=tuple(name for name in FieldConfig.model_fields if name != "root"),
)


def _load(command: Command, arguments: Sequence[str], prog: str) -> Any:
    given: dict[str, Any] = {}
    for path, value in parse(command, arguments, prog).items():
        if value != [] or path not in command.positional:
            _put(given, path, value)
    given = _over(given, _environment(command.model))
    file = _file(Path(given.get("root", ".")) / CONFIG_FILE)
    try:
        return command.model.model_validate(_over(given, file))
    except ValidationError as e:
        raise ConfigError(_explain(e, command.model)) from e


def _file(file: Path) -> dict[str, Any]:
    """What kred.toml says."""
    try:
        text = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as e:
        raise ConfigError(f"{file} cannot be read: {e}") from e
    if "root" in text:
        raise ConfigError(f"{file}: remove the line 'root'; the file configures the data root it lies in")
    for section, names in NOT_IN_FILE.items():
        options = text.get(section)
        if isinstance(options, dict) and (found := next((name for name in names if options.get(name)), None)):
            raise ConfigError(
                f"{file}: option {section}.{found} is not taken from there, because others may write that file; give "
                f"--{found.replace('_', '-')} on the command line, or {PREFIX}{section.upper()}__{found.upper()} in the environment"
            )
    return text


def _environment(model: type[BaseModel]) -> dict[str, Any]:
    """What the environment says; an empty variable is as none."""
    known = {PREFIX + path.replace(".", "__").upper(): (path, info) for path, info in option_paths(model)}
    found: dict[str, Any] = {}
    for name, text in sorted(os.environ.items()):  # sections before their options
        if not name.startswith(PREFIX):
            continue
        if name.upper() not in known:
            path = name.upper().removeprefix(PREFIX).replace("__", ".").lower()
            raise ConfigError(f"the environment variable {name} is no option of kred{meant(name.upper(), known, path)}")
        path, info = known[name.upper()]
        value: Any = as_list(text) if is_list(info) else text
        if section_of(info):
            with suppress(ValueError):  # whatever else it is, it is no section
                value = json.loads(text)
        if text:
            _put(found, path, value)
    return found


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):  # told when the section is validated
            return
    values[name] = value


def _over(upper: dict[str, Any], lower: dict[str, Any]) -> dict[str, Any]:
    """Options of one source over those of another; a list is one value."""
    merged = dict(lower)
    for name, value in upper.items():
        if isinstance(value, dict) and name in lower:
            merged[name] = _over(value, lower[name]) if isinstance(lower[name], dict) else lower[name]
        else:
            merged[name] = value
    return merged


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for each wrong option: its name, what was given, what is allowed."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
        shown = f"option {name}" + (f" (--{typed(name)})" if name.startswith("run.") else "")
        message = problem["msg"].removeprefix("Value error, ")
        given = "" if isinstance(problem["input"], dict) else f", not {problem['input']!r}"
        words = {
            "extra_forbidden": f"option {name} is not known{meant(name, [path for path, _ in option_paths(model)], name)}",
            "missing": f"{name} is missing; --help shows how to give it",
            "model_type": f"{shown} is a section of options, as [{name}] in {CONFIG_FILE}{given}",
            "string_pattern_mismatch": f"{shown}: expected a name of letters, digits and _ . + -, which begins with a letter or "
            f"digit{given}",
            "too_long": f"{shown}: expected at most {problem.get('ctx', {}).get('max_length')} values{given}",
        }
        lines.append(words.get(problem["type"], f"{shown}: {message[0].lower() + message[1:]}{given}"))
    return "\n".join(lines)


def field_config(arguments: Sequence[str]) -> FieldConfig:
    """Return the configuration of one field from all its sources; the arguments are without the program's name.

    Raises
    ------
    ConfigError
        An option is unknown or has a value that cannot be used.
    SystemExit
        After ``--help`` (status 0) and for arguments that cannot be parsed (status 2).
    """
    settings = _load(FIELD, arguments, program("python flows/field.py"))
    return FieldConfig.model_validate(settings.model_dump(exclude={"service"}))


def survey_configs(arguments: Sequence[str]) -> list[FieldConfig]:
    """Return the configurations of several fields."""
    settings = _load(SURVEY, arguments, program("python flows/survey.py"))
    fields = list(dict.fromkeys(settings.fields))
    if settings.all:
        fields = sorted(p.parent.name for p in (settings.root / "DECam_MEF").glob("*/mef"))
    if not fields:
        found = "none is there" if settings.all else "name at least one, or give --all"
        raise ConfigError(f"no field to reduce: {found} (looked below {settings.root / 'DECam_MEF'})")
    values = settings.model_dump(exclude={"service", "fields", "all"})
    try:
        return [FieldConfig.model_validate({**values, "field": field}) for field in fields]
    except ValidationError as e:
        raise ConfigError(_explain(e, FieldConfig)) from e


def service_config(arguments: Sequence[str], prog: str = "python deployments/serve.py") -> tuple[ServiceConfig, FieldConfig]:
    """Return the configuration of the service, and the options of all its runs, in which field and tiles mean nothing."""
    settings = _load(SERVICE, arguments, program(prog))
    return settings.service, FieldConfig.model_validate(settings.model_dump(exclude={"service"}))


Given = TypeVar("Given")


def answer(load: Callable[[Sequence[str]], Given], arguments: Sequence[str]) -> Given:
    """Return what ``load`` makes of a command line; end the program where it cannot be used, with a message and status 2."""
    try:
        return load(arguments)
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None


def to_toml(config: FieldConfig) -> str:
    """Return a resolved configuration as the text of a TOML file that is fit to be a data root's kred.toml.

    What belongs to one run only is left out: the field and tiles, which a comment names, and how the work was run.
    """
    options = config.model_dump(mode="json", exclude={"root", "field", "tiles", "run"})
    return f"# kred {__version__}: {config.title}\n" + tomli_w.dumps(options)
