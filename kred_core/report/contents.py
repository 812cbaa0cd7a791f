"""What is on disk of a field, gathered for its page: tables, records, figures, small pictures.

Whatever is missing is left out and whatever cannot be read is named, because people want to look at a field that is half
reduced, or was reduced years ago.
"""

from __future__ import annotations

import csv
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from .. import evaluation, survey
from ..config import BackgroundKind, FieldConfig
from ..errors import InputError, KredError
from ..products import FieldPaths, read_record, tables
from ..products.paths import MatchingFigure
from ..products.tables import Column
from ..survey import Tile
from .pictures import Picture, Sky, figure_picture, tile_pictures

WORST = 8  # pairs in the table
THREADS = 4  # images of which pictures are made at the same time; the libraries for that release the interpreter
FIGURE_WIDTH, FIGURE_BYTES = 380, 26_000
TILE_SIDE, FEW_TILES_SIDE, FEW = 220, 400, 4  # pixels of a tile's picture
# what it shows, and from how many of what on there is something to see
MATCHING_FIGURES: dict[MatchingFigure, tuple[str, str, int]] = {
    "overlaps": ("Differences where detectors overlap, before and after", "N_pairs", 2),
    "backgrounds": ("What was subtracted, on the focal plane and on the sky", "N_det", 2),
    "pairs": ("The pairs that agree least", "N_pairs", 1),
}
Row = dict[str, Any]
T = TypeVar("T")


@dataclass
class TileContents:
    """One tile in one image."""

    tile: Tile
    picture: Picture | None = None
    source: str = ""  # of the picture: "matched", "original" (backgrounds of the mosaic) or "quick look"; "" without one
    files: dict[str, Path] = field(default_factory=dict)  # existing figures and FITS files, by what they are in words
    numbers: Row = field(default_factory=dict)  # row of the table of mosaics; empty where there is none
    failed: str = ""  # why it was not made in the last run


@dataclass
class ImageContents:
    """One image of the field."""

    name: str
    title: str  # the name and what light that is, where that is known
    exposures: list[Row]  # rows of the exposure table that go into it
    tiles: list[TileContents]
    sky: Sky | None = None  # from the quick look
    pictures: dict[str, Picture] = field(default_factory=dict)  # of the sky, by "before" and "after"
    matching: Row = field(default_factory=dict)  # row of the table of the matching; empty where there is none
    failed: str = ""  # why it was not matched in the last run
    worst: list[Row] = field(default_factory=list)  # overlaps that agree least, the worst first
    figures: list[tuple[str, Path, Picture]] = field(default_factory=list)  # what it shows, the file, a small picture of it
    overviews: dict[str, Path] = field(default_factory=dict)  # figures of the whole field by what they show

    @property
    def shown(self) -> list[TileContents]:
        """The tiles that have a picture."""
        return [tile for tile in self.tiles if tile.picture]

    @property
    def known(self) -> list[TileContents]:
        """The tiles that there is something to say of."""
        return [tile for tile in self.tiles if tile.numbers or tile.files or tile.failed]


@dataclass
class Contents:
    """A field as its page shows it."""

    paths: FieldPaths
    tiles: Sequence[Tile] = ()
    images: list[ImageContents] = field(default_factory=list)  # in the order of the survey, without those of which there is nothing
    verdicts: list[Row] = field(default_factory=list)  # rows of the quality table with what the exposure table adds
    run: Row = field(default_factory=dict)  # what the last run that did something did, see Outcome.remember; empty: not known
    changed: dict[str, str] = field(default_factory=dict)  # options that differ from the default, as in kred.toml
    options: str = ""  # all options, as the text of kred.toml
    files: dict[str, Path] = field(default_factory=dict)  # existing tables and logs by what they are
    unreadable: list[str] = field(default_factory=list)  # what is there and cannot be read, in words

    def tried(self, read: Callable[[Path], T], path: Path) -> T | None:
        """What is read from a file; None where there is none, and also a note where it cannot be read."""
        try:
            return read(path) if path.is_file() else None
        except (KredError, OSError) as e:
            self.unreadable.append(self.plain(str(e)))
            return None

    def plain(self, text: str) -> str:
        """A message without the place of the data root, which may move."""
        return text.replace(f"{self.paths.root}/", "") if str(self.paths.root) != "." else text

    def failed(self, stage: str, units: Iterable[str]) -> str:
        """Why units of a stage failed in the last run; empty if they did not."""
        failed = self.run.get("stages", {}).get(stage, {}).get("failed", {})
        return self.plain("; ".join(dict.fromkeys(failed[unit] for unit in units if unit in failed)))


def saved_config(paths: FieldPaths) -> FieldConfig:
    """The options with which the field was last reduced; the defaults where no copy lies beside its products.

    Raises InputError where the copy cannot be used.
    """
    fixed: dict[str, Any] = {"field": paths.field, "root": paths.root}
    if not paths.run_config.is_file():
        return FieldConfig(**fixed)
    try:
        return FieldConfig(**tomllib.loads(paths.run_config.read_text(encoding="utf-8")), **fixed)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError, TypeError) as e:
        reason = " ".join(str(e).split())
        raise InputError(f"{paths.run_config} cannot be used ({reason[:200]}); the defaults are assumed") from e


def gather(paths: FieldPaths) -> Contents:
    """Everything that the page of a field shows; InputError where nobody knows where the field and its tiles are."""
    contents = Contents(paths)
    config = contents.tried(lambda path: saved_config(paths), paths.run_config) or FieldConfig(field=paths.field, root=paths.root)
    contents.tiles = survey.tiles(paths.field, config.survey)
    contents.run = read_record(paths.record("run", "last")) or {}
    contents.options = paths.run_config.read_text(encoding="utf-8", errors="replace") if paths.run_config.is_file() else ""
    contents.changed = _changed(config)

    quality_rows = _rows(contents, paths.quality_table, tables.QUALITY, "check")
    exposures = {row["Root"]: row for row in _rows(contents, paths.exposure_table, tables.EXPOSURES, "summarize")}
    contents.verdicts = [exposures.get(row["Root"], {}) | row for row in quality_rows]
    matched = {row["Image"]: row for row in _rows(contents, paths.matching_table, tables.MATCHING, "match")}
    measured = _rows(contents, paths.mosaic_table, evaluation.MOSAICS, "evaluate")
    worst = contents.tried(_worst, paths.overlap_table) or {}
    known = survey.images(paths.field, config.survey)
    fed = (name for row in exposures.values() for name in row["Image"].split())
    for name in known.in_order([*known.names, *fed, *matched, *(row["Image"] for row in measured)]):
        image = ImageContents(
            name,
            known.title(name),
            exposures=[row for row in exposures.values() if name in row["Image"].split()],
            tiles=[_tile(contents, tile, name, measured) for tile in contents.tiles],
            matching=matched.get(name, {}),
            failed=contents.failed("match", [name]),
            worst=worst.get(name, []),
        )
        contents.images.append(image)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(partial(_add_pictures, contents), contents.images))
    contents.unreadable.sort()
    contents.images = [i for i in contents.images if i.exposures or i.matching or i.sky or i.shown]
    contents.files = _existing(
        {
            "verdicts on the exposures": paths.quality_table,
            "exposures": paths.exposure_table,
            "detectors": paths.detector_table,
            "overlaps": paths.overlap_table,
            "backgrounds": paths.background_table,
            "matching": paths.matching_table,
            "mosaics": paths.mosaic_table,
            "log": paths.log,
            "options": paths.run_config,
        }
    )
    return contents


def _existing(files: Mapping[str, Path]) -> dict[str, Path]:
    return {words: path for words, path in files.items() if path.is_file()}


def _rows(contents: Contents, path: Path, columns: Iterable[Column], made_by: str) -> list[Row]:
    """Rows of a table as plain values; none where it does not exist."""
    table = contents.tried(lambda path: tables.read(path, columns, made_by), path)
    if table is None:
        return []
    values = zip(*(table[name].tolist() for name in table.colnames), strict=True)
    return [dict(zip(table.colnames, row, strict=True)) for row in values]


def _worst(path: Path) -> dict[str, list[Row]]:
    """By image, the overlaps that agree least for what is known of them; read as text, for there may be 10⁵ of them."""
    with open(path, encoding="utf-8", newline="") as lines:
        rows = csv.DictReader((line for line in lines if not line.startswith("#")), delimiter=" ")
        found: dict[str, list[tuple[float, Row]]] = {}
        try:
            for row in rows:
                after, error = float(row["After"]), float(row["e_Delta"])
                if math.isfinite(after) and error > 0:
                    found.setdefault(row["Image"], []).append((abs(after) / error, row))
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(f"{path} cannot be read ({type(e).__name__}: {e}); run the stage 'match' again") from e
    for pairs in found.values():
        pairs.sort(key=lambda pair: (-pair[0], pair[1]["File1"], pair[1]["File2"]))
    return {image: [row | {"errors": size} for size, row in pairs[:WORST]] for image, pairs in found.items()}


def _changed(config: FieldConfig) -> dict[str, str]:
    """Options that are not the default, as they stand in kred.toml."""
    own, usual = (model.model_dump(mode="json", exclude={"run"}) for model in (config, FieldConfig(field=config.field)))
    sections = [(name, section) for name, section in sorted(own.items()) if isinstance(section, dict)]
    changed = {f"{name}.{key}": value for name, section in sections for key, value in section.items() if value != usual[name][key]}
    return {option: json.dumps(value, ensure_ascii=False) for option, value in changed.items()}


def _tile(contents: Contents, tile: Tile, image: str, measured: Iterable[Row]) -> TileContents:
    """What there is of a tile, but for its picture. Matched backgrounds come first."""
    paths, name = contents.paths, tile.name
    found: dict[str, Path] = {}
    for kind, which in ((BackgroundKind.MATCHED, ""), (BackgroundKind.ORIGINAL, ", original background")):
        found |= {
            f"figure{which}": paths.mosaic_figure(name, image, kind),
            f"coverage{which}": paths.coverage_figure(name, image, kind),
            f"FITS{which}": paths.mosaic(name, image, kind),
        }
    found |= {"before and after": paths.comparison_figure(image, name), "quick look (FITS)": paths.quick_look(image, name)}
    failed = [contents.failed(stage, [f"{name}.{image}", f"{name}_b.{image}"]) for stage in ("coadd", "evaluate")]
    rows = [row for row in measured if row["Tile"] == name and row["Image"] == image]
    numbers = min(rows, key=lambda row: row["Background"] != BackgroundKind.MATCHED, default={})
    return TileContents(tile, files=_existing(found), numbers=numbers, failed="; ".join(filter(None, failed)))


def _add_pictures(contents: Contents, image: ImageContents) -> None:
    """Pictures of the sky, of the tiles, and of the figures of one image."""
    paths, name = contents.paths, image.name
    look = paths.quick_look(name)
    image.sky = contents.tried(lambda path: Sky.read(path, contents.tiles), look)
    image.pictures = image.sky.pictures() if image.sky else {}
    side = FEW_TILES_SIDE if len(contents.tiles) <= FEW else TILE_SIDE
    for source in (BackgroundKind.MATCHED, BackgroundKind.ORIGINAL):
        # The reduced images are kred's memory: they may be of mosaics that are gone.
        files = {
            t.tile.name: paths.reduced(t.tile.name, name, source)
            for t in image.tiles
            if not t.picture and paths.mosaic(t.tile.name, name, source).is_file()
        }
        reduced = {tile: contents.tried(evaluation.ReducedImage.read, path) for tile, path in files.items()}
        pictures = tile_pictures({tile: r for tile, r in reduced.items() if r is not None}, side)
        for t in image.tiles:
            if t.tile.name in pictures:
                t.picture, t.source = pictures[t.tile.name], source
    for t in image.tiles:
        if image.sky and not t.picture:  # the quick look stands in for mosaics that there are not
            t.picture = image.sky.tile(t.tile.name, side)
            t.source = "quick look" if t.picture else ""
    for kind, (words, what, least) in MATCHING_FIGURES.items():
        path = paths.matching_figure(name, kind)
        if image.matching.get(what, least) >= least:
            picture = contents.tried(lambda path: figure_picture(path, FIGURE_WIDTH, FIGURE_BYTES), path)
            image.figures += [(words, path, picture)] if picture else []
    image.overviews = _existing(
        {
            "before and after, with scales": paths.comparison_figure(name),
            "all mosaics": paths.field_figure(name, BackgroundKind.MATCHED),
            "all mosaics, original backgrounds": paths.field_figure(name),
            "quick look (FITS)": look,
        }
    )
