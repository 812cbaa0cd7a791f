"""The kernels of the sky level, number by number, against plain numpy on few values: quick without compilation, too."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from kred_core import statistics
from kred_core.statistics import kernels

SIGMA = 7.0


def sky(n, seed=1, level=100.0):
    return np.random.default_rng(seed).normal(level, SIGMA, n).astype(np.float32)


def with_stars(n, seed=2, side=1):
    """A fifth of the values lies beyond the sky's, as in the wings of stars."""
    values = sky(n, seed).astype(np.float64)
    values[: n // 5] += side * np.random.default_rng(seed).exponential(20.0, n // 5)
    return values.astype(np.float32)


def in_steps(n, step, seed=3, phase=0.3):
    return (np.round((sky(n, seed) - phase) / step) * step + phase).astype(np.float32)


def kept(values, bad=None):
    """What the selection keeps, and the number of values that are none."""
    place = np.full(values.size, -1, np.float32)
    n, n_nan = kernels.select(values, np.zeros(values.size, bool) if bad is None else bad, place)
    return place[:n].tolist(), n_nan


def test_the_finite_values_are_kept_in_their_order():
    values = np.array([3.0, np.nan, 1.0, np.inf, 2.0, -np.inf, 2.0], np.float32)
    assert kept(values) == ([3.0, 1.0, 2.0, 2.0], 3)
    bad = np.array([False, True, True, False, False, False, True])
    assert kept(values, bad) == ([3.0, 2.0], 3)  # also the masked one is no number
    assert kept(values[:0]) == ([], 0)
    rng = np.random.default_rng(9)
    for n in (63, 64, 65, 128, 200, 333):  # they are looked at 64 together
        many, flagged = sky(n), rng.random(n) < 0.02
        many[64:][rng.random(n - 64) < 0.02 if n > 64 else []] = np.nan
        flagged[:64] = False  # all of the first are good
        assert kept(many, flagged) == (many[np.isfinite(many) & ~flagged].tolist(), np.isnan(many).sum())
        assert kept(many, ~flagged)[0] == many[np.isfinite(many) & flagged].tolist()


def test_a_narrowest_window_at_the_end_of_a_stretch_is_not_overlooked():
    """Windows are judged 256 together: that at 255 is the narrowest, by less than what the next one misses."""
    ordered = np.concatenate([np.linspace(-1000, -900, 255), np.linspace(0, 1, 551), [1.01], np.linspace(50, 90, 293)]).astype(
        np.float32
    )
    width = ordered[550:] - ordered[:550]
    assert np.argmin(width) == 255
    assert kernels._shortest_half(ordered, 0, 1100) == 255


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0, 9.0, -3.0], with_stars(4096 * 2 + 5), with_stars(5000, side=-1), sky(50001)])
def test_skewness_and_kurtosis_are_those_of_the_sample(values):
    ordered = np.sort(np.float32(values))
    found = kernels.skewness_and_kurtosis(ordered, *kernels.mean_and_std(ordered))
    exact = ordered.astype(np.float64)
    assert found == pytest.approx((stats.skew(exact), stats.kurtosis(exact)), rel=1e-7, abs=1e-9)


def test_skewness_and_kurtosis_of_a_constant_and_of_nothing():
    assert kernels.skewness_and_kurtosis(np.full(3, 5, np.float32), 5.0, 0.0) == (0.0, 0.0)
    nothing = np.zeros(0, np.float32)
    assert np.isnan([*kernels.mean_and_std(nothing), *kernels.skewness_and_kurtosis(nothing, math.nan, math.nan)]).all()


# Moments of the half of a Gaussian that is cut at 3 standard deviations.
FIRST, THIRD = (stats.norm.expect(lambda x, p=p: x**p, lb=0, ub=3) for p in (1, 3))


def histogram_mode_as_written(values):
    """As the docstring says it, in float64 and without anything that makes it fast."""
    v = np.sort(np.float64(np.float32(values)))
    n = v.size
    if n < 50:
        return np.median(v), 1.2533 * v.std() / np.sqrt(n - 1), v.std()
    h = (n + 1) // 2
    k = np.argmin(np.float32(v[n - h :]) - np.float32(v[:h]))
    low, high = v[k], v[k + n - h]
    if low == high:
        others = np.abs(v[v != low] - low)
        return low, (others.min() if others.size else 0.0) / np.sqrt(12), 0.0
    rough = (high - low) / (2 * stats.norm.ppf(0.75))
    edges = (low + high) / 2 - 4 * rough + 8 * rough / 256 * np.arange(257)
    bins = np.searchsorted(edges, v, "right") - 1
    inside = (bins >= 0) & (bins < 256)
    counts = np.bincount(bins[inside], minlength=256).astype(float)
    places = np.where(counts > 0, np.bincount(bins[inside], v[inside], 256) / np.maximum(counts, 1), 0.0)

    def density(at, kernel):
        return (counts * np.exp(-0.5 * ((places - at) / kernel) ** 2)).sum()

    def peak_of(guess, kernel):
        def slope(at):
            d = (places - at) / kernel
            return (counts * d * np.exp(-0.5 * d**2)).sum()

        peak = optimize.brentq(slope, guess - kernel, guess + kernel, xtol=1e-12 * rough, rtol=1e-15)
        d = (places - peak) / kernel
        w = np.exp(-0.5 * d**2)
        return peak, kernel * np.sqrt((counts * (w * d) ** 2).sum()) / (counts * w * (1 - d**2)).sum()

    smoothing = 0.5 * max(1, (3000 / n) ** (1 / 7))
    middles = (edges[1:] + edges[:-1]) / 2
    smoothed = [(counts * np.exp(-0.5 * ((middles - m) / (smoothing * rough)) ** 2)).sum() for m in middles]
    peak, _ = peak_of(middles[np.argmax(smoothed)], smoothing * rough)

    def noise_beside(side):
        noise = rough
        for _ in range(4):
            d = side * (places - peak)
            near = (counts > 0) & (d > 0) & (d < 3 * noise)
            noise = np.sqrt((counts * d**3)[near].sum() / (counts * d)[near].sum() / (THIRD / FIRST))
        return noise

    noise = max(min(noise_beside(-1), noise_beside(1)), 0.3 * rough)
    different = np.unique(v[np.abs(v - peak) <= 2 * rough])
    step = (different[-1] - different[0]) / (different.size - 1) if 1 < different.size <= 16 else 0.0
    if step >= 1.25 * noise:
        peak, error = peak_of(peak, max(smoothing * noise, 1.2 * step))
        return peak, np.hypot(error, step / np.sqrt(12)), noise
    least = 0.6 * step
    peak, error = peak_of(peak, max(smoothing * noise, least / np.sqrt(1 - (least / noise) ** 2)))
    return peak, error, noise


CASES = {
    "49 values": sky(49),
    "50 values": sky(50, 4),
    "51 values": sky(51, 5),
    "200 values": sky(200),
    "2999 values": sky(2999),
    "5000 values": sky(5000),
    "stars": with_stars(4000),
    "stars, few values": with_stars(301),
    "absorption": with_stars(4000, side=-1),
    "a tight clump at the edge of a wide sky": np.concatenate([sky(450) / 50, np.linspace(2.5, 60, 550, dtype=np.float32)]),
    "on a high level": sky(1000, level=1e5),
    "steps of a third of the noise": in_steps(3000, SIGMA / 3),
    "steps as large as the noise": in_steps(3000, SIGMA),
    "steps of 1.2 times the noise": in_steps(3000, 1.2 * SIGMA),
    "steps of 1.4 times the noise": in_steps(2000, 1.4 * SIGMA),
    "steps of twice the noise, few values": in_steps(60, 2 * SIGMA),
    "steps of twice the noise, between two of them": in_steps(3000, 2 * SIGMA, phase=9.0),
    "all the same": np.full(60, 5, np.float32),
    "mostly the same": np.array([5.0] * 60 + [2.0, 6.5, 9.0], np.float32),
    "less than half are the same": np.array([5.0] * 29 + [6.0] * 2 + [7.0] * 29, np.float32),
    "a spike beside the sky": np.concatenate([sky(4000), np.full(150, 122.0, np.float32)]),
    "a narrow spike far from the sky": np.concatenate([sky(4000), np.full(400, 126.0, np.float32)]),
    "steps and stars": (np.round(with_stars(3000) / 4) * 4).astype(np.float32),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_histogram_mode_is_the_one_that_is_written_down(case):
    expected = histogram_mode_as_written(case)
    found = kernels.histogram_mode(np.sort(case))
    np.testing.assert_allclose(found, expected, rtol=2e-8)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-7 * SIGMA)
    assert statistics.histogram_mode(case) == found[:2]
    turned = kernels.histogram_mode(np.sort(-case))
    np.testing.assert_allclose(turned, histogram_mode_as_written(-case), rtol=2e-8)


def test_histogram_mode_of_one_value_or_none():
    np.testing.assert_equal(kernels.histogram_mode(np.zeros(0, np.float32)), (math.nan, math.nan, math.nan))
    np.testing.assert_equal(kernels.histogram_mode(np.array([3.0], np.float32)), (3.0, math.nan, 0.0))
    np.testing.assert_equal(kernels.histogram_mode(np.array([3.0, 5.0], np.float32)), (4.0, 1.2533, 1.0))


@pytest.mark.parametrize(("different", "step"), [(1, 0.0), (2, 2.0), (3, 2.0), (16, 2.0), (17, 0.0)])
def test_the_step_of_quantised_values_is_seen_in_up_to_16_of_them(different, step):
    numbers = np.random.default_rng(different).integers(1, 9, different)
    ordered = np.repeat(10 + 2.0 * np.arange(different), numbers).astype(np.float32)
    wide = np.concatenate([np.float32([-70, 1, 2]), ordered, np.float32([60, 61.5])])
    assert kernels._quantisation_step(ordered, -np.inf, np.inf) == step
    assert kernels._quantisation_step(wide, 9.0, 59.0) == step
    assert kernels._quantisation_step(wide, 10.0, 10.0 + 2 * (different - 1)) == step  # the limits belong to it
    assert kernels._quantisation_step(wide, -9.0, -1.0) == 0.0  # there is no value


def test_the_first_of_two_equally_high_peaks_is_the_guess():
    counts = np.zeros(256)
    counts[[40, 41, 180, 181]] = 5.0
    assert kernels._smoothed_peak(counts, 10.0, 0.5, 0.05) == 10 + 0.5 * 40.5
    counts[100] = 11.0
    assert kernels._smoothed_peak(counts, 10.0, 0.5, 0.05) == 10 + 0.5 * 100.5
    assert kernels._smoothed_peak(counts, 10.0, 0.5, 1.0) == 10 + 0.5 * 100.5
    counts[[0, 255]] = [30.0, 31.0]  # at the edges half of the smoothing is cut off
    assert kernels._smoothed_peak(counts, 0.0, 1.0, 4.0) == 255.5
    assert kernels._smoothed_peak(np.zeros(256), 3.0, 2.0, 4.0) == 4.0
    counts = np.zeros(256)
    counts[[40, 50, 60, 150]] = [5.0, 10.0, 5.0, 10.3]  # 10.44 at 50, with what is 2.5 kernels away
    assert kernels._smoothed_peak(counts, 0.0, 1.0, 4.0) == 50.5


def test_a_peak_without_any_value_near_it_stays_where_it_was_guessed():
    counts, places = np.zeros(256), np.arange(256.0)
    assert kernels._peak(counts, places, 30.0, 2.0) == (30.0, 2.0)
    counts[200] = 4.0
    assert kernels._peak(counts, places, 30.0, 2.0) == (30.0, 2.0)  # 85 kernels away
    assert kernels._peak(counts, places, 196.0, 2.0)[0] == pytest.approx(200.0, abs=1e-8)
    assert kernels._noise_beside(counts, places, 200.0, 3.5, 1) == 3.5  # nothing on this side, or on the other
    assert kernels._noise_beside(counts, places, 200.0, 3.5, -1) == 3.5
    ratio = (2 - 11 * math.exp(-4.5)) / (1 - math.exp(-4.5))  # of the third to the first moment of a Gaussian cut at 3
    assert kernels._noise_beside(counts, places, 190.0, 3.5, 1) == pytest.approx(10 / math.sqrt(ratio))
    assert kernels._noise_beside(counts, places, 190.0, 3.3, 1) == 3.3  # more than 3 times the rough value away
