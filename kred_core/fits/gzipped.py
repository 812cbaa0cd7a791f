"""Decoder of the storage form that data-quality masks have: integers, GZIP_1, one row a tile.

A mask is mostly zeros, so unpacking it costs next to nothing; going through
astropy costs ten times as much. Every other storage form is left to astropy.
"""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from .bintable import heap_start_of, table_columns, tile_ranges, unpack_row

__all__ = ["can_decode", "decode", "limited"]

_KINDS = {8: np.dtype("u1"), 16: np.dtype(">i2"), 32: np.dtype(">i4")}


def can_decode(header: fits.Header) -> bool:
    """Whether an image is stored in the form that this decoder reads.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Header of the HDU as stored: of a compressed image, of its binary table.

    Returns
    -------
    bool
        True for GZIP_1 integer images in tiles of one row, without scaling or nulls.
    """
    if header.get("ZIMAGE") is not True or str(header.get("ZCMPTYPE")).strip() != "GZIP_1" or header.get("ZBITPIX") not in _KINDS:
        return False
    nx, ny = header.get("ZNAXIS1"), header.get("ZNAXIS2")
    if not (isinstance(nx, int) and isinstance(ny, int) and nx > 0 and ny > 0 and header.get("ZNAXIS") == 2):
        return False
    if header.get("NAXIS2") != ny or header.get("ZTILE1", nx) != nx or header.get("ZTILE2", 1) != 1:
        return False
    if header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0 or any(key in header for key in ("BLANK", "ZBLANK", "ZSCALE")):
        return False
    columns = table_columns(header)
    data = columns.get("COMPRESSED_DATA")
    return list(columns) == ["COMPRESSED_DATA"] and data.code in "PQ" and data.element == "B" and data.count == 1


def decode(header: fits.Header, raw: bytes, dtype: type | None = None) -> np.ndarray:
    """Decode an image for which `can_decode` is true.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
    raw : bytes-like
        The data unit: table and heap.
    dtype : type, optional
        An integer type for the result; values beyond its limits become its limits. Not given: as stored.

    Returns
    -------
    `~numpy.ndarray`
        Integers, native byte order, shape (ZNAXIS2, ZNAXIS1).

    Raises
    ------
    ExposureError
        A row is damaged.

    References
    ----------
    FITS standard 4.0, section 10.4.2.
    """
    nx, kind = header["ZNAXIS1"], _KINDS[header["ZBITPIX"]]
    starts, lengths = tile_ranges(header, raw, table_columns(header)["COMPRESSED_DATA"], heap_start_of(header, raw))
    dtype = kind.newbyteorder("=") if dtype is None else dtype
    # Most rows are like one before, byte for byte: nothing but zeros, or the same bad columns.
    like: dict[bytes, int] = {}
    different: list[np.ndarray] = []
    which: list[int] = []
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        packed = bytes(raw[start : start + length])
        place = like.get(packed)
        if place is None:
            like[packed] = place = len(different)
            different.append(unpack_row(raw, start, length, row, kind, nx))
        which.append(place)
    return limited(np.stack(different), dtype)[which]


def limited(values: np.ndarray, dtype: type) -> np.ndarray:
    """Whole numbers as another integer type; those beyond its limits become its limits."""
    limits = np.iinfo(dtype)
    return values.clip(max(limits.min, np.iinfo(values.dtype).min), min(limits.max, np.iinfo(values.dtype).max)).astype(dtype)
