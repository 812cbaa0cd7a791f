"""Which detectors overlap on the sky: a spatial index for the candidates, their true outlines for the verdict.

Separate from the measuring because it needs no pixel: where a pair has nothing
to compare, the outlines say so before anything is read.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from ..errors import InputError
from ..sky import outlines
from ..sky.sphere import LARGEST_RADIUS

__all__ = ["find_pairs"]

ROUNDING = 1e-11  # radian, 2 microarcsec: corners that are the same but for rounding touch


def find_pairs(
    corners: ArrayLike, naxis1: ArrayLike, naxis2: ArrayLike, exposure: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of detectors whose outlines have a point in common, each once.

    Parameters
    ----------
    corners : array_like
        Shape (n, 4, 2): RA and Dec in degrees of the centres of the corner pixels, in the order of the
        keywords COR1RA1..COR4DEC1. A detector with a NaN is in no pair.
    naxis1, naxis2 : array_like
        Size in pixels, shape (n,).
    exposure : array_like, optional
        int, shape (n,): detectors with the same number belong to one exposure and are never paired, because
        they saw different parts of the sky, whatever a wrong WCS says.

    Returns
    -------
    first, second : `~numpy.ndarray`
        int64, shape (K,): first < second, sorted by first and then by second.

    Raises
    ------
    InputError
        A detector has a radius of more than 25 deg.

    Notes
    -----
    A tree of the outlines' middles gives the candidates. Two convex polygons on a hemisphere are apart
    exactly if the great circle through a side of one of them separates them (in the tangent plane: the
    separating axis theorem), so the test is the same at RA 0h and at the poles.
    """
    shapes = outlines(corners, naxis1, naxis2)
    usable = np.flatnonzero(np.isfinite(shapes).all(axis=(1, 2)))
    nothing = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if usable.size < 2:
        return nothing
    shapes = shapes[usable]
    middles = shapes.mean(axis=1)
    middles /= np.linalg.norm(middles, axis=-1, keepdims=True)
    radius = np.linalg.norm(shapes - middles[:, None], axis=-1).max(axis=1)
    too_large = np.count_nonzero(radius > 2 * math.sin(math.radians(LARGEST_RADIUS) / 2))
    if too_large:
        raise InputError(f"{too_large} detectors have a radius of more than {LARGEST_RADIUS:.0f} deg; their corners must be wrong")
    # Chords: of the sum of two angles the chord is less than the sum of the chords.
    candidates = cKDTree(middles).query_pairs(2 * radius.max() + ROUNDING, output_type="ndarray")
    if candidates.size == 0:
        return nothing
    first, second = candidates.T
    if exposure is not None:
        number = np.asarray(exposure)[usable]
        different = number[first] != number[second]
        first, second = first[different], second[different]
    meet = _meet(shapes, _side_normals(shapes), middles, radius, first, second)
    first, second = usable[first[meet]].astype(np.int64), usable[second[meet]].astype(np.int64)
    order = np.lexsort((second, first))
    return first[order], second[order]


def _side_normals(shapes: np.ndarray) -> np.ndarray:
    """Poles of the great circles along the sides: unit vectors, or zero where a side has no length."""
    normals = np.cross(shapes, np.roll(shapes, -1, axis=1))
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)


@nb.njit(nogil=True, cache=True)
def _range(normal, shape):
    """Smallest and largest distance of the corners from a great circle."""
    low, high = math.inf, -math.inf
    for k in range(shape.shape[0]):
        distance = normal[0] * shape[k, 0] + normal[1] * shape[k, 1] + normal[2] * shape[k, 2]
        low = min(low, distance)
        high = max(high, distance)
    return low, high


@nb.njit(nogil=True, cache=True)
def _side_separates(normals, own, other):
    """Whether the great circle along a side of one polygon has that polygon on one side and the other beyond."""
    for k in range(normals.shape[0]):
        own_low, own_high = _range(normals[k], own)
        low, high = _range(normals[k], other)
        if (own_low >= -ROUNDING and high < -ROUNDING) or (own_high <= ROUNDING and low > ROUNDING):
            return True
    return False


@nb.njit(nogil=True, cache=True)
def _meet(shapes, normals, middles, radius, first, second):
    """Which pairs have a point in common."""
    meet = np.zeros(first.size, np.bool_)
    for p in range(first.size):
        i, j = first[p], second[p]
        distance = 0.0
        for axis in range(3):
            distance += (middles[i, axis] - middles[j, axis]) ** 2
        meet[p] = (
            math.sqrt(distance) <= radius[i] + radius[j] + ROUNDING
            and not _side_separates(normals[i], shapes[i], shapes[j])
            and not _side_separates(normals[j], shapes[j], shapes[i])
        )
    return meet
