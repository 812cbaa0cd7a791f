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
from ..exposures.detectors import CD, RADIAL
from ..fits.checksum import Cards
from ..sky import SkyPolygon, corners, outlines
from ..survey import Tile, focal_plane

NATIVE_SCALE = CD * 3600  # arcsec per native pixel
SMALL = {1: {4: 1e-4, 5: -1e-4, 6: 5e-5}, 2: {4: -5e-5, 5: 1e-4, 6: 1e-4}}  # decentring, as small as the real files' scatter
# PVi_0 to PVi_10 of each axis
DISTORTION = {axis: {n: (RADIAL | small).get(n, 0.0) for n in range(11)} for axis, small in SMALL.items()}


@dataclass(frozen=True)
class Ccd:
    """One CCD: position in the focal plane and properties of its two amplifiers, A (the lower half in x) and B."""

    number: int  # CCDNUM, 1..62
    name: str  # EXTNAME and DETPOS
    crpix1: float  # native pixel of the 2046x4094 image on which the pointing falls
    crpix2: float
    gain: tuple[float, float]  # e/ADU
    read_noise: tuple[float, float]  # electrons
    saturation: tuple[float, float]  # ADU
    bad_columns: tuple[tuple[int, int, int, float], ...]  # native column, first and last native row, and what it adds in ADU


@cache
def _camera() -> tuple[Ccd, ...]:
    """All CCDs, the same in all simulations: the generator of each is seeded by its number alone."""
    found = []
    for row in focal_plane():
        number = int(row["CCDNUM"])
        rng = np.random.default_rng(np.random.SeedSequence([number, 3]))
        gain = 3.9 + 0.1 * rng.standard_normal(2)
        read_noise = 6.0 + 0.3 * rng.standard_normal(2)
        saturation = 44000 + 1500 * rng.standard_normal(2)
        columns = []
        for _ in range(rng.integers(1, 5)):
            first = int(rng.integers(1, 3500))
            last = min(4094, first + int(rng.integers(300, 4000)))
            columns.append((int(rng.integers(20, 2026)), first, last, float(rng.choice([-1, 1]) * rng.uniform(20, 200))))
        gains, noises, limits = ((float(a), float(b)) for a, b in (gain, read_noise, saturation))
        found.append(
            Ccd(number, str(row["EXTNAME"]), float(row["CRPIX1"]), float(row["CRPIX2"]), gains, noises, limits, tuple(columns))
        )
    return tuple(found)


def ccds(names: list[str]) -> tuple[Ccd, ...]:
    """CCDs with these EXTNAMEs, in the order of CCDNUM; all 62 where none is named."""
    known = {ccd.name for ccd in _camera()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"DECam has no detector {', '.join(unknown)}; it has N1 to N31 and S1 to S31")
    return tuple(ccd for ccd in _camera() if not names or ccd.name in names)


@dataclass(frozen=True)
class Pointing:
    """Direction of the telescope: position in degrees, and rotation of the camera in radians."""

    ra: float
    dec: float
    rotation: float = 0.0


@dataclass(frozen=True)
class DetectorGeometry:
    """Where the pixels of one CCD lie on the sky in one exposure.

    Unbinned images are 2046x4094, one edge pixel trimmed on each side as in real files; binned ones use all 2048x4096.
    """

    ccd: Ccd
    pointing: Pointing
    binning: int  # native pixels summed each way

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
        cd = CD * self.binning * np.array([[s, c], [-c, s]])  # x runs south, y runs east
        return np.array([self.pixel(self.ccd.crpix1), self.pixel(self.ccd.crpix2)]), cd

    def wcs_cards(self) -> Cards:
        """WCS keywords with values and comments, as in a real extension header."""
        crpix, cd = self.linear
        cards: Cards = {
            "WCSAXES": (2, "WCS Dimensionality"),
            "CTYPE1": ("RA---TPV", "WCS projection type for this axis"),
            "CTYPE2": ("DEC--TPV", "WCS projection type for this axis"),
            "CUNIT1": ("deg", "Axis unit"),
            "CUNIT2": ("deg", "Axis unit"),
            "CRVAL1": (self.pointing.ra, "World coordinate on this axis"),
            "CRVAL2": (self.pointing.dec, "World coordinate on this axis"),
            "CRPIX1": (float(crpix[0]), "Reference pixel on this axis"),
            "CRPIX2": (float(crpix[1]), "Reference pixel on this axis"),
        }
        cards |= {f"CD{i + 1}_{j + 1}": (float(cd[i, j]), "Linear projection matrix") for i in (0, 1) for j in (0, 1)}
        for axis in (1, 2):
            cards |= {f"PV{axis}_{n}": (value, "Projection distortion parameter") for n, value in DISTORTION[axis].items()}
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
        wcs.wcs.set_pv([(axis, n, value) for axis in (1, 2) for n, value in DISTORTION[axis].items()])
        return wcs

    def sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """RA and Dec in degrees of FITS pixel coordinates."""
        return self.wcs.wcs_pix2world(x, y, 1)

    def corners(self, shape: tuple[int, int]) -> list[tuple[float, float]]:
        """(RA, Dec) of the centre and of pixels (1,1), (NX,1), (1,NY), (NX,NY), as COR1 to COR4, of an image of this shape."""
        ny, nx = shape
        x, y = np.array([(nx + 1) / 2, 1, nx, 1, nx]), np.array([(ny + 1) / 2, 1, 1, ny, ny])
        return [(float(a), float(d)) for a, d in zip(*self.sky(x, y), strict=True)]

    def touches(self, tile: Tile) -> bool:
        """Whether any part of the detector lies on a tile."""
        (outline,) = outlines([corners(self.wcs, self.shape)], [self.shape[1]], [self.shape[0]])
        return SkyPolygon(outline).intersects(SkyPolygon.of_square(tile.ra, tile.dec, tile.size))
