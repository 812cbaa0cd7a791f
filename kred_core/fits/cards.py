"""The one writer of headers and checksums, the same bytes whenever they are made.

astropy's checksums carry the time at which they were made, and its headers take longer to make than the pixels of a small
detector. Headers that kred makes from nothing are plain dictionaries of value and comment.
"""

from __future__ import annotations

from .checksum import add, datasum, encode
from .hdu import BLOCK, CARD

__all__ = ["Cards", "Value", "card", "filled", "hdu_bytes", "padded", "sealed"]

LONGEST_PART = 67  # characters of a text on one card: 80 less keyword, quotes and the sign that it goes on
UNSEALED = "0" * 16  # in the place of a CHECKSUM

Value = bool | int | float | str
Cards = dict[str, tuple[Value, str]]  # keyword -> value, comment; in the order of the header


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
