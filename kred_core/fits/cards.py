"""One HDU as bytes: header cards and checksums, the same bytes whenever it is made.

astropy's checksums carry the time at which they were made, so that no two files
would be the same, and its headers take longer to make than the pixels of a small
detector. Headers that kred makes from nothing are plain dictionaries of value and comment.
"""

from __future__ import annotations

from .checksum import add, datasum, encode
from .hdu import BLOCK

__all__ = ["Cards", "Value", "hdu_bytes"]

LONGEST_PART = 67  # characters of a text on one card: 80 less keyword, quotes and the sign that it goes on

Value = bool | int | float | str
Cards = dict[str, tuple[Value, str]]  # keyword -> value, comment; in the order of the header


def _card(keyword: str, value: Value, comment: str) -> str:
    """One card in fixed format (FITS standard 4.0, section 4.2), or several for a long text; a comment that does not fit is cut."""
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
            before += f"{start}'{part}&'".ljust(80)
            start = "CONTINUE  "
        quoted = f"'{last:<8}'"
        text = f"{quoted:<20}"
    card = start + text + (f" / {comment}" if comment else "")
    return before + f"{card[:80]:<80}"


def _parts(text: str) -> list[str]:
    """What stands between the quotes of one card, or of the cards that a long text needs; no doubled quote is torn apart."""
    parts = [""]
    for sign in text:
        sign = "''" if sign == "'" else sign
        if len(parts[-1]) + len(sign) > LONGEST_PART:
            parts.append("")
        parts[-1] += sign
    return parts


def hdu_bytes(cards: Cards, data: bytes = b"") -> tuple[bytes, bytes]:
    """Header and data of an HDU, each padded to whole blocks, with DATASUM and CHECKSUM.

    Parameters
    ----------
    cards : dict
        Keyword -> (value, comment), the structural keywords first.
    data : bytes

    Returns
    -------
    header, data : bytes
    """
    padded = data + b"\0" * (-len(data) % BLOCK)
    data_sum = datasum(padded)
    sums: Cards = {"DATASUM": (str(data_sum), "data unit checksum"), "CHECKSUM": ("0" * 16, "HDU checksum")}
    text = "".join(_card(key, value, comment) for key, (value, comment) in {**cards, **sums}.items()) + f"{'END':<80}"
    header = text.encode("ascii") + b" " * (-len(text) % BLOCK)
    at = header.rindex(b"CHECKSUM= '") + 11
    checksum = encode(add(datasum(header), data_sum))
    return header[:at] + checksum.encode("ascii") + header[at + 16 :], padded
