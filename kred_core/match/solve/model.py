"""The pairs in a canonical order, the model of a background, and the linear equations for its terms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from ...background import Background

__all__ = ["BackgroundModel", "Solution", "System", "UsedPairs", "canonical", "component_means", "components"]

LARGEST = 1e100  # values beyond are not finite in what is made of them
PRECISION = 1e-12  # errors below this part of the median difference cannot be meant
ERROR_RANGE = 1e5  # errors beyond this factor from their median count as that far: weights must not exhaust float64
# Expected slopes and steps in units of the median error of a pair, where the caller has none.
EXPOSURE_SLOPE, DETECTOR_SLOPE, AMPLIFIER_STEP = 1.0, 0.5, 2.0


def components(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number, from 1, of the connected component of each of n detectors; numbered in the order of their first detector."""
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    _, where, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(where.size, dtype=np.int64)
    rank[np.argsort(where)] = np.arange(1, where.size + 1)
    return rank[inverse]


def component_means(values: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Mean of the finite values (n,) of each component (n,), for each of its members; 0 where there is none."""
    good = np.isfinite(values)
    count = np.bincount(component[good], minlength=component.max(initial=0) + 1)
    total = np.bincount(component[good], weights=values[good], minlength=count.size)
    return (total / np.maximum(count, 1))[component]


@dataclass(frozen=True, eq=False)
class UsedPairs:
    """M usable pairs, sorted, between n detectors in their canonical order: first < second.

    ``source`` is the place in the caller's list, ``sign`` -1 where first and second have changed places.
    """

    n: int
    first: np.ndarray
    second: np.ndarray
    difference: np.ndarray
    error: np.ndarray
    source: np.ndarray
    sign: np.ndarray

    @cached_property
    def component(self) -> np.ndarray:
        """Number of the connected component of each detector, from 1."""
        return components(self.n, self.first, self.second)

    def count(self, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """How many of the chosen pairs each detector is in, shape (n,)."""
        return np.bincount(self.first[chosen], minlength=self.n) + np.bincount(self.second[chosen], minlength=self.n)


def canonical(
    n: int, first: np.ndarray, second: np.ndarray, difference: np.ndarray, error: ArrayLike, rank: np.ndarray
) -> UsedPairs:
    """The usable pairs, sorted, between detectors in the canonical order.

    Raises
    ------
    ValueError
        Lengths do not agree, or a pair names a detector that is not there.
    """
    error = np.asarray(error, dtype=np.float64).ravel()
    if not first.size == second.size == difference.size == error.size:
        raise ValueError(
            f"first, second, difference and error have {first.size}, {second.size}, {difference.size} and {error.size} values"
        )
    if first.size and not (min(first.min(), second.min()) >= 0 and max(first.max(), second.max()) < n):
        raise ValueError(f"pairs name detectors {min(first.min(), second.min())} to {max(first.max(), second.max())} of {n}")
    usable = np.flatnonzero((np.abs(difference) < LARGEST) & (error < LARGEST) & (error > 0) & (first != second))
    a, b = rank[first[usable]], rank[second[usable]]
    sign = np.where(a < b, 1.0, -1.0)
    low, high = np.minimum(a, b), np.maximum(a, b)
    delta, sigma = sign * difference[usable], error[usable]
    order = np.lexsort((sigma, delta, high, low))
    delta, sigma = delta[order], sigma[order]
    if sigma.size:
        middle = max(np.median(sigma), PRECISION * np.median(np.abs(delta)), 1.0 / LARGEST)
        sigma = np.clip(sigma, middle / ERROR_RANGE, middle * ERROR_RANGE)
    return UsedPairs(n, low[order], high[order], delta, sigma, usable[order], sign[order])


@dataclass(frozen=True, eq=False)
class System:
    """R observations of P unknowns: ``observed = design @ unknowns`` within ``error``, and what is expected of the unknowns.

    The unknowns are the backgrounds of the n detectors, then two slopes of each exposure, two of each detector in
    addition, and a step of each detector, as far as the model has them.

    Attributes
    ----------
    pair : (R,) int
        The pair that an observation belongs to; in rising order.
    expected : (P,) float
        Sizes that are expected of slopes and steps; inf for backgrounds.
    guessed : (P,) bool
        Expected sizes that the caller has not given: larger ones are accepted where the differences show them.
    exposure : (n,) int
        Number, from 0, of the exposure of each detector.
    n_exposures : int
        0 where exposures have no slopes.
    """

    design: csr_array
    observed: np.ndarray
    error: np.ndarray
    pair: np.ndarray
    expected: np.ndarray
    guessed: np.ndarray
    exposure: np.ndarray
    n_exposures: int
    detector_slopes: bool
    steps: bool

    @classmethod
    def of(cls, pairs: UsedPairs, shape: BackgroundModel | None, rank: np.ndarray) -> System:
        """Set up the system for backgrounds of a shape; ``rank`` (n,) is the canonical place of the caller's detectors."""
        n, count = pairs.n, pairs.first.size
        if shape is None or (shape.plane == "constant" and not shape.amplifier_steps) or count == 0:
            rows = np.tile(np.arange(count), 2)
            values = np.repeat([-1.0, 1.0], count)
            design = csr_array((values, (rows, np.concatenate([pairs.first, pairs.second]))), shape=(count, n))
            facts = np.full(n, np.inf), np.zeros(n, dtype=bool), np.zeros(n, dtype=np.int64)
            return cls(design, pairs.difference, pairs.error, np.arange(count), *facts, 0, False, False)
        return _shaped(pairs, shape, rank)

    def pair_means(self, values: np.ndarray, n_pairs: int, unit: np.ndarray | float = 1.0) -> np.ndarray:
        """Mean of values (R,) in some units over the observations of each pair, weighted with their inverse variances."""
        information = 1.0 / self.error**2
        total = np.bincount(self.pair, weights=information, minlength=n_pairs)
        return np.bincount(self.pair, weights=information * unit * values, minlength=n_pairs) / total

    def background(self, unknowns: np.ndarray) -> Background:
        """Backgrounds of the n detectors."""
        n = self.exposure.size
        gradient, step, start = np.zeros((n, 2)), np.zeros(n), n
        if self.n_exposures:
            gradient += unknowns[start : start + 2 * self.n_exposures].reshape(-1, 2)[self.exposure]
            start += 2 * self.n_exposures
        if self.detector_slopes:
            gradient += unknowns[start : start + 2 * n].reshape(-1, 2)
            start += 2 * n
        if self.steps:
            step = unknowns[start : start + n].copy()
        return Background(unknowns[:n], gradient[:, 0], gradient[:, 1], step)


def _shaped(pairs: UsedPairs, shape: BackgroundModel, rank: np.ndarray) -> System:
    n = pairs.n
    typical = float(np.median(pairs.error))
    sizes = [
        usual * typical if given is None else float(given)
        for given, usual in (
            (shape.exposure_slope, EXPOSURE_SLOPE),
            (shape.detector_slope, DETECTOR_SLOPE),
            (shape.amplifier_step, AMPLIFIER_STEP),
        )
    ]
    if not all(0 < size < np.inf for size in sizes):
        raise ValueError(f"expected sizes of slopes and steps must be positive and finite, not {sizes}")
    of_exposure, of_detector = shape.plane != "constant", shape.plane == "detector-plane"
    # Numbered in the order of their first detector, so that the caller's numbers do not matter.
    number = np.empty(n, dtype=np.int64)
    number[rank] = np.unique(np.asarray(shape.exposure), return_inverse=True)[1]
    _, where, inverse = np.unique(number, return_index=True, return_inverse=True)
    exposure = np.argsort(np.argsort(where))[inverse]

    # What the slopes and the step of a detector may change where it is not known which part of it overlaps.
    variances = 2 * sizes[0] ** 2 * of_exposure + 2 * sizes[1] ** 2 * of_detector + sizes[2] ** 2 / 4 * shape.amplifier_steps
    pair, observed, error, places = _parts(pairs, shape, 2 * variances)
    detectors = np.stack([pairs.first[pair], pairs.second[pair]])  # (2, R)
    columns, values, numbers = [detectors], [np.ones(detectors.shape)], [n]
    for wanted, index, count in ((of_exposure, exposure, where.size), (of_detector, np.arange(n), n)):
        for axis in (0, 1) if wanted else ():
            columns.append(sum(numbers) + 2 * index[detectors] + axis)
            values.append(places[:, :, axis].T)
        numbers.append(2 * count * wanted)
    if shape.amplifier_steps:
        columns.append(sum(numbers) + detectors)
        values.append(places[:, :, 2].T / 2)
    numbers.append(n * shape.amplifier_steps)
    kind = np.repeat(np.arange(4), numbers)
    expected = np.array([np.inf, *sizes])[kind]
    # Not those of exposures: the slope that all share is seen by nothing else.
    guessed = np.array([False, False, shape.detector_slope is None, shape.amplifier_step is None])[kind]
    values = np.stack(values) * np.array([-1.0, 1.0])[:, None]  # (terms, 2, R)
    rows = np.broadcast_to(np.arange(pair.size), values.shape)
    design = csr_array((values.ravel(), (rows.ravel(), np.stack(columns).ravel())), shape=(pair.size, expected.size))
    kinds = exposure, where.size * of_exposure, of_detector, bool(shape.amplifier_steps)
    return System(design, observed, error, pair, expected, guessed, *kinds)


def _parts(
    pairs: UsedPairs, shape: BackgroundModel, unknown_variance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Observations that show slopes: pair (R,), difference (R,), error (R,), and u, v, sign(u) on both detectors (R, 2, 3)."""
    blocks = np.asarray(shape.blocks, dtype=np.float64)[pairs.source] * pairs.sign[:, None]
    errors = np.asarray(shape.block_errors, dtype=np.float64)[pairs.source]
    places = np.asarray(shape.block_places, dtype=np.float64)[pairs.source]
    places = np.where(pairs.sign[:, None, None, None] < 0, places[:, :, ::-1], places)
    good = np.isfinite(blocks) & np.isfinite(errors) & (errors > 0) & np.isfinite(places).all(axis=(2, 3))
    # The parts together do not know more than the pair as a whole.
    information = np.divide(1.0, errors**2, out=np.zeros_like(errors), where=good).sum(axis=1)
    errors = errors * np.maximum(np.sqrt(information) * pairs.error, 1.0)[:, None]
    pair, part = np.nonzero(good)
    whole = np.flatnonzero(~good.any(axis=1))
    all_pairs = np.concatenate([pair, whole])
    order = np.argsort(all_pairs, kind="stable")
    return (
        all_pairs[order],
        np.concatenate([blocks[pair, part], pairs.difference[whole]])[order],
        np.concatenate([errors[pair, part], np.sqrt(pairs.error[whole] ** 2 + unknown_variance)])[order],
        np.concatenate([places[pair, part], np.zeros((whole.size, 2, 3))])[order],
    )


@dataclass(frozen=True, eq=False)
class BackgroundModel:
    """Backgrounds that are more than constants, and the parts of overlaps that show it.

    The model is that of `~kred_core.background.Background`, x and y being u and v, from -1 to 1 along the detector's
    axes. All lengths K are those of the pairs.

    Attributes
    ----------
    exposure : (n,) int
        Which detectors belong to one exposure: equal numbers.
    blocks, block_errors : (K, 4) float
        Difference, second minus first, in four parts of each overlap, and its error; NaN: not measured.
    block_places : (K, 4, 2, 3) float
        Mean u, v and sign(u) of a part, on the first and on the second detector.
    plane : {"constant", "exposure-plane", "detector-plane"}
        Slopes: none; one for each exposure, shared by its detectors, which are parallel; or one for each
        detector, drawn towards that of its exposure.
    amplifier_steps : bool
        Whether each detector has a step between its two amplifiers.
    exposure_slope, detector_slope, amplifier_step : float or None
        Expected sizes, in units of the differences: of the slope of an exposure, of a detector's slope minus
        that of its exposure, and of a step. What the overlaps do not determine stays near 0 within these.
        None: as in `kred_core.match.solve.solve`.
    """

    exposure: np.ndarray
    blocks: np.ndarray
    block_errors: np.ndarray
    block_places: np.ndarray
    plane: Literal["constant", "exposure-plane", "detector-plane"] = "constant"
    amplifier_steps: bool = False
    exposure_slope: float | None = None
    detector_slope: float | None = None
    amplifier_step: float | None = None


@dataclass(frozen=True, eq=False)
class Solution:
    """Backgrounds of n detectors from K pairs, in units of the differences.

    Attributes
    ----------
    background : `~kred_core.background.Background`
        Of arrays (n,), x and y in half sides: u and v. Its constants are always finite where own skies are.
    error : (n,) float
        Standard error of each constant relative to the mean of its component, or to the fixed detectors of its component;
        NaN for a detector without usable pairs, 0 for a fixed one.
    component : (n,) int
        Detectors that used pairs connect have the same number; numbered from 1 in the order of their first detectors.
    n_pairs, n_rejected : (n,) int
        Pairs of each detector that were used, and how many of these contradict the solution.
    weight : (K,) float
        Weight in the last step: 1 for a pair that agrees, less for one that does not, 0 for one without any influence.
    residual : (K,) float
        Difference minus what the solution says; NaN where the difference is.
    rejected : (K,) bool
        Used pairs that contradict the solution.
    scale : float
        Scatter of the residuals in units of their errors: near 1 where the errors are right.
    """

    background: Background
    error: np.ndarray
    component: np.ndarray
    n_pairs: np.ndarray
    n_rejected: np.ndarray
    weight: np.ndarray
    residual: np.ndarray
    rejected: np.ndarray
    scale: float
