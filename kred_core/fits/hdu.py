"""Find the header-data units of a FITS file without reading their data.

Of each header only the cards that tell the structure are looked at, the others when somebody asks for them, because a MEF has
60 headers of a hundred cards and most stages need a few of them.
"""

from __future__ import annotations

import io
import math
import re
import stat
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from astropy.io import fits

from ..errors import ExposureError, printable

__all__ = ["BLOCK", "Hdu", "number", "scan", "text", "walk"]

BLOCK = 2880
CARD = 80
STRUCTURE = re.compile(rb"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|ZIMAGE|ZNAXIS\d*|EXTNAME) *(=|$)")
RECORD = 10 * BLOCK  # of a tape: files may be padded to whole ones; more zeros are a part that never arrived
MAX_HEADER_BLOCKS = 4000  # 11 MB of header: nothing real comes near


def _value(header: fits.Header, key: str) -> Any:
    """What a header says of a keyword, or None where it is missing or unreadable."""
    try:
        return header.get(key)
    except (fits.VerifyError, ValueError):
        return None


def number(header: fits.Header, key: str) -> float | None:
    """Return a finite number from a header, or None where it is missing, a text such as 'NaN', or not finite."""
    value = _value(header, key)
    if isinstance(value, bool) or value is None:
        return None
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def text(header: fits.Header, key: str) -> str:
    """Return a printable text from a header without surrounding blanks, or '' where it is missing or unreadable."""
    value = _value(header, key)
    return printable(str(value).strip()) if isinstance(value, (str, int, float)) else ""


def _parse(raw: bytes) -> fits.Header:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd cards are common in real files; what matters is looked at where it is used
        return fits.Header.fromstring(raw.decode("latin-1"))


def _matching(raw: bytes, wanted: re.Pattern[bytes]) -> fits.Header:
    """The cards that match; a few of them take a tenth of the time that all cards take."""
    cards = (raw[i : i + CARD] for i in range(0, len(raw), CARD))
    return _parse(b"".join(card for card in cards if wanted.match(card)))


@dataclass(frozen=True)
class Hdu:
    """One header-data unit as it lies in a file."""

    path: Path
    index: int  # 0 is the primary HDU
    structure: fits.Header = field(repr=False)  # the few cards that tell what and where the data are
    raw_header: bytes = field(repr=False)  # in whole blocks
    header_start: int  # byte of the file
    data_start: int
    data_length: int  # bytes, without the padding to whole blocks

    @property
    def end(self) -> int:
        """First byte after this HDU, padding included."""
        return self.data_start + -(-self.data_length // BLOCK) * BLOCK

    def read(self) -> bytearray:
        """Return the data as they are stored; an ExposureError says that the file has become shorter, an OSError anything else."""
        data = bytearray(self.data_length)
        with open(self.path, "rb") as f:
            f.seek(self.data_start)
            if f.readinto(data) < len(data):
                raise ExposureError("the file has become shorter while it was being read")
        return data

    @cached_property
    def header(self) -> fits.Header:
        """The header as stored: of a compressed image, that of its binary table."""
        return _parse(self.raw_header)

    def cards(self, wanted: re.Pattern[bytes]) -> fits.Header:
        """The cards of the header that match a pattern."""
        return _matching(self.raw_header, wanted)

    @property
    def extname(self) -> str:
        """EXTNAME, or '' where there is none."""
        return text(self.structure, "EXTNAME")

    @property
    def compressed(self) -> bool:
        """Whether this is a tile-compressed image."""
        return _value(self.structure, "ZIMAGE") is True

    @property
    def is_image(self) -> bool:
        """Whether an extension is an image, be it one without data or with a damaged header; the others are tables."""
        if text(self.structure, "XTENSION") not in ("BINTABLE", "TABLE"):
            return True
        return any(key.startswith("Z") for key in self.structure)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Image size in numpy's order (NAXIS2, NAXIS1); () where there is no image."""
        if self.index and not self.compressed and text(self.structure, "XTENSION") != "IMAGE":
            return ()  # a table
        z = "Z" if self.compressed else ""
        n_axes = _value(self.structure, f"{z}NAXIS")
        if type(n_axes) is not int or not 0 < n_axes < 10:
            return ()
        axes = [_value(self.structure, f"{z}NAXIS{i}") for i in range(n_axes, 0, -1)]
        sizes = [a for a in axes if type(a) is int and a >= 0]
        return tuple(sizes) if len(sizes) == n_axes else ()


def _data_length(header: fits.Header, where: str) -> int:
    """Bytes of an HDU's data: |BITPIX|/8 x GCOUNT x (PCOUNT + NAXIS1 x NAXIS2 ...). FITS standard 4.0, eq. 2."""
    n_axes = header.get("NAXIS", 0)
    bits = header.get("BITPIX", 8)
    sizes = [n_axes, bits, header.get("PCOUNT", 0), header.get("GCOUNT", 1)]
    sizes += [header.get(f"NAXIS{i}") for i in range(1, n_axes + 1)] if isinstance(n_axes, int) and n_axes < 1000 else [None]
    if not all(isinstance(s, int) and not isinstance(s, bool) for s in sizes) or abs(bits) not in (8, 16, 32, 64):
        raise ExposureError(f"{where}: BITPIX, NAXIS, PCOUNT or GCOUNT is missing or not a sensible whole number")
    if n_axes < 0 or any(s < 0 for s in sizes[2:]):
        raise ExposureError(f"{where}: a negative NAXIS, NAXISn, PCOUNT or GCOUNT")
    if n_axes == 0:
        return 0
    return abs(bits) // 8 * sizes[3] * (sizes[2] + math.prod(sizes[4:]))


def scan(path: Path) -> list[Hdu]:
    """Find the HDUs of a FITS file from their headers and lengths; no data are read.

    Raises
    ------
    ExposureError
        Not a FITS file, damaged headers, or data that end before they should (a truncated copy); the message says which
        extension is the first to suffer.
    """
    return list(walk(path))


def walk(path: Path) -> Iterator[Hdu]:
    """Yield the HDUs of a FITS file one after the other, as `scan` finds them; who stops early reads no more than that."""
    try:
        status = path.stat()
        if stat.S_ISFIFO(status.st_mode):  # to open it would be to wait for whoever writes into it
            raise ExposureError(f"{path.name}: is no file but a pipe")
        size = status.st_size
        with open(path, "rb") as f:
            yield from _walk(path, f, size)
    except OSError as e:
        raise ExposureError(f"{path.name}: cannot be read: {e.strerror or e}") from e


def _walk(path: Path, f: io.BufferedReader, size: int) -> Iterator[Hdu]:
    n = 0
    at = 0
    while at < size:
        where = f"{path.name}[{n}]"
        f.seek(at)
        blocks: list[bytes] = []
        while True:
            block = f.read(BLOCK)
            first = not blocks
            if first and not n and not block.startswith(b"SIMPLE  ="):
                raise ExposureError(f"{path.name}: is not a FITS file (it does not begin with SIMPLE)")
            if first and n and not block.startswith(b"XTENSION"):
                if size - at <= RECORD and not (block + f.read(RECORD)).strip(b"\0 "):
                    return  # padding after the last HDU
                raise ExposureError(
                    f"{where}: the {size - at} bytes after extension {n - 1} are no FITS header; the file is damaged"
                )
            if len(block) < BLOCK or len(blocks) > MAX_HEADER_BLOCKS:
                raise ExposureError(f"{where}: the header has no END; the file is truncated or damaged ({size} bytes)")
            blocks.append(block)
            if any(block[i : i + 8] == b"END     " for i in range(0, BLOCK, 80)):
                break
        raw = b"".join(blocks)
        try:
            structure = _matching(raw, STRUCTURE)
            hdu = Hdu(path, n, structure, raw, at, at + len(raw), _data_length(structure, where))
        except (fits.VerifyError, ValueError, TypeError) as e:
            raise ExposureError(f"{where}: the header cannot be understood: {textwrap.shorten(str(e), 200)}") from e
        if hdu.data_start + hdu.data_length > size:
            raise ExposureError(
                f"{where} {hdu.extname}".rstrip()
                + f": the file is truncated: its data end at byte {hdu.data_start + hdu.data_length}, the file at {size}"
            )
        yield hdu
        n += 1
        at = hdu.end
    if not n:
        raise ExposureError(f"{path.name}: is empty")
