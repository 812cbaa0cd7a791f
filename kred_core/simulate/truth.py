"""The truth about a simulated field, on disk beside it: tables, and the noiseless sky.

``Truth/<field>/`` is the simulator's own: no stage of the pipeline reads it.
Tables are ECSV with units; images are TAN, in counts28 per pixel of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from ..products import atomic, write_text
from ..products.tables import Column, make, write
from .bands import band_and_exptime
from .camera import NATIVE_SCALE
from .config import SimulationConfig
from .exposures import ExposurePlan, centre_of, offset_and_step, tiles_of
from .faults import DESCRIPTIONS, hit
from .sky import Sky, Stars

__all__ = [
    "TruthPaths",
    "detector_table",
    "exposure_table",
    "fault_table",
    "sky_image",
    "star_table",
    "write_sky_images",
    "write_truth",
]

TILE_SCALE, FIELD_SCALE = 8.0, 48.0  # arcsec per pixel of the truth images, at least
FIELD_SIZE = 2.4  # deg

EXPOSURES = (
    Column("Root", str, "", "Exposure: file name without .fits.fz"),
    Column("FILTER", str, "", "Short name of the filter"),
    Column("EXPTIME", float, "s", "Exposure time"),
    Column("OBSID", str, "", "Observation"),
    Column("RA", float, "deg", "Pointing (CRVAL1)"),
    Column("Dec", float, "deg", "Pointing (CRVAL2)"),
    Column("Rotation", float, "deg", "Rotation of the camera"),
    Column("MAGZERO", float, "mag", "Zero point: magnitude of 1 ADU"),
    Column("XFACTOR", float, "", "counts28 = ADU x XFACTOR"),
    Column("SEEING", float, "arcsec", "FWHM of stars"),
    Column("SKY", float, "arcsec-2", "Sky level at the pointing, counts28 per square arcsec"),
    Column("SKY_PIX", float, "pix-1", "Sky level at the pointing, counts28 per pixel"),
    Column("SKY_ADU", float, "adu", "Sky level at the pointing, ADU per pixel"),
    Column("GRAD_E", float, "deg-1", "Relative change of the sky level towards east"),
    Column("GRAD_N", float, "deg-1", "Relative change of the sky level towards north"),
    Column("Fault", str, "", "Planted fault; empty: none"),
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

FAULT_COLUMNS = (
    Column("Root", str, "", "Exposure"),
    Column("EXTNAME", str, "", "Detector; empty: the whole exposure"),
    Column("Fault", str, "", "Name of the fault"),
    Column("Description", str, "", "What is wrong"),
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


def exposure_table(exposures: Iterable[ExposurePlan]) -> Table:
    """One row per simulated exposure."""
    rows = [
        {
            "Root": e.root,
            "FILTER": e.band.name,
            "EXPTIME": e.exptime,
            "OBSID": e.obsid,
            "RA": e.pointing.ra,
            "Dec": e.pointing.dec,
            "Rotation": math.degrees(e.pointing.rotation),
            "MAGZERO": e.magzero,
            "XFACTOR": 1 / e.factor,
            "SEEING": e.seeing,
            "SKY": e.sky,
            "SKY_PIX": e.sky * e.pixel_area,
            "SKY_ADU": e.sky_adu,
            "GRAD_E": e.gradient[0],
            "GRAD_N": e.gradient[1],
            "Fault": e.fault,
        }
        for e in exposures
    ]
    return make(rows, EXPOSURES)


def detector_table(config: SimulationConfig, exposures: Iterable[ExposurePlan]) -> Table:
    """One row per simulated detector."""
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
            rows.append(
                {
                    "Root": e.root,
                    "EXTNAME": ccd.name,
                    "CCDNUM": ccd.number,
                    "RA": ra,
                    "Dec": dec,
                    "OFFSET": offset,
                    "OFFSET_PIX": offset * e.pixel_area,
                    "OFFSET_ADU": offset * e.pixel_area * e.factor,
                    "STEP_PIX": step * e.pixel_area,
                    "STEP_ADU": step * e.pixel_area * e.factor,
                    "SKY_PIX": sky,
                    "BACK_PIX": sky + offset * e.pixel_area,
                }
            )
    return make(rows, DETECTORS)


def star_table(stars: Stars, chosen: np.ndarray, bands: Iterable[str]) -> Table:
    """The chosen stars (indices), with their flux in each band in counts28."""
    columns = [
        Column("RA", float, "deg", "ICRS"),
        Column("Dec", float, "deg", "ICRS"),
        Column("r_mag", float, "mag", "Magnitude in r"),
        *(Column(f"FLUX_{name}", float, "", f"Flux in {name}, counts28: 10**(0.4 (28 - magnitude))") for name in bands),
    ]
    table = Table()
    values = [stars.ra, stars.dec, stars.magnitude, *(stars.flux(name) for name in bands)]
    for c, value in zip(columns, values, strict=True):
        table[c.name] = value[chosen]
        table[c.name].unit = c.unit or None
        table[c.name].description = c.description
    return table


def fault_table(exposures: Iterable[ExposurePlan]) -> Table:
    """One row per planted fault."""
    rows = [
        {"Root": e.root, "EXTNAME": hit(e), "Fault": e.fault, "Description": DESCRIPTIONS[e.fault]} for e in exposures if e.fault
    ]
    return make(rows, FAULT_COLUMNS)


def sky_image(
    config: SimulationConfig, names: tuple[str, ...], ra: float, dec: float, size: float, scale: float
) -> tuple[np.ndarray, fits.Header]:
    """The noiseless sky, without stars, on a TAN grid.

    Parameters
    ----------
    config : `SimulationConfig`
    names : tuple of str
        Bands.
    ra, dec, size : float
        Centre and side, in degrees.
    scale : float
        Arcsec per pixel.

    Returns
    -------
    images : `numpy.ndarray`
        counts28 per pixel of this grid, shape (bands, n, n): sampled at the pixel's centre, times the pixel's area on the sky.
    header : `~astropy.io.fits.Header`
        WCS.
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
    brightness = Sky.of(config).brightness(longitude.reshape(n, n), latitude.reshape(n, n), names)
    # A square of the tangent plane at distance r covers cos^3 of its angle on the sky.
    r2 = (np.radians(scale / 3600) ** 2) * ((x - (n - 1) / 2) ** 2 + (y - (n - 1) / 2) ** 2)
    return brightness * scale**2 * (1 + r2) ** -1.5, wcs.to_header()


def write_sky_images(config: SimulationConfig, paths: TruthPaths) -> None:
    """Write the noiseless sky of each tile asked for, or of the whole field, in each band."""
    names = tuple(dict.fromkeys(band_and_exptime(text)[0].name for text in config.bands))
    pixel = NATIVE_SCALE * config.binning
    areas = [(t.name, t.ra, t.dec, t.size, max(TILE_SCALE, pixel)) for t in tiles_of(config, config.tiles)] if config.tiles else []
    areas = areas or [(config.field, *centre_of(config), FIELD_SIZE, max(FIELD_SCALE, pixel))]
    for area, ra, dec, size, scale in areas:
        images, header = sky_image(config, names, ra, dec, size, scale)
        header["BUNIT"] = ("counts28", "per pixel of this image")
        header["OBJECT"] = config.field
        for name, image in zip(names, images, strict=True):
            header["FILTER"] = name
            with atomic(paths.sky(area, name), keep_same=True) as temporary:
                fits.PrimaryHDU(image.astype(np.float32), header).writeto(temporary, overwrite=True)


def write_truth(config: SimulationConfig, tables: dict[str, Table]) -> TruthPaths:
    """Write tables, images and configuration of a simulated field."""
    paths = TruthPaths(config.root, config.field)
    for name, table in tables.items():
        write(table, paths.table(name), f"Truth of the simulated field {config.field}: {name}")
    write_sky_images(config, paths)
    write_text(paths.configuration, config.model_dump_json(indent=2, exclude={"root", "processes"}) + "\n")
    return paths
