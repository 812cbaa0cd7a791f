"""The numbers of a mosaic are those of its covered pixels, whatever its size, and cost little memory."""

import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from kred_core import evaluation
from kred_core.errors import InputError
from kred_core.evaluation import (
    MOSAICS,
    MosaicNumbers,
    ReducedImage,
    block_jump,
    block_medians,
    block_side,
    low_pass_rms,
    measure_mosaic,
    mosaic_table,
)
from kred_core.products import tables
from kred_core.sky import Grid, tan_header


def tan(shape, scale=1.0, ra=81.8, dec=-66.5):
    return tan_header(Grid(ra, dec, scale, shape[1], shape[0]))


def write(directory, image, coverage, header=None):
    """A mosaic and its coverage map as the co-adder stores them."""
    mosaic, depth = directory / "F_T01.N662.fits", directory / "F_T01.N662.coverage.fits.fz"
    header = header or tan(image.shape)
    fits.writeto(mosaic, image.astype(np.float32), header, overwrite=True)
    hdus = [fits.PrimaryHDU(), fits.CompImageHDU(coverage.astype(np.int16), header, compression_type="RICE_1")]
    fits.HDUList(hdus).writeto(depth, overwrite=True)
    return mosaic, depth


@pytest.fixture
def patchy(tmp_path):
    """Noise with bright stars and ragged coverage; odd sizes, so that nothing divides evenly."""
    rng = np.random.default_rng(5)
    image = rng.normal(-3, 2, (331, 277)).astype(np.float32)
    image[rng.random(image.shape) < 0.01] += 5000
    coverage = np.zeros(image.shape, int)
    coverage[40:, 30:] += 3
    coverage[200:, :100] += 2
    coverage[rng.random(image.shape) < 0.05] = 0
    image[coverage == 0] = 0
    image[50, 60:70] = np.nan
    return image, coverage, *write(tmp_path, image, coverage)


def test_medians_means_and_deviations_are_exactly_those_of_the_covered_pixels(patchy):
    image, coverage, mosaic, depth = patchy
    numbers, _ = measure_mosaic(mosaic, depth, 200)
    good = (coverage > 0) & np.isfinite(image)
    values = image[good].astype(np.float64)
    differences = np.abs(np.diff(np.where(good, image, np.nan), axis=1))
    noise = 1.4826022185 * np.nanmedian(differences.astype(np.float64)) / np.sqrt(2)
    assert (numbers.n_covered, numbers.covered_fraction) == (good.sum(), good.sum() / image.size)
    assert (numbers.coverage_median, numbers.coverage_max) == (np.median(coverage[good]), 5)
    assert numbers.level == np.median(values)
    assert (numbers.mean, numbers.std) == pytest.approx((values.mean(), values.std()), rel=1e-13)
    assert numbers.noise == pytest.approx(noise, rel=1e-9)


@pytest.mark.parametrize("values", [[7.0], [1.0, 2.0], [-1.0, 1.0], [-2.0, -1.0, 0.0, -0.0], [1e-40, -1e-40, 3e38], [0.5] * 6])
def test_the_median_of_few_values_of_either_sign_is_exact(tmp_path, values):
    image = np.zeros((8, 8))
    image[3, : len(values)] = values
    coverage = np.zeros((8, 8))
    coverage[3, : len(values)] = 1
    numbers, _ = measure_mosaic(*write(tmp_path, image, coverage), 200)
    assert numbers.level == np.median(np.float32(values).astype(np.float64))
    assert numbers.n_covered == len(values)


def test_results_depend_neither_on_strips_nor_on_threads(patchy, monkeypatch):
    *_, mosaic, depth = patchy
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: measure_mosaic(mosaic, depth, 100), range(8)))
    assert len({json.dumps(numbers.to_dict()) for numbers, _ in results}) == 1
    assert len({reduced.image.tobytes() for _, reduced in results}) == 1
    monkeypatch.setattr(evaluation, "STRIP_PIXELS", 1)
    numbers, reduced = measure_mosaic(mosaic, depth, 100)
    assert numbers.to_dict() == pytest.approx(results[0][0].to_dict(), rel=1e-14)
    np.testing.assert_array_equal(reduced.image, results[0][1].image)


@pytest.mark.parametrize(("shape", "side"), [((8700, 8700), 64), ((2048, 9000), 64), ((545, 545), 17), ((100, 100), 8)])
def test_blocks_are_64_pixels_in_the_survey_and_smaller_in_small_mosaics(shape, side):
    assert block_side(shape) == side


def test_block_medians_leave_out_blocks_that_are_half_empty():
    image = np.arange(20 * 20, dtype=np.float32).reshape(20, 20)
    image[0:4, 8:16] = np.nan  # half of the block at row 0, column 1
    image[8:11, 8:16] = np.nan  # less than half of the one above
    medians = block_medians(image, 8)
    assert medians.shape == (3, 3)
    assert medians[0, 0] == np.median(image[:8, :8])
    assert np.isnan(medians[0, 1])
    assert medians[1, 1] == np.median(image[11:16, 8:16])
    assert np.isnan(medians[:, 2]).all()  # cut by the edge to 4 of 8 columns


def test_a_step_between_detectors_is_the_seam(tmp_path):
    noise = np.random.default_rng(3).normal(0, 1, (512, 512))
    image = noise + np.where(np.arange(512) < 256, 0, 10)  # 32 of 2 x 32 x 31 borders of blocks lie on the step: 1.6 %
    numbers, flat = (measure_mosaic(*write(tmp_path, values, np.ones(image.shape)), 200)[0] for values in (image, noise))
    assert numbers.block == 16
    assert numbers.block_jump == pytest.approx(10, abs=0.3)
    assert numbers.low_pass_rms == pytest.approx(5, abs=0.1)
    assert flat.block_jump == pytest.approx(0.285, rel=0.15)  # noise alone: 2.576 x sqrt(2) x 1.253 sigma / 16


def test_a_mosaic_without_neighbours_has_no_noise_and_no_seams(tmp_path):
    coverage = np.zeros((64, 64))
    coverage[::2, ::2] = 1
    numbers, _ = measure_mosaic(*write(tmp_path, np.full((64, 64), 3.0), coverage), 200)
    assert (numbers.level, numbers.std) == (3, 0)
    assert numbers.noise is numbers.block_jump is numbers.low_pass_rms is None
    assert block_jump(np.full((3, 3), np.nan)) is None
    assert low_pass_rms(np.full((3, 3), np.nan)) is None


def test_a_reduced_pixel_is_the_mean_of_the_covered_pixels_of_its_block(patchy):
    image, coverage, mosaic, depth = patchy
    _, reduced = measure_mosaic(mosaic, depth, 50)
    assert reduced.factor == 7
    assert reduced.image.shape == (48, 40)
    good = (coverage > 0) & np.isfinite(image)
    for row, column in [(20, 20), (47, 39), (47, 3), (7, 8)]:
        block = np.s_[row * 7 : row * 7 + 7, column * 7 : column * 7 + 7]
        assert reduced.image[row, column] == pytest.approx(image[block][good[block]].mean(dtype=np.float64), rel=1e-6)
        assert reduced.coverage[row, column] == pytest.approx(coverage[block].mean(), rel=1e-6)
    assert np.isnan(reduced.image[0, 0])
    assert reduced.coverage[0, 0] == 0


@pytest.mark.parametrize(("ra", "dec"), [(81.8, -66.5), (0.001, 0), (359.99, -89)])
def test_reduced_pixels_lie_where_their_blocks_lie(tmp_path, ra, dec):
    header = tan((300, 301), 3.0, ra, dec)
    _, reduced = measure_mosaic(*write(tmp_path, np.ones((300, 301)), np.ones((300, 301)), header), 100)
    assert reduced.factor == 4
    x, y = np.meshgrid([0, 10, 74], [0, 33, 74])
    expected = WCS(header).wcs_pix2world(x * 4 + 1.5, y * 4 + 1.5, 0)
    np.testing.assert_allclose(reduced.wcs.wcs_pix2world(x, y, 0), expected, atol=1e-10)


def test_shrinking_again_is_averaging_again(patchy):
    *_, mosaic, depth = patchy
    _, fine = measure_mosaic(mosaic, depth, 331)
    assert fine.factor == 1
    _, coarse = measure_mosaic(mosaic, depth, 56)
    again = fine.shrink(6)
    assert again.factor == coarse.factor == 6
    np.testing.assert_allclose(again.image, coarse.image, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(again.coverage, coarse.coverage, rtol=1e-6)
    np.testing.assert_allclose(again.wcs.wcs.crpix, coarse.wcs.wcs.crpix)
    assert fine.shrink(1) is fine


def test_a_reduced_image_comes_back_from_disk_unchanged(patchy, tmp_path):
    *_, mosaic, depth = patchy
    _, reduced = measure_mosaic(mosaic, depth, 50)
    path = tmp_path / "kept" / "reduced.fits"
    reduced.write(path)
    back = ReducedImage.read(path)
    np.testing.assert_array_equal(back.image, reduced.image)
    np.testing.assert_array_equal(back.coverage, reduced.coverage)
    assert (back.factor, back.wcs.array_shape) == (reduced.factor, reduced.image.shape)
    np.testing.assert_allclose(back.wcs.wcs_pix2world([[3, 4]], 0), reduced.wcs.wcs_pix2world([[3, 4]], 0), atol=1e-11)
    first = path.read_bytes()
    reduced.write(path)
    assert path.read_bytes() == first


def test_the_numbers_survive_json_and_become_a_table_with_units(patchy, tmp_path):
    *_, mosaic, depth = patchy
    numbers, _ = measure_mosaic(mosaic, depth, 50)
    again = MosaicNumbers(**json.loads(json.dumps(numbers.to_dict(), allow_nan=False)))
    assert again == numbers
    bare = MosaicNumbers(**{**numbers.to_dict(), "noise": None, "block_jump": None, "low_pass_rms": None})
    rows = [("T08", "N662", "matched", numbers), ("T07", "r", "original", bare), ("T07", "N662", "matched", numbers)]
    tables.write(mosaic_table("LMC_c42", rows), tmp_path / "mosaics.tab", "Numbers of the mosaics")
    back = tables.read(tmp_path / "mosaics.tab", MOSAICS, "evaluate")
    places = [("T07", "N662", "matched"), ("T08", "N662", "matched"), ("T07", "r", "original")]
    assert list(zip(back["Tile"], back["Image"], back["Background"], strict=True)) == places
    assert str(back["Level"].unit) == "counts28/pix"
    for column, value in {"Level": numbers.level, "STD": numbers.std, "N_covered": numbers.n_covered}.items():
        assert back[column][0] == pytest.approx(value, rel=1e-5)
    assert np.isnan(back["BlockJump"][2])
    assert mosaic_table("LMC_c42", []).colnames == back.colnames


def test_missing_damaged_and_foreign_files_are_explained(patchy, tmp_path):
    _, coverage, mosaic, depth = patchy
    text, other, cut = (tmp_path / f"{name}.fits" for name in ("text", "other", "cut"))
    text.write_text("not a FITS file")
    cut.write_bytes(mosaic.read_bytes()[:100_000])
    fits.writeto(other, coverage[:300].astype(np.int16))
    for one, two, words in (
        (tmp_path / "absent.fits", depth, "absent.fits is missing; run the stage 'coadd' first"),
        (mosaic, tmp_path / "absent.fits.fz", "absent.fits.fz is missing"),
        (text, depth, "text.fits: is not a FITS file.*delete it and run the stage 'coadd' again"),
        (cut, depth, r"cut.fits\[0\]: the file is truncated.*delete it and run the stage 'coadd' again"),
        (mosaic, other, "coverage map of 277 x 331 pixels.*found 277 x 300"),
        (depth, depth, r"primary HDU, found the shape \(\)"),
        (other, depth, "other.fits has no usable WCS"),
    ):
        with pytest.raises(InputError, match=words):
            measure_mosaic(one, two, 200)


def test_a_mosaic_that_no_detector_reaches_is_said_to_be_empty(tmp_path):
    with pytest.raises(InputError, match="no pixel is covered"):
        measure_mosaic(*write(tmp_path, np.zeros((64, 64)), np.zeros((64, 64))), 200)


def test_a_mosaic_is_never_held_whole(tmp_path, monkeypatch):
    side = 3000
    files = write(tmp_path, np.ones((side, side)), np.ones((side, side)))
    monkeypatch.setattr(evaluation, "STRIP_PIXELS", 1 << 16)
    measure_mosaic(*files, 100)  # compiles
    tracemalloc.start()
    measure_mosaic(*files, 100)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 0.8 * 4 * side**2
