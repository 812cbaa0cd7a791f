"""Iteratively reweighted least squares: which differences to believe, and the backgrounds that follow.

`system` knows the model of a background, `linear` the algebra; here are the statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components

from ...constants import NORMAL_MAD
from ...statistics import robust_rms
from .model import System, UsedPairs, component_means, components

__all__ = ["HUBER", "PRIOR_FREEDOM", "REJECT", "Fit", "LeastSquares", "conjugate_gradients"]

HUBER = 1.345  # scaled errors up to which a residual counts in full: 95 % efficiency for normal errors
REJECT = 5.0  # scaled errors beyond which a residual does not count at all
PRIOR_FREEDOM = 10.0  # the stated errors count as this many degrees of freedom when their scale is found
AGREEING = 2  # pairs that a detector must agree with to be believed at all
CHANCE = 3.0  # standard deviations beyond the usual number of outliers that no detector has by chance
WORST = 0.9  # of the largest share of rejected pairs: these detectors are taken together
LOOSE = 10.0  # factor on guessed sizes of slopes and steps while the data are asked for larger ones
JUMP = 3.0  # times the guessed size: larger ones are believed
LONGEST = 60  # steps of a reweighting; 5 to 25 are usual
PATIENCE = 15  # steps after which a rejection is final: a few residuals at the limit must not go on for ever
CLOSE = 1e-3  # a reweighting ends when no modelled difference changes by more than this part of its scaled error
ROUNDING = 1e-12  # of the median difference: residuals below are rounding
EASY, EXACT = 1e-2, 1e-8  # tolerances of the linear systems within a reweighting, and of the two corrections after it


@dataclass(frozen=True, eq=False)
class Fit:
    """What a reweighting ends with, P unknowns and R observations.

    ``residual`` is in units of the errors. ``rejected`` is True beyond `REJECT`, or of a detector that contradicts nearly all
    others; the weight is then 0 unless without it a detector would be lost, and ``inflation`` the factor by which the error is
    enlarged. ``scale`` is the scatter of the residuals, from their median; 1 where the errors are right.
    """

    unknowns: np.ndarray
    residual: np.ndarray
    weight: np.ndarray
    rejected: np.ndarray
    inflation: np.ndarray
    scale: float


class LeastSquares:
    """Pairs, and what is known besides: own skies and fixed backgrounds (n,) (NaN: free), expected sizes of slopes.

    Attributes
    ----------
    free : (F,) int
        Unknowns that are solved for: not fixed, and in at least one usable pair.
    design : csr_array (R, F)
    tied : (n,) bool
        Detectors in a component whose zero point a fixed detector defines.
    """

    def __init__(self, pairs: UsedPairs, system: System, own: np.ndarray, known: np.ndarray, own_error: float):
        n, n_unknowns = pairs.n, system.design.shape[1]
        self.pairs, self.system, self.own, self.own_error = pairs, system, own, own_error
        is_fixed = np.isfinite(known)
        self.tied = np.bincount(pairs.component[is_fixed], minlength=n + 1)[pairs.component] > 0
        is_free = np.ones(n_unknowns, dtype=bool)
        is_free[:n] = ~is_fixed & (pairs.count() > 0)
        self.free = np.flatnonzero(is_free)
        self.start = np.zeros(n_unknowns)
        self.start[:n][is_fixed] = known[is_fixed]
        self.design = system.design[:, self.free].tocsr()
        self.n_levels = int(np.count_nonzero(is_free[:n]))
        self.expected_variance = system.expected[self.free] ** 2
        levels = self.free[: self.n_levels]
        # Where exposures have slopes, a slope of all own skies would be taken for one of the backgrounds; it may be the object's.
        self._anchored = np.isfinite(own[levels]) & ~self.tied[levels] & (system.n_exposures == 0)
        self._aim = np.zeros(self.free.size)
        self._aim[: self.n_levels][self._anchored] = own[levels][self._anchored]
        self._transposed = self.design.T.tocsr()
        self._squared = self._transposed.power(2)
        self._inverse_variance = 1.0 / system.error**2
        self._offset = system.observed - system.design @ self.start
        self._rounding = ROUNDING * float(np.median(np.abs(system.observed))) if system.observed.size else 0.0
        self._group = _groups(self.design)

    def ridge(self, own_error: float) -> np.ndarray:
        """Inverse variances (F,) of what is expected of the free unknowns."""
        ridge = 1.0 / self.expected_variance
        ridge[: self.n_levels][self._anchored] = 1.0 / own_error**2
        return ridge

    def normal(self, information: np.ndarray, ridge: np.ndarray) -> csr_array:
        """Normal matrix (F, F) of observations with inverse variances (R,), and of what is expected besides (F,)."""
        return (self._transposed @ (diags_array(information) @ self.design) + diags_array(ridge)).tocsr()

    def freedom(self, weight: np.ndarray) -> float:
        """Observations with weight, less the unknowns that these determine."""
        n_zero_points = np.unique(self.pairs.component[self.free[: self.n_levels]][~self.tied[self.free[: self.n_levels]]]).size
        stiffness = self._squared @ (weight * self._inverse_variance)
        slopes = slice(self.n_levels, None)
        determined = stiffness[slopes] / (stiffness[slopes] + 1.0 / self.expected_variance[slopes])
        return max(np.count_nonzero(weight) - (self.n_levels - n_zero_points) - determined.sum(), 0.0)

    def plain(self) -> Fit:
        """All observations count in full, and their errors as stated."""
        weight, nothing = np.ones(self.system.observed.size), np.zeros(self.system.observed.size, dtype=bool)
        free = np.zeros(self.free.size)
        free, residual = self._finish(free, weight, 1.0, self.own_error)
        variance = (PRIOR_FREEDOM + np.sum(residual**2)) / (PRIOR_FREEDOM + self.freedom(weight))
        return Fit(self._all(free), residual, weight, nothing, np.ones(weight.size), float(np.sqrt(variance)))

    def robust(self) -> Fit:
        """Huber's function to its one minimum, whatever the start; from there with rejection."""
        free = np.zeros(self.free.size)
        nothing = np.zeros(self.system.observed.size, dtype=bool)
        # What is expected must not hide that more is there: at first own skies say nothing, and guessed sizes next to nothing.
        expected = self.expected_variance
        guessed = self.system.guessed[self.free]
        self.expected_variance = np.where(guessed, LOOSE**2, 1.0) * expected
        free, *_ = self._reweight(free, nothing, np.inf, reject=False)
        jumps = guessed & (free**2 > JUMP**2 * expected)  # one amplifier of many
        self.expected_variance = np.where(jumps, free**2, expected)
        own_error = max(self.own_error, self._scatter_of_own(free))
        free, weight, rejected, inflation, scale = self._reweight(free, nothing, own_error, reject=True)
        free, residual = self._finish(free, weight, scale, own_error)
        return Fit(self._all(free), residual, weight, rejected, inflation, scale)

    def _all(self, free: np.ndarray) -> np.ndarray:
        unknowns = self.start.copy()
        unknowns[self.free] = free
        return unknowns

    def _residual(self, free: np.ndarray) -> np.ndarray:
        return (self._offset - self.design @ free) / self.system.error

    def _correction(self, free: np.ndarray, weight: np.ndarray, scale: float, own_error: float, tolerance: float) -> np.ndarray:
        """What to add to the free unknowns, so that they minimise the weighted squares."""
        ridge = scale**2 * self.ridge(own_error)
        weight = weight * self._inverse_variance
        right = self._transposed @ (weight * (self._offset - self.design @ free)) + ridge * (self._aim - free)
        return conjugate_gradients(self.normal(weight, ridge), right, self._group, tolerance)

    def _finish(self, free: np.ndarray, weight: np.ndarray, scale: float, own_error: float) -> tuple[np.ndarray, np.ndarray]:
        """Exact solution for given weights, and its residuals; the second correction removes the rounding of the first."""
        for _ in range(2):
            free = free + self._correction(free, weight, scale, own_error, EXACT)
        return free, self._residual(free)

    def _reweight(
        self, free: np.ndarray, rejected: np.ndarray, own_error: float, reject: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
        """Unknowns, weights, rejections, factors of the errors, and scale that belong together."""
        weight, inflation, scale = np.ones(rejected.size), np.ones(rejected.size), 1.0
        if rejected.size == 0:
            return free, weight, rejected, inflation, scale
        if not reject:
            free = free + self._correction(free, weight, scale, own_error, EASY)
        for step in range(LONGEST):
            residual = self._residual(free)
            scale = self._scale(residual, rejected)
            scaled = np.abs(residual) / scale
            if reject:
                before = rejected
                rejected = (scaled > REJECT) & (np.abs(residual) * self.system.error > self._rounding)
                if step > PATIENCE:
                    rejected |= before
                weight, rejected, inflation = self._with_rejection(scaled, rejected)
            else:
                weight = HUBER / np.maximum(scaled, HUBER)
            correction = self._correction(free, weight, scale, own_error, EASY)
            free = free + correction
            change = np.abs(self.design @ correction)
            settled = (change <= np.maximum(CLOSE * scale * self.system.error, self._rounding)).all()
            if settled and not (reject and (before != rejected).any()):
                break
        return free, weight, rejected, inflation, scale

    def _with_rejection(self, scaled: np.ndarray, rejected: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights, rejections and inflations, for residuals in scaled errors of which some are too large."""
        weight, inflation = HUBER / np.maximum(scaled, HUBER), np.ones(scaled.size)
        if not rejected.any():
            return weight, rejected, inflation
        contradicting = self._contradicting(rejected)
        first, second = self.pairs.first[self.system.pair], self.pairs.second[self.system.pair]
        spread = np.maximum(NORMAL_MAD * _medians(scaled, first, second, contradicting), 1.0)
        inflation = np.maximum(spread[first], spread[second])
        doubtful = contradicting[first] | contradicting[second]
        weight[doubtful] = HUBER / np.maximum(scaled / inflation, HUBER)[doubtful] / inflation[doubtful] ** 2
        apart = rejected & ~doubtful
        links = apart & self._links(apart)
        weight[apart & ~links] = 0.0
        inflation[links] = scaled[links]
        return weight, rejected | doubtful, inflation

    def _contradicting(self, rejected: np.ndarray) -> np.ndarray:
        """Detectors (n,) hardly any of whose pairs are left: the worst first, as their pairs say nothing about the others."""
        pairs = self.pairs
        bad = self.system.pair_means(rejected, pairs.first.size) > 0.5
        considered = np.ones(bad.size, dtype=bool)
        contradicting = np.zeros(pairs.n, dtype=bool)
        while True:
            n_all, n_bad = pairs.count(considered), pairs.count(considered & bad)
            usual = int(np.count_nonzero(considered & bad)) / max(int(np.count_nonzero(considered)), 1)
            by_chance = usual * n_all + CHANCE * np.sqrt(usual * (1 - usual) * n_all)
            # Of many pairs that contradict a few agree by chance.
            candidates = (n_bad > 0) & ((n_all - n_bad < AGREEING) | ((n_bad > 0.5 * n_all) & (n_bad > by_chance)))
            if not candidates.any():
                return contradicting
            share = np.where(candidates, n_bad / np.maximum(n_all, 1), 0.0)
            contradicting |= share >= WORST * share.max()
            considered &= ~(contradicting[pairs.first] | contradicting[pairs.second])

    def _scale(self, residual: np.ndarray, rejected: np.ndarray) -> float:
        """Scatter of the residuals that are not rejected, in units of their errors."""
        kept = ~rejected
        variance = robust_rms(residual[kept]) ** 2 if kept.any() else 1.0
        count = np.count_nonzero(kept)
        return float(np.sqrt((PRIOR_FREEDOM + count * variance) / (PRIOR_FREEDOM + self.freedom(kept.astype(np.float64)))))

    def _links(self, rejected: np.ndarray) -> np.ndarray:
        """Which observations join parts of the graph that the observations that are not rejected leave apart."""
        pairs, pair = self.pairs, self.system.pair
        kept = np.zeros(pairs.first.size, dtype=bool)
        kept[pair[~rejected]] = True
        part = components(pairs.n, pairs.first[kept], pairs.second[kept])
        return (part[pairs.first] != part[pairs.second])[pair]

    def _scatter_of_own(self, free: np.ndarray) -> float:
        """1.4826 times the median deviation of the own skies from the backgrounds, each component's mean subtracted."""
        levels = self.free[: self.n_levels]
        deviation = np.where(self._anchored, self._aim[: self.n_levels] - free[: self.n_levels], np.nan)
        deviation = (deviation - component_means(deviation, self.pairs.component[levels]))[self._anchored]
        return robust_rms(deviation) if deviation.size else 0.0


def _medians(values: np.ndarray, first: np.ndarray, second: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Median of the values (R,) that each wanted detector is in, as first or as second; 0 for the others."""
    detector, value = np.concatenate([first, second]), np.concatenate([values, values])
    chosen = wanted[detector]
    detector, value = detector[chosen], value[chosen]
    order = np.lexsort((value, detector))
    count = np.bincount(detector, minlength=wanted.size)
    start, present = np.cumsum(count) - count, count > 0
    low, high = start + (count - 1) // 2, start + count // 2
    result = np.zeros(wanted.size)
    result[present] = 0.5 * (value[order][low[present]] + value[order][high[present]])
    return result


def _groups(design: csr_array) -> np.ndarray:
    """Number, from 0, of the part of the system that each unknown belongs to."""
    n_rows, n_columns = design.shape
    entries = design.tocoo()
    graph = coo_array((np.ones(entries.nnz, dtype=bool), (entries.row, n_rows + entries.col)), shape=(n_rows + n_columns,) * 2)
    labels = connected_components(graph, directed=False)[1][n_rows:]
    return np.unique(labels, return_inverse=True)[1]


def conjugate_gradients(matrix: csr_array, right: np.ndarray, group: np.ndarray, tolerance: float) -> np.ndarray:
    """Solve several symmetric systems at once, each with its own steps.

    Preconditioned with the diagonal (Hestenes & Stiefel 1952), because an inverse would not be sparse. The matrix (P, P) is
    positive semidefinite, ``right`` (P,) orthogonal to its null space. Unknowns that the matrix connects have the same number in
    ``group`` (P,), from 0: a system that converges slowly, or is badly scaled, does not concern the others. ``tolerance`` is the
    norm of a system's residual relative to that of its right side, both weighted by 1 / diagonal of the matrix.
    """
    diagonal = matrix.diagonal()
    diagonal = np.where(diagonal > 0, diagonal, 1.0)
    n_groups = int(group.max(initial=-1)) + 1
    solution = np.zeros_like(right)
    residual = right.copy()
    search = residual / diagonal
    size = np.bincount(group, weights=residual * search, minlength=n_groups)
    goal = tolerance**2 * size
    active = size > 0
    for _ in range(2 * right.size + 100):
        if not active.any():
            break
        image = matrix @ search
        curvature = np.bincount(group, weights=search * image, minlength=n_groups)
        active &= curvature > 0
        step = np.divide(size, curvature, out=np.zeros(n_groups), where=active)[group]
        solution += step * search
        residual -= step * image
        scaled = residual / diagonal
        new_size = np.bincount(group, weights=residual * scaled, minlength=n_groups)
        factor = np.divide(new_size, size, out=np.zeros(n_groups), where=active)
        active &= new_size > goal
        search = np.where(active[group], scaled + factor[group] * search, 0.0)
        size = new_size
    return solution
