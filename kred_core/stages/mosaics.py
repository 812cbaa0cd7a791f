"""The stages whose unit is a tile or a mosaic: tiles, coadd, evaluate."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from astropy.table import Table

from .. import evaluation, figures, sky, survey
from ..background import Background
from ..coadd import native, swarp
from ..coadd.plan import CoaddPlan, make_plan
from ..config import BackgroundKind, FieldConfig
from ..errors import InputError
from ..exposures.masks import PixelRule
from ..products import FieldPaths, link_all, read_record, tables, write_record
from ..survey import tiling
from ..words import counted, some
from .exposures import preparations, read_summary

__all__ = [
    "coadd_mosaic",
    "draw_field",
    "evaluate_mosaic",
    "evaluated_tiles",
    "joined_detectors",
    "link_prepared",
    "mosaic_names",
    "mosaic_unit",
    "other_fields",
    "plan_coadds",
    "read_backgrounds",
    "tabulate_mosaics",
    "tile_inputs",
    "tile_names",
    "tile_tables",
    "tiles_field",
    "wanted_tiles",
]

log = logging.getLogger(__name__)

FIELD_FIGURE_TILE_PIXELS = 400
IN_WORDS = {
    BackgroundKind.ORIGINAL: "exposures' backgrounds subtracted",
    BackgroundKind.MATCHED: "matched backgrounds subtracted",
}

BackgroundKey = tuple[str, str, str, str]  # Field, Root, EXTNAME, Image


def tiles_field(config: FieldConfig) -> dict[str, Path]:
    """Find which detectors feed which tile and image; write tile tables.

    Returns
    -------
    dict
        Table by tile; tiles that no detector touches are left out.

    Raises
    ------
    InputError
        A tile that was asked for by name, or every tile of the field, has no detector.
    """
    paths = FieldPaths.of(config)
    wanted = wanted_tiles(config)
    images = survey.images(config.field, config.survey)
    detectors = tiling.stack([joined_detectors(config, paths), *other_fields(config)])
    written = {}
    unused = ""
    for tile in wanted:
        selection = tiling.select(detectors, tile, images, config.tiling)
        log.info("%s %s: %s", config.field, tile.name, selection.explain())
        if len(selection.detectors) == 0:
            if config.tiles:
                raise InputError(f"no detector feeds tile {tile.name} of field {config.field}: {selection.explain()}")
            unused = unused or (f"{tile.name}: {selection.explain()}" if selection.n_on_tile else "")
            paths.tile_table(tile.name).unlink(missing_ok=True)
            continue
        table = selection.detectors[[c.name for c in tables.TILE]]
        tables.write(table, paths.tile_table(tile.name), f"Detectors that feed tile {tile.name} of {config.field}")
        written[tile.name] = paths.tile_table(tile.name)
    if unused and not written:
        raise InputError(f"no detector of field {config.field} is used ({unused})")
    if not written:
        raise InputError(
            f"no detector of field {config.field} lies on any of its {counted(len(wanted), 'tile')}; are centre and tiles right?"
        )
    return written


def _other_fields(config: FieldConfig) -> list[FieldPaths]:
    """With ``tiling.all_fields``, every other summarized field of the same galaxy (name up to the first _)."""
    if not config.tiling.all_fields:
        return []
    galaxy = config.field.split("_")[0]
    tables_found = (config.root / "Summary").glob(f"{galaxy}_*_det.tab")
    names = sorted(p.name.removesuffix("_det.tab") for p in tables_found)
    return [FieldPaths(config.root, name) for name in names if name != config.field]


def other_fields(config: FieldConfig) -> list[Table]:
    """Detectors of the other fields that may cover the tiles: of those of which a part is not far away."""
    tiles = survey.tiles(config.field, config.survey)
    middle = sky.unit_vectors(*sky.mean_position([t.ra for t in tiles], [t.dec for t in tiles]))
    found = [joined_detectors(config, paths) for paths in _other_fields(config)]
    nearest = math.cos(math.radians(survey.tables.NEAR))
    return [table for table in found if (sky.unit_vectors(table["CENRA1"], table["CENDEC1"]) @ middle >= nearest).any()]


def wanted_tiles(config: FieldConfig) -> tuple[survey.Tile, ...]:
    """The tiles that the configuration asks for, with the side of mosaics that it gives, if any.

    A mosaic larger than its tile takes the detectors that feed the mosaic.
    """
    tiles = survey.tiles(config.field, config.survey, config.tiles)
    sides = [config.coadd.size or tile.mosaic for tile in tiles]
    return tuple(replace(tile, size=max(tile.size, side), mosaic=side) for tile, side in zip(tiles, sides, strict=True))


def tile_inputs(config: FieldConfig) -> list[Path]:
    """The tables that the selection of detectors depends on."""
    own = [Path(t).expanduser() for t in (config.survey.tile_table, config.survey.image_table) if t]
    return own + [table for p in [FieldPaths.of(config), *_other_fields(config)] for table in (p.exposure_table, p.detector_table)]


def joined_detectors(config: FieldConfig, paths: FieldPaths) -> Table:
    """Detectors of one field with what their exposures add."""
    exposures, detectors = read_summary(paths)
    by_root = {str(row["Root"]): i for i, row in enumerate(exposures)}
    which = [by_root[str(root)] for root in detectors["Root"]]
    for name in ("File", "FILTER", "EXPTIME", "SEEING", "OBSID", "XFACTOR"):
        detectors[name] = exposures[name][which]
    backs = {p.root: p.back for p in preparations(config, exposures, detectors)}
    detectors["SUB_BACK"] = [backs[str(root)] for root in detectors["Root"]]
    return detectors


def link_prepared(config: FieldConfig) -> None:
    """Links to the prepared detectors in the directory of each tile, as many as there are, and none from an earlier selection."""
    for tile, table in tile_tables(config):
        fields = {name: FieldPaths(config.root, name) for name in set(map(str, table["Field"]))}
        names = zip(map(str, table["Field"]), map(str, table["Root"]), map(str, table["EXTNAME"]), strict=True)
        targets = (fields[f].prepared_detector(root, extname, plain) for f, root, extname in names for plain in (False, True))
        if not link_all(FieldPaths.of(config).prepared_tile(tile.name), targets):
            break


def tile_names(config: FieldConfig) -> list[str]:
    """The tiles that the configuration asks for; where it asks for all, those without detectors, and so without a table, not.

    Raises
    ------
    InputError
        There is no tile table.
    """
    paths = FieldPaths.of(config)
    names = [tile.name for tile in wanted_tiles(config)]
    found = names if config.tiles else [name for name in names if paths.tile_table(name).exists()]
    if not found:
        raise InputError(f"field {config.field} has no tile table in {paths.exposure_table.parent}; run the stage 'tiles' first")
    return found


def tile_tables(config: FieldConfig) -> Iterator[tuple[survey.Tile, Table]]:
    """The tiles that the configuration asks for, each with its table; see `tile_names`."""
    names, paths = tile_names(config), FieldPaths.of(config)
    for tile in wanted_tiles(config):
        if tile.name in names:
            yield tile, tables.read(paths.tile_table(tile.name), tables.TILE, "tiles")


def _images(config: FieldConfig, table: Table) -> list[str]:
    """Images that a tile has, in the survey's order."""
    return survey.images(config.field, config.survey).in_order(map(str, table["Image"]))


def mosaic_names(config: FieldConfig) -> list[tuple[str, str]]:
    """Tile and image of the mosaics to make, from the tile tables; each with the backgrounds ``config.coadd.backgrounds``.

    Raises
    ------
    InputError
        No tile table, or none for a tile that was asked for by name.
    """
    if not config.coadd.backgrounds:
        return []
    return [(tile.name, image) for tile, table in tile_tables(config) for image in _images(config, table)]


def mosaic_unit(tile: str, image: str, backgrounds: Iterable[BackgroundKind]) -> str:
    """Name of the mosaics of one image of a tile as a unit of work: T07_b.N662 where only the matched one is made."""
    kinds = tuple(backgrounds)
    return f"{tile}{kinds[0].suffix}.{image}" if len(kinds) == 1 else f"{tile}.{image}"


def plan_coadds(config: FieldConfig) -> list[CoaddPlan]:
    """The mosaics to make: a plan for each tile and image that has detectors, from the tile tables.

    Raises
    ------
    InputError
        No tile table, or none for a tile that was asked for by name; mosaics with matched backgrounds are wanted, and the
        table of backgrounds is missing or lacks a detector.
    """
    if not config.coadd.backgrounds:
        return []
    of_tiles = list(tile_tables(config))  # they are made before the backgrounds: say first what is missing first
    backgrounds = read_backgrounds(config) if BackgroundKind.MATCHED in config.coadd.backgrounds else None
    plans = []
    for tile, table in of_tiles:
        centre = tiling.mosaic_centre(tile, table, config.tiling)
        for image in _images(config, table):
            detectors = table[table["Image"] == image]
            matched = None if backgrounds is None else _matched(config, backgrounds, tile.name, image, detectors)
            path_of, amplifiers = _exposure_path(config), PixelRule.of(config).amplifiers
            options = centre, tile.mosaic, path_of, config.coadd, matched, amplifiers
            plans.append(make_plan(config.field, tile.name, image, detectors, *options))
    return plans


def _exposure_path(config: FieldConfig) -> Callable[[str, str], Path]:
    return lambda field, file: FieldPaths(config.root, field).exposure(file)


def read_backgrounds(config: FieldConfig) -> dict[BackgroundKey, Background]:
    """The matched background of each detector of the field in each of its images.

    Returns
    -------
    dict
        By Field, Root, EXTNAME and Image.

    Raises
    ------
    InputError
        The table is missing or cannot be read.
    """
    table = tables.read(FieldPaths.of(config).background_table, tables.BACKGROUNDS, "match")
    keys = zip(*(map(str, table[name]) for name in ("Field", "Root", "EXTNAME", "Image")), strict=True)
    return dict(zip(keys, Background.from_table(table).each(), strict=True))


def _matched(
    config: FieldConfig, backgrounds: Mapping[BackgroundKey, Background], tile: str, image: str, detectors: Table
) -> list[Background]:
    """The matched backgrounds of some rows of a tile table; a detector that has none must not get lost unnoticed."""
    keys = [(str(row["Field"]), str(row["Root"]), str(row["EXTNAME"]), image) for row in detectors]
    unknown = [f"{root}_{extname}" for _, root, extname, _ in (key for key in keys if key not in backgrounds)]
    if unknown:
        raise InputError(
            f"{FieldPaths.of(config).background_table} has no background of {len(unknown)} of the {len(keys)} detectors of {tile} "
            f"{image}: {some(unknown)}; it is out of date: run the stage 'match' again (--from match)"
        )
    return [backgrounds[key] for key in keys]


def coadd_mosaic(config: FieldConfig, plan: CoaddPlan) -> list[Path]:
    """Make the mosaics of a plan and their coverage maps.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    plan : CoaddPlan

    Returns
    -------
    list of `~pathlib.Path`
        For each background the mosaic and its coverage map.
    """
    paths = FieldPaths.of(config)
    products = {background: _mosaic_files(paths, plan.tile, plan.image, background) for background in plan.backgrounds}
    engine = {"native": native.coadd, "swarp": swarp.coadd}[config.coadd.engine]
    engine(plan, config.coadd, products)
    return [path for both in products.values() for path in both]


def _mosaic_files(paths: FieldPaths, tile: str, image: str, background: BackgroundKind) -> tuple[Path, Path]:
    return paths.mosaic(tile, image, background), paths.coverage(tile, image, background)


def evaluate_mosaic(config: FieldConfig, tile: str, image: str) -> list[Path]:
    """Measure the mosaics of one image of a tile and draw them; where both were made, side by side too.

    Returns
    -------
    list of `~pathlib.Path`
        For each background the figure, the coverage figure, the record of the numbers, and the reduced image; and the figure
        of both.
    """
    paths, products, shown, measured = FieldPaths.of(config), [], [], []
    subject = f"{config.field} {tile} {survey.images(config.field, config.survey).title(image)}"
    for background in config.coadd.backgrounds:
        record = _numbers(paths, tile, image, background)
        record.unlink(missing_ok=True)
        numbers, reduced = evaluation.measure_mosaic(*_mosaic_files(paths, tile, image, background), config.evaluate.figure_pixels)
        title = f"{subject}, {IN_WORDS[background]}"
        figure, coverage_figure = paths.mosaic_figure(tile, image, background), paths.coverage_figure(tile, image, background)
        figures.mosaic_figure(reduced, numbers, title, config.evaluate.stretch, figure)
        figures.coverage_figure(reduced, numbers, title, coverage_figure)
        kept = paths.reduced(tile, image, background)
        reduced.shrink(math.ceil(max(reduced.image.shape) / FIELD_FIGURE_TILE_PIXELS)).write(kept)
        write_record(record, asdict(numbers))
        products += [figure, coverage_figure, record, kept]
        shown.append(reduced)
        measured.append(numbers)
    if len(shown) == 2:
        products.append(paths.comparison_figure(image, tile))
        block = max(1, round(measured[0].block / shown[0].factor))
        removed = evaluation.block_jump(evaluation.block_medians(shown[0].image - shown[1].image, block))
        jumps = measured[0].block_jump, measured[1].block_jump, removed
        figures.comparison_figure(shown[0], shown[1], jumps, subject, products[-1])
    return products


def _numbers(paths: FieldPaths, tile: str, image: str, background: BackgroundKind) -> Path:
    """The record of the numbers of one mosaic."""
    return paths.record("evaluate", mosaic_unit(tile, image, [background]))


def evaluated_tiles(config: FieldConfig) -> dict[tuple[str, BackgroundKind], list[str]]:
    """Tiles by image and background: the mosaics of the whole field that there are numbers of."""
    paths = FieldPaths.of(config)
    found: dict[tuple[str, BackgroundKind], list[str]] = {}
    for tile, image in mosaic_names(config.model_copy(update={"tiles": []})):
        for background in config.coadd.backgrounds:
            files = _mosaic_files(paths, tile, image, background)[0], _numbers(paths, tile, image, background)
            if all(path.exists() for path in files):
                found.setdefault((image, background), []).append(tile)
    return found


def draw_field(config: FieldConfig, image: str, background: BackgroundKind, tiles: Sequence[str]) -> Path:
    """Draw the tiles of one image where they lie on the sky.

    Returns
    -------
    `~pathlib.Path`
        The figure.
    """
    paths = FieldPaths.of(config)
    reduced = [(tile, evaluation.ReducedImage.read(paths.reduced(tile, image, background))) for tile in tiles]
    title = f"{config.field} {survey.images(config.field, config.survey).title(image)}, {IN_WORDS[background]}"
    figures.field_figure(reduced, title, paths.field_figure(image, background))
    return paths.field_figure(image, background)


def tabulate_mosaics(config: FieldConfig) -> Path:
    """Collect the numbers of all mosaics of the field.

    Returns
    -------
    `~pathlib.Path`
        The table.
    """
    paths = FieldPaths.of(config)
    rows = []
    for (image, background), tiles in evaluated_tiles(config).items():
        for tile in tiles:
            record = read_record(_numbers(paths, tile, image, background))
            if record is None:
                mosaic = _mosaic_files(paths, tile, image, background)[0]
                raise InputError(f"the numbers of {mosaic} cannot be read; run the stage 'evaluate' with --redo")
            if record.keys() != {f.name for f in fields(evaluation.MosaicNumbers)}:
                log.warning("%s %s: its numbers are those of another version of kred; evaluate it again", tile, image)
                continue
            rows.append((tile, image, background, evaluation.MosaicNumbers(**record)))
    tables.write(evaluation.mosaic_table(config.field, rows), paths.mosaic_table, f"Numbers of the mosaics of {config.field}")
    return paths.mosaic_table
