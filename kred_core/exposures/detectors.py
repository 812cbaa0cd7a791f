"""Judge the detectors of one exposure: each by itself, and whether it is like the others.

Nothing is decoded: what can be told from headers, lengths and checksums. Apart from `check`, which judges the
exposure as a whole, because a detector that cannot be used takes none of the others with it.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .. import sky, survey
from ..config import CheckConfig
from ..errors import ExposureError, of_the_moment
from ..fits import checksum
from ..fits.hdu import number, text
from ..fits.storage import require_sound
from . import focal_plane
from .exposure import Detector, Exposure

__all__ = ["DetectorPlace", "judge_detectors"]

SMALLEST_SIDE = 16  # pixels; smaller images hold no sky level
ALIKE = 2.0  # pixels of one camera differ by less than this factor
MISPLACED = 20.0  # arcsec; real CCDs at the edge of the field of view lie up to 7 from the layout, refraction adds 4
ELSEWHERE = 270.0  # arcsec, half a CCD
PIXEL_SIZES = (1e-3, 600.0)  # arcsec; no camera is beyond


@dataclass(frozen=True)
class DetectorPlace:
    """Where a usable detector lies on the sky, from its WCS, whatever its keywords say.

    Attributes
    ----------
    extname : str
    naxis1, naxis2 : int
        Size in pixels.
    centre : tuple of float
        RA, Dec in degrees.
    corners : tuple of tuple of float
        RA, Dec of the centres of pixels (1,1), (NAXIS1,1), (1,NAXIS2), (NAXIS1,NAXIS2) in degrees.
    pixel_scale : float
        Arcsec per pixel at the centre.
    """

    extname: str
    naxis1: int
    naxis2: int
    centre: tuple[float, float]
    corners: tuple[tuple[float, float], ...]
    pixel_scale: float


def judge_detectors(exposure: Exposure, config: CheckConfig) -> tuple[list[DetectorPlace], list[tuple[str, str]], list[str]]:
    """Judge the detectors of an exposure by their headers, lengths and checksums.

    Parameters
    ----------
    exposure : `~kred_core.exposures.exposure.Exposure`
    config : `~kred_core.config.CheckConfig`

    Returns
    -------
    places : list of DetectorPlace
        Of the detectors that can be used.
    lost : list of (str, str)
        Each of the others, as in `~kred_core.exposures.check.ExposureReport.lost`, with the reason.
    remarks : list of str
        What a user should know of those that can be used.
    """
    places: list[DetectorPlace] = []
    lost: list[tuple[str, str]] = []
    remarks: list[str] = []
    usual, count = Counter(d.shape for d in exposure.detectors).most_common(1)[0]
    if count <= len(exposure.detectors) // 2:
        usual = ()  # no shape is the usual one: cut-outs, each of its own size
    names = Counter(d.extname.upper() for d in exposure.detectors)
    masks = Counter(h.extname for h in exposure.masks if h.is_image)
    for d in exposure.detectors:
        try:
            _require_name(d, names)
            _require_shape(d, usual)
            _require_mask(d, masks)
            place = _place(d)
            edited = _verify_checksums(d) if config.verify_checksums else []
        except ExposureError as e:
            if of_the_moment(e):
                raise
            unique = d.extname and names[d.extname.upper()] == 1
            lost.append((d.extname if unique else f"{d.extname}[{d.hdu.index}]", str(e)))
            continue
        places.append(place)
        remarks += edited
    places, lost = _alike(places, lost)
    return _in_place(exposure, places, lost, remarks)


def _alike(places: list[DetectorPlace], lost: list[tuple[str, str]]) -> tuple[list[DetectorPlace], list[tuple[str, str]]]:
    """Lose the detectors whose pixels are larger or smaller than those of most: where nothing but the WCS is damaged."""
    usual = statistics.median_low([p.pixel_scale for p in places]) if places else 0.0
    alike = [p for p in places if usual / ALIKE <= p.pixel_scale <= usual * ALIKE]
    if len(alike) <= len(places) // 2:
        return places, lost  # none is the usual one
    why = "its WCS gives it pixels of {:.3g} arcsec, those of the other detectors have {:.3g}"
    return alike, [*lost, *((p.extname, why.format(p.pixel_scale, usual)) for p in places if p not in alike)]


def _in_place(
    exposure: Exposure, places: list[DetectorPlace], lost: list[tuple[str, str]], remarks: list[str]
) -> tuple[list[DetectorPlace], list[tuple[str, str]], list[str]]:
    """Remark on the CCDs of DECam that lie where the focal plane does not have them; lose those that are far away."""
    if text(exposure.primary, "INSTRUME").upper() != "DECAM":
        return places, lost, remarks
    headers = {d.extname: d.header for d in exposure.detectors}
    of_table = {str(row["EXTNAME"]): float(row["CCDNUM"]) for row in survey.focal_plane()}
    named = [p for p in places if of_table.get(p.extname) == number(headers[p.extname], "CCDNUM")]
    crval = [[number(headers[p.extname], key) for key in ("CRVAL1", "CRVAL2")] for p in named]
    off = focal_plane.displacements({p.extname: p.corners for p in named}, crval)
    away = {name: f"{arcsec:.0f} arcsec from where the focal plane has it" for name, arcsec in off.items() if arcsec > MISPLACED}
    lost = [*lost, *((name, f"its WCS puts it {where}") for name, where in away.items() if off[name] > ELSEWHERE)]
    remarks = remarks + [
        f"detector {name} lies {where}; its WCS may be wrong" for name, where in away.items() if off[name] <= ELSEWHERE
    ]
    return [p for p in places if off.get(p.extname, 0.0) <= ELSEWHERE], lost, remarks


def _require_name(d: Detector, names: Mapping[str, int]) -> None:
    if not d.extname:
        raise ExposureError("it has no EXTNAME")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,31}", d.extname):
        raise ExposureError(f"EXTNAME {d.extname!r} is no name of a detector")
    if names[d.extname.upper()] > 1:
        raise ExposureError(f"{names[d.extname.upper()]} extensions have this EXTNAME; which of them is it?")


def _require_shape(d: Detector, usual: tuple[int, ...]) -> None:
    require_sound(d.hdu)
    if len(d.shape) != 2 or min(d.shape) < SMALLEST_SIDE:
        raise ExposureError(f"expected an image of at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, found {_size(d.shape)}")
    if usual and d.shape != usual:
        raise ExposureError(f"it has {_size(d.shape)} pixels, the other detectors have {_size(usual)}")


def _require_mask(d: Detector, names: Mapping[str, int]) -> None:
    if d.mask is None:
        return
    if names[d.extname] > 1:
        raise ExposureError(f"{d.mask.path.name} has {names[d.extname]} masks with its name; which of them is it?")
    try:
        require_sound(d.mask)
    except ExposureError as e:
        raise ExposureError(f"its mask in {d.mask.path.name}: {e}") from e
    if d.mask.shape != d.shape:
        raise ExposureError(f"its mask has {_size(d.mask.shape)} pixels, the image {_size(d.shape)}")


def _verify_checksums(d: Detector) -> list[str]:
    """Remarks; damage is an error."""
    remarks = []
    for hdu, what in ((d.hdu, ""), (d.mask, f"its mask in {d.mask.path.name}: " if d.mask else "")):
        if hdu is None:
            continue
        if damage := checksum.damage(hdu):
            raise ExposureError(f"{what}{damage}")
        if edited := checksum.edited_header(hdu):
            remarks.append(f"detector {d.extname}: {what}{edited}")
    return remarks


def _place(d: Detector) -> DetectorPlace:
    wcs = sky.celestial_wcs(d.header)
    ny, nx = d.shape
    pixel_scale = float(sky.pixel_scale(wcs, d.shape))
    if not PIXEL_SIZES[0] <= pixel_scale <= PIXEL_SIZES[1]:
        raise ExposureError(f"has no usable WCS: it gives the pixels a size of {pixel_scale:.3g} arcsec")
    return DetectorPlace(
        extname=d.extname,
        naxis1=nx,
        naxis2=ny,
        centre=_degrees(sky.centre(wcs, d.shape)),
        corners=tuple(_degrees(c) for c in sky.corners(wcs, d.shape)),
        pixel_scale=round(pixel_scale, 6),
    )


def _degrees(position: Iterable[float]) -> tuple[float, float]:
    ra, dec = position
    return round(float(ra), 8), round(float(dec), 8)  # 0.04 mas


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in reversed(shape)) or "none"
