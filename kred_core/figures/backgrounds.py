"""Maps of the solved backgrounds: on the focal plane, on the sky, by connected component, and how well they are known.

What the camera does stays in place on the focal plane, what the sky does stays in
place on the sky; a detector whose background went astray stands out in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from .. import survey
from ..sky import Grid, mean_position, outlines, position, tan_wcs
from ..words import counted
from . import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

__all__ = ["background_figure"]

WIDTH, HEAD, ROW, FOOT = 13.8, 0.9, 5.85, 0.3  # inches
PANEL, BAR = 5.0, 0.16  # inches: side of a map, width of its colour bar
NORMAL_MAD = 1.482602218505602
RANGE = 3.5  # robust standard deviations beyond the median at which the colours of differences end
KNOWN_BEST, KNOWN_WORST = 1.0, 99.0  # percentiles of the standard errors at which theirs end
CELLS = 240  # across a map of means
ARCMIN_PER_PIXEL = 7.287e-5 * 60.0  # |CD| of DECam
CCD = 2046, 4094  # pixels of a full DECam detector, for which the focal plane is given
COMPONENTS = (  # Okabe & Ito 2008
    "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#0072b2",
)  # fmt: skip
NOT_KNOWN = "#bbbbbb"
KINDS = (("fixed", "fixed by the user", "#5d3a9b"), ("contradict", "contradicts its neighbours", "#d55e00"))
ALONE = "without a neighbour", "#000000"
NOTE = (
    "b: matched background; SUB_BACK: the exposure's own; on the sky: mean over the detectors that cover a place; "
    f"colours of b − SUB_BACK: centred on 0, to median + {RANGE:g} robust standard deviations; grey: not known; north up, east left"
)


@dataclass(frozen=True, eq=False)
class _Detectors:
    """The rows of the table of backgrounds, with their outlines."""

    root: np.ndarray
    extname: np.ndarray
    excess: np.ndarray  # b - SUB_BACK
    error: np.ndarray
    component: np.ndarray
    remark: np.ndarray
    vertices: np.ndarray  # (n, 4, 3) unit vectors, NaN where the corners are not known


@drawing.own_settings()
def background_figure(backgrounds: Table, detectors: Table, title: str, path: Path) -> None:
    """Draw the solved backgrounds as maps.

    Parameters
    ----------
    backgrounds : `~astropy.table.Table`
        Columns `kred_core.products.tables.BACKGROUNDS`, the detectors of one image.
    detectors : `~astropy.table.Table`
        Root, EXTNAME, NAXIS1, NAXIS2 and the corners (as in `kred_core.products.tables.DETECTORS`) of at least these detectors;
        those that are missing here, or have no corners, are left out of the maps of the sky and counted in the subtitle.
    title : str
        Field and image.
    path : `~pathlib.Path`
        PNG to write.
    """
    found = _joined(backgrounds, detectors)
    on_sky, centre = _plane(found.vertices)
    frame = _frame(on_sky)
    colours, label = _diverging(), f"b − SUB_BACK  [{drawing.UNIT}]"
    places, words = _focal_plane(found)
    names, medians = _by_name(found)
    several = np.isfinite(found.vertices).all(axis=(1, 2)).sum() > 1  # the subtitle says all that there is to say of a single one
    connected = several and len(np.unique(found.component)) < len(found.root)
    in_camera = np.isfinite(places).all(axis=(1, 2)).sum() > 1

    def focal_plane(axes: Axes) -> None:
        scale = _around_zero(medians)
        _polygons(axes, places, medians, colours, scale)
        _name_detectors(axes, places, names, medians, scale)
        _bar(axes, colours, scale, label)

    def sky(axes: Axes) -> None:
        means, covered = _means(on_sky, found.excess, frame)
        scale = _around_zero(means)
        _show_map(axes, frame, means, covered, colours, scale)
        _bar(axes, colours, scale, label)

    def components(axes: Axes) -> None:
        _components(axes, on_sky, found)

    def errors(axes: Axes) -> None:
        means, covered = _means(on_sky, found.error, frame)
        scale = _from_least(means)
        _show_map(axes, frame, means, covered, _sequential(), scale)
        _bar(axes, _sequential(), scale, f"standard error of b  [{drawing.UNIT}]")

    west, east, south, north = frame
    room = 0.08 * (north - south)  # for the legend
    frame_with_legend = west - room, east + room, south, north + 2 * room
    panels = [
        (in_camera, "Focal plane: median over the exposures", _frame(places), words, focal_plane),
        (several, "Sky: mean over the exposures", frame, centre, sky),
        (connected, "Sky: components connected by overlaps", frame_with_legend, centre, components),
        (connected and np.isfinite(found.error).any(), "Sky: standard error of b, mean over the exposures", frame, centre, errors),
    ]
    panels = [panel for wanted, *panel in panels if wanted]
    height = HEAD + ROW * math.ceil(len(panels) / 2) + FOOT
    figure = drawing.page(WIDTH, height, f"{title} · backgrounds of the detectors", _summary(found), NOTE if panels else "")
    for k, (name, panel_frame, panel_words, draw) in enumerate(panels):
        letter = f"{'abcd'[k]}  " if len(panels) > 1 else ""
        draw(_panel(figure, k, letter + name, panel_frame, panel_words))
    drawing.save(figure, path, grey=False)


def _joined(backgrounds: Table, detectors: Table) -> _Detectors:
    """Each background with the outline of its detector."""
    columns = [f"COR{i}{axis}1" for i in (1, 2, 3, 4) for axis in ("RA", "DEC")]
    corners = np.stack([_numbers(detectors, name) for name in columns], axis=-1).reshape(-1, 4, 2)
    outline = outlines(corners, _numbers(detectors, "NAXIS1"), _numbers(detectors, "NAXIS2"))
    row = {(str(root), str(name)): i for i, (root, name) in enumerate(zip(detectors["Root"], detectors["EXTNAME"], strict=True))}
    vertices = np.full((len(backgrounds), 4, 3), np.nan)
    roots, names = (np.array([str(v) for v in backgrounds[c]], dtype=str) for c in ("Root", "EXTNAME"))
    for i, key in enumerate(zip(roots.tolist(), names.tolist(), strict=True)):
        if key in row:
            vertices[i] = outline[row[key]]
    vertices[~np.isfinite(vertices).all(axis=(1, 2))] = np.nan
    return _Detectors(
        root=roots,
        extname=names,
        excess=_numbers(backgrounds, "b") - _numbers(backgrounds, "SUB_BACK"),
        error=_numbers(backgrounds, "b_err"),
        component=np.asarray(backgrounds["component"], dtype=np.int64),
        remark=np.array([str(v) for v in backgrounds["Remark"]], dtype=str),
        vertices=vertices,
    )


def _numbers(table: Table, name: str) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(table[name], dtype=np.float64), np.nan)


def _summary(found: _Detectors) -> str:
    n = len(found.root)
    if n == 0:
        return "no detectors"
    sizes = np.unique(found.component, return_counts=True)[1]
    excess = found.excess[np.isfinite(found.excess)]
    error = found.error[np.isfinite(found.error)]
    middle = float(np.median(excess)) if excess.size else np.nan
    scatter = float(NORMAL_MAD * np.median(np.abs(excess - middle))) if excess.size else np.nan
    alone = int(sizes[sizes == 1].sum())
    words = [
        f"{counted(n, 'detector')} of {counted(len(np.unique(found.root)), 'exposure')}",
        f"b − SUB_BACK: median {drawing.short(middle)}, robust scatter {drawing.short(scatter)}"
        if n > 1
        else f"b − SUB_BACK {drawing.short(middle)}",
        *([f"standard error of b{': median' * (n > 1)} {drawing.short(float(np.median(error)))}"] if error.size else []),
    ]
    words[-1] += f"  {drawing.UNIT}"
    words += [
        *([counted(int(np.count_nonzero(sizes > 1)), "component")] if alone < n else []),
        *([f"{alone:,} without a neighbour"] if alone else []),
    ]
    nowhere = int(np.isnan(found.vertices[:, 0, 0]).sum())
    if nowhere:
        words.append(f"{nowhere:,} without known corners")
    return "      ".join(words)


# places


def _plane(vertices: np.ndarray) -> tuple[np.ndarray, str]:
    """Outlines in arcmin east and north of their middle, shape (n, 4, 2), and where that is."""
    known = np.isfinite(vertices).all(axis=(1, 2))
    if not known.any():
        return np.full((*vertices.shape[:2], 2), np.nan), "no detector has a known place"
    sky_ra, sky_dec = position(np.nan_to_num(vertices))
    ra, dec = mean_position(sky_ra[known], sky_dec[known])
    west, north = tan_wcs(Grid(ra, dec, 60.0, 1, 1)).wcs_world2pix(sky_ra.ravel(), sky_dec.ravel(), 0)
    flat = np.stack([-west, north], axis=-1).reshape(*vertices.shape[:2], 2)
    flat[~known] = np.nan
    return flat, f"centre: RA {ra:.4f}°  Dec {dec:+.4f}°".replace("-", "\N{MINUS SIGN}")


def _focal_plane(found: _Detectors) -> tuple[np.ndarray, str]:
    """Outlines of the detectors by name, in the order of `_by_name`, as they lie when north is up, and how they are known."""
    names = np.unique(found.extname)
    table = survey.focal_plane()
    centres = {str(r["EXTNAME"]): (float(r["CRPIX1"]), float(r["CRPIX2"])) for r in table}
    if len(names) and all(name in centres for name in names):
        x, y = (np.array([0.5, n + 0.5])[index] for n, index in zip(CCD, ([0, 1, 1, 0], [0, 0, 1, 1]), strict=True))
        crpix = np.array([centres[name] for name in names])
        # x runs south, y east
        east, north = y - crpix[:, 1, None], crpix[:, 0, None] - x
        return np.stack([east, north], axis=-1) * ARCMIN_PER_PIXEL, "DECam"
    return _as_on_the_sky(found, names)


def _as_on_the_sky(found: _Detectors, names: np.ndarray) -> tuple[np.ndarray, str]:
    """Detectors of an unknown camera where the exposure with most of them has them; others are put in place by those in common."""
    known = np.isfinite(found.vertices).all(axis=(1, 2))
    roots, sizes = np.unique(found.root[known], return_counts=True)
    places = {}
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


def _by_name(found: _Detectors) -> tuple[np.ndarray, np.ndarray]:
    """Names of the detectors, each once, and the median of b - SUB_BACK over the exposures of each."""
    names = np.unique(found.extname)
    values = [found.excess[(found.extname == name) & np.isfinite(found.excess)] for name in names]
    return names, np.array([np.median(v) if v.size else np.nan for v in values], dtype=np.float64)


def _frame(polygons: np.ndarray) -> tuple[float, float, float, float]:
    """A square around outlines: west, east, south, north."""
    points = polygons[np.isfinite(polygons).all(axis=(1, 2))].reshape(-1, 2)
    if not len(points):
        return -1.0, 1.0, -1.0, 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    half, middle = 0.54 * float((high - low).max()), (low + high) / 2
    return middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half


# colours


def _diverging() -> Colormap:
    from matplotlib import colormaps

    return colormaps["RdYlBu_r"].with_extremes(bad=NOT_KNOWN)


def _sequential() -> Colormap:
    from matplotlib import colormaps

    return colormaps["viridis"].with_extremes(bad=NOT_KNOWN)


def _around_zero(values: np.ndarray) -> Normalize:
    """As far on both sides of 0 as most values reach: a value of 0 is the exposure's own background."""
    known = values[np.isfinite(values)]
    if not known.size:
        return drawing.linear_scale(0.0, 0.0)
    middle, largest = float(np.median(known)), float(np.abs(known).max())
    spread = RANGE * NORMAL_MAD * float(np.median(np.abs(known - middle)))
    return drawing.linear_scale(0.0, min(abs(middle) + spread, largest) if spread else largest)


def _from_least(values: np.ndarray) -> Normalize:
    from matplotlib.colors import Normalize

    known = values[np.isfinite(values)]
    if not known.size:
        return Normalize(0, 1)
    low, high = np.percentile(known, [KNOWN_BEST, KNOWN_WORST])
    return Normalize(low, high) if high > low else Normalize(0, 2 * low or 1.0)


# drawing


def _panel(figure: Figure, number: int, title: str, frame: tuple[float, float, float, float], words: str) -> Axes:
    height = figure.get_size_inches()[1]
    left, bottom = 0.85 + (number % 2) * 6.75, height - HEAD - ROW * (number // 2) - 0.25 - PANEL
    axes = figure.add_axes((left / WIDTH, bottom / height, PANEL / WIDTH, PANEL / height))
    west, east, south, north = frame
    axes.set_xlim(east, west)
    axes.set_ylim(south, north)
    axes.set_aspect("equal")
    axes.tick_params(labelsize=10)
    words = f"east  [arcmin]      {words}"
    axes.set_xlabel(words, fontsize=drawing.fit(words, 10, PANEL), parse_math=False)
    axes.set_ylabel("north  [arcmin]", fontsize=10)
    above = axes.transAxes
    axes.text(0, 1.015, title, transform=above, ha="left", va="bottom", fontsize=12, fontweight="bold", parse_math=False)
    return axes


def _bar(axes: Axes, colours: Colormap, scale: Normalize, label: str) -> None:
    from matplotlib.cm import ScalarMappable

    box, figure = axes.get_position(), axes.figure
    place = figure.add_axes((box.x1 + 0.12 / WIDTH, box.y0, BAR / WIDTH, box.height))
    bar = figure.colorbar(ScalarMappable(scale, colours), cax=place, extend="both", extendfrac=0.02)
    bar.set_label(label, fontsize=10)
    bar.ax.tick_params(labelsize=10)


def _polygons(axes: Axes, polygons: np.ndarray, values: np.ndarray, colours: Colormap, scale: Normalize, **style) -> None:
    from matplotlib.collections import PolyCollection

    known = np.isfinite(polygons).all(axis=(1, 2))
    faces = colours(scale(np.ma.masked_invalid(values[known])))
    axes.add_collection(PolyCollection(polygons[known], facecolors=faces, **{"edgecolors": "white", "linewidths": 0.8, **style}))


def _name_detectors(axes: Axes, polygons: np.ndarray, names: np.ndarray, values: np.ndarray, scale: Normalize) -> None:
    """Name and value in each detector where these can be read."""
    known = np.isfinite(polygons).all(axis=(1, 2))
    if not known.any():
        return
    extent = np.ptp(polygons[known], axis=1) * PANEL * 72 / abs(np.subtract(*axes.get_xlim()))  # points
    width, height = np.median(extent, axis=0)
    digits = max(0, int(np.ceil(1 - np.log10(max(scale.vmax - scale.vmin, 1e-6)))) + 1)
    for polygon, name, value in zip(polygons[known], names[known], values[known], strict=True):
        words = f"{name}\n{round(value, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else name
        longest = max(len(line) for line in words.split("\n"))
        size = min(9.0, 0.4 * height, 1.5 * width / longest)
        if size < 4.5:
            return
        dark = np.isfinite(value) and abs(scale(value) - 0.5) > 0.38
        axes.text(
            *polygon.mean(axis=0), words, fontsize=size, ha="center", va="center", linespacing=1.05, parse_math=False,
            color="white" if dark else "black",
        )  # fmt: skip


def _show_map(
    axes: Axes,
    frame: tuple[float, float, float, float],
    means: np.ndarray,
    covered: np.ndarray,
    colours: Colormap,
    scale: Normalize,
) -> None:
    """The result of `_means`: covered cells without a value are grey, what is not covered is white."""
    west, east, south, north = frame
    rgba = colours(scale(np.ma.masked_invalid(means)))
    rgba[~covered] = 1.0
    axes.imshow(rgba, origin="lower", extent=(west, east, south, north), interpolation="nearest", aspect="auto")
    axes.set_xlim(east, west)


def _means(polygons: np.ndarray, values: np.ndarray, frame: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Means of values over the outlines that contain the middle of a cell, and whether any does; rows go north, columns east."""
    west, _, south, _ = frame
    step = (frame[1] - west) / CELLS
    sums, counts, covered = np.zeros((CELLS, CELLS)), np.zeros((CELLS, CELLS)), np.zeros((CELLS, CELLS), dtype=bool)
    cells = (polygons - (west, south)) / step - 0.5
    for corners, value in zip(cells, values, strict=True):
        if not np.isfinite(corners).all():
            continue
        low, high = np.maximum(np.ceil(corners.min(axis=0)).astype(int), 0), np.floor(corners.max(axis=0)).astype(int) + 1
        x, y = np.arange(low[0], high[0]), np.arange(low[1], high[1])[:, None]
        side = np.roll(corners, -1, axis=0) - corners
        turns = [dx * (y - cy) - dy * (x - cx) for (cx, cy), (dx, dy) in zip(corners, side, strict=True)]
        inside = np.logical_and.reduce([t >= 0 for t in turns]) | np.logical_and.reduce([t <= 0 for t in turns])
        box = slice(low[1], high[1]), slice(low[0], high[0])
        covered[box] |= inside
        if np.isfinite(value):
            sums[box] += value * inside
            counts[box] += inside
    means = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means, covered


def _components(axes: Axes, polygons: np.ndarray, found: _Detectors) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    known = np.isfinite(polygons).all(axis=(1, 2))
    numbers, sizes = np.unique(found.component, return_counts=True)
    alone = np.isin(found.component, numbers[sizes == 1])
    order = [int(n) for n in numbers[np.argsort(-sizes, kind="stable")] if (found.component == n).sum() > 1]
    opacity = float(np.clip(8 / max(1.0, known.sum() ** 0.6), 0.05, 0.5))
    handles = []
    for k, number in enumerate(order):
        colour, rows = COMPONENTS[k % len(COMPONENTS)], known & (found.component == number)
        axes.add_collection(PolyCollection(polygons[rows], facecolors=colour, alpha=opacity, edgecolors="none"))
        axes.add_collection(PolyCollection(polygons[rows], facecolors="none", edgecolors=colour, linewidths=0.4, alpha=0.6))
        if k < len(COMPONENTS):
            handles.append(Patch(color=colour, label=f"{number}: {(found.component == number).sum():,} detectors"))
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
