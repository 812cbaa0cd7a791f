"""Resampling: exact where it must be, and nothing of a masked pixel anywhere."""

import numpy as np
import pytest

from kred_core.background import Background
from kred_core.coadd.plan import PixelMap
from kred_core.coadd.resample import block_mean, fill_masked, footprint, lanczos3, resample


def straight_map(shape, origin=(0.0, 0.0), along_x=(1.0, 0.0), along_y=(0.0, 1.0), step=16):
    """Map in which a pixel of the box further along x or y is a constant vector (u, v) further in the detector."""
    y, x = np.mgrid[: (shape[0] - 1) // step + 2, : (shape[1] - 1) // step + 2] * float(step)
    return PixelMap(origin[0] + along_x[0] * x + along_y[0] * y, origin[1] + along_x[1] * x + along_y[1] * y, step, shape, 0.0)


def positions(where):
    """Detector coordinates of all pixels of the box of a straight map."""
    rows, columns = np.mgrid[: where.shape[0], : where.shape[1]] / where.step
    u0, v0 = where.u[0, 0], where.v[0, 0]
    u = u0 + columns * (where.u[0, 1] - u0) + rows * (where.u[1, 0] - u0)
    return u, v0 + columns * (where.v[0, 1] - v0) + rows * (where.v[1, 0] - v0)


def brute_force(image, where):
    """The definition, pixel by pixel in double precision."""
    out = np.full(where.shape, np.nan)
    u, v = positions(where)
    ny, nx = image.shape
    for place in np.ndindex(out.shape):
        iu, iv = int(np.floor(u[place])), int(np.floor(v[place]))
        if 2 <= iu < nx - 3 and 2 <= iv < ny - 3:
            patch = image[iv - 2 : iv + 4, iu - 2 : iu + 4].astype(np.float64)
            out[place] = lanczos3(v[place] - iv) @ patch @ lanczos3(u[place] - iu)
    return out


@pytest.fixture
def noise():
    return np.random.default_rng(1).normal(0, 1, (70, 90)).astype(np.float32)


def test_weights_of_lanczos3():
    phase = np.linspace(0, 1, 11)
    weights = lanczos3(phase)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-15)
    np.testing.assert_allclose(weights[0], [0, 0, 1, 0, 0, 0], atol=1e-15)
    np.testing.assert_allclose(weights[5], weights[5][::-1], atol=1e-15)
    # sinc(0.5) sinc(0.5/3) : sinc(1.5) sinc(0.5), by hand
    half = [np.sin(np.pi * t) * np.sin(np.pi * t / 3) * 3 / (np.pi * t) ** 2 for t in (0.5, 1.5, 2.5)]
    np.testing.assert_allclose(weights[5][3:], np.array(half) / (2 * sum(half)), atol=1e-15)


def test_nothing_before_the_first_pixel_is_read():
    memory = np.full(1 + 64, np.nan, np.float32)
    image = memory[1:].reshape(8, 8)
    image[:] = 5
    out, n_good = resample(image, straight_map(image.shape))
    assert n_good == 9
    np.testing.assert_array_equal(out[2:5, 2:5], 5)


def test_a_detector_too_small_for_the_kernel_covers_nothing():
    image = np.ones((7, 30), np.float32)
    out, n_good = resample(image, straight_map((10, 30)))
    assert n_good == 0
    assert np.isnan(out).all()
    assert not footprint(straight_map((10, 30)), image.shape).any()


@pytest.mark.parametrize("axes", [((0.97, 0.02), (-0.02, 0.97)), ((0.01, 0.97), (-0.97, 0.02)), ((-0.7, 0.7), (0.7, 0.7))])
def test_the_definition_in_any_orientation(noise, axes):
    where = straight_map((100, 130), (60.0, 30.0) if axes[0][0] < 0 else (40.0, 5.0), *axes)
    out, _ = resample(noise, where)
    expected = brute_force(noise, where)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    np.testing.assert_array_equal(footprint(where, noise.shape), np.isfinite(expected))
    np.testing.assert_allclose(out, expected, atol=3e-3)  # 4096 phases: up to 1.2e-4 pixel times the slope of noise
    assert np.isfinite(expected).sum() > 1000


class TestMasks:
    """What a masked pixel takes with it."""

    def test_far_from_it_nothing_changes(self, noise):
        where = straight_map(noise.shape, (0.4, 0.3))
        clean, n_clean = resample(noise, where)
        bad = np.zeros(noise.shape, bool)
        bad[40, 50] = True
        image = noise.copy()
        near = fill_masked(image, bad, 0.0)
        out, n_good = resample(image, where, bad, near)
        u, v = positions(where)
        far = (np.abs(np.floor(u) - 50 + 0.5) > 3) | (np.abs(np.floor(v) - 40 + 0.5) > 3)
        np.testing.assert_array_equal(out[far], clean[far])
        lost = np.isnan(out) & np.isfinite(clean)
        assert n_clean - n_good == lost.sum()
        np.testing.assert_array_equal(np.hypot(u[lost] - 50, v[lost] - 40) < 1, True)

    def test_filled_with_the_mean_of_the_nearest_good_pixels(self):
        image = np.arange(100, dtype=np.float32).reshape(10, 10)
        bad = np.zeros(image.shape, bool)
        bad[5, 5] = True
        image[bad] = np.nan
        fill_masked(image, bad, 0.0)
        assert image[5, 5] == 55.0
        bad[:] = True
        fill_masked(image, bad, 123.0)
        assert (image == 123).all()


@pytest.mark.parametrize(("columns", "sides"), [(6, [-1, -1, -1, 1, 1, 1]), (5, [-1, -1, 0, 1, 1])])
def test_a_plane_and_a_step_are_subtracted_about_the_centre(columns, sides):
    image = np.full((4, columns), 100.0, np.float32)
    Background(7.0, 2.0, 10.0, 3.0).subtract_variation(image)
    y, x = np.mgrid[:4, :columns]
    expected = 100 - 2 * (x - (columns - 1) / 2) - 10 * (y - 1.5) - 1.5 * np.array(sides)
    np.testing.assert_allclose(image, expected, rtol=1e-6)


def test_block_mean_leaves_out_what_has_no_data():
    fine = np.array([[1, 3, np.nan, np.nan], [5, 7, np.nan, 2]], np.float32)
    np.testing.assert_array_equal(block_mean(fine, 2), [[4, 2]])
    assert np.isnan(block_mean(np.full((2, 2), np.nan, np.float32), 2)).all()
