"""One HDU as bytes: header cards and checksums, the same bytes whenever it is made.

astropy's checksums carry the time at which they were made, so that no two files
would be the same, and its headers take longer to make than the pixels of a small
detector. Headers that kred makes from nothing are plain dictionaries of value and comment.
"""

from __future__ import annotations

from .checksum import add, datasum, encode
from .exposure import BLOCK

__all__ = ["Cards", "Value", "hdu_bytes"]

Value = bool | int | float | str
Cards = dict[str, tuple[Value, str]]  # keyword -> value, comment; in the order of the header


def _card(keyword: str, value: Value, comment: str) -> str:
    """One card in fixed format (FITS standard 4.0, section 4.2); a comment that does not fit is cut."""
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, int):
        text = f"{value:>20d}"
    elif isinstance(value, float):
        text = f"{repr(value).upper():>20}"
    else:
        quoted = "'" + value.replace("'", "''").ljust(8) + "'"
        text = f"{quoted:<20}"
    card = f"{keyword:<8}= {text}" + (f" / {comment}" if comment else "")
    return f"{card[:80]:<80}"


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
    at = header.index(b"CHECKSUM= '") + 11
    checksum = encode(add(datasum(header), data_sum))
    return header[:at] + checksum.encode("ascii") + header[at + 16 :], padded
