"""From binned maps to the median of all detectors in each cell, in strips of rows.

The arithmetic of the quick look; it knows neither files nor the sky.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import ArrayLike

from ...background import Background, variation
from ...errors import InputError
from ...statistics import sorting_networks
from .. import BinnedMap

__all__ = ["COVERAGE", "QuickLook", "quick_look"]

COVERAGE = "COVERAGE"  # what no version can be called
USUAL_PART = 0.5  # of a detector's usual number of pixels in a cell: with fewer, a star or an edge weighs too much
STRIP_ROWS = 16  # rows of cells that are combined at a time
BLOCK = 256  # cells that are sorted together
_variation = nb.njit(variation)
LARGEST = 30000  # cells along a side; a field has 4000, so something is wrong with a position beyond


@dataclass(frozen=True, eq=False)
class QuickLook:
    """A rectangle of the grid of binned maps, in one or several versions.

    Attributes
    ----------
    x0, y0 : int
        Cell of the grid that element [0, 0] of the arrays is.
    images : dict of str to `~numpy.ndarray`
        float32 (ny, nx) for each version, such as before and after: surface brightness times ``pixel_area``, that is counts28
        per native pixel; NaN without data.
    coverage : `~numpy.ndarray`
        int16 (ny, nx): detectors of which a cell is the median.
    pixel_area : float
        Solid angle of a native pixel in square arcsec that the values are for.
    """

    x0: int
    y0: int
    images: dict[str, np.ndarray]
    coverage: np.ndarray
    pixel_area: float

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
    """Median of all binned maps in each cell, for several sets of backgrounds at once.

    Parameters
    ----------
    boxes : array_like
        int (n, 4): x0, y0, nx, ny of each binned map in cells of the grid. Binned maps of no size are passed over.
    load : callable
        Gives binned map number 0 .. n - 1; called once for each.
    subtract : mapping of str to array_like or `~kred_core.background.Background`
        For each version of the mosaic what is subtracted from the binned maps' means, in counts28 per square arcsec: shape (n,), a
        constant for each detector; or their backgrounds, with x and y in half sides (see `BinnedMap.to_detector`).
        Names are lower case letters, digits and _.
    pixel_area : float
        Solid angle of a native pixel in square arcsec. The values are given for it, because counts28 per native pixel are what
        people know; they are surface brightnesses all the same.

    Returns
    -------
    `QuickLook`
        The smallest rectangle that holds all boxes.

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
    return (*(int(v) for v in low), *(int(v) for v in high - low))


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
