"""Images as people have them: arrays with a WCS, CCDData, files, detectors of exposures; and exposures of DECam."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData
from astropy.wcs import WCS, FITSFixedWarning

from ..errors import ExposureError, InputError
from ..exposures.exposure import Detector, Exposure
from ..exposures.masks import PixelRule
from ..exposures.rescale import rescale_detector
from ..sky import celestial_wcs

__all__ = ["Array", "ImageLike", "Pixels", "SkyImage", "factors", "open_exposure", "open_images", "per_area", "rescale"]

Array: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = tuple[Array, "Array | None"]
ImageLike: TypeAlias = "str | os.PathLike[str] | NDData | Detector | tuple[Any, Any]"


@dataclass(frozen=True, eq=False)
class SkyImage:
    """One image whose pixels are read when they are needed.

    Attributes
    ----------
    name : str
        For messages.
    shape : (int, int)
        Rows and columns.
    wcs : `~astropy.wcs.WCS`
        Of two axes, RA and Dec (ICRS or FK5 J2000).
    unit : `~astropy.units.UnitBase` or None
    read : callable
        Returns the pixels, and which of them are bad (bool, or None).
    """

    name: str
    shape: tuple[int, int]
    wcs: WCS
    unit: u.UnitBase | None
    read: Callable[[], Pixels]


def open_images(images: Sequence[ImageLike]) -> list[SkyImage]:
    """Find out where images lie on the sky, and how their pixels are read.

    Raises
    ------
    InputError
        There is none, or one of them cannot be read, has no usable WCS, or is not two-dimensional.
    """
    if isinstance(images, str | os.PathLike | NDData):
        raise InputError("expected a list of images, found a single one")
    opened = [_opened(image, f"image {i}") for i, image in enumerate(images)]
    if not opened:
        raise InputError("the list of images is empty")
    return opened


def _opened(image: ImageLike, name: str) -> SkyImage:
    if isinstance(image, Detector):
        return _of_detector(image, name)
    if isinstance(image, NDData):
        return _of_arrays(name, image.data, image.wcs, image.mask, image.unit)
    if isinstance(image, str | os.PathLike):
        return _of_file(name, Path(image), None)
    if isinstance(image, tuple) and len(image) == 2:
        first, second = image
        if isinstance(first, str | os.PathLike):
            return _of_file(name, Path(first), second)
        return _of_arrays(name, first, second, np.ma.getmask(first) if np.ma.isMaskedArray(first) else None, None)
    raise InputError(
        f"{name} is {type(image).__name__}; expected the path of a FITS file, (path, extension), CCDData, (array, WCS), a detector"
    )


def _of_detector(detector: Detector, name: str) -> SkyImage:
    name = f"{name} ({detector.name})"
    rows, columns = detector.shape
    try:
        wcs = celestial_wcs(detector.header)
    except ExposureError as e:
        raise InputError(f"{name} {e}") from e
    return SkyImage(name, (rows, columns), wcs, u.adu, lambda: (detector.pixels(), detector.bad_pixels(PixelRule())))


def _of_arrays(name: str, data: Any, wcs: Any, mask: Any, unit: u.UnitBase | None) -> SkyImage:
    if isinstance(data, u.Quantity):
        unit, data = data.unit, data.value
    pixels = np.ma.getdata(np.asanyarray(data))
    if pixels.ndim != 2:
        raise InputError(f"{name} has {pixels.ndim} dimensions, expected 2")
    if mask is np.ma.nomask:
        mask = None
    if mask is not None and np.shape(mask) not in ((), pixels.shape):
        raise InputError(f"{name} has a mask of the shape {np.shape(mask)}, and pixels of {pixels.shape}")
    bad = None if mask is None else np.broadcast_to(np.asarray(mask, dtype=bool), pixels.shape)
    if isinstance(wcs, fits.Header):
        wcs = _wcs_of(wcs, name)
    rows, columns = pixels.shape
    return SkyImage(name, (rows, columns), _celestial(wcs, name), unit, lambda: (pixels, bad))


def _of_file(name: str, path: Path, extension: str | int | None) -> SkyImage:
    name = f"{name} ({path.name})"
    try:
        with fits.open(path, memmap=False) as hdus:
            number = _image_hdu(hdus, extension, name)
            header = hdus[number].header
            rows, columns = hdus[number].shape
            wcs = _celestial(_wcs_of(header, name, hdus), name)
    except (OSError, KeyError, IndexError, TypeError, fits.VerifyError) as e:
        raise InputError(f"{name} cannot be read: {e}") from e

    def read() -> Pixels:
        return np.asarray(fits.getdata(path, number, memmap=False)), None

    return SkyImage(name, (rows, columns), wcs, _unit(str(header.get("BUNIT", ""))), read)


def _image_hdu(hdus: fits.HDUList, extension: str | int | None, name: str) -> int:
    """Which HDU holds the image: the one that is asked for, the only one, or SCI."""
    if extension is not None:
        number = int(hdus.index_of(extension))
        if not hdus[number].is_image or len(hdus[number].shape) != 2:
            raise InputError(f"{name}: extension {extension} is not a two-dimensional image")
        return number
    found = [i for i, hdu in enumerate(hdus) if hdu.is_image and len(hdu.shape) == 2]
    science = [i for i in found if hdus[i].name == "SCI"]
    if len(found) != 1 and len(science) != 1:
        names = ", ".join(hdus[i].name or str(i) for i in found[:5])
        many = f"{len(found)} images ({names}...); say which as (path, extension)" if found else "no two-dimensional image"
        raise InputError(f"{name}: the file has {many}")
    return (found if len(found) == 1 else science)[0]


def _wcs_of(header: fits.Header, name: str, hdus: fits.HDUList | None = None) -> WCS:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            return WCS(header, hdus)
    except Exception as e:  # wcslib's and astropy's errors have no common base
        raise InputError(f"{name} has no usable WCS: {e}") from e


def _celestial(wcs: Any, name: str) -> WCS:
    if not isinstance(wcs, WCS) or not wcs.has_celestial:
        raise InputError(f"{name} has no WCS of the sky; give one, for example as (array, WCS)")
    if wcs.naxis != 2:
        wcs = wcs.celestial
    kinds = [str(kind) for kind in wcs.wcs.ctype]
    if not (kinds[0].startswith("RA--") and kinds[1].startswith("DEC-")):
        raise InputError(f"{name}: its axes are {' and '.join(kinds)}, expected RA and Dec, in this order")
    system, equinox = wcs.wcs.radesys.upper(), wcs.wcs.equinox
    if system not in ("", "ICRS") and not (system == "FK5" and equinox in (2000.0, 0.0)):
        raise InputError(f"{name}: its coordinates are {system} {equinox:g}, expected ICRS or FK5 J2000")
    return wcs


def _unit(text: str) -> u.UnitBase | None:
    """The unit that a header names, None where astropy does not know it."""
    for written in (text, text.lower()):
        unit = u.Unit(written, parse_strict="silent")
        if text and not isinstance(unit, u.UnrecognizedUnit):
            return unit
    return None


def factors(images: Sequence[SkyImage], scale: npt.ArrayLike | None) -> tuple[Array, u.UnitBase | None]:
    """What brings each image into one unit, that of the first: its own factor and that between the units.

    Raises
    ------
    InputError
        The units cannot be converted, or a factor is not positive.
    """
    unit = images[0].unit
    given = np.ones(len(images)) if scale is None else np.broadcast_to(np.asarray(scale, dtype=np.float64), (len(images),))
    if not (np.isfinite(given) & (given > 0)).all():
        raise InputError("a scale of an image must be a number above 0")
    converted = np.ones(len(images))
    for i, image in enumerate(images):
        if (image.unit is None) != (unit is None):
            raise InputError(f"{image.name} has the unit {image.unit}, {images[0].name} {unit}; all or none need one")
        if unit is not None and image.unit is not None:
            try:
                converted[i] = image.unit.to(unit)
            except u.UnitConversionError as e:
                raise InputError(f"{image.name}: {e}") from e
    return given * converted, unit


def per_area(unit: u.UnitBase | None) -> bool:
    """Whether a unit is one of surface brightness, as MJy/sr."""
    if unit is None:
        return False
    decomposed = unit.decompose()
    return bool(dict(zip(decomposed.bases, decomposed.powers, strict=True)).get(u.rad, 0) == -2)


def open_exposure(path: str | os.PathLike[str]) -> Exposure:
    """Open a multi-extension FITS file of detectors, such as one of the DECam Community Pipeline. Nothing is decoded yet.

    Parameters
    ----------
    path : str or path-like
        The image (``*.fits`` or ``*.fits.fz``); an ood mask beside it is found by its name.

    Returns
    -------
    Exposure
        ``exposure["N14"]`` is a detector; its ``ccd()`` is a `~astropy.nddata.CCDData` with unit, mask, WCS and header.

    Raises
    ------
    ExposureError
        The file, or its mask, is damaged, or has no detector.
    """
    return Exposure.open(Path(path))


def rescale(
    exposure: Exposure, extname: str, destination: str | os.PathLike[str], scale: float, offset: float = 0.0, plain: bool = False
) -> None:
    """Write a detector as ``pixels * scale - offset`` without decoding it: two numbers for each compressed row are edited.

    Parameters
    ----------
    exposure : Exposure
        From `open_exposure`.
    extname : str
        Its detector.
    destination : str or path-like
        File to write: the primary header and one extension, whose keywords (gain, saturation, zero point) follow the scale.
    scale : float
        Factor above 0; to counts28, in which a source of 28 mag has 1 count, ``10**(0.4 * (28 - MAGZERO))``.
    offset : float
        Subtracted after scaling, in scaled counts per pixel.
    plain : bool
        Write an uncompressed float32 image instead.

    Raises
    ------
    ExposureError
        There is no such detector, it cannot be read, or a number is not usable.
    """
    rescale_detector(exposure.primary, exposure[extname], Path(destination), scale, offset, plain)
