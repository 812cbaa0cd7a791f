"""What all figures have in common: colours, lines of text, axes on the sky, and how a figure becomes a file.

matplotlib is imported only when something is drawn and used without its global
state, so that figures can be drawn on several threads; the same input gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..products import atomic

if TYPE_CHECKING:
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = ["GREYS", "UNCOVERED", "UNIT", "grey_colours", "label_sky", "linear_scale", "save", "with_palette", "write_line"]

UNCOVERED = "#31557a"  # blue, which no grey is and which the colours of the coverage do not reach
GREYS = 64  # more are not seen, and noise then compresses badly
UNIT = "counts28/pixel"


def grey_colours() -> Colormap:
    from matplotlib import colormaps

    return colormaps["gray"].resampled(GREYS).with_extremes(bad=UNCOVERED)


def linear_scale(level: float, half_width: float) -> Normalize:
    """Black to white from level - half_width to level + half_width; an image without any spread is a middle grey."""
    from matplotlib.colors import Normalize

    half_width = half_width or 1.0
    return Normalize(level - half_width, level + half_width)


def with_palette(picture: Image.Image) -> Image.Image:
    """The same picture with at most 256 colours: half the bytes, and nothing that is seen changes."""
    from PIL import Image

    return picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def save(figure: Figure, path: Path, grey: bool) -> None:
    """Write a figure as PNG without anything in it that changes from run to run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3]))
    with atomic(path) as temporary:
        (with_palette(picture) if grey else picture).save(temporary, format="png")


def write_line(figure: Figure, x: float, y: float, words: str, **style) -> None:
    figure.text(x, y, words, ha="left", va="bottom", parse_math=False, **style)


def label_sky(axes) -> None:
    """Sexagesimal labels. The separators are characters, not mathtext, which matplotlib parses with global state."""
    for coordinate, name, separators in (
        (axes.coords[0], "Right ascension (ICRS)", ("ʰ", "ᵐ", "ˢ")),
        (axes.coords[1], "Declination (ICRS)", ("°", "′", "″")),
    ):
        coordinate.set_separator(separators)
        coordinate.set_axislabel(name, fontsize=11, minpad=0.6)
        coordinate.set_ticklabel(size=10, exclude_overlapping=True, simplify=False)
        coordinate.set_ticks(number=6)
    axes.coords.grid(color="white", alpha=0.25, linewidth=0.5)
