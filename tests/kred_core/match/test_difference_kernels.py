"""The parts of measuring an overlap, number by number, against plain numpy on few cells: quick without compilation, too."""

import importlib
import math

import numpy as np
import pytest
from scipy import optimize, stats

from kred_core import statistics
from kred_core.binned import BinnedMap
from kred_core.config import MatchConfig
from kred_core.match import compare, good_cells, measure, pairs, sky_mask
from kred_core.match.measure import Disagreement, Excess

measuring = importlib.import_module("kred_core.match.measure")  # the package has its function under that name

# ---- which cells are good


def map_of(std, mean=None, count=None, x0=0, y0=0, to_detector=None):
    ny, nx = std.shape
    mean = np.zeros(std.shape) if mean is None else mean
    count = np.full(std.shape, 64) if count is None else count
    if to_detector is None:
        to_detector = np.array([[2 / nx, 0, -(2 * x0 + nx - 1) / nx], [0, 2 / ny, -(2 * y0 + ny - 1) / ny]])
    return BinnedMap("e", "N1", x0, y0, np.float32(mean), np.float32(std), np.uint16(count), 40.0, 0.069, to_detector)


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
    around = np.array(
        [
            [np.median(usual[max(j - 1, 0) : j + 2, max(i - 1, 0) : i + 2]) for i in range(usual.shape[1])]
            for j in range(usual.shape[0])
        ]
    )
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


def scatter_of(rng, shape, share=0.0, size=8.0):
    """Scatter within the cells of a sky that is noisier in one corner; a share of the cells holds a star."""
    y, x = np.indices(shape)
    std = (1 + 0.01 * x + 0.02 * y) * (1 + 0.1 * rng.normal(size=shape))
    return std + np.where(rng.random(shape) < share, rng.exponential(size, shape), 0.0)


@pytest.mark.parametrize(
    ("shape", "share"), [((37, 52), 0.0), ((37, 52), 0.02), ((32, 48), 0.1), ((50, 20), 0.3), ((7, 9), 0.05), ((146, 150), 0.25)]
)
def test_good_cells_are_those_that_are_written_down(shape, share):
    rng = np.random.default_rng(shape[0])
    std, count = scatter_of(rng, shape, share), rng.integers(20, 65, shape)
    mean = rng.normal(size=shape)
    mean[2, 3], std[5, 6] = np.nan, np.inf
    count[1, 1:8] = 0
    for binned_map in (map_of(std, mean), map_of(std, mean, count)):
        good = good_cells(binned_map)
        np.testing.assert_array_equal(good, good_cells_as_written(binned_map))
        assert 0 < good.sum() < good.size


def test_a_block_with_few_cells_is_judged_by_the_whole_map():
    rng = np.random.default_rng(1)
    std = scatter_of(rng, (48, 48), 0.01)
    for kept in (63, 64):
        count = np.full(std.shape, 64)
        count[16:32, 16:32].flat[kept:] = 0
        std[16:32, 16:32] = 5 * (1 + 0.1 * rng.normal(size=(16, 16)))
        binned_map = map_of(std, count=count)
        medians = sky_mask._block_medians(binned_map.std, count > 0)
        assert np.isnan(medians).sum() == (kept < 64)
        np.testing.assert_array_equal(good_cells(binned_map), good_cells_as_written(binned_map))


def test_half_of_the_usual_number_of_pixels_is_enough_for_a_cell():
    std = np.ones((20, 20)) + 0.01 * np.random.default_rng(2).normal(size=(20, 20))
    count = np.full(std.shape, 64)
    count[:4] = 0  # says nothing about what is usual
    count[10, 3], count[15, 3] = 32, 31
    good = good_cells(map_of(std, count=count))
    assert good[10, 3]
    assert not good[15, 3]
    assert not good[:4].any()


def test_cells_without_scatter_in_a_sky_with_scatter_are_good():
    std = np.zeros((40, 40))
    std[:3] = 1.0
    good = good_cells(map_of(std))
    assert good[4:].all()
    assert not good[:4].any()


# ---- the cells of two binned maps


def test_differences_are_those_of_the_cells_that_both_have():
    rng = np.random.default_rng(3)
    first, second = rng.normal(0, 5, (2, 5, 7)).astype(np.float32)
    first[1, 2] = second[3, 4] = np.nan
    first[0, 0], second[0, 1] = np.inf, -np.inf
    first[4, 6], second[4, 5] = 2e30, 0.9e30
    values, x, y = compare.differences(first, second, 1000.25, -3.5)
    exact = (second.astype(np.float64) + 3.5) - (first.astype(np.float64) - 1000.25)
    usable = np.abs(exact) < 1e30
    assert usable.sum() == 35 - 5
    assert (y.tolist(), x.tolist()) == tuple(where.tolist() for where in np.nonzero(usable))
    np.testing.assert_array_equal(values, exact[usable].astype(np.float32))
    assert compare.differences(first[:0], second[:0], 0.0, 0.0)[0].size == 0


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


def test_a_cell_on_the_border_between_amplifiers_is_on_neither_side():
    x, y = np.arange(5, dtype=np.int32), np.zeros(5, np.int32)
    middle = np.array([[0.5, 0.0, -1.0], [0.0, 1.0, 0.0]])
    _, ends, places, _ = compare.divide(np.zeros(5, np.float32), x, y, middle, middle, True)
    assert ends.tolist() == [0, 3, 3, 3, 5]
    assert places[[0, 3], :, 2].tolist() == [[-2 / 3, -2 / 3], [1.0, 1.0]]


@pytest.mark.parametrize("kind", ["rectangle", "strip", "diagonal strip", "falling strip", "with holes", "one cell"])
def test_the_principal_axis_is_that_of_the_covariance(kind):
    x, y = cells_of(kind, np.random.default_rng(5))
    axis_x, axis_y, ratio = compare._principal_axis(x, y)
    along, expected = axis_as_written(x, y)
    assert ratio == pytest.approx(expected, rel=1e-9)
    if expected > 1.01:
        assert (axis_x, axis_y) == pytest.approx(tuple(along), abs=1e-9)


@pytest.mark.parametrize(("width", "across"), [(19, True), (21, False)])
def test_an_overlap_twice_as_long_as_wide_is_a_strip(width, across):
    y, x = (a.ravel().astype(np.int32) for a in np.indices((width, 40)))
    maps = np.array([[1.0, 0, 0], [0, 1.0, 0]]), np.array([[1.0, 0, 0], [0, 1.0, 0]])
    middles = compare.divide(np.zeros(x.size, np.float32), x, y, *maps, False)[3]
    assert (np.ptp(middles[:, 1]) < 1e-9) == across


# ---- outlines


def square(ra, dec, half=0.5):
    """Unit vectors, (4, 3), of a square in the plane that touches the sky at (0, 0)."""
    x, y = np.radians(ra + half * np.array([-1, 1, 1, -1])), np.radians(dec + half * np.array([-1, -1, 1, 1]))
    vectors = np.stack([np.ones(4), x, y], axis=-1)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_the_sides_of_an_outline_have_poles_of_length_one():
    shapes = np.array([square(0, 0), square(3, -2)])
    shapes[1, 1] = shapes[1, 0]
    normals = pairs._side_normals(shapes)
    lengths = np.linalg.norm(normals, axis=-1)
    np.testing.assert_allclose(lengths, [[1, 1, 1, 1], [0, 1, 1, 1]], atol=1e-14)
    for k in range(4):
        assert np.abs(normals[0, k] @ np.stack([shapes[0, k], shapes[0, (k + 1) % 4]], axis=-1)).max() < 1e-15
    assert pairs._range(normals[0, 0], shapes[0]) == pytest.approx((0.0, math.radians(1)), abs=1e-5)


@pytest.mark.parametrize(("gap", "apart"), [(-1e-3, False), (0.0, False), (5e-12, False), (2e-11, True), (1e-3, True)])
@pytest.mark.parametrize("turned", [1, -1])
def test_outlines_that_touch_but_for_rounding_are_not_separated(gap, apart, turned):
    """Beyond 1e-11 radian a side separates, in whichever sense the corners go around."""
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        one, other = square(0, 0)[::turned], square(*(np.array([dx, dy]) * (1 + math.degrees(gap))))[::turned]
        normals = pairs._side_normals(np.array([one, other]))
        by_one, by_other = pairs._side_separates(normals[0], one, other), pairs._side_separates(normals[1], other, one)
        assert (bool(by_one), bool(by_other)) == (apart, apart)


def test_outlines_too_far_apart_for_their_sizes_are_not_compared_side_by_side():
    shapes = np.array([square(0, 0), square(0.9, 0.9), square(1.1, 0), square(0, 3)])
    middles = shapes.mean(axis=1) / np.linalg.norm(shapes.mean(axis=1), axis=-1, keepdims=True)
    radius = np.linalg.norm(shapes - middles[:, None], axis=-1).max(axis=1)
    first, second = np.array([0, 0, 0, 1, 1]), np.array([1, 2, 3, 2, 1])
    meet = pairs._meet(shapes, pairs._side_normals(shapes), middles, radius, first, second)
    assert meet.tolist() == [True, False, False, True, True]
    none = np.zeros((4, 4, 3))  # without sides nothing but the distance tells
    assert pairs._meet(shapes, none, middles, radius, first, second).tolist() == [True, True, False, True, True]
    far = np.nextafter(np.linalg.norm(middles[0] - middles[3]) / 2, 1) + np.array([-6e-12, -4e-12])
    for half, expected in zip(far, (False, True), strict=True):  # so much is left to rounding
        assert pairs._meet(shapes, none, middles, np.full(4, half), first[2:3], second[2:3]).tolist() == [expected]


# ---- one pair


def skies(n=4):
    """Binned maps that overlap in different ways, on levels of their own, with stars, an empty corner and turned detectors."""
    rng = np.random.default_rng(6)
    maps = []
    for k, (x0, y0, nx, ny) in enumerate([(0, 0, 40, 50), (13, 21, 45, 40), (5, -30, 30, 45), (30, 3, 50, 30)][:n]):
        mean = 100.0 * k + rng.normal(0, 4, (ny, nx)) + 0.1 * np.arange(nx)
        count = np.full((ny, nx), 64)
        count[:5, :4] = 0
        std = 30 * (1 + 0.1 * rng.normal(size=(ny, nx))) + np.where(rng.random((ny, nx)) < 0.005, 500.0, 0.0)
        c, s = np.cos(0.1 * k), np.sin(0.1 * k)
        linear = np.array([[2 / nx, 0], [0, 2 / ny]]) @ np.array([[c, -s], [s, c]])
        shift = -linear @ [x0 + (nx - 1) / 2, y0 + (ny - 1) / 2]
        maps.append(map_of(std, mean, count, x0, y0, np.column_stack([linear, shift])))
    return maps


def row_as_written(maps, by_amplifier, fewest):
    """All that is measured of a pair, from the definitions."""
    good = [good_cells(s) for s in maps]
    level = [np.median(s.mean[g].astype(np.float64)) for s, g in zip(maps, good, strict=True)]
    box = [(s.x0, s.y0, s.x0 + s.mean.shape[1], s.y0 + s.mean.shape[0]) for s in maps]
    x0, y0, x1, y1 = *np.max(box, axis=0)[:2], *np.min(box, axis=0)[2:]
    part = [np.s_[y0 - s.y0 : y1 - s.y0, x0 - s.x0 : x1 - s.x0] for s in maps]
    y, x = np.nonzero(good[0][part[0]] & good[1][part[1]])
    one, other = (s.mean[p][y, x].astype(np.float64) - m for s, p, m in zip(maps, part, level, strict=True))
    values, shift = (other - one).astype(np.float32), level[1] - level[0]
    to_parts = [s.to_detector @ np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1]]) for s in maps]
    numbers, places, middles = divided_as_written(values, x, y, to_parts, by_amplifier)
    row = {"n_cells": values.size, "part_cells": np.bincount(numbers, minlength=4)}
    row["parts"], row["part_noise"] = np.full((2, 4), np.nan)
    for k in np.flatnonzero(row["part_cells"] >= fewest):
        peak, row["part_noise"][k] = statistics.histogram_mode(values[numbers == k])
        row["parts"][k] = shift + peak
    known = np.isfinite(row["parts"])
    row["part_places"] = np.where(known[:, None, None], places, np.nan)
    row["spread"] = ((middles[known] - middles[known].mean(axis=0)) ** 2).sum() if known.any() else 0.0
    centres = [np.array([(b[0] + b[2] - 1) / 2, (b[1] + b[3] - 1) / 2]) for b in box]
    middle = np.array([x.mean() + x0, y.mean() + y0])
    row["lever"] = sum(((middle - centre) ** 2).sum() for centre in centres)
    found = statistics.statistics(values)
    row |= {"difference": shift + found.histogram_mode, "noise": found.histogram_mode_error, "mode": shift + found.mode}
    row |= {"mean": shift + found.mean, "median": shift + found.median, "std": found.std}
    exact = np.float32(values).astype(np.float64)
    row["skew"], row["kurtosis"] = stats.skew(exact), stats.kurtosis(exact)
    kept = statistics.statistics(values, clipped=True)
    row |= {"clipped_mean": shift + kept.mean, "clipped_median": shift + kept.median, "clipped_std": kept.std}
    row["size"] = max(abs(level[0]), abs(level[1]), abs(row["difference"]))
    return row


@pytest.mark.parametrize("by_amplifier", [False, True])
@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (0, 3), (1, 3)])
def test_a_pair_is_measured_as_is_written_down(pair, by_amplifier):
    maps = skies()
    row = np.zeros(1, measuring._ROW)[0]
    chosen = [maps[k] for k in pair]
    config = MatchConfig(min_cells=50, amplifier_steps=by_amplifier)
    measuring._compare(*map(measuring._Sky.of, chosen), config, 26, row)
    expected = row_as_written(chosen, by_amplifier, 26)
    assert set(expected) == set(row.dtype.names)
    for name, value in expected.items():
        np.testing.assert_allclose(row[name], value, rtol=1e-10, atol=1e-11, err_msg=name)


def test_a_pair_needs_the_least_number_of_cells():
    maps = skies(2)
    n = row_as_written(maps, False, 26)["n_cells"]
    for least, measured in ((n, True), (n + 1, False)):
        found = compare_all(maps, MatchConfig(min_cells=int(least)))
        assert (len(found), found.n_small) == (int(measured), int(not measured))


def compare_all(maps, config=None):
    first, second = np.triu_indices(len(maps), 1)
    boxes = [(s.x0, s.y0, s.mean.shape[1], s.mean.shape[0]) for s in maps]
    centres = [(10.0 * k, 5.0 * k) for k in range(len(maps))]
    return measure(first, second, maps.__getitem__, boxes, centres, config or MatchConfig())


def test_pairs_have_their_numbers_and_errors_from_all_of_them():
    maps = skies()
    found = compare_all(maps, MatchConfig(min_cells=100))
    rows = {pair: row_as_written([maps[k] for k in pair], False, 25) for pair in ((0, 1), (0, 2), (0, 3), (1, 3))}
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == list(rows)
    table = {name: np.array([row[name] for row in rows.values()]) for name in rows[0, 1]}
    for name in ("n_cells", "difference", "mode", "mean", "median", "std", "skew", "kurtosis", "clipped_mean", "clipped_std"):
        np.testing.assert_allclose(getattr(found, name), table[name], rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(found.blocks, table["parts"])
    np.testing.assert_allclose(found.block_places, table["part_places"], atol=1e-12)
    overlaps = Disagreement(*(table[n] for n in ("n_cells", "noise", "part_cells", "parts", "part_noise", "spread", "lever")))
    excess = measuring.fit_excess(overlaps)
    np.testing.assert_allclose(found.error, measuring.pair_errors(overlaps, excess, table["size"]))
    np.testing.assert_allclose(found.block_errors, measuring.part_errors(overlaps, excess))
    assert found.floor == pytest.approx(np.median(np.sqrt(found.error**2 - table["noise"] ** 2)))
    a, b = np.radians([(0, 0), (10, 5)])
    cosine = np.sin(a[1]) * np.sin(b[1]) + np.cos(a[1]) * np.cos(b[1]) * np.cos(b[0] - a[0])
    assert found.separation[0] == pytest.approx(3600 * np.degrees(np.arccos(cosine)), rel=1e-9)


@pytest.mark.parametrize(("min_cells", "columns", "measured"), [(1280, 4, True), (1281, 4, False), (10, 1, True), (10, 0.6, False)])
def test_parts_of_25_cells_and_an_eighth_of_what_a_pair_must_have_are_measured(min_cells, columns, measured):
    """One amplifier of both detectors reads the first columns of 40 cells, or the first of 24."""
    rows = 40 if columns >= 1 else 24
    maps = []
    for level in (0.0, 3.0):
        border = np.array([[1.0, 0.0, 0.5 - max(columns, 1)], [0.0, 1.0, 0.0]])
        maps.append(map_of(np.zeros((rows, 40)), np.full((rows, 40), level), to_detector=border))
    found = compare_all(maps, MatchConfig(min_cells=min_cells, amplifier_steps=True))
    assert np.isfinite(found.blocks[0]).tolist() == [measured, False, False, True]


def test_a_detector_whose_map_is_unknown_has_its_centre_in_the_middle_of_its_map():
    binned_map = skies(2)[1]
    flat = measuring._Sky.of(BinnedMap(**{**vars(binned_map), "to_detector": np.zeros((2, 3))}))
    assert flat.centre.tolist() == [13 + 22, 21 + 19.5]
    assert measuring._Sky.of(binned_map).centre == pytest.approx([13 + 22, 21 + 19.5])
    cut = binned_map.to_detector + np.array([[0, 0, 0.25], [0, 0, -0.5]])  # as of a binned map that ends where the grid does
    elsewhere = np.linalg.solve(cut[:, :2], -cut[:, 2])
    assert np.abs(elsewhere - [13 + 22, 21 + 19.5]).max() > 5
    assert measuring._Sky.of(BinnedMap(**{**vars(binned_map), "to_detector": cut})).centre == pytest.approx(elsewhere)


def test_maps_are_loaded_from_south_to_north_and_then_from_west_to_east():
    loads = []
    boxes = [(0, 5, 9, 9), (3, 0, 9, 9), (1, 0, 9, 9), (50, 50, 9, 9), (58, 50, 9, 9), (67, 50, 9, 9)]
    maps = [map_of(np.ones((9, 9)), x0=x0, y0=y0) for x0, y0, _, _ in boxes]
    first, second = np.triu_indices(6, 1)
    sweep = measuring._sweep(first, second, lambda k: loads.append(k) or maps[k], np.array(boxes))
    assert sorted((int(first[pair]), int(second[pair]), one.x0, other.x0) for pair, one, other in sweep) == [
        (0, 1, 0, 3),
        (0, 2, 0, 1),
        (1, 2, 3, 1),
        (3, 4, 50, 58),
    ]  # the last two boxes have a side in common, but no cell
    assert loads == [2, 1, 0, 3, 4]


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
    return Disagreement(n_cells, 8 / np.sqrt(n_cells), part_cells, parts, part_noise, spread, rng.uniform(1, 9, n) * n_cells)


def sums_as_written(overlaps):
    """S, m - 1, what noise adds to S, and the cells of a part, of each overlap."""
    rows = []
    for parts, noise, n_cells in zip(overlaps.parts, overlaps.part_noise, overlaps.part_cells, strict=True):
        known = np.isfinite(parts)
        m = known.sum()
        deviation = parts[known] - parts[known].mean() if m else np.zeros(1)
        expected = (m - 1) / m * (noise[known] ** 2).sum() if m else 0.0
        rows.append(((deviation**2).sum(), max(m - 1, 0), expected, n_cells[known].mean() if m else 0.0))
    return np.array(rows).T


def expected_sums(excess, freedom, noise, n_cells, spread):
    flaws = freedom * 4 / 3 * excess.flaw * (1 / (1 + n_cells / excess.patch) - 1 / (1 + 4 * n_cells / excess.patch))
    return noise + flaws + 2 * excess.slope * spread


def test_the_parts_of_an_overlap_are_summed_up_as_is_written_down():
    overlaps = disagreement()
    found, freedom, noise, n_cells = sums_as_written(overlaps)
    np.testing.assert_allclose(measuring._found(overlaps), (found, freedom, noise), rtol=1e-12)
    np.testing.assert_allclose(measuring._part_cells(overlaps), n_cells, rtol=1e-12)
    law = Excess(50.0, 2.0, 0.0)
    assert law.of_area(np.array([0.0, 50.0, 150.0])).tolist() == [2.0, 1.0, 0.5]
    np.testing.assert_allclose(noise + measuring._flaws(n_cells, freedom, law), expected_sums(law, freedom, noise, n_cells, 0.0))


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
    terms = found[used], freedom[used], noise[used], n_cells[used], overlaps.spread[used]
    excess = measuring.fit_excess(overlaps)
    assert (found <= 9 * np.maximum(expected_sums(excess, freedom, noise, n_cells, overlaps.spread), 1e-9))[used].all()
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


@pytest.mark.parametrize("patch", [10**1.5, 10**2.5])
def test_the_likelihood_of_a_size_of_flaws_is_that_which_is_written_down(patch):
    overlaps = disagreement()
    found, freedom, noise, n_cells = sums_as_written(overlaps)
    used = freedom > 0
    terms = found[used], freedom[used], noise[used], n_cells[used], overlaps.spread[used]
    shape = measuring._flaws(n_cells[used], freedom[used], Excess(patch, 1.0))
    flaw, slope, likelihood = measuring._fit(*terms[:3], shape, 2 * terms[4])
    excess = Excess(patch, flaw, slope)
    assert (terms[0] > 3 * expected_sums(excess, *terms[1:])).any()
    assert likelihood == pytest.approx(-loss(excess, *terms), rel=1e-9)


def test_flaws_larger_than_the_parts_cannot_be_told_from_smaller_ones():
    overlaps = disagreement(patch=10**4.5, flaw=500.0)
    assert 10**1.5 < measuring.fit_excess(overlaps).patch <= overlaps.part_cells.max()


def test_pairs_that_contradict_themselves_say_nothing_about_the_others():
    clean = disagreement(n=300)
    ill = (np.arange(300) % 20 == 0) & (np.isfinite(clean.parts).sum(axis=1) > 1) & np.isfinite(clean.parts[:, 0])
    parts = clean.parts.copy()
    parts[ill, 0] += 50.0
    spoilt = Disagreement(**{**vars(clean), "parts": parts})
    others = ~ill
    alone = Disagreement(*(values[others] for values in vars(clean).values()))
    assert measuring.fit_excess(spoilt) == measuring.fit_excess(alone)
    assert measuring.fit_excess(spoilt) != measuring.fit_excess(clean)


def test_of_very_many_pairs_every_second_or_third_is_enough():
    many = disagreement(n=20001)
    assert measuring.fit_excess(many) == measuring.fit_excess(many.of(slice(None, None, 3)))
    assert measuring.fit_excess(many.of(slice(20000))) == measuring.fit_excess(many.of(slice(0, 20000, 2)))


def test_there_is_no_excess_where_nothing_can_show_it():
    overlaps = disagreement(n=3)  # no part, one part, and two
    none = Disagreement(*(values[:2] for values in vars(overlaps).values()))
    assert measuring.fit_excess(none) == Excess(1.0, 0.0, 0.0)
    flat = Disagreement(**{**vars(overlaps), "parts": np.zeros((3, 4)), "part_noise": np.zeros((3, 4))})
    assert measuring.fit_excess(flat) == Excess()
    assert measuring.fit_excess(Disagreement(*(values[:0] for values in vars(overlaps).values()))) == Excess()


def test_errors_are_those_that_are_written_down():
    overlaps, excess = disagreement(n=60), Excess(80.0, 0.5, 3e-4)
    parts = overlaps.parts.copy()
    parts[10:20, 1] += 10.0
    parts[20:30] *= 0.01
    overlaps = Disagreement(**{**vars(overlaps), "parts": parts})
    values = np.full(60, 100.0)
    values[5] = 1e9
    found, freedom, noise, n_cells = sums_as_written(overlaps)
    expected = expected_sums(excess, freedom, noise, n_cells, overlaps.spread)
    error = np.sqrt(overlaps.error**2 + excess.flaw / (1 + overlaps.n_cells / excess.patch) + excess.slope * overlaps.lever)
    some = freedom > 0
    beyond = freedom[some] * found[some] / expected[some] / stats.chi2.isf(1e-3, freedom[some])
    assert 5 < np.count_nonzero(beyond > 1) < 20
    error[some] *= np.sqrt(np.maximum(1.0, beyond))
    error[5] = max(error[5], 1e9 * 2.0**-23)
    np.testing.assert_allclose(measuring.pair_errors(overlaps, excess, values), error, rtol=1e-12)
    exact = Disagreement(
        **{**vars(overlaps), "error": np.where(np.arange(60) == 40, 0.0, overlaps.error), "lever": 0 * overlaps.lever}
    )
    errors = measuring.pair_errors(exact, Excess(), values)
    assert errors[40] == pytest.approx(0.01 * np.median(errors))
    known = np.isfinite(parts)
    assert np.isnan(measuring.part_errors(overlaps, excess)[~known]).all()
    np.testing.assert_allclose(
        measuring.part_errors(overlaps, excess)[known],
        np.sqrt(overlaps.part_noise**2 + excess.flaw / (1 + overlaps.part_cells / excess.patch))[known],
    )
    nothing = Disagreement(*(values[:0] for values in vars(overlaps).values()))
    assert measuring.pair_errors(nothing, excess, values[:0]).size == 0
    # Without noise, of numbers next to 0, an error is still more than that.
    one = Disagreement(np.array([9]), np.zeros(1), np.zeros((1, 4), int), *np.full((2, 1, 4), np.nan), np.zeros(1), np.zeros(1))
    assert measuring.pair_errors(one, Excess(), np.zeros(1)).tolist() == [np.finfo(np.float32).tiny]
