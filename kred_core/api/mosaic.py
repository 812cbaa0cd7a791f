"""Co-add images of one's own with kred's own engine, in memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.nddata import CCDData

from .. import sky
from ..coadd.native import strips
from ..coadd.plan import CoaddInput, CoaddPlan
from ..coadd.sources import Source, flux_scale, grid_box
from ..config import BackgroundKind, CoaddConfig
from ..errors import InputError
from ..exposures.exposure import Detector
from ..exposures.masks import PixelRule
from ..sky import Grid, tan_wcs, to_sky
from ..statistics import pixel_noise
from .images import Array, ImageLike, SkyImage, factors, open_images, per_area

__all__ = ["coadd_images"]

MOST_PIXELS = 10**9  # of a mosaic in memory; a list that needs more holds an image elsewhere by mistake


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
        noises = np.array([math.nan if combine == "median" else _noise(i) for i in opened]) * factor
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


def _noise(image: SkyImage) -> float:
    pixels, bad = image.read()
    return pixel_noise(pixels, bad)


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
