"""The file that holds the binned maps of one exposure.

For each detector it has the images mean, std and count, compressed, each with its WCS; the table DETECTORS at the end tells
where they begin, so that one of sixty is read without looking at the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits

from .. import __version__
from ..errors import ExposureError, InputError
from ..fits import checksum, rice
from ..fits.checksum import Cards, hdu_bytes
from ..fits.compress import quantised_image
from ..fits.hdu import BLOCK
from ..products import atomic
from .average import BinnedGrid, BinnedMap

UNIT = "count arcsec-2"
STEPS_OF_MEAN = 20  # in the noise of a cell: rounding adds 1/7000 of its variance
STEPS_OF_STD = 16  # in the noise of a pixel: the std of 60 pixels is not known better
FINEST = 2.0**-22  # of the largest value, where there is no noise
SEALED = (0, 0xFFFFFFFF)  # what the bytes of an HDU with CHECKSUM sum up to
# What a damaged header leads to.
DAMAGE = (ExposureError, fits.VerifyError, KeyError, ValueError, TypeError, IndexError, AttributeError)
COLUMNS = (  # name, type, form in FITS, unit, meaning
    ("EXTNAME", "S32", "32A", "", "detector: images <EXTNAME>, _STD and _COUNT"),
    ("OFFSET", ">i8", "1K", "byte", "first byte of its images in this file"),
    ("LENGTH", ">i8", "1K", "byte", "bytes of its images"),
    ("X0", ">i4", "1J", "", "cell of the grid that the first pixel is, from 0"),
    ("Y0", ">i4", "1J", "", "cell of the grid that the first pixel is, from 0"),
    ("NX", ">i4", "1J", "", "cells along x"),
    ("NY", ">i4", "1J", "", "cells along y"),
    ("LEVEL", ">f8", "1D", "count", "own sky subtracted, counts28 per native pixel"),
    ("AREA", ">f8", "1D", "arcsec2", "native pixel at the detector's centre"),
    ("TODET", "(6,)>f8", "6D", "", "(u, v) = TODET[2, 3] (x, y, 1); u, v in [-1, 1]"),
    ("ATERMS", "(5,)>f8", "5D", "", "area at u, v: AREA (1 + ATERMS (u, v, uu, uv, vv))"),
)
TABLE = np.dtype([(name, kind) for name, kind, *_ in COLUMNS])


def write(path: Path, grid: BinnedGrid, maps: Iterable[BinnedMap]) -> None:
    """Write the binned maps of one exposure.

    The file appears when it is complete. Of no map at all it says that there is none.

    Notes
    -----
    Means are kept in steps of 1/20 of the noise of a cell, with subtractive dithering: the error of rounding has no bias and
    1/70 of the noise. std is kept in steps of 1/16 of the noise of a pixel, count exactly, and a cell without pixels is NaN.
    Full-size DECam detectors take 0.34 MB. The same binned maps give the same bytes.
    """
    parts: list[bytes] = []
    rows = []
    root, at = "", BLOCK
    for binned_map in maps:
        images = _images(grid, binned_map)
        ny, nx = binned_map.mean.shape
        box = binned_map.x0, binned_map.y0, nx, ny
        places = binned_map.to_detector.ravel(), binned_map.area_terms
        rows.append((binned_map.extname.encode(), at, len(images), *box, binned_map.level, binned_map.area, *places))
        parts.append(images)
        at += len(images)
        root = binned_map.root
    primary, _ = hdu_bytes(
        {
            "SIMPLE": (True, "standard FITS"),
            "BITPIX": (8, ""),
            "NAXIS": (0, "the images are in extensions"),
            "EXTEND": (True, ""),
            "ROOT": (root, "exposure"),
            "GRIDRA": (float(grid.ra), "[deg] tangent point of the grid of cells"),
            "GRIDDEC": (float(grid.dec), "[deg] tangent point of the grid of cells"),
            "GRIDCELL": (float(grid.cell), "[arcsec] side of a cell"),
            "DETTABLE": (at, "first byte of the table of detectors"),
            "KREDVER": (__version__, "version of kred that made this file"),
        }
    )
    with atomic(path) as temporary, open(temporary, "wb") as f:
        f.writelines([primary, *parts, _table(rows)])


def _images(grid: BinnedGrid, binned_map: BinnedMap) -> bytes:
    """Mean, std and count of a detector as three compressed HDUs."""
    seen = binned_map.count > 0
    noisy = seen & (binned_map.std > 0)
    noise = _lower_quartile(binned_map.std[noisy] / np.sqrt(binned_map.count[noisy]))
    largest = float(np.abs(binned_map.mean[seen]).max(initial=0.0))
    dither = 1 + zlib.crc32(f"{binned_map.root} {binned_map.extname}".encode()) % 10000
    step = noise / STEPS_OF_MEAN or FINEST * largest or 1.0
    coarse = _lower_quartile(binned_map.std[noisy]) / STEPS_OF_STD or 1.0
    planes = (
        ("", UNIT, "mean of the pixels of a cell, sky subtracted", binned_map.mean, step, dither),
        ("_STD", UNIT, "standard deviation of these pixels", binned_map.std, coarse, 0),
        ("_COUNT", "", "number of good pixels of a cell", binned_map.count.astype(np.float32), 1.0, 0),
    )
    parts: list[bytes] = []
    for suffix, unit, meaning, values, step, seed in planes:
        cards: Cards = {"EXTNAME": (binned_map.extname + suffix, meaning), "BUNIT": (unit, "of counts28" if unit else "")}
        parts += quantised_image({**cards, **_wcs(grid, binned_map)}, values, step, seed)
    return b"".join(parts)


def _lower_quartile(values: np.ndarray) -> float:
    """A quarter of the cells show less: stars and nebulae do not enter. 0 without values."""
    return float(np.partition(values, values.size // 4)[values.size // 4]) if values.size else 0.0


def _wcs(grid: BinnedGrid, binned_map: BinnedMap) -> Cards:
    step = grid.cell / 3600
    return {
        "RADESYS": ("ICRS", ""),
        "CTYPE1": ("RA---TAN", ""),
        "CTYPE2": ("DEC--TAN", ""),
        "CUNIT1": ("deg", ""),
        "CUNIT2": ("deg", ""),
        "CRVAL1": (float(grid.ra), "[deg] tangent point"),
        "CRVAL2": (float(grid.dec), "[deg] tangent point"),
        "CRPIX1": (1.0 - binned_map.x0, "pixel of cell 0, 0 of the grid"),
        "CRPIX2": (1.0 - binned_map.y0, "pixel of cell 0, 0 of the grid"),
        "CD1_1": (-step, "[deg/pix]"),
        "CD1_2": (0.0, ""),
        "CD2_1": (0.0, ""),
        "CD2_2": (step, "[deg/pix]"),
    }


def _table(rows: list[tuple]) -> bytes:
    table = np.array(rows, dtype=TABLE)
    cards: Cards = {
        "XTENSION": ("BINTABLE", "binary table extension"),
        "BITPIX": (8, ""),
        "NAXIS": (2, ""),
        "NAXIS1": (TABLE.itemsize, "width of table in bytes"),
        "NAXIS2": (len(table), "detectors"),
        "PCOUNT": (0, ""),
        "GCOUNT": (1, ""),
        "TFIELDS": (len(COLUMNS), ""),
        "EXTNAME": ("DETECTORS", ""),
    }
    for i, (name, _, form, unit, meaning) in enumerate(COLUMNS, 1):
        cards |= {f"TTYPE{i}": (name, meaning), f"TFORM{i}": (form, "")} | ({f"TUNIT{i}": (unit, "")} if unit else {})
    return b"".join(hdu_bytes(cards, table.tobytes()))


def grid_of(path: Path) -> BinnedGrid:
    """Return the grid that the binned maps of a file are on; `InputError` where it is missing or damaged."""
    with _opened(path) as f:
        primary = _primary(f)
        return BinnedGrid(float(primary["GRIDRA"]), float(primary["GRIDDEC"]), float(primary["GRIDCELL"]))


def boxes(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Return x0, y0, nx, ny of the binned maps of a file in cells of the grid, by EXTNAME, without decoding them.

    Raises
    ------
    InputError
        The file is missing or damaged; the message says what to do.
    """
    with _opened(path) as f:
        table = _detectors(f, _primary(f))
    return {r["EXTNAME"].decode(): (int(r["X0"]), int(r["Y0"]), int(r["NX"]), int(r["NY"])) for r in table}


def read(path: Path, extname: str) -> BinnedMap:
    """Read the binned map of one detector.

    Raises
    ------
    InputError
        The file is missing or damaged, or has no such binned map; the message says what to do.
    """
    with _opened(path) as f:
        primary = _primary(f)
        root = str(primary["ROOT"]).strip()
        found = [row for row in _detectors(f, primary) if row["EXTNAME"] == extname.encode()]
        if not found:
            raise ExposureError(f"it has no binned map of detector {extname}")
        row = found[0]
        f.seek(row["OFFSET"])
        raw = f.read(row["LENGTH"])
        _require_sound(raw, f"the images of detector {extname}")
        shape = int(row["NY"]), int(row["NX"])
        planes, at = [], 0
        for _ in range(3):
            plane, at = _image(raw, at)
            if plane.shape != shape:
                raise ExposureError(f"an image of detector {extname} has the shape {plane.shape}, expected {shape}")
            planes.append(plane)
    mean, std, count = planes
    return BinnedMap(
        root=root,
        extname=extname,
        x0=int(row["X0"]),
        y0=int(row["Y0"]),
        mean=mean,
        std=std,
        count=count.astype(np.uint16),
        level=float(row["LEVEL"]),
        area=float(row["AREA"]),
        to_detector=row["TODET"].astype(np.float64).reshape(2, 3),
        area_terms=row["ATERMS"].astype(np.float64),
    )


def _primary(f) -> fits.Header:
    raw = f.read(BLOCK)
    if not raw.startswith(b"SIMPLE") or checksum.datasum(raw) not in SEALED:
        raise ExposureError("its primary header is damaged")
    return fits.Header.fromstring(raw.decode("ascii"))


def _detectors(f, primary: fits.Header) -> np.ndarray:
    f.seek(int(primary["DETTABLE"]))
    raw = f.read()
    _require_sound(raw, "the table DETECTORS at its end")
    header, start = _header(raw, 0)
    if header["NAXIS1"] != TABLE.itemsize:
        raise ExposureError("its table DETECTORS is not of this version of kred")
    return np.frombuffer(raw, TABLE, header["NAXIS2"], start)


def _require_sound(raw: bytes, what: str) -> None:
    if not raw or len(raw) % BLOCK or checksum.datasum(raw) not in SEALED:
        raise ExposureError(f"{what} cannot be read: the bytes do not agree with CHECKSUM, or end too early")


def _header(raw: bytes, start: int) -> tuple[fits.Header, int]:
    """The header that begins here, and where its data do."""
    end = next(i for i in range(start, len(raw), 80) if raw[i : i + 80].rstrip() == b"END") + 80
    return fits.Header.fromstring(raw[start:end].decode("ascii")), start - (start - end) // BLOCK * BLOCK


def _image(raw: bytes, start: int) -> tuple[np.ndarray, int]:
    """The image whose HDU begins here, and where the next one does."""
    header, start = _header(raw, start)
    length = header["NAXIS1"] * header["NAXIS2"] + header["PCOUNT"]
    return rice.decode(header, raw[start : start + length]), start + -(-length // BLOCK) * BLOCK


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read; explain what is wrong with it."""
    try:
        with open(path, "rb") as f:
            yield f
    except (OSError, *DAMAGE) as e:
        if isinstance(e, FileNotFoundError):
            reason = "is missing"
        elif isinstance(e, OSError):
            reason = f"cannot be read ({e.strerror or e})"
        else:
            reason = f"cannot be used: {e}" if isinstance(e, ExposureError) else "is damaged"
        raise InputError(f"{path}: the file of binned maps {reason}; make it again with --from summarize --redo") from e
