"""The filters that the simulator knows: their names in headers, zero points, sky and emission lines.

Kept apart because both the sky (which light passes a filter) and the exposures
(how many counts it makes) need them. Wavelengths and widths are those of DECam's
filter names; the zero points of the narrow bands follow from that of r by the width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ConfigError

__all__ = ["BANDS", "Band", "band", "band_and_exptime"]

R_ZERO_POINT = 25.1  # mag for 1 ADU/s, as in real Community Pipeline headers (MAGZERO 30.12 at 101 s)
R_WIDTH = 1480.0  # Angstrom


@dataclass(frozen=True)
class Band:
    """One filter.

    Attributes
    ----------
    name : str
        Short name, the first word of FILTER.
    code : str
        Filter number in FILTER. Those of N662, N673 and N501 are not confirmed by a real header; nothing depends on them.
    wavelength, width : float
        Angstrom.
    exptime : float
        Exposure time in s where none is asked for.
    colour : float
        Magnitude in this band minus magnitude in r, per unit of a star's colour.
    lines : tuple of (str, float)
        Emission lines that pass, each with its brightness in this band relative to its own narrow band.
    """

    name: str
    code: str
    wavelength: float
    width: float
    exptime: float
    colour: float
    lines: tuple[tuple[str, float], ...] = ()

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
