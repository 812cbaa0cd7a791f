"""Two binned maps where they overlap: their differences, cell by cell, and the four parts that an overlap is divided into.

Kernels on arrays, separate from what is made of the differences, so that the
loops over cells are in one place.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from .pairs import N_BLOCKS

__all__ = ["differences", "divide"]

LARGEST = 1e30  # of a difference; squares must fit into float64 and values into float32
STRIP = 2.0  # an overlap that is this many times as long as wide is cut across, others crosswise
N_BINS = 1024  # of the length of a strip, for cutting it


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
    """Put the values of each part of an overlap next to each other.

    Parameters
    ----------
    values, x, y
        See `differences`; at least one.
    first_map, second_map : (2, 3) float64
        From columns and rows to u, v on the detectors: ``u, v = map @ (x, y, 1)``.
    by_amplifier : bool
        Cut where u = 0 on one of the detectors: a part is what one amplifier of each reads. Otherwise parts are compact and of
        nearly equal numbers: a strip is cut into four along its longer principal axis, other overlaps into left and right, and
        each of these into lower and upper.

    Returns
    -------
    divided : (n,) float32
    ends : (5,) int64
        Part k is divided[ends[k]:ends[k + 1]].
    places : (4, 2, 3) float64
        Mean u, v and sign(u) of each part on both detectors; NaN for an empty one.
    middles : (4, 2) float64
        Mean column and row of each part.
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
        middles[k, 0] = sums[k, 0] / m
        middles[k, 1] = sums[k, 1] / m
        for axis in range(2):
            for d in range(2):
                to_detector = first_map if d == 0 else second_map
                places[k, d, axis] = (
                    to_detector[axis, 0] * middles[k, 0] + to_detector[axis, 1] * middles[k, 1] + to_detector[axis, 2]
                )
        for d in range(2):
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
