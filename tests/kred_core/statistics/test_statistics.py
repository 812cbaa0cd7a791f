"""Estimators of the sky level against their definitions and against skies that are known."""

import numpy as np
import pytest
from astropy.stats import sigma_clipped_stats

from kred_core import evaluation, statistics
from kred_core.binned import average, quicklook
from kred_core.statistics import kernels

SIGMA = 7.0
SKY = 100.0


def half_sample_mode_as_written(values):
    """Word for word: sort; while n > 2, h = (n+1)//2, the first narrowest of v[n-h:] - v[:h], keep v[k:k+h]."""
    v = np.sort(np.asarray(values, np.float32))
    n = v.size
    while n > 2:
        h = (n + 1) // 2
        k = int(np.argmin(v[n - h :] - v[:h]))
        v = v[k : k + h]
        n = h
    return float(np.mean(v))


def noise(rng, n):
    return rng.normal(SKY, SIGMA, n).astype(np.float32)


def contaminated(rng, n, fraction=0.2, scale=20.0):
    """A fraction of the pixels have stars or nebula in them: an exponential of 20 DN, as in the table of METHODS."""
    values = noise(rng, n)
    values[: int(fraction * n)] += rng.exponential(scale, int(fraction * n)).astype(np.float32)
    return values


def quantised(rng, values, step, dithered):
    """As RICE_1 with q = SIGMA/step stores them: rounded, with a dither that is subtracted again or without one."""
    phase = rng.uniform(0, step)
    dither = rng.random(values.size) - 0.5 if dithered else 0.0
    return ((np.round((values - phase) / step + dither) - dither) * step + phase).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 1000, 1001, 50000])
@pytest.mark.parametrize("digits", [6, 1, 0, -1], ids=["no ties", "some ties", "integers", "many ties"])
def test_half_sample_mode_is_the_one_that_is_written_down(n, digits):
    values = np.random.default_rng(n).normal(3, 20, n).round(digits).astype(np.float32)
    assert statistics.half_sample_mode(values) == half_sample_mode_as_written(values)


def test_byte_order_type_and_order_of_the_pixels_do_not_matter():
    rng = np.random.default_rng(2)
    values = contaminated(rng, 5001)
    expected = statistics.half_sample_mode(values)
    assert statistics.half_sample_mode(values.astype(">f4")) == expected
    assert statistics.half_sample_mode(values.astype(np.float64)) == expected
    assert statistics.half_sample_mode(rng.permutation(values).reshape(3, -1)[:, ::-1]) == expected
    whole = np.round(values).astype(np.int16)
    assert statistics.half_sample_mode(whole) == half_sample_mode_as_written(whole)


def modes_of(make, n_trials, seed=10):
    rng = np.random.default_rng(seed)
    return np.array([statistics.histogram_mode(make(rng)) for _ in range(n_trials)]).T


@pytest.mark.parametrize(("n", "largest_pull"), [(100, 1.25), (1000, 1.12), (30000, 1.12)])
def test_scatter_is_below_three_sigma_over_root_n_and_is_what_is_stated(n, largest_pull):
    found, error = modes_of(lambda rng: noise(rng, n), 300)
    assert found.std() < 3 * SIGMA / np.sqrt(n)
    assert abs(found.mean() - SKY) < 4 * found.std() / np.sqrt(300)
    assert 0.88 < np.std((found - SKY) / error) < largest_pull


@pytest.mark.parametrize("scale", [SIGMA, 2 * SIGMA, 20.0, 10 * SIGMA])
def test_a_fifth_of_the_pixels_contaminated_on_one_side_shifts_it_by_less_than_a_tenth_sigma(scale):
    found, error = modes_of(lambda rng: contaminated(rng, 20000, 0.2, scale), 60)
    assert 0 < found.mean() - SKY < 0.1 * SIGMA
    assert found.std() < 3 * SIGMA / np.sqrt(20000)
    assert 0.75 < np.std(found - found.mean()) / error.mean() < 1.3


@pytest.mark.parametrize("step", [SIGMA / 4, SIGMA / 2, SIGMA])
@pytest.mark.parametrize("dithered", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_quantisation_does_not_shift_it(step, dithered, fraction):
    found, error = modes_of(lambda rng: quantised(rng, contaminated(rng, 20000, fraction), step, dithered), 60)
    assert abs(found.mean() - SKY) < (0.1 if fraction else 0.01) * SIGMA
    assert found.std() < 3 * SIGMA / np.sqrt(20000)
    assert 0.75 < found.std() / error.mean() < 1.35


def test_plain_statistics_are_those_of_float64_arithmetic():
    values = contaminated(np.random.default_rng(7), 200 * 300).reshape(300, 200) + np.float32(50000)
    found = statistics.statistics(values)
    exact = values.astype(np.float64)
    assert found.mean == pytest.approx(exact.mean(), rel=1e-14)
    assert found.std == pytest.approx(exact.std(), rel=1e-12)
    assert found.median == np.median(exact)
    assert (found.n, found.n_nan) == (60000, 0)
    assert (found.minimum, found.maximum) == (exact.min(), exact.max())
    assert found.mode == half_sample_mode_as_written(values.ravel())
    assert (found.histogram_mode, found.histogram_mode_error) == statistics.histogram_mode(values)


def test_masked_pixels_do_not_enter():
    rng = np.random.default_rng(8)
    values = noise(rng, 90000).reshape(300, 300)
    bad = rng.random(values.shape) < 0.3
    spoilt = np.where(bad, rng.uniform(-1e6, 1e6, values.shape), values).astype(np.float32)
    spoilt[0, :5], spoilt[1, :7] = np.nan, np.inf
    bad[0, :5] = True
    bad[1, :7] = False
    found = statistics.statistics(spoilt, bad)
    good = ~bad & np.isfinite(spoilt)
    assert found == statistics.SkyStatistics(**{**vars(statistics.statistics(values[good])), "n_nan": 12})
    assert found.n == good.sum()


def test_clipping_is_astropys_clipping_until_nothing_changes():
    values = contaminated(np.random.default_rng(9), 40000)
    values[:50] = 1e6
    plain = statistics.statistics(values)
    for sigma in (2.0, 3.0, 4.5):
        expected = sigma_clipped_stats(values.astype(np.float64), sigma=sigma, maxiters=None)
        clipped = statistics.statistics(values, clipped=True, clip_sigma=sigma)
        assert (clipped.mean, clipped.median, clipped.std) == pytest.approx(expected, rel=1e-12)
        assert (clipped.n, clipped.mode, clipped.maximum) == (plain.n, plain.mode, plain.maximum)
    # A value exactly at the limit stays: the standard deviation is 1, the median 0.
    limit = statistics.statistics([-1.0, -1.0, 1.0, 1.0], clipped=True, clip_sigma=1.0)
    assert (limit.mean, limit.median, limit.std) == (0.0, 0.0, 1.0)
    assert statistics.statistics(values, clipped=True) == statistics.statistics(values, clipped=True, clip_sigma=3.0)


def test_an_image_without_a_good_pixel():
    found = statistics.statistics(np.full((5, 5), np.nan, np.float32))
    assert (found.n, found.n_nan) == (0, 25)
    assert np.isnan([found.mean, found.median, found.std, found.mode, found.histogram_mode, found.minimum]).all()
    assert statistics.statistics(np.zeros((5, 5)), np.ones((5, 5), bool), clipped=True).n == 0
    with pytest.raises(ValueError, match="a mask of 4 pixels does not fit an image of 25"):
        statistics.statistics(np.zeros((5, 5)), np.zeros((2, 2), bool))


def test_the_interpreter_stays_free_while_kernels_run():
    modules = kernels, statistics, average, quicklook, evaluation
    compiled = [value for module in modules for value in vars(module).values() if hasattr(value, "targetoptions")]
    held = [kernel.__name__ for kernel in compiled if not kernel.targetoptions.get("nogil")]
    assert len(compiled) > 20
    assert set(held) <= {"variation"}  # inlined into one that does


@pytest.mark.parametrize("n", [1, 4095, 4096, 16384, 50_000])
def test_sums_are_those_of_blocks_of_4096_in_their_order_to_the_last_bit(n):
    """Several are added up at a time; older tables must not change by that."""
    values = noise(np.random.default_rng(n), n)
    ordered = np.sort(values).astype(np.float64)

    def total(terms):  # cumsum adds one after the other
        return np.cumsum([np.cumsum(terms[i : i + 4096])[-1] for i in range(0, n, 4096)])[-1]

    found = statistics.statistics(values)
    assert found.mean == total(ordered) / n
    assert found.std == np.sqrt(total((ordered - found.mean) ** 2) / n)
