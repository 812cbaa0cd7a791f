"""Which exposures a simulated field has: pointing, time, zero point, sky, seeing, and the detectors' offsets.

All of it is drawn before any pixel is made, each exposure with a generator of its
own, so that the plan is the truth, and so that more exposures or other bands
leave the existing ones as they are.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from ..config import SurveyConfig
from ..errors import ConfigError, InputError
from ..survey import Tile, field_centre, fields, tiles
from .bands import Band, band_and_exptime
from .camera import NATIVE_SCALE, Ccd, DetectorGeometry, Pointing, ccds
from .config import SimulationConfig
from .sky import unit_vectors

__all__ = ["ExposurePlan", "centre_of", "generator", "offset_and_step", "plan", "tiles_of"]

FIRST_NIGHT = dt.datetime(2021, 1, 1, 1, 0, 0)
PER_NIGHT = 24
DEPARTURE = 45  # s for reading out; the file is named after its end
SAMPLING = 2.0  # pixels: least FWHM of stars


# Each detector's geometry is asked for by the plan, the pixels, the header and the truth.
_geometry = lru_cache(maxsize=512)(DetectorGeometry)


@dataclass(frozen=True)
class ExposurePlan:
    """One exposure before its pixels exist.

    Attributes
    ----------
    field : str
    band : `~kred_core.simulate.bands.Band`
    exptime : float
        Seconds.
    number : int
        Counts the exposures of this band and exposure time.
    start : `datetime.datetime`
        UTC.
    pointing : `~kred_core.simulate.camera.Pointing`
    ccds : tuple of `~kred_core.simulate.camera.Ccd`
        Detectors to simulate.
    binning : int
    magzero : float
        Magnitude of 1 ADU in the whole exposure time.
    sky : float
        Sky level at the pointing, counts28 per square arcsec.
    gradient : tuple of float
        Relative change of the sky per degree towards east and north.
    seeing : float
        FWHM of stars in arcsec.
    fault : str
        Fault to plant; '' for a good exposure.
    version : str
        Last part of the file name.
    """

    field: str
    band: Band
    exptime: float
    number: int
    start: dt.datetime
    pointing: Pointing
    ccds: tuple[Ccd, ...]
    binning: int
    magzero: float
    sky: float
    gradient: tuple[float, float]
    seeing: float
    fault: str = ""
    version: str = "v1"

    @property
    def obsid(self) -> str:
        return f"ct4m{self.start:%Y%m%dt%H%M%S}"

    def file_name(self, kind: str = "ooi") -> str:
        """Name of the science file (ooi) or its mask (ood)."""
        end = self.start + dt.timedelta(seconds=self.exptime + DEPARTURE)
        return f"c4d_{end:%y%m%d_%H%M%S}_{kind}_{self.band.name}_{self.version}.fits.fz"

    @property
    def root(self) -> str:
        return self.file_name().removesuffix(".fits.fz")

    @property
    def factor(self) -> float:
        """ADU per count28."""
        return 10 ** (-0.4 * (28 - self.magzero))

    @property
    def pixel_area(self) -> float:
        """Nominal area of a pixel of this file, square arcsec."""
        return (NATIVE_SCALE * self.binning) ** 2

    @property
    def sky_adu(self) -> float:
        """Sky level at the pointing, ADU per pixel of this file."""
        return self.sky * self.pixel_area * self.factor

    @property
    def fwhm(self) -> float:
        """FWHM of stars in pixels of this file."""
        return self.seeing / (NATIVE_SCALE * self.binning)

    def geometry(self, ccd: Ccd) -> DetectorGeometry:
        return _geometry(ccd, self.pointing, self.binning)

    def identity(self) -> list[int]:
        """What seeds this exposure's generators: the same photons for the same shutter opening."""
        return [*_numbers(self.field), *_numbers(self.band.name), round(self.exptime * 10), self.number]


def _numbers(text: str) -> list[int]:
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4)]


def generator(seed: int, exposure: ExposurePlan, ccd: Ccd, use: int) -> np.random.Generator:
    """A generator for one use in one detector of one exposure; SFC64 because it is the fastest."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, 5, *exposure.identity(), ccd.number, use])))


def offset_and_step(config: SimulationConfig, exposure: ExposurePlan, ccd: Ccd) -> tuple[float, float]:
    """Offset of a detector, and what its amplifier B has in addition, counts28 per square arcsec."""
    offset, step = generator(config.seed, exposure, ccd, 0).standard_normal(2)
    return config.offsets_of(exposure.band, exposure.exptime) * float(offset), config.amplifier_steps * float(step)


def centre_of(config: SimulationConfig) -> tuple[float, float]:
    """Where the exposures point: the centre from the configuration or the survey, else the middle of the field's tiles."""
    if config.centre:
        return config.centre[0], config.centre[1]
    try:
        return field_centre(config.field)
    except InputError:
        if config.field not in fields():
            raise
    middle = sum(unit_vectors(tile.ra, tile.dec) for tile in tiles_of(config, []))
    return math.degrees(math.atan2(middle[1], middle[0])) % 360, math.degrees(math.atan2(middle[2], math.hypot(*middle[:2])))


def tiles_of(config: SimulationConfig, names: list[str]) -> tuple[Tile, ...]:
    """Tiles of the field, all where none is named."""
    return tiles(config.field, SurveyConfig(centre=config.centre), names)


def _offset_position(ra: float, dec: float, east: float, north: float) -> tuple[float, float]:
    """Position at tangent-plane offsets (degrees) from another."""
    xi, eta = math.radians(east), math.radians(north)
    d0 = math.radians(dec)
    depth = math.cos(d0) - eta * math.sin(d0)
    return (
        (ra + math.degrees(math.atan2(xi, depth))) % 360,
        math.degrees(math.atan2(math.sin(d0) + eta * math.cos(d0), math.hypot(xi, depth))),
    )


def _draw(config: SimulationConfig, band: Band, exptime: float, number: int) -> ExposurePlan:
    names = [*_numbers(config.field), *_numbers(band.name), round(exptime * 10), number]
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, 4, *names]))
    east, north = rng.uniform(-1, 1, 2) * config.dither / 3600
    z = rng.standard_normal(6)
    # Fields and bands observe in nights of their own, so that no two exposures share a file name or an OBSID.
    night = _numbers(config.field)[0] % 900 + _numbers(f"{band.name} {exptime}")[0] % 500
    slot = (number % PER_NIGHT) * (exptime + DEPARTURE + 15) + _numbers(config.field)[1] % 600
    start = FIRST_NIGHT + dt.timedelta(days=night + number // PER_NIGHT, seconds=slot)
    binned_scale = NATIVE_SCALE * config.binning
    seeing = max(config.seeing, SAMPLING * binned_scale) * math.exp(0.12 * float(z[0]))
    return ExposurePlan(
        field=config.field,
        band=band,
        exptime=exptime,
        number=number,
        start=start.replace(microsecond=0),
        pointing=Pointing(*_offset_position(*centre_of(config), east, north), rotation=math.radians(0.05) * float(z[1])),
        ccds=(),
        binning=config.binning,
        magzero=round(band.zero_point + 2.5 * math.log10(exptime) + config.zero_point_scatter * float(z[2]), 3),
        sky=config.sky * math.exp(config.sky_scatter * float(z[3])),
        gradient=(config.gradient * float(z[4]), config.gradient * float(z[5])),
        seeing=seeing,
    )


def _chosen(
    config: SimulationConfig, exposure: ExposurePlan, all_ccds: tuple[Ccd, ...], wanted: tuple[Tile, ...]
) -> tuple[Ccd, ...]:
    found = [c for c in all_ccds if not wanted or any(exposure.geometry(c).touches(tile) for tile in wanted)]
    if config.n_detectors and len(found) > config.n_detectors:
        targets = [(t.ra, t.dec) for t in wanted] or [(exposure.pointing.ra, exposure.pointing.dec)]

        def nearness(ccd: Ccd) -> float:
            geometry = exposure.geometry(ccd)
            centre = unit_vectors(*geometry.corners(geometry.shape)[0])
            return -max(float(centre @ unit_vectors(*target)) for target in targets)

        found = sorted(sorted(found, key=nearness)[: config.n_detectors], key=lambda c: c.number)
    return tuple(found)


def plan(config: SimulationConfig) -> tuple[ExposurePlan, ...]:
    """The exposures of a simulated field, without those that carry faults.

    Raises
    ------
    ConfigError
        No detector touches the tiles.
    InputError
        Unknown field or tile.
    """
    wanted = tiles_of(config, config.tiles) if config.tiles else ()
    all_ccds = ccds(config.detectors)
    exposures = []
    for text, n_exposures in zip(config.bands, config.for_each_band(config.exposures), strict=True):
        for number in range(n_exposures):
            exposure = _draw(config, *band_and_exptime(text), number)
            chosen = _chosen(config, exposure, all_ccds, wanted)
            if chosen:
                exposures.append(replace(exposure, ccds=chosen))
    if not exposures:
        raise ConfigError(
            f"field {config.field}: none of the detectors asked for touches {', '.join(config.tiles)}; "
            "ask for other tiles or detectors, or for a larger dither"
        )
    return tuple(exposures)
