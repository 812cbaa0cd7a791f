"""Cells of binned maps: which show the sky, by how much two maps differ where they overlap, and the four parts of an overlap."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from ..binned import BinnedMap
from ..statistics import kernels
from .pairs import N_BLOCKS

__all__ = ["differences", "divide", "good_cells"]

FILLED = 0.5  # of the usual number of pixels
BLOCK = 16  # cells; the scatter within cells is compared with its median over 3 x 3 blocks of this side
FEWEST_IN_BLOCK = 0.25  # of a block's cells, for a median of its own
STAR = 3.0  # of the noise's standard deviations; stars that stay have no effect on the mode that can be measured
FEWEST_SHARE, FEWEST_CELLS = 0.5, 10000  # a mask that leaves fewer than this share and this number is relaxed
BELOW_ONE_SIGMA = 0.15865525393145707
LARGEST = 1e30  # of a difference; squares must fit into float64 and values into float32
STRIP = 2.0  # an overlap that is this many times as long as wide is cut across, others crosswise
N_BINS = 1024  # of the length of a strip, for cutting it


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
    some = binned_map.count > 0
    if not some.any():
        return some
    filled = finite & some & (binned_map.count >= FILLED * kernels.median(np.sort(binned_map.count[some])))
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


def _usual_scatter(std: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Median scatter around each cell, float32 (ny, nx)."""
    medians = _block_medians(std, filled)
    medians[np.isnan(medians)] = kernels.median(np.sort(std[filled]))
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


@nb.njit(nogil=True, cache=True)
def differences(first, second, first_level, second_level):
    """Second minus first where both have a cell: values (n,) float32, and columns and rows (n,) int32.

    The same cells (ny, nx) float32 of both, NaN where one is not to be used. The levels are subtracted in float64, so that
    float32 holds the difference without loss.
    """
    ny, nx = first.shape
    values = np.empty(ny * nx + 1, np.float32)
    x = np.empty(ny * nx + 1, np.int32)
    y = np.empty(ny * nx + 1, np.int32)
    n = 0
    for j in range(ny):
        for i in range(nx):
            d = (np.float64(second[j, i]) - second_level) - (np.float64(first[j, i]) - first_level)
            values[n] = d
            x[n] = i
            y[n] = j
            n += abs(d) < LARGEST
    return values[:n], x[:n], y[:n]


@nb.njit(nogil=True, cache=True)
def divide(values, x, y, first_map, second_map, by_amplifier=False):
    """Put the values of each part of an overlap, at least one as from `differences`, next to each other.

    The maps (2, 3) lead from columns and rows to u, v on the detectors: ``u, v = map @ (x, y, 1)``. By amplifier an overlap is cut
    where u = 0 on one of the detectors: a part is what one amplifier of each reads. Otherwise parts are compact and of nearly
    equal numbers: a strip is cut into four along its longer principal axis, other overlaps into left and right, and each of these
    into lower and upper. Returns the values (n,), of which part k is values[ends[k]:ends[k + 1]], the ends (5,), the mean u, v
    and sign(u) of each part on both detectors (4, 2, 3), NaN for an empty one, and its mean column and row (4, 2).
    """
    n = values.size
    part = np.empty(n, np.uint8)
    axis_x, axis_y, ratio = _principal_axis(x, y)
    if by_amplifier:
        _cut_between_amplifiers(x, y, first_map, second_map, part)
    elif ratio >= STRIP:
        _cut_strip(x, y, axis_x, axis_y, part)
    else:
        _cut_crosswise(x, y, part)

    ends = np.zeros(N_BLOCKS + 1, np.int64)
    for i in range(n):
        ends[part[i] + 1] += 1
    for k in range(N_BLOCKS):
        ends[k + 1] += ends[k]
    divided = np.empty(n, np.float32)
    position = ends[:N_BLOCKS].copy()
    sums = np.zeros((N_BLOCKS, 2), np.int64)
    sides = np.zeros((N_BLOCKS, 2), np.int64)
    a0, a1, a2 = first_map[0, 0], first_map[0, 1], first_map[0, 2]
    b0, b1, b2 = second_map[0, 0], second_map[0, 1], second_map[0, 2]
    for i in range(n):
        k = part[i]
        divided[position[k]] = values[i]
        position[k] += 1
        sums[k, 0] += x[i]
        sums[k, 1] += y[i]
        u = a0 * x[i] + a1 * y[i] + a2
        sides[k, 0] += np.int64(u > 0) - np.int64(u < 0)
        u = b0 * x[i] + b1 * y[i] + b2
        sides[k, 1] += np.int64(u > 0) - np.int64(u < 0)

    places = np.full((N_BLOCKS, 2, 3), np.nan)
    middles = np.full((N_BLOCKS, 2), np.nan)
    for k in range(N_BLOCKS):
        m = ends[k + 1] - ends[k]
        if m == 0:
            continue
        i, j = sums[k, 0] / m, sums[k, 1] / m
        middles[k, 0], middles[k, 1] = i, j
        for d in range(2):
            to_detector = first_map if d == 0 else second_map
            for axis in range(2):
                places[k, d, axis] = to_detector[axis, 0] * i + to_detector[axis, 1] * j + to_detector[axis, 2]
            places[k, d, 2] = sides[k, d] / m
    return divided, ends, places, middles


@nb.njit(nogil=True, cache=True)
def _principal_axis(x, y):
    """Direction in which the cells are spread most, and how many times more than across it."""
    n = x.size
    sx = sy = 0
    sxx = sxy = syy = 0
    for i in range(n):
        a, b = np.int64(x[i]), np.int64(y[i])
        sx += a
        sy += b
        sxx += a * a
        sxy += a * b
        syy += b * b
    # 1/12: a cell has an extent itself.
    xx = sxx / n - (sx / n) ** 2 + 1 / 12
    yy = syy / n - (sy / n) ** 2 + 1 / 12
    xy = sxy / n - (sx / n) * (sy / n)
    half, root = 0.5 * (xx + yy), math.hypot(0.5 * (xx - yy), xy)
    angle = 0.5 * math.atan2(2 * xy, xx - yy)
    return math.cos(angle), math.sin(angle), math.sqrt((half + root) / max(half - root, 1e-9))


@nb.njit(nogil=True, cache=True)
def _cut_between_amplifiers(x, y, first_map, second_map, part):
    """Lower halves of both, upper of the first, upper of the second, upper halves of both."""
    for i in range(x.size):
        first = first_map[0, 0] * x[i] + first_map[0, 1] * y[i] + first_map[0, 2]
        second = second_map[0, 0] * x[i] + second_map[0, 1] * y[i] + second_map[0, 2]
        part[i] = np.uint8(first > 0) + np.uint8(2) * np.uint8(second > 0)


@nb.njit(nogil=True, cache=True)
def _cut_strip(x, y, axis_x, axis_y, part):
    """Four parts one behind the other."""
    n = x.size
    low, high = math.inf, -math.inf
    for i in range(n):
        along = axis_x * x[i] + axis_y * y[i]
        low = min(low, along)
        high = max(high, along)
    step = (high - low) / N_BINS * (1 + 1e-9)
    counts = np.zeros(N_BINS, np.int64)
    for i in range(n):
        counts[int((axis_x * x[i] + axis_y * y[i] - low) / step)] += 1
    of_bin = np.empty(N_BINS, np.uint8)
    before = 0
    for j in range(N_BINS):
        of_bin[j] = min(N_BLOCKS - 1, (2 * before + counts[j]) * N_BLOCKS // (2 * n))
        before += counts[j]
    for i in range(n):
        part[i] = of_bin[int((axis_x * x[i] + axis_y * y[i] - low) / step)]


@nb.njit(nogil=True, cache=True)
def _half(counts):
    """Where to cut a row of counts so that both sides are most nearly equal: the first index of the upper side."""
    total = counts.sum()
    before = 0
    for j in range(counts.size):
        if 2 * before + counts[j] > total:
            return j
        before += counts[j]
    return counts.size


@nb.njit(nogil=True, cache=True)
def _cut_crosswise(x, y, part):
    """Lower left, upper left, lower right, upper right."""
    n = x.size
    columns = np.zeros(x.max() + 1, np.int64)
    rows = np.zeros((2, y.max() + 1), np.int64)
    for i in range(n):
        columns[x[i]] += 1
    middle = _half(columns)
    for i in range(n):
        rows[np.int64(x[i] >= middle), y[i]] += 1
    left, right = _half(rows[0]), _half(rows[1])
    for i in range(n):
        if x[i] < middle:
            part[i] = np.uint8(y[i] >= left)
        else:
            part[i] = np.uint8(2) + np.uint8(y[i] >= right)
