"""How good a mosaic is, in numbers; the table of a field's mosaics; and the reduced image that figures are drawn from.

A mosaic is 300 MB and a field has dozens of them, so it is read in strips of rows and never held whole. All statistics are
those of the covered pixels at full resolution, and exact: medians are found by counting, not by sampling. The median of a block
of pixels is blind to stars and averages the noise away; where a detector's background is wrong, the blocks on both sides of its
edge differ.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from .constants import NORMAL_MAD
from .errors import ExposureError, InputError
from .fits.hdu import scan
from .products import atomic, tables
from .products.tables import Column
from .sky import celestial_wcs
from .statistics import block_means, block_medians

__all__ = ["MOSAICS", "MosaicNumbers", "ReducedImage", "block_jump", "block_medians", "block_side"]
__all__ += ["explained", "low_pass_rms", "measure_mosaic", "mosaic_table"]

COUNTS28 = "counts28/pix"
LARGEST_BLOCK, SMALLEST_BLOCK = 64, 8  # pixels along a side
BLOCKS_ACROSS = 32
STRIP_PIXELS = 1 << 20
COVERAGE_STRIPS = 8
SIGN, NOTHING = 1 << 31, 0xFFFFFFFF


@dataclass(frozen=True)
class MosaicNumbers:
    """What one mosaic is like, as plain values that JSON can hold.

    Every statistic is over the covered pixels: coverage > 0 and a finite value. Stars and nebulae count in full, but in the noise:
    1.4826 / sqrt(2) times the median of |difference| of neighbours in a row, which is blind to nebulae, and to stars unless they
    crowd. Resampling correlates neighbours, so it is lower than the noise that a single pixel has (by 5 % for LANCZOS3 at the
    survey's scale). Where there is nothing to measure a number is None.
    """

    n_covered: int
    covered_fraction: float  # n_covered over the number of pixels of the mosaic
    coverage_median: float  # of the detectors in a covered pixel
    coverage_max: int
    level: float  # median, counts28 per pixel as all that follow
    mean: float
    std: float
    noise: float | None
    block_jump: float | None  # 99th percentile of |difference| of the medians of adjacent blocks: seams, and nebulae
    low_pass_rms: float | None  # of the block medians about their median: nebulae and left-over backgrounds
    block: int  # side of these blocks in pixels (see `block_side`)

    def to_dict(self) -> dict[str, int | float | None]:
        """Return the plain values, of which ``MosaicNumbers(**values)`` makes the numbers again."""
        return dataclasses.asdict(self)


MOSAICS = (
    Column("Field", str, "", "Field"),
    Column("Tile", str, "", "Tile"),
    Column("Image", str, "", "Image"),
    Column("Background", str, "", "What was subtracted: matched backgrounds, or original, one for each exposure"),
    Column("N_covered", int, "pix", "Covered pixels"),
    Column("Covered", float, "", "Covered part of the mosaic"),
    Column("Cov_med", float, "", "Median number of detectors in a covered pixel"),
    Column("Cov_max", int, "", "Largest number of detectors in a covered pixel"),
    Column("Level", float, COUNTS28, "Median of the covered pixels"),
    Column("Mean", float, COUNTS28, "Mean of the covered pixels"),
    Column("STD", float, COUNTS28, "Standard deviation of the covered pixels, stars included"),
    Column("Noise", float, COUNTS28, "Pixel noise: 1.4826/sqrt(2) x median |difference| of neighbours; NaN: none"),
    Column("BlockJump", float, COUNTS28, "99th percentile of |difference| of the medians of adjacent blocks; NaN: none"),
    Column("LowPass", float, COUNTS28, "rms of the block medians about their median; NaN: none"),
    Column("Block", int, "pix", "Side of these blocks"),
)


def mosaic_table(field: str, rows: Iterable[tuple[str, str, str, MosaicNumbers]]) -> Table:
    """Return the numbers of a field's mosaics as a table with units and descriptions.

    The rows are (tile, image, background, `MosaicNumbers`). The table has the columns `MOSAICS`, sorted by image, tile and
    background; numbers to six digits, NaN where one does not exist.
    """
    rows = sorted(rows, key=lambda row: (row[1], row[0], row[2]))
    names = [column.name for column in MOSAICS]
    values = [(field, *place, *map(_readable, numbers.to_dict().values())) for *place, numbers in rows]
    return tables.make((dict(zip(names, row, strict=True)) for row in values), MOSAICS)


def _readable(value: int | float | None) -> int | float:
    return value if isinstance(value, int) else math.nan if value is None else float(f"{value:.6g}")


@dataclass(frozen=True)
class ReducedImage:
    """A mosaic averaged over square blocks of pixels; arrays of shape (rows, columns)."""

    image: np.ndarray  # float32: mean of the covered pixels of a block, counts28 per mosaic pixel; NaN where none is
    coverage: np.ndarray  # float32: mean number of detectors over all pixels of a block; 0 where none
    wcs: WCS  # celestial, of the reduced pixels
    factor: int  # side of a block in pixels of the mosaic; blocks at the upper and right edge may be cut

    def shrink(self, factor: int) -> ReducedImage:
        """Average over blocks of ``factor`` x ``factor`` reduced pixels, those without coverage left out."""
        if factor <= 1:
            return self
        image, coverage = block_means(self.image, factor), block_means(self.coverage.astype(np.float64), factor)
        wcs = coarser_wcs(self.wcs, factor, image.shape)
        return ReducedImage(image.astype(np.float32), coverage.astype(np.float32), wcs, self.factor * factor)

    def write(self, path: Path) -> None:
        """Write a small FITS file, from which `read` gets the same image."""
        header = self.wcs.to_header()
        header["FACTOR"] = (self.factor, "mosaic pixels averaged in each direction")
        hdus = fits.HDUList([fits.PrimaryHDU(self.image, header), fits.ImageHDU(self.coverage, name="COVERAGE")])
        with atomic(path, keep_same=True) as temporary:  # what is drawn from it need not be drawn again
            hdus.writeto(temporary, overwrite=True)

    @classmethod
    def read(cls, path: Path) -> ReducedImage:
        """Read what `write` wrote; `InputError` where the file is missing or not of this kind."""
        with explained(path, "evaluate"), fits.open(path, memmap=False) as hdus:
            header = hdus[0].header
            image, coverage = (np.ascontiguousarray(hdus[i].data, dtype=np.float32) for i in (0, 1))
            return cls(image, coverage, wcs_of(header, image.shape, path), int(header["FACTOR"]))


@contextmanager
def explained(path: Path, made_by: str) -> Iterator[None]:
    """Say in words that a product of the stage ``made_by`` cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run the stage '{made_by}' first (--from {made_by})") from None
    except ExposureError as e:
        raise InputError(f"{path} cannot be read ({e}); delete it and run the stage '{made_by}' again") from e
    except (OSError, ValueError, TypeError, KeyError, IndexError, StopIteration) as e:
        raise InputError(f"{path} cannot be read ({type(e).__name__}: {e}); delete it and run the stage '{made_by}' again") from e


def wcs_of(header: fits.Header, shape: tuple[int, int], path: Path) -> WCS:
    """WCS of an image of the given shape; InputError where the header has none that can be used."""
    try:
        wcs = celestial_wcs(header)
    except ExposureError as e:
        raise InputError(f"{path} {e}") from e
    wcs.array_shape = shape
    return wcs


def coarser_wcs(wcs: WCS, factor: int, shape: tuple[int, int]) -> WCS:
    """WCS, with a CD matrix, of blocks of ``factor`` x ``factor`` pixels; the corner of the image, FITS pixel (0.5, 0.5), stays."""
    coarse = wcs.deepcopy()
    coarse.wcs.crpix = (np.asarray(wcs.wcs.crpix) - 0.5) / factor + 0.5
    coarse.wcs.cd = wcs.wcs.cd * factor
    coarse.wcs.set()
    coarse.array_shape = shape
    return coarse


# measuring


def measure_mosaic(mosaic: Path, coverage: Path, figure_pixels: int) -> tuple[MosaicNumbers, ReducedImage]:
    """Measure a mosaic and average it down for figures.

    The mosaic is the FITS image in the primary HDU, not compressed, counts28 per pixel, with a celestial WCS; the first HDU with
    an image of the coverage has the number of detectors in each of its pixels. The reduced image has at most ``figure_pixels``
    along a side: its pixels are blocks of as few mosaic pixels as that allows.

    Raises
    ------
    InputError
        A file is missing, unreadable or not of the other's shape, or no pixel is covered.
    ExposureError
        A file is truncated or not a FITS file.

    Notes
    -----
    Medians are exact and need no copy of the pixels. Read as integers, float32 keep their order (negative ones reversed):
    the first pass counts the values by their upper 16 bits, which tells between which of them the median lies, and the
    second pass counts the lower 16 bits of those that lie there. The second pass also sums the squared deviations from
    the mean that the first has found, so that nothing cancels. The same input gives the same bits.

    Memory: strips of 10⁶ pixels, of the coverage eight of them, one bit for each mosaic pixel, 20 bytes for each reduced
    pixel, and 4 MB of counters; never the mosaic.
    """
    with _opened(mosaic) as mosaic_file, _opened(coverage) as coverage_file:
        values = mosaic_file[0]
        shape: tuple[int, ...] = getattr(values, "shape", ())
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"{mosaic}: expected a two-dimensional image in the primary HDU, found the shape {shape}")
        wcs = wcs_of(values.header, (shape[0], shape[1]), mosaic)
        detectors = next((hdu for hdu in coverage_file if len(getattr(hdu, "shape", ())) == 2), None)
        found = "no image" if detectors is None else f"{detectors.shape[1]} x {detectors.shape[0]}"
        if detectors is None or detectors.shape != shape:
            raise InputError(
                f"{coverage}: expected a coverage map of {shape[1]} x {shape[0]} pixels, as {mosaic.name} has, "
                f"found {found}; delete both and run the stage 'coadd' again"
            )
        factor = max(1, -(-max(shape) // figure_pixels))
        passes = _Passes((mosaic, values), (coverage, detectors), factor)
        numbers = passes.numbers()
    image, depth = passes.averages()
    return numbers, ReducedImage(image, depth, coarser_wcs(wcs, factor, image.shape), factor)


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

    def __init__(self, values, detectors, factor: int):
        self.values, self.detectors = values, detectors  # each a path and its HDU
        self.shape = values[1].shape
        self.side, self.factor = block_side(self.shape), factor
        reduced = tuple(-(-n // factor) for n in self.shape)
        self.sums, self.depth, self.counts = np.zeros(reduced), np.zeros(reduced), np.zeros(reduced, np.int32)

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

    def numbers(self) -> MosaicNumbers:
        rows, columns = self.shape
        covered = np.empty((rows, -(-columns // 8)), np.uint8)
        depths = np.zeros(1 << 16, np.int64)  # how often each number of detectors occurs
        # Of values and of differences of neighbours: counts by their upper, then for two ranks by their lower 16 bits.
        upper, lower = np.zeros((2, 1 << 16), np.int64), np.zeros((2, 2, 1 << 16), np.int64)
        blocks = []
        for where, strip, n_detectors in self.strips_with_coverage():
            good = np.empty(strip.shape, np.bool_)
            sums = self.sums, self.counts, self.depth
            _first_pass(strip, n_detectors, where.start, self.factor, good, *sums, depths, upper)
            covered[where] = np.packbits(good, axis=1)
            blocks.append(block_medians(strip, self.side))
        upper[:, -1] = 0  # where the pixels and differences are that do not exist

        n_covered, n_pairs = (int(n) for n in upper.sum(axis=1))
        if n_covered == 0:
            raise InputError(f"{self.values[0]}: no pixel is covered; no detector of the tile's table reaches this mosaic")
        mean = float(self.sums.sum() / n_covered)
        # The ranks of the two values between which a median lies; equal where their number is odd.
        ranks = np.array([(max(n - 1, 0) // 2, n // 2) for n in (n_covered, n_pairs)])
        bins = np.array([np.searchsorted(np.cumsum(upper[i]), ranks[i], side="right") for i in range(2)])
        squares = 0.0
        for where, strip in self.strips():
            bits = np.unpackbits(covered[where], axis=1, count=columns)
            squares += _second_pass(strip, bits, mean, bins, lower)

        medians = np.concatenate(blocks)
        step = _median(upper[1], lower[1], bins[1], ranks[1]) if n_pairs else 0.0
        return MosaicNumbers(
            n_covered=n_covered,
            covered_fraction=n_covered / (rows * columns),
            coverage_median=float(np.mean(np.searchsorted(np.cumsum(depths), ranks[0], side="right"))),
            coverage_max=int(np.flatnonzero(depths)[-1]),
            level=_median(upper[0], lower[0], bins[0], ranks[0]),
            mean=mean,
            std=float(np.sqrt(squares / n_covered)),
            noise=float(NORMAL_MAD / np.sqrt(2) * step) if n_pairs else None,
            block_jump=block_jump(medians),
            low_pass_rms=low_pass_rms(medians),
            block=self.side,
        )

    def averages(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean of the covered pixels and mean number of detectors of each reduced pixel."""
        image = np.full(self.sums.shape, np.nan, dtype=np.float32)
        np.divide(self.sums, self.counts, out=image, where=self.counts > 0, casting="same_kind")
        sides = [np.minimum(self.factor, n - np.arange(0, n, self.factor)) for n in self.shape]
        return image, (self.depth / np.outer(*sides)).astype(np.float32)


def _median(upper: np.ndarray, lower: np.ndarray, bins: np.ndarray, ranks: np.ndarray) -> float:
    """Mean of the two values in the middle, from their upper 16 bits and their ranks."""
    bits = []
    for j in range(2):
        low = np.searchsorted(np.cumsum(lower[j]), ranks[j] - upper[: bins[j]].sum(), side="right")
        ordered = (int(bins[j]) << 16) | int(low)
        bits.append(ordered ^ SIGN if ordered & SIGN else ordered ^ 0xFFFFFFFF)  # `_ordered` undone
    return float(np.array(bits, dtype=np.uint32).view(np.float32).astype(np.float64).mean())


# The order of all sums is that of the pixels. Short loops without branches are vectorised by the compiler.


@numba.njit(nogil=True, cache=True)
def _first_pass(strip, n_detectors, first_row, factor, good, sums, counts, depth, depths, upper):
    """Add up a strip, and tell which of its pixels are covered; the others become NaN."""
    rows, columns = strip.shape
    for y in range(rows):
        row, number, known = strip[y], n_detectors[y], good[y]
        block_y = (first_row + y) // factor
        for x in range(columns):
            known[x] = (number[x] > 0) & (abs(row[x]) < np.inf)
            row[x] = row[x] if known[x] else np.float32(np.nan)
        for x in range(columns):
            block_x = x // factor
            n = max(number[x], 0)
            depth[block_y, block_x] += n
            if known[x]:
                sums[block_y, block_x] += row[x]
                counts[block_y, block_x] += 1
                depths[min(n, depths.size - 1)] += 1
        values, steps = _ordered(row)
        for x in range(columns):
            upper[0, values[x] >> np.uint32(16)] += 1
            upper[1, steps[x] >> np.uint32(16)] += 1


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
        for i, integers in enumerate(_ordered(row)):
            for j in range(2):
                wanted = np.uint32(bins[i, j])
                for x in range(columns):
                    if integers[x] >> np.uint32(16) == wanted:
                        lower[i, j, integers[x] & np.uint32(0xFFFF)] += 1
    return squares


def block_side(shape: tuple[int, int]) -> int:
    """Return the side, in pixels, of the blocks whose medians show seams.

    64 pixels (17 arcsec at the survey's scale) for mosaics of at least 32 such blocks, 2048 pixels, across. In smaller
    mosaics, of binned data, a detector has fewer pixels; there it is 1/32 of the shorter side, at least 8.
    """
    return max(SMALLEST_BLOCK, min(LARGEST_BLOCK, min(shape) // BLOCKS_ACROSS))


def block_jump(medians: np.ndarray) -> float | None:
    """Return the 99th percentile of |difference| between blocks (`block_medians`) that share a side; None where none do."""
    jumps = np.abs(np.concatenate([np.diff(medians, axis=0).ravel(), np.diff(medians, axis=1).ravel()]))
    jumps = jumps[np.isfinite(jumps)]
    return float(np.percentile(jumps, 99)) if jumps.size else None


def low_pass_rms(medians: np.ndarray) -> float | None:
    """Return the rms of the block medians about their median; None where there is none."""
    known = medians[np.isfinite(medians)]
    return float(np.sqrt(np.mean((known - np.median(known)) ** 2))) if known.size else None
