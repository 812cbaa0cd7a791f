"""Open a MEF, find its detectors without decoding them, read their pixels and masks.

A detector is read from its own bytes, whatever the number of extensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from astropy.io import fits

from ..errors import ExposureError
from ..fits.hdu import Hdu, number, scan, text
from ..fits.pixels import read_pixels
from ..products import FieldPaths
from ..sky import celestial_wcs
from ..survey import tiling
from . import masks
from .masks import PixelRule

if TYPE_CHECKING:
    from astropy.nddata import CCDData

__all__ = ["Detector", "Exposure", "start_mjd"]

CENTURIES = (15020.0, 88069.0)  # MJD of 1900 and 2100; what is beyond is no date of an observation


def start_mjd(primary: fits.Header) -> float | None:
    """Start of an exposure (MJD-OBS) in days, or None where it is missing or absurd."""
    start = number(primary, "MJD-OBS")
    return start if start is not None and CENTURIES[0] <= start <= CENTURIES[1] else None


class MaskFormat:
    """Whether the masks of one file are bits or codes (`kred_core.exposures.masks`).

    The version of the pipeline (PLVER) tells: that of the mask's own header, then that of the image.
    """

    def __init__(self, primaries: Sequence[fits.Header], mask_hdus: Sequence[Hdu]) -> None:
        answers = (masks.has_codes(text(header, "PLVER")) for header in primaries)
        self._has_codes = next((answer for answer in answers if answer is not None), None)
        self.known = self._has_codes is not None  # by a header
        self._undecided = () if self.known else tuple(mask_hdus)

    @cached_property
    def bits(self) -> bool:
        """Whether the values are bits. Without a version they are, in the whole file, where one of them cannot be a code."""
        return not self._has_codes if self.known else any(map(_beyond_codes, self._undecided))


def _beyond_codes(mask: Hdu) -> bool:
    with suppress(ExposureError):  # said of the detector that it belongs to
        return mask.is_image and int(read_pixels(mask, np.uint16).max(initial=0)) > masks.LARGEST_CODE
    return False


@dataclass(frozen=True)
class Detector:
    """One CCD image of an exposure."""

    root: str
    extname: str
    hdu: Hdu
    mask: Hdu | None = field(default=None, repr=False)
    mask_format: MaskFormat = field(default=MaskFormat((), ()), repr=False, compare=False)

    @property
    def name(self) -> str:
        """How people call it: <Root>_<EXTNAME>."""
        return f"{self.root}_{self.extname}"

    @property
    def header(self) -> fits.Header:
        return self.hdu.header

    @property
    def shape(self) -> tuple[int, int]:
        """(NAXIS2, NAXIS1); what has other axes is refused by check."""
        return cast("tuple[int, int]", self.hdu.shape)

    def pixels(self) -> np.ndarray:
        """Pixels in ADU, float32, shape (NAXIS2, NAXIS1)."""
        return read_pixels(self.hdu)

    def mask_codes(self) -> np.ndarray | None:
        """The ood mask in codes (0 good; `kred_core.exposures.masks.CODES`), uint8, or None without one."""
        if self.mask is None:
            return None
        bits = self.mask_format.bits
        values = read_pixels(self.mask, np.uint16 if bits else np.uint8)
        if values.shape != self.shape:
            raise ExposureError(
                f"{self.mask.path.name} {self.extname}: the mask has the shape {values.shape}, the image {self.shape}"
            )
        return masks.codes_of(values, bits) if bits or values.max() > masks.LARGEST_CODE else values

    def bad_pixels(self, rule: PixelRule) -> np.ndarray | None:
        """The pixels that a rule leaves out: bool, shape (NAXIS2, NAXIS1); None where there are none."""
        codes = self.mask_codes() if rule.codes else None
        bad = None if codes is None else masks.flagged(codes, rule.codes)
        if amplifier := rule.amplifiers.get(self.extname.upper()):
            bad = np.zeros(self.shape, np.bool_) if bad is None else bad
            bad[:, tiling.amplifier_columns(self.header, self.extname, self.shape[1], amplifier)] = True
        return bad if bad is not None and bad.any() else None

    def ccd(self, mask_codes: Sequence[int] = PixelRule().codes) -> CCDData:
        """Return the detector as a `~astropy.nddata.CCDData` in adu, with its WCS, its header, and a mask of the pixels not to use.

        Parameters
        ----------
        mask_codes : sequence of int
            Codes of the ood mask that are not used (`kred_core.exposures.masks.CODES`); pixels that are not finite never are.

        Raises
        ------
        ExposureError
            It cannot be decoded, or has no usable WCS.
        """
        from astropy.nddata import CCDData  # takes a fifth of a second, which no command needs

        pixels, bad = self.pixels(), self.bad_pixels(PixelRule(tuple(mask_codes)))
        mask = ~np.isfinite(pixels) if bad is None else bad | ~np.isfinite(pixels)
        return CCDData(pixels, unit="adu", mask=mask, wcs=celestial_wcs(self.header), meta=self.header.copy())


@dataclass(frozen=True)
class Exposure:
    """One MEF, nothing decoded yet."""

    path: Path
    detectors: tuple[Detector, ...]  # each image, even one without data: nothing that may be a detector is silently left out
    hdus: tuple[Hdu, ...] = field(repr=False)
    masks: tuple[Hdu, ...] = field(default=(), repr=False)  # the HDUs of its ood mask

    @property
    def primary(self) -> fits.Header:
        """The primary header."""
        return self.hdus[0].header

    @property
    def root(self) -> str:
        return FieldPaths.root_of(self.path)

    def __getitem__(self, extname: str) -> Detector:
        """The detector with an EXTNAME."""
        for detector in self.detectors:
            if detector.extname.upper() == extname.upper():
                return detector
        raise ExposureError(f"{self.path.name}: has no detector {extname}; it has {', '.join(d.extname for d in self.detectors)}")

    @classmethod
    def open(cls, path: Path) -> Exposure:
        """Scan a MEF and its ood mask.

        Raises
        ------
        ExposureError
            See `scan`; also where no extension holds an image. Damage of the
            mask is an error too: pixels flagged bad must not come back unnoticed.
        """
        hdus = tuple(scan(path))
        mask_path = FieldPaths.mask_of(path)
        masks = tuple(scan(mask_path)) if mask_path else ()
        by_name = {h.extname: h for h in masks[1:] if h.is_image}
        form = MaskFormat([h.header for h in (*masks[:1], hdus[0])], masks[1:])
        root = FieldPaths.root_of(path)
        detectors = tuple(Detector(root, h.extname, h, by_name.get(h.extname), form) for h in hdus[1:] if h.is_image)
        if not detectors:
            alone = "; detectors are images in extensions, and its only image is in the primary HDU" if hdus[0].shape else ""
            raise ExposureError(f"{path.name}: no extension holds an image{alone}")
        return cls(path, detectors, hdus, masks)

    @property
    def filter(self) -> str:
        """Short name of the filter: the first word of FILTER."""
        words = text(self.primary, "FILTER").split()
        return words[0] if words else ""
