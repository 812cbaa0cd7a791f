"""What is co-added into one mosaic: which detectors, with which two numbers, on which grid.

Both engines take the same `CoaddPlan`, so they can be compared pixel by pixel.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table

from ..config import CoaddConfig

__all__ = ["CoaddInput", "CoaddPlan", "Grid", "make_grid", "make_plan"]


@dataclass(frozen=True)
class Grid:
    """A TAN grid: north up, east left, the centre of the image at (ra, dec).

    Attributes
    ----------
    ra, dec : float
        Position of the centre in degrees; FITS CRPIX = (nx + 1)/2, (ny + 1)/2.
    pixel_scale : float
        Arcsec per pixel.
    nx, ny : int
        Size in pixels.
    """

    ra: float
    dec: float
    pixel_scale: float
    nx: int
    ny: int


@dataclass(frozen=True)
class CoaddInput:
    """One detector of a mosaic: counts28 per native pixel = raw * scale - back.

    Attributes
    ----------
    path : `~pathlib.Path`
        The original MEF, read only.
    root, extname : str
    exptime : float
        Exposure time in s.
    scale : float
        Factor from raw counts to counts28 (XFACTOR).
    back : float
        Background in counts28 per native pixel (SUB_BACK).
    sky_noise : float
        Standard deviation of the sky in counts28 per native pixel, for the weighted mean.
    seeing : float
        FWHM of stars in arcsec, for the header; NaN: unknown.
    """

    path: Path
    root: str
    extname: str
    exptime: float
    scale: float
    back: float
    sky_noise: float
    seeing: float = math.nan


@dataclass(frozen=True)
class CoaddPlan:
    """One mosaic in the making."""

    field: str
    tile: str
    image: str
    filter: str
    grid: Grid
    inputs: tuple[CoaddInput, ...]

    def digest(self, config: CoaddConfig) -> str:
        """Hexadecimal digest of all that the mosaic depends on except the files' contents; the same wherever the data root is."""
        content = asdict(self) | {"config": config.model_dump(mode="json")}
        text = json.dumps(content, sort_keys=True, default=lambda path: path.name)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_grid(ra: float, dec: float, native_scale: float, config: CoaddConfig) -> Grid:
    """The grid of a mosaic.

    Parameters
    ----------
    ra, dec : float
        Centre in degrees.
    native_scale : float
        Pixel size of the detectors in arcsec.
    config : `~kred_core.config.CoaddConfig`
        A pixel scale of 0 stands for the native one, rounded up to 0.01 arcsec.
    """
    scale = config.pixel_scale or math.ceil(round(native_scale * 100, 4)) / 100
    n = max(1, round(config.size * 3600 / scale))
    return Grid(ra, dec, scale, n, n)


def make_plan(
    field: str,
    tile: str,
    image: str,
    detectors: Table,
    centre: tuple[float, float],
    path_of: Callable[[str, str], Path],
    config: CoaddConfig,
) -> CoaddPlan:
    """Plan one mosaic from the rows of a tile table.

    Parameters
    ----------
    field, tile, image : str
    detectors : `~astropy.table.Table`
        At least one row, all of this image (columns of `kred_core.tables.TILE`).
    centre : tuple of float
        RA, Dec of the centre of the mosaic in degrees.
    path_of : callable
        The MEF of (field, file name).
    config : `~kred_core.config.CoaddConfig`

    Returns
    -------
    CoaddPlan
        Inputs in the order of the rows.
    """
    inputs = tuple(
        CoaddInput(
            path=path_of(str(row["Field"]), str(row["File"])),
            root=str(row["Root"]),
            extname=str(row["EXTNAME"]),
            exptime=float(row["EXPTIME"]),
            scale=float(row["XFACTOR"]),
            back=float(row["SUB_BACK"]),
            sky_noise=float(row["Noise"]) * float(row["XFACTOR"]),
            seeing=float(row["SEEING"]),
        )
        for row in detectors
    )
    filters = dict.fromkeys(str(f) for f in detectors["FILTER"])
    grid = make_grid(*centre, float(np.median(detectors["PixScale"])), config)
    return CoaddPlan(field, tile, image, " ".join(filters), grid, inputs)
