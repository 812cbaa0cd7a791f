"""How an image is stored: whether its header says so in a sound way, and where the bytes of a tile-compressed one are.

A reader takes what it cannot understand for missing, and uses a default: the pixels are others then, and nobody notices. So
damaged keywords of the storage are errors, whatever could be made of the bytes, and nothing here reads outside the data unit.

References: FITS standard 4.0, sections 4.4.1, 7.1, 7.3 and 10.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from ..errors import ExposureError
from .hdu import Hdu, text

__all__ = [
    "LOSSLESS",
    "STORAGE",
    "TILES",
    "Column",
    "heap_start_of",
    "is_scaled",
    "require_sound",
    "table_columns",
    "table_values",
    "tile_ranges",
    "unpack_row",
]

STORAGE = re.compile(
    r"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|TFIELDS|THEAP"
    r"|(TTYPE|TFORM|TUNIT|TNULL|TSCAL|TZERO|TDISP|TDIM)\d+"
    r"|Z(IMAGE|TENSION|SIMPLE|EXTEND|BLOCKED|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TILE\d+|CMPTYPE|NAME\d+|VAL\d+"
    r"|QUANTIZ|DITHER0|BLANK|SCALE|ZERO|MASKCMP))$"
)
TILES = {"COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA"}
COLUMNS = TILES | {"ZSCALE", "ZZERO", "ZBLANK"}
LOSSLESS = ("GZIP_1", "GZIP_2", "NOCOMPRESS")  # can hold floats that are not quantised
CODECS = (*LOSSLESS, "RICE_1", "RICE_ONE", "PLIO_1", "HCOMPRESS_1")
DITHERED = ("SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2")
QUANTISATIONS = ("", "NONE", "NO_DITHER", *DITHERED)
SEEDS = 10000
_SIZES = {"L": 1, "X": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_TYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "P": ">i4", "Q": ">i8"}


def require_sound(hdu: Hdu) -> None:
    """Raise an ExposureError that names the keyword where one that tells how an image is stored is damaged."""
    header = hdu.header
    for key in filter(STORAGE.match, header):
        try:
            header[key]
        except (fits.VerifyError, ValueError):
            raise _damaged(f"{key} cannot be understood") from None
    if not hdu.shape:
        kind = text(header, "XTENSION") or "missing"
        raise ExposureError(f"it has no pixels, or its header is damaged (XTENSION is {kind}, NAXIS {header.get('NAXIS')})")
    if header.get("GCOUNT", 1) != 1:
        raise _damaged(f"GCOUNT is {header['GCOUNT']}, expected 1")
    if hdu.compressed:
        _require_sound_tiles(header, hdu.shape)
    elif header.get("PCOUNT", 0) != 0:
        raise _damaged(f"PCOUNT is {header['PCOUNT']}, expected 0")


def _require_sound_tiles(header: fits.Header, shape: tuple[int, ...]) -> None:
    for key, allowed in (("ZCMPTYPE", CODECS), ("ZBITPIX", (8, 16, 32, 64, -32, -64)), ("ZQUANTIZ", QUANTISATIONS)):
        value = header.get(key, "" if key == "ZQUANTIZ" else None)
        if (value.strip() if isinstance(value, str) else value) not in allowed:
            raise _damaged(f"{key} is {value}, expected one of {', '.join(map(str, filter(None, allowed)))}")
    sides = [header.get(f"ZTILE{i}", n if i == 1 else 1) for i, n in enumerate(reversed(shape), 1)]
    if not all(type(side) is int and side > 0 for side in sides):
        raise _damaged(f"its tiles have the size {' x '.join(map(str, sides))}")
    expected = math.prod(-(-n // side) for n, side in zip(reversed(shape), sides, strict=True))
    if header.get("NAXIS2") != expected:
        raise _damaged(f"it has {header.get('NAXIS2')} tiles, expected {expected}")
    columns = table_columns(header)
    if "COMPRESSED_DATA" not in columns or columns.keys() - COLUMNS:
        raise _damaged(f"its columns are {', '.join(columns) or 'none'}")
    wrong = [name for name in TILES & columns.keys() if columns[name].code not in "PQ" or columns[name].count != 1]
    if wrong:
        raise _damaged(f"its column {wrong[0]} is no list of bytes")
    seed = header.get("ZDITHER0")
    if text(header, "ZQUANTIZ") in DITHERED and not (type(seed) is int and 0 < seed <= SEEDS):
        raise _damaged(f"ZDITHER0 is {seed}, expected 1 to {SEEDS}")


def _damaged(how: str) -> ExposureError:
    return ExposureError(f"its header is damaged: {how}")


@dataclass(frozen=True)
class Column:
    """Where a column of a binary table lies in each row."""

    offset: int  # byte within the row
    code: str  # letter of TFORMn; P and Q are descriptors of variable-length arrays
    count: int  # elements
    element: str = ""  # letter of the elements of a variable-length array


def table_columns(header: fits.Header) -> dict[str, Column]:
    """Return the columns of a binary table by TTYPEn; none where the header does not describe a table that fits into its rows."""
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
    """Tell whether the numbers of a column are to be scaled (TSCALn, TZEROn), which `table_values` does not do."""
    n = len(table_columns(header))
    return any(f"{key}{i}" in header for key in ("TSCAL", "TZERO") for i in range(1, n + 1))


def table_values(header: fits.Header, raw: bytes | bytearray, column: Column) -> np.ndarray:
    """Return a column as it is stored, big-endian, shape (rows,); of descriptors (rows, 2): length and offset in the heap.

    It is a view, so that a change to it is a change to a writable `raw`.
    """
    rows, width = header["NAXIS2"], header["NAXIS1"]
    kind = np.dtype(_TYPES[column.code])
    shape, strides = ((rows, 2), (width, kind.itemsize)) if column.code in "PQ" else ((rows,), (width,))
    return np.ndarray(shape, kind, buffer=raw, offset=column.offset, strides=strides)


def heap_start_of(header: fits.Header, raw: bytes | bytearray) -> int:
    """Return the first byte of the heap in the data unit; raise an ExposureError where the table does not fit into the data."""
    end_of_table = header["NAXIS2"] * header["NAXIS1"]
    heap_start = header.get("THEAP", end_of_table)
    if not isinstance(heap_start, int) or isinstance(heap_start, bool) or not end_of_table <= heap_start <= len(raw):
        raise ExposureError("the table of compressed rows does not fit into the data; the file is damaged")
    return heap_start


def tile_ranges(header: fits.Header, raw: bytes | bytearray, column: Column, heap_start: int) -> tuple[np.ndarray, np.ndarray]:
    """Return first byte and length of each row's bytes; raise an ExposureError that names the row where one is not in the heap."""
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


def unpack_row(raw: bytes | bytearray, start: int, length: int, row: int, kind: np.dtype, n: int) -> np.ndarray:
    """Return the n values of one gzip'd row (counted from 0); raise an ExposureError where the bytes are not that many."""
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
