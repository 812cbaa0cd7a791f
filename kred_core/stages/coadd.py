"""The stage coadd: a mosaic and its coverage map for each tile, image and background, straight from the MEFs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from astropy.table import Table

from .. import survey
from ..background import Background
from ..coadd import native, swarp
from ..coadd.plan import CoaddPlan, make_plan
from ..config import BackgroundKind, FieldConfig
from ..errors import InputError
from ..exposures.check import ExposureReport
from ..exposures.masks import PixelRule
from ..products import FieldPaths
from ..survey import tiling
from ..words import some
from .executor import UnitRunner
from .match import STAGE as MATCH
from .match import BackgroundKey, read_backgrounds
from .stage import Cost, Plan, Planned, Stage
from .tiles import STAGE as TILES
from .tiles import foreseen_mosaics, images_of, tile_tables, wanted_tiles
from .work import Manifest, Step, Work

SECONDS_PER_MOSAIC, SECONDS_PER_INPUT_MPIX, SECONDS_PER_OUTPUT_MPIX = 0.3, 0.017, 0.016  # CPU
COVERAGE_BYTES_PER_PIXEL = 0.15  # compressed
BY_HAND = ".swarp.fits"  # what a person gets who runs the SWarp script beside a mosaic


def _images(config: FieldConfig, table: Table) -> list[str]:
    """Images that a tile has, in the survey's order."""
    return survey.images(config.field, config.survey).in_order(map(str, table["Image"]))


def mosaic_names(config: FieldConfig) -> list[tuple[str, str]]:
    """Return tile and image of the mosaics to make, each with the backgrounds that were asked for, from the tile tables."""
    if not config.coadd.backgrounds:
        return []
    return [(tile.name, image) for tile, table in tile_tables(config) for image in _images(config, table)]


def mosaic_unit(tile: str, image: str, backgrounds: Iterable[BackgroundKind]) -> str:
    """Return the mosaics of one image of a tile as a unit of work: T07_b.N662 where only the matched one is made."""
    kinds = tuple(backgrounds)
    return f"{tile}{kinds[0].suffix}.{image}" if len(kinds) == 1 else f"{tile}.{image}"


def mosaic_files(paths: FieldPaths, tile: str, image: str, background: BackgroundKind) -> tuple[Path, Path]:
    """Return a mosaic and its coverage map."""
    return paths.mosaic(tile, image, background), paths.coverage(tile, image, background)


def plan_coadds(config: FieldConfig) -> list[CoaddPlan]:
    """Return a plan for the mosaics of each tile and image that has detectors, from the tile tables.

    `InputError` is raised where there is no tile table, or none for a tile that was asked for by name; and where matched
    backgrounds are wanted, and their table is missing or lacks a detector.
    """
    if not config.coadd.backgrounds:
        return []
    of_tiles = list(tile_tables(config))  # they are made before the backgrounds: say first what is missing first
    backgrounds = read_backgrounds(config) if BackgroundKind.MATCHED in config.coadd.backgrounds else None
    amplifiers = PixelRule.of(config).amplifiers

    def path_of(field: str, file: str) -> Path:
        return FieldPaths(config.root, field).exposure(file)

    plans = []
    for tile, table in of_tiles:
        centre = tiling.mosaic_centre(tile, table, config.tiling)
        for image in _images(config, table):
            detectors = table[table["Image"] == image]
            matched = None if backgrounds is None else _matched(config, backgrounds, tile.name, image, detectors)
            options = centre, tile.mosaic, path_of, config.coadd, matched, amplifiers
            plans.append(make_plan(config.field, tile.name, image, detectors, *options))
    return plans


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


def coadd_mosaic(config: FieldConfig, plan: CoaddPlan) -> Manifest:
    """Make the mosaics of a plan, one for each background, and their coverage maps."""
    paths = FieldPaths.of(config)
    products = {background: mosaic_files(paths, plan.tile, plan.image, background) for background in plan.backgrounds}
    engine = {"native": native.coadd, "swarp": swarp.coadd}[config.coadd.engine]
    engine(plan, config.coadd, products)
    return Manifest.of(path for both in products.values() for path in both)


def _work(config: FieldConfig, plan: CoaddPlan) -> Work:
    exposures = sorted({i.path for i in plan.inputs})
    masks = [mask for path in exposures if config.coadd.mask_codes and (mask := FieldPaths.mask_of(path))]
    digests = {str(background): plan.digest(config.coadd, background) for background in plan.backgrounds}
    return Work(mosaic_unit(plan.tile, plan.image, plan.backgrounds), files=[*exposures, *masks], facts=digests)


COADD = Step("coadd", 3, _work, coadd_mosaic)


def _run(run: UnitRunner) -> None:
    run.each(COADD, [(mosaic_unit(p.tile, p.image, p.backgrounds), {"plan": p}) for p in run.once(plan_coadds)])


def _plan(plan: Plan) -> Sequence[Planned]:
    config = plan.config
    ready = plan.is_fresh(TILES) and (plan.is_fresh(MATCH) or BackgroundKind.MATCHED not in config.coadd.backgrounds)
    foreseen = plan_coadds if ready else lambda config: foreseen_mosaics(config, plan.reports)
    plan.mosaics = foreseen(config) if config.coadd.backgrounds else []
    plan.made = [p for p in plan.mosaics if ready and COADD.is_current(config, {"plan": p})]
    to_do = [p for p in plan.mosaics if p not in plan.made]
    # a mosaic needs about as many input pixels as its own times its depth
    depth = sum(p.grid.nx * p.grid.ny * len({i.root for i in p.inputs}) for p in to_do)
    unit = "pairs" if len(config.coadd.backgrounds) == 2 else "mosaics"
    cost = _cost_of(len(to_do), depth, sum(p.n_pixels for p in to_do))
    return [Planned("coadd", unit, len(plan.mosaics), len(to_do), cost)]


def _cost_of(n: int, input_pixels: float, output_pixels: float) -> Cost:
    seconds = n * SECONDS_PER_MOSAIC + (input_pixels * SECONDS_PER_INPUT_MPIX + output_pixels * SECONDS_PER_OUTPUT_MPIX) / 1e6
    return Cost(seconds, output_pixels * (4 + COVERAGE_BYTES_PER_PIXEL))


def most_mosaics(config: FieldConfig, usable: Sequence[ExposureReport]) -> tuple[int, float]:
    """Return how many mosaics a run makes at most, and the pixels of all of them."""
    scale = config.coadd.pixel_scale or min((d.pixel_scale for r in usable for d in r.detectors), default=math.inf)
    sides = [tile.mosaic * 3600 / scale for tile in wanted_tiles(config)]
    of_each = len(images_of(config, usable)) * len(config.coadd.backgrounds)
    return of_each * len(sides), of_each * sum(side**2 for side in sides)


def _cost(config: FieldConfig, usable: Sequence[ExposureReport]) -> Cost:
    n, pixels = most_mosaics(config, usable)
    return _cost_of(n, sum(r.n_pixels for r in usable), pixels)


def _products(config: FieldConfig) -> Iterator[Path]:
    """The mosaics that the present tables call for, and their coverage maps."""
    for tile, image in mosaic_names(config):
        for background in config.coadd.backgrounds:
            yield from mosaic_files(FieldPaths.of(config), tile, image, background)


def _leftovers(config: FieldConfig) -> Iterator[str]:
    paths, planned = FieldPaths.of(config), set(_products(config))
    for directory in (paths.coadds(tile.name, kind) for tile in wanted_tiles(config) for kind in BackgroundKind):
        old = {path for path in directory.glob("[!.]*.fits") if not path.name.endswith(BY_HAND)} - planned
        if old:
            names = ", ".join(sorted(path.name for path in old))
            yield f"{directory}: {names}: of an earlier run; with these options they would not be made"


def _require(config: FieldConfig) -> None:
    if config.coadd.engine == "swarp":
        swarp.find_swarp()


STAGE = Stage(
    "coadd",
    run=_run,
    plan=_plan,
    products=_products,
    leftovers=_leftovers,
    cost=_cost,
    place="DECam_SWARP",
    heavy=True,
    require=_require,
)
