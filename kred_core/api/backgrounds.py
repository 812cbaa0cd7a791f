"""Backgrounds of images that overlap: measured and solved in one call, or solved from differences that are known."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.nddata import CCDData
from astropy.table import QTable, Table

from .. import match, sky
from ..background import Background
from ..binned import BinnedGrid, BinnedMap, bin_detector, usual_cell
from ..binned.average import FARTHEST, PIXELS_ALONG_CELL
from ..config import MatchConfig
from ..errors import InputError
from ..match.image import Skies, match_image
from ..match.solve import Solution, solve
from ..statistics import statistics
from .images import Array, ImageLike, SkyImage, factors, open_images, per_area

__all__ = ["BackgroundMatch", "match_backgrounds", "solve_backgrounds"]


LARGE_SLOPE = 30.0  # errors of a pair: slopes of few images are not expected to be small, as those of many detectors are


@dataclass(frozen=True, eq=False)
class BackgroundMatch:
    """Backgrounds of n images that make them agree where they overlap: ``matched = image * scale - offset``.

    Values are in ``unit``, as `~astropy.units.Quantity` where the images have one, and per pixel of each image, unless the
    unit is one of surface brightness.

    Attributes
    ----------
    offsets : (n,) array or Quantity
        Background at the centre of each image.
    errors : (n,) array or Quantity
        Its standard error relative to the images of the same component; NaN for one without overlaps, 0 for a fixed one.
    gradients : (n, 2) array or Quantity
        Slopes of the background along x (columns) and y (rows), per pixel; 0 where a constant was asked for.
    components : (n,) int
        Images that overlaps connect have the same number, from 1. Between components nothing is known but the sky of each.
    n_pairs, n_rejected : (n,) int
        Overlaps of each image that were used, and how many of these contradict the solution.
    sky : (n,) array or Quantity
        Sky level of each image, from its histogram.
    pairs : `~astropy.table.QTable`
        One row for each overlap: first, second (places in the list), separation of the centres, n_cells; difference (second minus
        first), its error and the residual of the solution, as surface brightness; weight, rejected.
    remarks : list of str
        What is special about each image; empty for most.
    unit : `~astropy.units.UnitBase` or None
        That of the first image.
    scale : (n,) array
        What brings each image into this unit.
    """

    offsets: Any
    errors: Any
    gradients: Any
    components: Array
    n_pairs: Array
    n_rejected: Array
    sky: Any
    pairs: Table
    remarks: list[str]
    unit: u.UnitBase | None
    scale: Array
    _images: list[SkyImage] = field(repr=False)

    def matched_images(self) -> Iterator[CCDData]:
        """Yield the images with their backgrounds subtracted, in their order, as `~astropy.nddata.CCDData` in ``unit``."""
        offsets, gradients = u.Quantity(self.offsets).value, u.Quantity(self.gradients).value
        for image, scale, offset, (slope_x, slope_y) in zip(self._images, self.scale, offsets, gradients, strict=True):
            pixels, bad = image.read()
            matched = np.asarray(pixels, dtype=np.result_type(pixels, np.float32)) * scale - offset
            Background(0.0, slope_x, slope_y).subtract_variation(matched)
            mask = ~np.isfinite(matched) if bad is None else bad | ~np.isfinite(matched)
            yield CCDData(matched, unit=self.unit or u.dimensionless_unscaled, mask=mask, wcs=image.wcs)


def match_backgrounds(
    images: Sequence[ImageLike],
    *,
    scale: npt.ArrayLike | None = None,
    exposure: Sequence[Hashable] | None = None,
    shape: Literal["constant", "exposure-plane", "detector-plane"] = "constant",
    zero_point: Literal["darkest", "mean"] = "darkest",
    fixed: Any = None,
    cell: Any = None,
    min_cells: int = 100,
) -> BackgroundMatch:
    """Find the backgrounds of images, from whatever camera, that make them agree where they overlap.

    Parameters
    ----------
    images : sequence
        Each is one of: a `~astropy.nddata.CCDData` (its mask is True where a pixel is bad); a tuple of an array or Quantity
        and a `~astropy.wcs.WCS` or header; the path of a FITS file, or a tuple (path, extension); a detector of an exposure
        (`kred_core.open_exposure`). They may differ in pixel scale, orientation and distortion. Pixels that are
        not finite are left out.
    scale : array_like, optional
        Factor of each image that brings it to a common flux scale, besides that between units; 1 if not given.
    exposure : sequence, optional
        Images with the same value were taken at once, by detectors side by side: they are not compared, and with
        ``shape="exposure-plane"`` they share a slope. If not given, each image is an exposure of its own.
    shape : {"constant", "exposure-plane", "detector-plane"}
        A background is a constant for each image; or a constant and a plane, whose slope all images of an exposure share, or
        which each image has for itself.
    zero_point : {"darkest", "mean"}
        The common level, which differences leave open, of images that overlaps connect: the darkest tenth of them, or all on
        average, have offsets as high as their own skies.
    fixed : array_like or Quantity, optional
        Offsets that are known, NaN where not. They keep their values and set the common level.
    cell : float or Quantity, optional
        Side in arcsec of the cells in which images are compared. If not given, 2 arcsec, but 4 to 8 pixels of the image with
        the largest.
    min_cells : int
        Least number of good cells that a pair has in common.

    Returns
    -------
    BackgroundMatch

    Raises
    ------
    InputError
        An image cannot be read, has no usable WCS or no good pixel, or units or arguments do not fit.

    Notes
    -----
    Images are averaged in cells on one grid, without resampling; cells with stars are left out (`kred_core.match.good_cells`), the
    histogram mode of what two images differ by is measured, with its error, and the equation of
    `kred_core.match.solve.solve` gives the offsets. Pixels are taken as flux per pixel and divided by their solid angle before
    they are compared, unless the unit is one of surface brightness, such as MJy/sr.

    Examples
    --------
    >>> import numpy as np
    >>> from kred_core import Grid, match_backgrounds
    >>> from kred_core.sky import tan_wcs
    >>> noise = np.random.default_rng(1).normal
    >>> places = [(80.0 + 0.02 * i, -69.0) for i in range(3)]
    >>> images = [(noise(level, 1, (200, 200)), tan_wcs(Grid(*place, 0.5, 200, 200)))
    ...           for level, place in zip([100, 107, 103], places)]
    >>> found = match_backgrounds(images, zero_point="mean")
    >>> found.offsets.round().tolist(), found.components.tolist()
    ([100.0, 107.0, 103.0], [1, 1, 1])
    """
    opened = open_images(images)
    factor, unit = factors(opened, scale)
    groups: list[Hashable] = list(range(len(opened))) if exposure is None else list(exposure)
    if len(groups) != len(opened):
        raise InputError(f"there are {len(opened)} images and {len(groups)} exposures; expected one for each image")
    numbers = [groups.index(group) for group in groups]
    config = MatchConfig(min_cells=min_cells, shape=shape, zero_point=zero_point)
    grid = _grid(opened, cell)
    surface_brightness = per_area(unit)
    maps = [_binned_map(image, grid, f, surface_brightness) for image, f in zip(opened, factor, strict=True)]
    centres = np.array([sky.centre(image.wcs, image.shape) for image in opened])
    rows, columns = np.array([image.shape for image in opened]).T
    corners = np.array([sky.corners(image.wcs, image.shape) for image in opened])
    first, second = match.find_pairs(corners, columns, rows, np.array(numbers))
    boxes = [(binned_map.x0, binned_map.y0, binned_map.mean.shape[1], binned_map.mean.shape[0]) for binned_map in maps]
    pairs = match.measure(first, second, maps.__getitem__, boxes, centres, config)
    level, area = (np.array([getattr(binned_map, name) for binned_map in maps]) for name in ("level", "area"))
    terms = np.array([binned_map.area_terms for binned_map in maps])
    skies = Skies(level, area, np.ones(len(maps), dtype=bool), grid.cell, terms)
    names = {"Field": [""] * len(opened), "Root": list(map(str, numbers)), "EXTNAME": [str(i) for i in range(len(opened))]}
    table = Table({**names, "NAXIS1": columns, "NAXIS2": rows, "SUB_BACK": np.zeros(len(opened))})
    known = _fixed(fixed, unit, table)
    wide = LARGE_SLOPE * float(np.median(pairs.error)) if len(pairs) else None
    solved = match_image("", table, skies, pairs, known, config, own_error=np.inf, exposure_slope=wide)
    found = solved.backgrounds

    def with_unit(values: Any) -> Any:
        return np.asarray(values, dtype=np.float64) * (1 if unit is None else unit)

    return BackgroundMatch(
        offsets=with_unit(found["b"]),
        errors=with_unit(found["b_err"]),
        gradients=with_unit(np.stack([found["grad_x"], found["grad_y"]], axis=-1)),
        components=np.asarray(found["component"]),
        n_pairs=np.asarray(found["n_pairs"]),
        n_rejected=np.asarray(found["n_rejected"]),
        sky=with_unit(level),
        pairs=_pair_table(pairs, skies, solved.overlaps, unit, surface_brightness),
        remarks=[str(remark) for remark in found["Remark"]],
        unit=unit,
        scale=factor,
        _images=opened,
    )


def _grid(images: Sequence[SkyImage], cell: Any) -> BinnedGrid:
    """The grid on which images are compared: around their middle, with cells that suit the largest and smallest pixels."""
    scales = [sky.pixel_scale(image.wcs, image.shape) for image in images]
    side = usual_cell(max(scales)) if cell is None else float(u.Quantity(cell, u.arcsec).value)
    least, most = PIXELS_ALONG_CELL
    if not least * max(scales) <= side <= most * min(scales):
        raise InputError(
            f"cells of {side:g} arcsec do not suit pixels of {min(scales):.3g} to {max(scales):.3g} arcsec; expected {least} of "
            f"the largest to {most} of the smallest along a side"
        )
    centres = np.array([sky.centre(image.wcs, image.shape) for image in images])
    middle = sky.mean_position(*centres.T)
    for image, centre in zip(images, centres, strict=True):
        if sky.separation((centre[0], centre[1]), middle) > FARTHEST - 1:
            raise InputError(f"{image.name} lies more than {FARTHEST:g} deg from the middle of all images; match them in parts")
    return BinnedGrid(*middle, side)


def _binned_map(image: SkyImage, grid: BinnedGrid, factor: float, surface_brightness: bool) -> BinnedMap:
    pixels, bad = image.read()
    level = statistics(pixels, bad).histogram_mode
    if not np.isfinite(level):
        raise InputError(f"{image.name} has no good pixel")
    return bin_detector(pixels, bad, image.wcs, grid, factor, level, image.name, "", surface_brightness=surface_brightness)


def _fixed(fixed: Any, unit: u.UnitBase | None, table: Table) -> dict[tuple[str, str], float]:
    if fixed is None:
        return {}
    values = fixed.to_value(unit or u.dimensionless_unscaled) if isinstance(fixed, u.Quantity) else fixed
    known = np.asarray(values, dtype=np.float64)
    if known.shape != (len(table),):
        raise InputError(
            f"there are {len(table)} images, and fixed offsets of the shape {known.shape}; expected one for each image"
        )
    names = zip(table["Root"], table["EXTNAME"], strict=True)
    return {(str(root), str(extname)): b for (root, extname), b in zip(names, known, strict=True) if np.isfinite(b)}


def _pair_table(pairs: match.Pairs, skies: Skies, overlaps: Table, unit: u.UnitBase | None, surface_brightness: bool) -> QTable:
    """The measured overlaps, as surface brightness; binned maps are above the sky of their image, which is added again."""
    per_pixel = skies.level / skies.area
    area = 0.5 * (skies.area[pairs.first] + skies.area[pairs.second])
    shown = (unit or u.dimensionless_unscaled) / (1 if surface_brightness else u.arcsec**2)
    return QTable(
        {
            "first": pairs.first,
            "second": pairs.second,
            "separation": pairs.separation * u.arcsec,
            "n_cells": pairs.n_cells,
            "difference": (pairs.difference + per_pixel[pairs.second] - per_pixel[pairs.first]) * shown,
            "error": pairs.error * shown,
            "residual": np.asarray(overlaps["After"], dtype=np.float64) / area * shown,
            "weight": np.asarray(overlaps["Weight"]),
            "rejected": np.asarray(overlaps["Rejected"]),
        }
    )


def solve_backgrounds(
    n: int, first: npt.ArrayLike, second: npt.ArrayLike, difference: Any, error: Any, *, own: Any = 0.0, **options: Any
) -> Solution:
    """Find the backgrounds of n images from differences that are known already.

    Parameters
    ----------
    n : int
        Number of images.
    first, second : (K,) int
        The images of each pair, from 0.
    difference, error : (K,) array_like or Quantity
        What the second shows minus what the first shows where both see the same sky, and its standard error.
    own : (n,) array_like or Quantity
        Sky level of each image, which sets the common level of images that pairs connect.
    **options
        ``own_error``, ``fixed``, ``key``, ``robust`` and ``shape`` of `kred_core.match.solve.solve`, without units.

    Returns
    -------
    Solution
        ``background.b``, ``error`` and ``residual`` are Quantities where the difference is.

    Raises
    ------
    ValueError
        Arrays of different lengths, or a pair of images that are not there.
    `~astropy.units.UnitConversionError`
        Units do not fit.

    Examples
    --------
    >>> from astropy import units as u
    >>> from kred_core import solve_backgrounds
    >>> difference, error = [5, -2, 3] * u.nJy, [0.1, 0.1, 0.1] * u.nJy
    >>> solved = solve_backgrounds(3, [0, 1, 0], [1, 2, 2], difference, error, own=[100, 106, 103] * u.nJy)
    >>> solved.background.b.round(2)
    <Quantity [100.33, 105.33, 103.33] nJy>
    """
    unit = getattr(difference, "unit", None)
    if unit is None:
        return solve(n, first, second, difference, error, own=own, **options)
    own = u.Quantity(0.0, unit) if own is None or (np.isscalar(own) and own == 0) else own
    plain = [u.Quantity(values).to_value(unit) for values in (difference, error, own)]
    solution = solve(n, first, second, plain[0], plain[1], own=plain[2], **options)
    return replace(solution, background=solution.background * unit, error=solution.error * unit, residual=solution.residual * unit)
