"""Images as people have them: arrays with a WCS, CCDData, files, detectors of exposures; and their mosaics."""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData
from astropy.wcs import WCS, FITSFixedWarning

from .. import sky
from ..coadd.native import strips
from ..coadd.plan import CoaddInput, CoaddPlan, Source, flux_scale, grid_box
from ..config import BackgroundKind, CoaddConfig
from ..errors import ExposureError, InputError
from ..exposures.exposure import Detector, Exposure
from ..exposures.masks import PixelRule
from ..exposures.rescale import rescale_detector
from ..sky import Grid, celestial_wcs, tan_wcs, to_sky
from ..statistics import pixel_noise

__all__ = ["coadd_images", "open_exposure", "rescale"]

Array: TypeAlias = npt.NDArray[Any]
Pixels: TypeAlias = tuple[Array, "Array | None"]
ImageLike: TypeAlias = "str | os.PathLike[str] | NDData | Detector | tuple[Any, Any]"
MOST_PIXELS = 10**9  # of a mosaic in memory; a list that needs more holds an image elsewhere by mistake


@dataclass(frozen=True, eq=False)
class SkyImage:
    """One image whose pixels are read when they are needed."""

    name: str  # for messages
    shape: tuple[int, int]  # rows, columns
    wcs: WCS  # of two axes, RA and Dec (ICRS or FK5 J2000)
    unit: u.UnitBase | None
    read: Callable[[], Pixels]  # the pixels, and which of them are bad (bool, or None)


def open_images(images: Sequence[ImageLike]) -> list[SkyImage]:
    """Find out where images lie on the sky, and how their pixels are read; `InputError` where one cannot be used."""
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
    """Return what brings each image into one unit, that of the first: its own factor and that between the units."""
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
    """Return whether a unit is one of surface brightness, as MJy/sr."""
    if unit is None:
        return False
    decomposed = unit.decompose()
    return bool(dict(zip(decomposed.bases, decomposed.powers, strict=True)).get(u.rad, 0) == -2)


class _Source:
    """An image as the engine sees a detector."""

    def __init__(self, image: SkyImage):
        self._image, self.shape = image, image.shape

    def pixels(self) -> Array:
        return np.array(self._image.read()[0], dtype=np.float32)  # a copy: the engine fills bad pixels in place

    def bad_pixels(self, rule: PixelRule) -> Array | None:
        bad = self._image.read()[1]
        return None if bad is None else np.array(bad)


def coadd_images(
    images: Sequence[ImageLike],
    grid: Grid | None = None,
    *,
    offsets: Any = None,
    scale: npt.ArrayLike | None = None,
    combine: Literal["median", "clipped", "weighted"] = "median",
    clip_sigma: float = 4.0,
    noise: Any = None,
    memory: float = 1.0,
) -> tuple[CCDData, Array]:
    """Co-add images of one's own: resample each once, and combine them pixel by pixel.

    Parameters
    ----------
    images : sequence
        As those of `kred_core.match_backgrounds`.
    grid : Grid, optional
        Centre, pixel scale and size of the mosaic (TAN, north up, east to the left). If not given, all images, with the smallest
        of their pixels.
    offsets : (n,) array_like or Quantity, optional
        Subtracted from the scaled images, per pixel of each: ``BackgroundMatch.offsets``. Planes are subtracted before, by
        ``BackgroundMatch.matched_images``.
    scale : array_like, optional
        Factor of each image, besides that between units.
    combine : {"median", "clipped", "weighted"}
        Median, sigma-clipped mean, or mean weighted by 1/noise**2.
    clip_sigma : float
        Limit of the clipped mean in standard deviations.
    noise : (n,) array_like or Quantity, optional
        Noise of a pixel of each scaled image, for the weights; measured (`kred_core.pixel_noise`) if not given.
    memory : float
        GB for resampled images that wait; beyond it they wait in a temporary file.

    Returns
    -------
    mosaic : `~astropy.nddata.CCDData`
        In the unit of the first image, flux per pixel of the mosaic (flux is conserved), or surface brightness where that is its
        unit. Pixels without data are 0, and True in the mask.
    coverage : `~numpy.ndarray`
        int16: number of images in each pixel.

    Raises
    ------
    InputError
        An image cannot be used, none lies on the grid, or units or arguments do not fit.

    Notes
    -----
    Lanczos-3 interpolation; bad pixels are left out, see `kred_core.coadd.native.coadd`.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy import units as u
    >>> from kred_core import Grid, coadd_images
    >>> from kred_core.sky import tan_wcs
    >>> wcs = tan_wcs(Grid(80, -69, 0.5, 100, 100))
    >>> mosaic, coverage = coadd_images([(np.full((100, 100), level) * u.adu, wcs) for level in (1.0, 2.0, 6.0)])
    >>> float(mosaic.data[50, 50]), str(mosaic.unit), int(coverage[50, 50])
    (2.0, 'adu', 3)
    """
    opened = open_images(images)
    factor, unit = factors(opened, scale)
    config = CoaddConfig(combine=combine, clip_sigma=clip_sigma, memory=memory, mask_codes=[])
    grid = grid or _holding_all(opened)
    target, surface_brightness = tan_wcs(grid), per_area(unit)
    back = np.zeros(len(opened)) if offsets is None else _plain(offsets, unit, len(opened), "offsets")
    if noise is not None:
        noises = _plain(noise, unit, len(opened), "noise")
    else:
        noises = np.array([math.nan if combine == "median" else pixel_noise(*image.read()) for image in opened]) * factor
    inputs, sources = [], []
    for i, image in enumerate(opened):
        inputs.append(CoaddInput(Path(image.name), image.name, "", 0.0, factor[i], float(back[i]), float(noises[i])))
        ratio = 1.0 if surface_brightness else flux_scale(target, image.wcs, image.shape)
        box = grid_box(grid, image.wcs, image.shape)
        sources.append(Source(inputs[-1], cast(Detector, _Source(image)), None, image.wcs, ratio, box))
    if all(source.box is None for source in sources):
        raise InputError(f"none of the images lies on the mosaic around RA {grid.ra:.4f}, Dec {grid.dec:+.4f}")
    plan = CoaddPlan("", "", "", "", grid, tuple(inputs))
    mosaic, coverage = np.zeros((grid.ny, grid.nx), np.float32), np.zeros((grid.ny, grid.nx), np.int16)
    first = 0
    for last, made, count in strips(plan, config, sources, Path(tempfile.gettempdir()), [0] * len(sources)):
        mosaic[first:last], coverage[first:last] = made[BackgroundKind.ORIGINAL], count
        first = last
    return CCDData(mosaic, unit=unit or u.dimensionless_unscaled, mask=coverage == 0, wcs=target), coverage


def _plain(values: Any, unit: u.UnitBase | None, n: int, what: str) -> Array:
    """Numbers in the unit of the mosaic, one for each image."""
    if isinstance(values, u.Quantity):
        values = values.to_value(unit or u.dimensionless_unscaled)
    plain = np.asarray(values, dtype=np.float64)
    if plain.shape != (n,) or not np.isfinite(plain).all():
        raise InputError(f"{what}: expected {n} finite numbers, one for each image")
    return plain


def _holding_all(images: Sequence[SkyImage]) -> Grid:
    """The grid that holds all images, with pixels as small as the smallest of them, in two decimals of an arcsec or two digits."""
    scale = min(sky.pixel_scale(image.wcs, image.shape) for image in images)
    scale = max(round(scale, 2), float(f"{scale:.1e}"))
    outlines = []
    for image in images:
        ny, nx = image.shape
        x, y = np.meshgrid(np.linspace(-0.5, nx - 0.5, 5), np.linspace(-0.5, ny - 0.5, 5))
        outlines.append(to_sky(image.wcs, np.stack([x.ravel(), y.ravel()], axis=-1)))
    places = np.concatenate(outlines)
    grid = Grid(*sky.mean_position(*places.T), scale, 1, 1)
    for _ in range(2):  # the middle of a wide mosaic is not the mean of its images
        pixels = tan_wcs(grid).wcs_world2pix(places, 0)
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        if not np.isfinite(pixels).all() or math.prod(high - low + 2) > MOST_PIXELS:
            raise InputError("the images lie too far apart for a mosaic of all; give the grid of one")
        ra, dec = to_sky(tan_wcs(grid), [(low + high) / 2])[0]
        nx, ny = (math.ceil(n) + 1 for n in high - low)
        grid = Grid(float(ra) % 360.0, float(dec), scale, nx, ny)
    return grid


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
