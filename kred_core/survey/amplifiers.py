"""Detectors and amplifiers that a user leaves out, and which columns of a detector one of its two amplifiers reads."""

from __future__ import annotations

import re
from collections.abc import Iterable

from astropy.io import fits

from ..config import AMPLIFIERS
from ..errors import ExposureError
from ..fits.hdu import text

__all__ = ["columns", "left_out"]


def left_out(entries: Iterable[str]) -> tuple[set[str], dict[str, str]]:
    """Return what the entries of ``tiling.leave_out`` mean: detectors by EXTNAME, or amplifiers as S7.A, in capitals or not.

    Returns
    -------
    whole : set of str
        Names, in capitals, of the detectors that are left out by their name or with both amplifiers.
    amplifiers : dict
        The amplifier that is left out of another detector, by its name in capitals.
    """
    parts = {tuple(entry.upper().partition(".")[::2]) for entry in entries}
    both = {name for name, _ in parts if all((name, amplifier) in parts for amplifier in AMPLIFIERS)}
    whole = both | {name for name, amplifier in parts if not amplifier}
    return whole, {name: amplifier for name, amplifier in sorted(parts) if name not in whole}


def columns(header: fits.Header, extname: str, n_columns: int, amplifier: str) -> slice:
    """Return the half of the columns that an amplifier reads.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Of the detector. DATASECA and DATASECB, where it has them, say on which side an amplifier is.
    extname : str
        Name of the detector. Files of the Community Pipeline lack DATASECA: A reads the lower columns of DECam's N detectors and
        the upper ones of the S detectors.
    n_columns : int
        NAXIS1; the halves meet in its middle, as the edges that the pipeline trims are equal.
    amplifier : str
        A or B.

    Raises
    ------
    ExposureError
        Neither header nor name says on which side the amplifier is.

    References
    ----------
    DATASECA of DES images: [1:1024,1:4096] of CCDNUM 32 and above (N), [1025:2048,1:4096] below (S).
    """
    found = [re.match(r"\[(\d+):", text(header, f"DATASEC{name}").replace(" ", "")) for name in AMPLIFIERS]
    starts = [int(start[1]) for start in found if start]
    if len(starts) == 2 and starts[0] != starts[1]:
        lower = AMPLIFIERS[starts[1] < starts[0]]
    elif side := re.fullmatch(r"([NS])\d+", extname.upper()):
        lower = {"N": "A", "S": "B"}[side[1]]
    else:
        raise ExposureError(
            f"which columns its amplifier {amplifier} reads is not known: it has no DATASECA and DATASECB, and no name of DECam's"
        )
    middle = n_columns // 2
    return slice(0, middle) if amplifier == lower else slice(middle, n_columns)
