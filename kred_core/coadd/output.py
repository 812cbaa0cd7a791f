"""Writing a mosaic and its coverage map, row by row, with checksums.

A mosaic is never whole in memory: its pixels go to the file as they are made,
its header, which tells what was found on the way, goes to a place kept free for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from ..fits.cards import UNSEALED, Cards, hdu_bytes, sealed
from ..fits.checksum import add, datasum
from ..fits.compress import CountsHeap
from ..fits.hdu import BLOCK, CARD

__all__ = ["CoverageMap", "MosaicFile"]

SPARE_CARDS = 10  # blank ones: a few keywords can be added later without moving 300 MB


class MosaicFile:
    """A float32 FITS image that is written from the first row to the last.

    Parameters
    ----------
    path : `~pathlib.Path`
        File to write; a temporary one, see `kred_core.products.atomic`.
    draft : `~astropy.io.fits.Header`
        A header as long as the final one will be, to some cards.

    Notes
    -----
    Use as a context; then `append` all rows, and `finish` once.
    """

    def __init__(self, path: Path, draft: fits.Header):
        self._path = path
        self._header_length = -(-(_length(draft) + CARD * (SPARE_CARDS + 3)) // BLOCK) * BLOCK  # 3: two checksums and END
        self._sum = 0
        self._length = 0

    def __enter__(self) -> MosaicFile:
        self._file = open(self._path, "wb")
        self._file.seek(self._header_length)
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
        header["CHECKSUM"] = (UNSEALED, "Checksum of the HDU")
        self._file.seek(0)
        self._file.write(sealed(self._padded(header), self._sum))

    def _padded(self, header: fits.Header) -> bytes:
        """The header with blank cards before its END, so that it fills the place kept free for it."""
        if _length(header) + CARD > self._header_length:
            raise ValueError(f"a header of {_length(header)} bytes for a place of {self._header_length}")
        cards = header.tostring(sep="", endcard=False, padding=False)
        return (cards.ljust(self._header_length - CARD) + "END".ljust(CARD)).encode("ascii")


def _length(header: fits.Header) -> int:
    return len(header.tostring(sep="", endcard=False, padding=False))


class CoverageMap:
    """Number of detectors in each pixel; of the rows only their compressed bytes are kept, 0.1 % of the pixels' size.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.

    Notes
    -----
    `append` all rows, from the first to the last, then `write`.
    """

    def __init__(self, shape: tuple[int, int]):
        self._shape = shape
        self._heap = CountsHeap(shape[1])

    def append(self, counts: np.ndarray) -> None:
        """Add the next rows: an array of int16, shape (rows, columns)."""
        self._heap.append(counts)

    def write(self, path: Path, header: fits.Header) -> None:
        """Write the map as a RICE-compressed image, the first extension of a FITS file.

        Parameters
        ----------
        path : `~pathlib.Path`
        header : `~astropy.io.fits.Header`
        """
        primary: Cards = {"SIMPLE": (True, "FITS standard"), "BITPIX": (8, ""), "NAXIS": (0, ""), "EXTEND": (True, "")}
        written = fits.Header.fromstring(header.tostring())  # with the digits that the mosaic's header has
        cards: Cards = {"EXTNAME": ("COVERAGE", ""), **{key: (written[key], written.comments[key]) for key in written}}
        path.write_bytes(b"".join([*hdu_bytes(primary), *self._heap.hdu(cards)]))
