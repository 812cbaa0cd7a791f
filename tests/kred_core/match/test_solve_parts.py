"""The parts of the solution for backgrounds, number by number, against dense matrices: few detectors, quick without compilation."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from overlap_graphs import GraphConfig, simulate_graph
from scipy.sparse import csr_array

from kred_core.match.solve import Shape, component_means, components, solve, uncertainty
from kred_core.match.solve.least_squares import Fit, LeastSquares, _groups, _medians, conjugate_gradients
from kred_core.match.solve.model import System, canonical

MAD = 1.482602218505602


@pytest.fixture(scope="module")
def graph():
    """Three exposures of seven detectors, with outliers and slopes."""
    return simulate_graph(GraphConfig(exposures=4, detectors=6, outliers=0.1, slope=1.0, detector_slope=0.5, step=2.0, dither=600))


def shape_of(graph, plane="constant", **options):
    return Shape(graph.exposure, graph.blocks, graph.block_errors, graph.block_places, plane, **options)


def pairs_of(n, triples, error=1.0):
    """Used pairs from (first, second, difference)."""
    first, second, difference = (np.array(column) for column in zip(*triples, strict=True))
    return canonical(n, first, second, difference.astype(float), np.full(first.size, error), np.arange(n))


def problem_of(n, triples, own=None, fixed=None, own_error=np.inf, error=1.0, shape=None):
    pairs = pairs_of(n, triples, error)
    own = np.zeros(n) if own is None else np.array(own, dtype=float)
    fixed = np.full(n, np.nan) if fixed is None else np.array(fixed, dtype=float)
    return LeastSquares(pairs, System.of(pairs, shape, np.arange(n)), own, fixed, own_error)


# ---- algebra


def chain_and_loop():
    """A chain of 9 unknowns in mixed order, a loop of 5 and one alone, as a positive definite matrix."""
    links = [*pairwise([4, 0, 7, 2, 8, 1, 6, 3, 5]), (9, 10), (10, 11), (11, 12), (12, 13), (13, 9)]
    matrix = np.diag(np.linspace(3, 5, 15))
    for i, j in links:
        matrix[i, j] = matrix[j, i] = -1.0
    return matrix


def test_parts_of_the_inverse_of_a_sparse_matrix_are_those_of_the_dense_one():
    matrix = chain_and_loop()
    rng = np.random.default_rng(1)
    for dense in (matrix, matrix[:1, :1], np.diag([2.0, 3.0]), matrix[:9, :9] + 0.01):
        inverse, right = uncertainty.BlockInverse(csr_array(dense)), rng.normal(size=(len(dense), 3))
        np.testing.assert_allclose(inverse.diagonal(), np.linalg.inv(dense).diagonal(), rtol=1e-12)
        np.testing.assert_allclose(inverse.solve(right), np.linalg.solve(dense, right), rtol=1e-11, atol=1e-13)
    indefinite = uncertainty.BlockInverse(csr_array(matrix - 4.0 * np.eye(15)))
    assert np.isnan(indefinite.diagonal()).any()


def test_conjugate_gradients_stop_where_they_are_told_to_in_each_group():
    rng = np.random.default_rng(2)
    blocks = [rng.normal(size=(n, n + 2)) for n in (6, 9, 1)]
    matrix, group = np.zeros((17, 17)), np.array([0] * 6 + [1] * 9 + [2, 3])
    at = 0
    for block in blocks:
        n = len(block)
        matrix[at : at + n, at : at + n] = block @ block.T
        at += n
    # The last unknown is in no equation: it stays 0.
    truth = np.append(rng.normal(size=16), 0.0)
    right = matrix @ truth
    found = conjugate_gradients(csr_array(matrix), right, group, 1e-13)
    np.testing.assert_allclose(found, truth, rtol=1e-7, atol=1e-9)
    assert found[16] == 0
    diagonal = np.where(matrix.diagonal() > 0, matrix.diagonal(), 1)
    for tolerance in (0.3, 1e-2, 1e-4):
        residual = right - matrix @ conjugate_gradients(csr_array(matrix), right, group, tolerance)
        for number in range(3):
            mine = group == number
            size = np.sqrt((residual**2 / diagonal)[mine].sum() / (right**2 / diagonal)[mine].sum())
            assert size <= tolerance
        assert (residual != 0).any()
    # One step solves a diagonal system, because the diagonal is what it is divided by.
    scales = np.logspace(-6, 6, 25)
    found = conjugate_gradients(csr_array(np.diag(scales)), np.ones(25), np.zeros(25, int), 0.5)
    np.testing.assert_allclose(found, 1 / scales)
    # Of a singular system that contradicts itself something finite comes out.
    singular = csr_array(np.ones((2, 2)))
    assert np.isfinite(conjugate_gradients(singular, np.array([1.0, -1.0]), np.zeros(2, int), 1e-9)).all()


# ---- pairs and components


def test_components_are_numbered_by_their_first_detectors():
    first, second = np.array([5, 1, 6]), np.array([2, 4, 5])
    assert components(7, first, second).tolist() == [1, 2, 3, 4, 2, 3, 3]
    assert components(2, np.zeros(0, int), np.zeros(0, int)).tolist() == [1, 2]
    means = component_means(np.array([9.0, 1.0, np.nan, np.inf, 3.0, 5.0, 7.0]), np.array([0, 2, 3, 4, 2, 3, 3]))
    assert means.tolist() == [9.0, 2.0, 6.0, 0.0, 2.0, 6.0, 6.0]
    assert component_means(np.zeros(0), np.zeros(0, int)).size == 0


def test_pairs_are_sorted_and_turned_and_those_that_say_nothing_left_out():
    first, second = np.array([2, 0, 1, 0, 2, 1, 0, 3, 0, 0]), np.array([0, 1, 0, 2, 2, 2, 3, 0, 3, 1])
    difference = np.array([5.0, 1.0, -1.5, -4.0, 9.0, np.nan, 1e100, -2.0, 0.5, 1.0])
    error = np.array([1.0, 2.0, 3.0, 4.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    rank = np.array([3, 1, 0, 2])  # detector 2 comes first
    pairs = canonical(4, first, second, difference, error, rank)
    assert pairs.first.tolist() == [0, 0, 1, 1, 1, 2]
    assert pairs.second.tolist() == [3, 3, 3, 3, 3, 3]
    by_source = dict(zip(pairs.source.tolist(), zip(pairs.difference, pairs.error, pairs.sign, strict=True), strict=True))
    assert by_source == {
        0: (5.0, 1.0, 1.0),
        3: (4.0, 4.0, -1.0),
        1: (-1.0, 2.0, -1.0),
        2: (-1.5, 3.0, 1.0),
        9: (-1.0, 1.0, -1.0),
        7: (-2.0, 1.0, 1.0),
    }
    assert pairs.source.tolist() == [3, 0, 2, 9, 1, 7]  # by detectors, then difference, then error
    assert pairs.count().tolist() == [2, 3, 1, 6]
    assert pairs.count(np.array([True, False, False, True, False, False])).tolist() == [1, 1, 0, 2]
    assert pairs.component.tolist() == [1, 1, 1, 1]


def test_errors_that_cannot_be_meant_are_those_at_the_limits():
    def errors(differences, given):
        n = len(given)
        return canonical(
            n + 1, np.arange(n), np.arange(1, n + 1), np.array(differences), np.array(given), np.arange(n + 1)
        ).error.tolist()

    assert errors([1.0, 1.0, 1.0], [1e-9, 2.0, 3e9]) == [2e-5, 2.0, 2e5]
    # Errors below a millionth of a millionth of the differences are as good as that.
    assert errors([3.0, -5.0, 9.0], [1e-30, 1e-30, 1e-30]) == pytest.approx([5e-17] * 3)
    assert errors([0.0, 0.0, 0.0], [1e-120, 1e-120, 1e-120]) == pytest.approx([1e-105] * 3)
    assert errors([1.0, 1.0], [1e100, 1.0]) == [1.0]
    with pytest.raises(ValueError, match="pairs name detectors -1 to 1 of 2"):
        canonical(2, np.array([-1]), np.array([1]), np.ones(1), np.ones(1), np.arange(2))
    with pytest.raises(ValueError, match="pairs name detectors 0 to 2 of 2"):
        canonical(2, np.array([2]), np.array([0]), np.ones(1), np.ones(1), np.arange(2))


# ---- the linear model


def test_constant_backgrounds_have_one_row_for_each_pair():
    pairs = pairs_of(4, [(0, 1, 3.0), (3, 1, -2.0)], 0.5)
    flat = Shape(np.zeros(4), np.zeros((2, 4)), np.ones((2, 4)), np.zeros((2, 4, 2, 3)))
    for system in (System.of(pairs, None, np.arange(4)), System.of(pairs, flat, np.arange(4))):
        assert system.design.toarray().tolist() == [[-1, 1, 0, 0], [0, -1, 0, 1]]
        assert system.observed.tolist() == [3.0, 2.0]
        assert system.error.tolist() == [0.5, 0.5]
        assert system.pair.tolist() == [0, 1]
        assert np.isinf(system.expected).all()
        assert not system.guessed.any()
        assert (system.n_exposures, system.detector_slopes, system.steps) == (0, False, False)
        assert system.background(np.arange(4.0)).coefficients().tolist() == [[i, 0, 0, 0] for i in range(4)]


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
    n, order = graph.n, np.argsort(key)
    unknowns = np.arange(float(system.design.shape[1]))
    _, *gradient, step = system.background(unknowns).coefficients().T
    gradient = np.transpose(gradient)
    rest = unknowns[n:]
    if shape.plane != "constant":
        exposures = list(dict.fromkeys(graph.exposure[order]))
        of_exposures, rest = rest[: 2 * len(exposures)].reshape(-1, 2), rest[2 * len(exposures) :]
        gradient = gradient - of_exposures[[exposures.index(e) for e in graph.exposure[order]]]
    if shape.plane == "detector-plane":
        gradient, rest = gradient - rest[: 2 * n].reshape(-1, 2), rest[2 * n :]
    assert (gradient == 0).all()
    np.testing.assert_array_equal(step, rest if shape.amplifier_steps else np.zeros(n))


@pytest.mark.parametrize("size", [0.0, -1.0, np.inf, np.nan])
def test_an_expected_size_must_be_positive_and_finite(graph, size):
    key, pairs = named(graph)
    with pytest.raises(ValueError, match="expected sizes of slopes and steps must be positive and finite"):
        System.of(pairs, shape_of(graph, "exposure-plane", exposure_slope=size), key)


# ---- least squares


def dense_solution(problem, own_error, weight=None, scale=1.0):
    """All unknowns, from the normal equations with what is expected of them, dense."""
    system, free = problem.system, problem.free
    weight = np.ones(system.observed.size) if weight is None else weight
    design = system.design.toarray()
    ridge = scale**2 / system.expected**2
    aim = np.zeros(design.shape[1])
    n = problem.pairs.n
    for i in range(n):
        if np.isfinite(problem.own[i]) and not problem.tied[i] and not system.n_exposures:
            ridge[i], aim[i] = (scale / own_error) ** 2, problem.own[i]
    information = weight / system.error**2
    start = problem.start
    matrix = design.T @ (information[:, None] * design) + np.diag(ridge)
    right = design.T @ (information * (system.observed - design @ start)) + ridge * aim
    unknowns = start.copy()
    unknowns[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], right[free], rcond=1e-13)[0]
    return unknowns


@pytest.mark.parametrize("own_error", [5.0, np.inf])
@pytest.mark.parametrize("options", [None, *SHAPES], ids=str)
@pytest.mark.parametrize("with_fixed", [False, True])
def test_plain_least_squares_are_those_of_the_dense_normal_equations(graph, options, own_error, with_fixed):
    key, pairs = named(graph)
    shape = None if options is None else shape_of(graph, **options)
    rng = np.random.default_rng(4)
    own = graph.background + rng.normal(0, 3, graph.n)
    own[3] = np.nan
    fixed = np.full(graph.n, np.nan)
    if with_fixed:
        fixed[[2, 9]] = [30.0, -4.0]
    problem = LeastSquares(pairs, System.of(pairs, shape, key), own, fixed, own_error)
    fit = problem.plain()
    expected = dense_solution(problem, own_error)
    components_of_levels = np.where(problem.tied, 0, pairs.component)

    def seen(unknowns):  # a common constant is open where nothing ties it
        levels = unknowns[: graph.n].copy()
        if not with_fixed and (own_error == np.inf or problem.system.n_exposures):
            levels -= component_means(levels, components_of_levels)
        return np.concatenate([levels, unknowns[graph.n :]])

    np.testing.assert_allclose(seen(fit.unknowns), seen(expected), atol=2e-5)
    residual = (problem.system.observed - problem.system.design @ fit.unknowns) / problem.system.error
    np.testing.assert_allclose(fit.residual, residual, atol=1e-12)
    assert (fit.weight == 1).all()
    assert not fit.rejected.any()
    assert (fit.inflation == 1).all()
    freedom = problem.freedom(np.ones(residual.size))
    assert fit.scale == pytest.approx(np.sqrt((10 + (residual**2).sum()) / (10 + freedom)))


def test_what_is_solved_for_is_what_is_not_fixed_and_in_a_pair():
    problem = problem_of(
        6, [(0, 1, 1.0), (2, 3, 2.0), (3, 4, 1.0)], own=[1, 2, 3, np.nan, 5, 6], fixed=[np.nan, 7, *[np.nan] * 4], own_error=2.0
    )
    assert problem.free.tolist() == [0, 2, 3, 4]
    assert problem.tied.tolist() == [True, True, False, False, False, False]
    assert problem.start.tolist() == [0, 7, 0, 0, 0, 0]
    assert problem.n_levels == 4
    assert problem.ridge(0.5).tolist() == [0.0, 4.0, 0.0, 4.0]
    assert problem.freedom(np.array([1.0, 1.0, 1.0])) == 3 - (4 - 1)
    assert problem.freedom(np.array([0.0, 0.0, 1.0])) == 0
    normal = problem.normal(np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.25, 0.0, 1.0]))
    assert normal.toarray().tolist() == [[1.5, 0, 0, 0], [0, 2.25, -2, 0], [0, -2, 6, -4], [0, 0, -4, 5]]
    assert _groups(problem.design).tolist() == [0, 1, 1, 1]


def test_slopes_use_up_as_much_freedom_as_the_observations_determine_of_them(graph):
    key, pairs = named(graph)
    shape = shape_of(graph, "detector-plane", amplifier_steps=True)
    problem = LeastSquares(pairs, System.of(pairs, shape, key), np.zeros(graph.n), np.full(graph.n, np.nan), np.inf)
    weight = np.random.default_rng(5).uniform(0, 1, problem.system.observed.size)
    weight[:9] = 0
    design, slopes = problem.design.toarray(), slice(problem.n_levels, None)
    stiffness = (design**2 * (weight / problem.system.error**2)[:, None]).sum(axis=0)[slopes]
    determined = stiffness / (stiffness + 1 / problem.system.expected[problem.free][slopes] ** 2)
    levels = problem.n_levels - np.unique(pairs.component[pairs.count() > 0]).size
    assert problem.freedom(weight) == pytest.approx(weight.size - 9 - levels - determined.sum())


# ---- which differences to believe


def test_the_scale_is_that_of_the_residuals_that_are_not_rejected():
    problem = problem_of(4, [(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0), (0, 3, 1.0), (0, 2, 1.0)])
    residual, rejected = np.array([1.0, -2.0, 3.0, 50.0, 4.0]), np.array([False, False, False, True, False])
    variance = (MAD * 2.5) ** 2
    assert problem._scale(residual, rejected) == pytest.approx(np.sqrt((10 + 4 * variance) / (10 + 4 - 3)))
    assert problem._scale(residual, np.ones(5, bool)) == pytest.approx(1.0)


def test_the_scatter_of_own_skies_is_about_the_mean_of_each_component():
    own = [1.0, 4.0, 2.0, 100.0, 130.0, np.nan]
    problem = problem_of(6, [(0, 1, 0.0), (1, 2, 0.0), (3, 4, 0.0), (4, 5, 0.0)], own=own, own_error=3.0)
    free = np.array([0.0, 1.0, 0.0, 0.0, 10.0, 0.0])
    # 1, 3, 2 about 2 and 100, 120 about 110: deviations 1, 1, 0, 10, 10.
    assert problem._scatter_of_own(free) == pytest.approx(MAD * 1.0)
    assert problem_of(2, [(0, 1, 0.0)], own=[np.nan, np.nan])._scatter_of_own(np.zeros(2)) == 0.0


def test_medians_are_over_the_values_that_a_detector_is_in():
    values = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    first, second = np.array([0, 0, 1, 0, 3]), np.array([1, 2, 2, 3, 1])
    found = _medians(values, first, second, np.array([True, True, False, True, True]))
    assert found.tolist() == [2.0, 4.0, 0.0, 2.5, 0.0]


def test_links_join_parts_that_the_others_leave_apart():
    problem = problem_of(6, [(0, 1, 0.0), (1, 2, 0.0), (0, 2, 0.0), (2, 3, 0.0), (3, 4, 0.0)])
    #                            0-1, 0-2, 1-2, 2-3, 3-4
    assert problem._links(np.array([True, False, False, True, False])).tolist() == [False, False, False, True, False]
    assert problem._links(np.array([True, True, False, False, False])).tolist() == [True, True, False, False, False]
    assert not problem._links(np.zeros(5, bool)).any()


def star(n_good, n_bad):
    """Detector 0 with so many pairs that are left and so many that are rejected; all others agree with each other."""
    n = 6 + n_good + n_bad
    triples = [(0, k, 0.0) for k in range(1, n_good + n_bad + 1)] + [(i, j, 0.0) for i in range(1, n) for j in range(i + 1, n)]
    problem = problem_of(n, triples)
    return problem, (problem.pairs.first == 0) & (problem.pairs.second > n_good)


@pytest.mark.parametrize(
    ("n_good", "n_bad", "contradicts"),
    [
        (2, 1, False),
        (1, 1, True),
        (0, 1, True),
        (2, 3, True),
        (3, 3, False),
        (4, 5, True),
        (9, 10, True),
        (10, 10, False),
        (1, 0, False),
    ],
)
def test_a_detector_that_agrees_with_one_other_or_contradicts_most_is_not_believed(n_good, n_bad, contradicts):
    problem, rejected = star(n_good, n_bad)
    found = problem._contradicting(rejected)
    assert found.tolist() == [contradicts] + [False] * (found.size - 1)


@pytest.mark.parametrize(("errors", "rejected", "is_bad"), [([1, 1.3], 0, True), ([1, 1.3], 1, False), ([1, 1.3, 1.3], 0, False)])
def test_a_pair_is_bad_if_more_than_half_of_what_its_parts_know_is_rejected(errors, rejected, is_bad):
    """Information is 1/error^2: 0.63 of two parts with errors of 1 and 1.3 is in the first, 0.46 of three."""
    problem, bad = star(0, 3)
    parts = len(errors)
    problem.system = replace(
        problem.system, pair=np.repeat(np.arange(bad.size), parts), error=np.tile(np.array(errors, dtype=float), bad.size)
    )
    found = problem._contradicting((bad[:, None] & (np.arange(parts) == rejected)).ravel())
    assert found.tolist() == [is_bad] + [False] * (found.size - 1)


def test_one_detector_among_many_bad_ones_is_bad_by_chance():
    """Where half of all pairs are rejected, a detector with a few more than half is nothing special."""
    rng = np.random.default_rng(6)
    triples = [(i, j, 0.0) for i in range(30) for j in range(i + 1, 30)]
    problem = problem_of(30, triples)
    rejected = rng.random(len(triples)) < 0.5
    counts = problem.pairs.count(rejected)
    assert (counts > 14.5).any()
    assert not problem._contradicting(rejected).any()


def test_the_worst_go_first_and_with_them_what_they_say_about_the_others():
    """Detector 0 contradicts everybody; its neighbours would agree with too few without that, but not once it is left out."""
    triples = [(0, k, 0.0) for k in range(1, 7)] + [(1, 2, 0.0), (2, 3, 0.0), (3, 4, 0.0), (4, 5, 0.0), (5, 6, 0.0), (6, 1, 0.0)]
    problem = problem_of(7, triples)
    rejected = problem.pairs.first == 0
    assert problem._contradicting(rejected).tolist() == [True] + [False] * 6
    # Two that are nearly as bad as each other are left out together.
    n = 14
    triples = [(i, j, 0.0) for i in range(n) for j in range(i + 1, n)]
    problem = problem_of(n, triples)
    first, second = problem.pairs.first, problem.pairs.second
    rejected = (first == 0) | ((first == 1) & (second != 13))
    assert np.flatnonzero(problem._contradicting(rejected)).tolist() == [0, 1]


def test_weights_are_hubers_and_rejected_pairs_have_none_but_where_they_alone_connect():
    #                    0-1, 0-2, 0-3, 1-2, 1-3, 2-3, 3-4; 4 hangs on one pair that is rejected
    triples = [(0, 1, 0.0), (0, 2, 0.0), (0, 3, 0.0), (1, 2, 0.0), (1, 3, 0.0), (2, 3, 0.0)]
    problem = problem_of(4, triples)
    scaled = np.array([0.5, 1.345, 2.69, 9.0, 0.1, 4.0])
    weight, rejected, inflation = problem._with_rejection(scaled, np.zeros(6, bool))
    assert weight.tolist() == pytest.approx([1, 1, 0.5, 1.345 / 9, 1, 1.345 / 4])
    assert not rejected.any()
    assert (inflation == 1).all()
    # One of the three pairs of each of two detectors: both agree with two others.
    weight, rejected, inflation = problem._with_rejection(scaled, scaled > 5)
    assert weight.tolist() == pytest.approx([1, 1, 0.5, 0, 1, 1.345 / 4])
    assert rejected.tolist() == [False, False, False, True, False, False]
    assert (inflation == 1).all()


def test_pairs_of_a_detector_that_is_not_believed_have_errors_as_large_as_their_scatter():
    n = 8
    triples = [(i, j, 0.0) for i in range(n) for j in range(i + 1, n)]
    problem = problem_of(n, triples)
    mine = problem.pairs.first == 0
    scaled = np.where(mine, np.arange(mine.size) ** 2 * 10.0 + 8, 0.5)
    scaled[-1] = 3.0
    weight, rejected, inflation = problem._with_rejection(scaled, scaled > 5)
    spread = MAD * np.median(scaled[mine])
    np.testing.assert_array_equal(rejected, mine)
    np.testing.assert_allclose(inflation, np.where(mine, spread, 1.0))
    np.testing.assert_allclose(weight[mine], np.minimum(1, 1.345 / (scaled[mine] / spread)) / spread**2)
    np.testing.assert_allclose(weight[~mine], np.minimum(1, 1.345 / scaled[~mine]))
    assert 0.1 < weight[mine].min() * spread**2 < 0.9


def halves(size=5):
    """Two groups that agree within, and are joined by three pairs that do not agree."""
    triples = [(i, j, 0.0) for half in (range(size), range(size, 2 * size)) for i in half for j in half if i < j]
    return problem_of(2 * size, [*triples, (0, size, 30.0), (1, size + 1, 60.0), (2, size + 2, 90.0)])


def test_rejected_pairs_that_alone_connect_two_parts_keep_a_weight():
    problem = halves()
    across = (problem.pairs.first < 5) & (problem.pairs.second >= 5)
    scaled = np.where(across, problem.pairs.difference, 0.2)
    weight, rejected, inflation = problem._with_rejection(scaled, scaled > 5)
    np.testing.assert_array_equal(rejected, across)
    np.testing.assert_allclose(weight, np.where(across, 1.345 / scaled.clip(1.345), 1.0))
    np.testing.assert_allclose(inflation, np.where(across, scaled, 1.0))
    fit = problem.robust()
    assert fit.rejected[across].tolist() == [True, False, True]
    shift = fit.unknowns[5:].mean() - fit.unknowns[:5].mean()
    assert shift == pytest.approx(60.0, abs=1.0)  # the middle one of the three


@pytest.mark.parametrize("options", [None, {"plane": "exposure-plane"}, SHAPES[3]], ids=str)
@pytest.mark.parametrize("own_error", [6.0, np.inf])
def test_what_a_robust_fit_ends_with_belongs_together(graph, options, own_error):
    """Its weights are those of its residuals, and its unknowns those of the dense equations with these weights."""
    key, pairs = named(graph)
    shape = None if options is None else shape_of(graph, **options)
    own = graph.background[np.argsort(key)] + np.random.default_rng(7).normal(0, 2, graph.n)
    problem = LeastSquares(pairs, System.of(pairs, shape, key), own, np.full(graph.n, np.nan), own_error)
    fit = problem.robust()
    assert 0 < np.count_nonzero(fit.rejected) < 0.4 * fit.rejected.size
    scaled = np.abs(fit.residual) / fit.scale
    kept = ~fit.rejected
    assert (scaled[kept] <= 5.01).all()
    assert scaled[fit.rejected].max() > 5
    n_rejected = pairs.count(np.unique(problem.system.pair[fit.rejected]))
    believed = (n_rejected < 0.5 * pairs.count())[np.stack([pairs.first, pairs.second])].all(axis=0)[problem.system.pair]
    assert (scaled[fit.rejected & believed] >= 4.99).all()
    np.testing.assert_allclose(fit.weight[kept], np.minimum(1, 1.345 / scaled[kept]), atol=5e-3)
    assert fit.scale == pytest.approx(problem._scale(fit.residual, fit.rejected), rel=2e-3)
    expected = dense_solution(problem, max(own_error, problem._scatter_of_own(fit.unknowns[problem.free])), fit.weight, fit.scale)
    difference = (problem.system.design @ (fit.unknowns - expected)) / problem.system.error
    assert np.abs(difference).max() < 1e-3
    np.testing.assert_allclose(problem._residual(fit.unknowns[problem.free]), fit.residual, atol=1e-12)


def test_a_guessed_size_does_not_hold_back_one_that_is_much_larger(graph):
    truth = np.zeros(graph.n)
    truth[5] = 60.0  # one amplifier that jumps
    sides = graph.block_places[:, :, :, 2] * truth[np.stack([graph.first, graph.second], axis=1)][:, None] / 2
    plain = simulate_graph(GraphConfig(exposures=4, detectors=6, dither=600))
    blocks = plain.blocks + sides[..., 1] - sides[..., 0]
    for given, found in ((None, 60.0), (4.0, 0.0)):
        shape = replace(shape_of(plain, amplifier_steps=True, amplifier_step=given), blocks=blocks)
        solution = solve(plain.n, plain.first, plain.second, plain.difference, plain.error, shape=shape)
        held = abs(solution.background.step[5] - 60.0)
        assert held < 5 if given is None else held > 5, found


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


@pytest.mark.parametrize("options", [None, *SHAPES], ids=str)
@pytest.mark.parametrize("with_fixed", [False, True])
@pytest.mark.parametrize("robust", [False, True])
def test_errors_are_those_that_are_written_down(graph, options, with_fixed, robust):
    key, pairs = named(graph)
    shape = None if options is None else shape_of(graph, **options)
    fixed = np.full(graph.n, np.nan)
    if with_fixed:
        fixed[[2, 9]] = [3.0, 4.0]
    problem = LeastSquares(pairs, System.of(pairs, shape, key), np.zeros(graph.n), fixed, np.inf)
    fit = problem.robust() if robust else problem.plain()
    np.testing.assert_allclose(uncertainty._information(problem, fit), information_as_written(problem, fit), rtol=1e-12)
    found = uncertainty.standard_errors(problem, fit)
    expected = errors_as_written(problem, fit)
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
    problem = LeastSquares(
        pairs, System.of(pairs, shape_of(halves, "exposure-plane"), key), np.zeros(graph.n), np.full(graph.n, np.nan), np.inf
    )
    fit = problem.plain()
    np.testing.assert_allclose(uncertainty.standard_errors(problem, fit), errors_as_written(problem, fit), rtol=1e-5)


def test_where_all_pairs_are_rejected_their_enlarged_errors_are_what_is_known():
    problem = problem_of(3, [(0, 1, 0.0), (1, 2, 5.0), (0, 2, -9.0)], error=2.0)
    fit = Fit(np.zeros(3), np.full(3, 9.0), np.full(3, 0.1), np.ones(3, bool), np.full(3, 4.0), 1.0)
    assert uncertainty._information(problem, fit).tolist() == [1 / 64] * 3
