"""What the values of a data-quality mask mean, and which pixels they leave out, of statistics, binned maps and mosaics alike.

The Community Pipeline wrote bits until version 3.5.0 and has written codes since. Masks are translated into codes where they
are read (`kred_core.exposures.exposure.Detector.mask_codes`), so that nothing else knows of bits.

References: NOAO Data Handbook; F. Valdes, DECam Community Pipeline guide (PL206); legacypipe, ``decam_has_dq_codes``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..config import FieldConfig
from ..survey import tiling

__all__ = ["CODES", "LARGEST_CODE", "PixelRule", "codes_of", "counts", "flagged", "has_codes"]

CODES = {1: "bad", 2: "no value", 3: "saturated", 4: "bleed", 5: "cosmic ray", 6: "low weight", 7: "difference", 8: "streak"}
LARGEST_CODE = max(CODES)
FIRST_WITH_CODES = (3, 5, 0)
NOT_SKY = (3, 4)  # saturated cores and bleed trails are the image of a star, which is no sky
# Bits, and the code of a pixel that has them; the first that is set counts. A pixel that is bad is so whatever its value looks
# like. Interpolated pixels, and those with bits that no guide explains, have a value of which less is known.
BITS = ((1, 1), (2, 3), (64, 4), (16, 5), (128, 7))
OTHER_BITS = 6


@dataclass(frozen=True)
class PixelRule:
    """Which pixels of the detectors are not used."""

    codes: tuple[int, ...] = (1, 2, 5)  # of the mask, left out of mosaics; none: masks are not used at all
    amplifiers: Mapping[str, str] = field(default_factory=dict)  # A or B, left out of a detector, by EXTNAME in capitals

    @classmethod
    def of(cls, config: FieldConfig) -> PixelRule:
        """What the options say."""
        return cls(tuple(sorted(set(config.coadd.mask_codes))), tiling.left_out(config.tiling.leave_out)[1])

    @property
    def of_sky(self) -> PixelRule:
        """The rule for statistics and binned maps: that of mosaics, and what is no sky."""
        return replace(self, codes=tuple(sorted({*self.codes, *NOT_SKY}))) if self.codes else self

    def facts(self, extnames: Iterable[str]) -> dict[str, list[int] | dict[str, str]]:
        """What of it concerns some detectors, as plain values: what is made of their pixels is made again when that changes."""
        amplifiers = {name: self.amplifiers[name.upper()] for name in sorted(set(extnames)) if name.upper() in self.amplifiers}
        return {"mask_codes": list(self.codes), "amplifiers": amplifiers}


def has_codes(version: str) -> bool | None:
    """Tell whether a version of the pipeline writes codes: True from 3.5.0 on, False before, None where it has no number.

    The version is PLVER as it stands in a header, for example V3.3.0, V4.8.2a, V5.5rc1 or DES 2.0.
    """
    found = re.search(r"\d+(?:\.\d+)*", version)
    if not found:
        return None
    numbers = [int(number) for number in found[0].split(".")]
    return (*numbers, 0, 0)[:3] >= FIRST_WITH_CODES


def codes_of(values: np.ndarray, bits: bool) -> np.ndarray:
    """Translate a mask, unsigned integers as they are stored, into codes: uint8, 0 good, else one of `CODES`.

    Values that are not bits are codes, but for those beyond the largest, which can only be bits.
    """
    codes = np.arange(max(int(values.max(initial=0)), LARGEST_CODE) + 1, dtype=np.int64)
    translated = np.where(codes == 0, 0, OTHER_BITS).astype(np.uint8)
    for bit, code in reversed(BITS):
        translated[codes & bit != 0] = code
    if not bits:
        translated[: LARGEST_CODE + 1] = codes[: LARGEST_CODE + 1]
    return translated[values]


def flagged(codes: np.ndarray, left_out: Sequence[int]) -> np.ndarray:
    """Which pixels have one of the codes to leave out, at least one; bool, same shape."""
    bad = codes == left_out[0]  # one comparison after the other takes a third of the time of a table
    for code in left_out[1:]:
        bad |= codes == code
    return bad


def counts(codes: np.ndarray) -> str:
    """How many pixels have which code, for a message."""
    n = np.bincount(codes.ravel(), minlength=LARGEST_CODE + 1)
    return ", ".join(f"{n[code]} {name}" for code, name in CODES.items() if n[code])
