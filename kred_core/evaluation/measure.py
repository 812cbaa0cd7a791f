"""Read a mosaic in strips: its numbers, exactly, and its block average, in bounded memory.

Separate from what the numbers mean because it is all about how to get them
without holding 300 MB: two passes, counting instead of sorting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numba
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ..errors import InputError
from ..fits.hdu import scan
from ..statistics import NORMAL_MAD
from .numbers import MosaicNumbers
from .reduced import ReducedImage, coarser_wcs, explained, wcs_of
from .seams import block_jump, block_side, fill_block_medians, low_pass_rms

__all__ = ["measure_mosaic"]

STRIP_PIXELS = 1 << 20
SIGN, NOTHING = 1 << 31, 0xFFFFFFFF
PARTS = 4  # copies of a table of counters
COVERAGE_STRIPS = 8


def measure_mosaic(mosaic: Path, coverage: Path, figure_pixels: int) -> tuple[MosaicNumbers, ReducedImage]:
    """Measure a mosaic and average it down for figures.

    Parameters
    ----------
    mosaic : `~pathlib.Path`
        FITS image in the primary HDU, not compressed, counts28 per pixel, with a celestial WCS.
    coverage : `~pathlib.Path`
        Number of detectors in each of its pixels; the first HDU with an image.
    figure_pixels : int
        Largest side of the reduced image. Its pixels are blocks of as few mosaic pixels as that allows.

    Returns
    -------
    `MosaicNumbers`, `ReducedImage`

    Raises
    ------
    InputError
        A file is missing, unreadable or not of the other's shape, or no pixel is covered.
    ExposureError
        A file is truncated or not a FITS file.

    Notes
    -----
    Medians are exact and need no copy of the pixels. Read as integers, float32 keep
    their order (negative ones reversed): the first pass counts the values by their
    upper 16 bits, which tells between which of them the median lies, and the
    second pass counts the lower 16 bits of those that lie there. The second pass
    also sums the squared deviations from the mean that the first has found, in
    float64, so that nothing cancels. The same input gives the same bits.

    Memory: strips of 10⁶ pixels, of the coverage eight of them, one bit for each
    mosaic pixel, 20 bytes for each reduced pixel, and 8 MB of counters; never the mosaic.
    """
    with _opened(mosaic) as mosaic_file, _opened(coverage) as coverage_file:
        values = mosaic_file[0]
        shape = getattr(values, "shape", ())
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"{mosaic}: expected a two-dimensional image in the primary HDU, found the shape {shape}")
        wcs = wcs_of(values.header, shape, mosaic)
        detectors = next((hdu for hdu in coverage_file if len(getattr(hdu, "shape", ())) == 2), None)
        found = "no image" if detectors is None else f"{detectors.shape[1]} x {detectors.shape[0]}"
        if detectors is None or detectors.shape != shape:
            raise InputError(
                f"{coverage}: expected a coverage map of {shape[1]} x {shape[0]} pixels, as {mosaic.name} has, "
                f"found {found}; delete both and run the stage 'coadd' again"
            )
        return _Passes((mosaic, values), (coverage, detectors), figure_pixels).run(wcs)


@contextmanager
def _opened(path: Path) -> Iterator[fits.HDUList]:
    with explained(path, "coadd"):
        path.stat()
        scan(path)  # a truncated file is named as such, before anything is computed from it
        # memory mapping would let every page that was read count as memory of the process
        hdus = fits.open(path, memmap=False)
    with hdus:
        yield hdus


class _Passes:
    """The two passes over a mosaic and what they add up."""

    def __init__(self, values, detectors, figure_pixels: int):
        self.values, self.detectors = values, detectors  # each a path and its HDU
        self.shape = rows, columns = values[1].shape
        self.side = block_side(self.shape)
        self.factor = max(1, -(-max(self.shape) // figure_pixels))
        reduced = (-(-rows // self.factor), -(-columns // self.factor))
        self.sums, self.depth = np.zeros(reduced), np.zeros(reduced)
        self.counts = np.zeros(reduced, dtype=np.int32)
        self.covered = np.empty((rows, -(-columns // 8)), dtype=np.uint8)
        self.medians = np.empty((-(-rows // self.side), -(-columns // self.side)))
        self.depths = np.zeros(1 << 16, dtype=np.int64)  # how often each number of detectors occurs
        # values and differences of neighbours: counts by their upper, then for two ranks by their lower 16 bits
        self.upper_parts = np.zeros((2, PARTS, 1 << 16), dtype=np.int64)
        self.lower = np.zeros((2, 2, 1 << 16), dtype=np.int64)

    def strips(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Strips of whole rows of blocks, as they are in the mosaic."""
        rows, columns = self.shape
        height = self.side * max(1, STRIP_PIXELS // (self.side * columns))
        for first in range(0, rows, height):
            where = slice(first, min(first + height, rows))
            yield where, self.read(self.values, where, np.float32)

    def strips_with_coverage(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """The same with the number of detectors, of which several strips are read at a time: the opening of each costs most."""
        known = slice(0, 0)
        for where, strip in self.strips():
            if where.stop > known.stop:
                known = slice(where.start, min(where.start + COVERAGE_STRIPS * (where.stop - where.start), self.shape[0]))
                n_detectors = self.read(self.detectors, known, np.int32)
            yield where, strip, n_detectors[where.start - known.start : where.stop - known.start]

    @staticmethod
    def read(source, where: slice, dtype: type) -> np.ndarray:
        path, hdu = source
        with explained(path, "coadd"):
            return np.ascontiguousarray(hdu.section[where], dtype=dtype)

    def run(self, wcs: WCS) -> tuple[MosaicNumbers, ReducedImage]:
        for where, strip, n_detectors in self.strips_with_coverage():
            good = np.empty(strip.shape, np.bool_)
            averages = self.sums, self.counts, self.depth
            _first_pass(strip, n_detectors, where.start, self.factor, good, *averages, self.depths, self.upper_parts)
            self.covered[where] = np.packbits(good, axis=1)
            fill_block_medians(strip, self.side, self.medians[where.start // self.side : -(-where.stop // self.side)])
        self.upper = self.upper_parts.sum(axis=1)
        self.upper[:, -1] = 0  # where the pixels and differences are that do not exist

        n_covered, n_pairs = (int(n) for n in self.upper.sum(axis=1))
        if n_covered == 0:
            raise InputError(f"{self.values[0]}: no pixel is covered; no detector of the tile's table reaches this mosaic")
        mean = float(self.sums.sum() / n_covered)
        ranks = np.array([_middle(n_covered), _middle(n_pairs)])
        bins = np.array([np.searchsorted(np.cumsum(self.upper[i]), ranks[i], side="right") for i in range(2)])
        squares = 0.0
        for where, strip in self.strips():
            good = np.unpackbits(self.covered[where], axis=1, count=self.shape[1])
            squares += _second_pass(strip, good, mean, bins, self.lower)

        level = self.median(0, bins[0], ranks[0])
        numbers = MosaicNumbers(
            n_covered=n_covered,
            covered_fraction=n_covered / (self.shape[0] * self.shape[1]),
            coverage_median=float(np.mean(np.searchsorted(np.cumsum(self.depths), ranks[0], side="right"))),
            coverage_max=int(np.flatnonzero(self.depths)[-1]),
            level=level,
            mean=mean,
            std=float(np.sqrt(squares / n_covered)),
            noise=float(NORMAL_MAD / np.sqrt(2) * self.median(1, bins[1], ranks[1])) if n_pairs else None,
            block_jump=block_jump(self.medians),
            low_pass_rms=low_pass_rms(self.medians),
            block=self.side,
        )
        return numbers, self.reduced(wcs)

    def median(self, which: int, bins: np.ndarray, ranks: np.ndarray) -> float:
        """Mean of the two values in the middle, from their upper 16 bits and their ranks."""
        bits = []
        for j in range(2):
            below = self.upper[which, : bins[j]].sum()
            low = np.searchsorted(np.cumsum(self.lower[which, j]), ranks[j] - below, side="right")
            ordered = (int(bins[j]) << 16) | int(low)
            bits.append(ordered ^ SIGN if ordered & SIGN else ordered ^ 0xFFFFFFFF)  # `_ordered` undone
        return float(np.array(bits, dtype=np.uint32).view(np.float32).astype(np.float64).mean())

    def reduced(self, wcs: WCS) -> ReducedImage:
        image = np.full(self.sums.shape, np.nan, dtype=np.float32)
        np.divide(self.sums, self.counts, out=image, where=self.counts > 0, casting="same_kind")
        sides = [np.minimum(self.factor, n - np.arange(0, n, self.factor)) for n in self.shape]
        coverage = (self.depth / np.outer(*sides)).astype(np.float32)
        return ReducedImage(image, coverage, coarser_wcs(wcs, self.factor, image.shape), self.factor)


def _middle(n: int) -> tuple[int, int]:
    """Ranks of the two of n values between which their median lies; equal where n is odd."""
    return max(n - 1, 0) // 2, n // 2


# A row goes through several short loops without branches, which the compiler vectorises; the order of all sums is that of
# the pixels. Successive values are counted in different copies of a table: they are often the same, and would wait for each other.


@numba.njit(nogil=True, cache=True)
def _first_pass(strip, n_detectors, first_row, factor, good, sums, counts, depth, depths, upper):
    """Numbers of a strip, and which of its pixels are covered; the others become NaN."""
    rows, columns = strip.shape
    values = np.empty(columns, np.float32)
    for y in range(rows):
        row, number, known = strip[y], n_detectors[y], good[y]
        block_y = (first_row + y) // factor
        for x in range(columns):
            known[x] = (number[x] > 0) & (abs(row[x]) < np.inf)
        for x in range(columns):
            row[x] = row[x] if known[x] else np.float32(np.nan)
            values[x] = row[x] if known[x] else np.float32(0)
        for offset in range(min(factor, columns)):  # block by block in turn, so that no sum waits for itself
            for block_x in range((columns - offset + factor - 1) // factor):
                x = block_x * factor + offset
                sums[block_y, block_x] += values[x]
                counts[block_y, block_x] += known[x]
                depth[block_y, block_x] += max(number[x], 0)
        _count_depths(number, known, depths)
        _count_upper(row, upper)


@numba.njit(nogil=True, cache=True)
def _count_depths(number, known, depths):
    """Add how often each number of detectors occurs, which is mostly that of the pixel before."""
    n = 0
    before = number[0]
    for x in range(number.size):
        if number[x] != before:
            depths[min(max(before, 0), depths.size - 1)] += n
            n = 0
            before = number[x]
        n += known[x]
    depths[min(max(before, 0), depths.size - 1)] += n


@numba.njit(nogil=True, cache=True)
def _count_upper(row, upper):
    """Count values and differences by their upper 16 bits."""
    values, steps = _ordered(row)
    for x in range(values.size):
        upper[0, x % PARTS, values[x] >> np.uint32(16)] += 1
        upper[1, x % PARTS, steps[x] >> np.uint32(16)] += 1


@numba.njit(nogil=True, cache=True)
def _ordered(row):
    """Values, and differences to the next one, as integers of their order; NaN, and the difference of the last, above all.

    IEEE 754 negative numbers count backwards.
    """
    n = row.size
    difference = np.empty(n, np.float32)
    for x in range(n - 1):
        difference[x] = abs(row[x + 1] - row[x])
    difference[n - 1] = np.nan
    values, steps = np.empty(n, np.uint32), np.empty(n, np.uint32)
    bits, step_bits = row.view(np.uint32), difference.view(np.uint32)
    for x in range(n):
        value = ~bits[x] if bits[x] & np.uint32(SIGN) else bits[x] | np.uint32(SIGN)
        values[x] = value if row[x] == row[x] else np.uint32(NOTHING)
        steps[x] = step_bits[x] | np.uint32(SIGN) if difference[x] == difference[x] else np.uint32(NOTHING)
    return values, steps


@numba.njit(nogil=True, cache=True)
def _second_pass(strip, good, mean, bins, lower):
    """Sum of the squared deviations of a strip; counts by their lower 16 bits the values and differences in the bins."""
    rows, columns = strip.shape
    squares = 0.0
    for y in range(rows):
        row = strip[y]
        for x in range(columns):
            row[x] = row[x] if good[y, x] else np.float32(np.nan)
        for x in range(columns):
            deviation = np.float64(row[x]) - mean
            squares += deviation**2 if row[x] == row[x] else 0.0
        values, steps = _ordered(row)
        _count_lower(values, bins[0], lower[0])
        _count_lower(steps, bins[1], lower[1])
    return squares


@numba.njit(nogil=True, cache=True)
def _count_lower(values, bins, lower):
    first, second = np.uint32(bins[0]), np.uint32(bins[1])
    for x in range(values.size):
        upper = values[x] >> np.uint32(16)
        if upper == first:
            lower[0, values[x] & np.uint32(0xFFFF)] += 1
        if upper == second:
            lower[1, values[x] & np.uint32(0xFFFF)] += 1
