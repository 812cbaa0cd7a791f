"""A mosaic before and after matching, side by side with the same greys, and what matching took away.

Both halves have the same stretch, so that what differs between them is what
matching did, and what is the same is the sky; their difference is the seams alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..mode import histogram_mode
from ..quality import ReducedImage, block_medians, block_side, seam_jump
from . import drawing

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["comparison_figure"]

# inches; the longer side of each image is SIDE
SIDE, LEFT, BOTTOM, TOP = 5.6, 1.15, 0.95, 1.2
GAP, BAR_GAP, BAR_WIDTH, BAR_ROOM = 0.25, 0.12, 0.18, 1.1
NARROWEST = 0.5  # of the longer side; the text needs that width
SMALLEST_SIDE, LARGEST_SIDE = 500, 900  # pixels; smaller images are enlarged by a whole factor, larger ones averaged
NORMAL_MAD = 1.482602218505602
DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles of the block medians of the matched image, which see no stars: black and white
LEAST = 2.0  # times the linear range, of black and white from the sky level
TICK_DISTANCE = 0.07  # of the length of the bar
RANGE = 99.0  # percentile of |before - after| that is black or white


@dataclass(frozen=True)
class _Stretch:
    """How brightness becomes grey: linear within ``linear`` of the sky level, logarithmic from there to black and white."""

    linear: float
    black: float
    white: float
    change: float


@drawing.own_settings()
def comparison_figure(
    before: ReducedImage,
    after: ReducedImage,
    title: str,
    path: Path,
    outlines: Sequence[tuple[str, ArrayLike]] = (),
) -> None:
    """Draw a mosaic before and after matching.

    Parameters
    ----------
    before, after : `~kred_core.quality.ReducedImage`
        The same pixels of the sky.
    title : str
        Field, tile, image.
    path : `~pathlib.Path`
        PNG to write. Where there is no data it has the colour `UNCOVERED`.
    outlines : sequence of (name, array_like)
        Polygons to draw with their names, such as the tiles of a field: RA and Dec in degrees of their vertices, shape
        (n, 2), in the order south east, south west, north west, north east.

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
    summary = _summary(before, after)
    factor = -(-max(before.image.shape) // LARGEST_SIDE)
    before, after = before.shrink(factor), after.shrink(factor)
    change = before.image.astype(np.float64) - after.image
    shift = _median(change)
    level = _sky_level(after.image)
    stretch = _stretch(after.image - level, change - shift)

    page = _Page(after, title, summary, _note(stretch, after))
    outlines = [(name, _in_pixels(vertices, after.wcs)) for name, vertices in outlines]
    greys = drawing.asinh_scale(stretch.black, 0.0, stretch.white, stretch.linear)
    page.draw(0, "before", drawing.BEFORE, before.image - (level + shift), greys, outlines)
    shown = page.draw(1, "after", drawing.AFTER, after.image - level, greys, outlines)
    page.bar(1, shown, f"{drawing.UNIT} above the sky", _ticks(greys))
    shown = page.draw(2, "before − after", "#333333", change - shift, drawing.linear_scale(0.0, stretch.change), ())
    page.bar(2, shown, drawing.UNIT)
    drawing.save(page.figure, path, grey=True)


class _Page:
    """Places of the three images, in whole pixels so that all squares of an image are equal."""

    def __init__(self, reduced: ReducedImage, title: str, subtitle: str, note: str):
        from matplotlib.figure import Figure

        self.wcs = reduced.wcs
        rows, columns = (n * max(1, -(-SMALLEST_SIDE // max(reduced.image.shape))) for n in reduced.image.shape)
        self.dpi = max(rows, columns) / SIDE
        self.image = columns, rows
        self.cell = max(columns, self._pixels(NARROWEST * SIDE))
        width = self._left(2) + self.cell + self._pixels(BAR_ROOM)
        height = rows + self._pixels(BOTTOM) + self._pixels(TOP)
        self.size = width, height
        # a hair more than whole pixels: the canvas rounds down
        self.figure: Figure = Figure(
            figsize=((width + 0.01) / self.dpi, (height + 0.01) / self.dpi), dpi=self.dpi, facecolor="white"
        )
        drawing.write_lines(self.figure, LEFT, width / self.dpi - LEFT - 0.3, title, subtitle, note)

    def _pixels(self, inches: float) -> int:
        return round(inches * self.dpi)

    def _left(self, k: int) -> int:
        return self._pixels(LEFT) + k * (self.cell + self._pixels(GAP)) + (self._pixels(BAR_ROOM) if k == 2 else 0)

    def _place(self, left: int, width: int) -> tuple[float, float, float, float]:
        return left / self.size[0], self._pixels(BOTTOM) / self.size[1], width / self.size[0], self.image[1] / self.size[1]

    def draw(
        self,
        k: int,
        name: str,
        colour: str,
        image: np.ndarray,
        scale: Normalize,
        outlines: Sequence[tuple[str, np.ndarray]],
    ) -> AxesImage:
        """The image number ``k`` from the left, with its name above it; only the first has RA and Dec, which hold for all."""
        place = self._place(self._left(k), self.image[0])
        if k:
            axes, shown = drawing.plain_axes(self.figure, place, image, drawing.grey_colours(), scale, outlines)
        else:
            axes, shown = drawing.sky_axes(self.figure, place, image, self.wcs, drawing.grey_colours(), scale, outlines)
            axes.coords[0].set_ticks(number=4)
            axes.coords.grid(draw_grid=False)  # its lines look like seams
        y = 1 + 0.06 * self.dpi / self.image[1]
        axes.text(0, y, name, transform=axes.transAxes, fontsize=14, fontweight="bold", color=colour, va="bottom")
        return shown

    def bar(self, k: int, shown: AxesImage, label: str, ticks: Sequence[float] = ()) -> None:
        place = self._place(self._left(k) + self.image[0] + self._pixels(BAR_GAP), self._pixels(BAR_WIDTH))
        bar = self.figure.colorbar(shown, cax=self.figure.add_axes(place), extend="both", extendfrac=0.02)
        if ticks:
            bar.set_ticks(ticks)
        bar.set_label(label, fontsize=drawing.fit(label, 10, self.image[1] / self.dpi))
        bar.ax.tick_params(labelsize=10)


def _ticks(scale: Normalize) -> list[float]:
    """0, and round numbers on both sides of it that are far enough from one another on a scale that need not be linear."""
    decades = 10.0 ** np.arange(*np.floor(np.log10([1e-3 * scale.vmax, 10 * max(scale.vmax, -scale.vmin)])))
    ticks = [0.0]
    for sign in (1, -1):
        last = float(scale(0.0))
        for value in sign * np.outer(decades, (1.0, 2.0, 5.0)).ravel():
            place = float(scale(value))
            if scale.vmin <= value <= scale.vmax and abs(place - last) >= TICK_DISTANCE:
                ticks.append(float(value))
                last = place
    return sorted(ticks)


def _in_pixels(vertices: ArrayLike, wcs: WCS) -> np.ndarray:
    """A polygon on the sky in pixels, its first vertex again at the end; shape (2, n + 1)."""
    ra, dec = np.asarray(vertices, dtype=np.float64).T
    x, y = wcs.wcs_world2pix(ra, dec, 0)
    return np.stack([np.append(x, x[0]), np.append(y, y[0])])


def _summary(before: ReducedImage, after: ReducedImage) -> str:
    change = before.image - after.image
    was, remains, gone = (_seams(image) for image in (before.image, after.image, change))
    return f"seams {was} → {remains}, nebulae count too      seams taken away {gone}  {drawing.UNIT}"


def _seams(image: np.ndarray) -> str:
    jump = seam_jump(block_medians(image, block_side(image.shape)))
    return drawing.short(np.nan if jump is None else jump)


def _note(stretch: _Stretch, reduced: ReducedImage) -> str:
    return (
        f"grey, the same for before and after: linear to ± {drawing.short(stretch.linear)} {drawing.UNIT}, then logarithmic; "
        "seams: 99th percentile of |difference| of the medians of adjacent blocks; "
        f"{drawing.pixels_of(reduced)}; blue: no data"
    )


def _stretch(sky: np.ndarray, change: np.ndarray) -> _Stretch:
    """See the notes of `comparison_figure`."""
    noise = _spread(np.diff(sky, axis=1)) / np.sqrt(2)
    linear = max(_spread(change), noise) or _spread(sky) or 1.0
    known = block_medians(sky, block_side(sky.shape)).ravel()
    known = known[np.isfinite(known)]
    darkest, brightest = np.percentile(known, [DARKEST, BRIGHTEST]) if known.size else (0.0, 0.0)
    size = np.abs(change[np.isfinite(change)])
    return _Stretch(
        linear=linear,
        black=min(float(darkest), -LEAST * linear),
        white=max(float(brightest), LEAST * linear),
        change=max(float(np.percentile(size, RANGE)) if size.size else 0.0, noise),
    )


def _sky_level(image: np.ndarray) -> float:
    level, _ = histogram_mode(image)
    return level if np.isfinite(level) else 0.0


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else 0.0


def _spread(values: np.ndarray) -> float:
    """Robust standard deviation of the finite values."""
    return NORMAL_MAD * _median(np.abs(values - _median(values)))
