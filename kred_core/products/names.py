"""Names of tiles and images that would make one file of two products.

They are found from `FieldPaths` itself, so that a product that is added there counts at once.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints

from ..config import BackgroundKind
from .paths import FieldPaths

__all__ = ["Clash", "find_clash", "same_file", "table_names"]

ANY_IMAGE = "image"  # where only the names of tiles are judged


class Clash(NamedTuple):
    """A product that has the name of another one.

    Attributes
    ----------
    tile, image : str
        What it is a product of; empty where of none.
    other : str
        Whose name it has, in words.
    path : `~pathlib.Path`
        The name.
    """

    tile: str
    image: str
    other: str
    path: Path


def same_file(path: Path | str) -> str:
    """The same for all names of one file where capitals are not told from small letters."""
    return str(path).casefold()


@lru_cache(maxsize=64)
def find_clash(field: str, tiles: Sequence[str], images: Sequence[str] = (ANY_IMAGE,)) -> Clash | None:
    """The first product of a field's tiles and images that has the name of another one, or of a directory of kred.

    Parameters
    ----------
    field : str
    tiles, images : tuple of str
        Each name once.
    """
    owners: dict[str, str] = {}
    for tile, image, path in sorted(_products(FieldPaths(Path(), field), tiles, images), key=lambda p: bool(p[0])):
        if not tile:
            owners |= dict.fromkeys(map(same_file, path.parents), "kred itself")
        owner = " of ".join(filter(None, (image and f"image {image}", tile and f"tile {tile}"))) or "kred itself"
        if (tile or image) and same_file(path) in owners:
            return Clash(tile, image, owners[same_file(path)], path)
        owners[same_file(path)] = owner
    return None


@cache
def table_names() -> frozenset[str]:
    """What follows ``<field>_`` in the names of kred's tables of a whole field."""
    paths = FieldPaths(Path(), "field")
    found = [path for _, _, path in _products(paths, (), ()) if path.parent == paths.quality_table.parent]
    return frozenset(path.stem.removeprefix("field_") for path in found)


def _products(paths: FieldPaths, tiles: Sequence[str], images: Sequence[str]) -> Iterator[tuple[str, str, Path]]:
    """Tile, image and path of each product whose name needs no more than these: not those of exposures."""
    choices = {bool: (False, True), BackgroundKind: tuple(BackgroundKind)}
    for name, member in vars(FieldPaths).items():
        if isinstance(member, property):
            if isinstance(path := getattr(paths, name), Path):
                yield "", "", path
        elif inspect.isfunction(member) and not name.startswith("_"):
            hints, parameters = get_type_hints(member), dict(inspect.signature(member).parameters)
            del parameters["self"]
            values = {p: choices.get(hints[p], get_args(hints[p])) for p in parameters}
            given = {"tile": tiles, "image": images}
            values |= {p: (*given[p], *([""] if parameters[p].default == "" else [])) for p in given.keys() & parameters}
            if given.keys() & parameters:
                for chosen in itertools.product(*values.values()):
                    named = dict(zip(values, chosen, strict=True))
                    yield named.get("tile", ""), named.get("image", ""), member(paths, **named)
