"""Find exposures that are there twice, so that the photons of each enter a mosaic once.

Two files are of one exposure where their OBSIDs are equal; or their EXPNUMs, or their MJD-OBSs if these are exact, and they
show the same sky with the same filter and exposure time. Keys can be wrong, and the pixels tell then: a detector whose stored
data sum up to what those of the same detector in another exposure do is the same one under another name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..products.roles import named_kind
from .check import ExposureReport, listed

__all__ = ["compare"]

SAME_START = 1e-4  # d, 9 s; MJD-OBS may be rounded, and between two exposures a camera reads out for longer
EXACT = 5  # decimals of an MJD-OBS by which an exposure is known: 0.9 s
SAME_SKY = 0.05  # deg; astrometric solutions differ by less, dithers by more


def compare(reports: Iterable[ExposureReport]) -> list[ExposureReport]:
    """Find exposures of a field that are there twice, by name, by observation and detector, and by their data.

    Returns
    -------
    list of ExposureReport
        Sorted by Root and file. Of two processings of one exposure, the usable one by the newer pipeline, then the one with more
        detectors stays; detectors that it has are taken from the other, which is refused when none is left.
    """
    ordered = sorted(reports, key=lambda r: (_preference(r), r.file))
    exposures = _exposures(ordered)
    by_name: dict[str, ExposureReport] = {}
    preferred: dict[int, ExposureReport] = {}  # of each exposure
    owner: dict[tuple[int, str], str] = {}  # root by exposure and detector
    of_data: dict[tuple[str, str], str] = {}  # root by detector and sum
    result = []
    for report, exposure in zip(ordered, exposures, strict=True):
        namesake = by_name.setdefault(report.root, report)
        if namesake is not report:
            result.append(replace(report, detectors=(), taken=report.extnames).refuse(_same_name(report, namesake)))
            continue
        chosen = preferred.setdefault(exposure, report)
        taken = [e for e in report.extnames if owner.setdefault((exposure, e), report.root) != report.root]
        alike: dict[str, list[str]] = {}
        for extname, total in report.sums:
            root = of_data.setdefault((extname, total), report.root)
            if root != report.root and extname in report.extnames and extname not in taken:
                alike.setdefault(root, []).append(extname)
        if chosen is not report and (taken or not report.detectors):
            report = _without(report, taken, f"another processing of the exposure {chosen.root} ({_key(report, chosen)})")
        for root, names in alike.items():
            report = _without(report, names, f"the same data as in {root}")
        result.append(report)
    return sorted(result, key=lambda r: (r.root, r.file))


def _preference(report: ExposureReport) -> tuple:
    """The processing to prefer of two: usable, by the newer pipeline, with more detectors, with the archive's name, by name."""
    numbers = re.findall(r"(\d+)([a-z]?)", report.version.lower())  # V4.8.2a comes after V4.8.2, that after V4.8
    version = [(-int(n), -ord(letter) if letter else 0) for n, letter in numbers]
    foreign = named_kind(report.file) != "image"
    return bool(report.refused), [*version, (0, 0)], -len(report.detectors), foreign, report.root


def _exposures(reports: list[ExposureReport]) -> list[int]:
    """A number for each report, the same for all of one exposure."""
    exposure = list(range(len(reports)))

    def find(i: int) -> int:
        while exposure[i] != i:
            exposure[i] = exposure[exposure[i]]
            i = exposure[i]
        return i

    by_key: dict[tuple[str, object], list[int]] = {}
    for i, report in enumerate(reports):
        for key in _keys(report):
            near = by_key.setdefault(key, [])
            # Those that were found to be one exposure with another need not be compared again.
            for j in near:
                if find(j) != find(i) and _same(report, reports[j]):
                    exposure[find(i)] = find(j)
            near.append(i)
    return [find(i) for i in range(len(reports))]


def _keys(report: ExposureReport) -> Iterator[tuple[str, object]]:
    if report.obsid:
        yield "OBSID", report.obsid
    if report.expnum:
        yield "EXPNUM", report.expnum
    if len(repr(report.mjd).partition(".")[2]) >= EXACT:
        yield "MJD-OBS", report.mjd


def _same(a: ExposureReport, b: ExposureReport) -> bool:
    """Whether two files that share a key are of one exposure."""
    apart = abs(a.mjd - b.mjd) > SAME_START  # False where one of them is not known
    differ = bool(a.expnum and b.expnum and a.expnum != b.expnum)
    if a.obsid and a.obsid == b.obsid != a.expnum:
        return not (apart and differ)  # otherwise somebody copied a header
    return not apart and not differ and _same_sky(a, b)


def _same_sky(a: ExposureReport, b: ExposureReport) -> bool:
    """Whether two exposures have the same filter and exposure time, and a detector of the same name at the same place."""
    places = {d.extname: d.centre for d in a.detectors}
    pairs = [(places[d.extname], d.centre) for d in b.detectors if d.extname in places]
    if not pairs or a.filter != b.filter or not math.isclose(a.exptime, b.exptime, rel_tol=0.01):
        return False
    (ra, dec), (other_ra, other_dec) = pairs[0]
    east = ((ra - other_ra + 180) % 360 - 180) * math.cos(math.radians(dec))
    return math.hypot(east, dec - other_dec) < SAME_SKY


def _same_name(report: ExposureReport, namesake: ExposureReport) -> str:
    if report.obsid and namesake.obsid and not any(map(set(_keys(report)).__contains__, _keys(namesake))):
        return f"its name is that of {namesake.file}, which is another exposure; give it another"
    return f"duplicate: the same exposure as {namesake.file}"


def _key(report: ExposureReport, other: ExposureReport) -> str:
    """By what two reports are known to be of one exposure, for people."""
    if report.obsid and report.obsid == other.obsid:
        return f"OBSID {report.obsid}"
    return f"EXPNUM {report.expnum}" if report.expnum and report.expnum == other.expnum else f"MJD-OBS {report.mjd}"


def _without(report: ExposureReport, taken: list[str], reason: str) -> ExposureReport:
    left = tuple(d for d in report.detectors if d.extname not in taken)
    report = replace(report, detectors=left, taken=(*report.taken, *taken))
    if report.refused or not left:
        return report.refuse(f"duplicate: {reason}")
    names = [d.extname for d in left]
    return report.remark(f"duplicate: {reason}; {listed(taken)} taken from there, only {listed(names)} from here")
