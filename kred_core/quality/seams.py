"""Medians of blocks of pixels, and what they tell about seams and left-over backgrounds.

A median over a block is blind to stars and averages the noise away; where a
detector's background is wrong, the blocks on both sides of its edge differ.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["block_medians", "block_side", "fill_block_medians", "low_pass_rms", "seam_jump"]

LARGEST_BLOCK = 64
SMALLEST_BLOCK = 8
BLOCKS_ACROSS = 32


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
    block = np.empty(side * side, dtype=np.float32)
    for block_y in range(medians.shape[0]):
        for block_x in range(medians.shape[1]):
            n = 0
            for y in range(block_y * side, min((block_y + 1) * side, rows)):
                for x in range(block_x * side, min((block_x + 1) * side, columns)):
                    value = image[y, x]
                    if not np.isnan(value):
                        block[n] = value
                        n += 1
            medians[block_y, block_x] = np.median(block[:n]) if 2 * n > side * side else np.nan


def seam_jump(medians: np.ndarray) -> float | None:
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
