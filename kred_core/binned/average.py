"""The common grid of cells, and how the pixels of a detector become its cells: each into the one that its centre lies in.

All fields of a galaxy share a grid. It does not depend on the data of a field, but for the pixel scale of its detectors, so
that fields which are reduced years apart fit together. The kernel releases the interpreter lock and sums in a fixed order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numba as nb
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from .. import sky, survey
from ..config import FieldConfig, SurveyConfig
from ..errors import ConfigError, ExposureError, InputError
from ..fits.hdu import number

CELL = 2.0  # arcsec: seeing and sampling of stars no longer matter, diffuse emission still does
SMALLEST_CELL, LARGEST_CELL = 4, 8  # pixels along a side, unless the configuration says otherwise
PIXELS_ALONG_CELL = (2, 250)  # that can be asked for; counts have 16 bits
STEP = 64  # pixels between control points; DECam's TPV leaves 2e-4 arcsec
LARGEST_COUNT = 65535
CELLS_PER_PIXEL, MANY_CELLS = 4, 100_000  # no sensible pixels need more cells around them
FARTHEST = 45.0  # deg from the tangent point; beyond, cells shrink to less than half on the sky
SATURATION = ("SATURATE", "SATURATA", "SATURATB")
LARGEST_LEVEL = 1e30  # ADU; no detector counts so far


@dataclass(frozen=True)
class BinnedGrid:
    """The common grid: a tangent plane (TAN), north up, east to the left."""

    ra: float  # of the tangent point in degrees (ICRS), on which cell (0, 0) is centred
    dec: float
    cell: float  # side in arcsec

    @cached_property
    def wcs(self) -> WCS:
        """World coordinates; pixel coordinates that count from 0 are cell indices x, y (which may be negative)."""
        return sky.tan_wcs(sky.Grid(self.ra, self.dec, self.cell, 1, 1))


def binned_grid(config: FieldConfig, pixel_scale: float) -> BinnedGrid:
    """Return the grid of a field's galaxy.

    The pixel scale is that of the field's detectors, in arcsec.

    Raises
    ------
    ConfigError
        A cell would hold fewer than 2 x 2 or more than 250 x 250 pixels.
    InputError
        Nothing says where the field is, or its tile table cannot be used.

    Notes
    -----
    Cells have 2 arcsec, but at least 4 and at most 8 pixels, rounded to two digits: 2 arcsec for DECam. The tangent point is the
    mean position, rounded to 0.1 deg, of all fields of the survey with the same prefix (the name up to the first ``_``). A field
    elsewhere on the sky takes that of the tiles in its tile table of the fields with the same prefix that are not far away
    (`kred_core.survey.galaxy`), rounded too, or its own centre. Both can be set in ``config.stamps``.
    """
    cell = config.stamps.cell_size or usual_cell(pixel_scale)
    least, most = PIXELS_ALONG_CELL
    if not least * pixel_scale <= cell <= most * pixel_scale:
        raise ConfigError(
            f"stamps.cell_size is {cell:g} arcsec; with pixels of {pixel_scale:.3g} arcsec it must be between "
            f"{least * pixel_scale:.3g} and {most * pixel_scale:.3g}"
        )
    return BinnedGrid(*_tangent_point(config), cell)


def usual_cell(pixel_scale: float) -> float:
    """Return the side of a cell for pixels of some size, both in arcsec: 2 arcsec, but 4 to 8 pixels, in two digits."""
    return float(f"{min(max(CELL, SMALLEST_CELL * pixel_scale), LARGEST_CELL * pixel_scale):.1e}")


def _tangent_point(config: FieldConfig) -> tuple[float, float]:
    if config.stamps.centre:
        return config.stamps.centre[0], config.stamps.centre[1]
    of_survey = _mean(survey.galaxy(config.field, SurveyConfig()))
    elsewhere = bool(config.survey.centre or config.survey.tile_table)
    own = _mean(survey.galaxy(config.field, config.survey)) if elsewhere else None
    if own is None:
        if of_survey is None:
            raise InputError(
                f"field {config.field} is not in the survey and nothing says where it is; give its centre "
                "(option survey.centre: RA,Dec in degrees), a tile table (survey.tile_table) or stamps.centre"
            )
        return _tenths(of_survey)
    if of_survey is not None and sky.separation(own, of_survey) < survey.NEAR:
        return _tenths(of_survey)
    return (config.survey.centre[0], config.survey.centre[1]) if config.survey.centre else _tenths(own)


def _mean(positions: list[tuple[float, float]]) -> tuple[float, float] | None:
    return sky.mean_position(*np.array(positions).T) if positions else None


def _tenths(position: tuple[float, float]) -> tuple[float, float]:
    return round(position[0], 1) % 360.0, round(position[1], 1)


@dataclass(frozen=True, eq=False)
class BinnedMap:
    """One detector on the grid: for each cell what its good pixels say; arrays of shape (ny, nx).

    For the cell x, y of the grid ``u, v = to_detector @ (x, y, 1)``; u along NAXIS1 and v along NAXIS2 run from -1 to 1 over the
    detector and are 0 in its middle. A pixel there has ``area * (1 + area_terms @ (u, v, u**2, u * v, v**2))`` square arcsec.
    """

    root: str  # of the exposure
    extname: str
    x0: int  # cell of the grid that mean[0, 0] is
    y0: int
    mean: np.ndarray  # float32: surface brightness of the good pixels, counts28 per square arcsec, less level; NaN without any
    std: np.ndarray  # float32: standard deviation of these pixels (divided by their number), same unit; NaN without any
    count: np.ndarray  # uint16: good pixels whose centre lies in the cell
    level: float  # the detector's own sky, counts28 per native pixel, subtracted from each pixel before averaging
    area: float  # of the detector's central pixel in square arcsec
    to_detector: np.ndarray  # float64 (2, 3)
    area_terms: np.ndarray = field(default_factory=lambda: np.zeros(5))  # float64 (5,)


def bin_detector(
    pixels: np.ndarray,
    bad: np.ndarray | None,
    wcs: WCS,
    grid: BinnedGrid,
    scale: float,
    level_adu: float,
    root: str,
    extname: str,
    saturated: float = math.inf,
    surface_brightness: bool = False,
) -> BinnedMap:
    """Average a detector onto the grid.

    Parameters
    ----------
    pixels : `~numpy.ndarray`
        float32 (NAXIS2, NAXIS1) in ADU.
    bad : `~numpy.ndarray` or None
        bool, same shape: pixels to leave out. NaN and infinite pixels are always left out.
    wcs : `~astropy.wcs.WCS`
        Of the detector; see `kred_core.sky.celestial_wcs`.
    grid : BinnedGrid
    scale : float
        counts28 per ADU.
    level_adu : float
        The detector's sky level, the same for all pixels, that is subtracted from each.
    root, extname : str
        Exposure and detector.
    saturated : float
        Pixels of this value in ADU and above are left out, and those as far below zero: only damaged bytes give such.
    surface_brightness : bool
        The pixels hold surface brightness already: they are not divided by their areas, and the area of the map is 1.

    Returns
    -------
    BinnedMap
        Its arrays reach from the first to the last cell with a good pixel.

    Raises
    ------
    ExposureError
        No good pixel lies on the grid, or too many lie in one cell. The message is a sentence about "it", to which the
        caller adds the detector.

    Notes
    -----
    A cell holds the mean of (pixel x scale - level)/A over the good pixels whose centre lies in it, where A is the pixel's own
    solid angle: DECam's pixels differ by 1.6 % in area, and a surface brightness must not. Places and areas are interpolated
    between control points 64 pixels apart: for DECam right to 2e-4 arcsec and 1e-6. Sums are in float64, of values without the
    level, so that rounding does not show.
    """
    if bad is not None and bad.shape != pixels.shape:
        raise ValueError(f"{root} {extname}: a mask of {bad.shape} pixels does not fit an image of {pixels.shape}")
    pixels = np.ascontiguousarray(pixels, np.float32)
    bad = np.zeros((1, 1), np.bool_) if bad is None else np.ascontiguousarray(bad, np.bool_)
    ny, nx = pixels.shape
    u, v = sky.control_grid(wcs, grid.wcs, 0, 0, nx, ny, STEP)
    at_x, at_y = (STEP * np.arange(n, dtype=np.float64) for n in reversed(u.shape))
    area = sky.pixel_area_arcsec2(wcs, at_x[None, :], at_y[:, None])
    central_area = float(sky.pixel_area_arcsec2(wcs, (nx - 1) / 2, (ny - 1) / 2))
    if surface_brightness:
        area, central_area = np.where(area > 0, 1.0, area), 1.0
    farthest = math.tan(math.radians(FARTHEST)) * math.degrees(3600) / grid.cell  # cells from the tangent point
    usable = np.isfinite(u) & np.isfinite(v) & (area > 0) & (np.hypot(u, v) < farthest)
    if not usable.any():
        raise ExposureError(
            f"it does not lie within {FARTHEST:g} deg of RA {grid.ra:g}, Dec {grid.dec:g}, the middle of the grid of "
            "binned maps, or its WCS cannot be used; give another middle with --stamps.centre"
        )
    u, v = np.where(usable, u, np.nan), np.where(usable, v, np.nan)
    x0, y0 = math.floor(np.nanmin(u) + 0.5), math.floor(np.nanmin(v) + 0.5)
    # One more than is needed: interpolation between two points of the same value may end a rounding error above it.
    shape = math.floor(np.nanmax(v) + 0.5) - y0 + 2, math.floor(np.nanmax(u) + 0.5) - x0 + 2
    if math.prod(shape) > CELLS_PER_PIXEL * pixels.size + MANY_CELLS:
        raise ExposureError(
            f"its {pixels.size} pixels would be spread over {math.prod(shape)} cells of {grid.cell:g} arcsec; "
            "is its WCS right? Large pixels need a larger --stamps.cell-size"
        )
    sums, squares, counts = np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int32)
    places = u - (x0 - 0.5), v - (y0 - 0.5)
    _accumulate(pixels, bad, np.float32(saturated), *places, 1 / area, float(scale), float(level_adu), sums, squares, counts)
    most = int(counts.max())
    if most == 0:
        raise ExposureError("none of its good pixels lies on the grid of binned maps")
    if most > LARGEST_COUNT:
        raise ExposureError(
            f"a cell of the binned map holds {most} pixels, at most {LARGEST_COUNT} fit; make --stamps.cell-size smaller"
        )
    seen = counts > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    n = np.where(counts[part] > 0, counts[part], np.nan)
    with np.errstate(over="ignore"):
        mean = (sums[part] / n).astype(np.float32)
        std = np.sqrt(np.maximum(squares[part] / n - (sums[part] / n) ** 2, 0.0)).astype(np.float32)
    told = np.isfinite(mean) & np.isfinite(std)  # damaged pixels can be beyond what float32 holds: their cells have no data
    if not told.any():
        raise ExposureError("its pixels are no counts that a detector can have")
    along_x, along_y = np.meshgrid((at_x - (nx - 1) / 2) / (nx / 2), (at_y - (ny - 1) / 2) / (ny / 2))
    return BinnedMap(
        root=root,
        extname=extname,
        x0=int(x0 + columns[0]),
        y0=int(y0 + rows[0]),
        mean=np.where(told, mean, np.float32(np.nan)),
        std=np.where(told, std, np.float32(np.nan)),
        count=np.where(told, counts[part], 0).astype(np.uint16),
        level=float(level_adu) * float(scale),
        area=central_area,
        to_detector=_to_detector(u, v, along_x, along_y),
        area_terms=_area_terms(area / central_area, along_x, along_y),
    )


def _area_terms(relative: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Least-squares terms of the area (`BinnedMap.area_terms`) through the control points; for DECam right to 1e-5."""
    known = np.isfinite(relative)
    terms = np.stack([u, v, u**2, u * v, v**2], axis=-1)[known]
    return np.linalg.lstsq(terms, relative[known] - 1.0, rcond=None)[0]


def _to_detector(u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares affine map from cells u, v to detector coordinates x, y, through the control points."""
    used = np.isfinite(u) & np.isfinite(v)
    (p, q), goals = (u[used], v[used]), (x[used], y[used])
    p_mean, q_mean = p.mean(), q.mean()
    p, q = p - p_mean, q - q_mean
    pp, pq, qq = (p * p).sum(), (p * q).sum(), (q * q).sum()
    determinant = pp * qq - pq * pq
    rows = []
    for goal in goals:
        gp, gq, mean = (p * goal).sum(), (q * goal).sum(), goal.mean()
        a, b = ((gp * qq - gq * pq) / determinant, (gq * pp - gp * pq) / determinant) if determinant > 0 else (0.0, 0.0)
        rows.append([a, b, mean - a * p_mean - b * q_mean])
    return np.array(rows)


@nb.njit(nogil=True, cache=True)
def _accumulate(pixels, bad, saturated, u, v, inverse_area, scale, level, sums, squares, counts):
    """Add each good pixel to its cell; u and v are places in cells from the outer edge of the first one, at control points.

    Values and cells of a stretch of pixels come first, in loops without branches that the compiler vectorises; then
    each run of pixels with one cell is summed up before the cell is touched. Both halve the time.
    """
    ny, nx = pixels.shape
    masked = bad.shape[0] == ny and bad.shape[1] == nx
    offset = level * scale
    width = sums.shape[1]
    all_sums, all_squares, all_counts = sums.ravel(), squares.ravel(), counts.ravel()
    cell, good = np.empty(STEP, np.int64), np.empty(STEP, np.int32)
    value, square = np.empty(STEP, np.float64), np.empty(STEP, np.float64)
    for y in range(ny):
        j = y // STEP
        f = (y - j * STEP) / STEP
        g = 1.0 - f
        for i in range((nx - 1) // STEP + 1):
            at_u, at_v = g * u[j, i] + f * u[j + 1, i], g * v[j, i] + f * v[j + 1, i]
            to_u, to_v = g * u[j, i + 1] + f * u[j + 1, i + 1], g * v[j, i + 1] + f * v[j + 1, i + 1]
            if not math.isfinite(at_u + at_v + to_u + to_v):
                continue
            at_a = g * inverse_area[j, i] + f * inverse_area[j + 1, i]
            to_a = g * inverse_area[j, i + 1] + f * inverse_area[j + 1, i + 1]
            step_u, step_v, step_a = (to_u - at_u) / STEP, (to_v - at_v) / STEP, (to_a - at_a) / STEP
            n = min(STEP, nx - i * STEP)
            part = pixels[y, i * STEP : i * STEP + n]
            for k in range(n):
                cell[k] = np.int32(at_v + k * step_v) * width + np.int32(at_u + k * step_u)
                known = abs(part[k]) < saturated
                x = (part[k] * scale - offset) * (at_a + k * step_a)
                x = x if known else 0.0
                value[k], square[k], good[k] = x, x * x, known
            if masked:
                flagged = bad[y, i * STEP : i * STEP + n]
                for k in range(n):
                    value[k] = 0.0 if flagged[k] else value[k]
                    square[k] = 0.0 if flagged[k] else square[k]
                    good[k] = 0 if flagged[k] else good[k]
            k = 0
            while k < n:
                here = cell[k]
                s, q, m = 0.0, 0.0, 0
                while k < n and cell[k] == here:
                    s += value[k]
                    q += square[k]
                    m += good[k]
                    k += 1
                all_sums[here] += s
                all_squares[here] += q
                all_counts[here] += m


def saturation(header: fits.Header) -> float:
    """Return the level in ADU from which pixels are saturated; infinite where a header gives none.

    It is the lowest of SATURATE, and of SATURATA and SATURATB of the two amplifiers. Absurd levels are none.
    """
    levels = [level for level in (number(header, key) for key in SATURATION) if level is not None and 0 < level < LARGEST_LEVEL]
    return min(levels, default=math.inf)
