"""A detector averaged onto the survey's common grid of cells.

All fields of a galaxy share one grid, so that two detectors are compared by
slices of two arrays. It knows how pixels become cells and how the cells of an
exposure are kept in a file; what is measured from them is for other modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from astropy.wcs import WCS

__all__ = ["Stamp", "StampGrid"]


@dataclass(frozen=True)
class StampGrid:
    """The common grid: a tangent plane (TAN), north up, east to the left.

    Attributes
    ----------
    ra, dec : float
        Tangent point in degrees (ICRS); cell (0, 0) is centred on it.
    cell : float
        Side of a cell in arcsec.
    """

    ra: float
    dec: float
    cell: float

    @cached_property
    def wcs(self) -> WCS:
        """World coordinates; pixel coordinates that count from 0 are cell indices x, y (which may be negative)."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crval = [self.ra, self.dec]
        wcs.wcs.crpix = [1.0, 1.0]
        wcs.wcs.cd = np.array([[-1.0, 0.0], [0.0, 1.0]]) * self.cell / 3600
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.set()
        return wcs


@dataclass(frozen=True, eq=False)
class Stamp:
    """One detector on the grid: for each cell what its good pixels say.

    Attributes
    ----------
    root, extname : str
        Exposure and detector.
    x0, y0 : int
        Cell of the grid that ``mean[0, 0]`` is.
    mean : `~numpy.ndarray`
        float32 (ny, nx): mean surface brightness of the good pixels in counts28 per square arcsec, ``level``
        subtracted; NaN where there is none.
    std : `~numpy.ndarray`
        float32 (ny, nx): standard deviation of these pixels (divided by their number), same unit; NaN where there is none.
    count : `~numpy.ndarray`
        uint16 (ny, nx): good pixels whose centre lies in the cell.
    level : float
        The detector's own sky level in counts28 per native pixel, subtracted from each pixel before averaging.
    area : float
        Solid angle of the detector's central pixel in square arcsec.
    to_detector : `~numpy.ndarray`
        float64 (2, 3): ``u, v = to_detector @ (x, y, 1)`` for the cell x, y of the grid; u along NAXIS1 and v along
        NAXIS2 run from -1 to 1 over the detector and are 0 in its middle.
    """

    root: str
    extname: str
    x0: int
    y0: int
    mean: np.ndarray
    std: np.ndarray
    count: np.ndarray
    level: float
    area: float
    to_detector: np.ndarray

    @property
    def sum(self) -> np.ndarray:
        """float64 (ny, nx): sum of the good pixels in counts28 per square arcsec; 0 where there is none."""
        return np.where(self.count > 0, self.mean, 0.0) * self.count

    @property
    def sum_of_squares(self) -> np.ndarray:
        """float64 (ny, nx): sum of the squares of the good pixels."""
        mean, std = (np.where(self.count > 0, a, 0.0).astype(np.float64) for a in (self.mean, self.std))
        return (mean**2 + std**2) * self.count
