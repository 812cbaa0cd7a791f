"""Whether a header says in a sound way how its image is stored, before anybody decodes it.

A reader takes what it cannot understand for missing, and uses a default: the pixels are others then, and nobody notices.
So damaged keywords of the storage are errors, whatever could be made of the bytes. Apart from the decoders because check,
which decodes nothing, wants to know, too.

References: FITS standard 4.0, sections 4.4.1, 7.1 and 10.1.
"""

from __future__ import annotations

import math
import re

from astropy.io import fits

from ..errors import ExposureError
from .bintable import table_columns
from .hdu import Hdu, text

__all__ = ["DITHERED", "LOSSLESS", "STORAGE", "TILES", "require_sound"]

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


def require_sound(hdu: Hdu) -> None:
    """Raise an error where keywords of the storage are damaged.

    Parameters
    ----------
    hdu : `~kred_core.fits.hdu.Hdu`
        One that is an image.

    Raises
    ------
    ExposureError
        The message names the keyword; it is a sentence to which the caller adds the detector.
    """
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
