"""Measure how much the detectors of each overlapping pair differ.

The stamps are loaded once each, from south to north, and dropped as soon as no
partner is left to compare them with, so that thousands of detectors need the memory of those on one strip of the sky.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..config import MatchConfig
from ..geometry import unit_vectors
from ..mode import kernels
from ..stamp import Stamp
from . import compare, scatter
from .cells import good_cells
from .pairs import N_BLOCKS, Pairs

__all__ = ["measure"]

CLIP_SIGMA = 3.0
FEWEST_IN_PART = 25  # cells; and an eighth of what a pair must have


@dataclass(frozen=True, eq=False)
class _Sky:
    """The good cells of a stamp, ready to be compared: those that are not good are NaN."""

    x0: int
    y0: int
    cells: np.ndarray
    level: float
    to_detector: np.ndarray
    centre: np.ndarray

    @classmethod
    def of(cls, stamp: Stamp) -> _Sky:
        good = good_cells(stamp)
        cells = np.where(good, stamp.mean, np.float32(np.nan))
        ny, nx = cells.shape
        linear, shift = stamp.to_detector[:, :2], stamp.to_detector[:, 2]
        if abs(np.linalg.det(linear)) > 0:
            centre = np.linalg.solve(linear, -shift)
        else:
            centre = np.array([stamp.x0 + (nx - 1) / 2, stamp.y0 + (ny - 1) / 2])
        level = kernels.median(np.sort(cells[good])) if good.any() else 0.0
        return cls(stamp.x0, stamp.y0, cells, level, np.asarray(stamp.to_detector, dtype=np.float64), centre)

    def part(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        return self.cells[y0 - self.y0 : y1 - self.y0, x0 - self.x0 : x1 - self.x0]


def measure(
    first: ArrayLike, second: ArrayLike, load: Callable[[int], Stamp], boxes: ArrayLike, centres: ArrayLike, config: MatchConfig
) -> Pairs:
    """Compare the stamps of all pairs.

    Parameters
    ----------
    first, second : array_like
        int, shape (K,): pairs, as from `find_pairs`.
    load : callable
        Gives the stamp of a detector; called at most once for each, in the order of the boxes' lower edges.
    boxes : array_like
        int, shape (n, 4): x0, y0, nx, ny of each detector's stamp on the grid; nx = 0 for a detector without one.
    centres : array_like
        Shape (n, 2): RA and Dec of the detectors' centres in degrees.
    config : `~kred_core.config.MatchConfig`

    Returns
    -------
    Pairs
        Those with at least ``config.min_cells`` common good cells; the others are listed in it.

    Notes
    -----
    The common good cells of two stamps (see `good_cells`) are subtracted and sorted once; all statistics come
    from these values. The four parts of an overlap are measured alike, if they have at least 25 cells and an
    eighth of ``config.min_cells``. For the errors see `kred_core.overlaps.scatter`.
    """
    first, second = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    boxes = np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
    fewest_in_part = max(FEWEST_IN_PART, config.min_cells / 8)
    rows: dict[int, dict] = {}
    for pair, one, other in _sweep(first, second, load, boxes):
        row = _compare(one, other, config.min_cells, fewest_in_part)
        if row is not None:
            rows[pair] = row

    kept = np.array(sorted(rows), dtype=np.int64)
    kept = kept[np.lexsort((second[kept], first[kept]))]
    small = np.setdiff1d(np.arange(first.size), kept)
    small = small[np.lexsort((second[small], first[small]))]

    def column(name: str, *shape: int) -> np.ndarray:
        return np.array([rows[pair][name] for pair in kept], dtype=np.float64).reshape(len(kept), *shape)

    overlaps = scatter.Disagreement(
        n_cells=column("n_cells"),
        error=column("noise"),
        part_cells=column("part_cells", N_BLOCKS),
        parts=column("parts", N_BLOCKS),
        part_noise=column("part_noise", N_BLOCKS),
        spread=column("spread"),
        lever=column("lever"),
    )
    excess = scatter.fit_excess(overlaps)
    error = scatter.pair_errors(overlaps, excess, column("size"))
    names = ("difference", "mode", "mean", "median", "std", "skew", "kurtosis", "clipped_mean", "clipped_median", "clipped_std")
    return Pairs(
        first=first[kept],
        second=second[kept],
        separation=_separation(np.asarray(centres, dtype=np.float64).reshape(-1, 2), first[kept], second[kept]),
        n_cells=overlaps.n_cells.astype(np.int64),
        error=error,
        blocks=overlaps.parts,
        block_errors=scatter.part_errors(overlaps, excess),
        block_places=column("part_places", N_BLOCKS, 2, 3),
        floor=float(np.median(np.sqrt(np.maximum(error**2 - overlaps.error**2, 0.0)))) if error.size else 0.0,
        small_first=first[small],
        small_second=second[small],
        **{name: column(name) for name in names},
    )


def _sweep(first: np.ndarray, second: np.ndarray, load: Callable[[int], Stamp], boxes: np.ndarray):
    """Each pair whose boxes meet, with the skies of both, from south to north."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    lower, upper = np.maximum(low[first], low[second]), np.minimum(high[first], high[second])
    meeting = np.flatnonzero((upper > lower).all(axis=1))
    partners: dict[int, list[tuple[int, int]]] = {}
    for pair in meeting.tolist():
        i, j = int(first[pair]), int(second[pair])
        partners.setdefault(i, []).append((j, pair))
        partners.setdefault(j, []).append((i, pair))
    left = {i: len(found) for i, found in partners.items()}
    loaded: dict[int, _Sky] = {}
    for i in sorted(partners, key=lambda i: (boxes[i, 1], boxes[i, 0], i)):
        loaded[i] = _Sky.of(load(i))
        for j, pair in sorted(partners[i]):
            if j not in loaded:
                continue
            yield pair, *(loaded[k] for k in (first[pair], second[pair]))
            left[i] -= 1
            left[j] -= 1
            if left[j] == 0:
                del loaded[j]
        if left[i] == 0:
            del loaded[i]


def _compare(first: _Sky, second: _Sky, min_cells: int, fewest_in_part: float) -> dict | None:
    """What is measured of one pair; None if the two have too few good cells in common."""
    x0, y0 = max(first.x0, second.x0), max(first.y0, second.y0)
    x1, y1 = (min(s0 + n, t0 + m) for s0, n, t0, m in (
        (first.x0, first.cells.shape[1], second.x0, second.cells.shape[1]),
        (first.y0, first.cells.shape[0], second.y0, second.cells.shape[0]),
    ))
    if x1 <= x0 or y1 <= y0:
        return None
    values, x, y = compare.differences(first.part(x0, y0, x1, y1), second.part(x0, y0, x1, y1), first.level, second.level)
    if values.size < min_cells:
        return None
    shift = second.level - first.level
    maps = [_moved(sky.to_detector, x0, y0) for sky in (first, second)]
    divided, ends, places, middles = compare.divide(values, x, y, *maps)
    row = _parts(divided, ends, places, middles, shift, fewest_in_part)
    middle = np.array([x0, y0]) + np.diff(ends) @ np.nan_to_num(middles) / values.size
    row["lever"] = sum(((middle - sky.centre) ** 2).sum() for sky in (first, second))
    row["size"] = max(abs(first.level), abs(second.level))
    divided.sort()
    return row | _statistics(divided, shift)


def _moved(to_detector: np.ndarray, x0: int, y0: int) -> np.ndarray:
    """The map for cells that count from (x0, y0)."""
    moved = to_detector.copy()
    moved[:, 2] += to_detector[:, 0] * x0 + to_detector[:, 1] * y0
    return moved


def _parts(
    divided: np.ndarray, ends: np.ndarray, places: np.ndarray, middles: np.ndarray, shift: float, fewest: float
) -> dict:
    """Differences in the parts of an overlap; NaN for small ones. Sorts the values of each."""
    n = np.diff(ends)
    level, noise = np.full(N_BLOCKS, np.nan), np.full(N_BLOCKS, np.nan)
    for k in np.flatnonzero(n >= fewest):
        part = divided[ends[k] : ends[k + 1]]
        part.sort()
        peak, noise[k], _ = kernels.histogram_mode(part)
        level[k] = shift + peak
    measured = np.isfinite(level)
    where = middles[measured]
    return {
        "parts": level,
        "part_noise": noise,
        "part_cells": n,
        "part_places": np.where(measured[:, None, None], places, np.nan),
        "spread": ((where - where.mean(axis=0)) ** 2).sum() if measured.any() else 0.0,
    }


def _statistics(ordered: np.ndarray, shift: float) -> dict:
    """All statistics of one pair from its sorted values."""
    mean, std = kernels.mean_and_std(ordered)
    skew, kurtosis = kernels.skewness_and_kurtosis(ordered, mean, std)
    peak, noise, _ = kernels.histogram_mode(ordered)
    clipped = ordered[slice(*kernels.clip(ordered, CLIP_SIGMA))]
    clipped_mean, clipped_std = kernels.mean_and_std(clipped)
    return {
        "n_cells": ordered.size,
        "difference": shift + peak,
        "noise": noise,
        "mode": shift + kernels.half_sample_mode(ordered),
        "mean": shift + mean,
        "median": shift + kernels.median(ordered),
        "std": std,
        "skew": skew,
        "kurtosis": kurtosis,
        "clipped_mean": shift + clipped_mean,
        "clipped_median": shift + kernels.median(clipped),
        "clipped_std": clipped_std,
    }


def _separation(centres: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distances on the sky in arcsec."""
    vectors = unit_vectors(centres[:, 0], centres[:, 1])
    chord = np.linalg.norm(vectors[first] - vectors[second], axis=-1)
    return np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1.0))) * 3600
