"""What a notebook calls, on simulated images of a sky with nebula and stars whose backgrounds are known."""

from __future__ import annotations

import doctest
import subprocess
import sys

import mefs
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS, Sip

import kred_core
from kred_core import Grid, coadd_images, errors, match_backgrounds, open_exposure, rescale, solve_backgrounds
from kred_core.api import backgrounds
from kred_core.api import images as images_module
from kred_core.fits.hdu import scan
from kred_core.fits.pixels import read_pixels
from kred_core.sky import pixel_area_arcsec2, to_sky

RA, DEC = 80.0, -69.0
NOISE = 4.0  # per pixel


def wcs_of(east=0.0, north=0.0, scale=0.6, angle=0.0, shape=(220, 240), mirrored=False, sip=False, axes="RA-- DEC-") -> WCS:
    """A WCS whose centre is some arcsec from (RA, DEC), turned by an angle in degrees."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"{axis}-TAN{'-SIP' * sip}" for axis in axes.split()]
    wcs.wcs.crval = [RA + east / 3600 / np.cos(np.radians(DEC)), DEC + north / 3600]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = np.array([[c, -s], [s, c]]) @ np.diag([1.0 if mirrored else -1.0, 1.0]) * scale / 3600
    if sip:
        a = np.zeros((3, 3))
        a[2, 0], a[0, 2] = 4e-5, -3e-5
        wcs.sip = Sip(a, a.T.copy(), None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def sky_of(wcs, shape):
    """Flux per pixel of a nebula of 3 per square arcsec, and of stars, as in the sky and not in the pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    place = to_sky(wcs, np.stack([x.ravel(), y.ravel()], axis=-1))
    east, north = (place[:, 0] - RA) * 3600 * np.cos(np.radians(DEC)), (place[:, 1] - DEC) * 3600
    brightness = 3 * np.exp(-((east / 150) ** 2 + (north / 100) ** 2))
    stars = np.random.default_rng(5).uniform(-260, 260, (150, 2))
    for star_east, star_north in stars:
        brightness += 400 * np.exp(-((east - star_east) ** 2 + (north - star_north) ** 2) / 2)
    return brightness.reshape(shape) * pixel_area_arcsec2(wcs, x, y)


def image_of(rng, background, shape=(220, 240), slopes=(0.0, 0.0), unit=u.adu, **place) -> CCDData:
    """An image with a background (a number per pixel, and slopes), noise, bad pixels under a mask, and NaN."""
    wcs = wcs_of(shape=shape, **place)
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    pixels = sky_of(wcs, shape) + background + slopes[0] * x + slopes[1] * y[:, None] + rng.normal(0, NOISE, shape)
    mask = rng.random(shape) < 0.01
    pixels[mask] += 1000
    pixels[::37, ::41] = np.nan
    return CCDData(pixels, unit=unit, mask=mask, wcs=wcs)


PLACES = [
    {"east": -60, "north": -50},
    {"east": 60, "north": -50, "angle": 30.0},
    {"east": -60, "north": 60, "scale": 0.9, "shape": (150, 160)},
    {"east": 60, "north": 60, "mirrored": True},
    {"east": 0, "north": 0, "angle": -75.0, "sip": True},
]
TRUTH = np.array([100.0, 131.0, 205.0, 87.0, 115.0])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(3)
    return [image_of(rng, b, **place) for b, place in zip(TRUTH, PLACES, strict=True)]


def wrong_by(found):
    """How many standard errors offsets are wrong; what all share as surface brightness is not known, and taken off."""
    area = np.array([place.get("scale", 0.6) ** 2 for place in PLACES])
    wrong = (u.Quantity(found.offsets).value - TRUTH) / area
    return (wrong - wrong.mean()) / (u.Quantity(found.errors).value / area)


class TestMatching:
    def test_offsets_are_found_within_their_errors_whatever_the_scale_the_rotation_and_the_distortion(self, images):
        found = match_backgrounds(images)
        assert found.offsets.unit == u.adu
        assert np.abs(wrong_by(found)).max() < 3.5
        assert (found.errors < 0.3 * u.adu).all()
        assert found.components.tolist() == [1] * 5
        assert (found.remarks, found.scale.tolist()) == ([""] * 5, [1.0] * 5)
        assert len(found.pairs) == 8
        assert found.pairs["difference"].unit == u.adu / u.arcsec**2
        assert np.median(np.abs(found.pairs["residual"] / found.pairs["error"])) < 2

    def test_paths_arrays_and_images_in_other_units_say_the_same(self, images, tmp_path):
        known = match_backgrounds(images)
        path = tmp_path / "first.fits"
        pixels = np.where(images[0].mask, np.nan, images[0].data).astype(np.float32)
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(pixels, images[0].wcs.to_header(), name="SCI", compression_type="GZIP_2")]
        hdus[1].header["BUNIT"] = "adu"
        fits.HDUList([*hdus, fits.ImageHDU(np.ones((5, 5)), name="DQ")]).writeto(path)
        arrays = np.where(images[1].mask, np.nan, images[1].data) * u.adu, images[1].wcs.to_header()
        masked = np.ma.array(images[2].data, mask=images[2].mask)
        mixed = [path, arrays, (u.Quantity(np.ma.filled(masked, np.nan), u.adu), images[2].wcs), *images[3:]]
        for several in (mixed, [(str(path), "SCI"), *mixed[1:]]):
            found = match_backgrounds(several)
            np.testing.assert_allclose(found.offsets, known.offsets, atol=0.02 * u.adu)
        kilo = [CCDData(i.data / 1e9, unit="Gadu", mask=i.mask, wcs=i.wcs) for i in images]
        np.testing.assert_allclose(match_backgrounds(kilo).offsets.to(u.adu), known.offsets, atol=0.05 * u.adu)
        half = match_backgrounds([(i.data / 2, i.wcs) for i in (CCDData.read(path, hdu=1), images[1])], scale=2)
        assert isinstance(half.offsets, np.ndarray)
        assert not isinstance(half.offsets, u.Quantity)

    def test_surface_brightness_is_not_divided_by_the_area_of_pixels(self):
        rng = np.random.default_rng(8)
        wcs = [wcs_of(), wcs_of(scale=0.9, shape=(150, 160))]
        images = [(rng.normal(level, 0.1, w.pixel_shape or s) * u.MJy / u.sr, w) for level, w, s in
                  zip((5.0, 7.0), wcs, ((220, 240), (150, 160)), strict=True)]  # fmt: skip
        found = match_backgrounds(images)
        np.testing.assert_allclose(found.offsets.value, [5, 7], atol=0.02)
        assert found.pairs["difference"].unit == u.MJy / u.sr

    def test_planes_are_found_and_subtracted(self):
        rng = np.random.default_rng(4)
        slopes = rng.normal(0, 0.05, (4, 2))
        slopes -= slopes.mean(axis=0)
        places = [{"east": e, "north": n} for e in (-40, 40) for n in (-40, 40)]
        images = [image_of(rng, b, slopes=s, **p) for b, s, p in zip((90, 120, 60, 100), slopes, places, strict=True)]
        constant, found = (match_backgrounds(images, shape=shape) for shape in ("constant", "exposure-plane"))
        left = found.gradients.value - slopes
        assert np.abs(left - left.mean(axis=0)).max() < 0.01
        assert not constant.gradients.value.any()
        before, after = ([m.data - sky_of(m.wcs, m.shape) for m in each.matched_images()] for each in (constant, found))
        spread = [max(np.ptp([np.nanmedian(i[:, :60]), np.nanmedian(i[:, -60:])]) for i in each) for each in (before, after)]
        assert spread[1] < 0.25 * spread[0]

    def test_detectors_of_one_exposure_are_not_compared_and_known_offsets_stay(self, images):
        found = match_backgrounds(images, exposure=["a", "a", "b", "c", "d"], fixed=[np.nan, 140, np.nan, np.nan, np.nan] * u.adu)
        assert (0, 1) not in set(zip(found.pairs["first"], found.pairs["second"], strict=True))
        assert (found.offsets[1], found.errors[1]) == (140 * u.adu, 0 * u.adu)
        assert (found.offsets[0] - found.offsets[1]).value == pytest.approx(TRUTH[0] - TRUTH[1], abs=1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda i: [], "the list of images is empty"),
            (lambda i: i[0], "expected a list of images, found a single one"),
            (lambda i: [i[0], (i[1].data, None)], "image 1 has no WCS of the sky"),
            (lambda i: [i[0], CCDData(np.full((90, 90), np.nan), unit="adu", wcs=i[0].wcs)], "image 1 has no good pixel"),
            (lambda i: [i[0], (np.zeros((2, 9, 9)), i[0].wcs)], "image 1 has 3 dimensions, expected 2"),
            (lambda i: [i[0], (i[1].data, i[1].wcs)], "image 1 has the unit None, image 0 adu"),
            (lambda i: [(i[0].data, wcs_of(axes="GLON GLAT"))], "image 0: its axes are GLON-TAN and GLAT-TAN, expected RA and Dec"),
            (lambda i: [i[0], CCDData(i[1], unit="Jy")], "image 1: 'Jy'"),
            (lambda i: [i[0], "nowhere.fits"], r"image 1 \(nowhere.fits\) cannot be read: .*No such file"),
            (lambda i: [i[0], 3], "image 1 is int; expected the path of a FITS file"),
            (lambda i: [i[0], CCDData(i[1].data, unit="adu", wcs=wcs_of(scale=700.0))], "cells of .* do not suit pixels of"),
            (lambda i: [i[0], CCDData(i[1].data, unit="adu", wcs=wcs_of(north=400000))], "image . lies more than 45 deg"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_matched_is_said(self, images, change, message):
        with pytest.raises(errors.InputError, match=f"^{message}"):
            match_backgrounds(change(images))


class TestMosaics:
    @pytest.mark.parametrize("combine", ["median", "clipped", "weighted"])
    def test_matched_images_make_a_mosaic_of_the_sky(self, images, combine):
        found = match_backgrounds(images)
        for image, matched in zip(images, found.matched_images(), strict=True):
            assert (matched.unit, matched.wcs) == (u.adu, image.wcs)
            assert (matched.mask == (image.mask | ~np.isfinite(image.data))).all()
        grid = Grid(RA, DEC, 0.6, 300, 280)
        made, coverage = coadd_images(images, grid, offsets=found.offsets, combine=combine)
        again, _ = coadd_images(list(found.matched_images()), grid, combine=combine, memory=0.25)
        truth = sky_of(made.wcs, made.shape)
        here = ~made.mask & (truth < 3)
        assert (made.unit, made.shape, coverage.max()) == (u.adu, (280, 300), 4)
        assert np.count_nonzero(here) > 40000
        left = made.data[here] - truth[here]
        assert np.std(left) < NOISE
        assert np.abs(np.median(left[: left.size // 2]) - np.median(left[left.size // 2 :])) < 0.3
        np.testing.assert_allclose(again.data, made.data, atol=2e-3)
        assert (made.data[made.mask] == 0).all()

    def test_without_a_grid_all_images_are_on_it_and_flux_is_conserved(self, images):
        made, coverage = coadd_images(images[:1], offsets=[100] * u.adu)
        assert (coverage > 0).sum() > 0.9 * images[0].size
        total = np.nansum(np.where(images[0].mask, np.nan, images[0].data - 100))
        assert np.nansum(made.data) == pytest.approx(total, rel=0.1)

    def test_images_that_are_not_on_the_mosaic_are_an_error(self, images):
        with pytest.raises(errors.InputError, match="none of the images lies on the mosaic around RA 10"):
            coadd_images(images, Grid(10, 10, 0.6, 100, 100))
        with pytest.raises(errors.InputError, match="offsets: expected 5 finite numbers"):
            coadd_images(images, offsets=[1.0])


class TestExposures:
    def test_a_detector_is_a_ccd_with_all_that_belongs_to_it_and_can_be_rescaled(self, tmp_path):
        path = mefs.write_mef(tmp_path / "x_ooi_N662_v1.fits.fz", ["N4", "S7"])
        exposure = open_exposure(str(path))
        name = exposure.detectors[0].extname
        ccd = exposure[name.lower()].ccd()
        assert (ccd.unit, ccd.header["EXTNAME"], ccd.wcs.has_celestial) == (u.adu, name, True)
        np.testing.assert_array_equal(ccd.data, exposure[name].pixels())
        rescale(exposure, name, tmp_path / "out.fits.fz", 2.0, 3.0)
        np.testing.assert_allclose(read_pixels(list(scan(tmp_path / "out.fits.fz"))[1]), ccd.data * 2 - 3, rtol=1e-5)
        with pytest.raises(errors.ExposureError, match="has no detector Z9; it has N4, S7"):
            exposure["Z9"]


def test_differences_with_units_are_solved():
    difference = [5.0, -2.0, 3.0] * u.nJy
    plain = solve_backgrounds(3, [0, 1, 0], [1, 2, 2], difference.value, np.ones(3), own=[1, 2, 3])
    solved = solve_backgrounds(3, [0, 1, 0], [1, 2, 2], difference, [1e-3] * 3 * u.uJy, own=[1, 2, 3] * u.nJy)
    np.testing.assert_array_equal(solved.background.b, plain.background.b * u.nJy)
    with pytest.raises(u.UnitConversionError):
        solve_backgrounds(2, [0], [1], [5.0] * u.nJy, [1.0] * u.s)


@pytest.mark.parametrize("module", [backgrounds, images_module])
def test_examples_of_the_docstrings_do_what_they_show(module):
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 5


def test_the_front_door_is_small_whole_and_costs_nothing(caplog):
    assert len(kred_core.__all__) <= 20
    assert set(kred_core.__all__) == {kred_core._NAMES.get(n, n) for names in kred_core._FRONT.values() for n in names}
    assert all(getattr(kred_core, name).__doc__ for name in kred_core.__all__)
    code = "import sys, kred_core; sys.exit({'numpy', 'numba', 'astropy', 'pydantic'} & set(sys.modules) != set())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_first_compilation_is_said_once(tmp_path):
    code = (
        "import kred_core; print(kred_core.half_sample_mode([1, 2, 2, 2])); kred_core.pixel_noise(__import__('numpy').ones((9, 9)))"
    )
    run = subprocess.run([sys.executable, "-c", code], env={"NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("2.0\n", "compiling, once after an installation (some 10 s)\n")
    again = subprocess.run([sys.executable, "-c", code], env={"NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True)
    assert (again.stdout, again.stderr) == ("2.0\n", "")
