"""Judge the detectors of one exposure: each by itself, and whether it is like the others.

`judge_detectors` decodes nothing: it judges by headers, lengths and checksums. `judge_levels` compares what the decoded pixels
have shown. A detector that cannot be used takes none of the others with it.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from .. import sky, survey
from ..config import CheckConfig
from ..errors import ExposureError, is_transient
from ..fits import checksum
from ..fits.hdu import number, text
from ..fits.storage import require_sound
from .exposure import Detector, Exposure

__all__ = ["CD", "RADIAL", "DetectorPlace", "displacements", "judge_detectors", "judge_levels"]

SMALLEST_SIDE = 16  # pixels; smaller images hold no sky level
ALIKE = 2.0  # pixels of one camera differ by less than this factor
MISPLACED = 20.0  # arcsec; real CCDs at the edge of the field of view lie up to 7 from the layout, refraction adds 4
ELSEWHERE = 270.0  # arcsec, half a CCD
PIXEL_SIZES = (1e-3, 600.0)  # arcsec; no camera is beyond

# The focal plane of DECam (`kred_core.survey.focal_plane`), fitted to real headers with an rms of 3 to 4 pixels (1 arcsec).
CD = 7.287e-5  # deg per native pixel
RADIAL = {1: 1.0056, 7: -0.00305, 9: -0.00305}  # PV1_n and PV2_n: xi (c + k r^2), fitted to 25 real detectors: rms of area 3e-4
CCD = np.array([2046.0, 4094.0])  # NAXIS1, NAXIS2
WHOLE = 0.95  # of a side; a shorter one is that of a cut-out, which may lie anywhere within its CCD
SIBLINGS = 3  # as many CCDs tell where the telescope pointed, whatever CRVAL says
PASSES = 4  # of the search for the pointing, which moves the centre of the distortion too

# All detectors of an exposure look at one sky for one time. Their levels differ by vignetting and nebulae, and where they are
# brighter they are noisier, by what photons explain; not by more.
SKY = 3.0  # noises: a median level below that may be one whose sky was subtracted, to which no level has a ratio
FAINTEST = 0.1  # of the median level; no vignetting takes so much, and no more than half of an exposure lies in so bright a nebula
BRIGHTEST = 100.0  # times the median level; 30 Doradus is 30 times as bright as the sky in a narrow band
QUIETEST = 0.2  # of the median noise; at a tenth of the level photons alone make 0.3 of it
NOISIEST = 5.0  # times the median noise and that of the additional photons, at one electron per ADU or more


@dataclass(frozen=True)
class DetectorPlace:
    """Where a usable detector lies on the sky, from its WCS, whatever its keywords say."""

    extname: str
    naxis1: int  # pixels
    naxis2: int
    centre: tuple[float, float]  # RA, Dec in degrees
    corners: tuple[tuple[float, float], ...]  # the same of pixels (1,1), (NAXIS1,1), (1,NAXIS2), (NAXIS1,NAXIS2), their centres
    pixel_scale: float  # arcsec per pixel at the centre


def judge_detectors(exposure: Exposure, config: CheckConfig) -> tuple[list[DetectorPlace], list[tuple[str, str]], list[str]]:
    """Judge the detectors of an exposure by their headers, lengths and checksums.

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
    usual: tuple[int, ...]
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
            if is_transient(e):
                raise
            unique = d.extname and names[d.extname.upper()] == 1
            lost.append((d.extname if unique else f"{d.extname}[{d.hdu.index}]", str(e)))
            continue
        places.append(place)
        remarks += edited
    reasons = _odd_pixels(places)
    far, near = _displaced(exposure, [p for p in places if p.extname not in reasons])
    reasons |= far
    return [p for p in places if p.extname not in reasons], [*lost, *reasons.items()], remarks + near


def _odd_pixels(places: list[DetectorPlace]) -> dict[str, str]:
    """Why detectors whose pixels are larger or smaller than those of most cannot be used: nothing but their WCS is damaged."""
    usual = statistics.median_low([p.pixel_scale for p in places]) if places else 0.0
    odd = {p.extname: p.pixel_scale for p in places if not usual / ALIKE <= p.pixel_scale <= usual * ALIKE}
    if len(places) - len(odd) <= len(places) // 2:
        return {}  # none is the usual one
    why = "its WCS gives it pixels of {:.3g} arcsec, those of the other detectors have {:.3g}"
    return {name: why.format(scale, usual) for name, scale in odd.items()}


def _displaced(exposure: Exposure, places: list[DetectorPlace]) -> tuple[dict[str, str], list[str]]:
    """Why CCDs of DECam that lie far from where the focal plane has them cannot be used, and remarks on those that lie near."""
    if text(exposure.primary, "INSTRUME").upper() != "DECAM":
        return {}, []
    headers = {d.extname: d.header for d in exposure.detectors}
    of_table = {str(row["EXTNAME"]): float(row["CCDNUM"]) for row in survey.focal_plane()}
    named = [p for p in places if of_table.get(p.extname) == number(headers[p.extname], "CCDNUM")]
    crval = np.array([[number(headers[p.extname], key) for key in ("CRVAL1", "CRVAL2")] for p in named], float)
    off = displacements({p.extname: p.corners for p in named}, crval)
    away = {name: f"{arcsec:.0f} arcsec from where the focal plane has it" for name, arcsec in off.items() if arcsec > MISPLACED}
    far = {name: f"its WCS puts it {where}" for name, where in away.items() if off[name] > ELSEWHERE}
    return far, [f"detector {name} lies {where}; its WCS may be wrong" for name, where in away.items() if name not in far]


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
    pixel_scale = float(sky.pixel_scale(wcs, (ny, nx)))
    if not PIXEL_SIZES[0] <= pixel_scale <= PIXEL_SIZES[1]:
        raise ExposureError(f"has no usable WCS: it gives the pixels a size of {pixel_scale:.3g} arcsec")
    return DetectorPlace(
        extname=d.extname,
        naxis1=nx,
        naxis2=ny,
        centre=_degrees(sky.centre(wcs, (ny, nx))),
        corners=tuple(_degrees(c) for c in sky.corners(wcs, (ny, nx))),
        pixel_scale=round(pixel_scale, 6),
    )


def _degrees(position: Iterable[float]) -> tuple[float, float]:
    ra, dec = position
    return round(float(ra), 8), round(float(dec), 8)  # 0.04 mas


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in reversed(shape)) or "none"


def displacements(corners: Mapping[str, ArrayLike], reference: ArrayLike) -> dict[str, float]:
    """How far CCDs lie from where the focal plane has them.

    Parameters
    ----------
    corners : mapping of str to array_like
        Of the CCDs of one exposure by EXTNAME: RA and Dec in degrees of the corner pixels, shape (4, 2), in the order of
        `DetectorPlace`. A name that DECam does not have is left out.
    reference : array_like
        CRVAL of each in degrees, shape (n, 2), in any order.

    Returns
    -------
    dict of str to float
        Arcsec. Pointing and rotation of the camera are the medians of the CCDs that are whole, if these are at least three, so that
        an offset of the telescope is none of a CCD; with fewer the pointing is the CRVAL that all share, and of one CCD alone, or
        without a common CRVAL, nothing is known: empty. Of a cut-out only that part counts by which it sticks out of its CCD.
    """
    layout = {str(row["EXTNAME"]): (float(row["CRPIX1"]), float(row["CRPIX2"])) for row in survey.focal_plane()}
    names = [name for name in corners if name in layout]
    if len(names) < 2:
        return {}
    directions = np.array([sky.unit_vectors(*np.transpose(corners[name])) for name in names])
    crpix = np.array([layout[name] for name in names])
    crval = sky.unit_vectors(*np.transpose(reference))
    pointing = np.median(crval, axis=0)
    for _ in range(PASSES):
        pixels = _native(directions, pointing) + crpix[:, None, :]
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        cut = high - low < WHOLE * CCD
        off = np.where(cut, np.minimum(low - 1, 0) + np.maximum(high - CCD, 0), (low + high - CCD - 1) / 2)
        whole = ~cut.any(axis=1)
        if whole.sum() < SIBLINGS:
            if np.ptp(crval, axis=0).max() > 1e-9:
                return {}
            break
        pointing = _moved(pointing, np.median(off[whole], axis=0))
    return dict(zip(names, (3600 * CD * np.hypot(*off.T)).tolist(), strict=True))


def _frame(pointing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors to the east and north of a direction."""
    ra, dec = np.radians(sky.position(pointing))
    return np.array([-np.sin(ra), np.cos(ra), 0.0]), np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])


def _native(corners: np.ndarray, pointing: np.ndarray) -> np.ndarray:
    """Native pixels from the pointing, shape (n, 4, 2): x runs south, y runs east where the camera is not turned."""
    east, north = _frame(pointing)
    towards = pointing / np.linalg.norm(pointing)
    plane = np.stack([-(corners @ north), corners @ east], axis=-1)
    plane /= np.maximum(corners @ towards, 1e-3)[..., None]  # the other half of the sky is far away, too
    seen = np.degrees(np.linalg.norm(plane, axis=-1, keepdims=True))
    true = seen
    for _ in range(5):
        true = seen / np.maximum(RADIAL[1] + RADIAL[7] * true**2, 0.5)
    straight = np.degrees(plane) * true / np.where(seen > 0, seen, 1.0) / CD
    along = straight[:, 2] - straight[:, 0]  # from the first row to the last
    turn = np.median(np.arctan2(along[:, 0], along[:, 1]))
    c, s = np.cos(turn), np.sin(turn)
    return straight @ np.array([[c, s], [-s, c]])


def _moved(pointing: np.ndarray, off: np.ndarray) -> np.ndarray:
    east, north = _frame(pointing)
    return pointing / np.linalg.norm(pointing) + np.radians(CD) * RADIAL[1] * (off[1] * east - off[0] * north)


class Measured(Protocol):
    """What is known of a detector: its name, sky level and noise of a pixel in ADU."""

    @property
    def extname(self) -> str: ...
    @property
    def histogram_mode(self) -> float: ...
    @property
    def noise(self) -> float: ...


def judge_levels(detectors: Sequence[Measured]) -> tuple[dict[str, str], list[str]]:
    """Find the detectors of one exposure that do not see what the others see: dead, or read by a broken amplifier.

    Returns
    -------
    refused : dict
        Why a detector cannot be used, by EXTNAME. One of three or more is compared with the median of all; one without noise sees
        no sky, however many there are.
    remarks : list of str
        Two detectors that cannot both be right: which of them is wrong, nobody can tell.
    """
    refused = {d.extname: reason for d in detectors if (reason := _without_noise(d))}
    rest = [d for d in detectors if d.extname not in refused]
    if len(rest) == 2:
        found = [(one, other, _difference(one, [other])) for one, other in (rest, rest[::-1])]
        remarks = [f"detector {one.extname}: {why} ({other.extname}); one of the two is wrong" for one, other, why in found if why]
        return refused, remarks[:1]
    refused |= {d.extname: reason for d in rest if (reason := _difference(d, rest))}
    return refused, []


def _without_noise(d: Measured) -> str:
    if math.isnan(d.noise):
        return "no three good pixels lie side by side, so that its noise is not known"
    level = f"{d.histogram_mode:.5g} ADU"
    return "" if d.noise > 0 else f"its pixels do not differ from their neighbours: it sees no sky (its level is {level})"


def _difference(d: Measured, others: Sequence[Measured]) -> str:
    """How a detector differs from the median of some, in words; empty where it can be one of them."""
    level = float(np.median([other.histogram_mode for other in others]))
    noise = float(np.median([other.noise for other in others]))
    those = f"the median of the {len(others)} detectors of this exposure" if len(others) > 1 else "that of the other"
    if level > SKY * noise and not FAINTEST * level <= d.histogram_mode <= BRIGHTEST * level:
        return f"its sky level is {d.histogram_mode:.5g} ADU, {those} {level:.5g} ADU"
    if not QUIETEST * noise <= d.noise <= NOISIEST * math.sqrt(noise**2 + max(d.histogram_mode - level, 0.0)):
        return f"its noise is {d.noise:.5g} ADU at a level of {d.histogram_mode:.5g}, {those} {noise:.5g} at {level:.5g}"
    return ""
