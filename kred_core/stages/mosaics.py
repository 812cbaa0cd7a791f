"""The stages whose unit is a tile or a mosaic: tiles, coadd, evaluate."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from astropy.table import Table

from .. import figures, quality, survey, tables, tiling
from ..coadd import native, swarp
from ..coadd.plan import CoaddPlan, make_plan
from ..config import FieldConfig
from ..errors import InputError
from ..products import FieldPaths, link, read_record, write_record
from .exposures import preparations, read_summary

__all__ = [
    "coadd",
    "draw_field",
    "evaluate_mosaic",
    "evaluated_tiles",
    "other_fields",
    "plan_coadds",
    "tabulate_mosaics",
    "tile_inputs",
    "tiles_field",
    "wanted_tiles",
]

log = logging.getLogger(__name__)

FIELD_FIGURE_TILE_PIXELS = 400


def tiles_field(config: FieldConfig) -> dict[str, Path]:
    """Find which detectors feed which tile and image; write tile tables and links.

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
    images = survey.images(config.survey)
    detectors = tiling.stack([_joined(config, paths), *other_fields(config)])
    written = {}
    for tile in wanted:
        selection = tiling.select(detectors, tile, images, config.tiling)
        log.info("%s %s: %s", config.field, tile.name, selection.explain())
        if len(selection.detectors) == 0:
            if config.tiles:
                raise InputError(f"no detector feeds tile {tile.name} of field {config.field}: {selection.explain()}")
            paths.tile_table(tile.name).unlink(missing_ok=True)
            continue
        table = selection.detectors[[c.name for c in tables.TILE]]
        tables.write(table, paths.tile_table(tile.name), f"Detectors that feed tile {tile.name} of {config.field}")
        _link_prepared(config, tile.name, table)
        written[tile.name] = paths.tile_table(tile.name)
    if not written:
        raise InputError(
            f"no detector of field {config.field} lies on any of its {len(wanted)} tiles; are its centre and tiles right?"
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
    """Detectors of the other fields that may cover the tiles."""
    return [_joined(config, paths) for paths in _other_fields(config)]


def wanted_tiles(config: FieldConfig) -> tuple[survey.Tile, ...]:
    """The tiles that the configuration asks for; a mosaic larger than its tile takes the detectors that feed the mosaic."""
    tiles = survey.tiles(config.field, config.survey, config.tiles)
    return tuple(replace(tile, size=max(tile.size, config.coadd.size)) for tile in tiles)


def tile_inputs(config: FieldConfig) -> list[Path]:
    """The tables that the selection of detectors depends on."""
    own = [Path(t).expanduser() for t in (config.survey.tile_table, config.survey.image_table) if t]
    return own + [table for p in [FieldPaths.of(config), *_other_fields(config)] for table in (p.exposure_table, p.detector_table)]


def _joined(config: FieldConfig, paths: FieldPaths) -> Table:
    """Detectors of one field with what their exposures add."""
    exposures, detectors = read_summary(paths)
    by_root = {str(row["Root"]): i for i, row in enumerate(exposures)}
    which = [by_root[str(root)] for root in detectors["Root"]]
    for name in ("File", "FILTER", "EXPTIME", "SEEING", "OBSID", "XFACTOR"):
        detectors[name] = exposures[name][which]
    backs = {p.root: p.back for p in preparations(config, exposures, detectors)}
    detectors["SUB_BACK"] = [backs[str(root)] for root in detectors["Root"]]
    return detectors


def _link_prepared(config: FieldConfig, tile: str, table: Table) -> None:
    """Links to the prepared detectors of a tile, as many as there are, and none from an earlier selection."""
    directory = FieldPaths.of(config).prepared_tile(tile)
    for old in directory.glob("*.fits*") if directory.is_dir() else ():
        if old.is_symlink():
            old.unlink()
    for row in table:
        paths = FieldPaths(config.root, str(row["Field"]))
        for plain in (False, True):
            target = paths.prepared_detector(str(row["Root"]), str(row["EXTNAME"]), plain)
            if target.exists():
                link(directory / target.name, target)


def plan_coadds(config: FieldConfig) -> list[CoaddPlan]:
    """The mosaics to make: one for each tile and image that has detectors, from the tile tables.

    Raises
    ------
    InputError
        No tile table, or none for a tile that was asked for by name.
    """
    paths = FieldPaths.of(config)
    images = survey.images(config.survey).names
    plans = []
    for tile in wanted_tiles(config):
        if not config.tiles and not paths.tile_table(tile.name).exists():
            continue  # all tiles of the field: those without detectors have no table
        table = tables.read(paths.tile_table(tile.name), tables.TILE, "tiles")
        centre = tiling.mosaic_centre(tile, table, config.tiling)
        for image in sorted(set(map(str, table["Image"])), key=lambda name: (images.index(name) if name in images else 0, name)):
            detectors = table[table["Image"] == image]
            plans.append(make_plan(config.field, tile.name, image, detectors, centre, _exposure_path(config), config.coadd))
    if not plans:
        raise InputError(f"field {config.field} has no tile table in {paths.exposure_table.parent}; run the stage 'tiles' first")
    return plans


def _exposure_path(config: FieldConfig) -> Callable[[str, str], Path]:
    return lambda field, file: FieldPaths(config.root, field).exposure(file)


def coadd(config: FieldConfig, plan: CoaddPlan) -> list[Path]:
    """Make one mosaic and its coverage map.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    plan : CoaddPlan

    Returns
    -------
    list of `~pathlib.Path`
        The mosaic and its coverage map.
    """
    paths = FieldPaths.of(config)
    mosaic, coverage = paths.mosaic(plan.tile, plan.image), paths.coverage(plan.tile, plan.image)
    engine = {"native": native.coadd, "swarp": swarp.coadd}[config.coadd.engine]
    engine(plan, config.coadd, mosaic, coverage, plan.digest(config.coadd))
    return [mosaic, coverage]


def evaluate_mosaic(config: FieldConfig, tile: str, image: str) -> list[Path]:
    """Measure one mosaic and draw it.

    Returns
    -------
    list of `~pathlib.Path`
        The figure, the coverage figure, the record of the numbers, the reduced image.
    """
    paths = FieldPaths.of(config)
    record = paths.record("evaluate", f"{tile}.{image}")
    record.unlink(missing_ok=True)
    numbers, reduced = quality.measure_mosaic(paths.mosaic(tile, image), paths.coverage(tile, image), config.evaluate.figure_pixels)
    title = f"{config.field} {tile} {image}"
    figures.mosaic_figure(reduced, numbers, title, config.evaluate.stretch, paths.mosaic_figure(tile, image))
    figures.coverage_figure(reduced, numbers, title, paths.coverage_figure(tile, image))
    reduced.shrink(math.ceil(max(reduced.image.shape) / FIELD_FIGURE_TILE_PIXELS)).write(paths.reduced(tile, image))
    write_record(record, asdict(numbers))
    return [paths.mosaic_figure(tile, image), paths.coverage_figure(tile, image), record, paths.reduced(tile, image)]


def evaluated_tiles(config: FieldConfig) -> dict[str, list[str]]:
    """Tiles by image: the mosaics of the whole field that there are numbers of."""
    paths = FieldPaths.of(config)
    found: dict[str, list[str]] = {}
    for plan in plan_coadds(config.model_copy(update={"tiles": []})):
        products = paths.mosaic(plan.tile, plan.image), paths.record("evaluate", f"{plan.tile}.{plan.image}")
        if all(path.exists() for path in products):
            found.setdefault(plan.image, []).append(plan.tile)
    return found


def draw_field(config: FieldConfig, image: str, tiles: Sequence[str]) -> Path:
    """Draw the tiles of one image where they lie on the sky.

    Returns
    -------
    `~pathlib.Path`
        The figure.
    """
    paths = FieldPaths.of(config)
    reduced = [(tile, quality.ReducedImage.read(paths.reduced(tile, image))) for tile in tiles]
    figures.field_figure(reduced, f"{config.field} {image}", paths.field_figure(image))
    return paths.field_figure(image)


def tabulate_mosaics(config: FieldConfig) -> Path:
    """Collect the numbers of all mosaics of the field.

    Returns
    -------
    `~pathlib.Path`
        The table.
    """
    paths = FieldPaths.of(config)
    rows = []
    for image, tiles in evaluated_tiles(config).items():
        for tile in tiles:
            record = read_record(paths.record("evaluate", f"{tile}.{image}"))
            if record is None:
                raise InputError(f"the numbers of {paths.mosaic(tile, image)} cannot be read; run the stage 'evaluate' with --redo")
            rows.append((tile, image, quality.MosaicNumbers(**record)))
    tables.write(quality.mosaic_table(config.field, rows), paths.mosaic_table, f"Numbers of the mosaics of {config.field}")
    return paths.mosaic_table
