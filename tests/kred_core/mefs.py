"""Small exposures in the form that real ones have, for tests that need a file with a certain fault or storage form."""

from pathlib import Path

import numpy as np
from astropy.io import fits

from kred_core.exposures.check import DetectorPlace, ExposureReport

SHAPE = (64, 48)
CENTRE = (186.744, 25.462)
PIXEL = 0.262 / 3600  # deg
PRIMARY = {
    "FILTER": "N662 DECam c0009 6620.0 172.0",
    "EXPTIME": 600.0,
    "MAGZERO": 30.0,
    "SEEING": 1.1,
    "OBSID": "ct4m20160101t010101",
    "OBJECT": "LMC_c42",
    "MJD-OBS": 57388.05,
    "PLVER": "V4.8.2",
    "WCSCAL": "Successful",
}


def detector_header(place: int = 0, **changes) -> fits.Header:
    """WCS of a detector beside the others, with what real headers say beside it; a change to None takes a keyword away."""
    header = fits.Header()
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": CENTRE[0], "CRVAL2": CENTRE[1], "CUNIT1": "deg", "CUNIT2": "deg"}
    cards |= {"CRPIX1": 24.5 - 60 * place, "CRPIX2": 32.5, "CD1_1": 0.0, "CD1_2": PIXEL, "CD2_1": -PIXEL, "CD2_2": 0.0, "FWHM": 4.0}
    for key, value in (cards | changes).items():
        if value is not None:
            header[key] = value
    return header


def sky_pixels(seed: int = 1, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A noisy sky of 1000 ADU, float32."""
    return np.random.default_rng(seed).normal(1000, 8, shape).astype(np.float32)


def detector_hdu(name: str | None, place: int = 0, pixels: np.ndarray | None = None, storage: str | None = "RICE_1", **changes):
    """One extension; ``storage`` is astropy's compression type, or None for a plain image."""
    pixels = sky_pixels(place) if pixels is None else pixels
    header = detector_header(place, **changes)
    if storage is None:
        hdu = fits.ImageHDU(pixels, header)
    else:
        floats = {"quantize_level": 4, "quantize_method": 1, "dither_seed": 1 + place} if pixels.dtype.kind == "f" else {}
        hdu = fits.CompImageHDU(pixels, header, compression_type=storage, **floats)
    if name is not None:
        hdu.name = name
    return hdu


def write_mef(path: Path, extensions, checksum: bool = True, **changes) -> Path:
    """A MEF of these extensions (HDUs, or names for `detector_hdu`); changes are to the primary header, None takes away."""
    primary = fits.PrimaryHDU()
    for key, value in (PRIMARY | {k.replace("_", "-"): v for k, v in changes.items()}).items():
        if value is not None:
            primary.header[key] = value
    hdus = [detector_hdu(e, i) if isinstance(e, str) else e for i, e in enumerate(extensions)]
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([primary, *hdus]).writeto(path, checksum=checksum, overwrite=True)
    return path


def place_of(name: str) -> DetectorPlace:
    return DetectorPlace(name, 48, 64, (10.0, -70.0), ((10.0, -70.0),) * 4, 0.262)


def report(root: str, names=("N1", "N2"), **values) -> ExposureReport:
    """What check says of an exposure with these usable detectors."""
    n = len(names) + len(values.get("lost", ())) + len(values.get("taken", ()))
    values = {"obsid": "o1", "version": "V4.8.2", "file": f"{root}.fits.fz", "n_detectors": n, **values}
    return ExposureReport(root, detectors=tuple(map(place_of, names)), **values)


def starry_sky(shape: tuple[int, int], seed: int = 1) -> np.ndarray:
    """A noisy sky of 700 ADU with some stars, float32."""
    random = np.random.default_rng(seed)
    pixels = random.normal(700, 14, shape)
    y, x = np.indices(shape)
    for _ in range(5):
        centre = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        pixels += random.exponential(20000) * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 5)
    return pixels.astype(np.float32)
