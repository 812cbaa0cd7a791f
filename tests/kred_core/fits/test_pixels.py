"""Masks are decoded as astropy decodes them; other forms are left to it."""

import numpy as np
import pytest
from astropy.io import fits

from kred_core.errors import ExposureError
from kred_core.fits import pixels
from kred_core.fits.hdu import scan
from kred_core.fits.pixels import read_pixels

RANDOM = np.random.default_rng(3)


def stored(path, data, **options):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, name="N1", **options)]).writeto(path)
    return scan(path)[1]


@pytest.mark.parametrize(
    ("kind", "options"),
    [(np.uint16, {}), (np.float32, {"quantize_level": 0}), (np.int16, {"tile_shape": (10, 10)})],  # uint16: with BZERO
)
def test_other_forms_are_left_to_astropy(tmp_path, kind, options):
    data = np.arange(400).reshape(20, 20).astype(kind)
    hdu = stored(tmp_path / "m.fits.fz", data, compression_type="GZIP_1", **options)
    assert not pixels._is_plain_mask(hdu.header)
    assert np.array_equal(read_pixels(hdu, np.float32), data)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_integers_come_out_as_they_went_in_and_damage_names_the_row(tmp_path, kind):
    path, data = tmp_path / "m.fits.fz", RANDOM.integers(0, 100, (30, 70)).astype(kind)
    hdu = stored(path, data, compression_type="GZIP_1")
    assert pixels._is_plain_mask(hdu.header)
    assert np.array_equal(read_pixels(hdu, np.int32), data)
    raw = bytearray(path.read_bytes())
    raw[hdu.data_start + hdu.data_length - 40] ^= 0xFF  # in the last row's bytes
    path.write_bytes(raw)
    with pytest.raises(ExposureError, match="N1: row 30 is damaged"):
        read_pixels(scan(path)[1], np.int32)


def test_rows_that_are_the_same_come_out_where_they_were(tmp_path):
    data = np.zeros((50, 70), np.int16)
    data[:, 30] = 1
    data[[7, 20, 21]] = RANDOM.integers(0, 100, (3, 70))
    data[40] = data[7]
    hdu = stored(tmp_path / "m.fits.fz", data, compression_type="GZIP_1")
    decoded = read_pixels(hdu, np.int16)
    assert np.array_equal(decoded, data)
    decoded[7] = -1  # each row has memory of its own
    assert np.array_equal(decoded[40], data[40])


@pytest.mark.parametrize("storage", ["GZIP_1", "RICE_1"])
def test_values_that_a_type_cannot_hold_become_its_limits(tmp_path, storage):
    data = np.array([[-32768, -1, 0, 255, 256, 32767]] * 20, np.int16)
    hdu = stored(tmp_path / "m.fits.fz", data, compression_type=storage)
    assert read_pixels(hdu, np.uint8)[3].tolist() == [0, 0, 0, 255, 255, 255]
    assert np.array_equal(read_pixels(hdu, np.int64), data)
