"""Which cells of a binned map can be compared with another: well filled, and without a bright star.

Separate because it judges one detector at a time, before it is known what that
is compared with. Everything is relative to the binned map itself, so that neither
the unit nor the brightness of the sky matters.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from ..binned import BinnedMap
from ..statistics import kernels

__all__ = ["good_cells"]

FILLED = 0.5  # of the usual number of pixels
BLOCK = 16  # cells; the scatter within cells is compared with its median over 3 x 3 blocks of this side
FEWEST_IN_BLOCK = 0.25  # of a block's cells, for a median of its own
STAR = 3.0  # of the noise's standard deviations; stars that stay have no effect on the mode that can be measured
FEWEST_SHARE, FEWEST_CELLS = 0.5, 10000  # a mask that leaves fewer than this share and this number is relaxed
BELOW_ONE_SIGMA = 0.15865525393145707


def good_cells(binned_map: BinnedMap) -> np.ndarray:
    """Cells (ny, nx) of a binned map that show the sky: filled by good pixels, finite, and without a bright star.

    Notes
    -----
    A cell is filled if it has at least half of the usual number of good pixels, which is the median of the cells that
    have any. Stars show in the scatter of the pixels within a cell: it is divided by its median over some 48 cells
    each way, so that a nebula, which is bright but smooth, stays. A cell is starry if this ratio is above its median
    by more than 3 standard deviations, these taken from the ratios below the median, where no star is. Cells
    next to a starry one are left out too.

    In crowded fields few clean cells are worth more than many others: with 5e5 stars per square degree down to 22 mag
    the 15 % of clean cells give a difference twice as good as the 38 % left by a limit four times as high, and nine times
    as good as all of them. The limit is doubled (again and again) only if fewer than half of the filled
    cells and fewer than 10 000 of them would remain.
    """
    finite = np.isfinite(binned_map.mean) & np.isfinite(binned_map.std)
    usual = _median(binned_map.count[binned_map.count > 0])
    filled = finite & (binned_map.count > 0) & (binned_map.count >= FILLED * usual)
    n_filled = np.count_nonzero(filled)
    if n_filled == 0:
        return filled
    reference = _usual_scatter(binned_map.std, filled)
    limit, step = _limits(binned_map.std[filled], reference[filled])
    enough = min(FEWEST_SHARE * n_filled, FEWEST_CELLS)
    while True:
        good = filled & ~_grown(filled & (binned_map.std > reference * limit))
        # Without a step (no noise at all) a higher limit changes nothing.
        if np.count_nonzero(good) >= enough:
            return good
        if not step > 0 or not math.isfinite(limit):
            return filled
        step *= 2
        limit += step


def _limits(scatter: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Largest ratio of a cell's scatter to the usual one without a star, and how far above the median that is."""
    some = reference > 0
    ratio = np.sort(scatter[some] / reference[some])
    if ratio.size == 0:
        return 1.0, 0.0
    middle = kernels.median(ratio)
    step = STAR * (middle - float(ratio[int(BELOW_ONE_SIGMA * ratio.size)]))
    return middle + step, step


def _median(values: np.ndarray) -> float:
    """By sorting, which numpy does faster than selecting; 0 without values."""
    return kernels.median(np.sort(values)) if values.size else 0.0


def _usual_scatter(std: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Median scatter around each cell, float32 (ny, nx)."""
    medians = _block_medians(std, filled)
    medians[np.isnan(medians)] = _median(std[filled])
    ny, nx = std.shape
    return np.repeat(np.repeat(_smoothed(medians), BLOCK, axis=0)[:ny], BLOCK, axis=1)[:, :nx]


@nb.njit(nogil=True, cache=True)
def _block_medians(std, filled):
    """Median of the filled cells of each block; NaN where these are few."""
    ny, nx = std.shape
    medians = np.full((-(-ny // BLOCK), -(-nx // BLOCK)), np.float32(np.nan))
    values = np.empty(BLOCK * BLOCK, np.float32)
    for j in range(medians.shape[0]):
        for i in range(medians.shape[1]):
            n = 0
            for y in range(j * BLOCK, min(ny, (j + 1) * BLOCK)):
                for x in range(i * BLOCK, min(nx, (i + 1) * BLOCK)):
                    if filled[y, x]:
                        values[n] = std[y, x]
                        n += 1
            if n >= FEWEST_IN_BLOCK * BLOCK * BLOCK:
                medians[j, i] = np.median(values[:n])
    return medians


@nb.njit(nogil=True, cache=True)
def _smoothed(medians):
    """Median of each block and its neighbours."""
    ny, nx = medians.shape
    smoothed = np.empty_like(medians)
    for j in range(ny):
        for i in range(nx):
            smoothed[j, i] = np.median(medians[max(0, j - 1) : j + 2, max(0, i - 1) : i + 2].copy())
    return smoothed


@nb.njit(nogil=True, cache=True)
def _grown(starry):
    """Starry cells and all that touch one."""
    ny, nx = starry.shape
    grown = np.zeros((ny, nx), np.bool_)
    for y in range(ny):
        for x in range(nx):
            if starry[y, x]:
                for b in range(max(0, y - 1), min(ny, y + 2)):
                    for a in range(max(0, x - 1), min(nx, x + 2)):
                        grown[b, a] = True
    return grown
