"""The equation for the backgrounds of detectors from the differences of those that overlap, and how it is solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from .least_squares import Fit, LeastSquares
from .model import BackgroundModel, Solution, System, UsedPairs, canonical, component_means, components
from .uncertainty import standard_errors

__all__ = ["BackgroundModel", "Solution", "component_means", "components", "solve", "solve_svd"]

CUTS = (0.1, 0.01)  # in units of the mean row sum of the weights


def solve(
    n: int,
    first: ArrayLike,
    second: ArrayLike,
    difference: ArrayLike,
    error: ArrayLike,
    *,
    own: ArrayLike = 0.0,
    own_error: float = np.inf,
    fixed: ArrayLike | None = None,
    key: ArrayLike | None = None,
    robust: bool = True,
    shape: BackgroundModel | None = None,
) -> Solution:
    """Backgrounds of detectors from the differences of those that overlap.

    Minimises, over the backgrounds B_i of n detectors::

        sum_k rho((D_k - (B_j - B_i)) / (s sigma_k))  +  sum_i ((B_i - m_i) / s_m)^2

    where pair k is of detectors i and j, and rho is Huber's function, constant beyond 5::

        rho(u) = u^2                  |u| <= 1.345
                 1.345 (2 |u| - 1.345)         up to 5
                 1.345 (2 * 5 - 1.345)         beyond

    Parameters
    ----------
    n : int
        Number of detectors.
    first, second : (K,) int
        The detectors i and j of each pair, from 0.
    difference, error : (K,) float
        D_k, background of the second minus that of the first, and its standard error sigma_k, in any one unit.
        A pair is not used if one of them is not finite (below 1e100), or if the error is not positive.
    own : (n,) float
        m_i, each detector's own sky. One that is not finite says nothing.
    own_error : float
        s_m, how far an own sky may be from the background. If own skies scatter more than that around the solution,
        1.4826 times their median deviation takes its place. inf: own skies set nothing but zero points.
    fixed : (n,) float, optional
        Backgrounds that are known; NaN where free.
    key : (n,) array, optional
        Name or number of each detector, all different. With it the answer is the same to the bit in whatever order the detectors
        are given; without it they count in the order given. Order and sense of the pairs never matter.
    robust : bool
        False: rho(u) = u^2 and s = 1.
    shape : `BackgroundModel`, optional
        Planes and steps. Then D_k are the differences in the parts of the overlaps, the model of a background
        is that of `BackgroundModel`, and a term (g / s_g)^2 is added for each slope or step g, of expected size s_g. Where the
        caller gives none, it is the median error of a pair for slopes of exposures, half of that for what the slope of a detector
        differs from that of its exposure, and twice that for steps. Of the last two kinds, one that turns out more than three
        times as large where next to nothing is expected is believed: one amplifier of many may jump by a lot.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        Arrays of different lengths, a pair of detectors that are not there, two detectors with the same key,
        or an ``own_error`` or expected size that is not positive.

    Notes
    -----
    *Zero points.* Differences leave the mean of a connected component free. It is such that sum (B_i - m_i) = 0 over the
    component. Where detectors are fixed, these define it and keep their values exactly, and own skies say nothing. A detector
    without usable pairs gets its own sky.

    *Planes.* If exposures have slopes, no difference shows a slope that all of them share: it trades for a plane of the backgrounds
    B_i over the sky. It is such that the mean slope is near 0, and own skies set nothing but zero points,
    because they would take a slope of the object for one of the backgrounds. Errors are then relative to this plane, too.

    *Scale.* s is 1.4826 times the median of the absolute residuals in units of their errors, corrected for the degrees of
    freedom and drawn towards 1 as by 10 more of them: a handful of pairs cannot say how good the errors are.

    *Steps.* Iteratively reweighted least squares: from plain least squares first with Huber's function everywhere, which has one
    minimum wherever one starts, then from there with rejection. Each step is a sparse system, solved by conjugate gradients.
    No singular value is cut: smooth patterns over a field are kept as well as the overlaps determine them.

    *Rejected pairs.* Beyond 5 scaled errors a pair has no weight, unless a component would fall apart without the rejected pairs:
    then those in between keep Huber's weight. A detector that agrees with less than two of its neighbours, or contradicts more than
    half of them and more than outliers explain, agrees by chance: all its pairs count as rejected, and their errors are enlarged to
    the scatter that they show. It lies in the middle of what its neighbours say without moving these, and is recognised by
    n_rejected = n_pairs.

    *Errors.* The square root of the diagonal of the pseudo-inverse of the final normal matrix, times the scatter of the residuals
    with Huber's correction (Huber 1981, section 7.6). Own skies do not enter: the common constant of a component is not observed.
    Rejected pairs that have a weight enter with their residuals, or enlarged errors, as errors.

    References
    ----------
    Huber 1964, Annals of Mathematical Statistics 35, 73; Huber 1981, Robust Statistics (Wiley).
    """
    if not own_error > 0:
        raise ValueError(f"own_error must be positive, not {own_error}")
    first, second = (np.asarray(values, dtype=np.int64).ravel() for values in (first, second))
    difference = np.asarray(difference, dtype=np.float64).ravel()
    order = _canonical_order(n, key)
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    own_sky = np.broadcast_to(np.asarray(own, dtype=np.float64), (n,))[order]
    known = np.full(n, np.nan) if fixed is None else np.broadcast_to(np.asarray(fixed, dtype=np.float64), (n,))[order]
    pairs = canonical(n, first, second, difference, error, rank)
    system = System.of(pairs, shape, rank)
    problem = LeastSquares(pairs, system, own_sky, known, own_error)
    fit = problem.robust() if robust else problem.plain()

    levels = _levels(problem, fit, own_sky, known)[rank]
    error_of_background = standard_errors(problem, fit)
    n_pairs = pairs.first.size
    weight = system.pair_means(fit.weight, n_pairs)
    rejected = system.pair_means(fit.rejected, n_pairs) > 0.5  # of what is known of a pair
    residual = difference - (levels[second] - levels[first])
    if system.n_exposures or system.steps:
        residual = _of_caller(pairs.sign * system.pair_means(fit.residual, n_pairs, system.error), pairs, residual)
    return Solution(
        background=replace(system.background(fit.unknowns)[rank], b=levels),
        error=error_of_background[rank],
        component=pairs.component[rank],
        n_pairs=pairs.count()[rank],
        n_rejected=pairs.count(rejected)[rank],
        weight=_of_caller(weight, pairs, np.zeros(difference.size)),
        residual=residual,
        rejected=_of_caller(rejected, pairs, np.zeros(difference.size, dtype=bool)),
        scale=fit.scale,
    )


def _canonical_order(n: int, key: ArrayLike | None) -> np.ndarray:
    """The detectors, sorted by their keys."""
    if key is None:
        return np.arange(n)
    unique, order = np.unique(np.asarray(key), return_index=True)
    if unique.size != n or np.size(key) != n:
        raise ValueError(f"{n} detectors need {n} different keys, not {unique.size}")
    return order


def _levels(problem: LeastSquares, fit: Fit, own: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Backgrounds (n,) with the zero points of their components."""
    pairs = problem.pairs
    alone = pairs.count() == 0
    solved = fit.unknowns[: pairs.n]
    shift = component_means(np.where(alone, np.nan, own - solved), pairs.component)
    background = np.where(alone, own, np.where(problem.tied, solved, solved + shift))
    return np.where(np.isfinite(known), known, background)


def _of_caller(values: np.ndarray, pairs: UsedPairs, others: np.ndarray) -> np.ndarray:
    """Values of the canonical pairs in the places that these have in the caller's list; elsewhere ``others``."""
    result = others.copy()
    result[pairs.source] = values
    return result


def solve_svd(
    n: int,
    first: np.ndarray,
    second: np.ndarray,
    difference: np.ndarray,
    n_cells: np.ndarray,
    start: np.ndarray | None,
    cuts: Sequence[float] = CUTS,
) -> np.ndarray:
    """Backgrounds (n,) as the older scripts found them, of mean 0, or ``start`` where that agrees best with the differences.

    With W the symmetric matrix of cells in common divided by the mean of its row sums, A = W - diag(row sums) and
    s_i = sum_j W_ij (b_j - b_i), solves A b = s by the pseudo-inverse without the singular values below each of ``cuts``,
    and returns that which leaves the smallest sqrt(sum r^2)/K. A is symmetric: its singular values are the magnitudes of its
    eigenvalues, which take a tenth of the time. It is dense: n^2 numbers and n^3 operations. A detector without pairs gets 0.
    The dropped singular values belong to the smoothest patterns: slopes over the whole field are flattened with them.
    """
    good = np.isfinite(difference) & (n_cells > 0)
    i, j, delta, cells = first[good], second[good], difference[good], n_cells[good]
    if i.size == 0:
        return np.zeros(n) if start is None else np.array(start, dtype=np.float64)
    weights = np.zeros((n, n))
    np.add.at(weights, (i, j), cells)
    np.add.at(weights, (j, i), cells)
    norm = weights.sum(axis=1).mean()
    weights /= norm
    matrix = weights - np.diag(weights.sum(axis=1))
    pull = cells * delta / norm
    right = np.bincount(i, pull, n) - np.bincount(j, pull, n)
    values, vectors = np.linalg.eigh(matrix)
    projected = vectors.T @ right

    def misfit(b: np.ndarray) -> float:
        return float(np.sqrt(np.sum((delta - (b[j] - b[i])) ** 2)) / i.size)

    candidates = [] if start is None else [np.array(start, dtype=np.float64)]
    for cut in cuts:
        kept = np.abs(values) >= cut
        candidates.append(vectors[:, kept] @ (projected[kept] / values[kept]))
    return min(candidates, key=misfit)
