"""Pictures of mosaics, for people, who look before they read numbers.

They show flaws, so the grey scale is narrow and nothing is smoothed: a pixel of
the mosaic's reduced image is one pixel, or a square of pixels, of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..coadd.plan import Grid
from ..geometry import mean_position, pixel_scale, tan_wcs
from ..quality import MosaicNumbers, ReducedImage
from . import drawing

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from matplotlib.colors import Colormap, Normalize

__all__ = ["coverage_figure", "field_figure", "mosaic_figure"]

DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles that are black and white in the picture of a field
SOFTENING = 0.1

# inches; the longer side of the image is SIDE, so that text keeps its size relative to it
SIDE, LEFT, RIGHT, BOTTOM, TOP = 9.0, 1.15, 1.25, 0.95, 0.85
BAR_GAP, BAR_WIDTH = 0.15, 0.22
SMALLEST_SIDE = 900  # pixels; smaller images are enlarged by a whole factor
FIELD_SIDE = 1000  # pixels
NARROWEST = 0.6  # of the longer side; the text needs that width


@drawing.own_settings()
def mosaic_figure(reduced: ReducedImage, numbers: MosaicNumbers, title: str, stretch: float, path: Path) -> None:
    """Draw a mosaic so that its flaws are seen.

    Parameters
    ----------
    reduced : `~kred_core.quality.ReducedImage`
    numbers : `~kred_core.quality.MosaicNumbers`
        Of the mosaic at full resolution.
    title : str
        Field, tile, image, and what the reader should know of them.
    stretch : float
        The grey scale spans the median of the covered pixels +- this many of their standard deviations.
    path : `~pathlib.Path`
        PNG to write. Where there is no data it has the colour `UNCOVERED`.
    """
    _draw_sky(
        reduced.image,
        reduced.wcs,
        drawing.grey_colours(),
        drawing.linear_scale(numbers.level, stretch * numbers.std),
        bar_label=drawing.UNIT,
        title=title,
        subtitle=_summary(level=numbers.level, std=numbers.std, noise=numbers.noise, seams=numbers.seams),
        note=f"grey: median ± {stretch:g} standard deviations; {drawing.pixels_of(reduced)}; blue: no data",
        path=path,
    )


@drawing.own_settings()
def coverage_figure(reduced: ReducedImage, numbers: MosaicNumbers, title: str, path: Path) -> None:
    """Draw how many detectors each part of a mosaic comes from; for the parameters see `mosaic_figure`."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    colours = colormaps["inferno"].with_extremes(bad=drawing.UNCOVERED)
    _draw_sky(
        np.where(reduced.coverage > 0, reduced.coverage, np.nan),
        reduced.wcs,
        colours,
        Normalize(0, numbers.coverage_max),
        bar_label="detectors per pixel",
        title=f"{title} · coverage",
        subtitle=f"covered {100 * numbers.covered_fraction:.1f} %   median {numbers.coverage_median:g}   "
        f"most {numbers.coverage_max} detectors per pixel",
        note=f"{drawing.pixels_of(reduced)}; blue: no detector",
        path=path,
        grey=False,
    )


@drawing.own_settings()
def field_figure(tiles: Sequence[tuple[str, ReducedImage]], title: str, path: Path) -> None:
    """Draw all tiles of one image of a field where they lie on the sky, so that the sky is seen, from faint to bright.

    Parameters
    ----------
    tiles : sequence of (name, `~kred_core.quality.ReducedImage`)
        At least one. Where tiles overlap their mean is shown.
    title : str
        Field and image.
    path : `~pathlib.Path`
        PNG to write. Where there is no data it has the colour `UNCOVERED`.
    """
    tiles = sorted(tiles, key=lambda tile: tile[0])
    image, wcs, scale = _on_one_grid([reduced for _, reduced in tiles])
    black, middle, white = np.nanpercentile(image, [DARKEST, 50, BRIGHTEST])
    _draw_sky(
        image,
        wcs,
        drawing.grey_colours(),
        drawing.asinh_scale(black, middle, white, SOFTENING * (white - black)),
        bar_label=drawing.UNIT,
        title=title,
        subtitle=f"{len(tiles)} tile{'s' if len(tiles) > 1 else ''}   {_summary(median=middle)}",
        note=f"grey: asinh from percentile {DARKEST:g} to {BRIGHTEST:g}; 1 pixel is {scale:.3g}″; blue: no data",
        path=path,
        outlines=[(name, drawing.outline(reduced, wcs)) for name, reduced in tiles],
    )


def _summary(**values: float | None) -> str:
    """Names and values to three digits; those that are not known are left out."""
    return "   ".join(f"{name} {drawing.short(value)}" for name, value in values.items() if value is not None) + f"  {drawing.UNIT}"


def _draw_sky(
    image: np.ndarray,
    wcs: WCS,
    colours: Colormap,
    scale: Normalize,
    *,
    bar_label: str,
    title: str,
    subtitle: str,
    note: str,
    path: Path,
    grey: bool = True,
    outlines: Sequence[tuple[str, np.ndarray]] = (),
) -> None:
    """One image with its axes on the sky, a colour bar, and three lines of text."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    enlarged = [n * max(1, -(-SMALLEST_SIDE // max(image.shape))) for n in image.shape]
    dpi = max(enlarged) / SIDE
    left, right, bottom, top = (round(inches * dpi) for inches in (LEFT, RIGHT, BOTTOM, TOP))
    height, width = enlarged[0] + bottom + top, enlarged[1] + left + right
    # a hair more than whole pixels: the canvas rounds down
    figure = Figure(figsize=((width + 0.01) / dpi, (height + 0.01) / dpi), dpi=dpi, facecolor="white")
    place = (left / width, bottom / height, enlarged[1] / width, enlarged[0] / height)
    _, shown = drawing.sky_axes(figure, place, image, wcs, colours, scale, outlines)
    bar_axes = figure.add_axes(
        ((left + enlarged[1] + BAR_GAP * dpi) / width, bottom / height, BAR_WIDTH * dpi / width, enlarged[0] / height)
    )
    bar = figure.colorbar(shown, cax=bar_axes, extend="both" if grey else "neither", extendfrac=0.02)
    bar.set_label(bar_label, fontsize=11)
    bar.ax.tick_params(labelsize=10)
    if not grey:
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    drawing.write_lines(figure, left / dpi, min(SIDE, enlarged[1] / dpi + RIGHT - BAR_GAP), title, subtitle, note)
    drawing.save(figure, path, grey)


def _on_one_grid(tiles: Sequence[ReducedImage]) -> tuple[np.ndarray, WCS, float]:
    """All tiles on one TAN grid around their middle: image, WCS, pixel size in arcsec.

    Tiles are averaged to about the pixels of the grid first; each of these then gets the mean of the nearest pixels of all tiles.
    """
    scales = [pixel_scale(tile.wcs, tile.image.shape) for tile in tiles]
    middles = [tile.wcs.wcs_pix2world((tile.image.shape[1] - 1) / 2, (tile.image.shape[0] - 1) / 2, 0) for tile in tiles]
    ra, dec = mean_position(*np.array(middles, dtype=np.float64).T)
    around = tan_wcs(Grid(ra, dec, 1.0, 1, 1))  # arcsec from the middle
    half = np.max([np.abs(drawing.outline(tile, around)).max(axis=1) for tile in tiles], axis=0)
    half = np.maximum(half, NARROWEST * half.max())
    scale = max(2 * half.max() / FIELD_SIDE, min(scales))
    columns, rows = (math.ceil(2 * h / scale) for h in half)
    wcs = tan_wcs(Grid(ra, dec, scale, columns, rows))
    sums, counts = np.zeros((rows, columns)), np.zeros((rows, columns))
    for tile, own in zip(tiles, scales, strict=True):
        small = tile.shrink(round(scale / own))
        x, y = drawing.outline(tile, wcs)
        box = tuple(slice(max(0, math.floor(a.min())), math.ceil(a.max()) + 1) for a in (y, x))
        row, column = np.mgrid[:rows, :columns][(slice(None), *box)]
        column, row = (np.rint(a).astype(np.int64) for a in small.wcs.wcs_world2pix(*wcs.wcs_pix2world(column, row, 0), 0))
        inside = (row >= 0) & (row < small.image.shape[0]) & (column >= 0) & (column < small.image.shape[1])
        values = np.full(inside.shape, np.nan)
        values[inside] = small.image[row[inside], column[inside]]
        seen = np.isfinite(values)
        sums[box][seen] += values[seen]
        counts[box] += seen
    image = np.full((rows, columns), np.nan)
    np.divide(sums, counts, out=image, where=counts > 0)
    return image, wcs, scale
