"""Pictures of mosaics, for people, who look before they read numbers.

Nothing is smoothed: a pixel of the mosaic's reduced image is one pixel, or a square of pixels, of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation import MosaicNumbers, ReducedImage
from ..sky import Grid, mean_position, pixel_scale, tan_wcs
from ..words import counted
from . import drawing
from .panels import Panels

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from matplotlib.colors import Colormap, Normalize

__all__ = ["coverage_figure", "field_figure", "mosaic_figure"]

# inches; the longer side of the image is SIDE, so that text keeps its size relative to it
SIDE, LEFT, RIGHT, BOTTOM, TOP = 9.0, 1.15, 1.25, 0.95, 0.85
BAR_GAP, BAR_WIDTH = 0.15, 0.22
SMALLEST_SIDE = 900  # pixels; smaller images are enlarged by a whole factor
FIELD_SIDE = 1000  # pixels
NARROWEST = 0.6  # of the longer side; the text needs that width


@drawing.own_settings()
def mosaic_figure(reduced: ReducedImage, numbers: MosaicNumbers, title: str, stretch: float, path: Path) -> None:
    """Draw a mosaic twice: as the sky, nebulae from faint to bright, and beside it so that its flaws are seen.

    Parameters
    ----------
    reduced : `~kred_core.evaluation.ReducedImage`
    numbers : `~kred_core.evaluation.MosaicNumbers`
        Of the mosaic at full resolution.
    title : str
        Field, tile, image, and what the reader should know of them.
    stretch : float
        The greys of the flaws span the median of the covered pixels +- this many of their standard deviations.
    path : `~pathlib.Path`
        PNG to write. Where there is no data it has the colour `UNCOVERED`.
    """
    note = f"sky: asinh from percentile {drawing.DARKEST:g} to {drawing.BRIGHTEST:g}; {drawing.pixels_of(reduced)}; blue: no data"
    panels = Panels(reduced, (True, True), title, _summary(numbers), note)
    for k, (name, scale) in enumerate(
        (
            ("sky", drawing.nebula_scale(reduced.image)),
            (f"flaws: median ± {stretch:g} standard deviations", drawing.linear_scale(numbers.level, stretch * numbers.std)),
        )
    ):
        panels.bar(k, panels.draw(k, name, "#333333", reduced.image, drawing.grey_colours(), scale), drawing.UNIT)
    drawing.save(panels.figure, path, grey=True)


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
    tiles : sequence of (name, `~kred_core.evaluation.ReducedImage`)
        At least one. Where tiles overlap their mean is shown.
    title : str
        Field and image.
    path : `~pathlib.Path`
        PNG to write. Where there is no data it has the colour `UNCOVERED`.
    """
    tiles = sorted(tiles, key=lambda tile: tile[0])
    image, wcs, scale = _on_one_grid([reduced for _, reduced in tiles])
    _draw_sky(
        image,
        wcs,
        drawing.grey_colours(),
        drawing.nebula_scale(image),
        bar_label=drawing.UNIT,
        title=title,
        subtitle=f"{counted(len(tiles), 'tile')}   median {drawing.short(_median(image))}  {drawing.UNIT}",
        note=f"grey: asinh from percentile {drawing.DARKEST:g} to {drawing.BRIGHTEST:g}; 1 pixel is {scale:.3g}″; blue: no data",
        path=path,
        outlines=[(name, drawing.outline(reduced, wcs)) for name, reduced in tiles],
    )


def _summary(numbers: MosaicNumbers) -> str:
    """Names and values to three digits; those that are not known are left out."""
    values = {"level": numbers.level, "std": numbers.std, "noise": numbers.noise, "block jump": numbers.block_jump}
    known = [f"{name} {drawing.short(value)}" for name, value in values.items() if value is not None]
    jump = f"      block jump: 99th percentile of |difference| of the medians of adjacent {numbers.block} × {numbers.block} pixels"
    return "   ".join(known) + f"  {drawing.UNIT}" + (jump if numbers.block_jump is not None else "")


def _median(image: np.ndarray) -> float:
    known = image[np.isfinite(image)]
    return float(np.median(known)) if known.size else math.nan


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
    place = ((left + enlarged[1] + BAR_GAP * dpi) / width, bottom / height, BAR_WIDTH * dpi / width, enlarged[0] / height)
    if grey:
        drawing.colour_bar(figure, place, shown, bar_label, enlarged[0] / dpi)
    else:
        bar = figure.colorbar(shown, cax=figure.add_axes(place))
        bar.set_label(bar_label, fontsize=11)
        bar.ax.tick_params(labelsize=10)
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
