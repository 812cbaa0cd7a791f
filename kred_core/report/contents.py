"""What is on disk of a field, gathered for its page: tables, records, figures, small pictures.

Whatever is missing is left out and whatever cannot be read is named, because people want to look at a field that is half
reduced, or was reduced years ago. Apart from the page because what there is and how it is shown change for different reasons.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .. import evaluation, survey
from ..config import BackgroundKind, FieldConfig
from ..errors import InputError, KredError
from ..products import FieldPaths, read_record, tables
from ..products.tables import Column
from ..survey import Tile
from .pictures import Greys, Picture, Place, Sky, figure_picture, read_sky, sky_greys, sky_pictures, tile_picture, tile_pictures

__all__ = ["Contents", "ImageContents", "TileContents", "gather", "saved_config"]

WORST = 8  # pairs in the table
THREADS = 4  # images of which pictures are made at the same time; the libraries for that release the interpreter
FIGURE_WIDTH, FIGURE_BYTES = 380, 26_000
TILE_SIDE, FEW_TILES_SIDE, FEW = 220, 400, 4  # pixels of a tile's picture
MATCHING_FIGURES = {
    "overlaps": "Differences where detectors overlap, before and after",
    "backgrounds": "What was subtracted, on the focal plane and on the sky",
    "pairs": "The pairs that agree least",
}
SOMETHING_TO_SEE = {"overlaps": ("N_pairs", 2), "backgrounds": ("N_det", 2), "pairs": ("N_pairs", 1)}  # from so many on
Row = dict[str, Any]
T = TypeVar("T")


@dataclass
class TileContents:
    """One tile in one image.

    Attributes
    ----------
    tile : `~kred_core.survey.Tile`
    picture : Picture or None
    source : str
        What the picture shows: "matched", "original" (backgrounds of the mosaic), "quick look"; "" without a picture.
    files : dict
        Existing figures and FITS files, by what they are in words.
    numbers : dict
        Row of the table of mosaics; empty where there is none.
    failed : str
        Why it was not made in the last run.
    """

    tile: Tile
    picture: Picture | None = None
    source: str = ""
    files: dict[str, Path] = field(default_factory=dict)
    numbers: Row = field(default_factory=dict)
    failed: str = ""


@dataclass
class ImageContents:
    """One image of the field.

    Attributes
    ----------
    name : str
    title : str
        The name and what light that is, where that is known; see `~kred_core.survey.ImageTable.title`.
    exposures : list of dict
        Rows of the exposure table that go into it.
    tiles : list of TileContents
    sky : dict
        Picture of the field by "before" and "after"; empty where there is no quick look.
    greys : Greys or None
        What the greys of these pictures mean.
    place : Place or None
        Where they are on the sky.
    outlines : dict
        Corners of the tiles in these pictures, in pixels.
    matching : dict
        Row of the table of the matching; empty where there is none.
    failed : str
        Why it was not matched in the last run.
    worst : list of dict
        Overlaps that agree least, the worst first.
    figures : list of (str, Path, Picture)
        What it shows, the file, and a small picture of it.
    overviews : dict
        Figures of the whole field by what they show.
    """

    name: str
    title: str
    exposures: list[Row]
    tiles: list[TileContents]
    sky: dict[str, Picture] = field(default_factory=dict)
    greys: Greys | None = None
    place: Place | None = None
    outlines: dict[str, Any] = field(default_factory=dict)
    matching: Row = field(default_factory=dict)
    failed: str = ""
    worst: list[Row] = field(default_factory=list)
    figures: list[tuple[str, Path, Picture]] = field(default_factory=list)
    overviews: dict[str, Path] = field(default_factory=dict)

    @property
    def shown(self) -> list[TileContents]:
        """The tiles that have a picture."""
        return [tile for tile in self.tiles if tile.picture]

    @property
    def mosaics(self) -> list[TileContents]:
        """The tiles that have a mosaic."""
        return [tile for tile in self.tiles if any(name.startswith("FITS") for name in tile.files)]


@dataclass
class Contents:
    """A field as its page shows it.

    Attributes
    ----------
    paths : `~kred_core.products.FieldPaths`
    tiles : sequence of `~kred_core.survey.Tile`
    images : list of ImageContents
        In the order of the survey; those of which there is nothing left out.
    verdicts : list of dict
        Rows of the quality table with what the exposure table adds.
    run : dict
        What the last run that did something did; see `~kred_core.stages.outcome.Outcome.remember`. Empty: not known.
    changed : dict
        Options that differ from the default: name and value as in kred.toml.
    options : str
        All options, as the text of kred.toml.
    files : dict
        Existing tables and logs by what they are.
    unreadable : list of str
        What is there and cannot be read, in words.
    """

    paths: FieldPaths
    tiles: Sequence[Tile]
    images: list[ImageContents] = field(default_factory=list)
    verdicts: list[Row] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    options: str = ""
    files: dict[str, Path] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def tried(self, read: Callable[..., T], *arguments: Any) -> T | None:
        """The result of reading something; None, and a note, where that cannot be done."""
        try:
            return read(*arguments)
        except (KredError, OSError) as e:
            self.unreadable.append(self.plain(str(e)))
            return None

    def plain(self, text: str) -> str:
        """A message without the place of the data root, which may move."""
        return text.replace(f"{self.paths.root}/", "") if str(self.paths.root) != "." else text


def saved_config(paths: FieldPaths) -> FieldConfig:
    """The options with which the field was last reduced, from the copy beside its products; the defaults where there is none.

    Raises
    ------
    InputError
        The copy cannot be used.
    """
    fixed = {"field": paths.field, "root": paths.root}
    if not paths.run_config.is_file():
        return FieldConfig(**fixed)
    try:
        return FieldConfig(**tomllib.loads(paths.run_config.read_text(encoding="utf-8")), **fixed)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError, TypeError) as e:
        reason = " ".join(str(e).split())
        raise InputError(f"{paths.run_config} cannot be used ({reason[:200]}); the defaults are assumed") from e


def gather(paths: FieldPaths) -> Contents:
    """Everything that the page of a field shows.

    Raises
    ------
    InputError
        Nobody knows where the field and its tiles are.
    """
    contents = Contents(paths, ())
    config = contents.tried(saved_config, paths) or FieldConfig(field=paths.field, root=paths.root)
    contents.tiles = survey.tiles(paths.field, config.survey)
    contents.run = read_record(paths.record("run", "last")) or {}
    contents.options = paths.run_config.read_text(encoding="utf-8", errors="replace") if paths.run_config.is_file() else ""
    contents.changed = dict(_changed(config))

    quality_rows = _rows(contents, paths.quality_table, tables.QUALITY, "check")
    exposures = {row["Root"]: row for row in _rows(contents, paths.exposure_table, tables.EXPOSURES, "summarize")}
    contents.verdicts = [exposures.get(row["Root"], {}) | row for row in quality_rows]
    matched = {row["Image"]: row for row in _rows(contents, paths.matching_table, tables.MATCHING, "match")}
    measured = _rows(contents, paths.mosaic_table, evaluation.MOSAICS, "evaluate")
    worst = contents.tried(_worst, paths.overlap_table) if paths.overlap_table.is_file() else {}
    known = survey.images(paths.field, config.survey)
    fed = (name for row in exposures.values() for name in row["Image"].split())
    for name in known.in_order([*known.names, *fed, *matched, *(row["Image"] for row in measured)]):
        feeding = [row for row in exposures.values() if name in row["Image"].split()]
        image = ImageContents(name, known.title(name), feeding, [], matching=matched.get(name, {}))
        image.worst = (worst or {}).get(name, [])
        image.failed = contents.plain(_failed(contents.run, "match", [name]))
        image.tiles = [_tile(contents, tile, name, measured) for tile in contents.tiles]
        contents.images.append(image)
    with ThreadPoolExecutor(THREADS) as pool:
        for unreadable in pool.map(partial(_add_pictures, contents), contents.images):
            contents.unreadable += unreadable
    contents.images = [i for i in contents.images if i.exposures or i.matching or i.sky or i.shown]
    described = {
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
    contents.files = {words: path for words, path in described.items() if path.is_file()}
    return contents


def _rows(contents: Contents, path: Path, columns: Iterable[Column], made_by: str) -> list[Row]:
    """Rows of a table as plain values; none where it does not exist."""
    table = contents.tried(tables.read, path, columns, made_by) if path.is_file() else None
    if table is None:
        return []
    names = table.colnames
    return [dict(zip(names, values, strict=True)) for values in zip(*(table[name].tolist() for name in names), strict=True)]


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


def _changed(config: FieldConfig) -> Iterable[tuple[str, str]]:
    """Options that are not the default, as they stand in kred.toml."""
    default = FieldConfig(field=config.field)
    for section in sorted(type(config).model_fields):
        own, usual = getattr(config, section), getattr(default, section)
        if section == "run" or not isinstance(own, BaseModel):
            continue
        for option in type(own).model_fields:
            value = getattr(own, option)
            if value != getattr(usual, option):
                yield f"{section}.{option}", _as_toml(value)


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_as_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _failed(run: Mapping[str, Any], stage: str, units: Iterable[str]) -> str:
    """Why units of a stage failed in the last run; empty if they did not."""
    failed = run.get("stages", {}).get(stage, {}).get("failed", {})
    return "; ".join(dict.fromkeys(failed[unit] for unit in units if unit in failed))


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
    units = [f"{name}.{image}", f"{name}_b.{image}"]
    failed = [_failed(contents.run, stage, units) for stage in ("coadd", "evaluate")]
    rows = [row for row in measured if row["Tile"] == name and row["Image"] == image]
    rows.sort(key=lambda row: row["Background"] != BackgroundKind.MATCHED)
    return TileContents(
        tile,
        files={words: path for words, path in found.items() if path.is_file()},
        numbers=rows[0] if rows else {},
        failed=contents.plain("; ".join(filter(None, failed))),
    )


def _add_pictures(contents: Contents, image: ImageContents) -> list[str]:
    """Pictures of the sky, of the tiles, and of the figures of one image; returns what is there and cannot be read."""
    contents = replace(contents, unreadable=[])  # other images have their pictures made at the same time
    paths, name = contents.paths, image.name
    look = paths.quick_look(name)
    sky = contents.tried(read_sky, look, contents.tiles) if look.is_file() else None
    side = FEW_TILES_SIDE if len(contents.tiles) <= FEW else TILE_SIDE
    if sky:
        image.sky, image.greys, image.place, image.outlines = sky_pictures(sky), sky_greys(sky), sky.place, sky.outlines
    _add_tile_pictures(contents, image, sky, side)
    for kind, words in MATCHING_FIGURES.items():
        counted, least = SOMETHING_TO_SEE[kind]
        if image.matching.get(counted, least) < least:
            continue
        path = paths.matching_figure(name, kind)
        picture = contents.tried(figure_picture, path, FIGURE_WIDTH, FIGURE_BYTES) if path.is_file() else None
        if picture:
            image.figures.append((words, path, picture))
    overviews = {
        "before and after, with scales": paths.comparison_figure(name),
        "all mosaics": paths.field_figure(name, BackgroundKind.MATCHED),
        "all mosaics, original backgrounds": paths.field_figure(name),
        "quick look (FITS)": look,
    }
    image.overviews = {words: path for words, path in overviews.items() if path.is_file()}
    return contents.unreadable


def _add_tile_pictures(contents: Contents, image: ImageContents, sky: Sky | None, side: int) -> None:
    """Of the mosaics; the quick look stands in for those that there are not."""
    for source in (BackgroundKind.MATCHED, BackgroundKind.ORIGINAL):
        # The reduced images are kred's memory: they may be of mosaics that are gone.
        files = {
            t.tile.name: contents.paths.reduced(t.tile.name, image.name, source)
            for t in image.tiles
            if not t.picture and contents.paths.mosaic(t.tile.name, image.name, source).is_file()
        }
        reduced = {name: contents.tried(evaluation.ReducedImage.read, path) for name, path in files.items() if path.is_file()}
        pictures = tile_pictures({name: r for name, r in reduced.items() if r is not None}, side)
        for t in image.tiles:
            if t.tile.name in pictures:
                t.picture, t.source = pictures[t.tile.name], source
    for t in image.tiles:
        if sky and not t.picture:
            t.picture = tile_picture(sky, t.tile.name, side)
            t.source = "quick look" if t.picture else ""
