"""What is simulated: the sky as a function of position, band and seed, and the pixels that a detector makes of it.

The sky knows no detectors and no fields, so neighbouring fields see the same one and the truth can be asked for anywhere. Its
nebulosity is made of random waves on the unit sphere, so it has no edge, no pole and no RA = 0; its finest structures are some
30 arcsec wide. It is the sky after the seeing: it is not blurred further.

In the pixels, celestial brightness fills the area that a pixel has on the sky, stars keep their flux, and the sky level is
constant in counts per pixel up to its gradient, as flat-fielded images have it. Photon noise is Gaussian with the right
variance, which differs from Poisson's only where a pixel has a few electrons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numba as nb
import numpy as np
from scipy.ndimage import spline_filter

from ..constants import ZERO_POINT
from ..sky import unit_vectors
from .camera import DetectorGeometry
from .config import SimulationConfig, band
from .exposures import ExposurePlan, generator, offset_and_step

DIFFUSE = 7  # number of the random field that is the additional smooth emission
WAVES = 24  # per random field: enough to look irregular
ROUNDING = 1.5 * 2.0**52  # adding and subtracting it rounds to a whole number, in vector instructions
CELL = 0.25  # deg: stars are drawn cell by cell, each with its own generator
BRIGHTEST, FAINTEST, SLOPE = 11.0, 22.0, 0.3  # r magnitudes; number of stars brighter than m goes as 10**(SLOPE * m)

NODE = 32  # native pixels between the nodes on which the nebulosity is evaluated; see `_nebulosity`
PAD = 8  # nodes beyond the edge, so that the spline does not feel its boundary
MOFFAT_BETA = 3.0  # a whole number, which the kernel multiplies out: powers would take most of its time
FAINTEST_WING = 0.02  # ADU per native pixel length, as the noise goes: stars are drawn out to where they fall below this
LARGEST_STAMP = 500.0  # native pixels
BAD, SATURATED, BLEED, COSMIC_RAY = 1, 3, 4, 5  # ood codes
LONGEST_BLEED = 400  # native pixels


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
    """Noiseless surface brightness of a simulated sky in one band (for example N662) at positions in degrees, without stars.

    In counts28 per square arcsec; a detector's pixel holds this times the pixel's area on the sky. Of the configuration the seed,
    nebula, continuum, diffuse and diffuse_scale count.
    """
    return Sky.of(config).brightness(unit_vectors(ra, dec), (name,))[0]


def diffuse_brightness(ra: np.ndarray, dec: np.ndarray, config: SimulationConfig) -> np.ndarray:
    """The additional smooth emission of a simulated sky alone, at positions in degrees; it is the same in all bands.

    In counts28 per square arcsec: `sky_brightness` minus that of the same configuration with diffuse = 0. Mean 0 and rms
    config.diffuse over the whole sky; a piece of a few wavelengths has other values.
    """
    return Sky.of(config).diffuse_brightness(unit_vectors(ra, dec))


@cache
def _axis_weights(n_pixels: int, binning: int, step: float, origin: float) -> tuple[np.ndarray, np.ndarray]:
    """First node and weights of the cubic B-spline averaged over each pixel along one axis."""
    sub = (np.arange(binning) + 0.5) / binning - 0.5
    u = (np.arange(1, n_pixels + 1)[:, None] + sub - origin) / step
    node = np.floor(u).astype(int)
    t = u - node
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=-1) / 6
    first = node.min(axis=1) - 1
    width = int((node.max(axis=1) - 1 - first).max()) + 4
    weights = np.zeros((n_pixels, width))
    rows = np.arange(n_pixels)
    for s in range(binning):
        for k in range(4):
            weights[rows, node[:, s] - 1 + k - first] += basis[:, s, k] / binning
    return first, weights


@nb.njit(nogil=True, cache=True)
def _spread(coefficients, first_y, weights_y, first_x, weights_x, out):
    """Add the tensor-product spline to the pixels."""
    n_nodes = coefficients.shape[1]
    row = np.empty(n_nodes)
    for y in range(out.shape[0]):
        for j in range(n_nodes):
            total = 0.0
            for k in range(weights_y.shape[1]):
                total += weights_y[y, k] * coefficients[first_y[y] + k, j]
            row[j] = total
        for x in range(out.shape[1]):
            total = 0.0
            for k in range(weights_x.shape[1]):
                total += weights_x[x, k] * row[first_x[x] + k]
            out[y, x] += total


def _nebulosity(geometry: DetectorGeometry, sky: Sky, band: str, factor: float, out: np.ndarray) -> None:
    """Add surface brightness x pixel area x factor (ADU per count28).

    The product is smooth over tens of native pixels: it is evaluated on nodes 32 native
    pixels (8 arcsec) apart and interpolated by a cubic spline, averaged over the area of a binned pixel.
    """
    step = NODE / geometry.binning
    ny, nx = out.shape
    origin = 0.5 - PAD * step
    n_x, n_y = (math.ceil(n / step) + 2 * PAD + 1 for n in (nx, ny))
    y, x = np.meshgrid(origin + step * np.arange(n_y), origin + step * np.arange(n_x), indexing="ij")
    ra, dec = geometry.sky(x.ravel(), y.ravel())
    v = unit_vectors(ra, dec).reshape(*x.shape, 3)
    along_x = np.gradient(v, step, axis=1, edge_order=2)
    along_y = np.gradient(v, step, axis=0, edge_order=2)
    area = np.linalg.norm(np.cross(along_x, along_y), axis=-1) * np.degrees(3600) ** 2
    counts = factor * area * sky.brightness(v, (band,))[0]
    coefficients = spline_filter(counts, order=3, mode="mirror")
    first_y, weights_y = _axis_weights(ny, geometry.binning, step, origin)
    first_x, weights_x = _axis_weights(nx, geometry.binning, step, origin)
    _spread(coefficients, first_y, weights_y, first_x, weights_x, out)


@nb.njit(nogil=True, cache=True)
def _add_stars(x, y, flux, alpha, faintest, largest, out):
    """Add Moffat stars; x and y in pixel indices from 0. Each stamp sums to exactly its flux, as far as it is inside."""
    ny, nx = out.shape
    for i in range(x.size):
        central = flux[i] * (MOFFAT_BETA - 1) / (np.pi * alpha * alpha)
        reach = max(3.0, (max(central / faintest, 1.0)) ** (1 / MOFFAT_BETA) - 1)
        radius = int(min(largest, math.ceil(alpha * math.sqrt(reach)) + 2))
        cx, cy = round(x[i]), round(y[i])
        if cx + radius < 0 or cx - radius >= nx or cy + radius < 0 or cy - radius >= ny:
            continue
        total = 0.0
        for py in range(cy - radius, cy + radius + 1):
            for px in range(cx - radius, cx + radius + 1):
                r2 = ((px - x[i]) ** 2 + (py - y[i]) ** 2) / (alpha * alpha)
                total += 1 / ((1 + r2) * (1 + r2) * (1 + r2))
        scale = flux[i] / total
        for py in range(max(0, cy - radius), min(ny, cy + radius + 1)):
            for px in range(max(0, cx - radius), min(nx, cx + radius + 1)):
                r2 = ((px - x[i]) ** 2 + (py - y[i]) ** 2) / (alpha * alpha)
                out[py, px] += scale / ((1 + r2) * (1 + r2) * (1 + r2))


@nb.njit(nogil=True, cache=True)
def _saturate(image, mask, split, limit_a, limit_b, longest, saturated, bleed):
    """Clip pixels above the limit; their surplus runs along the column, both ways, and fills pixels half way."""
    ny, nx = image.shape
    for x in range(nx):
        limit = limit_a if x < split else limit_b
        y = 0
        while y < ny:
            if image[y, x] <= limit:
                y += 1
                continue
            first = y
            surplus = 0.0
            while y < ny and image[y, x] > limit:
                surplus += image[y, x] - limit
                image[y, x] = limit
                mask[y, x] = saturated
                y += 1
            down, up = first - 1, y
            for _ in range(longest):
                if surplus <= 0:
                    break
                for end in (down, up):
                    if 0 <= end < ny and image[end, x] < 0.5 * limit:
                        surplus -= 0.5 * limit - image[end, x]
                        image[end, x] = 0.5 * limit
                        if mask[end, x] == 0:
                            mask[end, x] = bleed
                down -= 1
                up += 1


@nb.njit(nogil=True, cache=True)
def _add_tracks(x, y, cos, sin, length, charge, image, mask, code):
    """Add straight cosmic-ray tracks of a constant charge per pixel length (ADU)."""
    ny, nx = image.shape
    for i in range(x.size):
        n = max(1, int(length[i] / 0.5))
        for s in range(n):
            px, py = int(x[i] + 0.5 * s * cos[i]), int(y[i] + 0.5 * s * sin[i])
            if 0 <= px < nx and 0 <= py < ny:
                image[py, px] += charge[i] * 0.5
                if mask[py, px] == 0:
                    mask[py, px] = code


def _cosmic_rays(config: SimulationConfig, exposure: ExposurePlan, geometry: DetectorGeometry, image, mask) -> None:
    rng = generator(config.seed, exposure, geometry.ccd, 2)
    n = rng.poisson(config.cosmic_rays * exposure.exptime)
    ny, nx = image.shape
    angle = rng.uniform(0, 2 * np.pi, n)
    length = rng.exponential(8.0, n) / geometry.binning
    charge = rng.uniform(500, 4000, n) / geometry.ccd.gain[0] * geometry.binning
    _add_tracks(rng.uniform(0, nx, n), rng.uniform(0, ny, n), np.cos(angle), np.sin(angle), length, charge, image, mask, COSMIC_RAY)


def stars_near(geometry: DetectorGeometry, stars: Stars) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices and pixel positions (from 0) of the stars on a detector or close enough to shine on it."""
    (ra, dec), first, *_ = geometry.corners(geometry.shape)
    centre = unit_vectors(ra, dec)
    margin = np.radians(LARGEST_STAMP * geometry.linear[1][0, 1] / geometry.binning)
    radius = math.acos(min(1.0, float(centre @ unit_vectors(*first)))) + margin
    near = np.flatnonzero(stars.directions @ centre > math.cos(radius))
    if not near.size:
        return near, np.empty(0), np.empty(0)
    x, y = geometry.wcs.wcs_world2pix(stars.ra[near], stars.dec[near], 0)
    return near, x, y


def render(
    config: SimulationConfig, exposure: ExposurePlan, geometry: DetectorGeometry, stars: Stars
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate one of an exposure's detectors, given all stars that may lie on it: ADU (float32) and codes of the mask (int16)."""
    ccd, n = geometry.ccd, geometry.binning
    image = np.zeros(geometry.shape, np.float32)
    mask = np.zeros(geometry.shape, np.int16)
    _nebulosity(geometry, Sky.of(config), exposure.band.name, exposure.factor, image)

    crpix, cd = geometry.linear
    slope = exposure.sky_adu * (np.array(exposure.gradient) @ cd)
    offset, step = (value * exposure.pixel_area * exposure.factor for value in offset_and_step(config, exposure, ccd))
    level = exposure.sky_adu + offset + float(slope @ (1 - crpix))
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    is_b = np.arange(image.shape[1]) >= geometry.split  # columns of amplifier B
    np.add(image, level + slope[0] * x + slope[1] * y + np.where(is_b, step, 0.0), out=image, casting="same_kind")

    near, x, y = stars_near(geometry, stars)
    alpha = exposure.fwhm / (2 * math.sqrt(2 ** (1 / MOFFAT_BETA) - 1))
    flux = stars.flux(exposure.band.name)[near] * exposure.factor
    _add_stars(x, y, flux, alpha, FAINTEST_WING * n, LARGEST_STAMP / n, image)

    # Saturated cores of recent real files stand above SATURATE.
    limits = [1.15 * limit * n**2 for limit in ccd.saturation]
    _saturate(image, mask, geometry.split, limits[0], limits[1], LONGEST_BLEED // n, SATURATED, BLEED)
    if config.noise:
        normal = generator(config.seed, exposure, ccd, 1).standard_normal(geometry.shape, dtype=np.float32)
        gain = np.where(is_b, ccd.gain[1], ccd.gain[0])
        read = n * np.where(is_b, ccd.read_noise[1], ccd.read_noise[0]) / gain
        np.add(image, np.sqrt(np.maximum(image, 0.0) / gain + read * read) * normal, out=image, casting="same_kind")
    if config.cosmic_rays:
        _cosmic_rays(config, exposure, geometry, image, mask)
    for column, first, last, value in ccd.bad_columns:
        i = round(geometry.pixel(column)) - 1
        rows = slice(round(geometry.pixel(first)) - 1, round(geometry.pixel(last)))
        image[rows, i] += value * n
        mask[rows, i] = BAD
    return image, mask
