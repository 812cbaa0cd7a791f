"""Decode the image of one HDU, whatever the form it is stored in.

The storage forms that real Community Pipeline files have are decoded by `rice`
(images) and `gzipped` (masks); every other form goes through astropy, compressed
ones in an isolated process (`isolated`).
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings

import numpy as np
from astropy.io import fits

from ..errors import ExposureError
from . import gzipped, isolated, rice
from .hdu import Hdu
from .storage import require_sound

__all__ = ["read_pixels"]

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
        require_sound(hdu)
        raw = hdu.read()
        if rice.can_decode(hdu.header):
            data = rice.decode(hdu.header, raw)
        elif gzipped.can_decode(hdu.header):
            data = gzipped.decode(hdu.header, raw, dtype if whole else None)
        elif hdu.compressed:
            data = isolated.decode(hdu.header, hdu.raw_header, raw)
        else:
            data = _through_astropy(hdu.raw_header + raw)
    except OSError as e:
        raise ExposureError(f"{where}: cannot be read: {e}") from e
    except ExposureError as e:
        raise ExposureError(f"{where}: {e}") from e
    except Exception as e:  # astropy's decoders raise whatever the damage leads to
        raise ExposureError(f"{where}: the pixels cannot be decoded ({textwrap.shorten(f'{type(e).__name__}: {e}', 200)})") from e
    if data is None or data.shape != hdu.shape:
        raise ExposureError(f"{where}: the decoded image is not of the shape that the header promises")
    if whole and data.dtype != dtype:
        data = gzipped.limited(data if data.dtype.kind in "iu" else _whole(data), dtype)
    return np.ascontiguousarray(data, dtype=dtype)


def _whole(values: np.ndarray) -> np.ndarray:
    """Floating-point numbers as the nearest whole ones; what is no number becomes the largest, so that a mask flags its pixel."""
    largest = float(1 << 62)
    return np.rint(np.nan_to_num(values.astype(np.float64), nan=largest).clip(-largest, largest)).astype(np.int64)


_PRIMARY = fits.PrimaryHDU().header.tostring().encode("ascii")


def _through_astropy(raw: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(_PRIMARY + raw)) as f:
            return np.array(f[1].data)
