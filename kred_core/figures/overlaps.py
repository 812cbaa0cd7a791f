"""How the differences of overlapping detectors got smaller, and the pairs of detectors that agree least.

Before and after differ by a factor of ten to a thousand, so that one linear scale cannot show both: each has a histogram of its
own, and the scatter plots are logarithmic. Only a look at a pair says why it disagrees: a satellite, a ghost, a gradient.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from astropy.table import Table

from ..constants import NORMAL_MAD
from ..statistics import block_means, robust_rms
from ..words import counted
from . import drawing
from .drawing import AFTER, BEFORE, MARKED, UNIT, fit, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDTH, HEAD, UPPER, LOWER, FOOT = 13.0, 1.15, 3.55, 4.0, 0.5  # inches
SHOWN = 5.0  # half width of a histogram in robust standard deviations
MOST_BINS = 60
LOG_COUNTS = 30  # a histogram whose highest bin has more pairs gets a logarithmic axis, on which its wings are seen
MOST_POINTS = 15_000  # more only make the cloud denser and the file larger
FEW_POINTS = 300  # no more than this are drawn larger, and lines need no border to be seen among them
MOST_TICKS = 5
FEW_VALUES = 25  # an abscissa with no more different values than this is drawn value by value
PER_MEDIAN = 20  # pairs that a running median needs
ERROR = "#555555"
# The pairs that agree least
MOST_PAIRS = 10
PAIR_HEAD, PAIR_FOOT = 1.0, 0.5  # inches
BLOCK_WIDTH, BLOCK_HEIGHT, TEXT_HEIGHT = 5.8, 2.55, 0.45  # of one pair, at most: text above, three images below
GAP, ROOM = 0.08, 0.3  # between the images of a pair, and between pairs
FRAME = (60, 60, 60, 255)
CELLS = 400  # larger images are averaged, no more are seen
BLOCKS = 80  # a difference is averaged to about this many blocks across: what is wrong is seldom seen in single cells
PAIR_RANGE = 4.0  # robust standard deviations: of greys around the median, and of colours beyond the median difference
Place = tuple[float, float, float, float]  # left, top, width and height in inches


# Columns of the table of pairs, as plain arrays
_Differences = namedtuple("_Differences", "before after error rejected separation exptime n_pixels")


@drawing.own_style()
def overlap_figure(pairs: Table, exptimes: Mapping[str, float], title: str, path: Path) -> None:
    """Draw how the differences of overlapping detectors got smaller.

    The table has the columns `kred_core.products.tables.OVERLAPS`, the pairs of one image; there may be none. Exposure times in s
    are by detector, <Root>_<EXTNAME>. Pairs with an unknown one are left out of the plot against exposure time.
    """
    found = _differences(pairs, exptimes)
    stride = max(1, -(-len(found.before) // MOST_POINTS))
    histograms = [("before", found.before, BEFORE), ("after", found.after, AFTER)]
    histograms = [row for row in histograms if np.count_nonzero(np.isfinite(row[1])) > 1]
    plots = [
        (found.separation / 60.0, "separation of the centres  [arcmin]", False),
        (found.exptime, "mean exposure time of the two  [s]", False),
        (found.n_pixels, "area in common  [native pixels]", True),
    ]
    plots = [plot for plot in plots if histograms and np.unique(plot[0][np.isfinite(plot[0])]).size > 1]  # others show no trend
    height = HEAD + bool(histograms) * UPPER + bool(plots) * LOWER + FOOT
    figure = drawing.page(WIDTH, height, f"{title} · differences of overlapping detectors", *_words(found, stride))

    def axes_at(left: float, bottom: float, width: float, tall: float) -> Axes:
        return figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, tall / height))

    for i, (name, values, colour) in enumerate(histograms):
        _histogram(axes_at(0.95 + 6.1 * i, FOOT + bool(plots) * LOWER + 0.7, 5.35, 2.85), values, found, name, colour)
    limits = _limits(found)
    width = (11.45 - 0.4 * (len(plots) - 1)) / max(1, len(plots))
    for i, (values, label, logarithmic) in enumerate(plots):
        axes = axes_at(0.95 + (width + 0.4) * i, FOOT + 0.45, width, 3.1)
        _against(axes, values, found, limits, stride, logarithmic)
        axes.set_xlabel(label)
        if i:
            axes.tick_params(labelleft=False)
            continue
        axes.set_ylabel(f"|difference|  [{UNIT}]")
        figure.legend(
            *axes.get_legend_handles_labels(), loc="lower left", bbox_to_anchor=(0.9 / WIDTH, (FOOT + 3.62) / height), ncols=4,
            fontsize=10, frameon=False, borderaxespad=0, handlelength=2.2, columnspacing=2.0,
        )  # fmt: skip
    drawing.save(figure, path)


def _differences(pairs: Table, exptimes: Mapping[str, float]) -> _Differences:
    columns = {"before": "Before", "after": "After", "error": "e_Delta", "separation": "Sep", "n_pixels": "Npix"}
    numbers = {key: np.ma.filled(np.ma.asarray(pairs[name], dtype=np.float64), np.nan) for key, name in columns.items()}
    seconds = [np.array([exptimes.get(str(file), np.nan) for file in pairs[name]]) for name in ("File1", "File2")]
    rejected: np.ndarray = np.ma.filled(np.ma.asarray(pairs["Rejected"], dtype=bool), False)
    return _Differences(**numbers, rejected=rejected, exptime=0.5 * (seconds[0] + seconds[1]))


def _rms(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(values**2))) if values.size else np.nan


def _words(found: _Differences, stride: int) -> tuple[str, str]:
    """Subtitle and note."""
    n, n_rejected = len(found.before), int(np.count_nonzero(found.rejected))
    if n == 0:
        return "no two detectors overlap", ""
    note = "before: each exposure's own background subtracted; after: matched backgrounds"
    if n == 1:
        before, after, error = (short(float(values[0])) for values in (found.before, found.after, found.error))
        rejected = "      rejected" if n_rejected else ""
        return f"1 pair      difference {before} → {after}      standard error {error}  {UNIT}{rejected}", note
    summary = (
        f"{counted(n, 'pair')}      robust rms {short(robust_rms(found.before))} → {short(robust_rms(found.after))}      "
        f"rms {short(_rms(found.before))} → {short(_rms(found.after[~found.rejected]))} without the rejected  {UNIT}      "
        f"{n_rejected:,} rejected ({100 * n_rejected / n:.1f} %)"
    )
    points = "" if stride == 1 else f"1 of {stride} pairs is drawn as a point; "
    return summary, f"{note}; robust rms: 1.4826 × median |difference|; {points}triangles: beyond the axis"


def _histogram(axes: Axes, values: np.ndarray, found: _Differences, name: str, colour: str) -> None:
    """Signed differences within a robust range around 0; rejected pairs are stacked on the others in black."""
    known = np.isfinite(values)
    values, rejected, error = values[known], found.rejected[known], found.error[known]
    core = values[~rejected] if (~rejected).any() else values
    largest = 1.2 * float(np.abs(values).max())
    half = min((SHOWN * robust_rms(core) if core.size > 10 else 0.0) or largest, largest) or 1.0
    bins = int(np.clip(2 * math.isqrt(len(values)) + 1, 11, MOST_BINS + 1))  # an odd number: one bin is around 0
    edges = np.linspace(-half, half, bins + 1)
    kept, dropped = (np.histogram(values[which], edges)[0] for which in (~rejected, rejected))
    most = int((kept + dropped).max(initial=0))
    base = 0.5 if most > LOG_COUNTS else 0.0
    if base:
        axes.set_yscale("log")
        axes.set_ylim(base, 2.0 * most)
        drawing.label_log(axes.yaxis)
    else:
        axes.set_ylim(0, max(1.0, 1.15 * most))
        axes.locator_params(axis="y", integer=True)
    axes.stairs(np.maximum(kept + dropped, base), edges, baseline=base, fill=True, color=MARKED)
    axes.stairs(np.maximum(kept, base), edges, baseline=base, fill=True, color=colour)
    axes.axvline(0, color="#777777", linewidth=0.8)
    if name == "after":
        axes.plot(*_expected(error[~rejected], half, edges[1] - edges[0]), "--", color=ERROR, linewidth=1.8)
    axes.set_xlim(-half, half)
    axes.locator_params(axis="x", nbins=7)
    axes.set_xlabel(f"difference {name} matching  [{UNIT}]")
    axes.set_ylabel("pairs")
    axes.text(0, 1.02, name, transform=axes.transAxes, va="bottom", fontsize=14, fontweight="bold", color=colour)
    words = f"robust rms {short(robust_rms(values))}"
    beyond = [int(np.count_nonzero(side > half)) for side in (-values, values)]
    if sum(beyond):
        words += f"     ◀ {beyond[0]:,}   {beyond[1]:,} ▶ beyond the axis"
    axes.text(1, 1.02, words, transform=axes.transAxes, va="bottom", ha="right", fontsize=10, color=drawing.GREY_TEXT)


def _expected(error: np.ndarray, half: float, width: float) -> tuple[np.ndarray, np.ndarray]:
    """The histogram that the stated standard errors let expect."""
    n = np.count_nonzero(error > 0)
    x = np.linspace(-half, half, 400)
    if n < PER_MEDIAN:
        return x[:0], x[:0]
    some = np.quantile(error[error > 0], (np.arange(100) + 0.5) / 100)[:, None]  # stands for all of them
    return x, n * width * np.mean(np.exp(-0.5 * (x / some) ** 2) / (np.sqrt(2 * np.pi) * some), axis=0)


def _limits(found: _Differences) -> tuple[float, float]:
    """Of |difference|: nearly all of the values, at least two decades."""
    values = np.abs(np.concatenate([found.before, found.after]))
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return 1e-3, 1.0
    low, high = np.percentile(values, [1.0 if values.size > 200 else 0.0, 100])
    return min(0.6 * low, 0.018 * high), 1.8 * high


def _against(axes: Axes, x: np.ndarray, found: _Differences, limits: tuple[float, float], stride: int, log_x: bool) -> None:
    """|difference| before and after against one property of the pairs."""
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    usable = np.isfinite(x) & ((x > 0) | ~np.array(log_x))
    values = np.unique(x[usable])
    few = len(values) <= FEW_VALUES and not log_x
    # the pairs of one value are spread evenly beside it, before to its left and after to its right
    spread = 0.36 * max(np.diff(values).min(initial=np.inf), 0.04 * np.ptp(values)) if few else 0.0
    low, high = values[0] - spread, values[-1] + spread
    if log_x:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, max(high * 1.3, 3 * low))
        drawing.label_log(axes.xaxis)
    else:
        margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
        axes.set_xlim(low - margin, high + margin)
        axes.locator_params(axis="x", nbins=6)
    if few and values.size <= MOST_TICKS:
        axes.set_xticks(values, [f"{value:g}" for value in values])
    drawing.label_log(axes.yaxis)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    within = (np.arange(len(x)) * 0.6180339887498949) % 1.0
    drawn = np.flatnonzero(usable)[::stride]
    size, alpha = (4.5, 0.8) if len(drawn) <= FEW_POINTS else (2.6, 0.45) if len(drawn) < 3000 else (1.6, 0.3)
    for side, y, colour in ((-1, found.before, BEFORE), (1, found.after, AFTER)):
        _points(axes, (x + side * spread * within)[drawn], y[drawn], colour, marker="o", markersize=size, alpha=alpha)
    for side, y, colour, style, label in (
        (-1, found.before, BEFORE, "-", "before, running median"),
        (1, found.after, AFTER, "-", "after, running median"),
        (1, found.error / NORMAL_MAD, ERROR, "--", "expected from the standard errors"),
    ):
        line = _running_median(x, np.abs(y), few)
        where = line[0] + side * 0.5 * spread
        if len(drawn) > FEW_POINTS:
            axes.plot(where, line[1], style, color="white", linewidth=3.4, solid_capstyle="round", zorder=2.5)
        mark: dict[str, Any] = {"marker": "o", "markersize": 4} if few else {}
        axes.plot(where, line[1], style, color=colour, linewidth=1.8, label=label, zorder=2.5, **mark)
    out = np.flatnonzero(usable & found.rejected)[::stride]
    crosses = {"marker": "x", "markersize": 4.5, "markeredgewidth": 1.0, "label": "rejected, after; black above"}
    _points(axes, (x + spread * within)[out], found.after[out], MARKED, **crosses)


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, **style) -> None:
    """Absolute values; those below or above the axis become triangles at its edge."""
    size, (bottom, top) = np.abs(y), axes.get_ylim()
    low, high = size < bottom, size > top
    inside = np.isfinite(size) & ~low & ~high
    axes.plot(x[inside], size[inside], linestyle="none", color=colour, **{"markeredgewidth": 0.0, **style})
    for beyond, edge, marker in ((low, bottom * 1.06, "v"), (high, top / 1.06, "^")):
        axes.plot(x[beyond], np.full(beyond.sum(), edge), marker, color=colour, markersize=3.5, markeredgewidth=0, alpha=0.6)


def _running_median(x: np.ndarray, y: np.ndarray, few: bool) -> np.ndarray:
    """Medians of y for each value of x, or for groups of equal numbers along x; shape (2, n)."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if few:
        groups = [np.flatnonzero(x == value) for value in np.unique(x)]
    else:
        order = np.lexsort((y, x))
        groups = np.array_split(order, min(12, len(order) // PER_MEDIAN)) if len(order) >= 2 * PER_MEDIAN else []
    medians = [(np.median(x[group]), np.median(y[group])) for group in groups if len(group) >= (PER_MEDIAN if not few else 3)]
    return np.array([point for point in medians if point[1] > 0], dtype=np.float64).reshape(-1, 2).T


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

    The worst come first, and the first ten are drawn. There may be none.
    """
    cutouts = list(cutouts)[:MOST_PAIRS]
    places = [_places(cutout.image1.shape) for cutout in cutouts]
    heights = [TEXT_HEIGHT + place[-1][1] + place[-1][3] + ROOM for place in places]
    rows = [max(heights[k : k + 2]) for k in range(0, len(cutouts), 2)]
    height = PAIR_HEAD + PAIR_FOOT + sum(rows)
    summary, note = "no two detectors overlap", ""
    if cutouts:
        largest = max((abs(c.after) for c in cutouts if np.isfinite(c.after)), default=np.nan)
        summary = (
            f"{f'the worst {len(cutouts)}' if len(cutouts) > 1 else 'one pair'}, matched backgrounds subtracted      "
            f"|difference| up to {short(largest)}  {UNIT}      {sum(c.rejected for c in cutouts)} rejected"
        )
        note = (
            f"grey: median ± {PAIR_RANGE:g} robust standard deviations, blue: no data; red: second is brighter, blue: first is, "
            f"only cells that were compared, averaged to about {BLOCKS} blocks across; north is up, east left"
        )
    figure = drawing.page(WIDTH, height, f"{title} · pairs that agree least", summary, note)
    for k, cutout in enumerate(cutouts):
        left = drawing.MARGIN + (k % 2) * (BLOCK_WIDTH + GAP)
        _draw_pair(figure, cutout, k + 1, left, height - PAIR_HEAD - sum(rows[: k // 2]), places[k])
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
    grey = drawing.grey_colours(), drawing.linear_scale(middle, PAIR_RANGE * spread)
    middle, spread = drawing.spread(difference)
    signed = drawing.diverging_colours(), drawing.linear_scale(0.0, abs(middle) + PAIR_RANGE * spread)

    known = cutout.error > 0 and np.isfinite(cutout.after)
    numbers = [
        f"difference {short(cutout.after)} ± {short(cutout.error)} {UNIT}",
        *([f"{abs(cutout.after) / cutout.error:.1f} standard errors"] if known else []),
        counted(int(np.count_nonzero(cutout.good)), "cell"),
        f"colours ± {short(cast(float, signed[1].vmax))}",  # known: it was given
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
