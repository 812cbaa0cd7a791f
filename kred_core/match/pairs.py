"""Which detectors overlap on the sky, and the differences of those that do, in memory and on disk."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numba as nb
import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from ..errors import InputError
from ..products import atomic
from ..sky import outlines
from ..sky.sphere import LARGEST_RADIUS

__all__ = ["N_BLOCKS", "Pairs", "find_pairs"]

N_BLOCKS = 4  # parts of an overlap that are measured by themselves
ROUNDING = 1e-11  # radian, 2 microarcsec: corners that are the same but for rounding touch


@dataclass(frozen=True, eq=False)
class Pairs:
    """Differences of K overlapping pairs of detectors, always second minus first, in counts28/arcsec2.

    Attributes
    ----------
    first, second : (K,) int64
        The detectors, as places in the caller's list; first < second, in rising order.
    separation : (K,) float
        Distance of the detectors' centres in arcsec.
    n_cells : (K,) int64
        Good cells that the two have in common.
    difference, error : (K,) float
        Histogram mode of the difference of the two binned maps, and its standard error:
        of its noise, and of what the parts of all overlaps scatter beyond their noise.
    mode, mean, median, std, skew, kurtosis, clipped_mean, clipped_median, clipped_std : (K,) float
        Half-sample mode, moments, and moments clipped at 3 standard deviations, of the same values;
        the kurtosis of a normal distribution is 0.
    blocks, block_errors : (K, 4) float
        Difference and its standard error in four parts of the overlap; NaN where a part has too few cells. The parts are of
        nearly equal numbers of cells, or those that one amplifier of each detector reads.
    block_places : (K, 4, 2, 3) float
        Mean u, v and sign(u) of the cells of a part, on the first and on the second detector: u along NAXIS1
        and v along NAXIS2 run from -1 to 1. NaN as ``blocks``.
    floor : float
        What ``error`` has beyond noise, in the middle of all pairs (median, in quadrature).
    small_first, small_second : (M,) int64
        Pairs that touch but have too few good cells in common to be measured.
    """

    first: np.ndarray
    second: np.ndarray
    separation: np.ndarray
    n_cells: np.ndarray
    difference: np.ndarray
    error: np.ndarray
    mode: np.ndarray
    mean: np.ndarray
    median: np.ndarray
    std: np.ndarray
    skew: np.ndarray
    kurtosis: np.ndarray
    clipped_mean: np.ndarray
    clipped_median: np.ndarray
    clipped_std: np.ndarray
    blocks: np.ndarray
    block_errors: np.ndarray
    block_places: np.ndarray
    floor: float
    small_first: np.ndarray
    small_second: np.ndarray

    def __len__(self) -> int:
        return self.first.size

    def write(self, path: Path) -> None:
        """Keep them; the same pairs give the same bytes, and an existing file with these is left as it is."""
        with atomic(path, keep_same=True) as temporary, open(temporary, "wb") as f:
            np.savez(f, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def read(cls, path: Path) -> Pairs:
        """Read what `write` kept.

        Raises
        ------
        InputError
            The file is missing or damaged.
        """
        advice = "run the stage 'match' again (--from match)"
        try:
            with np.load(path, allow_pickle=False) as stored:
                values = {field.name: stored[field.name] for field in fields(cls)}
        except FileNotFoundError:
            raise InputError(f"{path} is missing; {advice}") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
            raise InputError(f"{path} cannot be read ({type(e).__name__}: {e}); delete it and {advice}") from e
        return cls(**{**values, "floor": float(values["floor"])})


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
