"""Where the pixels of a mosaic lie in a detector: a control grid, so fine that straight lines between its points will do.

It knows both WCSs and no pixel values; the kernels of `resample` know pixel values and no WCS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from ..sky import control_grid

__all__ = ["PixelMap", "pixel_map"]

STEP, SMALLEST_STEP = 16, 2  # pixels between the points of a control grid
MAP_ERROR = 5e-4  # pixel; DECam's TPV at a step of 16 pixels leaves 1.3e-4


@dataclass(frozen=True, eq=False)
class PixelMap:
    """Where the pixels of a box of the grid lie in a detector.

    Attributes
    ----------
    u, v : `~numpy.ndarray`
        Detector coordinates along x and y, from 0, at the points of the control grid; rows run along the box's y.
    step : int
        Distance of the points in pixels of the grid.
    shape : (int, int)
        Rows and columns of the box.
    error : float
        Largest error found of the interpolated positions, in detector pixels.
    """

    u: np.ndarray
    v: np.ndarray
    step: int
    shape: tuple[int, int]
    error: float


def pixel_map(grid: WCS, detector: WCS, box: tuple[int, int, int, int]) -> PixelMap:
    """Map a box of the grid into a detector.

    Parameters
    ----------
    grid, detector : `~astropy.wcs.WCS`
    box : (int, int, int, int)
        x0, y0, x1, y1 in pixels of the grid, from 0, ends excluded.

    Returns
    -------
    PixelMap
        Its error is measured against the WCS in the middle of cells all over the box, where it is largest; the
        step is halved from 16 pixels until the error is below 5e-4 pixel (or the step 2 pixels).

    Notes
    -----
    The WCS is evaluated at every fourth point of the control grid along each axis only, and cubic splines through these
    give the others: their error is 1e-6 pixel, and inverting a distortion takes ten times the time of a spline.
    """
    x0, y0, x1, y1 = box
    step = STEP
    while True:
        u, v = _control_points(grid, detector, box, step)
        cells = 8 * step  # between the points that are compared
        truth = control_grid(grid, detector, x0 + step / 2, y0 + step / 2, u.shape[1] * step, u.shape[0] * step, cells)
        error = 0.0
        for points, exact in zip((u, v), truth, strict=True):
            middle = (points[:-1, :-1] + points[1:, :-1] + points[:-1, 1:] + points[1:, 1:])[::8, ::8] / 4
            difference = np.abs(middle - exact[: middle.shape[0], : middle.shape[1]])
            error = max(error, float(np.max(difference, where=np.isfinite(difference), initial=0.0)))
        if error < MAP_ERROR or step == SMALLEST_STEP:
            return PixelMap(u, v, step, (y1 - y0, x1 - x0), error)
        step //= 2


def _control_points(grid: WCS, detector: WCS, box: tuple[int, int, int, int], step: int) -> tuple[np.ndarray, np.ndarray]:
    x0, y0, x1, y1 = box
    from scipy.interpolate import RectBivariateSpline  # takes a second, which --help and a run with nothing to do need not wait

    coarse = control_grid(grid, detector, x0, y0, x1 - x0, y1 - y0, 4 * step)
    if min(coarse[0].shape) < 4 or not np.isfinite(coarse).all():
        return control_grid(grid, detector, x0, y0, x1 - x0, y1 - y0, step)
    at_x, at_y = (np.arange((n - 1) // step + 2) / 4.0 for n in (x1 - x0, y1 - y0))
    nodes_y, nodes_x = (np.arange(n, dtype=np.float64) for n in coarse[0].shape)
    u, v = (RectBivariateSpline(nodes_y, nodes_x, points)(at_y, at_x) for points in coarse)
    return u, v
