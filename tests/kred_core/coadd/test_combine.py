"""Stacks whose median and means are known."""

import itertools

import numpy as np
import pytest

from kred_core.coadd.combine import Combiner
from kred_core.statistics import sorting_networks


def calibrated(method, clip_sigma, noise):
    """A combiner of layers that are in counts28 already, their backgrounds subtracted."""
    return Combiner(method, clip_sigma, np.ones(len(noise)), np.zeros(len(noise)), noise)


def stack(method, values, noise=None, clip_sigma=4.0):
    """Combine whole layers, shape (layers, rows, columns)."""
    values = np.asarray(values, dtype=np.float32)
    noise = np.ones(len(values)) if noise is None else np.asarray(noise)
    layers = [(k, 0, 0, layer) for k, layer in enumerate(values)]
    return calibrated(method, clip_sigma, noise).rows(values.shape[1:], layers)


def one(method, values, **options):
    """Combine some values for one pixel."""
    image, coverage = stack(method, np.reshape(values, (-1, 1, 1)), **options)
    return image[0, 0], coverage[0, 0]


def test_networks_sort():
    # A network that sorts every sequence of 0 and 1 sorts everything (Knuth's zero-one principle).
    pairs, starts = sorting_networks(10)
    for m in range(11):
        for sequence in itertools.product((0, 1), repeat=m):
            values = list(sequence)
            for i, j in pairs[starts[m] : starts[m + 1]]:
                if values[i] > values[j]:
                    values[i], values[j] = values[j], values[i]
            assert values == sorted(sequence)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 16, 33])
def test_median_is_numpys(n):
    values = np.random.default_rng(n).normal(0, 5, (n, 3, 700)).astype(np.float32)
    image, coverage = stack("median", values)
    np.testing.assert_allclose(image, np.median(values, axis=0), rtol=1e-6)
    assert (coverage == n).all()


def test_a_value_of_zero_is_not_no_data():
    image, coverage = one("median", [-1.0, 1.0])
    assert coverage == 2
    assert 0 < image < 1e-20


def test_layers_cover_parts_of_the_rows():
    combiner = calibrated("median", 4.0, np.ones(2))
    layers = [(0, 0, 1, np.full((2, 3), 1, np.float32)), (1, 1, 2, np.full((2, 3), 3, np.float32))]
    image, coverage = combiner.rows((3, 6), iter(layers))
    np.testing.assert_array_equal(coverage, [[0, 1, 1, 1, 0, 0], [0, 1, 2, 2, 1, 0], [0, 0, 1, 1, 1, 0]])
    np.testing.assert_array_equal(image, [[0, 1, 1, 1, 0, 0], [0, 1, 2, 2, 3, 0], [0, 0, 3, 3, 3, 0]])


def test_each_layer_has_its_own_factor_and_background():
    combiner = Combiner("weighted", 4.0, np.array([2.0, 0.5]), np.array([100.0, 60.0]), np.ones(2))
    layers = [(1, 0, 0, np.full((1, 2), 200, np.float32)), (0, 0, 1, np.full((1, 1), 51, np.float32))]
    image, coverage = combiner.rows((1, 2), layers)
    np.testing.assert_array_equal(image, [[40, 21]])  # 200/2 - 60 alone, and its mean with 51 x 2 - 100
    np.testing.assert_array_equal(coverage, [[1, 2]])


def test_weights_are_inverse_variances():
    value, coverage = one("weighted", [10.0, 20.0], noise=[1.0, 2.0])
    assert value == pytest.approx((10 / 1 + 20 / 4) / (1 + 1 / 4))
    assert coverage == 2


def test_clipping_leaves_out_a_cosmic_ray():
    value, coverage = one("clipped", [1.0, -1.0, 0.5, 5000.0], noise=[1, 1, 2, 1])
    assert value == pytest.approx((1 - 1 + 0.5 / 4) / (1 + 1 + 1 / 4))
    assert coverage == 4  # what had data there


def test_clipping_keeps_stars_that_differ_by_their_seeing():
    assert one("clipped", [1000.0, 750.0, 1250.0])[0] == pytest.approx(1000.0)


def test_of_two_that_exclude_each_other_the_smaller_stays():
    assert one("clipped", [3.0, 5000.0]) == (3.0, 2)


@pytest.mark.parametrize("method", ["median", "clipped", "weighted"])
def test_rows_can_be_cut_anywhere(method):
    rng = np.random.default_rng(5)
    values = rng.normal(0, 1, (9, 12, 600)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    noise = rng.uniform(1, 2, 9)
    combiner = calibrated(method, 1.5, noise)
    whole = combiner.rows((12, 600), [(k, 0, 0, v) for k, v in enumerate(values)])
    parts = [combiner.rows((3, 600), [(k, 0, 0, v[i : i + 3]) for k, v in enumerate(values)]) for i in range(0, 12, 3)]
    for i in range(2):
        assert np.concatenate([part[i] for part in parts]).tobytes() == whole[i].tobytes()
