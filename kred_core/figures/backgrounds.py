"""Maps of the solved backgrounds: on the focal plane, on the sky, by connected component, and how well they are known.

What the camera does stays in place on the focal plane, what the sky does stays in
place on the sky; a detector whose background went astray stands out in both.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from astropy.table import Table

from .. import survey
from ..sky import Grid, mean_position, outlines, position, tan_wcs
from ..words import counted
from . import drawing
from .drawing import MINUS, UNIT, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure


WIDTH, HEAD, ROW, FOOT = 13.8, 0.9, 5.85, 0.3  # inches
PANEL, BAR = 5.0, 0.16  # inches: side of a map, width of its colour bar
RANGE = 3.5  # robust standard deviations beyond the median at which the colours of differences end
KNOWN_BEST, KNOWN_WORST = 1.0, 99.0  # percentiles of the standard errors at which theirs end
CELLS = 240  # across a map of means
ARCMIN_PER_PIXEL = 7.287e-5 * 60.0  # |CD| of DECam
CCD = np.array([2046, 4094])  # pixels of a full DECam detector, for which the focal plane is given
COMPONENTS = "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2"  # Okabe & Ito 2008
NOT_KNOWN = "#bbbbbb"
KINDS = (("fixed", "fixed by the user", "#5d3a9b"), ("contradict", "contradicts its neighbours", "#d55e00"))
ALONE = "without a neighbour", "#000000"
NOTE = (
    "b: matched background; SUB_BACK: the exposure's own; on the sky: mean over the detectors that cover a place; "
    f"colours of b − SUB_BACK: centred on 0, to median + {RANGE:g} robust standard deviations; grey: not known; north up, east left"
)
Frame = tuple[float, float, float, float]  # west, east, south, north


# The table of backgrounds, as plain arrays; excess: b - SUB_BACK; vertices: (n, 4, 3) unit vectors, NaN where they are not known
_Detectors = namedtuple("_Detectors", "root extname excess error component remark vertices")


@drawing.own_style()
def background_figure(backgrounds: Table, detectors: Table, title: str, path: Path) -> None:
    """Draw the solved backgrounds as maps.

    The tables have the columns `kred_core.products.tables.BACKGROUNDS`, for the detectors of one image, and Root, EXTNAME, NAXIS1,
    NAXIS2 and the corners (as in `kred_core.products.tables.DETECTORS`) of at least these detectors; those that are missing there,
    or have no corners, are left out of the maps of the sky and counted in the subtitle.
    """
    found = _joined(backgrounds, detectors)
    on_sky, centre = _plane(found.vertices)
    west, east, south, north = frame = _frame(on_sky)
    room = 0.08 * (north - south)  # for the legend
    names = np.unique(found.extname)
    places, words = _focal_plane(found, names)
    medians = np.array([_median(found.excess[found.extname == name]) for name in names], dtype=np.float64)
    excess, error = f"b − SUB_BACK  [{UNIT}]", f"standard error of b  [{UNIT}]"
    several = _known(on_sky).sum() > 1  # the subtitle says all that there is to say of a single one
    connected = several and len(np.unique(found.component)) < len(found.root)

    sky = partial(_draw_means, on_sky, found.excess, frame, "RdYlBu_r", _around_zero, excess)
    errors = partial(_draw_means, on_sky, found.error, frame, "viridis", _from_least, error)
    focal_plane, components = partial(_draw_focal_plane, places, names, medians, excess), partial(_draw_components, on_sky, found)
    wider = west - room, east + room, south, north + 2 * room
    panels: list[tuple[Any, ...]] = [
        (_known(places).sum() > 1, "Focal plane: median over the exposures", _frame(places), words, focal_plane),
        (several, "Sky: mean over the exposures", frame, centre, sky),
        (connected, "Sky: components connected by overlaps", wider, centre, components),
        (connected and np.isfinite(found.error).any(), "Sky: standard error of b, mean over the exposures", frame, centre, errors),
    ]
    shown = [panel for wanted, *panel in panels if wanted]
    height = HEAD + ROW * math.ceil(len(shown) / 2) + FOOT
    figure = drawing.page(WIDTH, height, f"{title} · backgrounds of the detectors", _summary(found), NOTE if shown else "")
    for k, (name, panel_frame, panel_words, draw) in enumerate(shown):
        letter = f"{'abcd'[k]}  " if len(shown) > 1 else ""
        draw(_panel(figure, k, letter + name, panel_frame, panel_words))
    drawing.save(figure, path)


def _joined(backgrounds: Table, detectors: Table) -> _Detectors:
    """Each background with the outline of its detector."""
    corners = np.stack([_numbers(detectors, f"COR{i}{axis}1") for i in (1, 2, 3, 4) for axis in ("RA", "DEC")], axis=-1)
    outline = outlines(corners.reshape(-1, 4, 2), _numbers(detectors, "NAXIS1"), _numbers(detectors, "NAXIS2"))
    row = {(str(root), str(name)): i for i, (root, name) in enumerate(zip(detectors["Root"], detectors["EXTNAME"], strict=True))}
    vertices = np.full((len(backgrounds), 4, 3), np.nan)
    roots, names, remarks = (np.array([str(v) for v in backgrounds[c]], dtype=str) for c in ("Root", "EXTNAME", "Remark"))
    for i, key in enumerate(zip(roots.tolist(), names.tolist(), strict=True)):
        if key in row:
            vertices[i] = outline[row[key]]
    vertices[~_known(vertices)] = np.nan
    excess = _numbers(backgrounds, "b") - _numbers(backgrounds, "SUB_BACK")
    component = np.asarray(backgrounds["component"], dtype=np.int64)
    return _Detectors(roots, names, excess, _numbers(backgrounds, "b_err"), component, remarks, vertices)


def _numbers(table: Table, name: str) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(table[name], dtype=np.float64), np.nan)


def _known(polygons: np.ndarray) -> np.ndarray:
    """Which outlines are known, all of their vertices."""
    return np.isfinite(polygons).all(axis=(1, 2))


def _median(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else np.nan


def _summary(found: _Detectors) -> str:
    n = len(found.root)
    if n == 0:
        return "no detectors"
    sizes = np.unique(found.component, return_counts=True)[1]
    middle, scatter = drawing.spread(found.excess) if np.isfinite(found.excess).any() else (np.nan, np.nan)
    error, alone = _median(found.error), int(sizes[sizes == 1].sum())
    excess = f": median {short(middle)}, robust scatter {short(scatter)}" if n > 1 else f" {short(middle)}"
    words = [f"{counted(n, 'detector')} of {counted(len(np.unique(found.root)), 'exposure')}", f"b − SUB_BACK{excess}"]
    words += [f"standard error of b{': median' * (n > 1)} {short(error)}"] if np.isfinite(error) else []
    words[-1] += f"  {UNIT}"
    words += [counted(int(np.count_nonzero(sizes > 1)), "component")] if alone < n else []
    words += [f"{alone:,} without a neighbour"] if alone else []
    nowhere = int(np.count_nonzero(~_known(found.vertices)))
    words += [f"{nowhere:,} without known corners"] if nowhere else []
    return "      ".join(words)


# places


def _plane(vertices: np.ndarray) -> tuple[np.ndarray, str]:
    """Outlines in arcmin east and north of their middle, shape (n, 4, 2), and where that is."""
    known = _known(vertices)
    flat = np.full((*vertices.shape[:2], 2), np.nan)
    if not known.any():
        return flat, "no detector has a known place"
    sky_ra, sky_dec = position(vertices[known])
    ra, dec = mean_position(sky_ra, sky_dec)
    west, north = tan_wcs(Grid(ra, dec, 60.0, 1, 1)).wcs_world2pix(sky_ra.ravel(), sky_dec.ravel(), 0)
    flat[known] = np.stack([-west, north], axis=-1).reshape(-1, vertices.shape[1], 2)
    return flat, f"centre: RA {ra:.4f}°  Dec {dec:+.4f}°".replace("-", MINUS)


def _focal_plane(found: _Detectors, names: np.ndarray) -> tuple[np.ndarray, str]:
    """Outlines of the detectors with these names, as they lie when north is up, and how they are known."""
    centres = {str(r["EXTNAME"]): (float(r["CRPIX1"]), float(r["CRPIX2"])) for r in survey.focal_plane()}
    if len(names) and all(name in centres for name in names):
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * CCD + 0.5
        x, y = np.moveaxis(corners - np.array([centres[name] for name in names])[:, None], -1, 0)
        return np.stack([y, -x], axis=-1) * ARCMIN_PER_PIXEL, "DECam"  # x runs south, y east
    return _as_on_the_sky(found, names)


def _as_on_the_sky(found: _Detectors, names: np.ndarray) -> tuple[np.ndarray, str]:
    """Detectors of an unknown camera where the exposure with most of them has them; others are put in place by those in common."""
    known = _known(found.vertices)
    roots, sizes = np.unique(found.root[known], return_counts=True)
    places: dict[str, np.ndarray] = {}
    for root in roots[np.argsort(-sizes, kind="stable")]:
        rows = np.flatnonzero(known & (found.root == root))
        flat, _ = _plane(found.vertices[rows])
        own = dict(zip(found.extname[rows].tolist(), flat, strict=True))
        shifts = [places[name].mean(axis=0) - own[name].mean(axis=0) for name in own if name in places]
        shift = np.median(shifts, axis=0) if shifts else np.zeros(2)
        for name, outline in own.items():
            places.setdefault(name, outline + shift)
    nowhere = np.full((4, 2), np.nan)
    words = f"not DECam: places as on the sky in {roots[np.argmax(sizes)]}" if len(roots) else "places are not known"
    return np.array([places.get(str(name), nowhere) for name in names]).reshape(-1, 4, 2), words


def _frame(polygons: np.ndarray) -> Frame:
    """A square around outlines."""
    points = polygons[_known(polygons)].reshape(-1, 2)
    if not len(points):
        return -1.0, 1.0, -1.0, 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    half, middle = 0.54 * float((high - low).max()), (low + high) / 2
    return middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half


def _means(polygons: np.ndarray, values: np.ndarray, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Means of values over the outlines that contain the middle of a cell, and whether any does; rows go north, columns east."""
    west, east, south, _ = frame
    step = (east - west) / CELLS
    sums, counts, covered = np.zeros((3, CELLS, CELLS))
    known = _known(polygons)
    for corners, value in zip((polygons[known] - (west, south)) / step - 0.5, values[known], strict=True):
        low, high = np.maximum(np.ceil(corners.min(axis=0)).astype(int), 0), np.floor(corners.max(axis=0)).astype(int) + 1
        x, y = np.arange(low[0], high[0]), np.arange(low[1], high[1])[:, None]
        side = np.roll(corners, -1, axis=0) - corners
        turns = np.array([dx * (y - cy) - dy * (x - cx) for (cx, cy), (dx, dy) in zip(corners, side, strict=True)])
        inside = (turns >= 0).all(axis=0) | (turns <= 0).all(axis=0)
        box = slice(low[1], high[1]), slice(low[0], high[0])
        covered[box] += inside
        if np.isfinite(value):
            sums[box] += value * inside
            counts[box] += inside
    means = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means, covered > 0


# colours


def _colours(name: str) -> Colormap:
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=NOT_KNOWN)


def _around_zero(values: np.ndarray) -> Normalize:
    """As far on both sides of 0 as most values reach: a value of 0 is the exposure's own background."""
    middle, spread = drawing.spread(values)
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    return drawing.linear_scale(0.0, min(abs(middle) + RANGE * spread, largest) if spread else largest)


def _from_least(values: np.ndarray) -> Normalize:
    from matplotlib.colors import Normalize

    low, high = np.percentile(values[np.isfinite(values)], [KNOWN_BEST, KNOWN_WORST])
    return Normalize(low, high) if high > low else Normalize(0, 2 * low or 1.0)


# drawing


def _panel(figure: Figure, number: int, title: str, frame: Frame, words: str) -> Axes:
    height = figure.get_size_inches()[1]
    left, bottom = 0.85 + (number % 2) * 6.75, height - HEAD - ROW * (number // 2) - 0.25 - PANEL
    axes = figure.add_axes((left / WIDTH, bottom / height, PANEL / WIDTH, PANEL / height))
    axes.set(xlim=frame[1::-1], ylim=frame[2:], aspect="equal")
    words = f"east  [arcmin]      {words}"
    axes.set_xlabel(words, fontsize=drawing.fit(words, 10, PANEL))
    axes.set_ylabel("north  [arcmin]", fontsize=10)
    axes.text(0, 1.015, title, transform=axes.transAxes, va="bottom", fontsize=12, fontweight="bold")
    return axes


def _bar(axes: Axes, colours: Colormap, scale: Normalize, label: str) -> None:
    from matplotlib.cm import ScalarMappable

    box, figure = axes.get_position(), axes.figure
    place = figure.add_axes((box.x1 + 0.12 / WIDTH, box.y0, BAR / WIDTH, box.height))
    figure.colorbar(ScalarMappable(scale, colours), cax=place, extend="both", extendfrac=0.02).set_label(label, fontsize=10)


def _draw_means(
    polygons: np.ndarray,
    values: np.ndarray,
    frame: Frame,
    colours: str,
    scale_of: Callable[[np.ndarray], Normalize],
    label: str,
    axes: Axes,
) -> None:
    """Covered cells without a value are grey, what is not covered is white."""
    means, covered = _means(polygons, values, frame)
    colour_map, scale = _colours(colours), scale_of(means)
    rgba = colour_map(scale(np.ma.masked_invalid(means)))
    rgba[~covered] = 1.0
    axes.imshow(rgba, origin="lower", extent=frame, interpolation="nearest", aspect="auto")
    axes.set_xlim(frame[1::-1])
    _bar(axes, colour_map, scale, label)


def _draw_focal_plane(polygons: np.ndarray, names: np.ndarray, values: np.ndarray, label: str, axes: Axes) -> None:
    """Each detector with its name and value where these can be read."""
    from matplotlib.collections import PolyCollection

    known = _known(polygons)
    colours, scale = _colours("RdYlBu_r"), _around_zero(values)
    faces = colours(scale(np.ma.masked_invalid(values[known])))
    axes.add_collection(PolyCollection(polygons[known], facecolors=faces, edgecolors="white", linewidths=0.8))
    _bar(axes, colours, scale, label)
    extent = np.ptp(polygons[known], axis=1) * PANEL * 72 / abs(np.subtract(*axes.get_xlim()))  # points
    width, height = np.median(extent, axis=0)
    least, most = cast(tuple[float, float], (scale.vmin, scale.vmax))  # known: they were given
    digits = max(0, int(np.ceil(1 - np.log10(max(most - least, 1e-6)))) + 1)
    for polygon, name, value in zip(polygons[known], names[known], values[known], strict=True):
        words = f"{name}\n{round(value, digits) + 0.0:+.{digits}f}".replace("-", MINUS) if np.isfinite(value) else name
        size = min(9.0, 0.4 * height, 1.5 * width / max(map(len, words.split("\n"))))
        if size < 4.5:
            return
        ink = "white" if np.isfinite(value) and abs(scale(value) - 0.5) > 0.38 else "black"
        x, y = polygon.mean(axis=0)
        axes.text(x, y, words, fontsize=size, ha="center", va="center", linespacing=1.05, color=ink)


def _draw_components(polygons: np.ndarray, found: _Detectors, axes: Axes) -> None:
    """Connected detectors in the same colour, and a frame around what is special."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    known = _known(polygons)
    numbers, sizes = np.unique(found.component, return_counts=True)
    alone = np.isin(found.component, numbers[sizes == 1])
    order = [(int(number), size) for size, number in sorted(zip(-sizes, numbers, strict=True)) if size < -1]
    opacity = float(np.clip(8 / max(1.0, known.sum() ** 0.6), 0.05, 0.5))
    handles = []
    for k, (number, size) in enumerate(order):
        colour, rows = COMPONENTS[k % len(COMPONENTS)], known & (found.component == number)
        axes.add_collection(PolyCollection(polygons[rows], facecolors=colour, alpha=opacity, edgecolors="none"))
        axes.add_collection(PolyCollection(polygons[rows], facecolors="none", edgecolors=colour, linewidths=0.4, alpha=0.6))
        if k < len(COMPONENTS):
            handles.append(Patch(color=colour, label=f"{number}: {counted(-size, 'detector')}"))
    if len(order) > len(COMPONENTS):
        handles.append(Patch(color="none", label=f"and {len(order) - len(COMPONENTS)} more"))
    marks = [(*kind[1:], np.array([kind[0] in remark for remark in found.remark], dtype=bool)) for kind in KINDS]
    for label, colour, rows in (*marks, (*ALONE, alone)):
        if rows.any():
            axes.add_collection(PolyCollection(polygons[known & rows], facecolors="none", edgecolors=colour, linewidths=1.8))
            handles.append(Patch(facecolor="none", edgecolor=colour, linewidth=1.8, label=f"{label}: {rows.sum():,}"))
    if handles:
        columns = 1 + (len(handles) > 4)
        axes.legend(handles=handles, loc="upper left", ncols=columns, fontsize=9, framealpha=0.9, borderaxespad=0.3)
