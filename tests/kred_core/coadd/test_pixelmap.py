"""The control grid of a real distortion, against the WCS at every kind of place."""

import numpy as np
import pytest
from astropy.io import fits

from kred_core.coadd.sources import grid_box, pixel_map
from kred_core.sky import Grid, celestial_wcs, tan_wcs

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


def test_a_small_box_needs_no_spline():
    detector = decam_wcs(80.0, -69.0)
    middle = detector.wcs_pix2world([[1000.0, 2000.0]], 0)[0]
    grid = Grid(float(middle[0]), float(middle[1]), 0.27, 20, 10)
    where = pixel_map(tan_wcs(grid), detector, (0, 0, 20, 10))
    assert where.shape == (10, 20)
    centre_u = where.u[0, 0] + (where.u[0, 1] - where.u[0, 0]) * 9.5 / 16 + (where.u[1, 0] - where.u[0, 0]) * 4.5 / 16
    assert abs(centre_u - 1000) < 0.01
