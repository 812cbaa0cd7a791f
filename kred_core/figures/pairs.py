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

from ..words import counted
from . import drawing

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

__all__ = ["PairCutout", "pair_figure"]

MOST = 10
WIDTH = 13.0  # inches
HEAD, FOOT = 1.0, 0.5
BLOCK_WIDTH, BLOCK_HEIGHT, TEXT_HEIGHT = 5.8, 2.55, 0.45  # of one pair, at most: text above, three images below
GAP, ROOM = 0.08, 0.3  # between the images of a pair, and between pairs
FRAME = (60, 60, 60, 255)
CELLS = 400  # larger images are averaged, no more are seen
BLOCKS = 80  # a difference is averaged to about this many blocks across: what is wrong is seldom seen in single cells
GREY_RANGE = 4.0  # robust standard deviations on each side of the median that are black and white
COLOUR_RANGE = 4.0  # robust standard deviations of a difference beyond its median
Place = tuple[float, float, float, float]  # left, top, width and height in inches
NORMAL_MAD = 1.482602218505602


@dataclass(frozen=True, eq=False)
class PairCutout:
    """Two detectors where they overlap, matched backgrounds subtracted.

    Attributes
    ----------
    first, second : str
        Names of the detectors.
    image1, image2 : `~numpy.ndarray`
        float32, the same cells of both, shape (rows, columns), rows counted northwards and columns westwards:
        counts28 per native pixel, NaN without data.
    good : `~numpy.ndarray`
        bool, same shape: cells that were compared.
    after, error : float
        Difference second - first that is left, and its standard error, counts28 per native pixel.
    rejected : bool
        The pair contradicts the solution and was not used.
    """

    first: str
    second: str
    image1: np.ndarray
    image2: np.ndarray
    good: np.ndarray
    after: float
    error: float
    rejected: bool


@drawing.own_settings()
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
    note = (
        f"grey: median ± {GREY_RANGE:g} robust standard deviations, blue: no data; red: second is brighter, blue: first is, only "
        f"cells that were compared, averaged to about {BLOCKS} blocks across; north is up, east left"
    )
    figure = drawing.page(WIDTH, height, f"{title} · pairs that agree least", _summary(cutouts), note if cutouts else "")
    for k, cutout in enumerate(cutouts):
        left = drawing.MARGIN + (k % 2) * (BLOCK_WIDTH + GAP)
        _draw_pair(figure, cutout, k + 1, left, height - HEAD - sum(rows[: k // 2]), places[k])
    drawing.save(figure, path, grey=False)


def _summary(cutouts: Sequence[PairCutout]) -> str:
    if not cutouts:
        return "no two detectors overlap"
    largest = max((abs(c.after) for c in cutouts if np.isfinite(c.after)), default=np.nan)
    words = [
        f"{f'the worst {len(cutouts)}' if len(cutouts) > 1 else 'one pair'}, matched backgrounds subtracted",
        f"|difference| up to {drawing.short(largest)}  {drawing.UNIT}",
        f"{sum(c.rejected for c in cutouts)} rejected",
    ]
    return "      ".join(words)


def _draw_pair(figure: Figure, cutout: PairCutout, number: int, left: float, top: float, places: Sequence[Place]) -> None:
    """One pair in its block, whose upper left corner is given in inches."""
    width, height = figure.get_size_inches()
    difference = np.where(cutout.good, cutout.image2.astype(np.float64) - cutout.image1, np.nan)
    largest = max(difference.shape)
    images = [_averaged(image, -(-largest // CELLS)) for image in (cutout.image1, cutout.image2)]
    difference = _averaged(difference, -(-largest // BLOCKS))
    grey, signed = _grey_scale(images), _difference_scale(difference)

    style = {"ha": "left", "va": "top", "parse_math": False}
    names = f"{number}   first: {cutout.first}   second: {cutout.second}"
    figure.text(left / width, top / height, names, fontsize=drawing.fit(names, 9, 0.93 * BLOCK_WIDTH), **style)
    colour = drawing.BEFORE if cutout.rejected else "#333333"
    numbers = _numbers(cutout, signed.vmax)
    size = drawing.fit(numbers, 9, 0.93 * BLOCK_WIDTH)
    figure.text(left / width, (top - 0.18) / height, numbers, fontsize=size, color=colour, **style)
    shown = [(image, drawing.grey_colours(), grey) for image in images] + [(difference, drawing.diverging_colours(), signed)]
    for (image, colours, scale), (x, y, w, h) in zip(shown, places, strict=True):
        picture = _picture(colours(scale(np.ma.masked_invalid(image)), bytes=True), round(w * figure.dpi), round(h * figure.dpi))
        x0, y0 = (left + x) * figure.dpi, (top - TEXT_HEIGHT - y - h) * figure.dpi
        figure.figimage(picture, round(x0), round(y0), origin="upper")  # not axes, which take ten times as long


def _picture(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Colours of cells enlarged to so many pixels, the first row at the bottom, with a frame around them."""
    rows, columns = pixels.shape[:2]
    framed = pixels[::-1][np.arange(height)[:, None] * rows // height, np.arange(width) * columns // width]
    framed[[0, -1]] = framed[:, [0, -1]] = FRAME
    return framed


def _numbers(cutout: PairCutout, colour_range: float) -> str:
    words = [
        f"difference {drawing.short(cutout.after)} ± {drawing.short(cutout.error)} {drawing.UNIT}",
        counted(int(np.count_nonzero(cutout.good)), "cell"),
        f"colours ± {drawing.short(colour_range)}",
    ]
    if cutout.error > 0 and np.isfinite(cutout.after):
        words.insert(1, f"{abs(cutout.after) / cutout.error:.1f} standard errors")
    return "    ".join([*words, *(["rejected"] if cutout.rejected else [])])


def _places(shape: tuple[int, int]) -> list[Place]:
    """Left, top, width, height in inches of three images of a shape, beside or below one another, as large as fits."""
    rows, columns = shape
    room_x, room_y = BLOCK_WIDTH, BLOCK_HEIGHT - TEXT_HEIGHT
    beside = min((room_x - 2 * GAP) / 3 / columns, room_y / rows)
    below = min(room_x / columns, (room_y - 2 * GAP) / 3 / rows)
    w, h = columns * max(beside, below), rows * max(beside, below)
    return [(k * (w + GAP), 0.0, w, h) if beside >= below else (0.0, k * (h + GAP), w, h) for k in range(3)]


def _averaged(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks of ``factor`` x ``factor`` cells; NaN where all of a block are."""
    if factor <= 1:
        return image
    rows, columns = (-(-n // factor) * factor for n in image.shape)
    padded = np.full((rows, columns), np.nan)
    padded[: image.shape[0], : image.shape[1]] = image
    blocks = padded.reshape(rows // factor, factor, columns // factor, factor)
    known = np.isfinite(blocks)
    n = known.sum(axis=(1, 3))
    means = np.full(n.shape, np.nan)
    np.divide(np.where(known, blocks, 0.0).sum(axis=(1, 3)), n, out=means, where=n > 0)
    return means


def _spread(values: np.ndarray) -> tuple[float, float]:
    """Median and robust standard deviation of the finite values; 0, 0 without any."""
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 0.0
    middle = float(np.median(values))
    return middle, float(NORMAL_MAD * np.median(np.abs(values - middle)))


def _grey_scale(images: Sequence[np.ndarray]) -> Normalize:
    """The same greys for both detectors."""
    middle, spread = _spread(np.concatenate([image.ravel() for image in images]))
    return drawing.linear_scale(middle, GREY_RANGE * spread)


def _difference_scale(difference: np.ndarray) -> Normalize:
    """White at 0, so that the colour tells the sign."""
    middle, spread = _spread(difference)
    return drawing.linear_scale(0.0, abs(middle) + COLOUR_RANGE * spread)
