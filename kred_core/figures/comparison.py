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

from ..evaluation import ReducedImage, block_medians, block_side
from ..statistics import histogram_mode
from . import drawing
from .panels import Panels

if TYPE_CHECKING:
    from astropy.wcs import WCS

__all__ = ["comparison_figure"]

LARGEST_SIDE = 900  # pixels; larger images are averaged
NORMAL_MAD = 1.482602218505602
DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles of the block medians of the matched image, which see no stars: black and white
LEAST = 2.0  # times the linear range, of black and white from the sky level
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
    jumps: tuple[float | None, float | None, float | None],
    title: str,
    path: Path,
    outlines: Sequence[tuple[str, ArrayLike]] = (),
) -> None:
    """Draw a mosaic before and after matching.

    Parameters
    ----------
    before, after : `~kred_core.evaluation.ReducedImage`
        The same pixels of the sky.
    jumps : tuple of float or None
        `~kred_core.evaluation.block_jump` before, after, and of the difference; None where there is none.
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
    factor = -(-max(before.image.shape) // LARGEST_SIDE)
    before, after = before.shrink(factor), after.shrink(factor)
    change = before.image.astype(np.float64) - after.image
    shift = _median(change)
    level = _sky_level(after.image)
    stretch = _stretch(after.image - level, change - shift)

    panels = Panels(after, (False, True, True), title, _summary(*jumps), _note(stretch, after))
    outlines = [(name, _in_pixels(vertices, after.wcs)) for name, vertices in outlines]
    look = drawing.grey_colours(), drawing.asinh_scale(stretch.black, 0.0, stretch.white, stretch.linear), outlines
    panels.draw(0, "before", drawing.BEFORE, before.image - (level + shift), *look)
    shown = panels.draw(1, "after", drawing.AFTER, after.image - level, *look)
    panels.bar(1, shown, f"{drawing.UNIT} above the sky")
    signed = drawing.diverging_colours(), drawing.linear_scale(0.0, stretch.change)
    panels.bar(2, panels.draw(2, "before − after", "#333333", change - shift, *signed), drawing.UNIT)
    drawing.save(panels.figure, path, grey=True)


def _in_pixels(vertices: ArrayLike, wcs: WCS) -> np.ndarray:
    """A polygon on the sky in pixels, its first vertex again at the end; shape (2, n + 1)."""
    ra, dec = np.asarray(vertices, dtype=np.float64).T
    x, y = wcs.wcs_world2pix(ra, dec, 0)
    return np.stack([np.append(x, x[0]), np.append(y, y[0])])


def _summary(before: float | None, after: float | None, removed: float | None) -> str:
    was, remains, gone = (drawing.short(np.nan if jump is None else jump) for jump in (before, after, removed))
    return f"block jump {was} → {remains}, nebulae count too      seams removed {gone}  {drawing.UNIT}"


def _note(stretch: _Stretch, reduced: ReducedImage) -> str:
    return (
        f"grey, the same for before and after: linear to ± {drawing.short(stretch.linear)} {drawing.UNIT}, then logarithmic; "
        "block jump: 99th percentile of |difference| of the medians of adjacent blocks; seams removed: the same of before − after; "
        f"{drawing.pixels_of(reduced)}; blue, on the right grey: no data"
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
