"""What all figures have in common: colours, lines of text, axes on the sky, and how a figure becomes a file.

matplotlib is imported only when something is drawn and used without its global
state, so that figures can be drawn on several threads; the same input gives the same bytes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ToolError
from ..evaluation import ReducedImage
from ..products import atomic
from ..sky import pixel_scale

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from PIL import Image

__all__ = [
    "AFTER",
    "BEFORE",
    "BRIGHTEST",
    "DARKEST",
    "GREYS",
    "LEFT_OUT",
    "MARKED",
    "MINUS",
    "UNCOVERED",
    "UNIT",
    "asinh_scale",
    "colour_bar",
    "diverging_colours",
    "fit",
    "grey_colours",
    "label_log",
    "linear_scale",
    "nebula_scale",
    "outline",
    "own_settings",
    "page",
    "pixels_of",
    "plain_axes",
    "round_values",
    "save",
    "short",
    "sky_axes",
    "with_palette",
    "write_lines",
]

UNCOVERED = "#31557a"  # blue, which no grey is and which the colours of the coverage do not reach
LEFT_OUT = "#8c8c8c"  # grey, which no colour of a difference is
OUTLINE = "#ffb347"
BEFORE, AFTER, MARKED = "#d55e00", "#0072b2", "#000000"  # told apart by the colour-blind too (Okabe & Ito 2008)
KEPT_COLOURS, MOST_COLOURS = 192, 50_000
GREYS = 64  # more are not seen, and noise then compresses badly
UNIT = "counts28/pixel"
MINUS = "\N{MINUS SIGN}"
DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles that are black and white where the sky is to be seen
SOFTENING = 0.1  # of the range between them, which is linear around the middle
LABEL_INSIDE = 0.22  # of the diagonal, beyond the overlap of neighbouring tiles
DPI = 100
COMPRESSION = 3  # of 9: half the time of Pillow's 6, for 5 % more bytes
MARGIN = 0.6  # inches
LETTER = 116.0, 132.0  # a line of n letters, bold or not, is one inch long at LETTER / n points


_settings = threading.Lock()
_given = ExitStack()  # gives the person's settings back
_n_drawing = 0


@contextmanager
def own_settings() -> Iterator[None]:
    """Draw with matplotlib's default settings, whatever a matplotlibrc or the program says; to decorate what draws a figure.

    Settings belong to the whole process: the first of those who draw at the same time sets them, and the last gives them back.

    Raises
    ------
    ToolError
        matplotlib cannot be imported, as with a matplotlibrc that it cannot read.
    """
    global _n_drawing
    try:
        import matplotlib
    except Exception as e:
        raise ToolError(
            f"matplotlib cannot be imported: {type(e).__name__}: {e}. Move a file matplotlibrc that it cannot read away, from the "
            "current directory, MPLCONFIGDIR or ~/.config/matplotlib"
        ) from e
    with _settings:
        if not _n_drawing:
            ours = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
            _given.enter_context(matplotlib.rc_context(ours))
        _n_drawing += 1
    try:
        yield
    finally:
        with _settings:
            _n_drawing -= 1
            if not _n_drawing:
                _given.close()


def page(width: float, height: float, title: str, subtitle: str, note: str) -> Figure:
    """An empty figure of the given size in inches with its three lines of text; axes are added by their place in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    write_lines(figure, MARGIN, width - 2 * MARGIN, title, subtitle, note)
    return figure


def write_lines(figure: Figure, left: float, length: float, title: str, subtitle: str, note: str) -> None:
    """Title and subtitle at the head of a figure, the explanation at its foot; long ones become smaller. Inches."""
    width, height = figure.get_size_inches()
    for words, y, size, style in (
        (title, height - 0.53, 15, {"fontweight": "bold"}),
        (subtitle, height - 0.75, 11, {"color": "#333333"}),
        (note, 0.12, 9, {"color": "#555555"}),
    ):
        size = fit(words, size, length, bold="fontweight" in style)
        figure.text(left / width, y / height, words, ha="left", va="bottom", parse_math=False, fontsize=size, **style)


def fit(words: str, size: float, length: float, bold: bool = False) -> float:
    """The font size, at most ``size``, at which words are not longer than ``length`` inches."""
    return min(size, LETTER[0 if bold else 1] * length / max(1, len(words)))


def short(value: float) -> str:
    """A number to three digits, as people write it; a dash where it is not known."""
    return f"{float(f'{value:.3g}'):g}".replace("-", MINUS) if math.isfinite(value) else "–"


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


def asinh_scale(black: float, middle: float, white: float, softening: float) -> Normalize:
    """Black to white in asinh: linear within ``softening`` of the middle, logarithmic beyond."""
    from matplotlib.colors import FuncNorm

    if not black < white:
        return linear_scale(middle, 0.0)
    return FuncNorm((lambda v: np.arcsinh((v - middle) / softening), lambda g: middle + softening * np.sinh(g)), black, white)


def nebula_scale(image: np.ndarray) -> Normalize:
    """Black to white in asinh, so that nebulae are seen from faint to bright: from percentile `DARKEST` to `BRIGHTEST`."""
    known = image[np.isfinite(image)].astype(np.float64)
    black, middle, white = np.percentile(known, [DARKEST, 50, BRIGHTEST]) if known.size else (0.0, 0.0, 0.0)
    return asinh_scale(black, middle, white, SOFTENING * (white - black))


def colour_bar(figure: Figure, place: tuple[float, float, float, float], shown: AxesImage, label: str, length: float) -> Axes:
    """A colour bar at a place in the figure, ``length`` inches long, with round numbers on any scale; values may be beyond it."""
    from matplotlib.colors import FuncNorm

    bar = figure.colorbar(shown, cax=figure.add_axes(place), extend="both", extendfrac=0.02)
    if isinstance(shown.norm, FuncNorm):  # the numbers that matplotlib chooses are for linear scales
        ticks = round_values(shown.norm.inverse, shown.norm)
        bar.set_ticks(ticks, labels=[f"{v:g}".replace("-", MINUS) for v in ticks])
    bar.set_label(label, fontsize=fit(label, 11, length))
    bar.ax.tick_params(labelsize=10)
    return bar.ax


def round_values(value_at: Callable[[float], float], place_of: Callable[[float], float], n: int = 8) -> list[float]:
    """Round numbers that are about equally far from one another on a scale that need not be linear.

    Parameters
    ----------
    value_at, place_of : callable
        Value at a place from 0 to 1 of the scale, which grows along it, and the reverse.
    n : int
        About as many numbers.
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


def pixels_of(reduced: ReducedImage) -> str:
    """What a pixel of a reduced image is."""
    side = pixel_scale(reduced.wcs, reduced.image.shape)
    if reduced.factor == 1:
        return f"1 pixel is {side:.3g}″"
    return f"1 pixel is the mean of {reduced.factor} × {reduced.factor}, {side:.3g}″"


def sky_axes(
    figure: Figure,
    place: tuple[float, float, float, float],
    image: np.ndarray,
    wcs: WCS,
    colours: Colormap,
    scale: Normalize,
    outlines: Sequence[tuple[str, np.ndarray]] = (),
) -> tuple[Axes, AxesImage]:
    """An image with RA and Dec around it.

    Parameters
    ----------
    figure : `~matplotlib.figure.Figure`
    place : (float, float, float, float)
        Left, bottom, width, height as fractions of the figure.
    image : `~numpy.ndarray`
        Two-dimensional; NaN where there is no data.
    wcs : `~astropy.wcs.WCS`
    colours, scale
        Colour of a value.
    outlines : sequence of (name, `~numpy.ndarray`)
        Closed outlines in pixels, shape (2, n), drawn with their names: x and y, the first point again at the end.
        The name stands in the corner at point 3, which is the upper left of what `outline` returns.
    """
    axes = figure.add_axes(place, projection=wcs)
    shown = _show(axes, image, colours, scale, outlines)
    _label_sky(axes)
    return axes, shown


def plain_axes(
    figure: Figure,
    place: tuple[float, float, float, float],
    image: np.ndarray,
    colours: Colormap,
    scale: Normalize,
    outlines: Sequence[tuple[str, np.ndarray]] = (),
) -> tuple[Axes, AxesImage]:
    """An image with nothing around it, for one beside another of the same sky: RA and Dec take most of the time; see `sky_axes`."""
    axes = figure.add_axes(place, xticks=[], yticks=[])
    return axes, _show(axes, image, colours, scale, outlines)


def _show(axes: Axes, image: np.ndarray, colours: Colormap, scale: Normalize, outlines: Sequence) -> AxesImage:
    from matplotlib.patheffects import withStroke

    shown = axes.imshow(
        np.ma.masked_invalid(image),
        cmap=colours,
        norm=scale,
        origin="lower",
        interpolation="nearest",
        interpolation_stage="data",
        aspect="auto",
    )
    axes.set_autoscale_on(False)
    for name, corners in outlines:
        axes.plot(*corners, color=OUTLINE, linewidth=0.7)
        north_east, south_west = corners[:, 3], corners[:, 1]
        where = north_east + LABEL_INSIDE * (south_west - north_east)
        words = axes.text(*where, name, color=OUTLINE, fontsize=11, ha="center", va="center", parse_math=False)
        words.set_path_effects([withStroke(linewidth=3, foreground="black")])
    return shown


def outline(reduced: ReducedImage, wcs: WCS) -> np.ndarray:
    """x and y of the four corners of an image, and the first again, in the pixels of another WCS; shape (2, 5)."""
    rows, columns = reduced.image.shape
    x, y = np.array([0, columns, columns, 0, 0]) - 0.5, np.array([0, 0, rows, rows, 0]) - 0.5
    return np.stack(wcs.wcs_world2pix(*reduced.wcs.wcs_pix2world(x, y, 0), 0))


def label_log(axis) -> None:
    """Plain numbers along a logarithmic axis. matplotlib's own labels are mathtext, which it parses with global state.

    The ticks between them are one row of marks: each as a tick of its own, with a label that nobody sees, takes most of the time.
    """
    from matplotlib.markers import TICKDOWN, TICKLEFT
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 1.2 else (1.0, 3.0) if decades < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(10, subs=steps, numticks=12))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_locator(NullLocator())
    between = np.outer(10.0 ** np.arange(math.floor(math.log10(low)), math.log10(high)), range(2, 10)).ravel()
    between = between[(between >= low) & (between <= high)]
    edge, axes = np.zeros(len(between)), axis.axes
    style = {"linestyle": "none", "color": "black", "markersize": 2, "markeredgewidth": 0.6, "clip_on": False}
    if axis is axes.yaxis:
        axes.plot(edge, between, marker=TICKLEFT, transform=axes.get_yaxis_transform(), **style)
    else:
        axes.plot(between, edge, marker=TICKDOWN, transform=axes.get_xaxis_transform(), **style)


def save(figure: Figure, path: Path, grey: bool) -> None:
    """Write a figure as PNG without anything in it that changes from run to run; a grey one with a palette."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())
    picture = with_palette(drawn) if grey else Image.fromarray(drawn).convert("RGB")
    with atomic(path) as temporary:
        picture.save(temporary, format="png", compress_level=COMPRESSION)


def with_palette(drawn: np.ndarray) -> Image.Image:
    """A picture with at most 256 colours: half the bytes, and nothing that is seen changes.

    Parameters
    ----------
    drawn : `~numpy.ndarray`
        uint8, shape (rows, columns, 4): red, green, blue, and an opacity that is not used.

    Returns
    -------
    `~PIL.Image.Image`

    Notes
    -----
    A drawing has few colours that many pixels have, and some more where letters and lines end. The former are kept as they
    are, the latter share the rest of the palette by median cut. That is nearer to the picture than the median cut of all, and takes
    a third of the time. A picture with very many colours, such as a photograph, is left to Pillow.
    """
    from PIL import Image

    pixels = np.ascontiguousarray(drawn).view("<u4")[..., 0] & 0xFFFFFF
    colours, counts = np.unique(pixels, return_counts=True)
    if len(colours) > MOST_COLOURS:
        return _median_cut(Image.fromarray(drawn).convert("RGB"), 256)
    n_kept = 256 if len(colours) <= 256 else KEPT_COLOURS
    kept, others = np.split(colours[np.argsort(-counts, kind="stable")], [n_kept])
    palette = _components(kept)
    places = np.zeros(1 << 24, np.uint8)  # in the palette, of each colour that there can be
    places[kept] = np.arange(len(kept))
    if len(others):
        few = _median_cut(Image.fromarray(_components(others)[None]), 256 - n_kept).getpalette()
        palette = np.concatenate([palette, np.array(few, np.uint8).reshape(-1, 3)])
        ours, theirs = palette.astype(np.float32), _components(others).astype(np.float32)
        places[others] = ((ours**2).sum(axis=1) - 2 * (theirs @ ours.T)).argmin(axis=1)  # least distance; all whole numbers, exact
    result = Image.frombytes("P", drawn.shape[1::-1], places[pixels].tobytes())
    result.putpalette(palette.tobytes())
    return result


def _median_cut(picture: Image.Image, n: int) -> Image.Image:
    from PIL import Image

    return picture.quantize(n, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _components(colours: np.ndarray) -> np.ndarray:
    """Red, green and blue of colours, shape (n, 3)."""
    return np.stack([colours & 255, colours >> 8 & 255, colours >> 16], axis=-1).astype(np.uint8)


def _plain(value: float, _position: int | None = None) -> str:
    exponent = math.floor(math.log10(value) + 1e-9)
    if -4 < exponent < 4:
        return f"{value:g}"
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    factor = value / 10.0**exponent
    return f"10{digits}" if abs(factor - 1) < 1e-6 else f"{factor:g}·10{digits}"


def _label_sky(axes) -> None:
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
