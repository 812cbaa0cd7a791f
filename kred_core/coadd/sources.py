"""The inputs of a plan, opened: where each detector lies on the grid, and what its headers say.

Both engines start here, so they agree on what is covered, on the scaling of fluxes and on what the mosaic"s header reports.
No pixel is decoded.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ..config import BackgroundKind
from ..errors import ExposureError, InputError
from ..exposures.exposure import Detector, Exposure
from ..sky import Grid, celestial_wcs, control_grid, pixel_area_arcsec2, tan_wcs, to_sky
from ..words import counted
from .plan import CoaddInput, CoaddPlan

__all__ = ["Box", "PixelMap", "Source", "flux_scale", "grid_box", "open_sources", "overlapping", "pixel_map", "sampling_grid"]

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the mosaic, from 0, ends excluded
OUTLINE_POINTS = 17  # on each side of a detector; between them a side of a DECam CCD departs from a straight line by 1e-3 pixel
STEP, SMALLEST_STEP = 16, 2  # pixels between the points of a control grid
MAP_ERROR = 5e-4  # pixel; DECam's TPV at a step of 16 pixels leaves 1.3e-4


@dataclass(frozen=True, eq=False)
class Source:
    """One input of a mosaic, opened.

    Attributes
    ----------
    primary : `~astropy.io.fits.Header`
        Of its exposure.
    flux_scale : float
        Solid angle of a pixel of the mosaic over that of a detector's pixel, both at the centre of the detector:
        the factor from counts per native pixel to counts per pixel of the mosaic.
    box : Box or None
        Part of the mosaic that holds the detector; None where they have nothing in common.
    """

    input: CoaddInput
    detector: Detector
    primary: fits.Header
    wcs: WCS
    flux_scale: float
    box: Box | None


def open_sources(plan: CoaddPlan) -> list[Source]:
    """Open the inputs of a plan, in its order.

    The factor between pixel areas is one number for a detector, taken at its centre: what SWarp does with FSCALASTRO_TYPE
    FIXED (checked against SWarp 2.41.5 to 2e-6). DECam's pixels depart from it by up to 0.2 % within a detector.

    Raises
    ------
    InputError
        No inputs, one of them twice, with a factor or background that is no number, or none of them on the grid.
    ExposureError
        A file, detector or WCS that cannot be used.
    """
    _check(plan)
    grid = tan_wcs(plan.grid)
    wanted = defaultdict(set)
    for item in plan.inputs:
        wanted[item.path].add(item.extname)
    opened = {}
    sources = []
    for item in plan.inputs:
        if item.path not in opened:  # of its headers only those are kept that are needed: there can be thousands
            exposure = Exposure.open(item.path)
            opened[item.path] = exposure.primary, {d.extname: d for d in exposure.detectors if d.extname in wanted[item.path]}
        primary, detectors = opened[item.path]
        if item.extname not in detectors:
            raise ExposureError(
                f"{item.path.name}: has no detector {item.extname} any more; run the stages check to tiles again (--from check)"
            )
        detector = detectors[item.extname]
        try:
            wcs = celestial_wcs(detector.header)
        except ExposureError as e:
            raise ExposureError(f"{item.path.name} {item.extname}: {e}") from e
        box = grid_box(plan.grid, wcs, detector.shape)
        sources.append(Source(item, detector, primary, wcs, flux_scale(grid, wcs, detector.shape), box))
    if all(source.box is None for source in sources):
        raise InputError(
            f"{plan.field} {plan.tile} {plan.image}: none of the {counted(len(sources), 'detector')} lies on the mosaic at "
            f"{plan.grid.ra:.4f} {plan.grid.dec:+.4f}; run the stage tiles again (--from tiles)"
        )
    return sources


def _check(plan: CoaddPlan) -> None:
    where = f"{plan.field} {plan.tile} {plan.image}"
    if not plan.inputs:
        raise InputError(f"{where}: there is no detector to co-add")
    seen = set()
    for item in plan.inputs:
        name = f"{item.root}_{item.extname}"
        if name in seen:
            raise InputError(f"{where}: detector {name} is in the list twice; an exposure must not count as two")
        seen.add(name)
        if not (math.isfinite(item.scale) and item.scale > 0 and math.isfinite(item.back)):
            raise InputError(
                f"{where}: {name}: expected a factor above 0 and a finite background, found {item.scale} and {item.back}; "
                "is its MAGZERO right?"
            )
        if BackgroundKind.MATCHED in plan.backgrounds and not (item.matched and item.matched.is_finite):
            raise InputError(
                f"{where}: {name}: expected a finite matched background, found {item.matched}; "
                "run the stage match again (--from match)"
            )


def flux_scale(grid: WCS, wcs: WCS, shape: tuple[int, int]) -> float:
    """Solid angle of a pixel of a grid over that of a pixel of an image, both at the centre of the image."""
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    on_grid = grid.wcs_world2pix(to_sky(wcs, [[x, y]]), 0)[0]
    return float(pixel_area_arcsec2(grid, *on_grid) / pixel_area_arcsec2(wcs, x, y))


def grid_box(grid: Grid, wcs: WCS, shape: tuple[int, int]) -> Box | None:
    """Part of a grid that holds a detector of so many rows and columns, with a margin of a pixel; None without any."""
    t = np.linspace(0.0, 1.0, OUTLINE_POINTS)
    zero, one = np.zeros_like(t), np.ones_like(t)
    x = np.concatenate([t, t, zero, one]) * shape[1] - 0.5
    y = np.concatenate([zero, one, t, t]) * shape[0] - 0.5
    outline = tan_wcs(grid).wcs_world2pix(to_sky(wcs, np.stack([x, y], axis=-1)), 0)
    if not np.isfinite(outline).all():  # on the other half of the sky
        return None
    low, high = np.floor(outline.min(axis=0)) - 1, np.ceil(outline.max(axis=0)) + 2
    x0, y0 = (int(max(v, 0)) for v in low)
    x1, y1 = (int(min(v, n)) for v, n in zip(high, (grid.nx, grid.ny), strict=True))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def sampling_grid(grid: Grid, sources: list[Source]) -> tuple[Grid, int]:
    """The grid at whose pixels detectors are interpolated, n x n of which make one of the mosaic.

    n is the mosaic's pixel scale over that of the detectors on it (the median, so that one with a wrong WCS does not decide),
    rounded (SWarp's automatic OVERSAMPLING), so that a mosaic of large pixels averages and does not pick.
    """
    n = max(1, int(math.sqrt(statistics.median_low(s.flux_scale for s in sources if s.box is not None)) + 0.5))
    return replace(grid, pixel_scale=grid.pixel_scale / n, nx=grid.nx * n, ny=grid.ny * n), n


def overlapping(sources: list[Source]) -> Iterator[tuple[int, Source, Box]]:
    """Number, source and box of those that touch the mosaic."""
    for number, source in enumerate(sources):
        if source.box is not None:
            yield number, source, source.box


@dataclass(frozen=True, eq=False)
class PixelMap:
    """Where the pixels of a box of the grid lie in a detector.

    ``u`` and ``v`` are detector coordinates along x and y, from 0, at the points of a control grid, which are ``step`` pixels of
    the grid apart; rows run along the box's y. ``shape`` are rows and columns of the box, ``error`` is the largest
    error found of the interpolated positions, in detector pixels.
    """

    u: np.ndarray
    v: np.ndarray
    step: int
    shape: tuple[int, int]
    error: float


def pixel_map(grid: WCS, detector: WCS, box: tuple[int, int, int, int]) -> PixelMap:
    """Map a box (x0, y0, x1, y1; from 0, ends excluded) of the grid into a detector.

    The error is measured against the WCS in the middle of cells all over the box, where it is largest; the
    step is halved from 16 pixels until the error is below 5e-4 pixel (or the step 2 pixels). The WCS is evaluated at every fourth
    point along each axis only, and cubic splines through these give the others: their error is 1e-6 pixel, and
    inverting a distortion takes ten times the time of a spline.
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
