"""Simulated fields, matched and co-added by the functions that the tasks call, and how they compare with the true sky.

Apart from the tests of the stage match so that these read like statements about the sky.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from kred_core import evaluation, stages
from kred_core.config import BackgroundKind, FieldConfig
from kred_core.products import FieldPaths, tables
from kred_core.simulate import SimulationConfig, diffuse_brightness, sky_brightness
from kred_core.sky import celestial_wcs

BINNING = 16  # pixels of 4.2 arcsec, detectors of 128 x 256 of them
NATIVE = (3600 * 7.287e-5) ** 2  # square arcsec of a native pixel of DECam. A DN is a count28 in it, whatever the binning.
BINNED = {"binning": BINNING, "cosmic_rays": 0.0, "star_density": 2000.0}
BLOCK = 16  # pixels of a mosaic: 68 arcsec


def configuration(root: Path, field: str, tiles: Iterable[str], **sections: dict) -> FieldConfig:
    """Options for binned fields: a pair of detectors shares fewer cells than of full-size ones; no copies of detectors."""
    usual = {"prepare": {"output": "none"}, "match": {"output": "none", "min_cells": 30}, "evaluate": {"figure_pixels": 200}}
    for name, options in sections.items():
        usual[name] = usual.get(name, {}) | options
    return FieldConfig(field=field, tiles=list(tiles), root=root, **usual)


def summarize(config: FieldConfig) -> None:
    """From exposures to binned maps and to the tables of exposures, detectors and tiles."""
    for path in FieldPaths.of(config).exposures():
        stages.check_exposure(config, path, None)
    usable = [r for r in stages.check_field(config) if not r.refused]
    grid = stages.binned_grid(config, usable)
    for report in usable:
        stages.summarize_exposure(config, report, grid)
    stages.summarize_field(config)
    stages.tiles_field(config)


def solve(config: FieldConfig) -> Table:
    """The backgrounds of all images, from their measured overlaps."""
    plans = stages.plan_matching(config)
    for plan in plans:
        stages.solve_backgrounds(config, plan)
    stages.tabulate_matching(config, [plan.image for plan in plans])
    return backgrounds(config)


def measure(config: FieldConfig) -> None:
    for plan in stages.plan_matching(config):
        stages.measure_overlaps(config, plan)


def match(config: FieldConfig) -> Table:
    """The backgrounds of all images, from binned maps."""
    measure(config)
    return solve(config)


def backgrounds(config: FieldConfig) -> Table:
    return tables.read(FieldPaths.of(config).background_table, tables.BACKGROUNDS, "match")


def coadd(config: FieldConfig, *images: str) -> None:
    """The mosaics of some images, or of all."""
    for plan in stages.plan_coadds(config):
        if not images or plan.image in images:
            stages.coadd_mosaic(config, plan)


def finish(config: FieldConfig) -> Table:
    """All that the stages match and coadd make of measured overlaps; the backgrounds."""
    solve(config)
    plans = stages.plan_matching(config)
    for plan in plans:
        stages.make_quick_looks(config, plan, stages.tile_names(config))
        stages.draw_matching(config, plan, stages.tile_names(config))
    stages.tabulate_matching(config, [plan.image for plan in plans])
    coadd(config)
    return backgrounds(config)


def mosaic(
    config: FieldConfig, tile: str, image: str, background: BackgroundKind = BackgroundKind.MATCHED
) -> tuple[np.ndarray, fits.Header]:
    """A mosaic in DN, NaN where it has no data."""
    paths = FieldPaths.of(config)
    with fits.open(paths.mosaic(tile, image, background), memmap=False) as hdus:
        values, header = hdus[0].data.astype(np.float64), hdus[0].header
    values[fits.getdata(paths.coverage(tile, image, background), 1) == 0] = np.nan
    return values * NATIVE / abs(header["CD1_1"] * header["CD2_2"] * 3600**2), header


def block_sky(header: fits.Header, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """RA and Dec of the centres of the blocks of a mosaic."""
    rows, columns = (BLOCK * np.arange(-(-n // BLOCK)) + (BLOCK - 1) / 2 for n in shape)
    x, y = np.meshgrid(columns, rows)
    sky = celestial_wcs(header).wcs_pix2world(np.stack([x.ravel(), y.ravel()], axis=-1), 0)
    return sky[:, 0].reshape(x.shape), sky[:, 1].reshape(x.shape)


def recovered(plain: FieldConfig, diffuse: FieldConfig, simulated: SimulationConfig, image: str) -> tuple[float, float]:
    """Which part of the diffuse emission is in the matched mosaics of the field that has it, and not in those of the other.

    Slope of block medians against the truth, in all tiles together; and the rms of the truth there, in DN.
    """
    seen, true = [], []
    for tile in plain.tiles:
        one, header = mosaic(plain, tile, image)
        seen.append(evaluation.block_medians(mosaic(diffuse, tile, image)[0] - one, BLOCK).ravel())
        true.append(NATIVE * diffuse_brightness(*block_sky(header, one.shape), simulated).ravel())
    seen, true = np.concatenate(seen), np.concatenate(true)
    good = np.isfinite(seen)
    return float(np.polyfit(true[good], seen[good], 1)[0]), float(np.std(true[good]))


def emission_minus_truth(
    config: FieldConfig,
    tile: str,
    image: str,
    simulated: SimulationConfig,
    background: BackgroundKind = BackgroundKind.MATCHED,
    common_plane: bool = True,
) -> np.ndarray:
    """Block medians of a mosaic minus the true sky, in DN; images are called as their bands, short exposures with _s."""
    values, header = mosaic(config, tile, image, background)
    ra, dec = block_sky(header, values.shape)
    left = evaluation.block_medians(values, BLOCK) - NATIVE * sky_brightness(ra, dec, image.partition("_")[0], simulated)
    seen = np.isfinite(left)
    return left[seen] if common_plane else without_plane(ra[seen], dec[seen], left[seen])


def without_plane(ra: np.ndarray, dec: np.ndarray, values: np.ndarray) -> np.ndarray:
    x, y = (ra - ra.mean()) * np.cos(np.radians(dec.mean())), dec - dec.mean()
    plane = np.stack([np.ones_like(x), x, y], axis=1)
    return values - plane @ np.linalg.lstsq(plane, values, rcond=None)[0]


def error_of(found: Table, truth: Table, common_plane: bool = True, step: float = 0.0) -> np.ndarray:
    """Backgrounds minus the true ones, in DN, without what differences do not tell: their mean.

    Without the ``common_plane`` too, which they hardly tell where all exposures point almost the same way. ``step``: how much of
    the step between the amplifiers is in the true background.
    """
    rows = {(str(row["Root"]), str(row["EXTNAME"])): row for row in truth}
    true = [rows[str(row["Root"]), str(row["EXTNAME"])] for row in found]
    error = np.array([b - row["BACK_PIX"] - step * row["STEP_PIX"] for b, row in zip(found["b"], true, strict=True)]) / BINNING**2
    if not common_plane:
        error = without_plane(*np.array([[row["RA"], row["Dec"]] for row in true]).T, error)
    return error - error.mean()
