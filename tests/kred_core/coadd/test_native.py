"""kred's own co-adder, on detectors whose mosaic is known beforehand."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from nights import DECAM, GRID, SHAPE, Night, noise, tan_cards

from kred_core.background import Background
from kred_core.coadd import native
from kred_core.errors import InputError
from kred_core.exposures.exposure import Detector
from kred_core.sky import Grid


def star(shape, x, y, flux, fwhm=4.0):
    """A Gaussian star at a place in pixels; its pixels sum up to the flux."""
    sigma = fwhm / 2.3548
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return flux / (2 * np.pi * sigma**2) * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def digest(*paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_detector_on_the_grids_pixels_is_scaled_and_moved(night):
    pixels = noise()
    image, coverage, result = night.expose(pixels, scale=0.5, back=450.0).coadd(native)
    inside = (slice(12, 87), slice(17, 102))  # the detector's rows 2 to 76 and columns 2 to 86, in the middle of 100 x 120
    np.testing.assert_allclose(image[inside], pixels[2:-3, 2:-3] * 0.5 - 450, rtol=2e-6, atol=1e-5)
    outside = np.ones(image.shape, bool)
    outside[inside] = False
    assert (image[outside] == 0).all()
    np.testing.assert_array_equal(coverage, ~outside)
    assert result.covered == 75 * 85
    assert result.pixels == (75 * 85,)


@pytest.mark.parametrize("scale", [0.2, 0.2623, 0.3])
def test_flux_and_place_of_stars(tmp_path, scale):
    # The flux of one star varies with its place between the pixels: that is Lanczos-3 on pixels of another size.
    fluxes = []
    for i in range(8):
        night = Night(tmp_path / str(i))
        header = tan_cards(GRID, SHAPE, offset=(0.37 * i, 2.71 * i), axes=DECAM, scale=scale, turn=5.0 * (i + 1))
        x, y = header["CRPIX1"] - 1, header["CRPIX2"] - 1  # the centre of the grid
        image, _, _ = night.expose(star(SHAPE, x, y, 5e4) + 300.0, header, scale=2.0, back=600.0).coadd(native)
        box = image[35:65, 45:75].astype(float)
        rows, columns = np.mgrid[35:65, 45:75]
        fluxes.append(box.sum())
        assert (box * columns).sum() / box.sum() == pytest.approx(59.5, abs=0.02)
        assert (box * rows).sum() / box.sum() == pytest.approx(49.5, abs=0.02)
    np.testing.assert_allclose(fluxes, 1e5, rtol=6e-3)
    assert np.mean(fluxes) == pytest.approx(1e5, rel=1e-3)


def test_mosaic_of_large_pixels_averages(tmp_path):
    night = Night(tmp_path, Grid(80.0, -69.0, 0.81, 20, 16))
    fine = Grid(80.0, -69.0, 0.27, 60, 48)
    pixels = noise(shape=(48, 60))
    image, coverage, result = night.expose(pixels, tan_cards(fine, pixels.shape)).coadd(native)
    expected = pixels.reshape(16, 3, 20, 3).mean(axis=(1, 3)) * 9
    np.testing.assert_allclose(image[1:-1, 1:-1], expected[1:-1, 1:-1], rtol=1e-6)
    assert result.covered == coverage.sum() == 15 * 19  # the detector's last three rows and columns have no six taps


def test_noise_is_needed_for_weights(night):
    night.expose(noise(), noise=float("nan"))
    with pytest.raises(InputError, match="so that it has no weight"):
        night.coadd(native, combine="weighted")
    night.coadd(native, combine="median")


class TestMasks:
    """Which pixels are left out, and that they leave no trace."""

    @pytest.fixture
    def flagged(self):
        mask = np.zeros(SHAPE, int)
        mask[30:33, 40:43], mask[60, 20], mask[10, 70], mask[50, :] = 1, 5, 3, 7
        return mask

    def test_codes_that_are_asked_for(self, night, flagged):
        _, all_pixels, _ = night.expose(noise(), mask=flagged).coadd(native, mask_codes=[])
        _, coverage, result = night.coadd(native)
        lost = np.argwhere((all_pixels == 1) & (coverage == 0)) - (10, 15)
        np.testing.assert_array_equal(lost, np.argwhere((flagged == 1) | (flagged == 5)))
        assert result.pixels[0] == coverage.sum()

    def test_bits_leave_out_the_same_pixels_as_codes(self, tmp_path, flagged):
        flagged[40:44, 30:34], flagged[20, 20:30], flagged[70, 60] = 6, 4, 1
        images = []
        for version, mask in (("V4.8.2", flagged), ("V3.3.0", np.array([0, 1, 1, 2, 64, 16, 4, 128])[flagged])):
            night = Night(tmp_path / version).expose(noise(), mask=mask)
            for path in night.mef.iterdir():
                fits.setval(path, "PLVER", value=version)
            images += [[night.coadd(native, mask_codes=codes)[0] for codes in ([1, 2, 5], [1, 3], [4, 7], [6])]]
        for by_codes, by_bits in zip(*images, strict=True):
            np.testing.assert_array_equal(by_codes, by_bits)

    @pytest.mark.parametrize(("amplifier", "kept"), [("A", slice(SHAPE[1] // 2, None)), ("B", slice(SHAPE[1] // 2))])
    def test_an_amplifier_that_is_left_out(self, night, amplifier, kept):
        night.expose(noise())
        _, whole, _ = night.coadd(native)
        night.inputs[0] = replace(night.inputs[0], amplifier=amplifier)
        _, half, result = night.coadd(native)
        columns = np.zeros(SHAPE, bool)
        columns[:, kept] = True
        np.testing.assert_array_equal(half[10:90, 15:105], whole[10:90, 15:105] * columns)
        assert result.pixels[0] == half.sum() > 0

    @pytest.mark.parametrize("background", ["original", "matched"])
    @pytest.mark.parametrize("value", [np.nan, -np.inf, 3e38])
    def test_value_of_a_masked_pixel_is_nowhere(self, tmp_path, flagged, value, background):
        images = []
        for i, v in enumerate((77.0, value)):
            pixels = np.where(np.isin(flagged, (1, 5)), v, noise())
            header = tan_cards(GRID, SHAPE, offset=(0.4, 0.2), axes=DECAM, turn=3.0)
            night = Night(tmp_path / str(i)).expose(pixels, header, mask=flagged, matched=(1000.0, 0.1, 0.1, 9.0))
            images.append(night.coadd(native, backgrounds=(background,))[0])
        np.testing.assert_array_equal(*images)

    def test_pixels_that_are_not_finite_are_masked(self, tmp_path, flagged):
        bad = np.where(flagged > 0, 1, 0)
        header = tan_cards(GRID, SHAPE, offset=(0.4, 0.2), turn=3.0)
        masked = Night(tmp_path / "masked").expose(noise(), header.copy(), mask=bad).coadd(native)
        not_finite = Night(tmp_path / "nan").expose(np.where(bad, np.nan, noise()), header.copy()).coadd(native)
        np.testing.assert_array_equal(masked[0], not_finite[0])
        np.testing.assert_array_equal(masked[1], not_finite[1])


def many(night, n=7):
    """Exposures all over the grid, some of them over its edges, turned, with masks."""
    rng = np.random.default_rng(8)
    for i in range(n):
        header = tan_cards(GRID, SHAPE, offset=tuple(rng.uniform(-60, 60, 2)), axes=DECAM, turn=float(rng.uniform(-9, 9)))
        night.expose(noise(i), header, mask=rng.random(SHAPE) < 0.01, scale=1.1, back=1100.0 + i, noise=5.0 + i)
    return night


@pytest.mark.parametrize("combine", ["median", "clipped", "weighted"])
def test_neither_the_rows_at_a_time_nor_the_bound_of_memory_change_a_byte(night, monkeypatch, combine):
    many(night).coadd(native, combine=combine)
    expected = digest(night.mosaic, night.coverage)
    monkeypatch.setattr(native, "STRIP_BYTES", 1)
    night.coadd(native, combine=combine)
    assert digest(night.mosaic, night.coverage) == expected
    monkeypatch.setattr(native, "RESERVE", 10**13)  # nothing is left for layers: all of them wait in the file
    night.coadd(native, combine=combine)
    assert digest(night.mosaic, night.coverage) == expected


class TestMatchedBackgrounds:
    """The second mosaic of a plan, from the pixels of the first."""

    BOTH = ("original", "matched")

    @pytest.mark.parametrize("combine", ["median", "clipped", "weighted"])
    @pytest.mark.parametrize("shapes", [(), ((0.01, -0.02, 0.0), (0.0, 0.0, 5.0))], ids=["constants", "planes and steps"])
    def test_both_at_once_are_the_same_bytes_as_one_after_the_other(self, night, monkeypatch, combine, shapes):
        many(night)
        for i, item in enumerate(night.inputs):  # some of them with a shape
            shape = shapes[i % 3] if i % 3 < len(shapes) else ()
            night.inputs[i] = replace(item, matched=Background(1100.0 + 2 * i, *shape))
        files = (night.mosaic, night.coverage, *night.matched)
        for background in self.BOTH:
            night.coadd(native, backgrounds=(background,), combine=combine)
        expected = digest(*files)
        assert len(set(expected)) == 4
        for reserve in (native.RESERVE, 10**13):  # layers in memory; layers in the file
            for path in files:
                path.unlink()
            monkeypatch.setattr(native, "RESERVE", reserve)
            night.coadd(native, backgrounds=self.BOTH, combine=combine)
            assert digest(*files) == expected

    def test_detectors_are_decoded_once(self, night, monkeypatch):
        decoded = []
        pixels = Detector.pixels
        monkeypatch.setattr(Detector, "pixels", lambda self: decoded.append(self.extname) or pixels(self))
        night.expose(noise(), matched=(1000.0, 0.1)).expose(noise(), matched=(1000.0,)).coadd(native, backgrounds=self.BOTH)
        assert len(decoded) == 2

    @pytest.mark.parametrize("scale", [0.2623, 0.27, 0.09], ids=["other pixels", "the grid's pixels", "averaged"])
    def test_a_sky_with_planes_and_steps_becomes_flat(self, night, scale):
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        x, y = columns - (SHAPE[1] - 1) / 2, rows - (SHAPE[0] - 1) / 2
        factor = 0.8
        for i, (b, *shape) in enumerate([(1000.0, 0.3, -0.7, 0.0), (900.0, 0.0, 0.0, 40.0), (700.0, -0.5, 0.2, -25.0), (800.0,)]):
            grad_x, grad_y, step = shape or (0, 0, 0)
            sky = b + grad_x * x + grad_y * y + step / 2 * np.sign(x)
            header = tan_cards(GRID, SHAPE, offset=(3.3 * i, -2.1 * i), axes=DECAM, scale=scale, turn=4.0 * i)
            bad = np.random.default_rng(i).random(SHAPE) < 0.01
            night.expose((sky + 5.0) / factor, header, scale=factor, back=b, matched=(b, *shape), mask=bad)
        image, coverage, _ = night.coadd(native, backgrounds=self.BOTH)
        expected = 5.0 * (0.27 / scale) ** 2
        np.testing.assert_allclose(image[coverage > 0], expected, atol=2e-3 * (0.27 / scale) ** 2)
        assert (image[coverage == 0] == 0).all()
        assert np.ptp(fits.getdata(night.mosaic)[coverage > 0]) > 20  # the original one is not flat


def test_input_beside_the_grid_is_listed_and_not_used(night):
    night.expose(noise()).expose(noise(), tan_cards(GRID, SHAPE, offset=(900.0, 0.0)), exptime=5.0)
    _, _, result = night.coadd(native)
    assert result.pixels[1] == 0
    assert [n > 0 for n in result.pixels].count(True) == 1
    with fits.open(night.mosaic) as hdus:
        assert hdus[0].header["NDET"] == hdus[0].header["NEXP"] == 1
        assert hdus[0].header["TEXPTIME"] == 60.0
        assert list(hdus["INPUTS"].data["PIXELS"]) == [result.pixels[0], 0]


class TestFailure:
    """Nothing half-made is left, neither under the final names nor hidden."""

    def test_stopped_halfway(self, night, monkeypatch):
        def stop(part):
            if part > 0.5:
                raise KeyboardInterrupt

        monkeypatch.setattr(native, "RESERVE", 10**13)
        with pytest.raises(KeyboardInterrupt):
            many(night).coadd(native, stop)
        assert list(night.products.iterdir()) == []
