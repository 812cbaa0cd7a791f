"""Stacks whose median and means are known."""

import numpy as np
import pytest

from kred_core.coadd.combine import Combiner


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


@pytest.mark.parametrize("n", [*range(1, 11), 33])
def test_median_is_numpys(n):
    values = np.random.default_rng(n).normal(0, 5, (n, 3, 700)).astype(np.float32)
    image, coverage = stack("median", values)
    np.testing.assert_allclose(image, np.median(values, axis=0), rtol=1e-6)
    assert (coverage == n).all()


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
    assert one("clipped", [1000.0, 750.0, 1250.0])[0] == pytest.approx(1000.0)  # stars differ by their seeing
    assert one("clipped", [3.0, 5000.0]) == (3.0, 2)  # of two that exclude each other the smaller one
    assert 0 < one("median", [-1.0, 1.0])[0] < 1e-20  # a value of 0 is not no data
