"""What goes into a mosaic: its pixels, its inputs, where they lie on it, and plans that cannot be used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from nights import GRID, tan_cards

from kred_core.background import Background
from kred_core.coadd.plan import flux_scale, grid_box, make_grid, make_plan, open_sources, pixel_map, sampling_grid
from kred_core.coadd.resample import footprint
from kred_core.config import CoaddConfig, SurveyConfig
from kred_core.errors import ExposureError, InputError
from kred_core.sky import Grid, celestial_wcs, tan_wcs
from kred_core.survey import tiles

SKY = np.full((40, 50), 100.0)
ROW = {
    "Field": "F", "File": "a.fits.fz", "Root": "a", "EXTNAME": "N1", "EXPTIME": 60.0, "XFACTOR": 0.5, "SUB_BACK": 20.0,
    "Noise": 8.0, "SEEING": 1.1, "FILTER": "r", "PixScale": 0.2623,
}  # fmt: skip


def test_the_pixels_are_the_detectors_own_rounded_up():
    grid = make_grid(80.0, -66.0, 0.1, 0.2623, CoaddConfig())
    assert (grid.pixel_scale, grid.nx, grid.ny) == (0.27, 1333, 1333)
    assert make_grid(80.0, -66.0, 0.1, 4.1968, CoaddConfig()).pixel_scale == 4.2
    assert make_grid(80.0, -66.0, 0.1, 0.27, CoaddConfig()).pixel_scale == 0.27


@pytest.mark.parametrize(("field", "tile"), [("LMC_c42", "T07"), ("LMC_30Dor", "T01"), ("SMC_c02", "T16")])
def test_mosaics_of_the_survey_have_its_standard_size_whatever_feeds_the_tile(field, tile):
    (found,) = tiles(field, SurveyConfig(), [tile])
    assert found.size >= 0.67
    assert make_grid(80.0, -66.0, found.mosaic, 0.2623, CoaddConfig()).nx == 8700


def plan(*matched, size=0.6525, mosaics="both", root="/data", **changes):
    """A plan of one detector, whose matched background has these numbers, if any."""
    rows, backgrounds = Table(rows=[ROW | changes]), [Background(*matched)] if matched else None
    config = CoaddConfig(mosaics=mosaics)
    return make_plan("F", "T01", "r", rows, (80.0, -66.0), size, lambda *names: Path(root, *names), config, backgrounds)


def test_rows_become_inputs():
    entry = plan().inputs[0]
    assert entry.path == Path("/data/F/a.fits.fz")
    assert (entry.scale, entry.back, entry.exptime, entry.seeing) == (0.5, 20.0, 60.0, 1.1)
    assert entry.sky_noise == pytest.approx(4.0)  # counts28


def test_the_digest_knows_everything_but_the_place_of_the_data():
    config = CoaddConfig()
    assert plan(root="/elsewhere").digest(config, "original") == plan().digest(config, "original")
    others = [plan(), plan(SUB_BACK=20.1), plan(EXTNAME="N2"), plan(size=0.2)]
    digests = {p.digest(config, "original") for p in others} | {plan().digest(CoaddConfig(combine="clipped"), "original")}
    assert len(digests) == 5


def test_the_digest_does_not_know_what_the_mosaic_does_not_depend_on():
    config = CoaddConfig()
    others = {"original": [plan(7.0), plan()], "matched": [plan(20.5, SUB_BACK=7.0), plan(20.5, mosaics="matched")]}
    for background in ("original", "matched"):
        for other in others[background]:
            assert other.digest(config, background) == plan(20.5).digest(config, background)
        for options in ({"mosaics": "none"}, {"memory": 2.0}, {"swarp_timeout": 100.0}):
            assert plan(20.5).digest(CoaddConfig(**options), background) == plan(20.5).digest(config, background)


# ---- where a detector with a real distortion lies on the grid

# TPV of CCD S13 in a real exposure (2015-04-16)
PV1 = [-0.004606638305189, 1.018637202003, 0.003333071528058, 0.0, -0.01961817368515, -0.007184471085243]
PV1 += [-0.005087007001055, 0.006657169279731, 0.004002952919277, 0.003505932282762, 0.0007291629611055]
PV2 = [-0.001187472606866, 1.007880021775, 0.003163499552216, 0.0, 0.001196872287033, -0.008239053546575]
PV2 += [-0.004009756581919, -0.00623240420781, 0.001872698518816, 0.002495988158128, 0.001565743134877]


def decam_wcs(ra, dec, crpix=(4405.0, -8602.0), binning=1):
    """WCS of S13, far from the optical axis, for a pointing."""
    step = 7.286e-5 * binning
    cards = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "CRVAL1": ra, "CRVAL2": dec}
    cards |= {f"CRPIX{i}": (c - 0.5) / binning + 0.5 for i, c in enumerate(crpix, 1)}
    cards |= {"CD1_1": 0.0, "CD1_2": step, "CD2_1": -step, "CD2_2": 0.0}
    cards |= {f"PV1_{i}": v for i, v in enumerate(PV1)} | {f"PV2_{i}": v for i, v in enumerate(PV2)}
    return celestial_wcs(fits.Header(cards))


@pytest.mark.parametrize("binning", [1, 8])
@pytest.mark.parametrize(("ra", "dec"), [(80.0, -69.0), (0.3, 25.0), (120.0, -89.0)])
def test_error_is_small_and_known(ra, dec, binning):
    shape = (4094 // binning, 2046 // binning)
    detector = decam_wcs(ra, dec, binning=binning)
    middle = detector.wcs_pix2world([[shape[1] / 2, shape[0] / 2]], 0)[0]
    n = 8700 // binning
    grid = Grid(float(middle[0]), float(middle[1]), 0.27 * binning, n, n)
    box = grid_box(grid, detector, shape)
    where = pixel_map(tan_wcs(grid), detector, box)
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, where.shape[1] - 1, 2000), rng.uniform(0, where.shape[0] - 1, 2000)
    sky = tan_wcs(grid).wcs_pix2world(np.stack([x + box[0], y + box[1]], axis=-1), 0)
    truth = detector.wcs_world2pix(sky, 0)
    i, j = (np.floor(v / where.step).astype(int) for v in (x, y))
    fx, fy = x / where.step - i, y / where.step - j
    for points, exact in zip((where.u, where.v), truth.T, strict=True):
        low = points[j, i] * (1 - fx) + points[j, i + 1] * fx
        high = points[j + 1, i] * (1 - fx) + points[j + 1, i + 1] * fx
        error = np.abs(low * (1 - fy) + high * fy - exact).max()
        assert error < 1e-3
        assert error < 1.5 * where.error + 1e-5


def test_flux_scale_of_a_real_distortion():
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

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({}, "_N4 is in the list twice"),
            *(({"scale": scale, "extname": "S4"}, "factor above 0 and a finite background") for scale in (float("nan"), 0.0, -1.0)),
            ({"back": float("inf"), "extname": "S4"}, "factor above 0 and a finite background"),
            ({"extname": "N9"}, r"c4d_160101_ooi_N662_v1.fits: has no detector N9 any more"),
        ],
        ids=str,
    )
    def test_an_input_that_cannot_be_meant(self, night, change, message):
        night.expose(SKY)
        with pytest.raises((InputError, ExposureError), match=message):
            open_sources(replace(night.plan, inputs=(night.inputs[0], replace(night.inputs[0], **change))))

    @pytest.mark.parametrize("numbers", [None, (float("nan"),), (1.0, 0.0, 0.0, float("inf"))])
    def test_matched_background_that_is_no_number(self, night, numbers):
        night.expose(SKY, matched=numbers)
        open_sources(night.plan)
        for backgrounds in (("matched",), ("original", "matched")):
            with pytest.raises(InputError, match=r"_N4: expected a finite matched background, found .*--from match"):
                open_sources(replace(night.plan, backgrounds=backgrounds))

    def test_none_on_the_grid(self, night):
        night.expose(SKY, tan_cards(GRID, SKY.shape, offset=(5000.0, 0.0)))
        with pytest.raises(InputError, match="none of the 1 detector lies on the mosaic"):
            open_sources(night.plan)
