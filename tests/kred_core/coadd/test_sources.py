"""Opening the inputs of a plan: places, flux scales, and plans that cannot be used."""

from dataclasses import replace

import numpy as np
import pytest
from nights import GRID, tan_cards
from test_pixelmap import decam_wcs

from kred_core.coadd.resample import footprint
from kred_core.coadd.sources import flux_scale, grid_box, open_sources, pixel_map, sampling_grid
from kred_core.errors import ExposureError, InputError
from kred_core.sky import Grid, tan_wcs

SKY = np.full((40, 50), 100.0)


def testflux_scale_of_a_real_distortion():
    grid = Grid(80.0, -69.0, 0.27, 8700, 8700)
    wcs = decam_wcs(80.0, -69.0)
    x, y = 1022.5, 2046.5
    h = 50.0  # pixels; the area by a large, centred parallelogram in a tangent plane through the detector's centre
    middle = wcs.wcs_pix2world([[x, y]], 0)[0]
    plane = tan_wcs(Grid(float(middle[0]), float(middle[1]), 1.0, 1, 1))
    points = plane.wcs_world2pix(wcs.wcs_pix2world([[x + h, y], [x - h, y], [x, y + h], [x, y - h]], 0), 0)
    area = abs(np.linalg.det(np.stack([points[0] - points[1], points[2] - points[3]]) / (2 * h)))
    distance = np.hypot((middle[0] - 80) * np.cos(np.radians(middle[1])), middle[1] + 69)
    expected = 0.27**2 * np.cos(np.radians(distance)) ** 3 / area
    assert flux_scale(tan_wcs(grid), wcs, (4094, 2046)) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize(("ra", "dec"), [(80.0, -69.0), (0.2, 10.0), (200.0, -89.5)])
def test_box_holds_all_that_is_covered(ra, dec):
    shape = (4094 // 16, 2046 // 16)
    wcs = decam_wcs(ra, dec, binning=16)
    middle = wcs.wcs_pix2world([[shape[1] * 0.8, shape[0] * 0.3]], 0)[0]
    grid = Grid(float(middle[0]), float(middle[1]), 4.3, 300, 280)
    x0, y0, x1, y1 = grid_box(grid, wcs, shape)
    whole = footprint(pixel_map(tan_wcs(grid), wcs, (0, 0, grid.nx, grid.ny)), shape)
    part = footprint(pixel_map(tan_wcs(grid), wcs, (x0, y0, x1, y1)), shape)
    assert part.sum() == whole.sum() > 5000
    np.testing.assert_array_equal(whole[y0:y1, x0:x1], part)
    assert (x1 - x0) * (y1 - y0) < 2.5 * whole.sum()


def test_other_half_of_the_sky_is_not_on_the_grid():
    assert grid_box(Grid(260.0, 69.0, 0.27, 8700, 8700), decam_wcs(80.0, -69.0), (4094, 2046)) is None
    assert grid_box(Grid(80.0, -60.0, 0.27, 8700, 8700), decam_wcs(80.0, -69.0), (4094, 2046)) is None


def test_large_pixels_are_sampled_on_a_finer_grid_with_the_same_edges(night):
    night.expose(SKY, tan_cards(GRID, SKY.shape, scale=0.27))
    coarse = Grid(80.0, -69.0, 0.81, 10, 8)
    sources = open_sources(replace(night.plan, grid=coarse))
    fine, n = sampling_grid(coarse, sources)
    assert (n, fine.nx, fine.ny) == (3, 30, 24)
    corner = tan_wcs(coarse).wcs_pix2world([[-0.5, -0.5], [9.5, 7.5]], 0)
    np.testing.assert_allclose(tan_wcs(fine).wcs_pix2world([[-0.5, -0.5], [29.5, 23.5]], 0), corner, atol=1e-12)


class TestUnusablePlans:
    def test_nothing_to_do(self, night):
        with pytest.raises(InputError, match="LMC_c42 T07 N662: there is no detector"):
            open_sources(night.plan)

    def test_twice(self, night):
        night.expose(SKY)
        with pytest.raises(InputError, match="_N4 is in the list twice"):
            open_sources(replace(night.plan, inputs=tuple(night.inputs * 2)))

    @pytest.mark.parametrize("change", [{"scale": float("nan")}, {"scale": 0.0}, {"scale": -1.0}, {"back": float("inf")}])
    def test_no_number(self, night, change):
        night.expose(SKY)
        with pytest.raises(InputError, match="factor above 0 and a finite background"):
            open_sources(replace(night.plan, inputs=(replace(night.inputs[0], **change),)))

    @pytest.mark.parametrize("numbers", [None, (float("nan"),), (1.0, float("inf")), (1.0, 0.0, 0.0, float("nan"))])
    def test_matched_background_that_is_no_number(self, night, numbers):
        night.expose(SKY, matched=numbers)
        open_sources(night.plan)
        for backgrounds in (("matched",), ("original", "matched")):
            with pytest.raises(InputError, match=r"_N4: expected a finite matched background, found .*--from match"):
                open_sources(replace(night.plan, backgrounds=backgrounds))

    def test_detector_gone(self, night):
        night.expose(SKY)
        with pytest.raises(ExposureError, match=r"c4d_160101_ooi_N662_v1.fits: has no detector N9 any more"):
            open_sources(replace(night.plan, inputs=(replace(night.inputs[0], extname="N9"),)))

    def test_file_gone(self, night):
        night.expose(SKY)
        night.inputs[0].path.unlink()
        with pytest.raises(ExposureError, match=r"c4d_160101_ooi_N662_v1.fits: cannot be read"):
            open_sources(night.plan)

    def test_no_wcs(self, night):
        header = tan_cards(GRID, SKY.shape)
        del header["CRVAL1"]
        night.expose(SKY, header)
        with pytest.raises(ExposureError, match=r"c4d_160101_ooi_N662_v1.fits N4: has no usable WCS: CRVAL1 is missing"):
            open_sources(night.plan)

    def test_none_on_the_grid(self, night):
        night.expose(SKY, tan_cards(GRID, SKY.shape, offset=(5000.0, 0.0)))
        with pytest.raises(InputError, match="none of the 1 detector lies on the mosaic"):
            open_sources(night.plan)
