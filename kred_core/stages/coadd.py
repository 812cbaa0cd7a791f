"""The stage coadd: a mosaic and its coverage map for each tile, image and background, straight from the MEFs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .. import survey
from ..binned import BinnedGrid
from ..coadd import swarp
from ..coadd.plan import CoaddPlan, make_plan
from ..config import BackgroundKind, FieldConfig
from ..exposures import summary
from ..exposures.check import ExposureReport
from ..products import FieldPaths, tables
from ..survey import tiling
from .mosaics import coadd_mosaic, mosaic_names, mosaic_unit, other_fields, plan_coadds, wanted_tiles
from .plan import Plan, Planned
from .run import Run
from .stage import Cost, Stage
from .work import Manifest, Step, Work

__all__ = ["COADD", "STAGE", "foreseen", "images_of", "most_mosaics"]

SECONDS_PER_MOSAIC, SECONDS_PER_INPUT_MPIX, SECONDS_PER_OUTPUT_MPIX = 0.3, 0.017, 0.016  # CPU
COVERAGE_BYTES_PER_PIXEL = 0.15  # compressed
BY_HAND = ".swarp.fits"  # what a person gets who runs the SWarp script beside a mosaic


def _work(config: FieldConfig, plan: CoaddPlan) -> Work:
    exposures = sorted({i.path for i in plan.inputs})
    masks = [mask for path in exposures if config.coadd.mask_codes and (mask := FieldPaths.mask_of(path))]
    digests = {str(background): plan.digest(config.coadd, background) for background in plan.backgrounds}
    return Work(mosaic_unit(plan.tile, plan.image, plan.backgrounds), files=[*exposures, *masks], facts=digests)


COADD = Step("coadd", 3, _work, lambda config, plan: Manifest.of(coadd_mosaic(config, plan)))


def _run(run: Run) -> None:
    run.each(COADD, [(mosaic_unit(p.tile, p.image, p.backgrounds), {"plan": p}) for p in run.once(plan_coadds)])


def images_of(config: FieldConfig, usable: Iterable[ExposureReport]) -> set[str]:
    """Return the images that exposures feed."""
    images = survey.images(config.field, config.survey)
    return {image for r in usable for image in images.of_exposure(r.filter, r.exptime)}


def foreseen(config: FieldConfig, found: Sequence[ExposureReport]) -> list[CoaddPlan]:
    """Return the mosaics that exposures would make, from the places of their detectors; their backgrounds are not known yet."""
    if not config.coadd.backgrounds:
        return []
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


def _plan(plan: Plan) -> Sequence[Planned]:
    config = plan.config
    ready = plan.is_fresh("tiles") and (plan.is_fresh("match") or BackgroundKind.MATCHED not in config.coadd.backgrounds)
    plan.mosaics = plan_coadds(config) if ready else foreseen(config, plan.reports)
    plan.made = [p for p in plan.mosaics if ready and COADD.is_current(config, {"plan": p})]
    to_do = [p for p in plan.mosaics if p not in plan.made]
    output = sum(p.n_pixels for p in to_do)
    # a mosaic needs about as many input pixels as its own times its depth
    depth = sum(p.grid.nx * p.grid.ny * len({i.root for i in p.inputs}) for p in to_do)
    seconds = len(to_do) * SECONDS_PER_MOSAIC + (depth * SECONDS_PER_INPUT_MPIX + output * SECONDS_PER_OUTPUT_MPIX) / 1e6
    unit = "pairs" if len(config.coadd.backgrounds) == 2 else "mosaics"
    return [Planned("coadd", unit, len(plan.mosaics), len(to_do), Cost(seconds, output * (4 + COVERAGE_BYTES_PER_PIXEL)))]


def most_mosaics(config: FieldConfig, usable: Sequence[ExposureReport]) -> tuple[int, float]:
    """Return how many mosaics a run makes at most, and the pixels of all of them."""
    scale = config.coadd.pixel_scale or min((d.pixel_scale for r in usable for d in r.detectors), default=math.inf)
    sides = [tile.mosaic * 3600 / scale for tile in wanted_tiles(config)]
    of_each = len(images_of(config, usable)) * len(config.coadd.backgrounds)
    return of_each * len(sides), of_each * sum(side**2 for side in sides)


def _cost(config: FieldConfig, usable: Sequence[ExposureReport], grid: BinnedGrid | None) -> Cost:
    n, pixels = most_mosaics(config, usable)
    seconds = n * SECONDS_PER_MOSAIC + sum(r.n_pixels for r in usable) / 1e6 * SECONDS_PER_INPUT_MPIX
    return Cost(seconds + pixels / 1e6 * SECONDS_PER_OUTPUT_MPIX, pixels * (4 + COVERAGE_BYTES_PER_PIXEL))


def _products(config: FieldConfig) -> Iterator[Path]:
    """The mosaics that the present tables call for, and their coverage maps."""
    paths = FieldPaths.of(config)
    for tile, image in mosaic_names(config):
        for background in config.coadd.backgrounds:
            yield paths.mosaic(tile, image, background)
            yield paths.coverage(tile, image, background)


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
