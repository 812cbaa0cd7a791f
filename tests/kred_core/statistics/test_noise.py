"""The noise of a pixel is that of the pixels, whatever else is on the detector."""

import numpy as np
import pytest

from kred_core.exposures.exposure import Exposure
from kred_core.fits.hdu import number
from kred_core.simulate import simulate_field
from kred_core.statistics import pixel_noise

SIGMA = 8.0


def sky(shape=(400, 500), sigma=SIGMA, seed=3, level=1000.0):
    return np.random.default_rng(seed).normal(level, sigma, shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(400, 500), (4094, 2046), (16, 2000)])
def test_the_noise_of_a_plain_sky(shape):
    assert pixel_noise(sky(shape)) == pytest.approx(SIGMA, rel=0.02)


def test_steps_slopes_and_smooth_emission_do_not_widen_it():
    y, x = np.mgrid[:400, :500]
    for added in (5 * x, np.where(x < 250, 0, 600), 3000 * np.exp(-((x - 200) ** 2 + (y - 100) ** 2) / 5000)):
        assert pixel_noise(sky() + added) == pytest.approx(SIGMA, rel=0.02)


def test_masked_and_undefined_pixels_are_nowhere():
    pixels, bad = sky(), np.zeros((400, 500), bool)
    bad[:, ::7] = True
    pixels[bad] = 1e30
    assert pixel_noise(pixels, bad) == pytest.approx(SIGMA, rel=0.02)
    pixels[bad] = np.nan
    assert pixel_noise(pixels) == pixel_noise(pixels, bad)
    pixels[::2] = np.inf
    assert pixel_noise(pixels) == pytest.approx(SIGMA, rel=0.03)
    with pytest.raises(ValueError, match="a mask of"):
        pixel_noise(pixels, bad[:5])


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("level", [100.0, 100.3])
def test_whole_numbers_have_the_noise_that_rounding_leaves(sigma, level):
    rounded = np.round(sky(sigma=sigma, level=level))
    assert pixel_noise(rounded) == pytest.approx(rounded.std(), rel=0.2 if sigma < 0.6 else 0.05)


def test_more_than_nine_equal_neighbours_of_ten_are_no_noise():
    rng = np.random.default_rng(4)
    hot = np.where(rng.random((256, 128)) < 0.01, rng.uniform(10, 5000, (256, 128)), 0)
    assert pixel_noise(hot) == pixel_noise(np.full((50, 50), 7.0)) == pixel_noise(np.arange(3000.0).reshape(30, 100)) == 0
    assert np.isnan(pixel_noise(np.full((50, 50), np.nan)))
    assert np.isnan(pixel_noise(sky((50, 2))))


@pytest.mark.parametrize(
    ("binning", "nebula", "continuum", "stars"),
    [(4, 0, 0, 300), (4, 400, 60, 300), (4, 400, 60, 1e5), (4, 4000, 600, 1e4), (8, 400, 60, 1e4), (8, 4000, 600, 1e4)],
)
def test_on_simulated_detectors_it_is_right_to_5_per_cent_whatever_they_see(binning, nebula, continuum, stars, tmp_path):
    """Against the noise that was put in: the median over the pixels of sqrt(signal / gain + read noise^2)."""
    options = {"binning": binning, "tiles": ["T07"], "bands": ["N662"], "exposures": [1], "n_detectors": 2, "cosmic_rays": 0.0}
    options |= {"nebula": nebula, "continuum": continuum, "star_density": stars}
    for noise in (True, False):
        simulate_field(tmp_path / str(noise), noise=noise, **options)
    noisy, truth = (Exposure.open(next(tmp_path.glob(f"{noise}/DECam_MEF/*/mef/*ooi*"))).detectors for noise in (True, False))
    for detector, true in zip(noisy, truth, strict=True):
        signal, bad = true.pixels(), detector.mask_codes() > 0
        left = np.arange(signal.shape[1]) < signal.shape[1] // 2
        gain, read = (np.where(left, *(number(true.header, key + amp) for amp in "AB")) for key in ("GAIN", "RDNOISE"))
        put_in = np.sqrt(np.maximum(signal, 0) / gain + (read / gain) ** 2)
        assert pixel_noise(detector.pixels(), bad) == pytest.approx(np.median(put_in[~bad]), rel=0.05)
