"""Open a MEF, find its detectors without decoding them, read their pixels and masks.

A detector is read from its own bytes, whatever the number of extensions.
The storage forms that real Community Pipeline files have are decoded by `rice`
(images) and `gzipped` (masks); every other form goes through astropy.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits

from . import gzipped, rice
from .errors import ExposureError
from .hdu import BLOCK, Hdu, number, scan, text
from .products import FieldPaths

__all__ = ["BLOCK", "Detector", "Exposure", "Hdu", "number", "read_pixels", "scan", "text"]

MAX_PIXELS = 1 << 28


def read_pixels(hdu: Hdu, dtype: type = np.float32) -> np.ndarray:
    """Decode the image of one HDU.

    Parameters
    ----------
    hdu : `Hdu`
    dtype : type
        Type of the result; `~numpy.float32` for pixels, an integer type for masks: values beyond its limits become its limits.

    Returns
    -------
    `~numpy.ndarray`
        Shape (NAXIS2, NAXIS1), native byte order, writable.

    Raises
    ------
    ExposureError
        The data cannot be decoded.
    """
    where = f"{hdu.path.name}[{hdu.index}] {hdu.extname}".strip()
    whole = np.issubdtype(dtype, np.integer)
    if len(hdu.shape) != 2 or math.prod(hdu.shape) > MAX_PIXELS:
        raise ExposureError(f"{where}: expected a two-dimensional image, found the shape {hdu.shape}")
    try:
        if rice.can_decode(hdu.header):
            data = rice.decode(hdu.header, hdu.read())
        elif gzipped.can_decode(hdu.header):
            data = gzipped.decode(hdu.header, hdu.read(), dtype if whole else None)
        else:
            _require_sound_tiles(hdu)
            data = _through_astropy(hdu.raw_header + hdu.read().ljust(hdu.end - hdu.data_start, b"\0"))
    except OSError as e:
        raise ExposureError(f"{where}: cannot be read: {e}") from e
    except ExposureError as e:
        raise ExposureError(f"{where}: {e}") from e
    except Exception as e:  # astropy's decoders raise whatever the damage leads to
        raise ExposureError(f"{where}: the pixels cannot be decoded ({textwrap.shorten(f'{type(e).__name__}: {e}', 200)})") from e
    if data is None or data.shape != hdu.shape:
        raise ExposureError(f"{where}: the decoded image is not of the shape that the header promises")
    if whole and data.dtype != dtype:
        data = gzipped.limited(data if data.dtype.kind in "iu" else data.astype(np.int64), dtype)
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
        codes = read_pixels(self.mask, np.uint8)
        if codes.shape != self.shape:
            raise ExposureError(
                f"{self.mask.path.name} {self.extname}: the mask has the shape {codes.shape}, the image {self.shape}"
            )
        return codes


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
        masks = {h.extname: h for h in scan(mask_path) if h.shape} if mask_path else {}
        root = FieldPaths.root_of(path)
        detectors = tuple(Detector(root, h.extname, h, masks.get(h.extname)) for h in hdus[1:] if h.shape)
        if not detectors:
            raise ExposureError(f"{path.name}: no extension holds an image")
        return cls(path, hdus[0].header, detectors)

    @property
    def filter(self) -> str:
        """Short name of the filter: the first word of FILTER."""
        words = text(self.primary, "FILTER").split()
        return words[0] if words else ""
