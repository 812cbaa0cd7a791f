"""The parts of measuring an overlap, number by number, against plain numpy on few cells: quick without compilation, too."""

import importlib
import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from test_differences import map_of

from kred_core.match import compare, good_cells
from kred_core.match.measure import MEASURED, Excess

measuring = importlib.import_module("kred_core.match.measure")  # the package has its function under that name

# ---- which cells are good


def good_cells_as_written(binned_map):
    """As the docstring says it."""
    std = binned_map.std.astype(np.float64)
    filled = np.isfinite(binned_map.mean) & np.isfinite(std) & (binned_map.count > 0)
    filled &= binned_map.count >= 0.5 * np.median(binned_map.count[binned_map.count > 0])
    ny, nx = std.shape
    usual = np.full((math.ceil(ny / 16), math.ceil(nx / 16)), np.median(std[filled]))
    for j, i in np.ndindex(usual.shape):
        block = np.s_[16 * j : 16 * j + 16, 16 * i : 16 * i + 16]
        if filled[block].sum() >= 64:
            usual[j, i] = np.median(std[block][filled[block]])
    around = np.empty(usual.shape)
    for j, i in np.ndindex(usual.shape):
        around[j, i] = np.median(usual[max(j - 1, 0) : j + 2, max(i - 1, 0) : i + 2])
    ratio = np.full(std.shape, np.nan)
    ratio[filled] = (std / np.kron(around, np.ones((16, 16)))[:ny, :nx])[filled]
    ordered = np.sort(ratio[filled])
    middle = np.median(ordered)
    step = 3 * (middle - ordered[int(stats.norm.cdf(-1) * ordered.size)])
    limit = middle + step
    while True:
        starry = filled & (ratio > limit)
        padded = np.pad(starry, 1)
        near = np.any([padded[b : b + ny, a : a + nx] for b in range(3) for a in range(3)], axis=0)
        good = filled & ~near
        if good.sum() >= min(0.5 * filled.sum(), 10000):
            return good
        step *= 2
        limit += step


@pytest.mark.parametrize(
    ("shape", "share"), [((37, 52), 0.0), ((37, 52), 0.02), ((32, 48), 0.1), ((50, 20), 0.3), ((7, 9), 0.05), ((146, 150), 0.25)]
)
def test_good_cells_are_those_that_are_written_down(shape, share):
    rng = np.random.default_rng(shape[0])
    # Scatter within the cells of a sky that is noisier in one corner; a share of the cells holds a star.
    y, x = np.indices(shape)
    std = (1 + 0.01 * x + 0.02 * y) * (1 + 0.1 * rng.normal(size=shape))
    std += np.where(rng.random(shape) < share, rng.exponential(8.0, shape), 0.0)
    count = rng.integers(20, 65, shape)
    mean = rng.normal(size=shape)
    mean[2, 3], std[5, 6] = np.nan, np.inf
    count[1, 1:8] = 0
    for binned_map in (map_of(mean, std=std), map_of(mean, std=std, count=count)):
        good = good_cells(binned_map)
        np.testing.assert_array_equal(good, good_cells_as_written(binned_map))
        assert 0 < good.sum() < good.size


# ---- the cells of two binned maps


@pytest.mark.parametrize("by_amplifier", [False, True])
@pytest.mark.parametrize("kind", ["square", "strip", "diagonal strip", "one cell"])
def test_an_overlap_is_divided_into_four_parts_whose_places_are_those_of_their_cells(kind, by_amplifier):
    y, x = np.indices((60, 70))
    square, strip, diagonal = (x < 30) & (y < 29), (x > 20) & (x < 27) & (y < 59), np.abs(x - y) < 4
    inside = {"square": square, "strip": strip, "diagonal strip": diagonal, "one cell": (x == 4) & (y == 7)}[kind]
    y, x = (places.astype(np.int32) for places in np.nonzero(inside))
    maps = np.array([[0.03, 0.002, -0.8013], [-0.001, 0.04, -1.1]]), np.array([[-0.025, 0.01, 0.3517], [0.005, 0.03, -0.4]])
    divided, ends, places, middles = compare.divide(np.arange(x.size, dtype=np.float32), x, y, *maps, by_amplifier)
    parts = [divided[begin:end].astype(int) for begin, end in pairwise(ends)]  # the value of a cell is its number
    assert sorted(np.concatenate(parts)) == list(range(x.size))
    sides = [np.sign((of_detector @ [x, y, np.ones(x.size)])[0]) for of_detector in maps]
    for k, part in enumerate(parts):
        if not part.size:
            assert np.isnan(places[k]).all()
            continue
        np.testing.assert_allclose(middles[k], (x[part].mean(), y[part].mean()))
        for of_detector, side, place in zip(maps, sides, places[k], strict=True):
            np.testing.assert_allclose(place[:2], of_detector @ [*middles[k], 1])
            assert place[2] == pytest.approx(side[part].mean())
        if by_amplifier:
            assert [side[part[0]] for side in sides] == [1 if k & 1 else -1, 1 if k & 2 else -1]
            assert all(np.ptp(side[part]) == 0 for side in sides)
    if by_amplifier or kind == "one cell":
        return
    assert max(map(len, parts)) - min(map(len, parts)) < 0.1 * x.size
    if kind == "square":
        assert middles[:2, 0].max() < middles[2:, 0].min()
        assert (middles[[0, 2], 1] < middles[[1, 3], 1]).all()
    else:
        along = y if kind == "strip" else x + y
        assert all(along[one].max() <= along[next_one].min() for one, next_one in pairwise(parts))


# ---- how well it is known


def disagreement(n=400, flaw=3.0, slope=2e-4, patch=10**2.5, seed=7):
    """Overlaps whose parts scatter by noise, by flaws of one size and by slopes, with some parts missing."""
    rng = np.random.default_rng(seed)
    law = Excess(patch, flaw, slope)
    part_cells = rng.integers(25, 3000, (n, 1)) + rng.integers(0, 10, (n, 4))
    part_noise = 8 / np.sqrt(part_cells) * rng.uniform(0.8, 1.2, (n, 4))
    missing = rng.random((n, 4)) < 0.1
    missing[:3] = [[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0]]
    spread = rng.uniform(1, 4, n) * part_cells[:, 0]
    beyond = 4 / 3 * (law.of_area(part_cells) - law.of_area(4 * part_cells)) + 2 * slope * spread[:, None] / 3
    parts = np.where(missing, np.nan, rng.normal(0, np.sqrt(part_noise**2 + beyond)))
    part_noise = np.where(missing, np.nan, part_noise)
    n_cells = part_cells.sum(axis=1)
    overlaps = np.zeros(n, MEASURED)
    values = {"n_cells": n_cells, "noise": 8 / np.sqrt(n_cells), "part_cells": part_cells, "parts": parts, "part_noise": part_noise}
    values |= {"spread": spread, "lever": rng.uniform(1, 9, n) * n_cells, "size": 100.0}
    for name, value in values.items():
        overlaps[name] = value
    return overlaps


def sums_as_written(overlaps):
    """S, m - 1, what noise adds to S, and the cells of a part, of each overlap."""
    rows = []
    for parts, noise, n_cells in overlaps[["parts", "part_noise", "part_cells"]]:
        known = np.isfinite(parts)
        m = known.sum()
        deviation = parts[known] - parts[known].mean() if m else np.zeros(1)
        expected = (m - 1) / m * (noise[known] ** 2).sum() if m else 0.0
        rows.append(((deviation**2).sum(), max(m - 1, 0), expected, n_cells[known].mean() if m else 0.0))
    return np.array(rows).T


def expected_sums(excess, freedom, noise, n_cells, spread):
    flaws = freedom * 4 / 3 * excess.flaw * (1 / (1 + n_cells / excess.patch) - 1 / (1 + 4 * n_cells / excess.patch))
    return noise + flaws + 2 * excess.slope * spread


# Mean of chi^2/f, where it enters at most as 3, for f = 1, 2, 3.


def test_pairs_that_contradict_themselves_say_nothing_about_the_others():
    clean = disagreement(n=300)
    known = np.isfinite(clean["parts"])
    ill = (np.arange(300) % 20 == 0) & (known.sum(axis=1) > 1) & known[:, 0]
    spoilt = clean.copy()
    spoilt["parts"][ill, 0] += 50.0
    assert measuring.fit_excess(spoilt) == measuring.fit_excess(clean[~ill])
    assert measuring.fit_excess(spoilt) != measuring.fit_excess(clean)


def test_there_is_no_excess_where_nothing_can_show_it():
    overlaps = disagreement(n=3)  # no part, one part, and two
    assert measuring.fit_excess(overlaps[:2]) == Excess(1.0, 0.0, 0.0)
    assert measuring.fit_excess(overlaps[:0]) == Excess()
    overlaps["parts"] = overlaps["part_noise"] = 0.0
    assert measuring.fit_excess(overlaps) == Excess()


def test_errors_are_those_that_are_written_down():
    overlaps, excess = disagreement(n=60), Excess(80.0, 0.5, 3e-4)
    overlaps["parts"][10:20, 1] += 10.0
    overlaps["parts"][20:30] *= 0.01
    overlaps["size"][5] = 1e9
    found, freedom, noise, n_cells = sums_as_written(overlaps)
    expected = expected_sums(excess, freedom, noise, n_cells, overlaps["spread"])
    flaws = excess.flaw / (1 + overlaps["n_cells"] / excess.patch)
    error = np.sqrt(overlaps["noise"] ** 2 + flaws + excess.slope * overlaps["lever"])
    some = freedom > 0
    beyond = freedom[some] * found[some] / expected[some] / stats.chi2.isf(1e-3, freedom[some])
    assert 5 < np.count_nonzero(beyond > 1) < 20
    error[some] *= np.sqrt(np.maximum(1.0, beyond))
    error[5] = max(error[5], 1e9 * 2.0**-23)
    np.testing.assert_allclose(measuring.pair_errors(overlaps, excess), error, rtol=1e-12)
    known = np.isfinite(overlaps["parts"])
    assert np.isnan(measuring.part_errors(overlaps, excess)[~known]).all()
    expected = np.sqrt(overlaps["part_noise"] ** 2 + excess.flaw / (1 + overlaps["part_cells"] / excess.patch))
    np.testing.assert_allclose(measuring.part_errors(overlaps, excess)[known], expected[known])
    overlaps["noise"][40] = 0.0
    overlaps["lever"] = 0.0
    errors = measuring.pair_errors(overlaps, Excess())
    assert errors[40] == pytest.approx(0.01 * np.median(errors))
    assert measuring.pair_errors(overlaps[:0], excess).size == 0
    # Without noise, of numbers next to 0, an error is still more than that.
    one = np.zeros(1, MEASURED)
    one["parts"] = np.nan
    assert measuring.pair_errors(one, Excess()).tolist() == [np.finfo(np.float32).tiny]
