"""FITS checksums: does an HDU still hold the bytes that were written?

DATASUM and CHECKSUM are 32-bit ones' complement sums, so they find damage without decoding a pixel.
"""

from __future__ import annotations

import numpy as np

from ..errors import ExposureError
from .hdu import Hdu, text

__all__ = ["add", "damage", "data_sum", "datasum", "edited_header", "encode"]

_FULL = 0xFFFFFFFF


def datasum(raw: bytes | bytearray | np.ndarray) -> int:
    """Return the ones' complement sum of big-endian 32-bit words: DATASUM where they are a data unit.

    A last word that is not whole is filled up with zeros. Reference: FITS standard 4.0, section 4.4.2.7 and appendix J.
    """
    view = memoryview(raw).cast("B")  # type: ignore[arg-type] # arrays are buffers, too
    whole = len(view) // 4 * 4
    total = int(np.frombuffer(view[:whole], ">u4").sum(dtype=np.uint64))
    total += int.from_bytes(bytes(view[whole:]).ljust(4, b"\0"), "big")
    return add(total, 0)


def add(a: int, b: int) -> int:
    """Return the ones' complement sum of two sums: what overflows 32 bits is carried around to the lowest bit."""
    total = a + b
    while total > _FULL:
        total = (total & _FULL) + (total >> 32)
    return total


def encode(total: int) -> str:
    """Return the keyword CHECKSUM, 16 letters and digits, that makes an HDU sum up to nothing: FITS standard 4.0, appendix J.2.

    `total` is the sum of the whole HDU while its CHECKSUM card holds 16 zeros ('0') in columns 12 to 27.
    """
    letters = [[0] * 4 for _ in range(4)]
    for place, byte in enumerate((_FULL - total).to_bytes(4, "big")):
        # a byte becomes four characters that sum up to it (above four zeros), moved pairwise away from the punctuation
        four = [byte // 4 + byte % 4 + 48, *[byte // 4 + 48] * 3]
        for i in (0, 2):
            while any(not chr(c).isalnum() for c in four[i : i + 2]):
                four[i] += 1
                four[i + 1] -= 1
        for i in range(4):
            letters[i][place] = four[i]
    string = "".join(chr(c) for four in letters for c in four)
    return string[-1] + string[:-1]  # the card's text begins one byte before a word's limit


def damage(hdu: Hdu) -> str | None:
    """Return how an HDU differs from its DATASUM, or from its CHECKSUM where it has no other; None: not at all, or not known.

    Raises
    ------
    ExposureError
        The file cannot be read.
    """
    stated = text(hdu.header, "DATASUM")
    if stated.isdecimal():
        found = datasum(_read(hdu, hdu.data_start, hdu.end))
        if found != int(stated):
            return f"its data are damaged: DATASUM is {stated}, the bytes sum up to {found}; fetch the file again"
    elif text(hdu.header, "CHECKSUM").strip("0"):
        if datasum(_read(hdu, hdu.header_start, hdu.end)) not in (0, _FULL):
            return "its header or data are damaged: the bytes do not agree with CHECKSUM; fetch the file again"
    return None


def data_sum(hdu: Hdu, compute: bool) -> int:
    """Return what the data of an HDU sum up to: its DATASUM, or where it has none, if asked for, its bytes; 0: not known."""
    stated = text(hdu.header, "DATASUM")
    if stated.isdecimal():
        return int(stated)
    return datasum(_read(hdu, hdu.data_start, hdu.end)) if compute else 0


def edited_header(hdu: Hdu) -> str | None:
    """Return a remark where a header was changed after its CHECKSUM was written; its data are taken to be whole.

    Archives and tools edit headers and forget the checksum, so this is a remark, where `damage` is a fault.
    """
    stated = text(hdu.header, "DATASUM")
    if not stated.isdecimal() or not text(hdu.header, "CHECKSUM").strip("0"):
        return None
    if add(datasum(_read(hdu, hdu.header_start, hdu.data_start)), int(stated)) in (0, _FULL):
        return None
    return "its header does not agree with CHECKSUM: it was edited after the checksum was written (the data are whole)"


def _read(hdu: Hdu, start: int, end: int) -> bytes:
    try:
        with open(hdu.path, "rb") as f:
            f.seek(start)
            return f.read(end - start)
    except OSError as e:
        raise ExposureError(f"{hdu.path.name}[{hdu.index}]: cannot be read: {e.strerror or e}") from e
