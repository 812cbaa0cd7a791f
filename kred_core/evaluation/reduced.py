"""A mosaic averaged down to the size of a figure, with its coverage and WCS.

It is what figures are drawn from, a few MB that can be kept beside a mosaic and
read again for an overview of the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ..errors import ExposureError, InputError
from ..products import atomic
from ..sky import celestial_wcs

__all__ = ["ReducedImage", "coarser_wcs", "explained", "wcs_of"]


@dataclass(frozen=True)
class ReducedImage:
    """A mosaic averaged over square blocks of pixels.

    Attributes
    ----------
    image : `~numpy.ndarray`
        float32, shape (rows, columns): mean of the covered pixels of a block, counts28 per mosaic pixel; NaN where none is.
    coverage : `~numpy.ndarray`
        float32, same shape: mean number of detectors over all pixels of a block; 0 where none.
    wcs : `~astropy.wcs.WCS`
        Celestial WCS of the reduced pixels.
    factor : int
        Side of a block in pixels of the mosaic. Blocks at the upper and right edge may be cut.
    """

    image: np.ndarray
    coverage: np.ndarray
    wcs: WCS
    factor: int

    def shrink(self, factor: int) -> ReducedImage:
        """Average once more over blocks of ``factor`` x ``factor`` reduced pixels, those without coverage left out."""
        if factor <= 1:
            return self
        seen = np.isfinite(self.image)
        n_seen = _block_sums(seen.astype(np.float64), factor)
        image = np.full(n_seen.shape, np.nan)
        np.divide(_block_sums(np.where(seen, self.image, 0.0), factor), n_seen, out=image, where=n_seen > 0)
        coverage = _block_sums(self.coverage.astype(np.float64), factor) / _block_sums(np.ones(seen.shape), factor)
        wcs = coarser_wcs(self.wcs, factor, image.shape)
        return ReducedImage(image.astype(np.float32), coverage.astype(np.float32), wcs, self.factor * factor)

    def write(self, path: Path) -> None:
        """Keep the reduced image as a small FITS file, from which `read` gets it back unchanged."""
        header = self.wcs.to_header()
        header["FACTOR"] = (self.factor, "mosaic pixels averaged in each direction")
        hdus = fits.HDUList([fits.PrimaryHDU(self.image, header), fits.ImageHDU(self.coverage, name="COVERAGE")])
        with atomic(path, keep_same=True) as temporary:  # what is drawn from it need not be drawn again
            hdus.writeto(temporary, overwrite=True)

    @classmethod
    def read(cls, path: Path) -> ReducedImage:
        """Read what `write` wrote.

        Raises
        ------
        InputError
            The file is missing or not of this kind.
        """
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
    """WCS of blocks of ``factor`` x ``factor`` pixels; the corner of the image, FITS pixel (0.5, 0.5), stays where it is."""
    coarse = wcs.deepcopy()
    coarse.wcs.crpix = (np.asarray(wcs.wcs.crpix) - 0.5) / factor + 0.5
    if wcs.wcs.has_cd():
        coarse.wcs.cd = wcs.wcs.cd * factor
    else:
        coarse.wcs.cdelt = np.asarray(wcs.wcs.cdelt) * factor
    coarse.wcs.set()
    coarse.array_shape = shape
    return coarse


def _block_sums(values: np.ndarray, factor: int) -> np.ndarray:
    """Sums of blocks; in slices, because numpy's reduceat takes four times as long."""
    for axis in (0, 1):
        parts = [values[k::factor] if axis == 0 else values[:, k::factor] for k in range(min(factor, values.shape[axis]))]
        values = parts[0].copy()
        for part in parts[1:]:
            values[: part.shape[0], : part.shape[1]] += part  # the last block may be cut
    return values
