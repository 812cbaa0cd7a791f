"""Faults that real archives hand out, planted where the truth says so.

Each fault is an exposure of its own, in addition to the good ones, so that
whatever is made of the field can be compared with the same field without them.
A fault acts at one of four places: on the plan, the headers, the pixels or the finished file.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..fits.cards import Cards
from .config import SimulationConfig
from .exposures import ExposurePlan

__all__ = ["DESCRIPTIONS", "damage_file", "damage_header", "damage_pixels", "damage_primary", "faulty_exposures", "hit"]

DESCRIPTIONS = {
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
ONE_DETECTOR = ("truncated", "flipped-byte", "nan-detector", "constant-detector", "wrong-shape")
REPROCESSED = "ls9"
FIRST_NUMBER, NIGHTS_LATER = 500, 30  # beyond those of the good exposures


def faulty_exposures(config: SimulationConfig, good: tuple[ExposurePlan, ...]) -> tuple[ExposurePlan, ...]:
    """One additional exposure for each fault to plant, modelled on the good ones in turn."""
    planned = []
    for i, fault in enumerate(config.planted):
        model = good[i % len(good)]
        if fault == "duplicate":
            planned.append(replace(good[0], fault=fault, version=REPROCESSED))
            continue
        # Numbers that no good exposure has, so that the start of the exposure and the photons are new.
        start = model.start + dt.timedelta(days=NIGHTS_LATER + i)
        planned.append(replace(model, number=FIRST_NUMBER + i, start=start, fault=fault))
    return tuple(planned)


def hit(exposure: ExposurePlan) -> str:
    """EXTNAME of the detector that has the fault, '' where the whole exposure has it."""
    return exposure.ccds[len(exposure.ccds) // 2].name if exposure.fault in ONE_DETECTOR else ""


def damage_primary(exposure: ExposurePlan, header: Cards) -> None:
    """Change the primary header as the fault demands."""
    if exposure.fault == "missing-magzero":
        del header["MAGZERO"], header["MAGZPT"], header["PHOTREF"]
    elif exposure.fault == "missing-seeing":
        header.pop("SEEING", None)
    elif exposure.fault == "unknown-filter":
        header["FILTER"] = ("X999 DECam c9999 6000.0 100.0", "Unique filter identifier")
        header["BAND"] = ("X999", "")


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


def damage_header(exposure: ExposurePlan, header: Cards) -> None:
    """Change an extension's header as the fault demands."""
    corners = ["CENRA1", "CENDEC1", *(f"COR{i}{axis}1" for i in range(1, 5) for axis in ("RA", "DEC"))]
    if exposure.fault == "missing-corners":
        for key in [*corners, "RA1", "DEC1"]:
            del header[key]
    elif exposure.fault == "wrong-corners":
        for key in corners:
            if "DEC" in key:
                dec, comment = header[key]
                header[key] = (round(dec - 0.5, 6), comment)
    elif exposure.fault == "missing-seeing":
        del header["FWHM"]


def damage_file(exposure: ExposurePlan, path: Path, data: dict[str, tuple[int, int]]) -> None:
    """Damage the finished file.

    Parameters
    ----------
    exposure : `~kred_core.simulate.exposures.ExposurePlan`
    path : `~pathlib.Path`
    data : dict
        EXTNAME -> first byte and length of the HDU's data in the file.
    """
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
