"""The style of all figures: colours, scales, lines of text, and how a figure becomes a file.

matplotlib is imported only when something is drawn, and without pyplot, whose state all threads share.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ToolError
from ..evaluation import ReducedImage
from ..products import atomic
from ..sky import pixel_scale
from ..statistics import robust_rms

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

UNCOVERED = "#31557a"  # blue, which no grey is and which the colours of the coverage do not reach
LEFT_OUT = "#8c8c8c"  # grey, which no colour of a difference is
OUTLINE = "#ffb347"
BEFORE, AFTER, MARKED = "#d55e00", "#0072b2", "#000000"  # told apart by the colour-blind too (Okabe & Ito 2008)
GREYS = 64  # more are not seen, and noise then compresses badly
GREY_TEXT = "#333333"
UNIT = "counts28/pixel"
MINUS = "\N{MINUS SIGN}"
DPI = 100
COMPRESSION = 3  # of 9: noise takes 3.5 MB and half the time of Pillow's 6, which makes 5.4 MB of it
MARGIN = 0.6  # inches
LETTER = 116.0, 132.0  # a line of n letters, bold or not, is one inch long at LETTER / n points
STYLE: dict[Any, Any] = {  # text is never mathtext, which matplotlib parses with global state
    "text.parse_math": False, "axes.labelsize": 11, "xtick.labelsize": 10, "ytick.labelsize": 10,
}  # fmt: skip

_drawing = threading.Lock()


@contextmanager
def own_style() -> Iterator[None]:
    """Draw in kred's style, whatever a matplotlibrc or the program says; to decorate what draws a figure.

    Settings belong to the whole process, so that figures are drawn one after the other; on threads they would not be done sooner.

    Raises ToolError where matplotlib cannot be imported, as with a matplotlibrc that it cannot read.
    """
    try:
        import matplotlib
    except Exception as e:
        raise ToolError(
            f"matplotlib cannot be imported: {type(e).__name__}: {e}. Move a file matplotlibrc that it cannot read away, from the "
            "current directory, MPLCONFIGDIR or ~/.config/matplotlib"
        ) from e
    ours: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with _drawing, matplotlib.rc_context({**ours, **STYLE}):
        yield


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG without anything in it that changes from run to run."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": COMPRESSION})


# text


def page(width: float, height: float, title: str, subtitle: str, note: str) -> Figure:
    """An empty figure of the given size in inches with its three lines of text; axes are added by their place in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    write_lines(figure, MARGIN, width - 2 * MARGIN, title, subtitle, note)
    return figure


def write_lines(figure: Figure, left: float, length: float, title: str, subtitle: str, note: str) -> None:
    """Title and subtitle at the head of a figure, the explanation at its foot; long ones become smaller. Inches."""
    width, height = figure.get_size_inches()
    lines: tuple[tuple[str, float, float, dict[str, Any]], ...] = (
        (title, height - 0.53, 15, {"fontweight": "bold"}),
        (subtitle, height - 0.75, 11, {"color": GREY_TEXT}),
        (note, 0.12, 9, {"color": "#555555"}),
    )
    for words, y, size, style in lines:
        size = fit(words, size, length, bold="fontweight" in style)
        figure.text(left / width, y / height, words, ha="left", va="bottom", fontsize=size, **style)


def fit(words: str, size: float, length: float, bold: bool = False) -> float:
    """The font size, at most ``size``, at which words are not longer than ``length`` inches."""
    return min(size, LETTER[0 if bold else 1] * length / max(1, len(words)))


def short(value: float) -> str:
    """A number to three digits, as people write it; a dash where it is not known."""
    return f"{float(f'{value:.3g}'):g}".replace("-", MINUS) if math.isfinite(value) else "–"


def pixels_of(reduced: ReducedImage) -> str:
    """What a pixel of a reduced image is."""
    side = pixel_scale(reduced.wcs, reduced.image.shape)
    if reduced.factor == 1:
        return f"1 pixel is {side:.3g}″"
    return f"1 pixel is the mean of {reduced.factor} × {reduced.factor}, {side:.3g}″"


def label_log(axis: Axis) -> None:
    """Plain numbers along a logarithmic axis: matplotlib's own labels are mathtext."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 1.2 else (1.0, 3.0) if decades < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(10, subs=steps, numticks=12))
    axis.set_major_formatter(FuncFormatter(_power))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float, _position: int | None = None) -> str:
    """A number as on a logarithmic axis: 0.03, 200, 3·10⁵."""
    exponent = math.floor(math.log10(value) + 1e-9)
    if -4 < exponent < 4:
        return f"{value:g}"
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    factor = value / 10.0**exponent
    return f"10{digits}" if abs(factor - 1) < 1e-6 else f"{factor:g}·10{digits}"


# colours and scales


def grey_colours() -> Colormap:
    from matplotlib import colormaps

    return colormaps["gray"].resampled(GREYS).with_extremes(bad=UNCOVERED)


def diverging_colours() -> Colormap:
    """For differences: blue below 0, white at 0, which is the middle of an odd number of colours, red above."""
    from matplotlib import colormaps

    return colormaps["RdBu_r"].resampled(GREYS - 1).with_extremes(bad=LEFT_OUT)


def linear_scale(level: float, half_width: float) -> Normalize:
    """Black to white from level - half_width to level + half_width; an image without any spread is a middle grey."""
    from matplotlib.colors import Normalize

    half_width = half_width or 1.0
    return Normalize(level - half_width, level + half_width)


@dataclass(frozen=True)
class Stretch:
    """How brightness becomes grey: asinh, linear within ``softening`` of the middle, logarithmic beyond."""

    black: float
    middle: float
    white: float
    softening: float

    DARKEST, BRIGHTEST, SOFTENING = 0.5, 99.5, 0.1  # percentiles, and the linear part of the range between them

    @classmethod
    def of(cls, image: np.ndarray) -> Stretch:
        """The stretch in which nebulae are seen from faint to bright; stars and flaws do not decide on it."""
        known = image[np.isfinite(image)].astype(np.float64)
        black, middle, white = np.percentile(known, [cls.DARKEST, 50, cls.BRIGHTEST]) if known.size else (0.0, 0.0, 0.0)
        return cls(float(black), float(middle), float(white), float(cls.SOFTENING * (white - black)) or 1.0)

    def _ends(self) -> tuple[float, float]:
        low, high = (math.asinh((limit - self.middle) / self.softening) for limit in (self.black, self.white))
        return low, high

    def place_of(self, values: np.ndarray | float) -> np.ndarray | float:
        """Where values are from black, 0, to white, 1; those beyond are less or more."""
        low, high = self._ends()
        return (np.arcsinh((values - self.middle) / self.softening) - low) / (high - low or 1.0)

    def value_at(self, place: float) -> float:
        """The reverse of `place_of`."""
        low, high = self._ends()
        return self.middle + self.softening * np.sinh(low + place * (high - low))

    def norm(self) -> Normalize:
        """The same for matplotlib."""
        from matplotlib.colors import FuncNorm

        if not self.black < self.white:
            return linear_scale(self.middle, 0.0)
        return FuncNorm((self.place_of, self.value_at), self.black, self.white)


def spread(values: np.ndarray) -> tuple[float, float]:
    """Median and robust standard deviation of the finite values; 0, 0 without any."""
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 0.0
    middle = float(np.median(values))
    return middle, robust_rms(values - middle)


def round_values(value_at: Callable[[float], float], place_of: Callable[[float], float], n: int = 8) -> list[float]:
    """About ``n`` round numbers that are equally far from one another on a scale that need not be linear.

    ``value_at`` is the value at a place from 0 to 1 of the scale, which grows along it, and ``place_of`` the reverse.
    """
    found: list[float] = []
    for k in range(n + 1):
        low, value, high = (float(value_at(min(max(place, 0.0), 1.0))) for place in ((k - 0.4) / n, k / n, (k + 0.4) / n))
        if not high > low:  # an image without spread
            continue
        unit = 10.0 ** math.floor(math.log10(high - low))
        candidates = [round(value / step) * step for step in (10 * unit, 5 * unit, 2 * unit, unit)]  # the roundest first
        best = next((v for v in candidates if low <= v <= high), None)
        if best is not None and (not found or float(place_of(best)) - float(place_of(found[-1])) > 0.7 / n):
            found.append(float(f"{best:.10g}") + 0.0)
    return found


# the sky


def outline(reduced: ReducedImage, wcs: WCS) -> np.ndarray:
    """x and y of the four corners of an image, and the first again, in the pixels of another WCS; shape (2, 5)."""
    rows, columns = reduced.image.shape
    x, y = np.array([0, columns, columns, 0, 0]) - 0.5, np.array([0, 0, rows, rows, 0]) - 0.5
    return np.stack(wcs.wcs_world2pix(*reduced.wcs.wcs_pix2world(x, y, 0), 0))
