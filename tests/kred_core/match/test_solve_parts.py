"""The parts of the solution for backgrounds, number by number, against dense matrices: few detectors, quick without compilation."""

from dataclasses import replace

import numpy as np
import pytest
from overlap_graphs import GraphConfig, simulate_graph

from kred_core.match.solve import BackgroundModel, uncertainty
from kred_core.match.solve.least_squares import LeastSquares
from kred_core.match.solve.model import System, canonical


@pytest.fixture(scope="module")
def graph():
    """Three exposures of seven detectors, with outliers and slopes."""
    return simulate_graph(GraphConfig(exposures=4, detectors=6, outliers=0.1, slope=1.0, detector_slope=0.5, step=2.0, dither=600))


def shape_of(graph, plane="constant", **options):
    return BackgroundModel(graph.exposure, graph.blocks, graph.block_errors, graph.block_places, plane, **options)


def problem(pairs, shape, key, own=None, fixed=None, own_error=np.inf):
    own = np.zeros(pairs.n) if own is None else own
    fixed = np.full(pairs.n, np.nan) if fixed is None else fixed
    return LeastSquares(pairs, System.of(pairs, shape, key), own, fixed, own_error)


# ---- the linear model


def model_as_written(graph, pairs, shape, key):
    """The system for any shape, dense, row by row from the docstrings."""
    n, order = graph.n, np.argsort(key)
    exposures, of_detector = list(dict.fromkeys(graph.exposure[order])), shape.plane == "detector-plane"
    number = [exposures.index(e) for e in graph.exposure[order]]
    n_slopes = 2 * len(exposures) if shape.plane != "constant" else 0
    typical = np.median(pairs.error)
    given = (shape.exposure_slope, shape.detector_slope, shape.amplifier_step)
    sizes = [usual * typical if size is None else size for size, usual in zip(given, (1.0, 0.5, 2.0), strict=True)]
    rows = []
    for k, source in enumerate(pairs.source):
        turned = pairs.sign[k] < 0
        good = np.isfinite(graph.blocks[source]) & (graph.block_errors[source] > 0)
        information = (1 / graph.block_errors[source][good] ** 2).sum()
        parts = [(k, None)] if not good.any() else [(k, part) for part in np.flatnonzero(good)]
        for _, part in parts:
            row = np.zeros(n + n_slopes + 2 * n * of_detector + n * shape.amplifier_steps)
            if part is None:
                places, observed = np.zeros((2, 3)), pairs.difference[k]
                variance = 2 * sizes[0] ** 2 * (n_slopes > 0) + 2 * sizes[1] ** 2 * of_detector
                error = np.sqrt(pairs.error[k] ** 2 + 2 * (variance + sizes[2] ** 2 / 4 * shape.amplifier_steps))
            else:
                places, observed = graph.block_places[source, part], pairs.sign[k] * graph.blocks[source, part]
                places = places[::-1] if turned else places
                error = graph.block_errors[source, part] * max(1, np.sqrt(information) * pairs.error[k])
            for detector, sense, (u, v, side) in zip((pairs.first[k], pairs.second[k]), (-1, 1), places, strict=True):
                row[detector] = sense
                at = n
                if n_slopes:
                    row[at + 2 * number[detector] :][:2] += sense * np.array([u, v])
                    at += n_slopes
                if of_detector:
                    row[at + 2 * detector :][:2] += sense * np.array([u, v])
                    at += 2 * n
                if shape.amplifier_steps:
                    row[at + detector] += sense * side / 2
            rows.append((row, observed, error, k))
    kinds = [(n, np.inf, False), (n_slopes, sizes[0], False), (2 * n * of_detector, sizes[1], shape.detector_slope is None)]
    kinds.append((n * shape.amplifier_steps, sizes[2], shape.amplifier_step is None))
    expected, guessed = (np.concatenate([np.full(kind[0], kind[i]) for kind in kinds]) for i in (1, 2))
    return *(np.array(column) for column in zip(*rows, strict=True)), expected, guessed


SHAPES = [
    {"plane": "exposure-plane"},
    {"plane": "exposure-plane", "exposure_slope": 3.0, "amplifier_steps": True},
    {"plane": "detector-plane"},
    {"plane": "detector-plane", "detector_slope": 0.7, "amplifier_steps": True, "amplifier_step": 1.5},
    {"amplifier_steps": True},
]


def named(graph):
    """Keys that put the detectors into another order, and what canonical makes of the pairs."""
    key = np.random.default_rng(3).permutation(graph.n)
    return key, canonical(graph.n, graph.first, graph.second, graph.difference, graph.error, key)


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_planes_and_steps_have_the_rows_that_are_written_down(graph, options):
    blocks, errors = graph.blocks.copy(), graph.block_errors.copy()
    blocks[::5], errors[1::7, 2], errors[2::9] = np.nan, 0.0, 0.01  # no parts, one without an error, better than the whole
    errors[3::7, 1] = -0.5  # nor is this an error
    spoilt = replace(graph, blocks=blocks, block_errors=errors)
    shape = shape_of(spoilt, **options)
    key, pairs = named(graph)
    system = System.of(pairs, shape, key)
    design, observed, error, pair, expected, guessed = model_as_written(spoilt, pairs, shape, key)
    np.testing.assert_array_equal(system.pair, pair)
    np.testing.assert_allclose(system.observed, observed)
    np.testing.assert_allclose(system.error, error)
    np.testing.assert_allclose(system.design.toarray(), design, atol=1e-15)
    np.testing.assert_allclose(system.expected, expected)
    np.testing.assert_array_equal(system.guessed, guessed.astype(bool))


@pytest.mark.parametrize("size", [0.0, -1.0, np.inf, np.nan])
def test_an_expected_size_must_be_positive_and_finite(graph, size):
    key, pairs = named(graph)
    with pytest.raises(ValueError, match="expected sizes of slopes and steps must be positive and finite"):
        System.of(pairs, shape_of(graph, "exposure-plane", exposure_slope=size), key)


# ---- what it is worth


def information_as_written(problem, fit):
    kept, system = ~fit.rejected, problem.system
    freedom = problem.freedom(kept.astype(float))
    correction = 1.0
    if (fit.weight < 1).any():
        share = max((np.abs(fit.residual[kept]) <= 1.345 * fit.scale).mean(), 0.5)
        unknowns = 1 - freedom / kept.sum()
        correction = ((1 + unknowns * (1 - share) / share) / share) ** 2
    variance = (10 + correction * ((fit.weight * fit.residual)[kept] ** 2).sum()) / (10 + freedom)
    return np.where(fit.weight > 0, 1 / variance, 0.0) / (fit.inflation * system.error) ** 2


def errors_as_written(problem, fit):
    """P G P with a dense inverse; the basis is the constant of each component, and its planes where exposures have slopes."""
    pairs, system, free = problem.pairs, problem.system, problem.free
    levels = free[free < pairs.n]
    m = levels.size
    design = system.design.toarray()[:, free]
    normal = design.T @ (information_as_written(problem, fit)[:, None] * design) + np.diag(1 / problem.expected_variance)
    component = np.where(problem.tied[levels], 0, pairs.component[levels])
    slopes = np.flatnonzero((free >= pairs.n) & (free < pairs.n + 2 * system.n_exposures))
    vectors = []
    for number in set(component) - {0}:
        mine = component == number
        vectors.append(mine.astype(float))
        if slopes.size and mine.sum() > 3:
            block = normal[np.ix_(np.flatnonzero(mine), np.flatnonzero(mine))]
            for axis in (0, 1):
                right = -normal[np.flatnonzero(mine)][:, slopes[axis::2]].sum(axis=1)
                vectors.append(np.zeros(m))
                vectors[-1][mine] = np.linalg.lstsq(block, right, rcond=1e-12)[0]
    ground = np.zeros(len(free))
    for number in set(component) - {0}:
        first = np.flatnonzero(component == number)[0]
        ground[first] = normal[first, first]
    covariance = np.linalg.inv(normal + np.diag(ground))[:m, :m]
    if vectors:
        basis = np.linalg.svd(np.array(vectors).T, full_matrices=False)[0]
        projection = np.eye(m) - basis @ basis.T
        covariance = projection @ covariance @ projection
    result = np.full(pairs.n, np.nan)
    result[levels] = np.sqrt(covariance.diagonal())
    return result


@pytest.mark.parametrize(("robust", "with_fixed"), [(False, True), (True, False)])
@pytest.mark.parametrize("options", [None, *SHAPES], ids=str)
def test_errors_are_those_that_are_written_down(graph, options, with_fixed, robust):
    key, pairs = named(graph)
    shape = None if options is None else shape_of(graph, **options)
    fixed = np.full(graph.n, np.nan)
    if with_fixed:
        fixed[[2, 9]] = [3.0, 4.0]
    posed = problem(pairs, shape, key, fixed=fixed)
    fit = posed.robust() if robust else posed.plain()
    np.testing.assert_allclose(uncertainty._information(posed, fit), information_as_written(posed, fit), rtol=1e-12)
    found = uncertainty.standard_errors(posed, fit)
    expected = errors_as_written(posed, fit)
    expected[np.isfinite(fixed)] = 0.0
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_errors_are_right_where_only_the_slopes_of_exposures_connect_two_groups(graph):
    """What is open in one group is not in the other, but an error of an exposure's slope is in both."""
    group = np.arange(graph.n) % 6 < 3
    inside = group[graph.first] == group[graph.second]
    per_pair = ("first", "second", "difference", "error", "blocks", "block_errors", "block_places")
    halves = replace(graph, **{name: getattr(graph, name)[inside] for name in per_pair})
    key, pairs = named(halves)
    assert (np.bincount(pairs.component) > 3).sum() == 2
    posed = problem(pairs, shape_of(halves, "exposure-plane"), key)
    fit = posed.plain()
    np.testing.assert_allclose(uncertainty.standard_errors(posed, fit), errors_as_written(posed, fit), rtol=1e-5)
