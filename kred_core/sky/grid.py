"""The pixel grid of a mosaic."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Grid"]


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
