"""Prepared detectors in counts28: raw * scale - back, without rewriting a pixel where that can be helped.

The factor follows from the zero point; the background is one number for all detectors of an exposure, so that it takes
out the sky and leaves what differs between detectors to the matching.

Quantised tiles hold pixel = q * ZSCALE + ZZERO, so two numbers for each row are edited in a copy of the compressed bytes: nothing
is lost, nothing is quantised a second time. Images for which these two numbers do not tell everything are decoded and stored again
without loss. Headers are edited card by card as bytes, so that the odd cards of real files come out as they went in.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from .. import __version__, products
from ..constants import ZERO_POINT
from ..errors import ExposureError
from ..fits import checksum, rice, storage
from ..fits.checksum import UNSEALED, Value, card, filled, padded, sealed
from ..fits.hdu import CARD, Hdu, number, walk
from ..fits.pixels import read_pixels
from ..fits.storage import STORAGE, require_sound
from .exposure import Detector

__all__ = ["exposure_background", "factor", "rescale_detector"]

UNIT = "count"  # of the FITS standard's units the one that fits; "counts28" is no unit that other programs can read
GAINS = ("GAIN", "GAINA", "GAINB", "ARAWGAIN")  # electrons per count
LEVELS = ("SATURAT", "SATURATE", "SATURATA", "SATURATB", "AVSKY", "SKYADU", "SKYBRITE")
SPREADS = ("AVSIG", "SKYSIGMA")


def factor(magzero: float) -> float:
    """Return the factor from ADU to counts28, in which a source of 28 mag has 1 count; the zero point is that of 1 ADU."""
    return 10.0 ** (0.4 * (ZERO_POINT - magzero))


def exposure_background(method: str, mode: Sequence[float], median: Sequence[float], scale: float) -> float:
    """Return the background of one exposure in counts28 per pixel.

    Parameters
    ----------
    method : {"mode", "median", "min", "none"}
        Median over the detectors of their mode or of their median, the smallest mode, or 0.
    mode, median : sequence of float
        Half-sample mode and median of each detector, in ADU.
    scale : float
        See `factor`.
    """
    if method == "none":
        return 0.0
    levels = np.asarray(median if method == "median" else mode, dtype=np.float64)
    level = np.min(levels) if method == "min" else np.median(levels)
    return float(level * scale)


def rescale_detector(
    primary: fits.Header, detector: Detector, destination: Path, scale: float, back: float, plain: bool = False
) -> None:
    """Write one detector as raw * scale - back, with headers that say so.

    The file has the exposure's primary header and one extension. The same input gives the same bytes.

    Parameters
    ----------
    primary, detector, destination
        Primary header of the exposure, one of its detectors, and the file, which appears when it is complete.
    scale : float
        counts28 per ADU; the keyword XFACTOR.
    back : float
        Background in counts28 per pixel; the keyword SUB_BACK.
    plain : bool
        Write an uncompressed float32 image, however the input is stored.

    Raises
    ------
    ExposureError
        The detector cannot be read, or `scale` or `back` is no usable number.
    OSError
        The file cannot be written.

    Notes
    -----
    Storage, unless `plain`: quantised tiles (RICE_1 and others) are copied with ZSCALE * scale and ZZERO * scale - back. Decoded
    and stored as GZIP_2 without quantisation are images that are compressed without loss, integer images, images with rows that
    could not be quantised (ZSCALE = 0), and images of SUBTRACTIVE_DITHER_2 that hold exact zeros, which that form keeps apart from
    ZSCALE and ZZERO. Uncompressed images stay so, as float32.

    Header: gains (electrons per count) are divided by `scale`; saturation and sky levels become level * scale - back, their spreads
    spread * scale; read noise is in electrons and stays. GAIN, RDNOISE (mean of the amplifiers) and SATURAT (the lower one) are
    added where GAINA etc. are there. MAGZERO and MAGZPT are those of counts28, the file's own become MAGZERO0 and MAGZPT0. Records
    of earlier processing (SKYSUB, PUPILSKY, FRGSCALE, ...) stay as they are, in ADU.
    """
    scale, back = float(scale), float(back)
    hdu = detector.hdu
    where = f"{hdu.path.name} {detector.extname}"
    if not (math.isfinite(scale) and scale > 0 and math.isfinite(back)):
        raise ExposureError(
            f"{where}: expected a factor above 0 and a finite background, found {scale} and {back}; is its MAGZERO right?"
        )
    try:
        require_sound(hdu)
        data: bytes | bytearray = hdu.read()
        first, cards = _Cards(next(walk(hdu.path)).raw_header), _Cards(hdu.raw_header)
    except OSError as e:
        raise ExposureError(f"{where}: cannot be read: {e.strerror or e}") from e
    except ExposureError as e:
        raise ExposureError(f"{where}: {e}") from e
    if plain or not _edit_quantised(hdu, cards, data, scale, back):
        data = _store_again(hdu, cards, scale, back, plain)
    exptime = number(primary, "EXPTIME")
    _describe_primary(first, primary)
    for some, header in ((first, primary), (cards, detector.header)):
        _calibrate_header(some, header, scale, back)
        _set_zero_point(some, header, exptime)
        some.set("XFACTOR", scale, "counts28 per adu")
        some.set("SUB_BACK", back, "[counts28] background subtracted")
    cards.set("BUNIT", UNIT, "counts28: a source of 28 mag has 1 count")
    cards.history(f"kred {__version__}: adu * {scale!r} - {back!r}")
    cards.history(f"kred: from {hdu.path.name}")
    with products.atomic(destination) as temporary, open(temporary, "wb") as f:
        for piece in (*_hdu(first, b""), *_hdu(cards, data)):
            f.write(piece)


# pixels


def _edit_quantised(hdu: Hdu, cards: _Cards, data: bytes | bytearray, scale: float, back: float) -> bool:
    """Edit ZSCALE and ZZERO in place; False, and nothing done, where these two do not describe every pixel.

    That the table has a column of tiles has been found by `require_sound`.
    """
    header = hdu.header
    if not hdu.compressed or header.get("ZBITPIX") not in (-32, -64):
        return False
    if header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0 or storage.is_scaled(header):
        return False
    columns = storage.table_columns(header)
    if header["NAXIS1"] * header["NAXIS2"] > len(data):
        return False
    if not storage.table_values(header, data, columns["COMPRESSED_DATA"])[:, 0].all():
        return False  # rows stored otherwise
    values: dict[str, Any] = {}
    for name in ("ZSCALE", "ZZERO"):
        column = columns.get(name)
        if column is not None and (column.code != "D" or column.count != 1):
            return False
        values[name] = number(header, name) if column is None else storage.table_values(header, data, column)
        if values[name] is None:
            return False
    if not (np.isfinite(values["ZSCALE"]).all() and np.isfinite(values["ZZERO"]).all() and np.all(values["ZSCALE"])):
        return False
    if str(header.get("ZQUANTIZ", "")).strip() == "SUBTRACTIVE_DITHER_2" and not read_pixels(hdu).all():
        return False
    for name, value in (("ZSCALE", values["ZSCALE"] * scale), ("ZZERO", values["ZZERO"] * scale - back)):
        if name in columns:
            values[name][:] = value
        else:
            cards.set(name, float(value))
    return True


def _store_again(hdu: Hdu, cards: _Cards, scale: float, back: float, plain: bool) -> bytes:
    """Decode, rescale in float64, store as float32 without loss; the cards are made to describe that."""
    decoded = read_pixels(hdu, np.float32 if rice.can_decode(hdu.header) else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = (decoded.astype(np.float64) * scale - back).astype(">f4")
    cards.remove(STORAGE.match)
    n_rows, n_columns = pixels.shape
    size: list[tuple[str, Value]] = [("NAXIS", 2), ("NAXIS1", n_columns), ("NAXIS2", n_rows), ("PCOUNT", 0), ("GCOUNT", 1)]
    if plain or not hdu.compressed:
        cards.begin([("XTENSION", "IMAGE"), ("BITPIX", -32), *size])
        return pixels.tobytes()
    table, heap, longest = _gzip_2(pixels)
    column: list[tuple[str, Value]] = [("TTYPE1", "COMPRESSED_DATA"), ("TFORM1", f"1PB({longest})")]
    column += [("ZIMAGE", True), ("ZTENSION", "IMAGE")]
    cards.begin(
        [
            *[("XTENSION", "BINTABLE"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", 8), ("NAXIS2", n_rows)],
            *[("PCOUNT", len(heap)), ("GCOUNT", 1), ("TFIELDS", 1)],
            *column,
            *[("ZBITPIX", -32), *((f"Z{key}", value) for key, value in size)],
            *[("ZTILE1", n_columns), ("ZTILE2", 1), ("ZCMPTYPE", "GZIP_2")],
        ]
    )
    return table + heap


def _gzip_2(pixels: np.ndarray) -> tuple[bytes, bytes, int]:
    """Descriptors, heap and longest row of an image, a row a tile: FITS standard 4.0, section 10.4.2.

    All first bytes of a row's numbers, then all second bytes, and so on, are gzip'd; at level 1, because
    noise does not get smaller by more effort.
    """
    n_rows, n_columns = pixels.shape
    shuffled = np.ascontiguousarray(pixels.view(np.uint8).reshape(n_rows, n_columns, 4).transpose(0, 2, 1))
    rows = [zlib.compress(row, 1, wbits=31) for row in shuffled]
    lengths = np.array([len(row) for row in rows])
    descriptors = np.stack([lengths, np.cumsum(lengths) - lengths], axis=1).astype(">i4")
    return descriptors.tobytes(), b"".join(rows), int(lengths.max())


# headers


class _Cards:
    """A header as its 80-character cards, without END and the blanks that fill it up.

    astropy's Header is not used for writing: it would repair the odd cards of
    real files (or refuse to write them), and warns through a state that threads share.
    """

    def __init__(self, raw: bytes):
        cards = (raw[i : i + CARD].decode("latin-1") for i in range(0, len(raw), CARD))
        self.cards = list(itertools.takewhile(lambda card: card[:8] != "END     ", cards))

    def remove(self, is_unwanted) -> None:
        self.cards = [card for card in self.cards if not is_unwanted(card[:8].rstrip())]

    def begin(self, pairs: Sequence[tuple[str, Value]]) -> None:
        """Put the cards that describe the structure in front of the others."""
        self.cards[:0] = [card(key, value) for key, value in pairs]

    def set(self, key: str, value: Value, comment: str = "") -> None:
        """Replace the card of a keyword where it stands, or add one; a keyword has one value afterwards."""
        found = [i for i, card in enumerate(self.cards) if card[:8].rstrip() == key]
        if not found:
            self._append(card(key, value, comment))
            return
        self.cards[found[0]] = card(key, value, comment)
        for i in reversed(found[1:]):
            del self.cards[i]

    def comment(self, key: str) -> str:
        """Comment of a keyword's card, with the unit of pixels that it has now."""
        card = next((card for card in self.cards if card[:8].rstrip() == key), "")
        return re.sub(r"\badu\b", "counts28", fits.Card.fromstring(card).comment, flags=re.IGNORECASE)

    def history(self, line: str) -> None:
        line = line.encode("ascii", "replace").decode()
        for i in range(0, len(line), 72):
            self._append(f"HISTORY {line[i : i + 72]}".ljust(80))

    def _append(self, card: str) -> None:
        """Add a card after the last one that is not blank: blank cards at the end are room kept free by the writer."""
        end = len(self.cards)
        while end and not self.cards[end - 1].strip():
            end -= 1
        self.cards.insert(end, card)

    def __bytes__(self) -> bytes:
        return filled("".join(self.cards).encode("latin-1"))


def _calibrate_header(cards: _Cards, header: fits.Header, scale: float, back: float) -> None:
    """Numbers about pixels, in the unit that the pixels now have."""
    changes = {key: lambda v: v / scale for key in GAINS}
    changes |= {key: lambda v: v * scale - back for key in LEVELS}
    changes |= {key: lambda v: v * scale for key in SPREADS}
    for key, change in changes.items():
        value = number(header, key)
        if value is not None and math.isfinite(change(value)):
            cards.set(key, change(value), cards.comment(key))
        elif value is not None:
            cards.remove(key.__eq__)  # absurd in the input, and more than a header can hold in counts28
    amplifiers = [
        ("GAIN", lambda v: sum(v) / len(v) / scale, "[electrons/counts28] mean of the amplifiers"),
        ("RDNOISE", lambda v: sum(v) / len(v), "[electrons] mean of the amplifiers"),
        ("SATURAT", lambda v: min(v) * scale - back, "[counts28] the lower of the amplifiers"),
    ]
    for key, combine, comment in amplifiers:
        values = [v for v in (number(header, key + "A"), number(header, key + "B")) if v is not None]
        if values and key not in header and math.isfinite(combine(values)):
            cards.set(key, combine(values), comment)


def _set_zero_point(cards: _Cards, header: fits.Header, exptime: float | None) -> None:
    for key, value, meaning in (
        ("MAGZERO", ZERO_POINT, "Magnitude zero point"),
        ("MAGZPT", ZERO_POINT - 2.5 * math.log10(exptime) if exptime and exptime > 0 else None, "Magnitude zero point per sec"),
    ):
        original = number(header, key)
        if original is not None:
            cards.set(f"{key}0", original, f"[mag] {key} of the input, for 1 adu")
            if value is None:
                cards.remove(key.__eq__)
            else:
                cards.set(key, value, f"[mag] {meaning}, counts28")


def _describe_primary(cards: _Cards, header: fits.Header) -> None:
    """One extension, no pixels of its own, counts28."""
    if header.get("NAXIS", 0) != 0:
        cards.remove(STORAGE.match)
        cards.begin([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0)])
    if "NEXTEND" in header:
        cards.set("NEXTEND", 1, "Number of extensions")
    if "BUNIT" in header:
        cards.set("BUNIT", UNIT, "counts28: a source of 28 mag has 1 count")
    cards.set("MAGZERO", ZERO_POINT, "[mag] Magnitude zero point, counts28")
    cards.set("KREDVER", __version__, "version of kred that made this file")


def _hdu(cards: _Cards, data: bytes | bytearray) -> tuple[bytes, bytes]:
    """Return header, with its checksums, and data."""
    # those of the image before compression describe what is no longer there
    cards.remove(("ZHECKSUM", "ZDATASUM").__contains__)
    total = checksum.datasum(data)
    cards.set("DATASUM", str(total), "data unit checksum")
    cards.set("CHECKSUM", UNSEALED, "HDU checksum")
    return sealed(bytes(cards), total), padded(data)
