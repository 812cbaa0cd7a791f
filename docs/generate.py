"""The parts of the reference that follow from the code: options, products, columns of tables, help of commands.

Each function returns the text of a part in Markdown; pages of ``docs/reference`` include them.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flows.cli import COMMANDS
from kred_core.config import BackgroundKind, FieldConfig, ServiceConfig
from kred_core.config.settings import typed
from kred_core.evaluation import MOSAICS
from kred_core.products import FieldPaths, tables

__all__ = ["TABLES", "commands", "field_products", "option_names", "options", "products", "table_columns", "write_all"]

PROJECT = Path(__file__).resolve().parents[1]

# The columns of each table, by the name of its path in `FieldPaths`.
TABLES = {
    "quality_table": tables.QUALITY,
    "exposure_table": tables.EXPOSURES,
    "detector_table": tables.DETECTORS,
    "tile_table": tables.TILE,
    "overlap_table": tables.OVERLAPS,
    "background_table": tables.BACKGROUNDS,
    "matching_table": tables.MATCHING,
    "mosaic_table": MOSAICS,
    "input_table": tables.INPUT,
}

TOPS = {
    "DECam_MEF": "Input, which is only read",
    "Summary": "Tables",
    "DECam_PREP": "Detectors in counts28",
    "DECam_BACK": "Binned maps",
    "DECam_SWARP": "Mosaics, figures and the page",
    "Log": "Log",
}
SYMBOLS = {"tile": "TILE", "image": "IMAGE", "root": "ROOT", "extname": "EXTNAME"}
OPTIONAL = {"background": BackgroundKind.MATCHED}  # what an argument is set to for another path of the same product
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def write_all(directory: Path) -> None:
    """Write all parts; a file whose text did not change is left as it is, so that only pages that changed are built again."""
    directory.mkdir(exist_ok=True)
    for part in (options, products, table_columns, commands):
        path = directory / f"{part.__name__}.md"
        text = part()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def options() -> str:
    """All options of a reduction and of the service, a table for each section."""
    sections = [("of a field", "", FieldConfig, _plain(FieldConfig))]
    sections += [(name, f"{name}.", model, _plain(model)) for name, model in _sections(FieldConfig)]
    sections += [("service", "service.", ServiceConfig, _plain(ServiceConfig))]
    sections += [(f"service.{name}", f"service.{name}.", model, _plain(model)) for name, model in _sections(ServiceConfig)]
    parts = []
    for name, prefix, model, fields in sections:
        title = f"`[{name}]`" if prefix else "Field, tiles, data root"
        rows = [(_flags(prefix + option, info), _default(info), _allowed(info), _help(info)) for option, info in fields]
        parts.append(f"## {title}\n\n{inspect.getdoc(model)}\n\n" + _table(("Option", "Default", "Allowed", "Meaning"), rows))
    return "\n".join(parts)


def option_names() -> list[str]:
    """Every option by its section and name, as in ``coadd.size``."""
    names = []
    for top, start in ((FieldConfig, ""), (ServiceConfig, "service.")):
        for prefix, model in (("", top), *((f"{name}.", model) for name, model in _sections(top))):
            names += [f"{start}{prefix}{option}" for option, _ in _plain(model)]
    return names


def _is_section(info: FieldInfo) -> bool:
    return isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)


def _sections(model: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    return [(name, info.annotation) for name, info in model.model_fields.items() if _is_section(info)]


def _plain(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    return [(info.alias or name, info) for name, info in model.model_fields.items() if not _is_section(info)]


def _flags(path: str, info: FieldInfo) -> str:
    """How an option is typed."""
    if path in ("field", "tiles"):
        return f"`{path.upper()}`" + (" ..." if path == "tiles" else "")
    name, dashed = typed(path), path.replace("_", "-")
    short = name != dashed
    if info.annotation is bool and info.default is True:
        name = f"no-{name}"
    return f"`--{name}`" + (f" (`{path}`)" if short else "")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"`{','.join(map(str, value))}`" if value else ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`" if str(value) else ""


def _bounds(metadata: Sequence[Any]) -> str:
    """Bounds of a number in words."""
    found = [(word, getattr(item, name, None)) for item in metadata for name, word in BOUNDS.items()]
    return ", ".join(f"{word} {bound:g}" for word, bound in found if bound is not None)


def _allowed(info: FieldInfo) -> str:
    """Which values an option takes."""
    if get_origin(info.annotation) is not list:
        return _bounds(info.metadata) or _values(info.annotation)
    item = FieldInfo.from_annotation(get_args(info.annotation)[0])
    bounds = _bounds(item.metadata)
    return f"list: {_values(item.annotation)}" + (f", {bounds}" if bounds else "")


def _values(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    return {bool: "yes or no", str: "text", Path: "path", int: "whole numbers", float: "numbers"}.get(kind, "text")


def _help(info: FieldInfo) -> str:
    """The help of an option without its bounds, which have a column of their own."""
    words = _bounds(info.metadata)
    return (info.description or "").removesuffix(f"{words.capitalize()}." if words else "").rstrip()


def field_products() -> Iterator[tuple[str, list[str], str]]:
    """Name in `FieldPaths`, paths below the data root and meaning of each product; kred's own records are left out."""
    paths = FieldPaths(Path(), "FIELD")
    for name, member in vars(FieldPaths).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            found = [getattr(paths, name)]
        elif inspect.isfunction(member):
            found = list(_variants(paths, member))
        else:
            continue
        shown = [path.as_posix() + ("" if path.suffix else "/") for path in found if isinstance(path, Path)]
        if shown and shown[0].split("/")[0] in TOPS:
            yield name, shown, " ".join((inspect.getdoc(member) or "").split())


def _variants(paths: FieldPaths, method: Any) -> Iterator[Path]:
    """The path that a method gives without options, and with each of them alone."""
    hints, parameters = get_type_hints(method), list(inspect.signature(method).parameters.values())[1:]
    if hints.get("return") is not Path or not all(
        p.name in (*SYMBOLS, *OPTIONAL, "kind") or p.default is False for p in parameters
    ):
        return
    given = {p.name: SYMBOLS.get(p.name) for p in parameters if p.default is inspect.Parameter.empty}
    optional = {p.name: (SYMBOLS | OPTIONAL).get(p.name, True) for p in parameters if p.default is not inspect.Parameter.empty}
    for kind in get_args(hints["kind"]) if "kind" in given else ("",):
        known = given | ({"kind": kind} if kind else {})
        for more in ({}, *({name: value} for name, value in optional.items())):
            yield method(paths, **known, **more)


def products() -> str:
    """All products below the data root, by directory."""
    parts = []
    found = list(field_products())
    for top, title in TOPS.items():
        rows = [
            ("<br>".join(f"`{path}`" for path in shown), meaning + _see_columns(name), f"`{name}`")
            for name, shown, meaning in found
            if shown[0].startswith(f"{top}/")
        ]
        parts.append(f"## {title}\n\n" + _table(("Path", "What it is", "`FieldPaths`"), rows))
    return "\n".join(parts)


def _see_columns(name: str) -> str:
    return f" ([columns](tables.md#{_anchor(name)}))" if name in TABLES else ""


def _anchor(name: str) -> str:
    return name.replace("_", "-")


def table_columns() -> str:
    """The columns of all tables."""
    shown = {name: found for name, found, _ in field_products()}
    meaning = {name: words for name, _, words in field_products()}
    parts = []
    for name, columns in TABLES.items():
        rows = [(f"`{c.name}`", _type(c.type), f"`{c.unit}`" if c.unit else "", c.description) for c in columns]
        parts.append(
            f"({_anchor(name)})=\n## `{shown[name][0].split('/')[-1]}`\n\n{meaning[name]}\n\n"
            + _table(("Column", "Type", "Unit", "Meaning"), rows)
        )
    return "\n".join(parts)


def _type(kind: type) -> str:
    return {str: "text", bool: "yes/no", int: "integer", float: "float64"}.get(kind, kind.__name__)


def commands() -> str:
    """What each command says with ``--help``."""
    return "\n".join(f"## `{name}`\n\n```text\n{help_of(name)}\n```\n" for name in ("kred", *(f"kred {c}" for c in COMMANDS)))


def help_of(name: str) -> str:
    """What a command says with ``--help``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KRED_", "PYTHONWARNINGS"))}
    run = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *name.split()[1:], "--help"],
        cwd=PROJECT,
        env=environment | {"COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.rstrip()


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; what looks like Markdown or a column's end in the words is escaped."""
    lines = [names, ["---"] * len(names), *rows]
    return "".join("| " + " | ".join(_escaped(cell) for cell in line) + " |\n" for line in lines)


def _escaped(cell: str) -> str:
    """Escape signs that mean something in Markdown outside of `code` and ends of lines."""
    parts = re.split(r"(`[^`]*`|<br>)", cell.replace("|", "\\|"))
    return "".join(part if part[:1] in ("`", "<") and part != "<" else re.sub(r"([*_<>])", r"\\\1", part) for part in parts)
