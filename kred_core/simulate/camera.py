"""DECam as the simulator sees it: where each detector's pixels lie on the sky, and its amplifiers.

The astrometric model is TPV with CRVAL at the pointing, as in real files. Its
radial term was fitted to the pixel areas of real Community Pipeline headers, so
pixels shrink by about 1.3 percent in area from the centre to the edge of the field.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from astropy.wcs import WCS

from ..errors import ConfigError
from ..exposures.focal_plane import CD, RADIAL
from ..fits.cards import Value
from ..survey import Tile, focal_plane
from .sky import unit_vectors

__all__ = ["NATIVE_SCALE", "Ccd", "DetectorGeometry", "Pointing", "ccds"]

NATIVE_SCALE = CD * 3600  # arcsec per native pixel
SMALL = {1: {4: 1e-4, 5: -1e-4, 6: 5e-5}, 2: {4: -5e-5, 5: 1e-4, 6: 1e-4}}  # decentring, as small as the real files' scatter
CORNERS = ((0, 0), (1, 0), (0, 1), (1, 1))  # order of COR1..COR4: not cyclic


def _distortion(axis: int) -> dict[int, float]:
    """PVi_0 to PVi_10 of an axis."""
    values = {**RADIAL, **SMALL[axis]}
    return {n: values.get(n, 0.0) for n in range(11)}


@dataclass(frozen=True)
class Ccd:
    """One CCD: position in the focal plane and properties of its two amplifiers.

    Attributes
    ----------
    number : int
        CCDNUM, 1..62.
    name : str
        EXTNAME and DETPOS.
    crpix1, crpix2 : float
        Native pixel of the 2046x4094 image on which the pointing falls.
    gain, read_noise, saturation : tuple of float
        Of amplifiers A (the lower half in x) and B: e/ADU, electrons, ADU.
    bad_columns : tuple of (int, int, int, float)
        Native column, first and last native row, and what it adds in ADU.
    """

    number: int
    name: str
    crpix1: float
    crpix2: float
    gain: tuple[float, float]
    read_noise: tuple[float, float]
    saturation: tuple[float, float]
    bad_columns: tuple[tuple[int, int, int, float], ...]


@cache
def _ccd(number: int, name: str, crpix1: float, crpix2: float) -> Ccd:
    # A CCD is the same in all simulations: its generator is seeded by its number alone.
    rng = np.random.default_rng(np.random.SeedSequence([number, 3]))
    gain = 3.9 + 0.1 * rng.standard_normal(2)
    read_noise = 6.0 + 0.3 * rng.standard_normal(2)
    saturation = 44000 + 1500 * rng.standard_normal(2)
    columns = []
    for _ in range(rng.integers(1, 5)):
        first = int(rng.integers(1, 3500))
        last = int(min(4094, first + rng.integers(300, 4000)))
        columns.append((int(rng.integers(20, 2026)), first, last, float(rng.choice([-1, 1]) * rng.uniform(20, 200))))
    return Ccd(
        number, name, crpix1, crpix2, tuple(gain.tolist()), tuple(read_noise.tolist()), tuple(saturation.tolist()), tuple(columns)
    )


def ccds(names: list[str]) -> tuple[Ccd, ...]:
    """CCDs with these EXTNAMEs, in the order of CCDNUM; all 62 where none is named."""
    table = focal_plane()
    known = [str(name) for name in table["EXTNAME"]]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"DECam has no detector {', '.join(unknown)}; it has N1 to N31 and S1 to S31")
    return tuple(
        _ccd(int(row["CCDNUM"]), str(row["EXTNAME"]), float(row["CRPIX1"]), float(row["CRPIX2"]))
        for row in table
        if not names or str(row["EXTNAME"]) in names
    )


@dataclass(frozen=True)
class Pointing:
    """Direction of the telescope: position in degrees, and rotation of the camera in radians."""

    ra: float
    dec: float
    rotation: float = 0.0


@dataclass(frozen=True)
class DetectorGeometry:
    """Where the pixels of one CCD lie on the sky in one exposure.

    Attributes
    ----------
    ccd : `Ccd`
    pointing : `Pointing`
    binning : int
        Native pixels summed each way. Unbinned images are 2046x4094, with one edge
        pixel trimmed on each side as in real files; binned ones use all 2048x4096.
    """

    ccd: Ccd
    pointing: Pointing
    binning: int

    @property
    def shape(self) -> tuple[int, int]:
        """(NAXIS2, NAXIS1)."""
        return (4094, 2046) if self.binning == 1 else (4096 // self.binning, 2048 // self.binning)

    def pixel(self, native: float) -> float:
        """FITS pixel coordinate of a native (2046x4094) pixel coordinate, along either axis."""
        return native if self.binning == 1 else (native + 0.5) / self.binning + 0.5

    @property
    def split(self) -> int:
        """Columns that belong to amplifier A."""
        return 1023 if self.binning == 1 else 1024 // self.binning

    @property
    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """CRPIX (x, y) and CD matrix (deg): standard coordinates are CD (pixel - CRPIX), before distortion."""
        c, s = np.cos(self.pointing.rotation), np.sin(self.pointing.rotation)
        step = CD * self.binning
        # x runs south, y runs east
        return (
            np.array([self.pixel(self.ccd.crpix1), self.pixel(self.ccd.crpix2)]),
            step * np.array([[s, c], [-c, s]]),
        )

    def wcs_cards(self) -> list[tuple[str, Value, str]]:
        """WCS keywords with values and comments, as in a real extension header."""
        crpix, cd = self.linear
        cards = [
            ("WCSAXES", 2, "WCS Dimensionality"),
            ("CTYPE1", "RA---TPV", "WCS projection type for this axis"),
            ("CTYPE2", "DEC--TPV", "WCS projection type for this axis"),
            ("CUNIT1", "deg", "Axis unit"),
            ("CUNIT2", "deg", "Axis unit"),
            ("CRVAL1", self.pointing.ra, "World coordinate on this axis"),
            ("CRVAL2", self.pointing.dec, "World coordinate on this axis"),
            ("CRPIX1", float(crpix[0]), "Reference pixel on this axis"),
            ("CRPIX2", float(crpix[1]), "Reference pixel on this axis"),
        ]
        cards += [(f"CD{i + 1}_{j + 1}", float(cd[i, j]), "Linear projection matrix") for i in (0, 1) for j in (0, 1)]
        for axis in (1, 2):
            cards += [(f"PV{axis}_{n}", value, "Projection distortion parameter") for n, value in _distortion(axis).items()]
        return cards

    @cached_property
    def wcs(self) -> WCS:
        """The same as astropy makes from the header, in a twentieth of the time."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TPV", "DEC--TPV"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.crval = [self.pointing.ra, self.pointing.dec]
        wcs.wcs.crpix, wcs.wcs.cd = self.linear
        wcs.wcs.set_pv([(axis, n, value) for axis in (1, 2) for n, value in _distortion(axis).items()])
        return wcs

    def sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """RA and Dec in degrees of FITS pixel coordinates."""
        return self.wcs.wcs_pix2world(x, y, 1)

    def corners(self, shape: tuple[int, int]) -> list[tuple[float, float]]:
        """(RA, Dec) of the centre and of pixels (1,1), (NX,1), (1,NY), (NX,NY) of an image of this shape."""
        ny, nx = shape
        x = np.array([(nx + 1) / 2] + [1 + i * (nx - 1) for i, _ in CORNERS])
        y = np.array([(ny + 1) / 2] + [1 + j * (ny - 1) for _, j in CORNERS])
        return [(float(a), float(d)) for a, d in zip(*self.sky(x, y), strict=True)]

    def touches(self, tile: Tile) -> bool:
        """Whether any part of the detector lies on a tile.

        Two convex polygons in the tangent plane of the tile's centre are apart exactly if
        one of their sides separates them; great circles are straight lines there.
        """
        ny, nx = self.shape
        x, y = np.array([0.5, nx + 0.5, nx + 0.5, 0.5]), np.array([0.5, 0.5, ny + 0.5, ny + 0.5])
        v = unit_vectors(*self.sky(x, y))
        a, d = np.radians([tile.ra, tile.dec])
        depth = v @ unit_vectors(tile.ra, tile.dec)
        if depth.min() < 0.9:
            return False  # more than 25 degrees away
        east = np.array([-np.sin(a), np.cos(a), 0])
        north = np.array([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])
        detector = np.degrees(np.stack([v @ east, v @ north], 1) / depth[:, None])
        half = tile.size / 2
        square = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        for polygon in (detector, square):
            sides = np.roll(polygon, -1, axis=0) - polygon
            for normal in np.stack([sides[:, 1], -sides[:, 0]], 1):
                p, q = detector @ normal, square @ normal
                if p.max() < q.min() or q.max() < p.min():
                    return False
        return True
