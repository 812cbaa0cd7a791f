"""Matched copies of the detectors, for people who want to look at them; co-adding does not need them.

The unit is an exposure, as of the stage prepare: each detector is written once and every tile links to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import BackgroundKind, FieldConfig
from ..exposures import rescale
from ..exposures.exposure import Exposure
from ..products import FieldPaths, link_all, tables
from .mosaics import read_backgrounds, tile_names

__all__ = ["MatchedCopies", "copy_matched", "link_matched", "plan_copies"]


@dataclass(frozen=True)
class MatchedCopies:
    """Matched copies of the detectors of one exposure for one image: out = raw * scale - b.

    Attributes
    ----------
    field, root, file : str
    image : str
        Empty where the exposure feeds one image only.
    scale : float
    backgrounds : tuple of (str, float)
        b in counts28 per native pixel by EXTNAME.
    """

    field: str
    root: str
    file: str
    image: str
    scale: float
    backgrounds: tuple[tuple[str, float], ...]

    @property
    def unit(self) -> str:
        return f"{self.root}.{self.image}" if self.image else self.root


def plan_copies(config: FieldConfig) -> list[MatchedCopies]:
    """The matched copies to make: of every detector that feeds one of the tiles, once."""
    found: dict[tuple[str, str, str, str, float], dict[str, float]] = {}
    backgrounds = read_backgrounds(config)
    images: dict[tuple[str, str], set[str]] = {}
    for row in (row for tile in tile_names(config) for row in _rows(FieldPaths.of(config), tile)):
        key = row["Field"], row["Root"]
        images.setdefault(key, set()).add(row["Image"])
        of_exposure = found.setdefault((*key, row["File"], row["Image"], row["XFACTOR"]), {})
        of_exposure[row["EXTNAME"]] = backgrounds[*key, row["EXTNAME"], row["Image"]].b
    return [
        MatchedCopies(field, root, file, image if len(images[field, root]) > 1 else "", scale, tuple(sorted(values.items())))
        for (field, root, file, image, scale), values in sorted(found.items())
    ]


def _rows(paths: FieldPaths, tile: str) -> Iterator[dict[str, Any]]:
    """What says which detectors feed a tile, row by row, as plain values: astropy's rows take ten times as long."""
    table = tables.read(paths.tile_table(tile), tables.TILE, "tiles")
    names = ("Field", "Root", "EXTNAME", "File", "Image", "XFACTOR")
    for values in zip(*(table[name].tolist() for name in names), strict=True):
        yield dict(zip(names, values, strict=True))


def copy_matched(config: FieldConfig, plan: MatchedCopies) -> list[Path]:
    """Write the matched copies of one exposure.

    Returns
    -------
    list of `~pathlib.Path`
        One file for each detector; empty where the configuration asks for none.
    """
    paths = FieldPaths.of(config)
    exposure = Exposure.open(FieldPaths(config.root, plan.field).exposure(plan.file))
    detectors = {d.extname: d for d in reversed(exposure.detectors)}
    written = []
    for extname, b in plan.backgrounds:
        for plain in (False, True):
            destination = paths.matched_detector(plan.root, extname, plain, plan.image)
            if config.match.output == ("plain" if plain else "compressed"):
                rescale.rescale_detector(exposure.primary, detectors[extname], destination, plan.scale, b, plain=plain)
                written.append(destination)
            else:
                destination.unlink(missing_ok=True)  # of an earlier choice
    return written


def link_matched(config: FieldConfig, copies: Iterable[MatchedCopies]) -> None:
    """Links to the matched copies in the directory of each tile, as many as there are, and none from an earlier selection."""
    paths = FieldPaths.of(config)
    names: dict[tuple[str, str], list[str]] = {(c.field, c.root): [] for c in copies}
    for c in copies:
        names[c.field, c.root].append(c.image)
    for tile in tile_names(config):
        targets = []
        for row in _rows(paths, tile):
            image = row["Image"] if "" not in names[row["Field"], row["Root"]] else ""
            targets += [paths.matched_detector(row["Root"], row["EXTNAME"], plain, image) for plain in (False, True)]
        if not link_all(paths.prepared_tile(tile, BackgroundKind.MATCHED), targets):
            break
