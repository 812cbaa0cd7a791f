"""Images of the same sky side by side in one figure, each with its own or a shared colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation import ReducedImage
from . import drawing

if TYPE_CHECKING:
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["Panels"]

# inches; the longer side of each image is SIDE
SIDE, LEFT, BOTTOM, TOP = 5.6, 1.15, 0.95, 1.2
GAP, BAR_GAP, BAR_WIDTH, BAR_ROOM = 0.25, 0.12, 0.18, 1.2
NARROWEST = 0.5  # of the longer side; the text needs that width
SMALLEST_SIDE = 500  # pixels; smaller images are enlarged by a whole factor


class Panels:
    """A figure with places for images, in whole pixels so that all squares of an image are equal.

    Parameters
    ----------
    reduced : `~kred_core.evaluation.ReducedImage`
        One of the images: all have its shape and its place on the sky.
    bars : sequence of bool
        For each image from the left, whether a colour bar follows it.
    title, subtitle, note : str
        See `drawing.write_lines`.
    """

    def __init__(self, reduced: ReducedImage, bars: Sequence[bool], title: str, subtitle: str, note: str):
        from matplotlib.figure import Figure

        self.wcs = reduced.wcs
        rows, columns = (n * max(1, -(-SMALLEST_SIDE // max(reduced.image.shape))) for n in reduced.image.shape)
        self.dpi = max(rows, columns) / SIDE
        self.image = columns, rows
        cell = max(columns, self._pixels(NARROWEST * SIDE)) + self._pixels(GAP)
        self.lefts = [self._pixels(LEFT) + k * cell + self._pixels(BAR_ROOM) * sum(bars[:k]) for k in range(len(bars))]
        width = self.lefts[-1] + cell - self._pixels(GAP) + self._pixels(BAR_ROOM)
        height = rows + self._pixels(BOTTOM) + self._pixels(TOP)
        self.size = width, height
        # a hair more than whole pixels: the canvas rounds down
        self.figure: Figure = Figure(
            figsize=((width + 0.01) / self.dpi, (height + 0.01) / self.dpi), dpi=self.dpi, facecolor="white"
        )
        drawing.write_lines(self.figure, LEFT, width / self.dpi - LEFT - 0.3, title, subtitle, note)

    def _pixels(self, inches: float) -> int:
        return round(inches * self.dpi)

    def _place(self, left: int, width: int) -> tuple[float, float, float, float]:
        return left / self.size[0], self._pixels(BOTTOM) / self.size[1], width / self.size[0], self.image[1] / self.size[1]

    def draw(
        self,
        k: int,
        name: str,
        colour: str,
        image: np.ndarray,
        colours: Colormap,
        scale: Normalize,
        outlines: Sequence[tuple[str, np.ndarray]] = (),
    ) -> AxesImage:
        """The image number ``k`` from the left, with its name above it; only the first has RA and Dec, which hold for all."""
        place = self._place(self.lefts[k], self.image[0])
        if k:
            axes, shown = drawing.plain_axes(self.figure, place, image, colours, scale, outlines)
        else:
            axes, shown = drawing.sky_axes(self.figure, place, image, self.wcs, colours, scale, outlines)
            axes.coords[0].set_ticks(number=4)
            axes.coords.grid(draw_grid=False)  # its lines look like seams
        y = 1 + 0.06 * self.dpi / self.image[1]
        size = drawing.fit(name, 14, self.image[0] / self.dpi, bold=True)
        axes.text(0, y, name, transform=axes.transAxes, fontsize=size, fontweight="bold", color=colour, va="bottom")
        return shown

    def bar(self, k: int, shown: AxesImage, label: str) -> None:
        """The colour bar to the right of the image number ``k``."""
        place = self._place(self.lefts[k] + self.image[0] + self._pixels(BAR_GAP), self._pixels(BAR_WIDTH))
        drawing.colour_bar(self.figure, place, shown, label, self.image[1] / self.dpi)
