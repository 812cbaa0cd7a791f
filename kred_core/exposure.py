"""Open a MEF, find its detectors without decoding them, read their pixels and masks.

A file is scanned once, block by block, so that opening costs the headers only,
and a detector is read from its own bytes, whatever the number of extensions.
The storage form that real Community Pipeline files have is decoded by `rice`;
every other form (gzip, plain, integers, ...) goes through astropy.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.io import fits

from . import rice
from .errors import ExposureError
from .products import FieldPaths

__all__ = ["Detector", "Exposure", "Hdu", "number", "read_pixels", "scan", "text"]

BLOCK = 2880
RECORD = 10 * BLOCK  # of a tape: files may be padded to whole ones; more zeros are a part that never arrived
MAX_HEADER_BLOCKS = 4000  # 11 MB of header: nothing real comes near
MAX_PIXELS = 1 << 28


def number(header: fits.Header, key: str) -> float | None:
    """A finite number from a header, or None where it is missing, a text such as 'NaN', or not finite."""
    try:
        value = header.get(key)
    except (fits.VerifyError, ValueError):
        return None
    if isinstance(value, bool) or value is None:
        return None
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def text(header: fits.Header, key: str) -> str:
    """A text from a header without surrounding blanks, or '' where it is missing or unreadable."""
    try:
        value = header.get(key, "")
    except (fits.VerifyError, ValueError):
        return ""
    return str(value).strip() if isinstance(value, (str, int, float)) else ""


@dataclass(frozen=True)
class Hdu:
    """One header-data unit as it lies in a file.

    Attributes
    ----------
    path : `~pathlib.Path`
    index : int
        0 is the primary HDU.
    header : `~astropy.io.fits.Header`
        As stored: of a compressed image, the header of its binary table.
    header_start, data_start : int
        Byte offsets in the file.
    data_length : int
        Bytes of data, without the padding to full blocks.
    """

    path: Path
    index: int
    header: fits.Header
    header_start: int
    data_start: int
    data_length: int

    @property
    def end(self) -> int:
        """First byte after this HDU, padding included."""
        return self.data_start + -(-self.data_length // BLOCK) * BLOCK

    @property
    def compressed(self) -> bool:
        return self.header.get("ZIMAGE") is True

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Image size in numpy's order (NAXIS2, NAXIS1); () where there is no image."""
        if self.index and not self.compressed and text(self.header, "XTENSION") != "IMAGE":
            return ()  # a table
        z = "Z" if self.compressed else ""
        n_axes = self.header.get(f"{z}NAXIS", 0)
        if not isinstance(n_axes, int) or not 0 < n_axes < 10:
            return ()
        axes = [self.header.get(f"{z}NAXIS{i}") for i in range(n_axes, 0, -1)]
        return tuple(axes) if all(isinstance(a, int) and a >= 0 for a in axes) else ()


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
    n_fields = header.get("TFIELDS", 0)
    if not isinstance(n_fields, int) or not 0 <= n_fields < 1000:  # readers of tables would count to anything
        raise ExposureError(f"{where}: TFIELDS is {n_fields}, expected 0 to 999")
    if n_axes == 0:
        return 0
    return abs(bits) // 8 * sizes[3] * (sizes[2] + math.prod(sizes[4:]))


def scan(path: Path) -> list[Hdu]:
    """Find the HDUs of a FITS file from their headers and lengths; no data are read.

    Parameters
    ----------
    path : `~pathlib.Path`

    Returns
    -------
    list of `Hdu`

    Raises
    ------
    ExposureError
        Not a FITS file, damaged headers, or data that end before they should
        (a truncated copy); the message says which extension is the first to suffer.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as f:
            return _scan(path, f, size)
    except OSError as e:
        raise ExposureError(f"{path.name}: cannot be read: {e.strerror or e}") from e


def _scan(path: Path, f: io.BufferedReader, size: int) -> list[Hdu]:
    hdus: list[Hdu] = []
    at = 0
    while at < size:
        where = f"{path.name}[{len(hdus)}]"
        f.seek(at)
        blocks = []
        while True:
            block = f.read(BLOCK)
            first = not blocks
            if first and not hdus and not block.startswith(b"SIMPLE  ="):
                raise ExposureError(f"{path.name}: is not a FITS file (it does not begin with SIMPLE)")
            if first and hdus and not block.startswith(b"XTENSION"):
                if size - at <= RECORD and not (block + f.read(RECORD)).strip(b"\0 "):
                    return hdus  # padding after the last HDU
                raise ExposureError(
                    f"{where}: the {size - at} bytes after extension {len(hdus) - 1} are no FITS header; the file is damaged"
                )
            if len(block) < BLOCK or len(blocks) > MAX_HEADER_BLOCKS:
                raise ExposureError(f"{where}: the header has no END; the file is truncated or damaged ({size} bytes)")
            blocks.append(block)
            if any(block[i : i + 8] == b"END     " for i in range(0, BLOCK, 80)):
                break
        raw = b"".join(blocks)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd cards are common in real files; what matters is looked at below
            try:
                header = fits.Header.fromstring(raw.decode("latin-1"))
                length = _data_length(header, where)
                hdu = Hdu(path, len(hdus), header, at, at + len(raw), length)
                hdu.shape  # noqa: B018 - a card that cannot be understood is told here and nowhere later
            except (fits.VerifyError, ValueError, TypeError) as e:
                raise ExposureError(f"{where}: the header cannot be understood: {textwrap.shorten(str(e), 200)}") from e
        if hdu.data_start + length > size:
            raise ExposureError(
                f"{where}{' ' + text(header, 'EXTNAME') if text(header, 'EXTNAME') else ''}: the file is truncated: its data end "
                f"at byte {hdu.data_start + length}, the file at {size}"
            )
        hdus.append(hdu)
        at = hdu.end
    if not hdus:
        raise ExposureError(f"{path.name}: is empty")
    return hdus


def read_pixels(hdu: Hdu, dtype: type = np.float32) -> np.ndarray:
    """Decode the image of one HDU.

    Parameters
    ----------
    hdu : `Hdu`
    dtype : type
        Type of the result; `~numpy.float32` for pixels, an integer type for masks.

    Returns
    -------
    `~numpy.ndarray`
        Shape (NAXIS2, NAXIS1), native byte order, writable.

    Raises
    ------
    ExposureError
        The data cannot be decoded.
    """
    where = f"{hdu.path.name}[{hdu.index}] {text(hdu.header, 'EXTNAME')}".strip()
    if len(hdu.shape) != 2 or math.prod(hdu.shape) > MAX_PIXELS:
        raise ExposureError(f"{where}: expected a two-dimensional image, found the shape {hdu.shape}")
    try:
        with open(hdu.path, "rb") as f:
            if dtype is np.float32 and rice.can_decode(hdu.header):
                f.seek(hdu.data_start)
                data = rice.decode(hdu.header, f.read(hdu.data_length))
            else:
                _require_sound_tiles(hdu)
                f.seek(hdu.header_start)
                data = _through_astropy(f.read(hdu.end - hdu.header_start))
    except OSError as e:
        raise ExposureError(f"{where}: cannot be read: {e}") from e
    except ExposureError as e:
        raise ExposureError(f"{where}: {e}") from e
    except Exception as e:  # astropy's decoders raise whatever the damage leads to
        raise ExposureError(f"{where}: the pixels cannot be decoded ({textwrap.shorten(f'{type(e).__name__}: {e}', 200)})") from e
    if data is None or data.shape != hdu.shape:
        raise ExposureError(f"{where}: the decoded image is not of the shape that the header promises")
    return np.ascontiguousarray(data, dtype=dtype)


def _require_sound_tiles(hdu: Hdu) -> None:
    """Refuse what would make the C decoders below astropy crash, and kred with them."""
    header = hdu.header
    if not hdu.compressed:
        return
    sides = [header.get(f"ZTILE{i + 1}", n if i == 0 else 1) for i, n in enumerate(reversed(hdu.shape))]
    if not all(isinstance(t, int) and t > 0 for t in sides):
        raise ExposureError(f"the tiles of the compressed image have the size {sides}; the header is damaged")
    expected = math.prod(-(-n // t) for n, t in zip(reversed(hdu.shape), sides, strict=True))
    if header.get("NAXIS2") != expected:
        raise ExposureError(f"the compressed image has {header.get('NAXIS2')} tiles, expected {expected}; the header is damaged")
    names = [i for i in range(1, 100) if text(header, f"ZNAME{i}") == "BYTEPIX"]
    if any(header.get(f"ZVAL{i}") not in (1, 2, 4, 8) for i in names):
        raise ExposureError("BYTEPIX of the compressed image is not 1, 2, 4 or 8; the header is damaged")


_PRIMARY = fits.PrimaryHDU().header.tostring().encode("ascii")


def _through_astropy(raw: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(_PRIMARY + raw)) as f:
            return np.array(f[1].data)


@dataclass(frozen=True)
class Detector:
    """One CCD image of an exposure."""

    root: str
    extname: str
    hdu: Hdu
    mask: Hdu | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """How people call it: <Root>_<EXTNAME>."""
        return f"{self.root}_{self.extname}"

    @property
    def header(self) -> fits.Header:
        return self.hdu.header

    @property
    def shape(self) -> tuple[int, ...]:
        return self.hdu.shape

    def pixels(self) -> np.ndarray:
        """Pixels in ADU, float32, shape (NAXIS2, NAXIS1)."""
        return read_pixels(self.hdu)

    def mask_codes(self) -> np.ndarray | None:
        """The ood mask (0 good; codes in `kred_core.config.CoaddConfig.mask_codes`), uint8, or None without one."""
        if self.mask is None:
            return None
        codes = read_pixels(self.mask, np.int32)
        if codes.shape != self.shape:
            raise ExposureError(
                f"{self.mask.path.name} {self.extname}: the mask has the shape {codes.shape}, the image {self.shape}"
            )
        return np.clip(codes, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Exposure:
    """One MEF: its primary header and its detectors, nothing decoded yet."""

    path: Path
    primary: fits.Header
    detectors: tuple[Detector, ...]

    @property
    def root(self) -> str:
        return FieldPaths.root_of(self.path)

    @classmethod
    def open(cls, path: Path) -> Exposure:
        """Scan a MEF and its ood mask.

        Raises
        ------
        ExposureError
            See `scan`; also where no extension holds an image. Damage of the
            mask is an error too: pixels flagged bad must not come back unnoticed.
        """
        hdus = scan(path)
        mask_path = FieldPaths.mask_of(path)
        masks = {text(h.header, "EXTNAME"): h for h in scan(mask_path) if h.shape} if mask_path else {}
        root = FieldPaths.root_of(path)
        detectors = tuple(
            Detector(root, text(h.header, "EXTNAME"), h, masks.get(text(h.header, "EXTNAME"))) for h in hdus[1:] if h.shape
        )
        if not detectors:
            raise ExposureError(f"{path.name}: no extension holds an image")
        return cls(path, hdus[0].header, detectors)

    @property
    def filter(self) -> str:
        """Short name of the filter: the first word of FILTER."""
        words = text(self.primary, "FILTER").split()
        return words[0] if words else ""
