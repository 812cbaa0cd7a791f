"""Writing a mosaic and its coverage map, row by row, with checksums.

A mosaic is never whole in memory: its pixels go to the file as they are made,
its header, which tells what was found on the way, goes to a place kept free for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from astropy.io import fits

from ..checksum import add, datasum, encode
from ..exposure import BLOCK

__all__ = ["CoverageMap", "MosaicFile"]

HEADER_BLOCKS = 4  # 143 cards; unused ones are blank, so that a keyword can be added later without moving 300 MB
TILE_ROWS = 64  # of the compressed coverage map


class MosaicFile:
    """A float32 FITS image that is written from the first row to the last.

    Parameters
    ----------
    path : `~pathlib.Path`
        File to write; a temporary one, see `kred_core.products.atomic`.

    Notes
    -----
    Use as a context; then `append` all rows, and `finish` once.
    """

    def __init__(self, path: Path):
        self._path = path
        self._sum = 0
        self._length = 0

    def __enter__(self) -> MosaicFile:
        self._file = open(self._path, "wb")
        self._file.seek(HEADER_BLOCKS * BLOCK)
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def append(self, rows: np.ndarray) -> None:
        """Write the next rows: an array of floats, shape (rows, NAXIS1)."""
        raw = np.ascontiguousarray(rows, dtype=">f4")
        self._sum = add(self._sum, datasum(raw))
        self._length += raw.nbytes
        self._file.write(raw)

    def finish(self, header: fits.Header, extension: bytes = b"") -> None:
        """Write what belongs behind and before the pixels.

        Parameters
        ----------
        header : `~astropy.io.fits.Header`
            Primary header; DATASUM and CHECKSUM are added to it.
        extension : bytes
            A whole FITS extension.
        """
        self._file.write(b"\0" * (-self._length % BLOCK) + extension)
        header["DATASUM"] = (str(self._sum), "Checksum of the pixels")
        header["CHECKSUM"] = ("0" * 16, "Checksum of the HDU")
        header["CHECKSUM"] = encode(add(datasum(_padded(header)), self._sum))
        self._file.seek(0)
        self._file.write(_padded(header))


def _padded(header: fits.Header) -> bytes:
    cards = header.tostring(sep="", endcard=False, padding=False)
    return (cards.ljust(HEADER_BLOCKS * BLOCK - 80) + "END".ljust(80)).encode("ascii")


class CoverageMap:
    """Number of detectors in each pixel, kept on disk until it is compressed.

    Attributes
    ----------
    counts : `~numpy.ndarray`
        int16, shape (ny, nx), mapped to a file without a name, so that nothing can be left behind.
    """

    def __init__(self, counts: np.ndarray):
        self.counts = counts

    @classmethod
    @contextmanager
    def new(cls, shape: tuple[int, int], directory: Path) -> Iterator[CoverageMap]:
        """An empty map of the given shape, its file in the given directory."""
        with tempfile.TemporaryFile(dir=directory) as file:
            file.truncate(shape[0] * shape[1] * np.dtype(np.int16).itemsize)
            yield cls(np.memmap(file, np.int16, "r+", shape=shape))

    def write(self, path: Path, header: fits.Header) -> None:
        """Write the map as a RICE-compressed image, the first extension of a FITS file.

        Parameters
        ----------
        path : `~pathlib.Path`
        header : `~astropy.io.fits.Header`
        """
        tile = (min(TILE_ROWS, self.counts.shape[0]), self.counts.shape[1])
        image = fits.CompImageHDU(self.counts, header, name="COVERAGE", compression_type="RICE_1", tile_shape=tile)
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(path, overwrite=True)
