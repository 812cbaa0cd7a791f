"""Measure how much the detectors of each overlapping pair differ, and how well that is known.

Binned maps are loaded once each, from south to north, and dropped as soon as no partner is left, so that thousands of detectors
need the memory of those on one strip of the sky. Errors follow from how much the parts of all overlaps disagree: skies have
gradients and flat-fields have flaws, which noise does not show and no single pair tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ..binned import BinnedMap
from ..config import MatchConfig
from ..sky import unit_vectors
from ..statistics import kernels
from . import compare
from .pairs import N_BLOCKS, Pairs

__all__ = ["MEASURED", "Excess", "fit_excess", "measure", "pair_errors", "part_errors"]

CLIP_SIGMA = 3.0
FEWEST_IN_PART = 25  # cells; and an eighth of what a pair must have

_STATISTICS = ("difference", "mode", "mean", "median", "std", "skew", "kurtosis", "clipped_mean", "clipped_median", "clipped_std")
# What is measured of one pair. Hundreds of thousands of these must fit into memory.
MEASURED = np.dtype(
    [(name, np.float64) for name in _STATISTICS]
    + [
        ("n_cells", np.int64),
        ("noise", np.float64),  # standard error of the difference from noise alone
        ("size", np.float64),  # of the values that were subtracted
        ("lever", np.float64),  # sum over the two detectors of the squared distance of the overlap from their centres, cells^2
        ("spread", np.float64),  # sum over the parts of their squared distances from their mean place, cells^2
        ("part_cells", np.int64, N_BLOCKS),
        ("parts", np.float64, N_BLOCKS),  # their differences; NaN where one is not measured, as in the next two
        ("part_noise", np.float64, N_BLOCKS),
        ("part_places", np.float64, (N_BLOCKS, 2, 3)),
    ]
)
CLIP = 3.0  # of its expectation: a pair that disagrees with itself more than that counts as if by this much
SUSPICIOUS = 1e-3  # probability by chance; what disagrees with itself more is trusted less
OUTLIER = 9.0  # of its expectation: a pair beyond that says nothing about the others
ROUNDS = 4  # of leaving out such pairs
MOST_PAIRS = 10000  # that the fit uses; more make it no better
PATCHES = 10.0 ** np.arange(1.5, 5.1, 0.5)  # cells that a flaw may cover
STEPS = 300
SAME = 1e-4  # relative change of a variance at which the fit stops
START = 1e-3  # of the mean disagreement
LEAST_SHARE = 0.01  # of the median error: no pair is known better than this
ROUNDING = 2.0**-23  # of the values


@dataclass(frozen=True, eq=False)
class _Sky:
    """The good cells of a binned map, ready to be compared: those that are not good are NaN."""

    x0: int
    y0: int
    cells: np.ndarray
    level: float
    to_detector: np.ndarray
    centre: np.ndarray

    @classmethod
    def of(cls, binned_map: BinnedMap) -> _Sky:
        good = compare.good_cells(binned_map)
        cells = np.where(good, binned_map.mean, np.float32(np.nan))
        ny, nx = cells.shape
        linear, shift = binned_map.to_detector[:, :2], binned_map.to_detector[:, 2]
        if abs(np.linalg.det(linear)) > 0:
            centre = np.linalg.solve(linear, -shift)
        else:
            centre = np.array([binned_map.x0 + (nx - 1) / 2, binned_map.y0 + (ny - 1) / 2])
        level = kernels.median(np.sort(cells[good])) if good.any() else 0.0
        return cls(binned_map.x0, binned_map.y0, cells, level, np.asarray(binned_map.to_detector, dtype=np.float64), centre)

    def part(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Cells from (x0, y0) to (x1, y1) of the grid."""
        return self.cells[y0 - self.y0 : y1 - self.y0, x0 - self.x0 : x1 - self.x0]

    def map_from(self, x0: int, y0: int) -> np.ndarray:
        """The map to the detector for cells that count from (x0, y0)."""
        moved = self.to_detector.copy()
        moved[:, 2] += self.to_detector[:, 0] * x0 + self.to_detector[:, 1] * y0
        return moved


def measure(
    first: ArrayLike, second: ArrayLike, load: Callable[[int], BinnedMap], boxes: ArrayLike, centres: ArrayLike, config: MatchConfig
) -> Pairs:
    """Compare the binned maps of all pairs.

    Parameters
    ----------
    first, second : array_like
        int, shape (K,): pairs, as from `find_pairs`.
    load : callable
        Gives the binned map of a detector; called at most once for each, in the order of the boxes' lower edges.
    boxes : array_like
        int, shape (n, 4): x0, y0, nx, ny of each detector's binned map on the grid; nx = 0 for a detector without one.
    centres : array_like
        Shape (n, 2): RA and Dec of the detectors' centres in degrees.
    config : `~kred_core.config.MatchConfig`

    Returns
    -------
    Pairs
        Those with at least ``config.min_cells`` common good cells; the others are listed in it.

    Notes
    -----
    The common good cells of two binned maps (see `good_cells`) are subtracted and sorted once; all statistics come
    from these values. The four parts of an overlap are measured alike, if they have at least 25 cells and an
    eighth of ``config.min_cells``. With ``config.amplifier_steps`` each part is what one amplifier of each detector reads:
    of a part with a step in it the mode would be that of one side. For the errors see `fit_excess`.
    """
    first, second = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    boxes = np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
    fewest_in_part = max(FEWEST_IN_PART, config.min_cells / 8)
    rows = np.zeros(first.size, dtype=MEASURED)
    for pair, one, other in _sweep(first, second, load, boxes):
        _compare(one, other, config, fewest_in_part, rows[pair])

    order = np.lexsort((second, first))
    measured = rows["n_cells"][order] > 0
    kept, small = order[measured], order[~measured]
    rows = rows[kept]
    excess = fit_excess(rows)
    error = pair_errors(rows, excess)
    beyond_noise = np.sqrt(np.maximum(error**2 - rows["noise"] ** 2, 0.0))
    return Pairs(
        first=first[kept],
        second=second[kept],
        separation=_separation(np.asarray(centres, dtype=np.float64).reshape(-1, 2), first[kept], second[kept]),
        n_cells=rows["n_cells"].copy(),
        error=error,
        blocks=rows["parts"].copy(),
        block_errors=part_errors(rows, excess),
        block_places=rows["part_places"].copy(),
        floor=float(np.median(beyond_noise)) if kept.size else 0.0,
        small_first=first[small],
        small_second=second[small],
        **{name: rows[name].copy() for name in _STATISTICS},
    )


def _sweep(first: np.ndarray, second: np.ndarray, load: Callable[[int], BinnedMap], boxes: np.ndarray):
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


def _compare(first: _Sky, second: _Sky, config: MatchConfig, fewest_in_part: float, row: np.void) -> None:
    """Measure one pair; the row stays as it is if the two have too few good cells in common."""
    x0, y0 = max(first.x0, second.x0), max(first.y0, second.y0)
    x1 = min(sky.x0 + sky.cells.shape[1] for sky in (first, second))
    y1 = min(sky.y0 + sky.cells.shape[0] for sky in (first, second))
    if x1 <= x0 or y1 <= y0:
        return
    values, x, y = compare.differences(first.part(x0, y0, x1, y1), second.part(x0, y0, x1, y1), first.level, second.level)
    if values.size < config.min_cells:
        return
    shift = second.level - first.level
    maps = first.map_from(x0, y0), second.map_from(x0, y0)
    divided, ends, places, middles = compare.divide(values, x, y, *maps, config.amplifier_steps)
    n = np.diff(ends)
    row["n_cells"] = values.size
    row["part_cells"] = n
    middle = (n[:, None] * np.nan_to_num(middles)).sum(axis=0) / values.size + (x0, y0)
    row["lever"] = sum(((middle - sky.centre) ** 2).sum() for sky in (first, second))
    for k in range(N_BLOCKS):
        row["parts"][k] = row["part_noise"][k] = np.nan
        part = divided[ends[k] : ends[k + 1]]
        if part.size >= fewest_in_part:
            part.sort()
            peak, noise, _ = kernels.histogram_mode(part)
            row["parts"][k], row["part_noise"][k] = shift + peak, noise
    known = np.isfinite(row["parts"])
    row["part_places"] = np.where(known[:, None, None], places, np.nan)
    row["spread"] = ((middles[known] - middles[known].mean(axis=0)) ** 2).sum() if known.any() else 0.0
    divided.sort()
    _measure_whole(divided, shift, row)
    row["size"] = max(abs(first.level), abs(second.level), abs(row["difference"]))


def _measure_whole(ordered: np.ndarray, shift: float, row: np.void) -> None:
    """All statistics of an overlap from its sorted values."""
    peak, noise, _ = kernels.histogram_mode(ordered)
    row["difference"], row["noise"] = shift + peak, noise
    row["mode"] = shift + kernels.half_sample_mode(ordered)
    mean, std = kernels.mean_and_std(ordered)
    row["mean"], row["std"] = shift + mean, std
    row["skew"], row["kurtosis"] = kernels.skewness_and_kurtosis(ordered, mean, std)
    row["median"] = shift + kernels.median(ordered)
    clipped = ordered[slice(*kernels.clip(ordered, CLIP_SIGMA))]
    clipped_mean, row["clipped_std"] = kernels.mean_and_std(clipped)
    row["clipped_mean"], row["clipped_median"] = shift + clipped_mean, shift + kernels.median(clipped)


def _separation(centres: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distances on the sky in arcsec."""
    vectors = unit_vectors(centres[:, 0], centres[:, 1])
    chord = np.linalg.norm(vectors[first] - vectors[second], axis=-1)
    return np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1.0))) * 3600


@dataclass(frozen=True)
class Excess:
    """Scatter of the differences beyond noise, the same law for all pairs.

    Attributes
    ----------
    patch : float
        Cells that a flaw of the flat-field (or the like) covers.
    flaw : float
        Variance of the mean difference over less than a patch.
    slope : float
        Variance, per axis and squared cell, of the slope of a detector's background.
    """

    patch: float = 1.0
    flaw: float = 0.0
    slope: float = 0.0

    def of_area(self, n_cells: np.ndarray) -> np.ndarray:
        """Variance that flaws give to the mean over a number of cells: flaw / (1 + n/patch)."""
        return self.flaw / (1 + n_cells / self.patch)


def fit_excess(overlaps: np.ndarray) -> Excess:
    """Find the excess scatter that explains how much the parts of K overlaps, of dtype `MEASURED`, disagree.

    Notes
    -----
    For m parts the sum S of the squared deviations from their mean is expected to be

    ``E = (m - 1)/m sum(noise^2) + (m - 1) 4/3 (F(n) - F(4 n)) + 2 slope spread``,

    F(n) the variance of the mean over the n cells of a part: what four parts have in common does not show in their scatter.
    S/E is taken as chi^2/(m - 1) with m - 1 degrees of freedom. Both variances follow from the
    maximum of that likelihood, found by steps that leave them positive (minorisation; Hunter & Lange 2004, The American
    Statistician 58, 30), for several sizes of a patch, of which the likeliest is taken. S/E enters at most
    as 3, and its expectation accounts for that; pairs beyond 9 are left out, and the rest are fitted again.
    """
    sample = overlaps[:: max(1, -(-len(overlaps) // MOST_PAIRS))]
    found, freedom, noise, cells = _found(sample)
    spread = sample["spread"]
    # Without noise and of one value everywhere there is nothing to explain.
    used = (freedom >= 1) & (found + noise > 0)
    excess = Excess()
    for _ in range(ROUNDS):
        if not used.any():
            break
        excess = _likeliest(found[used], freedom[used], noise[used], cells[used], spread[used])
        still = used & (found <= OUTLIER * (noise + _flaws(cells, freedom, excess) + 2 * excess.slope * spread))
        if (still == used).all():
            break
        used = still
    return excess


def pair_errors(overlaps: np.ndarray, excess: Excess) -> np.ndarray:
    """Standard errors (K,) of differences: noise, excess scatter, and less trust in pairs that disagree with themselves.

    The slopes of two detectors enter by the distances of the overlap from their centres, where the background is defined.
    A pair whose parts disagree more than chance allows once in 1000 gets an error larger by what is beyond that.
    No error is less than 1 % of the median error, nor than the rounding of the float32 numbers that were subtracted.
    """
    variance = overlaps["noise"] ** 2 + excess.of_area(overlaps["n_cells"]) + excess.slope * overlaps["lever"]
    found, freedom, noise, cells = _found(overlaps)
    expected = noise + _flaws(cells, freedom, excess) + 2 * excess.slope * overlaps["spread"]
    limit = special.chdtri(np.maximum(freedom, 1), SUSPICIOUS)
    ratio = np.divide(found, expected, out=np.zeros_like(found), where=(expected > 0) & (freedom >= 1))
    error = np.sqrt(variance * np.maximum(1.0, freedom * ratio / limit))
    if error.size == 0:
        return error
    least = np.maximum(LEAST_SHARE * np.median(error), ROUNDING * overlaps["size"])
    return np.maximum(error, np.maximum(least, np.finfo(np.float32).tiny))


def part_errors(overlaps: np.ndarray, excess: Excess) -> np.ndarray:
    """Standard errors of parts, (K, 4), noise and flaws; slopes are left to those who compare the parts of an overlap."""
    return np.sqrt(overlaps["part_noise"] ** 2 + excess.of_area(overlaps["part_cells"]))


def _found(overlaps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sum of the parts' squared deviations, degrees of freedom, what noise should add to the sum, mean cells of a part."""
    measured = np.isfinite(overlaps["parts"])
    m = measured.sum(axis=1)
    at_least_one = np.maximum(m, 1)
    mean = np.where(measured, overlaps["parts"], 0.0).sum(axis=1) / at_least_one
    found = (np.where(measured, overlaps["parts"] - mean[:, None], 0.0) ** 2).sum(axis=1)
    noise = (np.where(measured, overlaps["part_noise"], 0.0) ** 2).sum(axis=1)
    cells = np.where(measured, overlaps["part_cells"], 0).sum(axis=1) / at_least_one
    freedom = np.maximum(m - 1, 0).astype(np.float64)
    return found, freedom, noise * freedom / at_least_one, cells


def _flaws(cells: np.ndarray, freedom: np.ndarray, excess: Excess) -> np.ndarray:
    """What flaws are expected to contribute to the sum of the parts' squared deviations."""
    return freedom * 4 / 3 * (excess.of_area(cells) - excess.of_area(4 * cells))


def _likeliest(found: np.ndarray, freedom: np.ndarray, noise: np.ndarray, cells: np.ndarray, spread: np.ndarray) -> Excess:
    best, likelihood = Excess(), -np.inf
    for patch in PATCHES[PATCHES <= max(PATCHES[0], cells.max())]:
        shape = _flaws(cells, freedom, Excess(patch, 1.0))
        flaw, slope, value = _fit(found, freedom, noise, shape, 2 * spread)
        if value > likelihood:
            best, likelihood = Excess(float(patch), flaw, slope), value
    return best


def _fit(
    found: np.ndarray, freedom: np.ndarray, noise: np.ndarray, shape: np.ndarray, spread: np.ndarray
) -> tuple[float, float, float]:
    """Variances of flaws and of slopes, and their likelihood."""
    # Mean of min(chi^2/f, CLIP).
    usual = special.gammainc(freedom / 2 + 1, CLIP * freedom / 2) + CLIP * special.gammaincc(freedom / 2, CLIP * freedom / 2)
    start = START * np.median(found + noise)
    flaw, slope = (start / max(float(np.median(x)), np.finfo(float).tiny) for x in (shape, spread))
    for _ in range(STEPS):
        expected = noise + flaw * shape + slope * spread
        pull = freedom * np.minimum(found / expected, CLIP) / expected
        push = freedom * usual / expected
        # Not a matrix product: the sums of BLAS depend on the number of threads.
        by_flaw, by_slope = (np.sqrt((x * pull).sum() / (x * push).sum()) for x in (shape, spread))
        flaw, slope = flaw * by_flaw, slope * by_slope
        if abs(by_flaw - 1) < SAME and abs(by_slope - 1) < SAME:
            break
    expected = noise + flaw * shape + slope * spread
    ratio = found / expected
    # The integral of the estimating equation: beyond CLIP only the logarithm goes on.
    loss = np.where(ratio < CLIP, ratio, CLIP * (1 + np.log(np.maximum(ratio, CLIP) / CLIP))) + usual * np.log(expected)
    return float(flaw), float(slope), -float((freedom * loss).sum())
