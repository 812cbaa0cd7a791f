"""What is known of a mosaic: its numbers, the table of a field's mosaics, and the reduced image that figures are drawn from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from ..errors import ExposureError, InputError
from ..products import atomic, tables
from ..products.tables import Column
from ..sky import celestial_wcs

__all__ = ["MOSAICS", "MosaicNumbers", "ReducedImage", "block_means", "coarser_wcs", "explained", "mosaic_table", "wcs_of"]

COUNTS28 = "counts28/pix"


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


def block_means(image: np.ndarray, factor: int) -> np.ndarray:
    """Average the finite pixels of blocks of ``factor`` x ``factor``; NaN without any. Blocks at the far edges may be cut."""
    seen = np.isfinite(image)
    n_seen = _block_sums(seen.astype(np.float64), factor)
    means = np.full(n_seen.shape, np.nan)
    return np.divide(_block_sums(np.where(seen, image, 0.0), factor), n_seen, out=means, where=n_seen > 0)


def _block_sums(values: np.ndarray, factor: int) -> np.ndarray:
    """Sums of blocks; in slices, because numpy's reduceat takes four times as long."""
    for axis in (0, 1):
        parts = [values[k::factor] if axis == 0 else values[:, k::factor] for k in range(min(factor, values.shape[axis]))]
        values = parts[0].copy()
        for part in parts[1:]:
            values[: part.shape[0], : part.shape[1]] += part  # the last block may be cut
    return values
