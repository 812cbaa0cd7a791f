"""What is co-added into one mosaic: which detectors, with which two numbers, on which grid.

Both engines take the same `CoaddPlan`, so they can be compared pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["CoaddInput", "CoaddPlan", "Grid"]


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
        Standard deviation of the sky in counts28, for the weighted mean.
    """

    path: Path
    root: str
    extname: str
    exptime: float
    scale: float
    back: float
    sky_noise: float


@dataclass(frozen=True)
class CoaddPlan:
    """One mosaic in the making."""

    field: str
    tile: str
    image: str
    filter: str
    grid: Grid
    inputs: tuple[CoaddInput, ...]
