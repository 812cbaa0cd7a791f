"""Options of the simulator: one description for the library, the command line and its help.

Surface brightnesses are in counts28 per square arcsec (1 count28: a source of
28 mag), so that they mean the same at any binning. A native DECam pixel has
0.0688 square arcsec: 650 counts28 per square arcsec, a dark sky, are 45 counts28 a pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ..config import Name, Section
from ..errors import ConfigError
from .bands import Band, band_and_exptime

__all__ = ["FAULTS", "FaultName", "SimulationConfig"]

FaultName = Literal[
    "truncated",
    "flipped-byte",
    "missing-magzero",
    "missing-seeing",
    "missing-corners",
    "wrong-corners",
    "duplicate",
    "nan-detector",
    "constant-detector",
    "unknown-filter",
    "wrong-shape",
    "all",
]
FAULTS = tuple(name for name in FaultName.__args__ if name != "all")

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
    faults: list[FaultName] = Field(
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

    def for_each_band(self, values: list[float]) -> list[float]:
        """What is one number for all bands, or one for each, as one for each."""
        return values * len(self.bands) if len(values) == 1 else values

    def offsets_of(self, band: Band, exptime: float) -> float:
        """Scatter of the offsets in exposures of a band and exposure time."""
        bands = [band_and_exptime(text) for text in self.bands]
        return self.for_each_band(self.offsets)[bands.index((band, exptime))]

    @property
    def planted(self) -> tuple[str, ...]:
        """Faults to plant, in their fixed order."""
        return FAULTS if "all" in self.faults else tuple(name for name in FAULTS if name in self.faults)
