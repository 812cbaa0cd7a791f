"""The stage tiles: which detectors feed which tile and image."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from astropy.table import Table

from .. import sky, survey
from ..coadd.plan import CoaddPlan, make_plan
from ..config import FieldConfig, Section
from ..errors import InputError
from ..exposures import summary
from ..exposures.check import ExposureReport
from ..products import FieldPaths, link_all, tables
from ..survey import tiling
from ..words import counted
from .executor import UnitRunner
from .prepare import preparations
from .stage import Cost, Plan, Planned, Stage
from .summarize import STAGE as SUMMARIZE
from .summarize import read_summary
from .work import Manifest, Step, Work

log = logging.getLogger(__name__)

SECONDS = 0.1  # CPU


def wanted_tiles(config: FieldConfig) -> tuple[survey.Tile, ...]:
    """Return the tiles that the configuration asks for, with the side of mosaics that it gives, if any.

    A mosaic larger than its tile takes the detectors that feed the mosaic.
    """
    tiles = survey.tiles(config.field, config.survey, config.tiles)
    sides = [config.coadd.size or tile.mosaic for tile in tiles]
    return tuple(replace(tile, size=max(tile.size, side), mosaic=side) for tile, side in zip(tiles, sides, strict=True))


def _other_fields(config: FieldConfig) -> list[FieldPaths]:
    """With ``tiling.all_fields``, every other summarized field of the same galaxy (name up to the first _)."""
    if not config.tiling.all_fields:
        return []
    galaxy = config.field.split("_")[0]
    tables_found = (config.root / "Summary").glob(f"{galaxy}_*_det.tab")
    names = sorted(p.name.removesuffix("_det.tab") for p in tables_found)
    return [FieldPaths(config.root, name) for name in names if name != config.field]


def other_fields(config: FieldConfig) -> list[Table]:
    """Return the detectors of the other fields that may cover the tiles: of those of which a part is not far away."""
    tiles = survey.tiles(config.field, config.survey)
    middle = sky.unit_vectors(*sky.mean_position([t.ra for t in tiles], [t.dec for t in tiles]))
    found = [joined_detectors(config, paths) for paths in _other_fields(config)]
    nearest = math.cos(math.radians(survey.NEAR))
    return [table for table in found if (sky.unit_vectors(table["CENRA1"], table["CENDEC1"]) @ middle >= nearest).any()]


def tile_inputs(config: FieldConfig) -> list[Path]:
    """Return the tables that the selection of detectors depends on."""
    own = [Path(t).expanduser() for t in (config.survey.tile_table, config.survey.image_table) if t]
    return own + [table for p in [FieldPaths.of(config), *_other_fields(config)] for table in (p.exposure_table, p.detector_table)]


def selection_options(config: FieldConfig) -> list[Section]:
    """Return the options that the selection of detectors depends on, without the names of tables: see `tile_inputs`."""
    return [config.survey.model_copy(update={"tile_table": "", "image_table": ""}), config.tiling]


def joined_detectors(config: FieldConfig, paths: FieldPaths) -> Table:
    """Return the detectors of one field with what their exposures add."""
    exposures, detectors = read_summary(paths)
    by_root = {str(row["Root"]): i for i, row in enumerate(exposures)}
    which = [by_root[str(root)] for root in detectors["Root"]]
    for name in ("File", "FILTER", "EXPTIME", "SEEING", "OBSID", "XFACTOR"):
        detectors[name] = exposures[name][which]
    backs = {(p.root, extname): back for p in preparations(config, exposures, detectors) for extname, back in p.backs}
    detectors["SUB_BACK"] = [
        backs[str(root), str(name)] for root, name in zip(detectors["Root"], detectors["EXTNAME"], strict=True)
    ]
    return detectors


def tiles_field(config: FieldConfig) -> Manifest:
    """Find which detectors feed which tile and image, and write the tile tables; tiles that no detector touches have none.

    Where a tile that was asked for by name, or every tile of the field, has no detector, `InputError` is raised.
    """
    paths = FieldPaths.of(config)
    wanted = wanted_tiles(config)
    images = survey.images(config.field, config.survey)
    detectors = tiling.stack([joined_detectors(config, paths), *other_fields(config)])
    written = []
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
        written.append(paths.tile_table(tile.name))
        tables.write(table, written[-1], f"Detectors that feed tile {tile.name} of {config.field}")
    if unused and not written:
        raise InputError(f"no detector of field {config.field} is used ({unused})")
    if not written:
        raise InputError(
            f"no detector of field {config.field} lies on any of its {counted(len(wanted), 'tile')}; are centre and tiles right?"
        )
    return Manifest.of(written)


def tile_names(config: FieldConfig) -> list[str]:
    """Return the tiles that the configuration asks for; when it asks for all, tiles without detectors are omitted."""
    paths = FieldPaths.of(config)
    names = [tile.name for tile in wanted_tiles(config)]
    found = names if config.tiles else [name for name in names if paths.tile_table(name).exists()]
    if not found:
        raise InputError(f"field {config.field} has no tile table in {paths.exposure_table.parent}; run the stage 'tiles' first")
    return found


def tile_tables(config: FieldConfig) -> Iterator[tuple[survey.Tile, Table]]:
    """Yield the tiles that the configuration asks for, each with its table; see `tile_names`."""
    names, paths = tile_names(config), FieldPaths.of(config)
    for tile in wanted_tiles(config):
        if tile.name in names:
            yield tile, tables.read(paths.tile_table(tile.name), tables.TILE, "tiles")


def images_of(config: FieldConfig, usable: Iterable[ExposureReport]) -> set[str]:
    """Return the images that exposures feed."""
    images = survey.images(config.field, config.survey)
    return {image for r in usable for image in images.of_exposure(r.filter, r.exptime)}


def foreseen_mosaics(config: FieldConfig, found: Sequence[ExposureReport]) -> list[CoaddPlan]:
    """Return the mosaics that exposures would make, from the places of their detectors; their backgrounds are not known yet."""
    images = survey.images(config.field, config.survey)
    by_root = {row["Root"]: row for row in summary.exposure_rows(found, images, config.field)}
    rows = [
        {**by_root[place["Root"]], **place, "SUB_BACK": 0.0, "Noise": math.nan} for place in summary.place_rows(found, config.field)
    ]
    columns = [c for c in tables.TILE if c.name != "Image"]
    detectors = tiling.stack([tables.make(rows, columns), *other_fields(config)])
    plans = []
    for tile in wanted_tiles(config):
        selected = tiling.select(detectors, tile, images, config.tiling).detectors
        for image in sorted(set(selected["Image"])):
            of_image = selected[selected["Image"] == image]
            centre = tiling.mosaic_centre(tile, selected, config.tiling)
            where = centre, tile.mosaic, lambda _, file: Path(file)
            plans.append(make_plan(config.field, tile.name, image, of_image, *where, config.coadd))
    return plans


def link_prepared(config: FieldConfig) -> None:
    """Link to the prepared detectors in the directory of each tile, as many as there are, and to none from an earlier selection."""
    for tile, table in tile_tables(config):
        fields = {name: FieldPaths(config.root, name) for name in set(map(str, table["Field"]))}
        names = zip(map(str, table["Field"]), map(str, table["Root"]), map(str, table["EXTNAME"]), strict=True)
        targets = (fields[f].prepared_detector(root, extname, plain) for f, root, extname in names for plain in (False, True))
        if not link_all(FieldPaths.of(config).prepared_tile(tile.name), targets):
            break


def _work(config: FieldConfig) -> Work:
    return Work(
        "_".join([config.field, *config.tiles]),
        files=tile_inputs(config),
        options=[*selection_options(config), config.prepare],
        facts={"tiles": list(config.tiles), "size": config.coadd.size},
    )


TILES = Step("tiles", 2, _work, tiles_field)


def _run(run: UnitRunner) -> None:
    exposures, _ = read_summary(run.paths)
    if words := survey.images(run.config.field, run.config.survey).explain(map(str, exposures["FILTER"])):
        run.outcome.notes.append(words)  # about the images of a field without an image table
    run.each(TILES, [(run.config.field, {})], required=True)
    run.once(link_prepared)


def _plan(plan: Plan) -> Sequence[Planned]:
    to_do = not (plan.is_fresh(SUMMARIZE) and TILES.is_current(plan.config, {}))
    return [Planned("tiles", "field", 1, int(to_do), Cost(to_do * SECONDS))]


def _products(config: FieldConfig) -> list[Path]:
    return [FieldPaths.of(config).tile_table(tile) for tile in tile_names(config)]


STAGE = Stage("tiles", run=_run, plan=_plan, products=_products, cost=lambda config, usable: Cost(SECONDS))
