"""Which exposures a simulated field has (pointing, time, zero point, sky, seeing, offsets, planted faults), and their headers.

All of it is drawn before any pixel is made, each exposure with a generator of its own, so that the plan is the truth, and so
that more exposures or other bands leave the existing ones as they are.

Faults are those that real archives hand out. Each is an exposure of its own, in addition to the good ones, so that whatever is
made of the field can be compared with the same field without them. A fault acts at one of four places: on the plan, the
headers, the pixels or the finished file.

Which keywords real Community Pipeline files have, where, and in which notation was read off 40 of them; keywords of the
telescope's housekeeping that nobody uses are left out.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.time import Time

from ..config import SurveyConfig
from ..constants import ZERO_POINT
from ..errors import ConfigError, InputError
from ..fits.checksum import Cards
from ..sky import unit_vectors
from ..survey import Tile, field_centre, fields, tiles
from .camera import NATIVE_SCALE, Ccd, DetectorGeometry, Pointing, ccds
from .config import Band, SimulationConfig, band_and_exptime

FIRST_NIGHT = dt.datetime(2021, 1, 1, 1, 0, 0)
PER_NIGHT = 24
DEPARTURE = 45  # s for reading out; the file is named after its end
SAMPLING = 2.0  # pixels: least FWHM of stars

ONE_DETECTOR = ("truncated", "flipped-byte", "nan-detector", "constant-detector", "wrong-shape")
REPROCESSED = "ls9"
FIRST_NUMBER, NIGHTS_LATER = 500, 30  # beyond those of the good exposures
EPOCH = dt.datetime(2012, 11, 1)  # EXPNUM counts from DECam's first light
CORNERS = ["CENRA1", "CENDEC1", *(f"COR{i}{axis}1" for i in range(1, 5) for axis in ("RA", "DEC"))]


# Each detector's geometry is asked for by the plan, the pixels, the header and the truth.
_geometry = lru_cache(maxsize=512)(DetectorGeometry)


@dataclass(frozen=True)
class ExposurePlan:
    """One exposure before its pixels exist."""

    field: str
    band: Band
    exptime: float  # s
    number: int  # counts the exposures of this band and exposure time
    start: dt.datetime  # UTC
    pointing: Pointing
    ccds: tuple[Ccd, ...]  # to simulate
    binning: int
    magzero: float  # magnitude of 1 ADU in the whole exposure time
    sky: float  # level at the pointing, counts28 per square arcsec
    gradient: tuple[float, float]  # relative change of the sky per degree towards east and north
    seeing: float  # FWHM of stars in arcsec
    fault: str = ""  # to plant; '' for a good exposure
    version: str = "v1"  # last part of the file name

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
        return 10 ** (-0.4 * (ZERO_POINT - self.magzero))

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


def _identity(field: str, band: Band, exptime: float, number: int) -> list[int]:
    """What seeds an exposure's generators: the same photons for the same shutter opening."""
    return [*_numbers(field), *_numbers(band.name), round(exptime * 10), number]


def _numbers(text: str) -> list[int]:
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4)]


def generator(seed: int, exposure: ExposurePlan, ccd: Ccd, use: int) -> np.random.Generator:
    """A generator for one use in one detector of one exposure; SFC64 because it is the fastest."""
    identity = _identity(exposure.field, exposure.band, exposure.exptime, exposure.number)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, 5, *identity, ccd.number, use])))


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
    middle = np.sum([unit_vectors(tile.ra, tile.dec) for tile in tiles_of(config, [])], axis=0)
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
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, 4, *_identity(config.field, band, exptime, number)]))
    east, north = rng.uniform(-1, 1, 2) * config.dither / 3600
    z = rng.standard_normal(6)
    # Fields and bands observe in nights of their own, so that no two exposures share a file name or an OBSID.
    night = _numbers(config.field)[0] % 900 + _numbers(f"{band.name} {exptime}")[0] % 500
    slot = (number % PER_NIGHT) * (exptime + DEPARTURE + 15) + _numbers(config.field)[1] % 600
    start = FIRST_NIGHT + dt.timedelta(days=night + number // PER_NIGHT, seconds=slot)
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
        seeing=max(config.seeing, SAMPLING * NATIVE_SCALE * config.binning) * math.exp(0.12 * float(z[0])),
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
    """The exposures of a simulated field, without those that carry faults."""
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
        what = f"field {config.field}: none of the detectors asked for touches {', '.join(config.tiles)}"
        raise ConfigError(f"{what}; ask for other tiles or detectors, or for a larger dither")
    return tuple(exposures)


def faulty_exposures(config: SimulationConfig, good: tuple[ExposurePlan, ...]) -> tuple[ExposurePlan, ...]:
    """One additional exposure for each fault to plant, modelled on the good ones in turn."""
    planned = []
    for i, fault in enumerate(config.planted):
        model = good[i % len(good)]
        # Numbers that no good exposure has, so that the start of the exposure and the photons are new.
        start = model.start + dt.timedelta(days=NIGHTS_LATER + i)
        planned.append(replace(model, number=FIRST_NUMBER + i, start=start, fault=fault))
        if fault == "duplicate":
            planned[-1] = replace(good[0], fault=fault, version=REPROCESSED)
    return tuple(planned)


def hit(exposure: ExposurePlan) -> str:
    """EXTNAME of the detector that has the fault, '' where the whole exposure has it."""
    return exposure.ccds[len(exposure.ccds) // 2].name if exposure.fault in ONE_DETECTOR else ""


def damage_pixels(exposure: ExposurePlan, extname: str, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask as the fault demands."""
    if exposure.fault == "duplicate":
        return image + np.float32(0.05 * exposure.sky_adu), mask
    if extname != hit(exposure):
        return image, mask
    if exposure.fault == "nan-detector":
        return np.full_like(image, np.nan), mask
    if exposure.fault == "constant-detector":
        return np.full_like(image, round(exposure.sky_adu)), mask
    if exposure.fault == "wrong-shape":
        ny, nx = (3 * n // 4 for n in image.shape)
        return image[:ny, :nx].copy(), mask[:ny, :nx].copy()
    return image, mask


def damage_file(exposure: ExposurePlan, path: Path, data: dict[str, tuple[int, int]]) -> None:
    """Damage the finished file; ``data``: EXTNAME -> first byte and length of the HDU's data in the file."""
    if exposure.fault not in ("truncated", "flipped-byte"):
        return
    start, length = data[hit(exposure)]
    with open(path, "r+b") as f:
        if exposure.fault == "truncated":
            f.truncate(start + length // 2)
            return
        f.seek(start + length * 3 // 4)
        byte = f.read(1)[0]
        f.seek(-1, 1)
        f.write(bytes([byte ^ 0xFF]))


def _sexagesimal(ra: float, dec: float) -> tuple[str, str]:
    def text(value: float, decimals: int) -> str:
        units = round(value * 3600 * 10**decimals)
        seconds, fraction = divmod(units, 10**decimals)
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{fraction:0{decimals}d}"

    return text(ra / 15, 2), ("-" if dec < 0 else "") + text(abs(dec), 1)


def primary_header(exposure: ExposurePlan, seeing_keyword: bool) -> Cards:
    """Header of the primary HDU, which holds no data."""
    start, band = exposure.start, exposure.band
    end = start + dt.timedelta(seconds=exposure.exptime)
    readout = start + dt.timedelta(seconds=exposure.exptime + DEPARTURE)
    processed = start + dt.timedelta(days=2)
    ra, dec = _sexagesimal(exposure.pointing.ra, exposure.pointing.dec)
    name = exposure.file_name()
    per_second = exposure.magzero - 2.5 * np.log10(exposure.exptime)
    cards: Cards = {
        "SIMPLE": (True, "file does conform to FITS standard"),
        "BITPIX": (8, "number of bits per data pixel"),
        "NAXIS": (0, "number of data axes"),
        "EXTEND": (True, "FITS dataset may contain extensions"),
        "DATE": (f"{processed:%Y-%m-%dT%H:%M:%S}", "Date FITS file was generated"),
        "OBJECT": (exposure.field, "Name of the object observed"),
        "PROCTYPE": ("InstCal", "Data processing level"),
        "PRODTYPE": ("image", "Product type"),
        "PIXSCAL1": (round(0.27 * exposure.binning, 2), "[arcsec/pixel] Pixel scale, axis 1"),
        "PIXSCAL2": (round(0.27 * exposure.binning, 2), "[arcsec/pixel] Pixel scale, axis 2"),
        "TELESCOP": ("CTIO 4.0-m telescope", "Telescope name"),
        "OBSERVAT": ("CTIO", "Observatory name"),
        "INSTRUME": ("DECam", "Instrument used to obtain these data"),
        "EXPREQ": (exposure.exptime, "[s] Requested exposure duration"),
        "EXPTIME": (exposure.exptime, "[s] Exposure duration"),
        "EXPDUR": (exposure.exptime, "[s] Exposure duration"),
        "DARKTIME": (exposure.exptime + 1.1, "[s] Dark time"),
        "OBSID": (exposure.obsid, "Unique Observation ID"),
        "DATE-OBS": (f"{start:%Y-%m-%dT%H:%M:%S}.000000", "UTC epoch"),
        "TIME-OBS": (f"{start:%H:%M:%S}.000000", "Time of observation start (UTC)"),
        "MJD-OBS": (round(float(Time(start).mjd), 8), "MJD of observation start"),
        "MJD-END": (round(float(Time(end).mjd), 9), "Exposure end"),
        "TIMESYS": ("UTC", "Time system"),
        "EXPNUM": (int((start - EPOCH).total_seconds() // 60), "DECam exposure number"),
        "OBSTYPE": ("object", "Type of observation"),
        "PROGRAM": ("Simulated exposures of kred", "Observing program"),
        "OBSERVER": ("kred_core.simulate", "Observer name(s)"),
        "PROPOSER": ("none", "Proposal Principal Investigator"),
        "PROPID": ("0000A-0000", "Proposal ID"),
        "FILTER": (band.filter, "Unique filter identifier"),
        "TELRA": (ra, "[HH:MM:SS] Telescope RA"),
        "TELDEC": (dec, "[DD:MM:SS] Telescope DEC"),
        "AIRMASS": (1.3, "Airmass"),
        "DIMMSEE": ("NaN", "[arcsec] DIMM Seeing"),  # a text, as in real files
        "LSKYVAR": ("NaN", "RASICAM local sky standard deviation"),
        "DTSITE": ("ct", "observatory location"),
        "DTTELESC": ("ct4m", "telescope identifier"),
        "DTINSTRU": ("decam", "instrument identifier"),
        "DTUTC": (f"{readout:%Y-%m-%dT%H:%M:%S}", "post exposure UTC epoch from DTS"),
        "DTCALDAT": (f"{start - dt.timedelta(hours=16):%Y-%m-%d}", "calendar date from observing schedule"),
        "DTNSANAM": (name, "file name in archive"),
        "RADESYS": ("FK5", "World coordinate reference frame"),
        "EQUINOX": (2000.0, "Mean equinox"),
        "BAND": (band.name, ""),
        "NITE": (f"{start - dt.timedelta(hours=16):%Y%m%d}", ""),
        "RADECSYS": ("ICRS", "Astrometric system"),
        "SCAMPFLG": (0, "WCS successful"),
        "PHOTREF": ("SIM", "Photometric ref. catalog"),
        "MAGZERO": (exposure.magzero, "[mag] Magnitude zero point"),
        "MAGZPT": (round(float(per_second), 3), "[mag] Magnitude zero point per sec"),
        "SKYSUB": (round(exposure.sky_adu, 4), ""),
        "RA": (ra, "[h] RA exposure center"),
        "DEC": (dec, "[deg] DEC exposure center"),
        "CENTRA": (float(f"{exposure.pointing.ra:.7g}"), "[deg] RA exposure center"),
        "CENTDEC": (float(f"{exposure.pointing.dec:.7g}"), "[deg] DEC exposure center"),
        "NEXTEND": (len(exposure.ccds), ""),
        "PLVER": ("V4.8.2" if exposure.version == "v1" else "V4.8.2a", ""),
        "WCSCAL": ("Successful", "Astrometric calibration"),
    }
    if seeing_keyword and exposure.fault != "missing-seeing":
        cards["SEEING"] = (round(exposure.seeing, 3), "[arcsec] FWHM of stars")
    if exposure.fault == "missing-magzero":
        del cards["MAGZERO"], cards["MAGZPT"], cards["PHOTREF"]
    elif exposure.fault == "unknown-filter":
        cards["FILTER"] = ("X999 DECam c9999 6000.0 100.0", "Unique filter identifier")
        cards["BAND"] = ("X999", "")
    return cards


def mask_header(exposure: ExposurePlan, geometry: DetectorGeometry) -> Cards:
    """Header of a mask extension: what the science extension has too, without the keywords that describe its pixels."""
    ccd, n = geometry.ccd, geometry.binning
    return {
        "EXTNAME": (ccd.name, "name of this binary table extension"),
        "INHERIT": (True, "Inherits global header"),
        "DATE": (f"{exposure.start + dt.timedelta(days=2):%Y-%m-%dT%H:%M:%S}", "Date FITS file was generated"),
        "CCDNUM": (ccd.number, "CCD number"),
        "DETPOS": (ccd.name, "detector position ID"),
        "GAINA": (ccd.gain[0], "[electrons/adu] Gain for amp A"),
        "RDNOISEA": (n * ccd.read_noise[0], "[electrons] Read noise for amp A"),
        "SATURATA": (n**2 * ccd.saturation[0], "[adu] Saturation for amp A"),
        "GAINB": (ccd.gain[1], "[electrons/adu] Gain for amp B"),
        "RDNOISEB": (n * ccd.read_noise[1], "[electrons] Read noise for amp B"),
        "SATURATB": (n**2 * ccd.saturation[1], "[adu] Saturation for amp B"),
        **geometry.wcs_cards(),
    }


def _corner_cards(geometry: DetectorGeometry, shape: tuple[int, int]) -> Cards:
    # Real files give seven digits.
    centre, *corners = [(float(f"{ra:.7g}"), float(f"{dec:.7g}")) for ra, dec in geometry.corners(shape)]
    ra, dec = _sexagesimal(*centre)
    cards: Cards = {"RA1": (ra, "[h] RA CCD center"), "DEC1": (dec, "[deg] DEC CCD center")}
    cards |= {"CENRA1": (centre[0], "[deg] RA CCD center"), "CENDEC1": (centre[1], "[deg] DEC CCD center")}
    for i, corner in enumerate(corners, 1):
        cards |= {f"COR{i}RA1": (corner[0], "[deg] RA CCD corner"), f"COR{i}DEC1": (corner[1], "[deg] DEC CCD corner")}
    return cards


def image_header(exposure: ExposurePlan, geometry: DetectorGeometry, image: np.ndarray, mask: np.ndarray) -> Cards:
    """Header of a science extension, without the keywords that describe its storage."""
    ccd = geometry.ccd
    sky = float(np.median(image[::4, ::4]))
    sky = sky if np.isfinite(sky) else exposure.sky_adu  # a header holds no NaN
    read = geometry.binning * float(np.mean(ccd.read_noise)) / float(np.mean(ccd.gain))
    cards: Cards = {
        **mask_header(exposure, geometry),
        "FZALGOR": ("RICE_1", ""),
        "FZQVALUE": (4, ""),
        "FZQMETHD": ("SUBTRACTIVE_DITHER_1", ""),
        "NSATPIX": (int(np.count_nonzero(mask == 3)), "Number of saturated pixels"),
        "NBLEED": (int(np.count_nonzero(mask == 4)), "Number of bleed trail pixels."),
        "SATURATE": (geometry.binning**2 * max(ccd.saturation), ""),
        "FWHM": (round(exposure.fwhm, 6), "Median FWHM in pixels"),
        "ELLIPTIC": (0.0, "Median ELLIPTICITY"),
        "AVSKY": (round(sky, 4), ""),
        "AVSIG": (round(float(np.sqrt(max(sky, 0) / np.mean(ccd.gain) + read**2)), 5), ""),
        "ARAWGAIN": (round(float(np.mean(ccd.gain)) * 1.1, 2), "[e/adu] Average raw gain"),
        **_corner_cards(geometry, (image.shape[0], image.shape[1])),
    }
    match exposure.fault:
        case "missing-corners":
            for key in (*CORNERS, "RA1", "DEC1"):
                del cards[key]
        case "wrong-corners":
            for key in (key for key in CORNERS if "DEC" in key):
                dec, comment = cards[key]
                cards[key] = (round(float(dec) - 0.5, 6), comment)
        case "missing-seeing":
            del cards["FWHM"]
    return cards
