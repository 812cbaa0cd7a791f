"""The pairs of detectors that agree least, as they look where they overlap.

A number says that two detectors disagree; only a look says why: a satellite, a
ghost, a star's halo, a gradient, or a background that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation import block_means
from ..words import counted
from . import drawing
from .drawing import UNIT, fit, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PairCutout", "pair_figure"]

MOST = 10
WIDTH, HEAD, FOOT = 13.0, 1.0, 0.5  # inches
BLOCK_WIDTH, BLOCK_HEIGHT, TEXT_HEIGHT = 5.8, 2.55, 0.45  # of one pair, at most: text above, three images below
GAP, ROOM = 0.08, 0.3  # between the images of a pair, and between pairs
FRAME = (60, 60, 60, 255)
CELLS = 400  # larger images are averaged, no more are seen
BLOCKS = 80  # a difference is averaged to about this many blocks across: what is wrong is seldom seen in single cells
RANGE = 4.0  # robust standard deviations: half the range of greys around the median, and of colours beyond the median difference
Place = tuple[float, float, float, float]  # left, top, width and height in inches


@dataclass(frozen=True, eq=False)
class PairCutout:
    """Two detectors where they overlap, matched backgrounds subtracted; all in counts28 per native pixel."""

    first: str  # names of the detectors
    second: str
    image1: np.ndarray  # float32, the same cells of both, rows counted northwards, columns westwards; NaN without data
    image2: np.ndarray
    good: np.ndarray  # bool, same shape: cells that were compared
    after: float  # difference second - first that is left
    error: float  # its standard error
    rejected: bool  # the pair contradicts the solution and was not used


@drawing.own_style()
def pair_figure(cutouts: Sequence[PairCutout], title: str, path: Path) -> None:
    """Draw the pairs that agree least: both detectors, and their difference in the cells that were compared.

    Parameters
    ----------
    cutouts : sequence of `PairCutout`
        The worst first; the first ten are drawn. There may be none.
    title : str
        Field and image.
    path : `~pathlib.Path`
        PNG to write.
    """
    cutouts = list(cutouts)[:MOST]
    places = [_places(cutout.image1.shape) for cutout in cutouts]
    heights = [TEXT_HEIGHT + place[-1][1] + place[-1][3] + ROOM for place in places]
    rows = [max(heights[k : k + 2]) for k in range(0, len(cutouts), 2)]
    height = HEAD + FOOT + sum(rows)
    summary, note = "no two detectors overlap", ""
    if cutouts:
        largest = max((abs(c.after) for c in cutouts if np.isfinite(c.after)), default=np.nan)
        summary = (
            f"{f'the worst {len(cutouts)}' if len(cutouts) > 1 else 'one pair'}, matched backgrounds subtracted      "
            f"|difference| up to {short(largest)}  {UNIT}      {sum(c.rejected for c in cutouts)} rejected"
        )
        note = (
            f"grey: median ± {RANGE:g} robust standard deviations, blue: no data; red: second is brighter, blue: first is, only "
            f"cells that were compared, averaged to about {BLOCKS} blocks across; north is up, east left"
        )
    figure = drawing.page(WIDTH, height, f"{title} · pairs that agree least", summary, note)
    for k, cutout in enumerate(cutouts):
        left = drawing.MARGIN + (k % 2) * (BLOCK_WIDTH + GAP)
        _draw_pair(figure, cutout, k + 1, left, height - HEAD - sum(rows[: k // 2]), places[k])
    drawing.save(figure, path)


def _places(shape: tuple[int, int]) -> list[Place]:
    """Where three images of a shape stand, beside or below one another, as large as fits."""
    rows, columns = shape
    room_x, room_y = BLOCK_WIDTH, BLOCK_HEIGHT - TEXT_HEIGHT
    beside = min((room_x - 2 * GAP) / 3 / columns, room_y / rows)
    below = min(room_x / columns, (room_y - 2 * GAP) / 3 / rows)
    w, h = columns * max(beside, below), rows * max(beside, below)
    return [(k * (w + GAP), 0.0, w, h) if beside >= below else (0.0, k * (h + GAP), w, h) for k in range(3)]


def _draw_pair(figure: Figure, cutout: PairCutout, number: int, left: float, top: float, places: Sequence[Place]) -> None:
    """One pair in its block, whose upper left corner is given in inches."""
    width, height = figure.get_size_inches()
    difference = np.where(cutout.good, cutout.image2.astype(np.float64) - cutout.image1, np.nan)
    largest = max(difference.shape)
    images = [block_means(image, -(-largest // CELLS)) for image in (cutout.image1, cutout.image2)]
    difference = block_means(difference, -(-largest // BLOCKS))
    middle, spread = drawing.spread(np.stack(images))  # the same greys for both detectors
    grey = drawing.grey_colours(), drawing.linear_scale(middle, RANGE * spread)
    middle, spread = drawing.spread(difference)
    signed = drawing.diverging_colours(), drawing.linear_scale(0.0, abs(middle) + RANGE * spread)

    known = cutout.error > 0 and np.isfinite(cutout.after)
    numbers = [
        f"difference {short(cutout.after)} ± {short(cutout.error)} {UNIT}",
        *([f"{abs(cutout.after) / cutout.error:.1f} standard errors"] if known else []),
        counted(int(np.count_nonzero(cutout.good)), "cell"),
        f"colours ± {short(signed[1].vmax)}",
        *(["rejected"] if cutout.rejected else []),
    ]
    names = f"{number}   first: {cutout.first}   second: {cutout.second}"
    of_numbers = drawing.BEFORE if cutout.rejected else drawing.GREY_TEXT
    for words, y, colour in ((names, top, "black"), ("    ".join(numbers), top - 0.18, of_numbers)):
        size = fit(words, 9, 0.93 * BLOCK_WIDTH)
        figure.text(left / width, y / height, words, fontsize=size, color=colour, ha="left", va="top")
    for image, (colours, scale), (x, y, w, h) in zip([*images, difference], [grey, grey, signed], places, strict=True):
        picture = _picture(colours(scale(np.ma.masked_invalid(image)), bytes=True), round(w * figure.dpi), round(h * figure.dpi))
        x0, y0 = (left + x) * figure.dpi, (top - TEXT_HEIGHT - y - h) * figure.dpi
        figure.figimage(picture, round(x0), round(y0), origin="upper")  # not axes, which take ten times as long


def _picture(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Colours of cells enlarged to so many pixels, the first row at the bottom, with a frame around them."""
    rows, columns = pixels.shape[:2]
    framed = pixels[::-1][np.arange(height)[:, None] * rows // height, np.arange(width) * columns // width]
    framed[[0, -1]] = framed[:, [0, -1]] = FRAME
    return framed
