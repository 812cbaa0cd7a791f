"""How well a difference is known, judged from how much the parts of all overlaps disagree.

Noise alone says little about it: skies have gradients and flat-fields have flaws. These cannot be
known for one pair, but for all pairs together; separate from the measuring, which looks at one pair at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

__all__ = ["Disagreement", "Excess", "fit_excess", "pair_errors", "part_errors"]

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
class Disagreement:
    """What the parts of K overlaps say beside their differences.

    Attributes
    ----------
    n_cells : (K,) int
        Cells of each overlap.
    error : (K,) float
        Of its difference, from noise alone.
    part_cells : (K, 4) int
        Cells of each part.
    parts, part_noise : (K, 4) float
        Differences of the parts and their errors from noise alone; NaN where a part is not measured.
    spread : (K,) float
        Sum over the measured parts of their squared distances from their mean place, cells^2.
    lever : (K,) float
        Sum over the two detectors of the squared distance of the overlap from the detector's centre, cells^2.
    """

    n_cells: np.ndarray
    error: np.ndarray
    part_cells: np.ndarray
    parts: np.ndarray
    part_noise: np.ndarray
    spread: np.ndarray
    lever: np.ndarray

    def of(self, pairs: slice) -> Disagreement:
        """That of some of the overlaps."""
        return Disagreement(*(values[pairs] for values in vars(self).values()))


@dataclass(frozen=True)
class Excess:
    """Scatter of the differences beyond noise, the same law for all pairs.

    Attributes
    ----------
    patch : float
        Cells that a flaw of the flat-field (or the like) covers.
    flaw : float
        Variance of the mean difference over less than a patch; over n cells it is flaw / (1 + n/patch).
    slope : float
        Variance, per axis and squared cell, of the slope of a detector's background.
    """

    patch: float = 1.0
    flaw: float = 0.0
    slope: float = 0.0

    def of_area(self, n_cells: np.ndarray) -> np.ndarray:
        """Variance that flaws give to the mean over a number of cells."""
        return self.flaw / (1 + n_cells / self.patch)


def fit_excess(overlaps: Disagreement) -> Excess:
    """Find the excess scatter that explains how much the parts of overlaps disagree.

    Parameters
    ----------
    overlaps : Disagreement

    Returns
    -------
    Excess
        Without any where no overlap has two measured parts.

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
    step = max(1, -(-len(overlaps.n_cells) // MOST_PAIRS))
    sample = overlaps.of(slice(None, None, step))
    found, freedom, noise = _found(sample)
    # Without noise and of one value everywhere there is nothing to explain.
    used = (freedom >= 1) & (found + noise > 0)
    cells = _part_cells(sample)
    excess = Excess()
    for _ in range(ROUNDS):
        if not used.any():
            break
        excess = _likeliest(found[used], freedom[used], noise[used], cells[used], sample.spread[used])
        still = used & (found <= OUTLIER * (noise + _flaws(cells, freedom, excess) + 2 * excess.slope * sample.spread))
        if (still == used).all():
            break
        used = still
    return excess


def pair_errors(overlaps: Disagreement, excess: Excess, values: np.ndarray) -> np.ndarray:
    """Standard errors of differences: noise, excess scatter, and less trust in pairs that disagree with themselves.

    Parameters
    ----------
    overlaps : Disagreement
    excess : Excess
        See `fit_excess`.
    values : (K,) float
        Size of the values that were subtracted from each other.

    Returns
    -------
    (K,) float
        More than 0.

    Notes
    -----
    The slopes of two detectors enter by the distances of the overlap from their centres, where the background is defined.
    A pair whose parts disagree more than chance allows once in 1000 gets an error larger by what is beyond that.
    No error is less than 1 % of the median error, nor than the rounding of float32 numbers.
    """
    variance = overlaps.error**2 + excess.of_area(overlaps.n_cells) + excess.slope * overlaps.lever
    found, freedom, noise = _found(overlaps)
    expected = noise + _flaws(_part_cells(overlaps), freedom, excess) + 2 * excess.slope * overlaps.spread
    limit = special.chdtri(np.maximum(freedom, 1), SUSPICIOUS)
    ratio = np.divide(found, expected, out=np.zeros_like(found), where=(expected > 0) & (freedom >= 1))
    error = np.sqrt(variance * np.maximum(1.0, freedom * ratio / limit))
    if error.size == 0:
        return error
    least = np.maximum(LEAST_SHARE * np.median(error), ROUNDING * values)
    return np.maximum(error, np.maximum(least, np.finfo(np.float32).tiny))


def part_errors(overlaps: Disagreement, excess: Excess) -> np.ndarray:
    """Standard errors of parts, (K, 4), noise and flaws; slopes are left to those who compare the parts of an overlap."""
    return np.sqrt(overlaps.part_noise**2 + excess.of_area(overlaps.part_cells))


def _found(overlaps: Disagreement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum of the parts' squared deviations, degrees of freedom, and what noise is expected to contribute to the sum."""
    measured = np.isfinite(overlaps.parts)
    m = measured.sum(axis=1)
    values = np.where(measured, overlaps.parts, 0.0)
    mean = values.sum(axis=1) / np.maximum(m, 1)
    found = (np.where(measured, overlaps.parts - mean[:, None], 0.0) ** 2).sum(axis=1)
    noise = (np.where(measured, overlaps.part_noise, 0.0) ** 2).sum(axis=1)
    freedom = np.maximum(m - 1, 0).astype(np.float64)
    return found, freedom, noise * freedom / np.maximum(m, 1)


def _part_cells(overlaps: Disagreement) -> np.ndarray:
    """Mean number of cells of the measured parts."""
    measured = np.isfinite(overlaps.parts)
    return np.where(measured, overlaps.part_cells, 0).sum(axis=1) / np.maximum(measured.sum(axis=1), 1)


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
