"""What is co-added into the mosaics of one image of a tile: which detectors, with which factors and backgrounds, on which grid.

Both engines take the same `CoaddPlan` and open its inputs here, so they agree on what is covered, on the scaling of fluxes and on
what a header reports, and can be compared pixel by pixel. One plan makes the mosaic with the exposures' own backgrounds, that
with the matched ones, or both from the same resampled pixels. No pixel is decoded.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from types import MappingProxyType

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from ..background import Background
from ..config import BackgroundKind, CoaddConfig
from ..errors import ExposureError, InputError
from ..exposures.exposure import Detector, Exposure
from ..sky import Grid, celestial_wcs, control_grid, pixel_area_arcsec2, tan_wcs, to_sky
from ..words import counted

__all__ = [
    "Box",
    "CoaddInput",
    "CoaddPlan",
    "PixelMap",
    "Source",
    "flux_scale",
    "grid_box",
    "make_grid",
    "make_plan",
    "open_sources",
    "overlapping",
    "pixel_map",
    "sampling_grid",
]

INCONSEQUENTIAL = {"mosaics", "memory", "swarp_timeout"}  # options that change no byte of any one mosaic
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the mosaic, from 0, ends excluded
OUTLINE_POINTS = 17  # on each side of a detector; between them a side of a DECam CCD departs from a straight line by 1e-3 pixel
STEP, SMALLEST_STEP = 16, 2  # pixels between the points of a control grid
MAP_ERROR = 5e-4  # pixel; DECam's TPV at a step of 16 pixels leaves 1.3e-4


@dataclass(frozen=True)
class CoaddInput:
    """One detector of a mosaic: counts28 per native pixel = raw * scale - background.

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
        Background of its exposure in counts28 per native pixel (SUB_BACK), for the mosaic "original".
    sky_noise : float
        Standard deviation of the sky in counts28 per native pixel, for the weighted mean.
    seeing : float
        FWHM of stars in arcsec, for the header; NaN: unknown.
    matched : Background or None
        For the mosaic "matched"; None: not known, for one that is not made or not yet.
    amplifier : str
        A or B, whose half of the columns is left out; empty: neither.
    """

    path: Path
    root: str
    extname: str
    exptime: float
    scale: float
    back: float
    sky_noise: float
    seeing: float = math.nan
    matched: Background | None = None
    amplifier: str = ""

    def background(self, which: BackgroundKind) -> Background:
        """Return what to subtract for one of the mosaics; the matched one is there where that mosaic is asked for."""
        found = self.matched if which == BackgroundKind.MATCHED else Background(self.back)
        if found is None:
            raise ValueError(f"{self.root}, {self.extname}: no matched background")
        return found


@dataclass(frozen=True)
class CoaddPlan:
    """The mosaics of one image of a tile in the making: which detectors, on which grid, with which backgrounds."""

    field: str
    tile: str
    image: str
    filter: str
    grid: Grid
    inputs: tuple[CoaddInput, ...]
    backgrounds: tuple[BackgroundKind, ...] = (BackgroundKind.ORIGINAL,)

    @property
    def n_pixels(self) -> int:
        """Pixels of all its mosaics."""
        return self.grid.nx * self.grid.ny * len(self.backgrounds)

    def digest(self, config: CoaddConfig, background: BackgroundKind) -> str:
        """Hexadecimal digest of all that one mosaic depends on except the files' contents; the same wherever the data root is.

        The same, too, whether the mosaic with the other background is made with it or not.
        """
        inputs = [vars(item) | {"background": vars(item.background(background))} for item in self.inputs]
        for entry in inputs:
            del entry["back"], entry["matched"]
        options = config.model_dump(mode="json", exclude=INCONSEQUENTIAL)
        options["size"] = round(self.grid.nx * self.grid.pixel_scale / 3600, 6)  # as it is, whether an option or the tile says so
        content = vars(self) | {"grid": vars(self.grid), "inputs": inputs, "backgrounds": background, "config": options}
        text = json.dumps(content, sort_keys=True, default=lambda path: path.name)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_grid(ra: float, dec: float, size: float, native_scale: float, config: CoaddConfig) -> Grid:
    """The grid of a mosaic around RA, Dec, all in degrees; a pixel scale of 0 is the native one, rounded up to 0.01 arcsec."""
    scale = config.pixel_scale or math.ceil(round(native_scale * 100, 4)) / 100
    n = max(1, round(size * 3600 / scale))
    return Grid(ra, dec, scale, n, n)


def make_plan(
    field: str,
    tile: str,
    image: str,
    detectors: Table,
    centre: tuple[float, float],
    size: float,
    path_of: Callable[[str, str], Path],
    config: CoaddConfig,
    matched: Sequence[Background] | None = None,
    amplifiers: Mapping[str, str] = MappingProxyType({}),
) -> CoaddPlan:
    """Plan the mosaics of one image of a tile from the rows of its table; the inputs are in the order of the rows.

    Parameters
    ----------
    detectors : `~astropy.table.Table`
        At least one row, all of this image (columns of `kred_core.products.tables.TILE`).
    centre : tuple of float
        RA, Dec of the centre of the mosaic in degrees.
    size : float
        Side of the mosaic in degrees.
    path_of : callable
        The MEF of (field, file name).
    matched : sequence of Background, optional
        Matched background of each row; without them a mosaic with matched backgrounds can be planned, but not made.
    amplifiers : mapping
        The amplifier that is left out of a detector, by EXTNAME in capitals.
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
            matched=background,
            amplifier=amplifiers.get(str(row["EXTNAME"]).upper(), ""),
        )
        for row, background in zip(detectors, matched or repeat(None, len(detectors)), strict=True)
    )
    filters = dict.fromkeys(str(f) for f in detectors["FILTER"])
    grid = make_grid(*centre, size, float(np.median(detectors["PixScale"])), config)
    return CoaddPlan(field, tile, image, " ".join(filters), grid, inputs, config.backgrounds)


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
