"""Pictures of mosaics, alone and before beside after matching, for people, who look before they read numbers.

Nothing is smoothed: a pixel of the mosaic's reduced image is one pixel, or a square of pixels, of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..evaluation import MosaicNumbers, ReducedImage, block_side
from ..sky import Grid, mean_position, pixel_scale, tan_wcs
from ..statistics import block_medians, histogram_mode
from ..words import counted
from . import drawing
from .drawing import UNIT, Stretch, short, spread

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


FIELD_SIDE = 1000  # pixels
NARROWEST = 0.6  # of the longer side of a field; the text needs that width
COMPARED_SIDE = 900  # pixels; larger images are averaged before they are compared
LEAST = 2.0  # times the linear range, of black and white from the sky level
RANGE = 99.0  # percentile of |before - after| that is black or white
NEBULAE = f"asinh from percentile {Stretch.DARKEST:g} to {Stretch.BRIGHTEST:g}"


class Panels:
    """Images of the same part of the sky side by side, in whole pixels so that all squares of an image are equal.

    All images have the same shape and WCS. ``bars`` says for each from the left whether a colour bar follows it; a single image
    is larger than several.
    """

    LEFT, BOTTOM = 1.15, 0.95  # inches
    GAP, BAR_GAP, BAR_WIDTH, BAR_ROOM = 0.25, 0.12, 0.18, 1.2
    NARROWEST = 0.5  # of the longer side; the text needs that width
    NAME_INSIDE = 0.22  # of the diagonal of an outline, beyond the overlap of neighbouring tiles

    def __init__(self, shape: tuple[int, int], wcs: WCS, bars: Sequence[bool], title: str, subtitle: str, note: str):
        from matplotlib.figure import Figure

        self.wcs, self.alone = wcs, len(bars) == 1
        # the longer side in inches, and in pixels, to which smaller images are enlarged by a whole factor; room above
        side, smallest, top = (9.0, 900, 0.85) if self.alone else (5.6, 500, 1.2)
        self.rows, self.columns = (n * max(1, -(-smallest // max(shape))) for n in shape)
        self.dpi = max(self.rows, self.columns) / side
        cell = max(self.columns, self._pixels(self.NARROWEST * side)) + self._pixels(self.GAP)
        before = [self._pixels(self.BAR_ROOM) * sum(bars[:k]) for k in range(len(bars))]
        self.lefts = [self._pixels(self.LEFT) + k * cell + room for k, room in enumerate(before)]
        width = self.lefts[-1] + cell - self._pixels(self.GAP) + self._pixels(self.BAR_ROOM)
        self.size = width, self.rows + self._pixels(self.BOTTOM) + self._pixels(top)
        # a hair more than whole pixels: the canvas rounds down
        self.figure: Figure = Figure(figsize=((self.size[0] + 0.01) / self.dpi, (self.size[1] + 0.01) / self.dpi), dpi=self.dpi)
        drawing.write_lines(self.figure, self.LEFT, width / self.dpi - self.LEFT - 0.3, title, subtitle, note)

    def _pixels(self, inches: float) -> int:
        return round(inches * self.dpi)

    def _place(self, left: int, width: int) -> tuple[float, float, float, float]:
        across, up = self.size
        return left / across, self._pixels(self.BOTTOM) / up, width / across, self.rows / up

    def draw(
        self,
        k: int,
        image: np.ndarray,
        colours: Colormap,
        scale: Normalize,
        name: str = "",
        colour: str = drawing.GREY_TEXT,
        outlines: Sequence[tuple[str, np.ndarray]] = (),
    ) -> AxesImage:
        """Draw an image, NaN where there is no data, as number ``k`` from the left, with its name above it.

        Only the first has RA and Dec, which hold for all and take most of the time. Outlines are closed, in pixels, shape (2, n),
        and have their names in the corner at point 3, which is the upper left of what `~drawing.outline` returns.
        """
        from matplotlib.patheffects import withStroke

        sky = {"xticks": [], "yticks": []} if k else {"projection": self.wcs}
        axes = self.figure.add_axes(self._place(self.lefts[k], self.columns), **sky)
        shown = axes.imshow(
            np.ma.masked_invalid(image), cmap=colours, norm=scale, origin="lower", interpolation="nearest",
            interpolation_stage="data", aspect="auto",
        )  # fmt: skip
        axes.set_autoscale_on(False)
        for label, corners in outlines:
            axes.plot(*corners, color=drawing.OUTLINE, linewidth=0.7)
            where = corners[:, 3] + self.NAME_INSIDE * (corners[:, 1] - corners[:, 3])
            words = axes.text(where[0], where[1], label, color=drawing.OUTLINE, fontsize=11, ha="center", va="center")
            words.set_path_effects([withStroke(linewidth=3, foreground="black")])
        if not k:
            self._label_sky(axes)
        size = drawing.fit(name, 14, self.columns / self.dpi, bold=True)
        y = 1 + 0.06 * self.dpi / self.rows
        axes.text(0, y, name, transform=axes.transAxes, fontsize=size, fontweight="bold", color=colour, va="bottom")
        return shown

    def _label_sky(self, axes: Any) -> None:
        """Sexagesimal labels. The separators are characters: astropy's own are mathtext."""
        for coordinate, name, separators, ticks in (
            (axes.coords[0], "Right ascension (ICRS)", ("ʰ", "ᵐ", "ˢ"), 6 if self.alone else 4),
            (axes.coords[1], "Declination (ICRS)", ("°", "′", "″"), 6),
        ):
            coordinate.set_separator(separators)
            coordinate.set_axislabel(name, fontsize=11, minpad=0.6)
            coordinate.set_ticklabel(size=10, exclude_overlapping=True, simplify=False)
            coordinate.set_ticks(number=ticks)
        if self.alone:  # among others the lines would look like seams
            axes.coords.grid(color="white", alpha=0.25, linewidth=0.5)

    def bar(self, k: int, shown: AxesImage, label: str, extend: str = "both") -> Axes:
        """Draw the colour bar to the right of the image number ``k``, pointed where values may be beyond it."""
        from matplotlib.colors import FuncNorm

        place = self._place(self.lefts[k] + self.columns + self._pixels(self.BAR_GAP), self._pixels(self.BAR_WIDTH))
        bar = self.figure.colorbar(shown, cax=self.figure.add_axes(place), extend=extend, extendfrac=0.02)
        if isinstance(shown.norm, FuncNorm):  # the numbers that matplotlib chooses are for linear scales
            ticks = drawing.round_values(shown.norm.inverse, shown.norm)
            bar.set_ticks(ticks, labels=[f"{v:g}".replace("-", drawing.MINUS) for v in ticks])
        bar.set_label(label, fontsize=drawing.fit(label, 11, self.rows / self.dpi))
        return bar.ax


@drawing.own_style()
def mosaic_figure(reduced: ReducedImage, numbers: MosaicNumbers, title: str, stretch: float, path: Path) -> None:
    """Draw a mosaic twice: as the sky, nebulae from faint to bright, and beside it so that its flaws are seen.

    The numbers are those at full resolution. The greys of the flaws span the median of the covered pixels +- ``stretch`` of their
    standard deviations.
    """
    values = {"level": numbers.level, "std": numbers.std, "noise": numbers.noise, "block jump": numbers.block_jump}
    summary = "   ".join(f"{name} {short(value)}" for name, value in values.items() if value is not None) + f"  {UNIT}"
    if numbers.block_jump is not None:
        block = f"{numbers.block} × {numbers.block}"
        summary += f"      block jump: 99th percentile of |difference| of the medians of adjacent {block} pixels"
    note = f"sky: {NEBULAE}; {drawing.pixels_of(reduced)}; blue: no data"
    panels = Panels(reduced.image.shape, reduced.wcs, (True, True), title, summary, note)
    flaws = drawing.linear_scale(numbers.level, stretch * numbers.std)
    scales = {"sky": Stretch.of(reduced.image).norm(), f"flaws: median ± {stretch:g} standard deviations": flaws}
    for k, (name, scale) in enumerate(scales.items()):
        panels.bar(k, panels.draw(k, reduced.image, drawing.grey_colours(), scale, name), UNIT)
    drawing.save(panels.figure, path)


@drawing.own_style()
def coverage_figure(reduced: ReducedImage, numbers: MosaicNumbers, title: str, path: Path) -> None:
    """Draw how many detectors each part of a mosaic comes from."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    coverage = np.where(reduced.coverage > 0, reduced.coverage, np.nan)
    most = f"most {numbers.coverage_max} detectors per pixel"
    summary = f"covered {100 * numbers.covered_fraction:.1f} %   median {numbers.coverage_median:g}   {most}"
    note = f"{drawing.pixels_of(reduced)}; blue: no detector"
    panels = Panels(coverage.shape, reduced.wcs, (True,), f"{title} · coverage", summary, note)
    colours = colormaps["inferno"].with_extremes(bad=drawing.UNCOVERED)
    bar = panels.bar(0, panels.draw(0, coverage, colours, Normalize(0, numbers.coverage_max)), "detectors per pixel", "neither")
    bar.yaxis.set_major_locator(MaxNLocator(integer=True))
    drawing.save(panels.figure, path)


@drawing.own_style()
def field_figure(tiles: Sequence[tuple[str, ReducedImage]], title: str, path: Path) -> None:
    """Draw all tiles of one image of a field where they lie on the sky, so that the sky is seen, from faint to bright.

    The tiles are at least one name and `~kred_core.evaluation.ReducedImage`. Where they overlap their mean is shown.
    """
    tiles = sorted(tiles, key=lambda tile: tile[0])
    image, wcs, scale = _on_one_grid([reduced for _, reduced in tiles])
    known = image[np.isfinite(image)]
    summary = f"{counted(len(tiles), 'tile')}   median {short(np.median(known) if known.size else np.nan)}  {UNIT}"
    panels = Panels(image.shape, wcs, (True,), title, summary, f"grey: {NEBULAE}; 1 pixel is {scale:.3g}″; blue: no data")
    outlines = [(name, drawing.outline(reduced, wcs)) for name, reduced in tiles]
    panels.bar(0, panels.draw(0, image, drawing.grey_colours(), Stretch.of(image).norm(), outlines=outlines), UNIT)
    drawing.save(panels.figure, path)


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


# before and after


@drawing.own_style()
def comparison_figure(
    before: ReducedImage,
    after: ReducedImage,
    jumps: tuple[float | None, float | None, float | None],
    title: str,
    path: Path,
    outlines: Sequence[tuple[str, ArrayLike]] = (),
) -> None:
    """Draw a mosaic before and after matching, side by side with the same greys, and what matching took away.

    What differs between the two halves is what matching did, and what is the same is the sky; their difference is the seams alone.

    Both are of the same pixels of the sky. The jumps are `~kred_core.evaluation.block_jump` before, after, and of the difference;
    None where there is none. Outlines are polygons to draw with their names, such as the tiles of a field: RA and Dec in degrees of
    their vertices, shape (n, 2), in the order south east, south west, north west, north east.

    Raises
    ------
    ValueError
        The two images differ in shape.

    Notes
    -----
    Zero is the histogram mode of ``after``, the level of most of the sky, and in ``before`` the same plus the median of
    before - after. The grey scale of both is linear within +- w of it, where w is the robust standard deviation of
    before - after (the seams, without sky or noise), or the noise of a pixel where that is more; beyond it is logarithmic, so that
    bright nebulae keep their shapes.
    """
    if before.image.shape != after.image.shape:
        raise ValueError(f"images of {before.image.shape} and {after.image.shape} pixels cannot be compared")
    factor = -(-max(before.image.shape) // COMPARED_SIDE)
    before, after = before.shrink(factor), after.shrink(factor)
    change = before.image.astype(np.float64) - after.image
    shift, width = spread(change)
    level = np.nan_to_num(histogram_mode(after.image)[0])
    sky = after.image - level
    noise = spread(np.diff(sky, axis=1))[1] / np.sqrt(2)
    linear = max(width, noise) or spread(sky)[1] or 1.0
    blocks = Stretch.of(block_medians(sky, block_side(sky.shape)))  # which see no stars
    stretch = Stretch(min(blocks.black, -LEAST * linear), 0.0, max(blocks.white, LEAST * linear), linear)
    size = np.abs(change - shift)[np.isfinite(change)]
    largest = max(float(np.percentile(size, RANGE)) if size.size else 0.0, noise)

    was, remains, gone = (short(np.nan if jump is None else jump) for jump in jumps)
    summary = f"block jump {was} → {remains}, nebulae count too      seams removed {gone}  {UNIT}"
    note = (
        f"grey, the same for before and after: linear to ± {short(stretch.softening)} {UNIT}, then logarithmic; "
        "block jump: 99th percentile of |difference| of the medians of adjacent blocks; seams removed: the same of before − after; "
        f"{drawing.pixels_of(after)}; blue, on the right grey: no data"
    )
    panels = Panels(sky.shape, after.wcs, (False, True, True), title, summary, note)
    seen = [(name, _in_pixels(vertices, after.wcs)) for name, vertices in outlines]
    look = drawing.grey_colours(), stretch.norm()
    panels.draw(0, before.image - (level + shift), *look, "before", drawing.BEFORE, seen)
    panels.bar(1, panels.draw(1, sky, *look, "after", drawing.AFTER, seen), f"{UNIT} above the sky")
    signed = drawing.diverging_colours(), drawing.linear_scale(0.0, largest)
    panels.bar(2, panels.draw(2, change - shift, *signed, "before − after"), UNIT)
    drawing.save(panels.figure, path)


def _in_pixels(vertices: ArrayLike, wcs: WCS) -> np.ndarray:
    """A polygon on the sky in pixels, its first vertex again at the end; shape (2, n + 1)."""
    x, y = wcs.wcs_world2pix(*np.asarray(vertices, dtype=np.float64).T, 0)
    return np.stack([np.append(x, x[0]), np.append(y, y[0])])
