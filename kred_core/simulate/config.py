"""Options of the simulator, one description for the library, the command line and its help; and the filters that it knows.

Surface brightnesses are in counts28 per square arcsec (1 count28: a source of 28 mag), so that they mean the same at any
binning. A native DECam pixel has 0.0688 square arcsec: 650 counts28 per square arcsec, a dark sky, are 45 counts28 a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from ..config import Name, Section
from ..errors import ConfigError

R_ZERO_POINT = 25.1  # mag for 1 ADU/s, as in real Community Pipeline headers (MAGZERO 30.12 at 101 s)
R_WIDTH = 1480.0  # Angstrom


@dataclass(frozen=True)
class Band:
    """One filter: its name in headers, its zero point, and which emission lines pass it."""

    name: str  # the first word of FILTER
    code: str  # in FILTER; those of N662, N673 and N501 are not confirmed by a real header, and nothing depends on them
    wavelength: float  # Angstrom
    width: float  # Angstrom; the zero points of the narrow bands follow from that of r by the width
    exptime: float  # s, where none is asked for
    colour: float  # magnitude in this band minus magnitude in r, per unit of a star's colour
    lines: tuple[tuple[str, float], ...] = ()  # and their brightness in this band relative to their own narrow band

    @property
    def filter(self) -> str:
        """FILTER as in the primary header."""
        sdss = "SDSS " if self.name == "r" else ""
        return f"{self.name} DECam {sdss}{self.code} {self.wavelength:.1f} {self.width:.1f}"

    @property
    def zero_point(self) -> float:
        """Magnitude that gives 1 ADU/s."""
        return R_ZERO_POINT + 2.5 * math.log10(self.width / R_WIDTH)


BANDS = {
    b.name: b
    for b in (
        Band("N501", "c0010", 5010.0, 75.0, 800.0, 0.6, (("oiii", 1.0),)),
        Band("N540", "c0014", 5403.2, 210.0, 300.0, 0.4),
        Band("N662", "c0009", 6620.0, 172.0, 800.0, -0.1, (("halpha", 1.0),)),
        Band("N673", "c0011", 6730.0, 100.0, 800.0, -0.15, (("sii", 1.0),)),
        Band("N708", "c0012", 7080.0, 400.0, 400.0, -0.25),
        Band("r", "c0002", 6415.0, R_WIDTH, 60.0, 0.0, (("halpha", 172.0 / R_WIDTH), ("sii", 100.0 / R_WIDTH))),
    )
}


def band(name: str) -> Band:
    """The filter with this short name."""
    if name not in BANDS:
        raise ConfigError(f"the simulator has no band {name}; it has {', '.join(BANDS)}")
    return BANDS[name]


def band_and_exptime(text: str) -> tuple[Band, float]:
    """Read ``N662`` or ``N662:600``: a band, and its exposure time in s."""
    name, _, seconds = text.partition(":")
    found = band(name)
    if not seconds:
        return found, found.exptime
    try:
        exptime = float(seconds)
    except ValueError:
        exptime = math.nan
    if not 0.1 <= exptime <= 7200:
        raise ConfigError(f"band {text}: the exposure time after the colon must be 0.1 to 7200 s")
    return found, exptime


FAULTS = {
    "truncated": "the file ends in the middle of this detector's data; it and the following detectors are lost",
    "flipped-byte": "one byte of this detector's data is inverted: DATASUM does not agree",
    "missing-magzero": "no MAGZERO and no MAGZPT in the primary header",
    "missing-seeing": "neither SEEING in the primary header nor FWHM in the extensions",
    "missing-corners": "no CENRA1, CENDEC1, CORnRA1, CORnDEC1 in the extensions",
    "wrong-corners": "CENRA1 .. COR4DEC1 describe a place half a degree south of the pixels",
    "duplicate": "a second processing of another exposure: same OBSID, same photons, another sky level",
    "nan-detector": "all pixels of this detector are NaN",
    "constant-detector": "all pixels of this detector have the same value",
    "unknown-filter": "FILTER is 'X999 DECam c9999 6000.0 100.0', which belongs to no image",
    "wrong-shape": "this detector has a quarter fewer rows and columns than it should have",
}

Number = TypeVar("Number", int, float)
BandText = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+(:[0-9.]+)?$")]


class SimulationConfig(Section):
    """What is simulated."""

    root: Path = Field(default=Path("."), description="Data root, for DECam_MEF/<field>/mef and Truth/<field>.")
    field: Name = Field(default="LMC_c42", description="Field, one of the survey's or any name together with --centre.")
    centre: list[float] = Field(default=[], max_length=2, description="Own field centre, RA,Dec in degrees (ICRS).")
    tiles: list[Name] = Field(default=[], description="Only detectors that touch these tiles, for example T07,T08. None: all.")
    detectors: list[Name] = Field(default=[], description="Only these detectors, by EXTNAME, for example N4,S4. None: all.")
    n_detectors: int = Field(
        default=0,
        ge=0,
        le=62,
        description="At most this many detectors an exposure, the nearest to the tiles or the pointing. 0: all.",
    )
    bands: list[BandText] = Field(
        default=["N662", "N673", "N708", "r"],
        min_length=1,
        description="Bands, each with an exposure time in s after a colon if it is not the usual one, for example N662,N662:600,r.",
    )
    exposures: list[Annotated[int, Field(ge=1, le=2000)]] = Field(
        default=[3], min_length=1, description="Exposures in each band: one number, or one for each of the bands."
    )
    dither: float = Field(
        default=120.0, ge=0, le=7200, description="Largest offset of a pointing from the centre, in each axis, in arcsec."
    )
    binning: Literal[1, 2, 4, 8, 16, 32] = Field(
        default=1, description="Sum this many pixels each way. 1: 2046x4094 detectors; 4: 512x1024 with pixels of 1.05 arcsec."
    )
    seed: int = Field(default=1, ge=0, lt=2**32, description="Another seed makes another sky and other exposures.")
    nebula: float = Field(default=400.0, ge=0, le=1e6, description="Brightness of H-alpha filaments, counts28 per square arcsec.")
    continuum: float = Field(default=60.0, ge=0, le=1e6, description="Brightness of diffuse starlight, counts28 per square arcsec.")
    diffuse: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="rms brightness of additional smooth emission, counts28 per square arcsec; the same in all bands, of mean 0 "
        "because a constant could not be told from the sky level.",
    )
    diffuse_scale: float = Field(
        default=0.5, ge=0.15, le=30, description="Wavelength of the smooth emission in degrees. A detector has 0.15 x 0.3."
    )
    star_density: float = Field(default=10000.0, ge=0, le=1e6, description="Stars per square degree, r = 11 to 22 mag.")
    sky: float = Field(default=650.0, ge=0, le=1e6, description="Mean sky level, counts28 per square arcsec.")
    sky_scatter: float = Field(default=0.1, ge=0, le=0.5, description="Scatter of the sky level between exposures, relative.")
    gradient: float = Field(default=0.01, ge=0, le=0.3, description="Scatter of an exposure's sky gradient, relative, per degree.")
    offsets: list[Annotated[float, Field(ge=0, le=1e5)]] = Field(
        default=[40.0],
        min_length=1,
        description="Scatter of detectors' offsets, counts28 per square arcsec: one number, or one for each of the bands.",
    )
    amplifier_steps: float = Field(
        default=0.0,
        ge=0,
        le=1e5,
        description="Scatter of the steps between the amplifiers of a detector, counts28 per square arcsec.",
    )
    zero_point_scatter: float = Field(default=0.05, ge=0, le=1, description="Scatter of MAGZERO between exposures, in mag.")
    seeing: float = Field(
        default=1.1, ge=0.5, le=10, description="Median FWHM of stars in arcsec. At least two pixels, so larger where much binned."
    )
    seeing_keyword: bool = Field(default=False, description="Write SEEING into the primary header; real files have only FWHM.")
    cosmic_rays: float = Field(default=0.2, ge=0, le=10, description="Cosmic rays per second on a detector.")
    noise: bool = Field(default=True, description="Add photon and read noise.")
    faults: list[str] = Field(
        default=[],
        description="Plant faults, each in an exposure of its own: all, or some of " + ", ".join(FAULTS) + ". See faults.ecsv.",
    )
    processes: int = Field(default=1, ge=0, le=256, description="Exposures simulated at once. 0: one for each core.")

    @field_validator("binning", mode="before")
    @classmethod
    def _binning_from_text(cls, value):
        return int(value) if isinstance(value, str) and value.isdigit() else value

    @field_validator("exposures", "offsets", mode="before")
    @classmethod
    def _one_for_all(cls, value):
        return [value] if isinstance(value, int | float) else value

    @field_validator("faults")
    @classmethod
    def _known(cls, value):
        unknown = [name for name in value if name not in (*FAULTS, "all")]
        if unknown:
            raise ValueError(f"no fault {', '.join(unknown)}; there are {', '.join(FAULTS)}, and all")
        return value

    @model_validator(mode="after")
    def _sensible(self):
        if self.centre and len(self.centre) != 2:
            raise ValueError("centre needs two numbers, RA and Dec in degrees")
        if self.centre and not (0 <= self.centre[0] < 360 and -90 <= self.centre[1] <= 90):
            raise ValueError("centre needs 0 <= RA < 360 and -90 <= Dec <= 90 degrees")
        try:
            pairs = [band_and_exptime(text) for text in self.bands]
        except ConfigError as e:
            raise ValueError(str(e)) from e
        if len(set(pairs)) < len(pairs):
            raise ValueError("bands: the same band and exposure time twice; ask for more exposures instead")
        for name, values in (("exposures", self.exposures), ("offsets", self.offsets)):
            if len(values) not in (1, len(pairs)):
                raise ValueError(f"{name} needs one number, or one for each of the {len(pairs)} bands, not {len(values)}")
        return self

    def for_each_band(self, values: list[Number]) -> list[Number]:
        """What is one number for all bands, or one for each, as one for each."""
        return values * len(self.bands) if len(values) == 1 else values

    def offsets_of(self, band: Band, exptime: float) -> float:
        """Scatter of the offsets in exposures of a band and exposure time."""
        bands = [band_and_exptime(text) for text in self.bands]
        return self.for_each_band(self.offsets)[bands.index((band, exptime))]

    @property
    def band_names(self) -> tuple[str, ...]:
        """Each band once, whatever its exposure times."""
        return tuple(dict.fromkeys(text.partition(":")[0] for text in self.bands))

    @property
    def planted(self) -> tuple[str, ...]:
        """Faults to plant, in their fixed order."""
        return tuple(FAULTS) if "all" in self.faults else tuple(name for name in FAULTS if name in self.faults)
