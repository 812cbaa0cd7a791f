"""Simulated fields with known truth, in the format of real Community Pipeline files.

`simulate_field` makes one: it plans the exposures, makes their files and writes down the truth; ``python -m kred_core.simulate``
does so from the command line.

An exposure is the unit of work. Its files depend on the configuration and on the exposure's own generators only, so they have
the same bytes in any order of work and in any number of processes.

The truth is written beside the data, below ``Truth/<field>/``: tables (ECSV, with units), and the noiseless sky (TAN, in counts28
per pixel of the image). It is the simulator's own: no stage of the pipeline reads it.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from ..fits.checksum import hdu_bytes
from ..fits.compress import compressed_image, compressed_mask
from ..products import FieldPaths, atomic, write_text
from ..products.tables import Column, from_arrays, make, write
from ..sky import unit_vectors
from .camera import NATIVE_SCALE
from .config import FAULTS, SimulationConfig
from .exposures import (
    ExposurePlan,
    centre_of,
    damage_file,
    damage_pixels,
    faulty_exposures,
    generator,
    hit,
    image_header,
    mask_header,
    offset_and_step,
    plan,
    primary_header,
    tiles_of,
)
from .pixels import Sky, Stars, diffuse_brightness, render, sky_brightness, stars_near

__all__ = ["FAULTS", "Simulation", "SimulationConfig", "TruthPaths", "diffuse_brightness", "simulate", "simulate_field"]
__all__ += ["sky_brightness"]

log = logging.getLogger(__name__)

FIELD_RADIUS = 1.25  # deg from the pointing to the corner of the outermost detector, with a margin for large stars
TILE_SCALE, FIELD_SCALE = 8.0, 48.0  # arcsec per pixel of the truth images, at least
FIELD_SIZE = 2.4  # deg

# Columns, and what stands in them
EXPOSURES: tuple[tuple[Column, Callable[[ExposurePlan], Any]], ...] = (
    (Column("Root", str, "", "Exposure: file name without .fits.fz"), lambda e: e.root),
    (Column("FILTER", str, "", "Short name of the filter"), lambda e: e.band.name),
    (Column("EXPTIME", float, "s", "Exposure time"), lambda e: e.exptime),
    (Column("OBSID", str, "", "Observation"), lambda e: e.obsid),
    (Column("RA", float, "deg", "Pointing (CRVAL1)"), lambda e: e.pointing.ra),
    (Column("Dec", float, "deg", "Pointing (CRVAL2)"), lambda e: e.pointing.dec),
    (Column("Rotation", float, "deg", "Rotation of the camera"), lambda e: math.degrees(e.pointing.rotation)),
    (Column("MAGZERO", float, "mag", "Zero point: magnitude of 1 ADU"), lambda e: e.magzero),
    (Column("XFACTOR", float, "", "counts28 = ADU x XFACTOR"), lambda e: 1 / e.factor),
    (Column("SEEING", float, "arcsec", "FWHM of stars"), lambda e: e.seeing),
    (Column("SKY", float, "arcsec-2", "Sky level at the pointing, counts28 per square arcsec"), lambda e: e.sky),
    (Column("SKY_PIX", float, "pix-1", "Sky level at the pointing, counts28 per pixel"), lambda e: e.sky * e.pixel_area),
    (Column("SKY_ADU", float, "adu", "Sky level at the pointing, ADU per pixel"), lambda e: e.sky_adu),
    (Column("GRAD_E", float, "deg-1", "Relative change of the sky level towards east"), lambda e: e.gradient[0]),
    (Column("GRAD_N", float, "deg-1", "Relative change of the sky level towards north"), lambda e: e.gradient[1]),
    (Column("Fault", str, "", "Planted fault; empty: none"), lambda e: e.fault),
)

DETECTORS = (
    Column("Root", str, "", "Exposure"),
    Column("EXTNAME", str, "", "Detector"),
    Column("CCDNUM", int, "", "CCD number"),
    Column("RA", float, "deg", "Centre"),
    Column("Dec", float, "deg", "Centre"),
    Column("OFFSET", float, "arcsec-2", "Offset of this detector, counts28 per square arcsec"),
    Column("OFFSET_PIX", float, "pix-1", "Offset of this detector, counts28 per pixel"),
    Column("OFFSET_ADU", float, "adu", "Offset of this detector, ADU per pixel"),
    Column("STEP_PIX", float, "pix-1", "What amplifier B has in addition, counts28 per pixel"),
    Column("STEP_ADU", float, "adu", "What amplifier B has in addition, ADU per pixel"),
    Column("SKY_PIX", float, "pix-1", "Sky level with its gradient at the centre, counts28 per pixel"),
    Column("BACK_PIX", float, "pix-1", "SKY_PIX + OFFSET_PIX at the centre: the background to subtract"),
)

FAULTY: tuple[tuple[Column, Callable[[ExposurePlan], Any]], ...] = (
    (Column("Root", str, "", "Exposure"), lambda e: e.root),
    (Column("EXTNAME", str, "", "Detector; empty: the whole exposure"), hit),
    (Column("Fault", str, "", "Name of the fault"), lambda e: e.fault),
    (Column("Description", str, "", "What is wrong"), lambda e: FAULTS[e.fault]),
)


@dataclass(frozen=True)
class TruthPaths:
    """Files of the truth of one field."""

    root: Path
    field: str

    @property
    def directory(self) -> Path:
        return self.root / "Truth" / self.field

    def table(self, name: str) -> Path:
        """Table ``exposures``, ``detectors``, ``stars`` or ``faults``."""
        return self.directory / f"{name}.ecsv"

    def sky(self, area: str, band: str) -> Path:
        """Noiseless sky of a tile, or of the field where the area is its name."""
        return self.directory / f"sky_{area}.{band}.fits"

    @property
    def configuration(self) -> Path:
        return self.directory / "simulation.json"


@dataclass(frozen=True)
class Simulation:
    """A simulated field: its science files in the order of ``exposures``, and the truth, as it is on disk."""

    config: SimulationConfig
    files: tuple[Path, ...]
    truth: TruthPaths
    exposures: Table
    detectors: Table
    stars: Table
    faults: Table


@cache
def _stars(sky: Sky, ra: float, dec: float, radius: float) -> Stars:
    return sky.stars(ra, dec, radius)


def _stars_of(config: SimulationConfig) -> Stars:
    """All stars that the field can see; kept, because each process needs them for each of its exposures."""
    return _stars(Sky.of(config), *centre_of(config), FIELD_RADIUS + 2 * config.dither / 3600)


def _make_exposure(config: SimulationConfig, exposure: ExposurePlan) -> np.ndarray:
    """Write the science file and the mask of one exposure; returns the indices of the stars on its detectors."""
    directory = FieldPaths(config.root, config.field).mef
    stars = _stars_of(config)
    seen = [np.empty(0, int)]
    data: dict[str, tuple[int, int]] = {}
    path = directory / exposure.file_name()
    with atomic(path) as science, atomic(directory / exposure.file_name("ood")) as masks:
        with open(science, "wb") as science_file, open(masks, "wb") as mask_file:
            primary, _ = hdu_bytes(primary_header(exposure, config.seeing_keyword))
            science_file.write(primary)
            mask_file.write(primary)
            for ccd in exposure.ccds:
                geometry = exposure.geometry(ccd)
                image, mask = render(config, exposure, geometry, stars)
                image, mask = damage_pixels(exposure, ccd.name, image, mask)
                dither = int(generator(config.seed, exposure, ccd, 3).integers(1, 10001))
                head, body = compressed_image(image_header(exposure, geometry, image, mask), image, dither)
                data[ccd.name] = (science_file.tell() + len(head), len(body))
                science_file.write(head + body)
                mask_file.write(b"".join(compressed_mask(mask_header(exposure, geometry), mask)))
                near, x, y = stars_near(geometry, stars)
                ny, nx = geometry.shape
                seen.append(near[(x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)])
        damage_file(exposure, science, data)
    return np.unique(np.concatenate(seen))


def _results(config: SimulationConfig, exposures: tuple[ExposurePlan, ...]) -> Iterator[np.ndarray]:
    processes = min(config.processes or os.cpu_count() or 1, len(exposures))
    if processes == 1:
        for exposure in exposures:
            yield _make_exposure(config, exposure)
        return
    # Spawned, because a fork of a process that has threads can hang.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_make_exposure, [config] * len(exposures), exposures)


def simulate(config: SimulationConfig) -> Simulation:
    """Simulate a field in the form in which real data arrive.

    An existing simulation of the same field is overwritten, file by file; files of another configuration with other names stay.
    With several processes, a script that calls this needs the usual ``if __name__ == "__main__":``.

    Raises
    ------
    ConfigError
        Unknown detector, or no detector on the tiles.
    InputError
        Unknown field or tile.
    """
    good = plan(config)
    exposures = (*good, *faulty_exposures(config, good))
    n_detectors = sum(len(e.ccds) for e in exposures)
    log.info("field %s: %d exposures with %d detectors to simulate", config.field, len(exposures), n_detectors)
    seen = []
    for i, (exposure, found) in enumerate(zip(exposures, _results(config, exposures), strict=True), 1):
        seen.append(found)
        fault = f", fault: {exposure.fault}" if exposure.fault else ""
        log.info("[%d/%d] %s: %d detectors%s", i, len(exposures), exposure.file_name(), len(exposure.ccds), fault)
    tables = {
        "exposures": make([{c.name: value(e) for c, value in EXPOSURES} for e in exposures], [c for c, _ in EXPOSURES]),
        "detectors": _detector_table(config, exposures),
        "stars": _star_table(_stars_of(config), np.unique(np.concatenate(seen)), config.band_names),
        "faults": make([{c.name: value(e) for c, value in FAULTY} for e in exposures if e.fault], [c for c, _ in FAULTY]),
    }
    truth = TruthPaths(config.root, config.field)
    for name, table in tables.items():
        write(table, truth.table(name), f"Truth of the simulated field {config.field}: {name}")
    _write_sky_images(config, truth)
    write_text(truth.configuration, config.model_dump_json(indent=2, exclude={"root", "processes"}) + "\n")
    log.info("field %s: the truth is in %s", config.field, truth.directory)
    directory = FieldPaths(config.root, config.field).mef
    return Simulation(config, tuple(directory / e.file_name() for e in exposures), truth, **tables)


def simulate_field(root: Path | str, **options: Any) -> Simulation:
    """Simulate a field; options as in `SimulationConfig`.

    Examples
    --------
    >>> simulate_field("data", field="LMC_c42", tiles=["T07"], binning=16, exposures=2, bands=["N662", "r"])  # doctest: +SKIP
    """
    return simulate(SimulationConfig(root=Path(root), **options))


def _detector_table(config: SimulationConfig, exposures: Iterable[ExposurePlan]) -> Table:
    """One row per simulated detector, with its values in the order of the columns."""
    rows = []
    for e in exposures:
        for ccd in e.ccds:
            geometry = e.geometry(ccd)
            ny, nx = geometry.shape
            ra, dec = geometry.corners(geometry.shape)[0]
            offset, step = offset_and_step(config, e, ccd)
            crpix, cd = geometry.linear
            east, north = cd @ (np.array([(nx + 1) / 2, (ny + 1) / 2]) - crpix)
            sky = e.sky * e.pixel_area * (1 + e.gradient[0] * east + e.gradient[1] * north)
            offset_pix, step_pix = offset * e.pixel_area, step * e.pixel_area
            offsets = offset, offset_pix, offset * e.pixel_area * e.factor, step_pix, step * e.pixel_area * e.factor
            rows.append((e.root, ccd.name, ccd.number, ra, dec, *offsets, sky, sky + offset_pix))
    names = [column.name for column in DETECTORS]
    return make([dict(zip(names, row, strict=True)) for row in rows], DETECTORS)


def _star_table(stars: Stars, chosen: np.ndarray, bands: Iterable[str]) -> Table:
    """The chosen stars (indices), with their flux in each band in counts28."""
    values = {"RA": stars.ra[chosen], "Dec": stars.dec[chosen], "r_mag": stars.magnitude[chosen]}
    columns = [Column(name, float, "deg", "ICRS") for name in ("RA", "Dec")] + [Column("r_mag", float, "mag", "Magnitude in r")]
    for name in bands:
        values[f"FLUX_{name}"] = stars.flux(name)[chosen]
        columns.append(Column(f"FLUX_{name}", float, "", f"Flux in {name}, counts28: 10**(0.4 (28 - magnitude))"))
    return from_arrays(values, columns)


def _sky_image(
    config: SimulationConfig, names: tuple[str, ...], ra: float, dec: float, size: float, scale: float
) -> tuple[np.ndarray, fits.Header]:
    """The noiseless sky, without stars, on a TAN grid; centre and side in degrees, scale in arcsec per pixel.

    Images in counts28 per pixel of this grid, (bands, n, n): sampled at the pixel's centre, times its area; a header with the WCS.
    """
    n = math.ceil(size * 3600 / scale)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(n + 1) / 2, (n + 1) / 2]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    y, x = np.indices((n, n))
    longitude, latitude = wcs.wcs_pix2world(x.ravel(), y.ravel(), 0)
    brightness = Sky.of(config).brightness(unit_vectors(longitude, latitude).reshape(n, n, 3), names)
    # A square of the tangent plane at distance r covers cos^3 of its angle on the sky.
    r2 = (np.radians(scale / 3600) ** 2) * ((x - (n - 1) / 2) ** 2 + (y - (n - 1) / 2) ** 2)
    return brightness * scale**2 * (1 + r2) ** -1.5, wcs.to_header()


def _write_sky_images(config: SimulationConfig, paths: TruthPaths) -> None:
    """Write the noiseless sky of each tile asked for, or of the whole field, in each band."""
    pixel = NATIVE_SCALE * config.binning
    if config.tiles:
        areas = [(t.name, t.ra, t.dec, t.size, max(TILE_SCALE, pixel)) for t in tiles_of(config, config.tiles)]
    else:
        areas = [(config.field, *centre_of(config), FIELD_SIZE, max(FIELD_SCALE, pixel))]
    for area, ra, dec, size, scale in areas:
        images, header = _sky_image(config, config.band_names, ra, dec, size, scale)
        header["BUNIT"] = ("counts28", "per pixel of this image")
        header["OBJECT"] = config.field
        for name, image in zip(config.band_names, images, strict=True):
            header["FILTER"] = name
            with atomic(paths.sky(area, name), keep_same=True) as temporary:
                fits.PrimaryHDU(image.astype(np.float32), header).writeto(temporary, overwrite=True)
