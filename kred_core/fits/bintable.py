"""Layout of the binary table that holds a tile-compressed image: columns, descriptors, heap.

What the decoders and the rescaling share. Damaged bytes are expected: nothing
here reads outside the data unit, and an error names the row.

References: FITS standard 4.0, sections 7.3 and 10.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from ..errors import ExposureError

__all__ = ["Column", "heap_start_of", "is_scaled", "table_columns", "table_values", "tile_ranges", "unpack_row"]

_SIZES = {"L": 1, "X": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_TYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "P": ">i4", "Q": ">i8"}


@dataclass(frozen=True)
class Column:
    """Where a column of a binary table lies in each row.

    Attributes
    ----------
    offset : int
        Byte within the row.
    code : str
        Type letter of TFORMn; P and Q are descriptors of variable-length arrays.
    count : int
        Elements.
    element : str
        Type letter of the elements of a variable-length array, else ''.
    """

    offset: int
    code: str
    count: int
    element: str = ""


def table_columns(header: fits.Header) -> dict[str, Column]:
    """Lay out the rows of a binary table.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`

    Returns
    -------
    dict of str to Column
        By TTYPEn; empty where the header does not describe a table that fits into its rows.
    """
    n_fields, width, rows = header.get("TFIELDS", 0), header.get("NAXIS1", 0), header.get("NAXIS2")
    if not isinstance(n_fields, int) or not 0 < n_fields < 1000 or not (isinstance(width, int) and isinstance(rows, int)):
        return {}
    columns, offset = {}, 0
    for i in range(1, n_fields + 1):
        form = re.match(r"\s*(\d*)([LXBIJKAEDCMPQ])([BIJKED]?)", str(header.get(f"TFORM{i}", "")))
        if not form:
            return {}
        count, code, element = int(form[1] or 1), form[2], form[3]
        columns[str(header.get(f"TTYPE{i}", "")).strip().upper()] = Column(offset, code, count, element)
        offset += math.ceil(count / 8) if code == "X" else count * _SIZES[code]
    return columns if offset <= width else {}


def is_scaled(header: fits.Header) -> bool:
    """Whether the numbers of a column are to be scaled (TSCALn, TZEROn), which `table_values` does not do.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`

    Returns
    -------
    bool
    """
    n = len(table_columns(header))
    return any(f"{key}{i}" in header for key in ("TSCAL", "TZERO") for i in range(1, n + 1))


def table_values(header: fits.Header, raw: bytes | bytearray, column: Column) -> np.ndarray:
    """A column as it is stored, big-endian; a view, so that a change to it is a change to a writable `raw`.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
    raw : bytes-like
        The data unit.
    column : Column
        One that `table_columns` found.

    Returns
    -------
    `~numpy.ndarray`
        Shape (rows,); of descriptors (rows, 2): length, offset in the heap.
    """
    rows, width = header["NAXIS2"], header["NAXIS1"]
    kind = np.dtype(_TYPES[column.code])
    shape, strides = ((rows, 2), (width, kind.itemsize)) if column.code in "PQ" else ((rows,), (width,))
    return np.ndarray(shape, kind, buffer=raw, offset=column.offset, strides=strides)


def heap_start_of(header: fits.Header, raw: bytes) -> int:
    """First byte of the heap in the data unit.

    Raises
    ------
    ExposureError
        The table does not fit into the data.
    """
    end_of_table = header["NAXIS2"] * header["NAXIS1"]
    heap_start = header.get("THEAP", end_of_table)
    if not isinstance(heap_start, int) or isinstance(heap_start, bool) or not end_of_table <= heap_start <= len(raw):
        raise ExposureError("the table of compressed rows does not fit into the data; the file is damaged")
    return heap_start


def tile_ranges(header: fits.Header, raw: bytes, column: Column, heap_start: int) -> tuple[np.ndarray, np.ndarray]:
    """First byte in the data unit, and length, of each row's bytes; all within the data unit.

    Raises
    ------
    ExposureError
        A row lies outside the heap; the message names it.
    """
    descriptors = table_values(header, raw, column).astype(np.int64)
    room, size = len(raw) - heap_start, _SIZES.get(column.element, 1)
    lengths, offsets = descriptors[:, 0].clip(-1, room + 1) * size, descriptors[:, 1]
    wrong = (lengths < 0) | (lengths > room) | ((lengths > 0) & ((offsets < 0) | (offsets > room - lengths)))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ExposureError(
            f"row {row + 1} is damaged: its {descriptors[row, 0] * size} bytes at {offsets[row]} lie outside the {room} of the heap"
        )
    return heap_start + np.where(lengths > 0, offsets, 0), lengths


def unpack_row(raw: bytes, start: int, length: int, row: int, kind: np.dtype, n: int) -> np.ndarray:
    """The n values of one gzip'd row (counted from 0).

    Raises
    ------
    ExposureError
        The bytes cannot be unpacked, or are not n values.
    """
    n_bytes = kind.itemsize * n
    unpacking = zlib.decompressobj(wbits=31)
    try:
        values = unpacking.decompress(bytes(raw[start : start + length]), n_bytes + 1)
    except zlib.error as e:
        raise ExposureError(f"row {row + 1} is damaged: its gzip'd pixels cannot be unpacked ({e})") from e
    if len(values) == n_bytes and not unpacking.eof:
        raise ExposureError(f"row {row + 1} is damaged: its gzip'd pixels end before their checksum")
    if len(values) != n_bytes:
        raise ExposureError(f"row {row + 1} is damaged: expected {n_bytes} bytes of pixels, found {len(values)}")
    return np.frombuffer(values, kind)
