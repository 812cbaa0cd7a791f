"""The tables that people read: their columns with type, unit and meaning, and how they are stored.

ECSV keeps units, types and descriptions inside the file. Nothing that changes from run to run (dates, paths) enters, so the same
input gives the same bytes and a table that did not change keeps its time of modification.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Column as AstropyColumn
from astropy.table import Table
from numpy.typing import ArrayLike

from ..errors import InputError
from . import atomic, identity

__all__ = [
    "BACKGROUNDS",
    "DETECTORS",
    "EXPOSURES",
    "INPUT",
    "MATCHING",
    "OVERLAPS",
    "QUALITY",
    "TILE",
    "Column",
    "concatenate",
    "from_arrays",
    "make",
    "read",
    "write",
]


LARGEST_KEPT = 4_000_000  # bytes of a file; larger tables are not kept in memory


@dataclass(frozen=True)
class Column:
    """Name, type, unit and meaning of one column."""

    name: str
    type: type
    unit: str
    description: str


QUALITY = (
    Column("Root", str, "", "Exposure: file name without .fits.fz"),
    Column("File", str, "", "File name"),
    Column("Verdict", str, "", "good, usable (see Reasons) or refused (see Reasons)"),
    Column("FILTER", str, "", "Short name of the filter"),
    Column("EXPTIME", float, "s", "Exposure time; NaN: unknown"),
    Column("OBSID", str, "", "Observation"),
    Column("N_det", int, "", "Detectors in the file"),
    Column("N_used", int, "", "Detectors that can be used"),
    Column("Reasons", str, "", "Remarks, or why the exposure or some of its detectors are refused"),
)

INPUT = (
    Column("Root", str, "", "Exposure: file name without .fits.fz"),
    Column("EXTNAME", str, "", "Detector; with the number of its extension where the name alone would not tell; empty: none known"),
    Column("Fate", str, "", "used, left out (see Reason), refused (see Reason), or usable: nothing was chosen yet"),
    Column("Image", str, "", "Images that it was used for"),
    Column("Tiles", str, "", "Tiles that it was used for"),
    Column("Reason", str, "", "Why it was left out or refused"),
    Column("File", str, "", "File name"),
)

EXPOSURES = (
    Column("Root", str, "", "Exposure: file name without .fits.fz"),
    Column("File", str, "", "File name"),
    Column("OBJECT", str, "", "Target"),
    Column("FILTER", str, "", "Short name of the filter"),
    Column("EXPTIME", float, "s", "Exposure time"),
    Column("MAGZERO", float, "mag", "Zero point: magnitude of 1 ADU"),
    Column("XFACTOR", float, "", "counts28 = ADU x XFACTOR"),
    Column("SEEING", float, "arcsec", "FWHM of stars; NaN: unknown"),
    Column("OBSID", str, "", "Observation"),
    Column("MJD-OBS", float, "d", "Start of the exposure; NaN: unknown"),
    Column("N_det", int, "", "Detectors that can be used"),
    Column("Image", str, "", "Images that the exposure goes into; empty: none"),
    Column("Field", str, "", "Field"),
)

_CORNERS = tuple(
    Column(f"COR{i}{axis}1", float, "deg", f"Centre of pixel {pixel}")
    for i, pixel in enumerate(("(1,1)", "(NAXIS1,1)", "(1,NAXIS2)", "(NAXIS1,NAXIS2)"), 1)
    for axis in ("RA", "DEC")
)

_FOOTPRINT = (
    Column("CENRA1", float, "deg", "Centre of the detector"),
    Column("CENDEC1", float, "deg", "Centre of the detector"),
    *_CORNERS,
    Column("NAXIS1", int, "pix", "Pixels along x"),
    Column("NAXIS2", int, "pix", "Pixels along y"),
    Column("PixScale", float, "arcsec", "Pixel size at the centre"),
)

DETECTORS = (
    Column("Root", str, "", "Exposure"),
    Column("EXTNAME", str, "", "Detector"),
    *_FOOTPRINT,
    Column("Npix", int, "pix", "Good pixels"),
    Column("Mean", np.float32, "adu", "Mean of the good pixels"),
    Column("Med", np.float32, "adu", "Median of the good pixels"),
    Column("STD", np.float32, "adu", "Standard deviation of the good pixels"),
    Column("Mode", np.float32, "adu", "Half-sample mode of the good pixels"),
    Column("HistMode", np.float32, "adu", "Histogram mode of the good pixels"),
    Column("e_HistMode", np.float32, "adu", "Standard error of HistMode"),
    Column("Noise", np.float32, "adu", "Noise of a pixel, from differences of neighbours"),
    Column("Field", str, "", "Field"),
)

TILE = (
    Column("Image", str, "", "Image that this detector goes into"),
    Column("Field", str, "", "Field of the exposure"),
    Column("Root", str, "", "Exposure"),
    Column("EXTNAME", str, "", "Detector"),
    Column("File", str, "", "File name"),
    Column("FILTER", str, "", "Short name of the filter"),
    Column("EXPTIME", float, "s", "Exposure time"),
    Column("SEEING", float, "arcsec", "FWHM of stars; NaN: unknown"),
    Column("OBSID", str, "", "Observation"),
    Column("XFACTOR", float, "", "counts28 = ADU x XFACTOR - SUB_BACK"),
    Column("SUB_BACK", float, "", "Background of the exposure in counts28"),
    Column("Noise", np.float32, "adu", "Noise of a pixel, from differences of neighbours"),
    *_FOOTPRINT,
)

_C28 = "counts28/pix"

OVERLAPS = (
    Column("Image", str, "", "Image in which the two are compared"),
    Column("File1", str, "", "First detector: <Root>_<EXTNAME>"),
    Column("File2", str, "", "Second detector"),
    Column("Sep", np.float32, "arcsec", "Distance of the detectors' centres"),
    Column("Ncells", int, "", "Good cells in common"),
    Column("Npix", int, "pix", "The same area in native pixels"),
    Column("Delta", np.float32, _C28, "raw x XFACTOR, second minus first where both see the same sky: histogram mode"),
    Column("e_Delta", np.float32, _C28, "Its standard error"),
    Column("Before", np.float32, _C28, "Difference that is left after subtracting the exposures' backgrounds (SUB_BACK)"),
    Column("After", np.float32, _C28, "Difference that is left after subtracting the matched backgrounds"),
    Column("Weight", np.float32, "", "Weight in the robust solution: 1 for a pair that agrees, 0 for one that is not used"),
    Column("Rejected", bool, "", "The pair contradicts the solution; see Weight"),
    Column("Mode", np.float32, _C28, "Half-sample mode of the difference; this and all below in the way of Delta"),
    Column("Mean", np.float32, _C28, "Mean"),
    Column("Med", np.float32, _C28, "Median"),
    Column("STD", np.float32, _C28, "Standard deviation"),
    Column("Skew", np.float32, "", "Skewness"),
    Column("Kurt", np.float32, "", "Kurtosis; 0 for a normal distribution"),
    Column("ClipMean", np.float32, _C28, "Mean, clipped at 3 sigma"),
    Column("ClipMed", np.float32, _C28, "Median, clipped at 3 sigma"),
    Column("ClipSTD", np.float32, _C28, "Standard deviation, clipped at 3 sigma"),
    *(Column(f"Block{k}", np.float32, _C28, f"Delta in part {k} of 4; NaN: too few cells") for k in (1, 2, 3, 4)),
)

BACKGROUNDS = (
    Column("file", str, "", "Detector: <Root>_<EXTNAME>"),
    Column("Field", str, "", "Field of the exposure"),
    Column("Root", str, "", "Exposure"),
    Column("EXTNAME", str, "", "Detector"),
    Column("Image", str, "", "Image in which this background holds"),
    Column("b", float, _C28, "Background at the detector's centre: matched image = raw x XFACTOR - b"),
    Column("b_err", np.float32, _C28, "Standard error, but for a constant (with planes, a plane) common to a component; NaN: none"),
    Column("component", int, "", "Detectors that overlaps connect have the same number, from 1"),
    Column("n_pairs", int, "", "Overlaps with other detectors that were used"),
    Column("n_rejected", int, "", "Overlaps that contradict the solution"),
    Column("own", float, _C28, "The detector's own sky level, raw x XFACTOR (histogram mode)"),
    Column("SUB_BACK", float, _C28, "Background of the exposure"),
    Column("grad_x", float, "counts28/pix2", "Slope of the background along NAXIS1, per native pixel"),
    Column("grad_y", float, "counts28/pix2", "Slope of the background along NAXIS2"),
    Column("step", float, _C28, "Background of the upper half of the columns minus that of the lower half; b is their mean"),
    Column("Remark", str, "", "What is special: isolated, fixed by the user, contradicts its neighbours, ..."),
)

MATCHING = (
    Column("Image", str, "", "Image"),
    Column("Method", str, "", "How the backgrounds were found"),
    Column("N_det", int, "", "Detectors"),
    Column("N_pairs", int, "", "Measured overlaps"),
    Column("N_reject", int, "", "Overlaps that contradict the solution"),
    Column("N_comp", int, "", "Connected components of two detectors or more"),
    Column("N_alone", int, "", "Detectors without any usable overlap: these keep their own sky level"),
    Column("N_fixed", int, "", "Detectors whose background the user gave"),
    Column("Before", np.float32, _C28, "1.4826 x median |difference| of the overlaps, exposures' backgrounds subtracted"),
    Column("After", np.float32, _C28, "The same, matched backgrounds subtracted"),
    Column("rms_bef", np.float32, _C28, "rms of the differences before"),
    Column("rms_aft", np.float32, _C28, "rms of the differences after, rejected ones left out"),
    Column("b_err", np.float32, _C28, "Median standard error of a background"),
    Column("Scale", np.float32, "", "1.4826 x median |residual| / standard error: near 1 where the errors are right"),
    Column("Jump_bef", np.float32, _C28, "99th percentile of |difference| of adjacent blocks of the quick look, before"),
    Column("Jump_aft", np.float32, _C28, "The same, after; nebulae count in both"),
    Column("Seam_off", np.float32, _C28, "The same of the quick look before minus that after: the seams that were removed"),
    Column("Remark", str, "", "What was special, and what was done about it"),
)


def make(rows: Iterable[Mapping[str, Any]], columns: Iterable[Column]) -> Table:
    """A table with the given columns from rows that have at least their names as keys."""
    rows, columns = list(rows), list(columns)
    return from_arrays({c.name: [row[c.name] for row in rows] for c in columns}, columns)


def from_arrays(values: Mapping[str, ArrayLike], columns: Iterable[Column]) -> Table:
    """A table with the given columns from one array for each."""
    table = Table()
    for c in columns:
        data = np.asarray(values[c.name])
        data = data.astype(c.type) if data.size else np.empty(0, dtype="U1" if c.type is str else c.type)
        table[c.name] = AstropyColumn(data, unit=c.unit or None, description=c.description)
    return table


def write(table: Table, path: Path, title: str) -> None:
    """Store a table as ECSV; a file with the same content keeps its time of modification."""
    table.meta = {"description": title}
    with atomic(path, keep_same=True) as temporary:
        table.write(temporary, format="ascii.ecsv", overwrite=True)


def concatenate(parts: Sequence[Path], path: Path) -> None:
    """Put tables that `write` stored, all with the same columns and title, one behind the other."""
    lines: list[str] = []
    for part in parts:
        text = part.read_text(encoding="utf-8").splitlines(keepends=True)
        n_header = sum(line.startswith("#") for line in text) + 1  # and the line of names
        lines += text[n_header if lines else 0 :]
    with atomic(path, keep_same=True) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def read(path: Path, columns: Iterable[Column], made_by: str) -> Table:
    """Read a table that an earlier stage wrote; what is missing or unreadable in it is an InputError that names the stage."""
    columns = tuple(columns)
    try:
        known = identity(path.absolute())
        table = _read(*known, columns).copy() if known[1] <= LARGEST_KEPT else _read.__wrapped__(*known, columns)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run the stage '{made_by}' first (--from {made_by})") from None
    except Exception as e:  # astropy's readers raise whatever the damage leads to
        reason = textwrap.shorten(f"{type(e).__name__}: {e}", 200)
        raise InputError(f"{path} cannot be read ({reason}); delete it and run the stage '{made_by}' again") from e
    missing = [c.name for c in columns if c.name not in table.colnames]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; delete it and run the stage '{made_by}' again")
    return table


@lru_cache(maxsize=32)
def _read(path: str, size: int, time_ns: int, columns: tuple[Column, ...]) -> Table:
    """A table as it is since it has this size and time of modification: a run reads the tables of its tiles six times."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = Table.read(path, format="ascii.ecsv")
    for c in columns:
        if c.name not in table.colnames:
            continue
        if c.type is str:  # blank texts come back masked
            texts = np.array(["" if v is np.ma.masked else str(v) for v in table[c.name]], dtype=str)
            table[c.name] = AstropyColumn(texts, description=c.description)
        elif hasattr(table[c.name], "filled"):
            table[c.name] = table[c.name].filled(np.nan if c.type is not int else 0)
    return table
