"""Judge exposures: which can be used, which not, and why, in words.

`judge` looks at one file without decoding it: its structure and lengths, its checksums, the keywords that the later stages need; at
every detector (`detectors`). `duplicates` looks at all exposures of a field together. Pixels are judged where they are decoded, in
`summary`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u

from ..config import CheckConfig
from ..errors import ExposureError, is_transient
from ..fits import checksum
from ..fits.hdu import number, text
from ..products import FieldPaths, identity
from ..products.roles import Keys, mask_of
from ..products.usertable import UserTable
from .detectors import DetectorPlace, judge_detectors
from .exposure import Detector, Exposure, start_mjd

__all__ = ["DetectorPlace", "ExposureReport", "files_of", "judge", "listed", "quality_rows", "zero_points"]

FAR_CORNER_ARCSEC = 5.0  # keywords are given to 1e-4 deg, and describe pixel centres or edges
LARGEST_SEEING = 60.0  # arcsec; nobody calls that seeing


@dataclass(frozen=True)
class ExposureReport:
    """What check found out about one exposure."""

    root: str
    file: str
    filter: str = ""  # short name
    exptime: float = math.nan  # s; NaN here and below: unknown
    magzero: float = math.nan  # mag
    seeing: float = math.nan  # FWHM in arcsec
    mjd: float = math.nan  # start in days
    target: str = ""  # OBJECT
    obsid: str = ""  # or what stands in for it
    expnum: str = ""
    version: str = ""  # PLVER
    detectors: tuple[DetectorPlace, ...] = ()  # those that can be used
    n_detectors: int = 0  # in the file, usable or not
    refused: tuple[str, ...] = ()  # why the exposure cannot be used; empty if it can
    remarks: tuple[str, ...] = ()  # what a user should know; among them the detectors that cannot be used
    # The detectors that cannot be used, by EXTNAME, with the number of the extension where that would not tell, and the reason.
    lost: tuple[tuple[str, str], ...] = ()
    taken: tuple[str, ...] = ()  # the detectors that are taken from another processing of the exposure
    # By EXTNAME of the usable detectors whose data can be told by it: what they sum up to as they are stored, and their bytes.
    sums: tuple[tuple[str, str], ...] = ()
    read: tuple[tuple[str, int, int], ...] = ()  # exposure and mask as they were judged: name, size in bytes, mtime in ns

    @property
    def verdict(self) -> str:
        """good, usable or refused."""
        return "refused" if self.refused else "usable" if self.remarks else "good"

    def refuse(self, reason: str) -> ExposureReport:
        """Return the same report with one more reason not to use the exposure."""
        return replace(self, refused=(*self.refused, reason))

    def remark(self, remark: str) -> ExposureReport:
        """Return the same report with one more remark."""
        return replace(self, remarks=(*self.remarks, remark))

    def lose(self, name: str, reason: str) -> ExposureReport:
        """Return the same report with one detector that cannot be used."""
        left = tuple(d for d in self.detectors if d.extname != name)
        return replace(self.remark(f"detector {name} refused: {reason}"), detectors=left, lost=(*self.lost, (name, reason)))

    @classmethod
    def from_record(cls, record: Mapping) -> ExposureReport:
        """Back from the dictionary that `dataclasses.asdict` made, by way of JSON."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        places = tuple(
            DetectorPlace(**{**d, "centre": tuple(d["centre"]), "corners": tuple(map(tuple, d["corners"]))})
            for d in record["detectors"]
        )
        values |= {name: tuple(map(tuple, record[name])) for name in ("lost", "sums", "read")}
        return cls(**values | {"detectors": places})

    @property
    def n_pixels(self) -> int:
        """Pixels of the detectors that can be used."""
        return sum(d.naxis1 * d.naxis2 for d in self.detectors)

    @property
    def extnames(self) -> tuple[str, ...]:
        """Names of the detectors that can be used."""
        return tuple(d.extname for d in self.detectors)


def zero_points(table: str) -> dict[str, float]:
    """Return a user's zero points, MAGZERO by Root, from a table with these two columns; NaN where the cell is empty.

    File names are as good as Roots. What is wrong in the table is an InputError.
    """
    if not table:
        return {}
    rows = UserTable("zero point", table, ("Root", "MAGZERO"), "MAGZERO")
    points: dict[str, float] = {}
    for i, (name, value) in enumerate(zip(rows.names("Root"), rows.numbers("MAGZERO", u.mag, 1, 60), strict=True)):
        root = FieldPaths.root_of(Path(name))
        if math.isnan(points.get(root, math.nan)):
            points[root] = value
        elif not math.isnan(value) and points[root] != value:
            raise rows.fault(i, "MAGZERO", value, f"one zero point for {root}; an earlier row has {points[root]:g}")
    return points


def files_of(path: Path) -> tuple[tuple[str, int, int], ...]:
    """An exposure and its mask as they are now: see `ExposureReport`; none where the exposure has vanished."""
    try:
        return tuple((p.name, *identity(p)[1:]) for p in (path, FieldPaths.mask_of(path)) if p)
    except OSError:
        return ()


def judge(path: Path, config: CheckConfig, points: Mapping[str, float]) -> ExposureReport:
    """Judge one exposure by its headers, lengths and checksums; a user may give zero points by Root.

    Raises
    ------
    ExposureError
        The file cannot be read for a reason that says nothing of it: permissions, a file server.
    """
    root, read = FieldPaths.root_of(path), files_of(path)
    if not FieldPaths.has_plain_name(path):
        name = FieldPaths.shown(path)
        return ExposureReport(FieldPaths.root_of(Path(name)), name, refused=("its file name has odd characters; give it another",))
    try:
        exposure = Exposure.open(path)
    except ExposureError as e:
        if is_transient(e):
            raise
        return ExposureReport(root, path.name, refused=(str(e),), read=read)
    primary = exposure.primary
    exptime, magzero = number(primary, "EXPTIME"), number(primary, "MAGZERO")
    given = points.get(root, math.nan)
    replaced = not math.isnan(given) and given != magzero
    magzero = given if replaced else magzero
    refused, remarks = [], []
    if not exposure.filter:
        refused.append("FILTER is missing in the primary header")
    if exptime is None or exptime <= 0:
        refused.append(f"EXPTIME in the primary header is {text(primary, 'EXPTIME') or 'missing'}; it must be a positive number")
    if magzero is None or not 0 < magzero < 60:
        value = "missing" if magzero is None else magzero
        way_out = "its row in the table of" if root in points else "give it in a table with"
        empty = " is empty" if root in points else ""
        refused.append(
            f"MAGZERO is {value} in the primary header, so the counts cannot be calibrated; {way_out} --check.zero-points{empty}"
        )
    elif replaced:
        remarks.append(f"MAGZERO {magzero:g} from the user's table")
    if text(primary, "WCSCAL").lower() == "failed":
        remarks.append("WCSCAL Failed")

    remarks += _file_remarks(exposure, config)
    places, lost, edited = judge_detectors(exposure, config)
    remarks += [f"detector {name} refused: {why}" for name, why in lost] + edited
    usable = [d for d in exposure.detectors if any(d.extname == p.extname for p in places)]
    seeing = _seeing(exposure, places)
    if math.isnan(seeing):
        remarks.append("SEEING and FWHM are missing or absurd: the seeing is unknown")
    remarks += _corner_remarks(usable, places)
    mask, remark = mask_of(path)
    if remark:
        remarks.append(remark)
    bare = [d.extname for d in usable if d.mask is None]
    if mask and bare:
        remarks.append(f"{mask.name} has no mask for {listed(bare)}")
    if mask and any(d.mask and not d.mask_format.known for d in usable):
        remarks.append(f"neither {mask.name} nor the exposure has a PLVER: whether the mask is bits is decided from its values")
    if not places:
        refused.append("none of its detectors can be used")
    keys = Keys.of(primary)
    obsid = keys.obsid or keys.expnum or keys.date
    if not obsid:
        remarks.append("no OBSID, EXPNUM or DATE-OBS: a second processing of this exposure would not be noticed")
    return ExposureReport(
        root=root,
        file=path.name,
        filter=exposure.filter,
        exptime=math.nan if exptime is None else exptime,
        magzero=math.nan if magzero is None else magzero,
        seeing=seeing,
        mjd=math.nan if (mjd := start_mjd(primary)) is None else mjd,
        target=text(primary, "OBJECT"),
        obsid=obsid,
        expnum=keys.expnum,
        version=text(primary, "PLVER"),
        detectors=tuple(places),
        n_detectors=len(exposure.detectors),
        refused=tuple(refused),
        remarks=tuple(remarks),
        lost=tuple(lost),
        sums=tuple(_sums(usable, config)),
        read=read,
    )


def _sums(detectors: Iterable[Detector], config: CheckConfig) -> Iterator[tuple[str, str]]:
    """What tells the data of one detector from those of another without decoding them."""
    for d in detectors:
        total = checksum.data_sum(d.hdu, config.verify_checksums)
        if total and d.hdu.data_length * 8 > math.prod(d.shape):  # noise takes more than a bit per pixel; the others are empty
            yield d.extname, f"{total}:{d.hdu.data_length}"


def _file_remarks(exposure: Exposure, config: CheckConfig) -> list[str]:
    """What may be missing in the file, what of it is not used, and whether its primary header was edited."""
    primary, *extensions = exposure.hdus
    remarks = []
    promised = number(exposure.primary, "NEXTEND")
    if promised is not None and promised > len(extensions):
        remarks.append(f"NEXTEND promises {promised:g} extensions, the file has {len(extensions)}")
    tables = [f"{h.extname}[{h.index}]" for h in extensions if not h.is_image]
    if tables:
        remarks.append(f"not used, because no images: {listed(tables, 'extensions')}")
    if primary.shape:
        remarks.append("the image in its primary HDU is not used: detectors are in extensions")
    edited = checksum.edited_header(primary) if config.verify_checksums else None
    return [*remarks, f"primary header: {edited}"] if edited else remarks


def _seeing(exposure: Exposure, places: Iterable[DetectorPlace]) -> float:
    """FWHM of stars in arcsec: SEEING, or the median FWHM of the detectors, which every file of the Community Pipeline has."""
    seeing = number(exposure.primary, "SEEING")
    if seeing is not None and 0 < seeing < LARGEST_SEEING:
        return seeing
    scales = {p.extname: p.pixel_scale for p in places}
    fwhm = [(number(d.header, "FWHM"), scales.get(d.extname)) for d in exposure.detectors]
    values = [pixels * scale for pixels, scale in fwhm if pixels and scale and 0 < pixels * scale < LARGEST_SEEING]
    return round(statistics.median(values), 4) if values else math.nan


def _corner_remarks(detectors: list[Detector], places: list[DetectorPlace]) -> list[str]:
    """Corner keywords are never used; where they are wrong the file has been cut or moved, which people should know."""
    missing, wrong = [], []
    for d, place in zip(detectors, places, strict=True):
        stated = [(number(d.header, f"COR{i}RA1"), number(d.header, f"COR{i}DEC1")) for i in (1, 2, 3, 4)]
        if any(v is None for pair in stated for v in pair):
            missing.append(d.extname)
            continue
        true_ra, true_dec = np.array(place.corners).T
        ra, dec = np.array(stated, float).T
        with np.errstate(over="ignore"):  # of absurd ones
            away = 3600 * np.hypot(((ra - true_ra + 180) % 360 - 180) * np.cos(np.radians(true_dec)), dec - true_dec)
        if away.max() > FAR_CORNER_ARCSEC:
            wrong.append(d.extname)
    return [
        f"{how} corner keywords" + (f" ({listed(names)})" if len(names) < len(detectors) else "")
        for how, names in (("no", missing), ("wrong", wrong))
        if names
    ]


def listed(names: list[str], what: str = "detectors") -> str:
    """The names of a few, or how many they are."""
    return ", ".join(names) if len(names) <= 6 else f"{len(names)} {what}"


def quality_rows(reports: Iterable[ExposureReport]) -> list[dict]:
    """Rows of the quality table."""
    return [
        {
            "Root": r.root,
            "File": r.file,
            "Verdict": r.verdict,
            "FILTER": r.filter,
            "EXPTIME": r.exptime,
            "OBSID": r.obsid,
            "N_det": r.n_detectors,
            "N_used": 0 if r.refused else len(r.detectors),
            "Reasons": "; ".join((*r.refused, *r.remarks)),
        }
        for r in reports
    ]
