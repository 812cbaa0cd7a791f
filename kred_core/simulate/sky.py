"""The sky that is simulated: nebulosity and stars as functions of position, band and seed only.

Nothing here knows detectors or fields, so neighbouring fields see the same sky
and the truth can be asked for anywhere. The nebulosity is made of random waves
on the unit sphere, so it has no edge, no pole and no RA = 0; its finest structures
are some 30 arcsec wide. It is the sky after the seeing: it is not blurred further.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numba as nb
import numpy as np

from ..constants import ZERO_POINT
from ..sky import unit_vectors
from .config import SimulationConfig, band

__all__ = ["Sky", "Stars", "diffuse_brightness", "sky_brightness"]

DIFFUSE = 7  # number of the random field that is the additional smooth emission
WAVES = 24  # per random field: enough to look irregular
ROUNDING = 1.5 * 2.0**52  # adding and subtracting it rounds to a whole number, in vector instructions
CELL = 0.25  # deg: stars are drawn cell by cell, each with its own generator
BRIGHTEST, FAINTEST, SLOPE = 11.0, 22.0, 0.3  # r magnitudes; number of stars brighter than m goes as 10**(SLOPE * m)


@cache
def _waves(seed: int, field: int, shortest: float, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Wave vectors (per radian) and phases of one random field, in turns; wavelengths in degrees."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1, field]))
    length = np.radians(np.exp(rng.uniform(np.log(shortest), np.log(longest), WAVES)))
    direction = rng.standard_normal((WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction / length[:, None], rng.random(WAVES)


@nb.njit(nogil=True, cache=True)
def _add_waves(vectors, waves, phases, out):
    """Sum of cosines, with a polynomial of its own (1e-9) that the compiler turns into vector instructions."""
    for j in range(phases.size):
        kx, ky, kz, phase = waves[j, 0], waves[j, 1], waves[j, 2], phases[j]
        for i in range(out.size):
            turns = vectors[0, i] * kx + vectors[1, i] * ky + vectors[2, i] * kz + phase
            # cos(2 pi t) = sin(2 pi (1/4 - |t|)) for |t| <= 1/2, and there the sine's series converges fast
            nearest = (turns + ROUNDING) - ROUNDING
            a = 2 * np.pi * (0.25 - abs(turns - nearest))
            s = a * a
            series = 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72 * (1 - s / 110 * (1 - s / 156 * (1 - s / 210))))))
            out[i] += a * series


@dataclass(frozen=True)
class Stars:
    """Stars of a piece of sky."""

    ra: np.ndarray  # deg
    dec: np.ndarray  # deg
    magnitude: np.ndarray  # in r
    colour: np.ndarray  # times that of a band: magnitude in the band minus that in r

    def __len__(self) -> int:
        return len(self.ra)

    @cached_property
    def directions(self) -> np.ndarray:
        """Unit vectors, shape (n, 3)."""
        return unit_vectors(self.ra, self.dec)

    def flux(self, name: str) -> np.ndarray:
        """Flux in a band, counts28: 10**(0.4 (28 - magnitude))."""
        return 10 ** (0.4 * (ZERO_POINT - self.magnitude - band(name).colour * self.colour))


@dataclass(frozen=True)
class Sky:
    """One simulated sky. Brightnesses in counts28 per square arcsec."""

    seed: int
    nebula: float  # of the H-alpha filaments
    continuum: float  # of the diffuse starlight
    star_density: float  # stars per square degree
    diffuse: float = 0.0  # rms of the additional smooth emission
    diffuse_scale: float = 0.5  # and its wavelength in degrees

    @classmethod
    def of(cls, config: SimulationConfig) -> Sky:
        return cls(config.seed, config.nebula, config.continuum, config.star_density, config.diffuse, config.diffuse_scale)

    def brightness(self, directions: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        """Surface brightness in some bands without stars, shape (bands, ...), for unit vectors, shape (..., 3)."""
        bands = [band(name) for name in names]
        field = partial(self._field, directions)
        starlight = self.continuum * np.exp(0.5 * field(0, 1.0, 6.0) - 0.125)
        lines = {line for b in bands for line, _ in b.lines}
        emission = {}
        if lines and self.nebula:
            envelope = self.nebula * np.exp(0.7 * field(1, 1.0, 5.0) - 0.25)
            diffuse = np.exp(0.7 * field(2, 0.25, 2.0) - 0.25)
            # A filament lies where a smooth random field passes through zero.
            wide = np.exp(-0.5 * (field(3, 0.3, 1.2) / 0.3) ** 2)
            narrow = np.exp(-0.5 * (field(4, 0.2, 0.8) / 0.25) ** 2)
            narrow += 0.4 * diffuse * np.exp(-0.5 * (field(6, 0.12, 0.4) / 0.4) ** 2)
            shocked = 0.5 * (1 + np.tanh(field(5, 0.5, 2.0)))
            emission["halpha"] = envelope * (0.3 * diffuse + 0.8 * wide + 0.6 * narrow)
            emission["sii"] = envelope * (0.15 * diffuse + (0.2 + 0.4 * shocked) * wide + 0.5 * shocked * narrow)
            emission["oiii"] = envelope * (0.1 * diffuse + 0.5 * (1 - shocked) * wide + 0.2 * narrow)
        total = [starlight + sum((share * emission[line] for line, share in b.lines if line in emission), start=0.0) for b in bands]
        return np.array(total) + self.diffuse_brightness(directions) if self.diffuse else np.array(total)

    def diffuse_brightness(self, directions: np.ndarray) -> np.ndarray:
        """The additional smooth emission alone, counts28 per square arcsec, for unit vectors, shape (..., 3).

        A sum of waves of one wavelength in space, so that none is shorter on the sky; where a wave meets
        the sphere at an angle it is longer (half of them by more than 15 percent).
        """
        return self.diffuse * self._field(directions, DIFFUSE, self.diffuse_scale, self.diffuse_scale)

    def _field(self, directions: np.ndarray, number: int, shortest: float, longest: float) -> np.ndarray:
        """A random field of mean 0 and variance 1; wavelengths in degrees."""
        vectors = np.ascontiguousarray(directions.reshape(-1, 3).T)
        total = np.zeros(vectors.shape[1])
        _add_waves(vectors, *_waves(self.seed, number, shortest, longest), total)
        return total.reshape(directions.shape[:-1]) * math.sqrt(2 / WAVES)

    def stars(self, ra: float, dec: float, radius: float) -> Stars:
        """Stars within a radius of a position, all in degrees, always in the same order."""
        bottom, top = max(-90.0, dec - radius), min(90.0, dec + radius)
        parts = []
        for strip in range(math.floor((bottom + 90) / CELL), math.ceil((top + 90) / CELL)):
            parts += self._strip(strip, ra, dec, radius)
        columns = np.concatenate(parts, axis=1) if parts else np.empty((4, 0))
        near = unit_vectors(columns[0], columns[1]) @ unit_vectors(ra, dec) >= math.cos(math.radians(radius))
        return Stars(*columns[:, near])

    def _strip(self, strip: int, ra: float, dec: float, radius: float) -> list[np.ndarray]:
        """Stars of those cells of a strip in declination that may lie within the radius."""
        low, high = (math.radians(CELL * (strip + i) - 90) for i in (0, 1))
        n_cells = max(1, round(360 / CELL * math.cos((low + high) / 2)))
        width = 360 / n_cells
        # Widest half-extent in RA of a circle of this radius: asin(sin(radius) / cos(dec)), the whole strip at a pole.
        ratio = math.sin(math.radians(radius)) / max(math.cos(math.radians(dec)), 1e-9)
        reach = 180.0 if ratio >= 1 or abs(dec) + radius >= 90 else math.degrees(math.asin(ratio))
        first, last = math.floor((ra - reach) / width), math.floor((ra + reach) / width)
        cells = range(n_cells) if last - first >= n_cells - 1 else [c % n_cells for c in range(first, last + 1)]
        area = math.degrees(math.sin(high) - math.sin(low)) * width
        parts = []
        for cell in cells:
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, 2, strip, cell]))
            n = rng.poisson(self.star_density * area)
            u = rng.random((3, n))
            # Inverse of the cumulative luminosity function between its two ends.
            share = 10 ** (SLOPE * (BRIGHTEST - FAINTEST))
            magnitude = FAINTEST + np.log10(share + u[2] * (1 - share)) / SLOPE
            declination = np.degrees(np.arcsin(math.sin(low) + u[1] * (math.sin(high) - math.sin(low))))
            parts.append(np.stack([(cell + u[0]) * width, declination, magnitude, 0.3 * rng.standard_normal(n)]))
        return parts


def sky_brightness(ra: np.ndarray, dec: np.ndarray, name: str, config: SimulationConfig) -> np.ndarray:
    """Noiseless surface brightness of a simulated sky in one band, without stars.

    Parameters
    ----------
    ra, dec : array_like
        Positions in degrees (ICRS).
    name : str
        Band, for example N662.
    config : `SimulationConfig`
        Of the simulation; its seed, nebula, continuum, diffuse and diffuse_scale count.

    Returns
    -------
    `numpy.ndarray`
        counts28 per square arcsec. A detector's pixel holds this times the pixel's area on the sky.
    """
    return Sky.of(config).brightness(unit_vectors(ra, dec), (name,))[0]


def diffuse_brightness(ra: np.ndarray, dec: np.ndarray, config: SimulationConfig) -> np.ndarray:
    """The additional smooth emission of a simulated sky alone; it is the same in all bands.

    Parameters
    ----------
    ra, dec : array_like
        Positions in degrees (ICRS), of the same shape.
    config : `SimulationConfig`
        Of the simulation; its seed, diffuse and diffuse_scale count.

    Returns
    -------
    `numpy.ndarray`
        counts28 per square arcsec: `sky_brightness` minus that of the same configuration with diffuse = 0.
        Mean 0 and rms config.diffuse over the whole sky; a piece of a few wavelengths has other values.
    """
    return Sky.of(config).diffuse_brightness(unit_vectors(ra, dec))
