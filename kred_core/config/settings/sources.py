"""Where options come from: command line, environment, ``kred.toml``, defaults, in this order.

The options themselves are described in `kred_core.config`; pydantic-settings
makes the command line and its help from those descriptions. Kept apart from
`config` because only a person's command needs it: a flow or a notebook passes
a `~kred_core.config.FieldConfig`.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

import tomli_w
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliSettingsSource,
    CliSuppress,
    EnvSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from ... import __version__
from ...errors import ConfigError
from .. import (
    CheckConfig,
    CoaddConfig,
    EvaluateConfig,
    FieldConfig,
    MatchConfig,
    Name,
    PrepareConfig,
    RunConfig,
    ServiceConfig,
    StampConfig,
    SummarizeConfig,
    SurveyConfig,
    TilingConfig,
)
from .appearance import (
    CONFIG_FILE,
    FIELD_EXAMPLES,
    PREFIX,
    SERVICE_EXAMPLES,
    SURVEY_EXAMPLES,
    add_argument,
    formatter,
    parse,
    replaced,
)

__all__ = ["answer", "field_config", "service_config", "survey_configs", "to_toml"]

# The options that people type daily, without the name of their section.
SHORTCUTS = {
    "run.only": "only",
    "run.first": "from",
    "run.last": "until",
    "run.redo": "redo",
    "run.dry-run": "dry-run",
    "run.workers": "workers",
    "run.runner": "runner",
    "run.heavy-at-once": "heavy-at-once",
    "run.dask-address": "dask-address",
    "run.dask-cluster": "dask-cluster",
    "run.outside": "outside",
}

# Whoever can write the data root can write its kred.toml; it must not start programs or lead elsewhere in the name of others.
NOT_IN_FILE = {"run": ("dask_address", "dask_cluster", "outside"), "service": ("notify",)}

SERVICE_SHORTCUTS = {
    "service.every": "every",
    "service.fields-at-once": "fields-at-once",
    "service.port": "port",
    "service.notify": "notify",
    "service.discover.settle": "settle",
    "service.discover.patience": "patience",
    "service.discover.tries": "tries",
    "service.discover.fields": "fields",
}


class _Environment(EnvSettingsSource):
    """Environment variables, whose lists are written as on the command line, where pydantic-settings wants JSON."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: str) -> Any:
        """A list from A,B,C or [A,B,C]; whole sections are left to JSON."""
        if field is None or get_origin(field.annotation) is not list:
            return super().decode_complex_value(field_name, field, value)
        items = value.strip().removeprefix("[").removesuffix("]").split(",")
        items = [item.strip().strip("\"'") for item in items]
        return [] if items == [""] else items


class _CommandLine(BaseSettings):
    model_config = SettingsConfigDict(
        extra="forbid",
        env_prefix=PREFIX,
        env_ignore_empty=True,
        env_nested_delimiter="__",
        cli_implicit_flags=True,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_shortcuts=SHORTCUTS,
        cli_use_class_docs_for_groups=True,
    )

    @classmethod
    def settings_customise_sources(cls, settings_cls, init_settings, env_settings, dotenv_settings, file_secret_settings):
        return init_settings, _Environment(settings_cls), TomlConfigSettingsSource(settings_cls)


class _ReducingCommand(_CommandLine, FieldConfig):
    service: CliSuppress[ServiceConfig] = ServiceConfig()  # may stand in the same file; means nothing to a single run


class _FieldCommand(_ReducingCommand):
    field: CliPositionalArg[Name] = FieldConfig.model_fields["field"]
    tiles: CliPositionalArg[list[Name]] = FieldConfig.model_fields["tiles"]


class _SurveyCommand(_ReducingCommand):
    field: CliSuppress[Name] = "fields"
    fields: CliPositionalArg[list[Name]] = Field(default=[], description="Fields to reduce, one after the other.")
    all: bool = Field(default=False, description="Reduce every field that has a directory below DECam_MEF.")


class _ServiceCommand(_CommandLine, FieldConfig):
    model_config = SettingsConfigDict(cli_shortcuts=SERVICE_SHORTCUTS)

    service: ServiceConfig = ServiceConfig()
    # Options of the reductions are for kred.toml: the runs read them there, at any time later.
    field: CliSuppress[Name] = "field"
    tiles: CliSuppress[list[Name]] = []
    run: CliSuppress[RunConfig] = RunConfig()
    survey: CliSuppress[SurveyConfig] = SurveyConfig()
    check: CliSuppress[CheckConfig] = CheckConfig()
    summarize: CliSuppress[SummarizeConfig] = SummarizeConfig()
    stamps: CliSuppress[StampConfig] = StampConfig()
    prepare: CliSuppress[PrepareConfig] = PrepareConfig()
    tiling: CliSuppress[TilingConfig] = TilingConfig()
    match: CliSuppress[MatchConfig] = MatchConfig()
    coadd: CliSuppress[CoaddConfig] = CoaddConfig()
    evaluate: CliSuppress[EvaluateConfig] = EvaluateConfig()


def _load(command: type[_CommandLine], arguments: Sequence[str], prog: str, usage: str, description: str, epilog: str):
    arguments = list(arguments)
    finder = argparse.ArgumentParser(prog=prog, usage=usage, add_help=False, allow_abbrev=False)
    finder.add_argument("--root", type=Path, default=Path(os.environ.get(f"{PREFIX}ROOT", ".")))
    root = finder.parse_known_args(arguments)[0].root
    file = root / CONFIG_FILE
    _refuse_unknown_environment(command)
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

    class Settings(command):
        model_config = SettingsConfigDict(toml_file=file)

    parser = argparse.ArgumentParser(
        prog=prog, usage=usage, description=description, epilog=epilog, formatter_class=formatter, allow_abbrev=False
    )
    try:
        source = CliSettingsSource(
            Settings,
            root_parser=parser,
            cli_parse_args=arguments,
            parse_args_method=parse,
            add_argument_method=add_argument,
            add_argument_group_method=argparse._ActionsContainer.add_argument_group,
            formatter_class=formatter,
        )
        return Settings(_cli_settings_source=source)
    except ValidationError as e:
        raise ConfigError(_explain(e, command)) from e
    except SettingsError as e:  # its text names the section in words, and the option not at all
        name = re.search(r'(?:field "|encountered for )([\w.]+)', str(e))
        which = f"option {name[1]}" if name else "an option"
        raise ConfigError(f"{which}: a value cannot be understood; lists are written A,B,C") from e


def _refuse_unknown_environment(command: type[BaseModel]) -> None:
    known = {PREFIX + path.replace(".", "__").upper() for path in _option_names(command)}
    for name in os.environ:
        if name.startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            hint = replaced(name.upper().removeprefix(PREFIX).replace("__", ".").lower()) or hint
            raise ConfigError(f"the environment variable {name} is no option of kred{hint}")


def _option_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, info in model.model_fields.items():
        names.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            names += _option_names(info.annotation, f"{prefix}{name}.")
    return names


def _explain(error: ValidationError, command: type[BaseModel]) -> str:
    """One line for each wrong option: its name, what was given, what is allowed."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
        shortcut = SHORTCUTS.get(name.replace("_", "-"))
        shown = f"option {name}" + (f" (--{shortcut})" if shortcut else "")
        message = problem["msg"].removeprefix("Value error, ")
        given = "" if isinstance(problem["input"], dict) else f", not {problem['input']!r}"
        match problem["type"]:
            case "extra_forbidden":
                lines.append(f"option {name} is not known{replaced(name) or _meant(name, command)}")
            case "missing":
                lines.append(f"{name} is missing; --help shows how to give it")
            case "model_type":
                lines.append(f"{shown} is a section of options, as [{name}] in {CONFIG_FILE}{given}")
            case "string_pattern_mismatch":
                lines.append(f"{shown}: expected a name of letters, digits and _ . + -, which begins with a letter or digit{given}")
            case "too_long":
                lines.append(f"{shown}: expected at most {problem['ctx']['max_length']} values{given}")
            case _:
                lines.append(f"{shown}: {message[0].lower() + message[1:]}{given}")
    return "\n".join(lines)


def _meant(name: str, command: type[BaseModel]) -> str:
    """How a message goes on about a name that is no option: the option it resembles, if there is one."""
    typed = {f"run.{shortcut}": path for path, shortcut in SHORTCUTS.items()}
    close = difflib.get_close_matches(name, [*_option_names(command), *typed], 1)
    return f"; did you mean {typed.get(close[0], close[0]).replace('-', '_')}?" if close else ""


def field_config(arguments: Sequence[str], prog: str = "python flows/field.py") -> FieldConfig:
    """The configuration of one field from all its sources.

    Parameters
    ----------
    arguments : sequence of str
        The command line without the program's name.
    prog : str
        What the help calls the program.

    Returns
    -------
    `~kred_core.config.FieldConfig`

    Raises
    ------
    ConfigError
        An option is unknown or has a value that cannot be used.
    SystemExit
        After ``--help`` (status 0) and for arguments that cannot be parsed (status 2).
    """
    settings = _load(
        _FieldCommand,
        arguments,
        prog,
        f"{prog} FIELD [TILE ...] [--root DIR] [options]",
        "Reduce one field: check its exposures, measure and rescale them, co-add its tiles, and show what came out.",
        FIELD_EXAMPLES,
    )
    return FieldConfig.model_validate(settings.model_dump(exclude={"service"}))


def survey_configs(arguments: Sequence[str], prog: str = "python flows/survey.py") -> list[FieldConfig]:
    """The configurations of several fields; parameters and errors as in `field_config`."""
    settings = _load(
        _SurveyCommand,
        arguments,
        prog,
        f"{prog} FIELD [FIELD ...] | --all [--root DIR] [options]",
        "Reduce several fields, one after the other.",
        SURVEY_EXAMPLES,
    )
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
    """The configuration of the service, and the options of all its runs; parameters and errors as in `field_config`.

    Returns
    -------
    service : `~kred_core.config.ServiceConfig`
    options : `~kred_core.config.FieldConfig`
        Its field and tiles mean nothing.
    """
    settings = _load(
        _ServiceCommand,
        arguments,
        prog,
        f"{prog} [--root DIR] [options]",
        "kred as a service: a Prefect server, a worker, and a look for new fields every few minutes.",
        SERVICE_EXAMPLES,
    )
    return settings.service, FieldConfig.model_validate(settings.model_dump(exclude={"service"}))


Given = TypeVar("Given")


def answer(load: Callable[[Sequence[str]], Given], arguments: Sequence[str]) -> Given:
    """What a command line asks for; ends the program where a command line asks for help only, or cannot be used.

    Parameters
    ----------
    load : callable
        `field_config`, `survey_configs` or `service_config`.
    arguments : sequence of str

    Returns
    -------
    What ``load`` returns.

    Raises
    ------
    SystemExit
        Status 0 after ``--help``; 2 for what cannot be used, after a message.
    """
    try:
        return load(arguments)
    except ConfigError as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None


def to_toml(config: FieldConfig) -> str:
    """A resolved configuration as the text of a TOML file that is fit to be a data root's kred.toml.

    What belongs to one run only is left out: the field and tiles, which a comment names, and how the work was run.
    """
    options = config.model_dump(mode="json", exclude={"root", "field", "tiles", "run"})
    return f"# kred {__version__}: {config.title}\n" + tomli_w.dumps(options)
