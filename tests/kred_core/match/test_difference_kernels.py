"""The parts of measuring an overlap, number by number, against plain numpy on few cells: quick without compilation, too."""

import importlib
import math

import numpy as np
import pytest
from scipy import optimize, stats
from test_differences import map_of

from kred_core.match import compare, good_cells, pairs
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


def axis_as_written(x, y):
    """The longer principal axis of unit cells, towards rising x, and how many times longer than the other."""
    spread, axes = np.linalg.eigh(np.cov(x, y, bias=True) + np.eye(2) / 12)
    along = axes[:, 1] * (np.sign(axes[0, 1]) or 1)
    return along, np.sqrt(spread[1] / spread[0])


def divided_as_written(values, x, y, maps, by_amplifier):
    """As the docstring says it: part of each cell, and of each part the values, places on both detectors and middle."""
    n = values.size
    ones = np.stack([x, y, np.ones(n)])
    u = [(m @ ones)[0] for m in maps]
    along, ratio = axis_as_written(x, y)
    if by_amplifier:
        part = (u[0] > 0) + 2 * (u[1] > 0)
    elif ratio >= 2:
        position = along @ ones[:2]
        step = np.ptp(position) / 1024 * (1 + 1e-9)
        bins = ((position - position.min()) / step).astype(int)
        counts = np.bincount(bins, minlength=1024)
        middle = np.cumsum(counts) - counts / 2
        part = np.minimum((4 * middle / n).astype(int), 3)[bins]
    else:

        def cut(places):
            """The last of the places that leave both sides most nearly equal."""
            candidates = range(int(places.max(initial=0)) + 2)
            off = [abs(2 * np.count_nonzero(places < c) - places.size) for c in candidates]
            return max(c for c in candidates if off[c] == min(off))

        right = x >= cut(x)
        upper = np.where(right, y >= cut(y[right]), y >= cut(y[~right]))
        part = 2 * right + upper
    places, middles = np.full((4, 2, 3), np.nan), np.full((4, 2), np.nan)
    for k in np.unique(part):
        mine = part == k
        middles[k] = x[mine].mean(), y[mine].mean()
        for d in (0, 1):
            places[k, d, :2] = maps[d] @ [*middles[k], 1]
            places[k, d, 2] = np.sign(u[d][mine]).mean()
    return part, places, middles


def cells_of(kind, rng):
    """Columns and rows of the cells of an overlap, in their order."""
    y, x = np.indices((60, 70))
    inside = {
        "square": (x < 30) & (y < 29),
        "rectangle": (x < 55) & (y < 31),
        "strip": (x < 60) & (y > 3) & (y < 9),
        "upright strip": (x > 20) & (x < 27) & (y < 59),
        "diagonal strip": np.abs(x - y) < 4,
        "falling strip": np.abs(x + y - 55) < 5,
        "with holes": (x < 40) & (y < 40) & (rng.random(x.shape) < 0.4) & (x != 20) & (x != 19),
        "one row": y == 3,
        "one column": x == 5,
        "one cell": (x == 4) & (y == 7),
        "two cells": (np.abs(x - 5) == 1) & (y == 7),
        "three cells": ((x == 4) & (y < 2)) | ((x == 5) & (y == 0)),
    }[kind]
    y, x = np.nonzero(inside)
    return x.astype(np.int32), y.astype(np.int32)


KINDS = ["square", "rectangle", "strip", "upright strip", "diagonal strip", "falling strip", "with holes", "one row", "one column"]
KINDS += ["one cell", "two cells", "three cells"]


@pytest.mark.parametrize("by_amplifier", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_overlap_is_divided_as_is_written_down(kind, by_amplifier):
    rng = np.random.default_rng(4)
    x, y = cells_of(kind, rng)
    values = rng.normal(size=x.size).astype(np.float32)
    maps = np.array([[0.03, 0.002, -0.8013], [-0.001, 0.04, -1.1]]), np.array([[-0.025, 0.01, 0.3517], [0.005, 0.03, -0.4]])
    part, places, middles = divided_as_written(values, x, y, maps, by_amplifier)
    divided, ends, found_places, found_middles = compare.divide(values, x, y, *maps, by_amplifier)
    assert ends.tolist() == [0, *np.cumsum(np.bincount(part, minlength=4))]
    for k in range(4):
        np.testing.assert_array_equal(divided[ends[k] : ends[k + 1]], values[part == k])
    np.testing.assert_allclose(found_places, places, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found_middles, middles, rtol=1e-12)


# ---- outlines


def square(ra, dec, half=0.5):
    """Unit vectors, (4, 3), of a square in the plane that touches the sky at (0, 0)."""
    x, y = np.radians(ra + half * np.array([-1, 1, 1, -1])), np.radians(dec + half * np.array([-1, -1, 1, 1]))
    vectors = np.stack([np.ones(4), x, y], axis=-1)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize(("gap", "apart"), [(-1e-3, False), (0.0, False), (5e-12, False), (2e-11, True), (1e-3, True)])
@pytest.mark.parametrize("turned", [1, -1])
def test_outlines_that_touch_but_for_rounding_are_not_separated(gap, apart, turned):
    """Beyond 1e-11 radian a side separates, in whichever sense the corners go around."""
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        one, other = square(0, 0)[::turned], square(*(np.array([dx, dy]) * (1 + math.degrees(gap))))[::turned]
        normals = pairs._side_normals(np.array([one, other]))
        by_one, by_other = pairs._side_separates(normals[0], one, other), pairs._side_separates(normals[1], other, one)
        assert (bool(by_one), bool(by_other)) == (apart, apart)


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
USUAL = np.array([stats.chi2(f).expect(lambda x, f=f: x / f, ub=3 * f) + 3 * stats.chi2.sf(3 * f, f) for f in (1, 2, 3)])


def loss(excess, found, freedom, noise, n_cells, spread):
    """Minus the logarithm of the likelihood, for ratios that enter at most as 3."""
    expected = expected_sums(excess, freedom, noise, n_cells, spread)
    ratio = found / expected
    terms = np.where(ratio < 3, ratio, 3 + 3 * np.log(np.maximum(ratio, 3) / 3))
    return (freedom * (terms + USUAL[freedom.astype(int) - 1] * np.log(expected))).sum()


@pytest.mark.parametrize(("flaw", "slope"), [(3.0, 2e-4), (3.0, 2e-6), (0.02, 2e-4)])
def test_the_excess_is_the_likeliest(flaw, slope):
    overlaps = disagreement(flaw=flaw, slope=slope)
    found, freedom, noise, n_cells = sums_as_written(overlaps)
    used = freedom > 0
    terms = found[used], freedom[used], noise[used], n_cells[used], overlaps["spread"][used]
    excess = measuring.fit_excess(overlaps)
    assert (found <= 9 * np.maximum(expected_sums(excess, freedom, noise, n_cells, overlaps["spread"]), 1e-9))[used].all()
    least, parameters, patch = np.inf, None, None
    for size in 10.0 ** np.arange(1.5, 4, 0.5):
        result = optimize.minimize(
            lambda p, size=size: loss(Excess(size, *np.exp(p)), *terms), np.log([flaw, slope]), method="Nelder-Mead"
        )
        if result.fun < least:
            least, parameters, patch = result.fun, np.exp(result.x), size
    assert excess.patch == pytest.approx(patch)
    assert loss(excess, *terms) == pytest.approx(least, abs=2e-3)
    for mine, likeliest, share in zip((excess.flaw, excess.slope), parameters, (flaw / 3, slope / 2e-4), strict=True):
        if share == 1:  # where there is enough of it to be known
            assert mine == pytest.approx(likeliest, rel=0.01)


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
