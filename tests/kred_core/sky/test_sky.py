"""Positions of pixels and polygons on the sky, also where RA jumps and at the poles."""

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage
from scipy.spatial.transform import Rotation

from kred_core import sky as geometry
from kred_core import survey
from kred_core.errors import ExposureError, InputError
from kred_core.sky import Grid

FULL = (4094, 2046)
POINTINGS = [(81.789, -66.454), (0.1, -10.0), (359.95, 0.0), (33.0, -89.0), (200.0, -89.95), (10.0, 89.7)]

# The distortion of one CCD (N2) of a real exposure.
PV1 = (0.002023803505134, 1.009709449007, 0.0001734228744739, 0.0, 0.007772465501686, 0.0006316678383662, -0.0006659905306988,
       0.001341550032322, 0.0007193495703496, -0.002664890898568, -0.004662820322857)  # fmt: skip
PV2 = (0.000211208040456, 1.006626107812, 0.0003176991384933, 0.0, -3.855829537919e-05, 0.003454047132365, 0.0006572281615455,
       -0.007001080270484, 0.00154870074488, -0.0007605996274344, 0.0003079579348761)  # fmt: skip
CD = ((-1.104488698978e-07, 7.2852759958e-05), (-7.288270893501e-05, -1.255065383381e-07))


def decam_header(ra, dec, extname="N2"):
    """A full CCD of the focal plane, pointed at (ra, dec)."""
    ccd = next(row for row in survey.focal_plane() if row["EXTNAME"] == extname)
    header = fits.Header()
    header.update(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", CUNIT1="deg", CUNIT2="deg", RADECSYS="ICRS")
    header.update(CRVAL1=ra, CRVAL2=dec, CRPIX1=ccd["CRPIX1"], CRPIX2=ccd["CRPIX2"])
    header.update({f"CD{i + 1}_{j + 1}": CD[i][j] for i in (0, 1) for j in (0, 1)})
    header.update({f"PV{axis}_{k}": value for axis, values in ((1, PV1), (2, PV2)) for k, value in enumerate(values)})
    return header


def tan_header_with(**cards):
    usual = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": -70.0, "CRPIX1": 50.5, "CRPIX2": 50.5}
    return fits.Header({**usual, **cards})


def tpv_position(header, x, y):
    """Transcription of the TPV convention and the gnomonic projection; x, y count from 1; unit vectors."""
    x, y = x - header["CRPIX1"], y - header["CRPIX2"]
    xi, eta = CD[0][0] * x + CD[0][1] * y, CD[1][0] * x + CD[1][1] * y

    def distorted(pv, a, b):
        r = np.hypot(a, b)
        terms = (1, a, b, r, a * a, a * b, b * b, a**3, a * a * b, a * b * b, b**3)
        return sum(c * t for c, t in zip(pv, terms, strict=True))

    xi, eta = np.radians(distorted(PV1, xi, eta)), np.radians(distorted(PV2, eta, xi))
    towards, east, north = rotation_to(header["CRVAL1"], header["CRVAL2"]).T
    v = towards + np.multiply.outer(xi, east) + np.multiply.outer(eta, north)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def arcsec_between(a, b):
    return np.degrees(np.linalg.norm(np.asarray(a) - np.asarray(b), axis=-1)) * 3600


def rotation_to(ra, dec, angle=0.0):
    """Matrix that takes (RA 0, Dec 0) to (ra, dec), the sky around it turned by an angle; degrees."""
    return Rotation.from_euler("ZYX", [ra, -dec, angle], degrees=True).as_matrix()


@pytest.mark.parametrize("pointing", POINTINGS)
def test_tpv_is_followed_to_a_microarcsecond(pointing):
    header = decam_header(*pointing)
    x, y = np.random.default_rng(1).uniform(1, 4000, (2, 200))
    sky = geometry.celestial_wcs(header).wcs_pix2world(np.stack([x, y], -1), 1)
    assert arcsec_between(geometry.unit_vectors(sky[:, 0], sky[:, 1]), tpv_position(header, x, y)).max() < 1e-6


def test_only_the_wcs_cards_matter():
    header = decam_header(80, -66)
    plain = geometry.celestial_wcs(header).wcs_pix2world([[100.0, 200.0]], 0)
    header["TTYPE1"], header["ZIMAGE"], header["EQUINOX"], header["PV1_X"] = "COMPRESSED_DATA", True, 2000.0, "NaN"
    header["RADESYS"] = "FK5"
    assert (geometry.celestial_wcs(header).wcs_pix2world([[100.0, 200.0]], 0) == plain).all()


def test_absurd_pixels_are_noticed_at_the_corners():
    wcs = geometry.celestial_wcs(tan_header_with(CD1_1=-1.0, CD2_2=1.0))
    with pytest.raises(ExposureError, match="larger than 25 deg"):
        geometry.corners(wcs, (100, 100))
    wcs = geometry.celestial_wcs(tan_header_with(CTYPE1="RA---SIN", CTYPE2="DEC--SIN", CD1_1=-10.0, CD2_2=10.0))
    with pytest.raises(ExposureError, match="no position for some of the corner pixels"):
        geometry.corners(wcs, (100, 100))
    with pytest.raises(ExposureError, match="it gives no position for the central pixel"):
        geometry.centre(wcs, (900, 900))


@pytest.mark.parametrize("pointing", POINTINGS)
def test_corners_come_in_the_order_of_their_keywords(pointing):
    header = decam_header(*pointing)
    found = geometry.corners(geometry.celestial_wcs(header), FULL)
    x, y = np.array([1, 2046, 1, 2046]), np.array([1, 1, 4094, 4094])
    assert arcsec_between(geometry.unit_vectors(*found.T), tpv_position(header, x, y)).max() < 1e-5
    assert ((found[:, 0] >= 0) & (found[:, 0] < 360)).all()
    ra, dec = geometry.centre(geometry.celestial_wcs(header), FULL)
    assert arcsec_between(geometry.unit_vectors(ra, dec), tpv_position(header, np.array(1023.5), np.array(2047.5))) < 1e-5
    assert 0 <= ra < 360


def test_pixel_areas_of_a_tan_image_shrink_with_the_cube_of_the_cosine():
    grid = Grid(ra=359.99, dec=-89.0, pixel_scale=2.0, nx=4001, ny=4001)
    x = np.array([2000.0, 0.0, 4000.0, 2000.0])
    y = np.array([2000.0, 0.0, 2000.0, 4000.0])
    distance = np.arctan(np.radians(2.0 / 3600 * np.hypot(x - 2000, y - 2000)))
    expected = 4.0 * np.cos(distance) ** 3
    assert geometry.pixel_area_arcsec2(geometry.tan_wcs(grid), x, y) == pytest.approx(expected, rel=1e-8)


def test_tan_grid_has_north_up_east_left_and_the_centre_in_the_middle():
    grid = Grid(ra=81.5, dec=-66.3, pixel_scale=0.27, nx=8700, ny=8701)
    header = geometry.tan_header(grid)
    assert (header["CRPIX1"], header["CRPIX2"]) == (4350.5, 4351.0)
    wcs = geometry.tan_wcs(grid)
    assert geometry.centre(wcs, (8701, 8700)) == pytest.approx((81.5, -66.3), abs=1e-12)
    up, left = wcs.wcs_pix2world([[4350.5, 4451.0], [4250.5, 4351.0]], 1)
    assert up == pytest.approx([81.5, -66.3 + 100 * 0.27 / 3600], abs=1e-9)
    assert left[0] > 81.5


@pytest.mark.parametrize("pointing", POINTINGS)
@pytest.mark.parametrize("inverse", [True, False], ids=["tile to detector", "detector to tile"])
def test_control_grid_interpolates_to_a_thousandth_of_an_arcsecond(pointing, inverse):
    header = decam_header(*pointing, extname="S29")
    detector = geometry.celestial_wcs(header)
    ra, dec = geometry.centre(detector, FULL)
    tile = geometry.tan_wcs(Grid(ra=ra, dec=dec, pixel_scale=0.27, nx=2001, ny=1501))
    start, end = (tile, detector) if inverse else (detector, tile)
    x0, y0, nx, ny, step = 3, 11, 1900, 1400, 64
    u, v = geometry.control_grid(start, end, x0, y0, nx, ny, step)
    assert u.shape == v.shape == ((ny - 1) // step + 2, (nx - 1) // step + 2)
    rng = np.random.default_rng(3)
    x, y = rng.integers(x0, x0 + nx, 3000).astype(float), rng.integers(y0, y0 + ny, 3000).astype(float)
    x[:2], y[:2] = (x0, x0 + nx - 1), (y0, y0 + ny - 1)  # the region's own corners too
    places = (y - y0) / step, (x - x0) / step
    found = np.stack([ndimage.map_coordinates(g, places, order=1) for g in (u, v)], -1)
    exact = end.wcs_world2pix(start.wcs_pix2world(np.stack([x, y], -1), 0), 0)
    assert np.abs(found - exact).max() * 0.27 < 1e-3
    back = tpv_position(header, *(found if inverse else np.stack([x, y], -1)).T + 1)
    there = start.wcs_pix2world(np.stack([x, y], -1), 0)
    assert arcsec_between(back, geometry.unit_vectors(*there.T)).max() < 1e-3


def test_control_grid_is_nan_where_the_sky_cannot_be_in_the_image():
    detector = geometry.celestial_wcs(decam_header(80.0, -66.0))
    opposite = geometry.tan_wcs(Grid(ra=260.0, dec=66.0, pixel_scale=1.0, nx=100, ny=100))
    u, v = geometry.control_grid(opposite, detector, 0, 0, 100, 100, 50)
    assert np.isnan(u).all()
    assert np.isnan(v).all()
    # A distortion that folds the sky over 0.5 deg from the reference pixel: beyond, there is no way back.
    folding = geometry.celestial_wcs(
        tan_header_with(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", PV1_1=1.0, PV1_7=-1.333, PV2_1=1.0, CD1_1=-1e-4, CD2_2=1e-4)
    )
    around = geometry.tan_wcs(Grid(ra=10.0, dec=-70.0, pixel_scale=3.6, nx=2001, ny=11))
    u, v = geometry.control_grid(around, folding, 0, 0, 2001, 11, 10)
    reach = 1.0 / 3 * 1e3  # xi - 1.333 xi^3 is nowhere larger than 1/3 deg
    distance = np.abs(np.arange(u.shape[1]) * 10 - 1000)
    assert np.isfinite(u[:, distance < 0.97 * reach]).all()
    assert np.isnan(u[:, distance > reach]).all()


def footprint(wcs, shape=FULL):
    """Outline of the pixels of a detector."""
    return geometry.SkyPolygon(*geometry.outlines([geometry.corners(wcs, shape)], [shape[1]], [shape[0]]))


@pytest.mark.parametrize("pointing", POINTINGS)
def test_an_outline_from_corners_is_that_of_the_pixels_to_an_eighth_of_an_arcsecond(pointing):
    header = decam_header(*pointing)
    a = footprint(geometry.celestial_wcs(header)).vertices
    b = np.roll(a, -1, axis=0)
    x, y = np.array([0, 1, 1, 0]) * 2046 + 0.5, np.array([0, 0, 1, 1]) * 4094 + 0.5
    assert arcsec_between(a, tpv_position(header, x, y)).max() < 0.001
    t = np.linspace(0, 1, 501)[:, None]
    edges = tpv_position(header, x + t * (np.roll(x, -1) - x), y + t * (np.roll(y, -1) - y))
    normal = np.cross(a, b) / np.linalg.norm(np.cross(a, b), axis=-1, keepdims=True)
    assert np.degrees(np.abs((edges * normal).sum(axis=-1)).max()) * 3600 < 0.125  # the true sides are curved


@pytest.mark.parametrize("pointing", POINTINGS)
def test_a_detector_contains_its_pixels_and_nothing_beyond(pointing):
    wcs = geometry.celestial_wcs(decam_header(*pointing))
    polygon = footprint(wcs)
    x, y = np.random.default_rng(5).uniform(-3000, 7000, (2, 4000))
    x[:8], y[:8] = (0, 2045, 1000, 1000, -1, 2046, 1000, 1000), (2000, 2000, 0, 4093, 2000, 2000, -1, 4094)
    sky = wcs.wcs_pix2world(np.stack([x, y], -1), 0)
    expected = (x > -0.5) & (x < 2045.5) & (y > -0.5) & (y < 4093.5)
    assert (polygon.contains(*sky.T) == expected).all()
    assert not polygon.contains((pointing[0] + 180) % 360, -pointing[1])


def plane_polygon(points, matrix):
    """Polygon with the given gnomonic coordinates in degrees around (0, 0), moved elsewhere."""
    points = np.radians(points)
    vectors = np.column_stack([np.ones(len(points)), points])
    return geometry.SkyPolygon(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) @ matrix.T)


SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
PAIRS = {  # second polygon, whether it meets the square of +-0.3 deg
    "same": (0.3 * SQUARE, True),
    "inside": (0.1 * SQUARE + 0.05, True),
    "around": (0.9 * SQUARE, True),
    "cross, no vertex inside the other": (np.array([0.1, 0.8]) * SQUARE, True),
    "overlap by 0.1 arcsec": (0.2 * SQUARE + (0.5 - 0.1 / 3600, 0.1), True),
    "apart by 0.1 arcsec": (0.2 * SQUARE + (0.5 + 0.1 / 3600, 0.1), False),
    "apart, boxes overlap": (np.array([(0.31, 0.29), (0.6, 0.0), (0.6, 0.6), (0.29, 0.31 + 0.001)]), False),
    "a corner cut": (np.array([(0.31, 0.28), (0.6, 0.0), (0.6, 0.6), (0.28, 0.31)]), True),
    "hollow side towards it": (np.array([(0.4, -0.5), (0.8, 0.0), (0.4, 0.5), (0.35, 0.2), (0.6, 0.0), (0.35, -0.2)]), False),
    "far away": (0.3 * SQUARE + 5.0, False),
}


@pytest.mark.parametrize(
    "place", [(0, 0, 0), (0, 0, 45), (81.8, -66.4, 10), (359.9, -30, 0), (12, -89, 33), (77, -90, 0), (200, 89.8, 70)]
)
@pytest.mark.parametrize("pair", PAIRS)
def test_whether_polygons_meet_is_the_same_everywhere_on_the_sky(pair, place):
    points, expected = PAIRS[pair]
    matrix = rotation_to(*place)
    a, b = plane_polygon(0.3 * SQUARE, matrix), plane_polygon(points, matrix)
    assert a.intersects(b) is expected
    assert b.intersects(a) is expected
    mirrored = geometry.SkyPolygon(b.vertices[::-1])
    assert a.intersects(mirrored) is expected


def test_many_outlines_are_tested_like_single_ones_and_nan_touches_nothing():
    tile = geometry.SkyPolygon.of_square(0.05, -89.5, 0.67)
    rng = np.random.default_rng(7)
    names = rng.choice(survey.focal_plane()["EXTNAME"], 60)
    wcs = [geometry.celestial_wcs(decam_header(rng.uniform(0, 360), rng.uniform(-90, -89), str(name))) for name in names]
    single = [tile.intersects(footprint(w)) for w in wcs]
    assert 5 < sum(single) < 55
    outlines = geometry.outlines([geometry.corners(w, FULL) for w in wcs], [2046] * 60, [4094] * 60)
    assert geometry.touching(tile, outlines).tolist() == single
    outlines[3, 1] = np.nan
    single[3] = False
    assert geometry.touching(tile, outlines).tolist() == single
    assert geometry.touching(tile, np.empty((0, 4, 3))).shape == (0,)


def test_polygons_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="radius of 45 deg"):
        geometry.SkyPolygon.of_square(10, 10, 80.0)
    wild = geometry.unit_vectors([[0, 90, 180, 270]], [[0, 0, 0, 0]])
    with pytest.raises(InputError, match="1 footprints have a radius"):
        geometry.touching(geometry.SkyPolygon.of_square(10, 10, 1.0), wild + 1e-9)


def test_mean_position_knows_no_jump_of_ra():
    assert geometry.mean_position([359.0, 1.0], [-30.0, -30.0]) == pytest.approx((0.0, -30.004), abs=0.01)
    ra, dec = geometry.mean_position([0.0, 90.0, 180.0, 270.0], [-89.0] * 4)
    assert dec == pytest.approx(-90.0)
    assert 0 <= ra < 360
    ra, dec = geometry.position(geometry.unit_vectors([359.999, 0.0, 12.0], [89.0, 0.0, -90.0]))
    assert ra[:2] == pytest.approx([359.999, 0.0])
    assert dec == pytest.approx([89.0, 0.0, -90.0])
