"""Positions on the sphere and polygons of great circles: the footprints of detectors, the squares of tiles.

Everything here works with unit vectors or in a tangent plane, so that RA 0h and the poles are places like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError

LARGEST_RADIUS = 25.0  # deg; a polygon and any that touches it must fit into one tangent plane


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> np.ndarray:
    """Return unit vectors, shape (..., 3), of positions in degrees."""
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def position(vectors: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return RA in [0, 360) and Dec, in degrees, of vectors of any length, shape (..., 3)."""
    x, y, z = np.moveaxis(np.asarray(vectors, dtype=np.float64), -1, 0)
    ra = np.degrees(np.arctan2(y, x)) % 360.0
    return np.where(ra == 360.0, 0.0, ra), np.degrees(np.arctan2(z, np.hypot(x, y)))


def mean_position(ra: ArrayLike, dec: ArrayLike) -> tuple[float, float]:
    """Return RA and Dec, in degrees, of the mean of the unit vectors of positions in degrees."""
    mean_ra, mean_dec = position(unit_vectors(ra, dec).reshape(-1, 3).mean(axis=0))
    return float(mean_ra), float(mean_dec)


def separation(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Return the distance on the sky of two positions; all in degrees."""
    return 2 * math.degrees(math.asin(min(1.0, float(np.linalg.norm(unit_vectors(*a) - unit_vectors(*b))) / 2)))


@dataclass(frozen=True, eq=False)
class SkyPolygon:
    """A polygon on the sky, its sides arcs of great circles.

    It does not cross itself and lies within 25 deg of its centre. It need not be convex.
    """

    vertices: np.ndarray  # unit vectors, shape (n, 3), in cyclic order

    def __post_init__(self):
        if not self.radius_deg < LARGEST_RADIUS:
            raise InputError(f"a polygon on the sky has a radius of {self.radius_deg:.0f} deg; at most {LARGEST_RADIUS:.0f} works")

    @classmethod
    def of_square(cls, ra: float, dec: float, size_deg: float) -> SkyPolygon:
        """Return a square in the tangent plane at its centre, as of a TAN image of size_deg / CDELT pixels, north up; degrees."""
        half = math.radians(size_deg / 2)
        middle, east, north = local_frame(ra, dec)
        vertices = np.array([middle + half * (i * east + j * north) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
        return cls(vertices / np.linalg.norm(vertices, axis=-1, keepdims=True))

    @cached_property
    def middle(self) -> np.ndarray:
        """Unit vector of the mean of the vertices."""
        mean = self.vertices.mean(axis=0)
        return mean / np.linalg.norm(mean)

    @cached_property
    def radius_deg(self) -> float:
        """Distance in degrees of the farthest vertex from the middle."""
        return math.degrees(2 * np.arcsin(np.linalg.norm(self.vertices - self.middle, axis=-1).max() / 2))

    def contains(self, ra: ArrayLike, dec: ArrayLike) -> np.ndarray:
        """Tell which positions in degrees lie inside; bool of their shape. On the outline either may come out."""
        vectors = unit_vectors(ra, dec)
        ahead = vectors @ self.middle > 0.5  # beyond 60 deg nothing is inside, and the tangent plane has no place for it
        plane = _tangent_plane(self.middle)
        points = _project(np.where(ahead[..., None], vectors, self.middle), *plane)
        polygon = _project(self.vertices, *plane)
        return ahead & _inside(points.reshape(-1, 2), polygon[None]).reshape(ahead.shape)

    def intersects(self, other: SkyPolygon) -> bool:
        """Tell whether two polygons have a point in common; polygons that only touch have."""
        return bool(touching(self, other.vertices[None])[0])


def outlines(corner_positions: ArrayLike, naxis1: ArrayLike, naxis2: ArrayLike) -> np.ndarray:
    """Return the outlines of many detectors from the centres of their corner pixels.

    The corners, shape (n, 4, 2), are RA and Dec in degrees, in the order of `corners`; the sizes in pixels have the shape (n,). The
    outlines are unit vectors, shape (n, 4, 3), in cyclic order, of the outer corners of the corner pixels.

    Notes
    -----
    Half a pixel is added by bilinear extrapolation of the unit vectors. With sides taken as straight, the outline of a DECam
    CCD is right to 0.12 arcsec.
    """
    sky = np.asarray(corner_positions, dtype=np.float64).reshape(-1, 4, 2)
    first, right, upper, last = np.moveaxis(unit_vectors(sky[..., 0], sky[..., 1]), 1, 0)
    by_x = (0.5 / np.maximum(np.asarray(naxis1, dtype=np.float64) - 1, 1))[..., None]
    by_y = (0.5 / np.maximum(np.asarray(naxis2, dtype=np.float64) - 1, 1))[..., None]

    def at(s, t):
        return (1 - s) * (1 - t) * first + s * (1 - t) * right + (1 - s) * t * upper + s * t * last

    vectors = np.stack([at(-by_x, -by_y), at(1 + by_x, -by_y), at(1 + by_x, 1 + by_y), at(-by_x, 1 + by_y)], axis=1)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def touching(polygon: SkyPolygon, others: np.ndarray) -> np.ndarray:
    """Tell which of many polygons have a point in common with one.

    The others are unit vectors, shape (n, m, 3): n polygons of m vertices in cyclic order. The result is bool, shape (n,). Polygons
    that only touch count; a polygon with a NaN touches nothing.

    Raises
    ------
    InputError
        One of the others has a radius of more than 25 deg.

    Notes
    -----
    Caps around the polygons rule out most. The rest are projected onto the tangent plane at the middle of ``polygon``, where
    arcs of great circles are straight lines, so that the test in the plane is the test on the sphere.
    """
    others = np.asarray(others, dtype=np.float64)
    mean = others.mean(axis=1)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    radius = np.linalg.norm(others - mean[:, None], axis=-1).max(axis=1, initial=0.0)
    too_large = np.count_nonzero(radius > 2 * math.sin(math.radians(LARGEST_RADIUS) / 2))
    if too_large:
        raise InputError(f"{too_large} footprints have a radius of more than {LARGEST_RADIUS:.0f} deg; their corners must be wrong")
    distance = np.linalg.norm(mean - polygon.middle, axis=-1)
    # Chords: of the sum of two angles the chord is less than the sum of the chords.
    reach = 2 * math.sin(math.radians(polygon.radius_deg) / 2) + radius
    result = distance <= reach * (1 + 1e-9)
    near = np.flatnonzero(result)
    plane = _tangent_plane(polygon.middle)
    p = _project(polygon.vertices, *plane)
    q = _project(others[near], *plane)
    result[near] = _inside(p[:1], q) | _inside(q[:, 0], p[None]) | _sides_cross(p, q)
    return result


def local_frame(ra: float, dec: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return unit vectors towards a position, and east and north of it (at a pole: of the meridian ra)."""
    a, d = math.radians(ra), math.radians(dec)
    middle = np.array([math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d)])
    east = np.array([-math.sin(a), math.cos(a), 0.0])
    north = np.array([-math.sin(d) * math.cos(a), -math.sin(d) * math.sin(a), math.cos(d)])
    return middle, east, north


def _tangent_plane(middle: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ra, dec = position(middle)
    return local_frame(float(ra), float(dec))


def _project(vectors: np.ndarray, middle: np.ndarray, east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """Gnomonic coordinates, shape (..., 2)."""
    return np.stack([vectors @ east, vectors @ north], axis=-1) / (vectors @ middle)[..., None]


def _inside(points: np.ndarray, polygons: np.ndarray) -> np.ndarray:
    """Even-odd rule in the plane: points (n, 2) in polygons (n, m, 2); either may have n = 1."""
    x, y = points[:, 0, None], points[:, 1, None]
    x1, y1 = polygons[..., 0], polygons[..., 1]
    x2, y2 = np.roll(x1, -1, axis=-1), np.roll(y1, -1, axis=-1)
    straddles = (y1 > y) != (y2 > y)
    run = np.where(straddles, y2 - y1, 1.0)
    return (straddles & (x < x1 + (y - y1) * (x2 - x1) / run)).sum(axis=-1) % 2 == 1


def _sides_cross(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Whether a side of polygon p (m, 2) meets a side of each polygon of q (n, k, 2); bool (n,)."""
    a, b = p[None, :, None], np.roll(p, -1, axis=0)[None, :, None]
    c, d = q[:, None], np.roll(q, -1, axis=1)[:, None]

    def turn(o, s, t):
        return (s[..., 0] - o[..., 0]) * (t[..., 1] - o[..., 1]) - (s[..., 1] - o[..., 1]) * (t[..., 0] - o[..., 0])

    # The boxes decide for sides on one line, where all turns are zero.
    boxes = ((np.minimum(a, b) <= np.maximum(c, d)) & (np.minimum(c, d) <= np.maximum(a, b))).all(axis=-1)
    opposite = (turn(a, b, c) * turn(a, b, d) <= 0) & (turn(c, d, a) * turn(c, d, b) <= 0)
    return (boxes & opposite).any(axis=(1, 2))
