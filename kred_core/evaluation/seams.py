"""Medians of blocks of pixels, and what they tell about seams and left-over backgrounds.

A median over a block is blind to stars and averages the noise away; where a
detector's background is wrong, the blocks on both sides of its edge differ.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["block_jump", "block_medians", "block_side", "fill_block_medians", "low_pass_rms"]

LARGEST_BLOCK = 64
SMALLEST_BLOCK = 8
BLOCKS_ACROSS = 32
SIGN, INFINITE, NOTHING = np.uint32(0x80000000), np.uint32(0x7F800000), np.uint32(0xFFFFFFFF)


def block_side(shape: tuple[int, int]) -> int:
    """Side of the blocks whose medians show seams, in pixels.

    64 pixels (17 arcsec at the survey's scale) for mosaics of at least 32 such
    blocks, 2048 pixels, across. In smaller mosaics, of binned data, a detector has
    fewer pixels; there it is 1/32 of the shorter side, at least 8.
    """
    return max(SMALLEST_BLOCK, min(LARGEST_BLOCK, min(shape) // BLOCKS_ACROSS))


def block_medians(image: np.ndarray, side: int) -> np.ndarray:
    """Medians of square blocks, counted from the first pixel.

    Parameters
    ----------
    image : `~numpy.ndarray`
        float32, two-dimensional; NaN where not covered.
    side : int
        Side of a block in pixels; the last blocks may be cut by the edge.

    Returns
    -------
    `~numpy.ndarray`
        float64, shape (ceil(rows/side), ceil(columns/side)); NaN for a block in
        which no more than side²/2 pixels are covered.
    """
    medians = np.empty(tuple(-(-n // side) for n in image.shape))
    fill_block_medians(np.ascontiguousarray(image, dtype=np.float32), side, medians)
    return medians


@numba.njit(nogil=True, cache=True)
def fill_block_medians(image, side, medians):
    """`block_medians` into an existing array, for strips of a mosaic; ``image`` must be C-contiguous float32."""
    rows, columns = image.shape
    bits = image.view(np.uint32)
    block = np.empty(side * side, np.uint32)
    middle = np.empty(2, np.uint32)
    for block_y in range(medians.shape[0]):
        for block_x in range(medians.shape[1]):
            first, last = block_x * side, min((block_x + 1) * side, columns)
            size = n = 0
            for y in range(block_y * side, min((block_y + 1) * side, rows)):
                row = bits[y, first:last]
                n += _fill_ordered(row, block[size : size + row.size])
                size += row.size
            if 2 * n <= side * side:
                medians[block_y, block_x] = np.nan
                continue
            values = block[:size]
            middle[0] = _of_rank(values, (n - 1) // 2)
            middle[1] = middle[0] if _count(values, middle[0]) > n // 2 else _next(values, middle[0])
            for k in range(2):  # from order to bits again
                middle[k] = middle[k] ^ SIGN if middle[k] & SIGN else ~middle[k]
            lower, upper = middle.view(np.float32)
            medians[block_y, block_x] = lower if n & 1 else (lower + upper) / 2


# The median is found by counting, which vector units do in no time, in integers that have the order of the values.


@numba.njit(nogil=True, cache=True)
def _fill_ordered(bits, ordered):
    """Bits of float32 as integers of the same order, NaN above all, and how many are not NaN: negative ones count backwards."""
    n = 0
    for i in range(bits.size):
        known = bits[i] & np.uint32(0x7FFFFFFF) <= INFINITE
        value = ~bits[i] if bits[i] & SIGN else bits[i] | SIGN
        ordered[i] = value if known else NOTHING
        n += known
    return n


@numba.njit(nogil=True, cache=True)
def _of_rank(values, rank):
    """The smallest of the values that more than ``rank`` of them do not exceed."""
    low, high = NOTHING, np.uint32(0)
    for i in range(values.size):
        low, high = min(low, values[i]), max(high, values[i])
    first, last = np.int64(low), np.int64(high)
    while first < last:
        middle = (first + last) // 2
        if _count(values, np.uint32(middle)) > rank:
            last = middle
        else:
            first = middle + 1
    return np.uint32(first)


@numba.njit(nogil=True, cache=True)
def _count(values, limit):
    """How many values do not exceed a limit."""
    n = np.uint32(0)
    for i in range(values.size):
        n = np.uint32(n + np.uint32(values[i] <= limit))  # in 32 bits throughout: numba would go to 64, for half the speed
    return n


@numba.njit(nogil=True, cache=True)
def _next(values, limit):
    """The smallest of the values above a limit."""
    least = NOTHING
    for i in range(values.size):
        least = min(least, values[i] if values[i] > limit else NOTHING)
    return least


def block_jump(medians: np.ndarray) -> float | None:
    """99th percentile of |difference| between blocks that share a side.

    Parameters
    ----------
    medians : `~numpy.ndarray`
        Result of `block_medians`.

    Returns
    -------
    float or None
        None where no two adjacent blocks have a median.
    """
    jumps = np.abs(np.concatenate([np.diff(medians, axis=0).ravel(), np.diff(medians, axis=1).ravel()]))
    jumps = jumps[np.isfinite(jumps)]
    return float(np.percentile(jumps, 99)) if jumps.size else None


def low_pass_rms(medians: np.ndarray) -> float | None:
    """rms of the block medians about their median, or None where there is none."""
    known = medians[np.isfinite(medians)]
    return float(np.sqrt(np.mean((known - np.median(known)) ** 2))) if known.size else None
