"""Judge exposures: which can be used, which not, and why, in words.

`judge` looks at one file without decoding it: its structure and lengths, its
checksums, the keywords that the later stages need, the WCS of every detector.
`compare` looks at all exposures of a field together and finds the ones that
are there twice. Pixels are judged where they are decoded, in `summary`.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from astropy import units as u

from . import checksum, geometry
from .config import CheckConfig
from .errors import ExposureError
from .exposure import Detector, Exposure, number, text
from .products import FieldPaths
from .usertable import UserTable

__all__ = ["ExposureReport", "compare", "judge", "quality_rows", "zero_points"]

FAR_CORNER_ARCSEC = 5.0  # keywords are given to 1e-4 deg, and describe pixel centres or edges


@dataclass(frozen=True)
class ExposureReport:
    """What check found out about one exposure.

    Attributes
    ----------
    root, file : str
    filter : str
        Short name of the filter.
    exptime, magzero, seeing, mjd : float
        Exposure time in s, zero point in mag, FWHM in arcsec, start in days; NaN: unknown.
    target, obsid, version : str
        OBJECT, OBSID (or what stands in for it), PLVER.
    detectors : tuple of str
        EXTNAME of the detectors that can be used.
    n_detectors : int
        Detectors in the file, usable or not.
    refused : tuple of str
        Why the exposure cannot be used; empty if it can.
    remarks : tuple of str
        What a user should know; among them the detectors that cannot be used.
    """

    root: str
    file: str
    filter: str = ""
    exptime: float = math.nan
    magzero: float = math.nan
    seeing: float = math.nan
    mjd: float = math.nan
    target: str = ""
    obsid: str = ""
    version: str = ""
    detectors: tuple[str, ...] = ()
    n_detectors: int = 0
    refused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> str:
        """good, usable or refused."""
        return "refused" if self.refused else "usable" if self.remarks else "good"

    @classmethod
    def from_record(cls, record: Mapping) -> ExposureReport:
        """Back from the dictionary that `dataclasses.asdict` made."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()})


def zero_points(table: str) -> dict[str, float]:
    """A user's zero points: MAGZERO by Root, from a table with these two columns.

    Raises
    ------
    InputError
        The table cannot be read, lacks a column, or holds a value that is no magnitude.
    """
    if not table:
        return {}
    rows = UserTable("zero point", table, ("Root", "MAGZERO"))
    return dict(zip(rows.names("Root"), rows.numbers("MAGZERO", u.mag, 1, 60), strict=True))


def judge(path: Path, config: CheckConfig, points: Mapping[str, float]) -> ExposureReport:
    """Judge one exposure by its headers, lengths and checksums.

    Parameters
    ----------
    path : `~pathlib.Path`
        The MEF.
    config : `~kred_core.config.CheckConfig`
    points : mapping
        Zero points that a user gave, by Root.

    Returns
    -------
    ExposureReport
        Never raises for a bad file: the report says what is wrong.
    """
    root = FieldPaths.root_of(path)
    try:
        exposure = Exposure.open(path)
    except ExposureError as e:
        return ExposureReport(root, path.name, refused=(str(e),))
    primary = exposure.primary
    exptime, magzero = number(primary, "EXPTIME"), points.get(root, number(primary, "MAGZERO"))
    refused, remarks = [], []
    if not exposure.filter:
        refused.append("FILTER is missing in the primary header")
    if exptime is None or exptime <= 0:
        refused.append(f"EXPTIME in the primary header is {text(primary, 'EXPTIME') or 'missing'}; it must be a positive number")
    if magzero is None or not 0 < magzero < 60:
        refused.append(
            f"MAGZERO is {'missing' if magzero is None else magzero} in the primary header, so the counts cannot be calibrated; "
            "give it in a table with --check.zero-points"
        )
    elif root in points:
        remarks.append(f"MAGZERO {magzero:g} from the user's table")
    if text(primary, "WCSCAL").lower() == "failed":
        remarks.append("WCSCAL is Failed: the astrometry may be off")

    usable, faults = _judge_detectors(exposure, config)
    remarks += faults
    seeing, how = _seeing(exposure)
    remarks += [how] if how else []
    remarks += _corner_remarks([d for d in exposure.detectors if d.extname in usable])
    if not usable:
        refused.append("none of its detectors can be used")
    obsid = text(primary, "OBSID") or text(primary, "EXPNUM") or text(primary, "DATE-OBS")
    if not obsid:
        remarks.append("no OBSID, EXPNUM or DATE-OBS: a second processing of this exposure would not be noticed")
    return ExposureReport(
        root=root,
        file=path.name,
        filter=exposure.filter,
        exptime=math.nan if exptime is None else exptime,
        magzero=math.nan if magzero is None else magzero,
        seeing=seeing,
        mjd=math.nan if (mjd := number(primary, "MJD-OBS")) is None else mjd,
        target=text(primary, "OBJECT"),
        obsid=obsid,
        version=text(primary, "PLVER"),
        detectors=tuple(usable),
        n_detectors=len(exposure.detectors),
        refused=tuple(refused),
        remarks=tuple(remarks),
    )


def _judge_detectors(exposure: Exposure, config: CheckConfig) -> tuple[list[str], list[str]]:
    """Names of the usable detectors, and a sentence for each of the others."""
    usable: list[str] = []
    faults: list[str] = []
    shapes = Counter(d.shape for d in exposure.detectors)
    usual, count = shapes.most_common(1)[0]
    if count <= len(exposure.detectors) // 2:
        usual = None  # no shape is the usual one: cut-outs, each of its own size
    for d in exposure.detectors:
        fault = _fault(d, usual, usable, config)
        if fault:
            faults.append(f"detector {d.extname or f'[{d.hdu.index}]'} refused: {fault}")
        else:
            usable.append(d.extname)
        if not fault and config.verify_checksums and (remark := checksum.edited_header(d.hdu)):
            faults.append(f"detector {d.extname}: {remark}")
    return usable, faults


def _fault(d: Detector, usual: tuple[int, ...] | None, earlier: list[str], config: CheckConfig) -> str:
    """Why a detector cannot be used, or an empty text."""
    if not d.extname:
        return "it has no EXTNAME"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,31}", d.extname):
        return f"EXTNAME {d.extname!r} is no name of a detector"
    if d.extname in earlier:
        return "an earlier extension has the same EXTNAME"
    if len(d.shape) != 2 or min(d.shape) < 16:
        return f"expected a two-dimensional image, found the shape {d.shape}"
    if usual and d.shape != usual:
        return f"it has {_size(d.shape)} pixels, the other detectors have {_size(usual)}"
    if d.mask is not None and d.mask.shape != d.shape:
        return f"its mask has {_size(d.mask.shape)} pixels, the image {_size(d.shape)}"
    try:
        geometry.corners(geometry.celestial_wcs(d.header), d.shape)
    except ExposureError as e:
        return str(e)
    if config.verify_checksums:
        for hdu in (d.hdu, d.mask):
            if hdu is not None and (damage := checksum.damage(hdu)):
                return damage
    return ""


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in reversed(shape))


def _seeing(exposure: Exposure) -> tuple[float, str]:
    """FWHM of stars in arcsec, and a remark where it is not the primary header's SEEING."""
    seeing = number(exposure.primary, "SEEING")
    if seeing is not None and seeing > 0:
        return seeing, ""
    values = []
    for d in exposure.detectors:
        fwhm = number(d.header, "FWHM")
        if fwhm is None or fwhm <= 0:
            continue
        try:
            values.append(fwhm * geometry.pixel_scale(geometry.celestial_wcs(d.header), d.shape))
        except ExposureError:
            continue
    if values:
        return round(statistics.median(values), 4), ""  # every file of the Community Pipeline lacks SEEING: nothing to remark on
    return math.nan, "SEEING and FWHM are missing: the seeing is unknown"


def _corner_remarks(detectors: list[Detector]) -> list[str]:
    """Corner keywords are never used; where they are wrong the file has been cut or moved, which people should know."""
    missing, wrong = [], []
    for d in detectors:
        stated = [(number(d.header, f"COR{i}RA1"), number(d.header, f"COR{i}DEC1")) for i in (1, 2, 3, 4)]
        if any(v is None for pair in stated for v in pair):
            missing.append(d.extname)
            continue
        true = geometry.corners(geometry.celestial_wcs(d.header), d.shape)
        ra, dec = np.array(stated, float).T
        away = 3600 * np.hypot(((ra - true[:, 0] + 180) % 360 - 180) * np.cos(np.radians(true[:, 1])), dec - true[:, 1])
        if away.max() > FAR_CORNER_ARCSEC:
            wrong.append(d.extname)
    remarks = []
    if missing:
        remarks.append(f"corner keywords missing ({_list(missing)}): corners from the WCS")
    if wrong:
        remarks.append(f"corner keywords do not describe the pixels ({_list(wrong)}): corners from the WCS")
    return remarks


def _list(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{len(names)} detectors"


def _preference(report: ExposureReport) -> tuple:
    """The processing to prefer of two: usable, with more detectors, by the newer pipeline, then by name."""
    version = tuple(int(n) for n in re.findall(r"\d+", report.version))
    return bool(report.refused), -len(report.detectors), tuple(-n for n in version), report.root


def compare(reports: Iterable[ExposureReport]) -> list[ExposureReport]:
    """Find exposures that are there twice, by name and by observation and detector.

    Parameters
    ----------
    reports : iterable of ExposureReport
        All exposures of a field, in any order.

    Returns
    -------
    list of ExposureReport
        Sorted by Root and file. Of two processings of one exposure, the
        usable one with more detectors, then the one by the newer pipeline
        stays; detectors that it has are taken from the other, which is
        refused when none is left.
    """
    owner: dict[tuple[str, str], str] = {}
    by_name: dict[str, str] = {}
    by_obsid: dict[str, str] = {}
    result = []
    for report in sorted(reports, key=lambda r: (_preference(r), r.file)):
        first = by_name.setdefault(report.root, report.file)
        if first != report.file:
            result.append(replace(report, detectors=(), refused=(*report.refused, f"duplicate: the same exposure as {first}")))
            continue
        if report.obsid:
            chosen = by_obsid.setdefault(report.obsid, report.root)
            taken = [e for e in report.detectors if owner.setdefault((report.obsid, e), report.root) != report.root]
            if chosen != report.root and (taken or report.refused):
                report = _without(report, taken, chosen)
        result.append(report)
    return sorted(result, key=lambda r: (r.root, r.file))


def _without(report: ExposureReport, taken: list[str], chosen: str) -> ExposureReport:
    left = tuple(e for e in report.detectors if e not in taken)
    duplicate = f"duplicate: another processing of the exposure {chosen} (OBSID {report.obsid})"
    if report.refused or not left:
        return replace(report, detectors=left, refused=(*report.refused, duplicate))
    return replace(report, detectors=left, remarks=(*report.remarks, f"{duplicate}; {_list(taken)} taken from there"))


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
