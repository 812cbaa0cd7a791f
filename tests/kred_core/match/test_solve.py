"""Thousands of CCD images, one sky: backgrounds from overlaps, on simulated fields whose truth is known."""

import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from overlap_graphs import GRAPHS, simulate_graph

from kred_core.match.solve import BackgroundModel, component_means, solve, solve_svd

ROOT = Path(__file__).parents[3]
OUTLIERS = 0.03  # of all pairs, as in a field with bright stars and ghosts


@pytest.fixture(scope="module")
def graph_of():
    made = {}

    def make(name, **changes):
        key = (name, *sorted(changes.items()))
        return made.setdefault(key, simulate_graph(replace(GRAPHS[name], **changes)))

    return make


@pytest.fixture(scope="module")
def tile(graph_of):
    """Ten dithered exposures, without outliers."""
    return graph_of("tile 300")


def solved(graph, **options):
    return solve(graph.n, graph.first, graph.second, graph.difference, graph.error, key=graph.name, **options)


def slopes_of(solution):
    """Slopes along both axes, (n, 2)."""
    return solution.background.coefficients()[:, 1:3]


def true_differences(graph):
    return graph.background[graph.second] - graph.background[graph.first]


def off(values, graph):
    """Error of backgrounds after the common constant, which no difference shows."""
    deviation = values - graph.background
    return deviation - deviation.mean()


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


def shape_of(graph, plane, **options):
    return BackgroundModel(graph.exposure, graph.blocks, graph.block_errors, graph.block_places, plane, **options)


# --- noise-free graphs


@pytest.mark.parametrize(("error", "robust"), [(1e-300, True), (1.0, True), (1.0, False), (1e50, True)])
def test_without_noise_backgrounds_are_exact_whatever_their_errors(tile, error, robust):
    solution = solve(tile.n, tile.first, tile.second, true_differences(tile), np.full(tile.first.size, error), robust=robust)
    assert np.abs(off(solution.background.b, tile)).max() < 1e-9 * rms(tile.background)
    assert not solution.rejected.any()
    if error == 1.0:  # far smaller ones are those of rounding
        np.testing.assert_array_equal(solution.weight, 1)


def test_any_order_of_images_and_pairs_gives_the_same_bits(graph_of):
    graph = graph_of("tile 60", outliers=OUTLIERS, slope=1.0)
    rng = np.random.default_rng(1)
    to = rng.permutation(graph.n)  # new place of each detector
    pairs = rng.permutation(graph.first.size)
    turned = rng.random(pairs.size) < 0.5
    first, second, sign = to[graph.first[pairs]], to[graph.second[pairs]], np.where(turned, -1.0, 1.0)
    first, second = np.where(turned, second, first), np.where(turned, first, second)
    places = np.where(turned[:, None, None, None], graph.block_places[pairs][:, :, ::-1], graph.block_places[pairs])
    old = np.argsort(to)  # old place of each detector
    own = rng.normal(size=graph.n)

    for plane in ("constant", "exposure-plane"):
        shape = shape_of(graph, plane)
        shuffled = BackgroundModel(
            1000 - graph.exposure[old], sign[:, None] * graph.blocks[pairs], graph.block_errors[pairs], places, plane
        )
        a = solved(graph, own=own, own_error=5.0, shape=shape)
        b = solve(
            graph.n, first, second, sign * graph.difference[pairs], graph.error[pairs],
            key=graph.name[old], own=own[old], own_error=5.0, shape=shuffled,
        )  # fmt: skip
        np.testing.assert_array_equal(b.background.coefficients()[to], a.background.coefficients())
        for name in ("error", "component", "n_pairs", "n_rejected"):
            np.testing.assert_array_equal(getattr(b, name)[to], getattr(a, name), err_msg=name)
        for name in ("weight", "rejected"):
            np.testing.assert_array_equal(getattr(b, name), getattr(a, name)[pairs], err_msg=name)
        np.testing.assert_array_equal(sign * b.residual, a.residual[pairs])
        assert a.scale == b.scale


def test_any_number_of_threads_gives_the_same_bits():
    """Of errors those that tables keep: the last ones of BLAS depend on the number of its threads."""
    code = (
        "import hashlib; from kred_core.match.solve import solve; from overlap_graphs import *\n"
        "g = simulate_graph(GraphConfig(outliers=0.03))\n"
        "s = solve(g.n, g.first, g.second, g.difference, g.error)\n"
        "print(hashlib.sha256(s.background.b.tobytes() + s.error.astype('f4').tobytes() + s.weight.tobytes()).hexdigest())"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ
            | {"PYTHONPATH": "tests/kred_core", "OPENBLAS_NUM_THREADS": n, "OMP_NUM_THREADS": n, "NUMBA_NUM_THREADS": n},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for n in ("1", "2")
    }
    assert len(answers) == 1


# --- components and geometry


def test_each_component_gets_its_zero_point_from_its_own_skies(tile):
    copies = 3
    n, k = tile.n, tile.first.size
    first = np.concatenate([tile.first + c * n for c in range(copies)])
    second = np.concatenate([tile.second + c * n for c in range(copies)])
    truth = np.concatenate([tile.background + 100.0 * c for c in range(copies)])
    scatter = np.random.default_rng(2).normal(0, 5, truth.size)
    error = np.tile(tile.error, copies) * np.repeat([1e-4, 1.0, 1e4], k)  # one of them hardly known
    solution = solve(copies * n, first, second, truth[second] - truth[first], error, own=truth + scatter)
    assert np.array_equal(solution.component, np.repeat([1, 2, 3], n))
    np.testing.assert_allclose(solution.background.b - truth, component_means(scatter, solution.component), atol=1e-8)
    assert np.isfinite(solution.error).all()


def test_isolated_detectors_keep_their_own_sky():
    solution = solve(5, [1], [3], [2.0], [0.1], own=[7.0, 1.0, -8.0, 1.0, 9.0])
    np.testing.assert_allclose(solution.background.b, [7.0, 0.0, -8.0, 2.0, 9.0])
    np.testing.assert_array_equal(solution.component, [1, 2, 3, 2, 4])
    np.testing.assert_array_equal(solution.n_pairs, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(np.isnan(solution.error), [True, False, True, False, True])


# --- noise and outliers


@pytest.mark.parametrize("options", [{}, {"own_error": 72.0}], ids=["zero points only", "own skies as anchors"])
@pytest.mark.parametrize("fraction", [0.0, OUTLIERS])
def test_no_large_scale_pattern_is_attenuated(graph_of, fraction, options):
    graph = graph_of("field 900", outliers=fraction)
    x, y = graph.place.T / np.abs(graph.place).max()
    patterns = np.array([x, y, x * y, x**2 - y**2, x**2 + y**2, x**3 - 3 * x * y**2, np.cos(2 * x) * np.cos(2 * y)]).T
    patterns -= patterns.mean(axis=0)
    before = solved(graph, **options).background.b
    found = solved(graph.with_background(3.0 * patterns.sum(axis=1)), **options).background.b - before
    np.testing.assert_allclose(np.linalg.lstsq(patterns, found, rcond=None)[0], 3.0, rtol=0.01)


@pytest.mark.parametrize("changes", [{}, {"outliers": OUTLIERS}, {"outliers": OUTLIERS, "one_sided": True}], ids=str)
def test_stated_errors_are_right(changes):
    pulls = []
    for seed in range(20, 30):
        graph = simulate_graph(replace(GRAPHS["tile 300"], seed=seed, **changes))
        solution = solved(graph, own_error=72.0)
        pulls.append(off(solution.background.b, graph) / solution.error)
    assert 0.9 <= rms(pulls) <= 1.1


def test_ten_thousand_images_fit_into_memory(graph_of):
    graph = graph_of("galaxy", outliers=OUTLIERS)
    assert graph.n >= 10_000
    assert graph.first.size >= 330_000
    tracemalloc.start()
    solution = solved(graph, own_error=72.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e9
    assert rms(off(solution.background.b, graph)) < 0.5
    assert np.isfinite(solution.error).all()
    assert 0.8 < rms(off(solution.background.b, graph) / solution.error) < 1.2


# --- bad input


def test_pairs_that_say_nothing_are_not_used(tile):
    bad = np.arange(0, tile.first.size, 7)
    difference, error, first = tile.difference.copy(), tile.error.copy(), tile.first.copy()
    for k, (values, value) in enumerate(
        [(difference, np.nan), (difference, np.inf), (error, np.nan), (error, np.inf), (error, 0.0), (error, -1.0)]
    ):
        values[bad[k::7]] = value
    first[bad[6::7]] = tile.second[bad[6::7]]  # a detector with itself
    solution = solve(tile.n, first, tile.second, difference, error)
    kept = np.setdiff1d(np.arange(tile.first.size), bad)
    alone = solve(tile.n, tile.first[kept], tile.second[kept], tile.difference[kept], tile.error[kept])
    np.testing.assert_array_equal(solution.background.b, alone.background.b)
    np.testing.assert_array_equal(solution.n_pairs, alone.n_pairs)
    np.testing.assert_array_equal(solution.weight[kept], alone.weight)
    assert (solution.weight[bad] == 0).all()
    assert not solution.rejected[bad].any()


def test_a_detector_that_contradicts_its_neighbours_moves_none_of_them(tile):
    ill = (tile.first == 100) | (tile.second == 100)
    difference = tile.difference + np.where(ill, 500 * np.random.default_rng(5).normal(size=ill.size), 0.0)
    solution = solve(tile.n, tile.first, tile.second, difference, tile.error)
    others = np.arange(tile.n) != 100
    good = off(solved(tile).background.b, tile)[others]
    assert rms(off(solution.background.b, tile)[others] - good) < 0.1 * rms(good) + 0.5  # and the constant
    assert solution.n_rejected[100] == solution.n_pairs[100] == np.count_nonzero(ill)
    assert (solution.n_rejected[others] < solution.n_pairs[others]).all()
    assert abs(solution.background.b[100] - tile.background[100]) < 500
    assert 20 < solution.error[100] < 500


def test_an_exposure_through_clouds_moves_no_other(tile):
    """Each of its detectors contradicts its neighbours, by what the clouds did to each overlap."""
    ill = tile.exposure == 3
    clouded = ill[tile.first] | ill[tile.second]
    difference = tile.difference + np.where(clouded, 200 * np.random.default_rng(9).normal(size=clouded.size), 0.0)
    solution = solve(tile.n, tile.first, tile.second, difference, tile.error)
    kept = ~clouded
    without = solve(tile.n, tile.first[kept], tile.second[kept], tile.difference[kept], tile.error[kept])
    moved = (solution.background.b - without.background.b)[~ill]
    assert rms(moved - moved.mean()) < 0.1
    assert (solution.n_rejected == solution.n_pairs)[ill].mean() > 0.8
    assert rms(off(solution.background.b, tile)[ill] / solution.error[ill]) < 2


def test_halves_that_contradict_each_other_stay_together():
    n, rng = 40, np.random.default_rng(6)
    pairs = [pair for half in (range(20), range(20, 40)) for pair in combinations(half, 2) if rng.random() < 0.3]
    across = [(0, 20), (5, 25), (10, 30), (15, 35)]
    first, second = np.array(pairs + across).T
    truth = rng.normal(0, 10, n)
    difference = truth[second] - truth[first] + rng.normal(0, 0.1, first.size)
    difference[-4:] += [-900, -300, 300, 900]
    solution = solve(n, first, second, difference, np.full(first.size, 0.1))
    assert solution.rejected[-4:].all()
    assert solution.component.max() == 1
    deviation = solution.background.b - truth
    assert deviation[:20].std() < 0.2
    assert deviation[20:].std() < 0.2
    assert abs(deviation[20:].mean() - deviation[:20].mean()) < 301


def test_input_that_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="detectors 0 to 5 of 2"):
        solve(2, [0], [5], [1.0], [1.0])
    with pytest.raises(ValueError, match="1, 1, 2 and 1 values"):
        solve(2, [0], [1], [1.0, 2.0], [1.0])
    for k in range(4):
        for values in ([], [1, 1]):
            given = [[0], [1], [1.0], [1.0]]
            given[k] = values
            with pytest.raises(ValueError, match="first, second, difference and error have"):
                solve(2, *given)
    with pytest.raises(ValueError, match="different keys"):
        solve(2, [0], [1], [1.0], [1.0], key=["a", "a"])
    with pytest.raises(ValueError, match="own_error"):
        solve(2, [0], [1], [1.0], [1.0], own_error=0.0)


# --- own skies


def test_own_skies_hold_what_overlaps_do_not(tile):
    """One more detector, which a single bad overlap ties to the others."""
    n = tile.n + 1
    truth = np.append(tile.background, 0.0)
    own = truth + np.random.default_rng(10).normal(0, 1, n)
    first, second = np.append(tile.first, 0), np.append(tile.second, tile.n)
    difference = np.append(tile.difference, truth[-1] - truth[0] + 2000.0)
    error = np.append(tile.error, 2000.0)
    held, free = (solve(n, first, second, difference, error, own=own, own_error=s) for s in (5.0, np.inf))
    assert abs(held.background.b[-1] - own[-1]) < 0.1
    assert abs(free.background.b[-1] - own[-1]) > 1000
    assert rms(off(held.background.b[:-1], tile)) < 1.02 * rms(off(free.background.b[:-1], tile))


def test_own_skies_that_scatter_are_believed_less(tile):
    rng = np.random.default_rng(11)
    close, wide = (tile.background + rng.normal(0, size, tile.n) for size in (0.1, 100.0))
    exact = solve(tile.n, tile.first, tile.second, true_differences(tile), 30 * tile.error, own=close, own_error=5.0)
    scattered = solve(tile.n, tile.first, tile.second, true_differences(tile), 30 * tile.error, own=wide, own_error=5.0)
    assert rms(off(exact.background.b, tile)) < 0.1
    assert rms(off(scattered.background.b, tile)) < 1.0  # not 100
    assert abs((scattered.background.b - wide).mean()) < 1e-6  # but their mean is the zero point


# --- fixed backgrounds


def test_fixed_backgrounds_are_kept_and_define_the_zero_point(tile):
    fixed = np.full(tile.n, np.nan)
    fixed[[3, 100, 400]] = tile.background[[3, 100, 400]] + 250.0
    solution = solved(tile, fixed=fixed, own=0.0, own_error=5.0, robust=False)
    free = np.isnan(fixed)
    np.testing.assert_array_equal(solution.background.b[~free], fixed[~free])
    np.testing.assert_array_equal(solution.error[~free], 0)
    assert rms(solution.background.b - tile.background - 250.0) < 0.8


def test_fixed_backgrounds_hold_for_their_component_alone():
    solution = solve(5, [0, 2], [1, 3], [1.0, 1.0], [0.1, 0.1], own=[0.0, 0.0, 0.0, 0.0, 4.0], fixed=[7.0, *[np.nan] * 4])
    np.testing.assert_allclose(solution.background.b, [7.0, 8.0, -0.5, 0.5, 4.0])
    solution = solve(2, [0], [1], [3.0], [0.1], fixed=[1.0, 1.0])
    np.testing.assert_allclose(solution.background.b, [1.0, 1.0])
    np.testing.assert_allclose(solution.residual, [3.0])


# --- planes and steps


def without_plane(values, graph):
    """Values after the common plane over the field, which no difference shows where exposures have slopes."""
    terms = np.column_stack([np.ones(graph.n), graph.place])
    return values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]


def test_slopes_of_exposures_are_found_in_the_parts_of_the_overlaps(graph_of):
    graph = graph_of("tile 300", outliers=OUTLIERS, slope=2.0)
    flat, sloped = (solved(graph, shape=shape_of(graph, plane)) for plane in ("constant", "exposure-plane"))
    error = rms(without_plane(off(sloped.background.b, graph), graph))
    assert error < 0.8 * rms(without_plane(off(flat.background.b, graph), graph))
    slopes = slopes_of(sloped) - graph.gradient
    assert rms(slopes - slopes.mean(axis=0)) < 0.1
    assert np.abs(slopes_of(sloped).mean(axis=0)).max() < 0.2  # the common slope cannot be seen
    assert all(len(np.unique(slopes_of(sloped)[graph.exposure == e], axis=0)) == 1 for e in range(10))
    assert 0.85 < rms(without_plane(off(sloped.background.b, graph), graph) / sloped.error) < 1.15
    assert rms(sloped.residual[~sloped.rejected] / graph.error[~sloped.rejected]) < 1.2


def test_one_amplifier_that_jumps_is_not_held_back_by_the_others(graph_of):
    graph = graph_of("tile 300", exposures=20, detectors=20)
    jump = np.where(np.arange(graph.n) == 100, 60.0, 0.0)
    sides = graph.block_places[:, :, :, 2] * jump[np.stack([graph.first, graph.second], axis=1)][:, None] / 2
    blocks = graph.blocks + sides[..., 1] - sides[..., 0]
    shape = replace(shape_of(graph, "constant", amplifier_steps=True), blocks=blocks)
    solution = solved(graph, shape=shape)
    assert solution.background.step[100] == pytest.approx(60.0, abs=3.0)
    assert rms(solution.background.step[np.arange(graph.n) != 100]) < 0.6


def test_without_noise_planes_and_steps_are_exact(graph_of):
    graph = graph_of("tile 300", detectors=20, white=0.01, floor=1e-6, slope=1.0, detector_slope=0.3, step=1.0)
    shape = shape_of(graph, "detector-plane", amplifier_steps=True, exposure_slope=1.0, detector_slope=0.3, amplifier_step=1.0)
    solution = solved(graph, shape=shape)
    assert rms(without_plane(off(solution.background.b, graph), graph)) < 0.01
    assert rms(solution.background.step - graph.step) < 0.05
    slopes = slopes_of(solution) - graph.gradient
    assert rms(slopes - slopes.mean(axis=0)) < 0.02


# --- the older solution


def test_the_svd_solution_follows_its_description():
    rng = np.random.default_rng(7)
    n = 12
    first, second = np.array([p for p in combinations(range(n), 2) if rng.random() < 0.5]).T
    cells = rng.integers(100, 10000, first.size)
    delta = rng.normal(0, 5, first.size)
    w, d = np.zeros((n, n)), np.zeros((n, n))
    for i, j, c, x in zip(first, second, cells, delta, strict=True):
        w[i, j] = w[j, i] = c
        d[i, j], d[j, i] = x, -x
    w /= w.sum(axis=1).mean()
    a, s = w - np.diag(w.sum(axis=1)), (w * d).sum(axis=1)
    candidates = []
    for cut in (0.1, 0.01):
        u, values, v = np.linalg.svd(a)
        inverted = np.array([1 / x if x >= cut else 0.0 for x in values])
        candidates.append(v.T @ np.diag(inverted) @ u.T @ s)
    misfits = [np.sqrt(np.sum((delta - b[second] + b[first]) ** 2)) for b in candidates]
    expected = candidates[int(np.argmin(misfits))]
    np.testing.assert_allclose(solve_svd(n, first, second, delta, cells, np.zeros(n)), expected, atol=1e-9)
    best = np.linalg.lstsq(np.eye(n)[second] - np.eye(n)[first], delta, rcond=None)[0]
    np.testing.assert_array_equal(solve_svd(n, first, second, delta, cells, best), best)  # a better start is kept
