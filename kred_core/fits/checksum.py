"""FITS checksums: does an HDU still hold the bytes that were written? And the one writer of headers with checksums.

DATASUM and CHECKSUM are 32-bit ones' complement sums, so they find damage without decoding a pixel. astropy's carry the time at
which they were made, and its headers take longer to make than the pixels of a small detector; so headers that kred makes from
nothing are plain dictionaries of value and comment, the same bytes whenever they are made.
"""

from __future__ import annotations

import numpy as np

from ..errors import ExposureError
from .hdu import BLOCK, CARD, Hdu, text

__all__ = [
    "Cards",
    "Value",
    "add",
    "card",
    "damage",
    "data_sum",
    "datasum",
    "edited_header",
    "encode",
    "filled",
    "hdu_bytes",
    "padded",
    "sealed",
]

_FULL = 0xFFFFFFFF
LONGEST_PART = 67  # characters of a text on one card: 80 less keyword, quotes and the sign that it goes on
UNSEALED = "0" * 16  # in the place of a CHECKSUM

Value = bool | int | float | str
Cards = dict[str, tuple[Value, str]]  # keyword -> value, comment; in the order of the header


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


# headers


def card(keyword: str, value: Value, comment: str = "") -> str:
    """Return a card in fixed format (FITS standard 4.0, section 4.2), or several for a long text; a long comment is cut."""
    before, start = "", f"{keyword:<8}= "
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, int):
        text = f"{value:>20d}"
    elif isinstance(value, float):
        text = f"{repr(float(value)).upper():>20}"
    else:
        *parts, last = _parts(value)
        for part in parts:
            before += f"{start}'{part}&'".ljust(CARD)
            start = "CONTINUE  "
        quoted = f"'{last:<8}'"
        text = f"{quoted:<20}"
    written = start + text + (f" / {comment}" if comment else "")
    return before + f"{written[:CARD]:<{CARD}}"


def _parts(text: str) -> list[str]:
    """What stands between the quotes of one card, or of the cards that a long text needs; no doubled quote is torn apart."""
    parts = [""]
    for sign in text:
        sign = "''" if sign == "'" else sign
        if len(parts[-1]) + len(sign) > LONGEST_PART:
            parts.append("")
        parts[-1] += sign
    return parts


def padded(data: bytes | bytearray) -> bytes:
    """Return data filled up with zeros to whole blocks."""
    return b"".join([data, bytes(-len(data) % BLOCK)])


def filled(cards: bytes) -> bytes:
    """Return a header, given without its END, in whole blocks."""
    header = cards + b"END".ljust(CARD)
    return header + b" " * (-len(header) % BLOCK)


def sealed(header: bytes, data_sum: int) -> bytes:
    """Return a header in whole blocks, whose CHECKSUM is `UNSEALED`, with the right one for data of that sum."""
    card_start = f"CHECKSUM= '{UNSEALED}'".encode()
    at = next(i for i in range(0, len(header), CARD) if header.startswith(card_start, i)) + card_start.index(b"0")
    return header[:at] + encode(add(datasum(header), data_sum)).encode("ascii") + header[at + len(UNSEALED) :]


def hdu_bytes(cards: Cards, data: bytes = b"") -> tuple[bytes, bytes]:
    """Return header and data of an HDU, each in whole blocks, with DATASUM and CHECKSUM.

    Parameters
    ----------
    cards : dict
        Keyword -> (value, comment), the structural keywords first.
    data : bytes

    Returns
    -------
    header, data : bytes
    """
    data = padded(data)
    data_sum = datasum(data)
    sums: Cards = {"DATASUM": (str(data_sum), "data unit checksum"), "CHECKSUM": (UNSEALED, "HDU checksum")}
    text = "".join(card(key, value, comment) for key, (value, comment) in {**cards, **sums}.items())
    return sealed(filled(text.encode("ascii")), data_sum), data
