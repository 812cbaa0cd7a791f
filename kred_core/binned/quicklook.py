"""Quick look: a mosaic at the resolution of the binned maps, before and after matching, long before any co-add.

The binned maps lie on one grid already, so a mosaic is the median of what they say about each cell: seconds for a tile, half a
minute for a field. No pixel is opened or resampled; it is for looking at, and for counting seams, not for photometry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numba as nb
import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike

from .. import __version__
from ..background import Background, variation
from ..constants import NORMAL_MAD, ZERO_POINT
from ..errors import InputError
from ..evaluation import ReducedImage, block_jump, explained
from ..fits.checksum import Cards, hdu_bytes
from ..fits.compress import quantised_image
from ..fits.hdu import scan
from ..fits.pixels import read_pixels
from ..products import atomic
from ..sky import Grid, celestial_wcs, tan_header
from ..statistics import block_medians, sorting_networks
from ..survey import Tile
from .average import BinnedGrid, BinnedMap

__all__ = ["QuickLook", "cut", "jumps", "quick_look", "read", "reduced", "write"]

COVERAGE = "COVERAGE"  # what no version can be called
USUAL_PART = 0.5  # of a detector's usual number of pixels in a cell: with fewer, a star or an edge weighs too much
STRIP_ROWS = 16  # rows of cells that are combined at a time
BLOCK = 256  # cells that are sorted together
LARGEST = 30000  # cells along a side; a field has 4000, so something is wrong with a position beyond
NOISE_STEPS = 8  # steps of the stored values in the noise of a cell, at least
SEAM_BLOCK = 8  # cells
DITHER = 1  # seed of the subtractive dither, always the same: the same values give the same bytes
_variation = nb.njit(variation)


@dataclass(frozen=True, eq=False)
class QuickLook:
    """A rectangle of the grid of binned maps, in one or several versions; arrays of shape (ny, nx)."""

    x0: int  # cell of the grid that element [0, 0] of the arrays is
    y0: int
    images: dict[str, np.ndarray]  # float32, by version, such as before and after: counts28 per native pixel; NaN without data
    coverage: np.ndarray  # int16: detectors of which a cell is the median
    pixel_area: float  # of the native pixel that the values are for, square arcsec

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.coverage.shape


@dataclass(frozen=True)
class _Layer:
    """What is kept of a binned map while its rows are due."""

    x0: int
    y0: int
    mean: np.ndarray
    poor: np.ndarray  # cells with few pixels
    to_detector: np.ndarray
    planes: np.ndarray  # (versions, 4)


def quick_look(
    boxes: ArrayLike, load: Callable[[int], BinnedMap], subtract: Mapping[str, ArrayLike | Background], pixel_area: float
) -> QuickLook:
    """Return the median of all binned maps in each cell, for several sets of backgrounds at once.

    Parameters
    ----------
    boxes : array_like
        int (n, 4): x0, y0, nx, ny of each binned map in cells of the grid. Those of no size are passed over. The quick look is
        the smallest rectangle that holds all of them.
    load : callable
        Gives binned map number 0 .. n - 1; called once for each.
    subtract : mapping of str to array_like or `~kred_core.background.Background`
        For each version of the mosaic (its name in lower case letters, digits and _) what is subtracted from the maps' means,
        in counts28 per square arcsec: shape (n,), a constant for each detector; or their backgrounds, with x and y in half
        sides (see `BinnedMap.to_detector`).
    pixel_area : float
        Solid angle in square arcsec of a native pixel, which the values are given for: people know counts28 per native pixel.

    Raises
    ------
    InputError
        There is none, they are absurdly far apart, one is not what its box says, or a background is not finite.

    Notes
    -----
    A cell in which a detector has less than half of its usual (median) number of good pixels counts only where no detector has
    more: at the edges of detectors and around masked stars such cells tell little about the sky. Of an even number of values
    the median is the mean of the two in the middle. The result does not depend on the order of the binned maps, to the bit.

    Memory: the mosaic (4 bytes for each cell and version and 2 for the coverage), and 5 bytes for each cell of those
    binned maps that reach the present 16 rows: a binned map is loaded for its first row and forgotten after its last.
    """
    boxes = np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
    planes = np.stack([_planes(name, values, len(boxes)) for name, values in subtract.items()])
    x0, y0, nx, ny = _extent(boxes)
    coverage = np.empty((ny, nx), np.int16)
    images = np.empty((len(planes), ny, nx), np.float32)
    some = np.flatnonzero((boxes[:, 2:] > 0).all(axis=1))
    waiting = list(some[np.argsort(boxes[some, 1], kind="stable")])[::-1]
    strips = list(_strips(boxes[some], y0, ny))
    deepest = max(depth for _, _, depth in strips)
    networks = sorting_networks(deepest)
    values = np.empty((len(planes), deepest, min(STRIP_ROWS, ny), nx), np.float32)
    layers: list[_Layer] = []
    for first, last, depth in strips:
        while waiting and boxes[waiting[-1], 1] < last:
            number = waiting.pop()
            layers.append(_layer(load(number), boxes[number], planes[:, number]))
        n_good, n_poor = np.zeros((2, last - first, nx), np.int16)
        here = values[:, :depth]
        for layer in layers:
            low, high = max(first, layer.y0), min(last, layer.y0 + len(layer.mean))
            rows = slice(low - layer.y0, high - layer.y0)
            place = np.array([layer.x0 - x0, low - first, layer.x0, low])
            _add(layer.mean[rows], layer.poor[rows], place, layer.planes, layer.to_detector, pixel_area, here, n_good, n_poor)
        out = slice(first - y0, last - y0)
        _medians(here, n_good, n_poor, *networks, images[:, out], coverage[out])
        layers = [layer for layer in layers if layer.y0 + len(layer.mean) > last]
    return QuickLook(x0, y0, dict(zip(subtract, images, strict=True)), coverage, float(pixel_area))


def _planes(name: str, values: ArrayLike | Background, n: int) -> np.ndarray:
    """The terms of the background of each detector in one version."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or name.upper() == COVERAGE:
        raise InputError(f"quick look: '{name}' cannot name a version; expected lower case letters, such as before and after")
    values = values if isinstance(values, Background) else Background(np.asarray(values, dtype=np.float64))
    planes = values.coefficients()
    if np.shape(values.b) != (n,):
        raise InputError(f"quick look: the backgrounds '{name}' have the shape {np.shape(values.b)}, expected {(n,)}")
    wrong = np.flatnonzero(~np.isfinite(planes).all(axis=1))
    if wrong.size:
        raise InputError(f"quick look: background '{name}' of {wrong.size} detectors is not finite, the first is number {wrong[0]}")
    return planes


def _extent(boxes: np.ndarray) -> tuple[int, int, int, int]:
    """Smallest box that holds all others."""
    some = boxes[(boxes[:, 2:] > 0).all(axis=1)]
    if not len(some):
        raise InputError("quick look: there is no binned map to look at; run the stage 'summarize' first (--from summarize)")
    low, high = some[:, :2].min(axis=0), (some[:, :2] + some[:, 2:]).max(axis=0)
    if (high - low).max() > LARGEST:
        raise InputError(
            f"quick look: the binned maps spread over {' x '.join(map(str, high - low))} cells, expected at most {LARGEST} each "
            "way; one of the exposures has a wrong position, or belongs to another field"
        )
    (x0, y0), (nx, ny) = low.tolist(), (high - low).tolist()
    return x0, y0, nx, ny


def _strips(boxes: np.ndarray, y0: int, ny: int) -> Iterator[tuple[int, int, int]]:
    """First row, end and largest number of boxes one above the other of the strips in which the mosaic is made."""
    left = boxes[:, 0].min()
    for first in range(y0, y0 + ny, STRIP_ROWS):
        last = min(first + STRIP_ROWS, y0 + ny)
        there = boxes[(boxes[:, 1] < last) & (boxes[:, 1] + boxes[:, 3] > first)]
        steps = np.zeros((boxes[:, 0] + boxes[:, 2]).max() - left + 1, np.int64)
        np.add.at(steps, there[:, 0] - left, 1)
        np.add.at(steps, there[:, 0] + there[:, 2] - left, -1)
        yield first, last, int(np.cumsum(steps).max())


def _layer(binned_map: BinnedMap, box: np.ndarray, planes: np.ndarray) -> _Layer:
    found = (binned_map.x0, binned_map.y0, *binned_map.mean.shape[::-1])
    if found != tuple(box):
        raise InputError(
            f"binned map of {binned_map.root} {binned_map.extname}: expected x0, y0, nx, ny = {', '.join(map(str, box))}, "
            f"found {', '.join(map(str, found))}; its file has changed meanwhile, run the stage 'match' again"
        )
    known = binned_map.count[binned_map.count > 0]
    usual = np.median(known) if known.size else 0
    # Copies, so that nothing else of the binned map stays in memory.
    mean = np.array(binned_map.mean, np.float32, order="C")
    to_detector = np.ascontiguousarray(binned_map.to_detector, dtype=np.float64)
    return _Layer(
        binned_map.x0, binned_map.y0, mean, binned_map.count < USUAL_PART * usual, to_detector, np.ascontiguousarray(planes)
    )


@nb.njit(nogil=True, cache=True)
def _add(mean, poor, place, planes, to_detector, area, values, n_good, n_poor):
    """Add some rows of a binned map to the lists of values of the cells: good ones from the front, poor ones from the end.

    ``place``: column and row of mean[0, 0] in the strip, then x and y of the same cell on the grid.
    """
    depth = values.shape[1]
    bent = np.any(planes[:, 1:] != 0)
    u = v = 0.0
    for j in range(mean.shape[0]):
        y = place[1] + j
        for i in range(mean.shape[1]):
            if not np.isfinite(mean[j, i]):
                continue
            x = place[0] + i
            if poor[j, i]:
                n_poor[y, x] += 1
                k = depth - n_poor[y, x]
            else:
                k = np.int64(n_good[y, x])
                n_good[y, x] += 1
            if bent:
                u = to_detector[0, 0] * (place[2] + i) + to_detector[0, 1] * (place[3] + j) + to_detector[0, 2]
                v = to_detector[1, 0] * (place[2] + i) + to_detector[1, 1] * (place[3] + j) + to_detector[1, 2]
            for version in range(planes.shape[0]):
                back = planes[version, 0]
                if bent:
                    back += _variation(planes[version, 1], planes[version, 2], planes[version, 3], u, v)
                values[version, k, y, x] = area * (mean[j, i] - back)


@nb.njit(nogil=True, cache=True)
def _medians(values, n_good, n_poor, pairs, starts, images, coverage):
    """Medians of the lists of values; many cells go through the same comparisons, so that vector units can be used."""
    n_versions, depth = values.shape[:2]
    rows, columns = coverage.shape
    ordered = np.empty((depth, BLOCK), np.float32)
    counts = np.zeros(BLOCK, np.int64)
    for y in range(rows):
        for first in range(0, columns, BLOCK):
            width = min(BLOCK, columns - first)
            most = 0
            for x in range(width):
                good, poor = n_good[y, first + x], n_poor[y, first + x]
                counts[x] = good if good > 0 else poor
                most = max(most, counts[x])
                coverage[y, first + x] = counts[x]
            for version in range(n_versions):
                for k in range(most):
                    for x in range(width):
                        ordered[k, x] = values[version, k, y, first + x] if k < counts[x] else np.float32(np.inf)
                for x in range(width):
                    if n_good[y, first + x] == 0:
                        for k in range(counts[x]):
                            ordered[k, x] = values[version, depth - 1 - k, y, first + x]
                for pair in range(starts[most], starts[most + 1]):
                    lower, upper = ordered[pairs[pair, 0]], ordered[pairs[pair, 1]]
                    for x in range(width):
                        a, b = lower[x], upper[x]
                        lower[x] = a if a < b else b
                        upper[x] = b if a < b else a
                for x in range(width):
                    n = counts[x]
                    middle = np.float32(np.nan)
                    if n > 0:
                        middle = np.float32(0.5) * (ordered[(n - 1) // 2, x] + ordered[n // 2, x])
                    images[version, y, first + x] = middle


def cut(look: QuickLook, grid: BinnedGrid, tile: Tile) -> QuickLook:
    """Return the part of a quick look that covers a tile.

    It is the smallest rectangle of the grid that holds the square of the tile, NaN where the look does not reach. The grid's
    north is the tile's only where both have the same RA, so it is somewhat larger than the square.
    """
    corners = grid.wcs.wcs_world2pix(tile.corners, 0)  # great circles are straight lines on both tangent planes
    if not np.isfinite(corners).all():
        where = f"{grid.ra:.4f}, {grid.dec:.4f}"
        raise InputError(
            f"tile {tile.name} of field {tile.field} does not lie on the grid of the binned maps around RA, Dec {where}"
        )
    low = np.floor(corners.min(axis=0) + 0.5).astype(int)
    nx, ny = np.floor(corners.max(axis=0) + 0.5).astype(int) + 1 - low
    from_look, from_cut = [], []
    for start, size, old_start, old_size in ((low[1], ny, look.y0, look.shape[0]), (low[0], nx, look.x0, look.shape[1])):
        first = max(start, old_start)
        last = max(first, min(start + size, old_start + old_size))
        from_look.append(slice(first - old_start, last - old_start))
        from_cut.append(slice(first - start, last - start))
    coverage = np.zeros((ny, nx), np.int16)
    coverage[tuple(from_cut)] = look.coverage[tuple(from_look)]
    images = {name: np.full((ny, nx), np.nan, np.float32) for name in look.images}
    for name, image in images.items():
        image[tuple(from_cut)] = look.images[name][tuple(from_look)]
    return QuickLook(int(low[0]), int(low[1]), images, coverage, look.pixel_area)


def jumps(look: QuickLook) -> tuple[float | None, float | None, float | None]:
    """Return how large the steps between neighbouring blocks are: before, after, and in the difference: the removed seams.

    They are `~kred_core.evaluation.block_jump` in counts28 per native pixel, with blocks of 8 x 8 cells: with cells of 2 arcsec as
    large as those of 64 pixels that mosaics are judged by. Structure of the sky counts too, but it is the same before and after.
    None where there are no two blocks side by side.
    """
    before, after = look.images["before"], look.images["after"]
    jumps = [block_jump(block_medians(image, SEAM_BLOCK)) for image in (before, after, before - after)]
    return jumps[0], jumps[1], jumps[2]


def reduced(look: QuickLook, grid: BinnedGrid, name: str, figure_pixels: int) -> ReducedImage:
    """Return the version ``name`` for a figure, averaged over blocks of cells to at most ``figure_pixels`` along a side."""
    wcs = celestial_wcs(_wcs_cards(look, grid))
    wcs.array_shape = look.shape
    whole = ReducedImage(look.images[name], look.coverage.astype(np.float32), wcs, 1)
    return whole.shrink(-(-max(look.shape) // figure_pixels))


def _wcs_cards(look: QuickLook, grid: BinnedGrid) -> fits.Header:
    header = tan_header(Grid(grid.ra, grid.dec, grid.cell, look.shape[1], look.shape[0]))
    header["CRPIX1"] = (1.0 - look.x0, "[pix] Reference pixel, the grid's tangent point")
    header["CRPIX2"] = (1.0 - look.y0, "[pix] Reference pixel, the grid's tangent point")
    return header


def write(path: Path, look: QuickLook, grid: BinnedGrid, field: str, image: str, tile: str = "", configuration: str = "") -> None:
    """Write a quick look as a tile-compressed FITS file: one extension for each version, and COVERAGE.

    It appears only when it is whole. For the header are what it shows, with tile '' the whole field, and the digest of the
    configuration that it depends on.

    Notes
    -----
    The values are quantised in steps (keyword QSTEP, a power of two) of at most 1/8 of the noise of a cell, with a subtractive
    dither, which adds less than 0.1 % to the noise and nothing to means. Noise: 1.4826/sqrt(2) times the median absolute
    difference of neighbours in a row, in every 8th row; stars do not move it. Without noise the steps are as fine as float32
    is. The coverage is exact, NaN stay NaN. The same quick look gives the same bytes, with checksums.
    """
    step = _step(look)
    subject: Cards = {"OBJECT": ("_".join(filter(None, (field, tile))), "Field and tile"), "FIELD": (field, "")}
    if tile:
        subject["TILE"] = (tile, "")
    subject["IMAGE"] = (image, "Image group: these exposures belong together")
    wcs = _wcs_cards(look, grid)
    place: Cards = {key: (wcs[key], wcs.comments[key]) for key in wcs}
    place["CELL"] = (float(grid.cell), "[arcsec] A cell holds value*CELL**2/PIXAREA")
    place["KREDVER"] = (__version__, "Version of kred that made this file")
    place["KREDCONF"] = (configuration, "Digest of what this depends on")
    primary: Cards = {"SIMPLE": (True, "FITS standard"), "BITPIX": (8, ""), "NAXIS": (0, ""), "EXTEND": (True, "")}
    parts = [*hdu_bytes({**primary, **subject})]
    for name, values in look.images.items():
        facts: Cards = {
            "EXTNAME": (name.upper(), "Version"),
            **subject,
            "BUNIT": ("count", "counts28 per native pixel, see PIXAREA"),
            "MAGZERO": (ZERO_POINT, "[mag] Magnitude zero point"),
            "PIXAREA": (float(look.pixel_area), "[arcsec2] Native pixel that the values are for"),
            "COMBINE": ("median", "How the detectors of a cell were combined"),
            "QSTEP": (step, "Step of the stored values"),
        }
        parts += quantised_image({**facts, **place}, values, step, DITHER)
    facts = {"EXTNAME": (COVERAGE, ""), **subject, "BUNIT": ("", "Number of detectors in each cell")}
    parts += quantised_image({**facts, **place}, look.coverage.astype(np.float32), 1.0)
    with atomic(path, keep_same=True) as temporary:
        temporary.write_bytes(b"".join(parts))


def _step(look: QuickLook) -> float:
    """Step of the stored values: a power of two, at most 1/8 of the noise, and not too small to be counted."""
    noise, largest = [], 0.0
    for image in look.images.values():
        jumps = np.abs(np.diff(image[::8], axis=1))
        jumps = jumps[np.isfinite(jumps)]
        noise += [NORMAL_MAD / np.sqrt(2) * float(np.median(jumps))] if jumps.size else []
        largest = max(largest, float(np.nanmax(np.abs(image), initial=0.0)))
    finest = 2.0 ** (math.ceil(math.log2(largest or 1.0)) - 23)
    wanted = min(noise, default=0.0) / NOISE_STEPS
    return max(finest, 2.0 ** math.floor(math.log2(wanted))) if wanted > 0 else finest


def read(path: Path) -> tuple[BinnedGrid, QuickLook]:
    """Read what `write` wrote; `InputError` where the file is missing or not of this kind."""
    with explained(path, "match"):
        path.stat()
        found = {hdu.extname: hdu for hdu in scan(path)[1:]}
        coverage = read_pixels(found.pop(COVERAGE), np.int16)
        images = {name.lower(): read_pixels(hdu) for name, hdu in found.items()}
        header = next(iter(found.values())).header
        x0, y0 = (round(1 - header[f"CRPIX{axis}"]) for axis in (1, 2))
        grid = BinnedGrid(float(header["CRVAL1"]), float(header["CRVAL2"]), float(header["CELL"]))
        return grid, QuickLook(x0, y0, images, coverage, float(header["PIXAREA"]))
