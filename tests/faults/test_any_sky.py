"""Positions, outlines and headers of WCS: what holds anywhere on the sky."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from properties import examples, outcome

from kred_core import sky
from kred_core.errors import ExposureError, InputError
from kred_core.match import find_pairs
from kred_core.sky import SkyPolygon

RA = st.floats(0, 360, exclude_max=True) | st.sampled_from([0.0, 1e-12, 90.0, 180.0, 270.0, math.nextafter(360.0, 0)])
DEC = st.floats(-90, 90) | st.sampled_from([-90.0, -89.999999, 0.0, 90.0, 89.999999])
SIZE = st.floats(0.01, 20)


def _outline(wcs, ny: int, nx: int) -> SkyPolygon:
    return SkyPolygon(*sky.outlines([sky.corners(wcs, (ny, nx))], [nx], [ny]))


@examples(100)
@given(ra=RA, dec=DEC, size=SIZE, x=st.floats(-2, 2), y=st.floats(-2, 2))
def test_a_square_has_its_area_and_contains_what_is_in_it(ra, dec, size, x, y):
    square = SkyPolygon.of_square(ra, dec, size)
    half = math.radians(size / 2)
    solid_angle = 4 * math.atan(half**2 / math.sqrt(1 + 2 * half**2))
    assert square.area_deg2 == pytest.approx(solid_angle * math.degrees(1) ** 2, rel=1e-9)
    middle, east, north = sky.local_frame(ra, dec)
    inside = max(abs(x), abs(y))
    assume(abs(inside - 1) > 1e-6)
    point = sky.position(middle + half * (x * east + y * north))
    assert square.contains(*point) == (inside < 1)
    assert square.contains(*sky.position(-middle)) == np.False_
    for shrunk, expected in ((1 - 1e-6, True), (1 + 1e-6, False)):
        corners = sky.position(square.middle + shrunk * (square.vertices - square.middle))
        assert (square.contains(*corners) == expected).all()


@dataclass(frozen=True)
class Places:
    """Squares around one place of the sky, each by its offset, size and position angle."""

    ra: float
    dec: float
    squares: tuple[tuple[float, float, float, float], ...]

    def vertices(self, k, growth=1.0):
        """Unit vectors, (4, 3)."""
        x0, y0, size, angle = self.squares[k]
        middle, east, north = sky.local_frame(self.ra, self.dec)
        c, s = math.cos(angle), math.sin(angle)
        corners = [
            (x0 + growth * size * (c * i - s * j), y0 + growth * size * (s * i + c * j))
            for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        vectors = np.array([middle + math.radians(x) * east + math.radians(y) * north for x, y in corners])
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def places(n):
    square = st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.05, 1), st.floats(0, 2))
    return st.builds(Places, RA, DEC, st.lists(square, min_size=n, max_size=n).map(tuple))


@examples(150)
@given(where=places(2), data=st.data())
def test_whether_polygons_touch_is_symmetric_and_agrees_with_what_they_contain(where, data):
    one, other = (SkyPolygon(where.vertices(k)) for k in (0, 1))
    touch = one.intersects(other)
    # Where they touch but for rounding, either may come out, also of the two orders.
    tight, loose = (SkyPolygon(where.vertices(0, growth)).intersects(other) for growth in (1 - 1e-9, 1 + 1e-9))
    assume(tight == loose)
    assert touch == other.intersects(one) == tight
    assert SkyPolygon(one.vertices[::-1]).intersects(SkyPolygon(np.roll(other.vertices, 1, axis=0))) == touch
    mixture = data.draw(hnp.arrays(float, (20, 4), elements=st.floats(0, 1)))
    points = sky.position((mixture + 1e-3) @ one.vertices)  # inside the first, which is convex
    if other.contains(*points).any() or one.contains(*sky.position(other.vertices)).any():
        assert touch
    # The same verdict as that of the pairs of an image.
    corners = np.array([np.stack(sky.position(p.vertices[[0, 1, 3, 2]]), axis=-1) for p in (one, other)])
    large = np.full(2, 10**9)  # pixels so small that the outline is that of the corners
    assert (find_pairs(corners, large, large)[0].size == 1) == touch


NUMBERS = (
    st.floats(-400, 400) | st.sampled_from([0.0, math.nan, math.inf, 90.0, -90.0, 1e-300, 1e300]) | st.text(max_size=3) | st.none()
)
WCS_KEYS = "CRVAL1 CRVAL2 CRPIX1 CRPIX2 CD1_1 CD1_2 CD2_1 CD2_2 CDELT1 CROTA2 PV1_1 PV2_0 LONPOLE EQUINOX".split()
KINDS = st.sampled_from(
    ["RA---TAN", "DEC--TAN", "RA---TPV", "DEC--TPV", "RA---SIN", "RA---XXX", "DEC--XXX", "GLON-CAR", "", "RA---TAN-SIP"]
)


@examples(150)
@given(changes=st.dictionaries(st.sampled_from(WCS_KEYS), NUMBERS, max_size=6), kinds=st.tuples(KINDS, KINDS), usual=st.booleans())
def test_any_header_gives_positions_or_says_why_it_has_none(changes, kinds, usual):
    cards = {"CRVAL1": 10.0, "CRVAL2": -70.0, "CRPIX1": 50.5, "CRPIX2": 40.5, "CD1_1": -7e-5, "CD2_2": 7e-5, **changes}
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = ("RA---TAN", "DEC--TAN") if usual else kinds
    for key, value in cards.items():
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)  # as real headers have it
        if value is not None and (not isinstance(value, str) or (value.isascii() and value.isprintable())):
            header[key] = value

    def read():
        wcs = sky.celestial_wcs(header)
        return sky.corners(wcs, (80, 100)), sky.centre(wcs, (80, 100)), _outline(wcs, 80, 100)

    found, message = outcome(read, ExposureError, InputError)
    if found is None:
        assert "WCS" in message or "radius" in message
        return
    corners, (ra, dec), outline = found
    assert ((corners[:, 0] >= 0) & (corners[:, 0] < 360)).all()
    assert (np.abs(corners[:, 1]) <= 90).all()
    assert 0 <= ra < 360
    assert abs(dec) <= 90
    assert np.isfinite(outline.area_deg2)


@examples(60)
@given(
    ra=RA,
    dec=DEC,
    scale=st.floats(0.05, 5),
    angle=st.floats(0, 2 * math.pi),
    flip=st.sampled_from([1, -1]),
    nx=st.integers(20, 500),
)
def test_pixels_have_their_place_and_area_anywhere(ra, dec, scale, angle, flip, nx):
    header, ny = fits.Header(), 2 * nx
    header["CTYPE1"], header["CTYPE2"], header["CRVAL1"], header["CRVAL2"] = "RA---TAN", "DEC--TAN", ra, dec
    header["CRPIX1"], header["CRPIX2"] = (nx + 1) / 2, (ny + 1) / 2
    c, s = scale / 3600 * math.cos(angle), scale / 3600 * math.sin(angle)
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = flip * c, -s, flip * s, c
    wcs = sky.celestial_wcs(header)
    centre = sky.centre(wcs, (ny, nx))
    assert np.linalg.norm(sky.unit_vectors(*centre) - sky.unit_vectors(ra, dec)) < 1e-11
    assert sky.pixel_scale(wcs, (ny, nx)) == pytest.approx(scale, rel=1e-6)
    outline = _outline(wcs, ny, nx)
    assert outline.contains(ra, dec)
    x, y = np.meshgrid((np.arange(20) + 0.5) * nx / 20 - 0.5, (np.arange(20) + 0.5) * ny / 20 - 0.5)
    total = sky.pixel_area_arcsec2(wcs, x, y).mean() * nx * ny
    assert outline.area_deg2 * 3600**2 == pytest.approx(total, rel=1e-4)
    assert outline.contains(*sky.corners(wcs, (ny, nx)).T).all()
