"""Decode the image of one HDU, whatever the form it is stored in.

The storage forms that real Community Pipeline files have are decoded by `rice` (images) and here (masks: mostly zeros, so that
unpacking them costs next to nothing, a tenth of what astropy takes); every other form goes through astropy, compressed ones
in an isolated process (`isolated`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from astropy.io import fits

from ..errors import ExposureError
from . import isolated, rice
from .hdu import Hdu, text
from .storage import LOSSLESS, TILES, heap_start_of, require_sound, table_columns, tile_ranges, unpack_row

__all__ = ["read_pixels"]

MAX_PIXELS = 1 << 28
ENDLESS = ("HCOMPRESS_1", "PLIO_1")  # whose decoders read on behind a tile that is too short, whatever they find there
UNSIGNED = 32768  # BZERO of unsigned 16-bit integers
MASKS: dict[int, np.dtype] = {8: np.dtype("u1"), 16: np.dtype(">i2"), 32: np.dtype(">i4")}  # by ZBITPIX


def read_pixels(hdu: Hdu, dtype: type = np.float32) -> np.ndarray:
    """Decode the image of one HDU.

    Parameters
    ----------
    hdu : Hdu
    dtype : type
        Type of the result; `~numpy.float32` for pixels, an integer type for masks: values beyond its limits become its limits.

    Returns
    -------
    `~numpy.ndarray`
        Shape (NAXIS2, NAXIS1), native byte order, writable.

    Raises
    ------
    ExposureError
        The data cannot be decoded.
    """
    where = f"{hdu.path.name}[{hdu.index}] {hdu.extname}".strip()
    whole = np.issubdtype(dtype, np.integer)
    if len(hdu.shape) != 2 or math.prod(hdu.shape) > MAX_PIXELS:
        raise ExposureError(f"{where}: expected a two-dimensional image, found the shape {hdu.shape}")
    try:
        require_sound(hdu)
        raw = hdu.read()
        if rice.can_decode(hdu.header):
            data = rice.decode(hdu.header, raw)
        elif _is_plain_mask(hdu.header):
            data = _decode_mask(hdu.header, raw, dtype if whole else None)
        elif hdu.compressed:
            _require_plain_meaning(hdu.header, raw)
            data = _without_offset(hdu.header, isolated.decode_isolated(hdu.raw_header + raw))
        else:
            data = isolated.decode(hdu.raw_header + raw)
    except OSError as e:
        raise ExposureError(f"{where}: cannot be read: {e}") from e
    except ExposureError as e:
        raise ExposureError(f"{where}: {e}") from e
    except Exception as e:  # whatever the damage leads to
        raise ExposureError(f"{where}: {isolated.undecodable(e)}") from e
    if data.shape != hdu.shape:
        raise ExposureError(f"{where}: the decoded image is not of the shape that the header promises")
    if whole and data.dtype != dtype:
        data = _limited(data if data.dtype.kind in "iu" else _whole(data), np.dtype(dtype))
    return np.ascontiguousarray(data, dtype=dtype)


def _whole(values: np.ndarray) -> np.ndarray:
    """Floating-point numbers as the nearest whole ones; what is no number becomes the largest, so that a mask flags its pixel."""
    largest = float(1 << 62)
    return np.rint(np.nan_to_num(values.astype(np.float64), nan=largest).clip(-largest, largest)).astype(np.int64)


def _require_plain_meaning(header: fits.Header, raw: bytes | bytearray) -> None:
    """Refuse what astropy would read as something else: it looks for steps in columns only, and does not see where bytes end."""
    codec, columns = text(header, "ZCMPTYPE"), table_columns(header)
    quantised = {"ZSCALE", "ZZERO"} & columns.keys()
    if len(quantised) == 1 or (not quantised and header["ZBITPIX"] < 0 and codec not in LOSSLESS):
        raise ExposureError("the quantised image lacks a column ZSCALE or ZZERO; the header is damaged")
    heap_start = heap_start_of(header, raw)
    ranges = [np.stack(tile_ranges(header, raw, columns[name], heap_start)) for name in TILES & columns.keys()]
    starts, lengths = np.concatenate(ranges, axis=1)
    order = np.argsort(starts[lengths > 0])
    starts, ends = starts[lengths > 0][order], (starts + lengths)[lengths > 0][order]
    if codec in ENDLESS and not np.array_equal(np.append(starts, len(raw)), np.append(heap_start, ends)):
        raise ExposureError(f"the tiles of the {codec} image do not follow one another; the file is damaged")


def _without_offset(header: fits.Header, pixels: np.ndarray) -> np.ndarray:
    """Unsigned PLIO_1 images as cfitsio means them.

    PLIO cannot hold negative numbers, so cfitsio stores these numbers as they are, and ignores the header's offset (BZERO) when it
    reads them. astropy adds it, and every pixel of a mask would be flagged.
    """
    unsigned = text(header, "ZCMPTYPE") == "PLIO_1" and header["ZBITPIX"] == 16 and header.get("BZERO", 0) == UNSIGNED
    return pixels - np.uint16(UNSIGNED) if unsigned and pixels.dtype == np.uint16 else pixels


def _is_plain_mask(header: fits.Header) -> bool:
    """Tell whether an image is stored as masks are: integers, GZIP_1, one row a tile, without scaling or nulls."""
    if header.get("ZIMAGE") is not True or str(header.get("ZCMPTYPE")).strip() != "GZIP_1" or header.get("ZBITPIX") not in MASKS:
        return False
    nx, ny = header.get("ZNAXIS1"), header.get("ZNAXIS2")
    if not (isinstance(nx, int) and isinstance(ny, int) and nx > 0 and ny > 0 and header.get("ZNAXIS") == 2):
        return False
    if header.get("NAXIS2") != ny or header.get("ZTILE1", nx) != nx or header.get("ZTILE2", 1) != 1:
        return False
    if header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0 or any(key in header for key in ("BLANK", "ZBLANK", "ZSCALE")):
        return False
    columns = table_columns(header)
    if list(columns) != ["COMPRESSED_DATA"]:
        return False
    data = columns["COMPRESSED_DATA"]
    return data.code in "PQ" and data.element == "B" and data.count == 1


def _decode_mask(header: fits.Header, raw: bytes | bytearray, dtype: Any = None) -> np.ndarray:
    """Decode such an image, as integers of a type or of that of the file (FITS standard 4.0, section 10.4.2)."""
    nx, kind = header["ZNAXIS1"], MASKS[header["ZBITPIX"]]
    starts, lengths = tile_ranges(header, raw, table_columns(header)["COMPRESSED_DATA"], heap_start_of(header, raw))
    native = kind.newbyteorder("=") if dtype is None else np.dtype(dtype)
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
    return _limited(np.stack(different), native)[which]


def _limited(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Whole numbers as another integer type; those beyond its limits become its limits."""
    limits = np.iinfo(dtype)
    return values.clip(max(limits.min, np.iinfo(values.dtype).min), min(limits.max, np.iinfo(values.dtype).max)).astype(dtype)
