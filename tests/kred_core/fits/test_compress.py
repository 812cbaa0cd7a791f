"""Images quantised in given steps are read alike by kred, astropy and cfitsio, and say what they said before."""

import fitsio
import numpy as np
import pytest
from astropy.io import fits

from kred_core.fits import rice
from kred_core.fits.compress import compressed_image, quantised_image
from kred_core.fits.hdu import scan
from kred_core.fits.pixels import read_pixels


def patchy():
    """Noise of 1 with a bright star, a level jump, missing corners and rows without any or with constant values."""
    image = np.random.default_rng(1).normal(0, 1, (90, 333)).astype(np.float32)
    image[40, 100] = 1e6
    image[:, 200:] += 300
    image[:30, :25] = np.nan
    image[5] = np.nan
    image[6] = 4.0
    image[7, 50:] = np.inf
    return image


def stored(tmp_path, image, *how):
    path = tmp_path / "image.fits"
    path.write_bytes(fits.PrimaryHDU().header.tostring().encode() + b"".join(quantised_image({"EXTNAME": ("N4", "")}, image, *how)))
    return path


@pytest.mark.parametrize("dither", [0, 17])
def test_every_reader_gets_the_same_values_within_half_a_step(tmp_path, dither):
    image, step = patchy(), 0.05
    path = stored(tmp_path, image, step, dither)
    hdu = scan(path)[1]
    assert rice.can_decode(hdu.header)
    decoded = read_pixels(hdu)
    with fits.open(path, checksum=True) as f:
        f.verify("exception")
        assert np.array_equal(f["N4"].data, decoded, equal_nan=True)
    assert np.array_equal(fitsio.read(str(path), ext=1), decoded, equal_nan=True)
    good = np.isfinite(image)
    assert np.array_equal(np.isfinite(decoded), good)
    faint = good & (np.abs(image) < 1e5)  # float32 has steps of its own beyond
    rounding = (decoded - image)[faint] / step
    assert np.abs(rounding).max() < 0.5001
    assert abs(rounding.mean()) < 4 * 0.289 / np.sqrt(rounding.size)


def test_whole_numbers_of_steps_are_exact_without_dithering(tmp_path):
    counts = np.random.default_rng(2).integers(0, 65536, (40, 70)).astype(np.float32)
    assert np.array_equal(read_pixels(scan(stored(tmp_path, counts, 1.0))[1]), counts)


def test_values_too_large_for_the_step_get_a_larger_one(tmp_path):
    image = np.array([[1e12, -3e12, 0.0, np.nan]], np.float32)
    assert np.allclose(read_pixels(scan(stored(tmp_path, image, 1e-6, 5))[1]), image, rtol=1e-6, atol=1e4, equal_nan=True)


def test_a_row_longer_than_the_list_of_noise_is_read_within_half_a_step(tmp_path):
    image = np.random.default_rng(3).normal(100, 4, (1, 10_400)).astype(np.float32)
    path = tmp_path / "image.fits"
    primary = fits.PrimaryHDU().header.tostring().encode()
    path.write_bytes(primary + b"".join(compressed_image({"EXTNAME": ("N4", "")}, image, 10_000)))
    assert scan(path)[1].compressed
    assert np.abs(read_pixels(scan(path)[1]) - image).max() < 0.55  # half of the step, a quarter of the noise, that was measured
