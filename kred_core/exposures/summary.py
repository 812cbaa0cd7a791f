"""One pass over an exposure: every detector is decoded once, measured and averaged onto the survey's grid.

`summarize` measures the detectors of one exposure, makes their binned maps, and finds what only pixels can show (all NaN, constant,
nothing unmasked). `exposure_rows` and `detector_rows` put the results of all exposures of a field into tables for the later stages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from .. import binned, statistics
from ..binned import BinnedGrid, BinnedMap
from ..config import SummarizeConfig
from ..errors import ExposureError, is_transient
from ..sky import celestial_wcs
from ..survey import ImageTable
from . import masks
from .check import ExposureReport
from .detectors import judge_levels
from .exposure import Detector, Exposure
from .masks import PixelRule
from .rescale import factor

__all__ = [
    "DetectorSummary",
    "ExposureSummary",
    "bin_exposure",
    "combine",
    "detector_rows",
    "exposure_rows",
    "place_rows",
    "summarize",
]

log = logging.getLogger(__name__)

DEFAULT_RULE = PixelRule()
FEW_PIXELS = 100  # fewer good pixels say nothing about a sky level


@dataclass(frozen=True)
class DetectorSummary:
    """Statistics of one detector in ADU (`kred_core.statistics.statistics`), and the noise of a pixel (`pixel_noise` there)."""

    extname: str
    n_pixels: int  # good ones: finite and unmasked
    mean: float
    median: float
    std: float
    mode: float
    histogram_mode: float
    histogram_mode_error: float
    noise: float


@dataclass(frozen=True)
class ExposureSummary:
    """Measured detectors of one exposure, why the others were refused, and what a user should know of those that were not."""

    root: str
    detectors: tuple[DetectorSummary, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def to_record(self) -> dict:
        """Return it as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping) -> ExposureSummary:
        """Return what `to_record` has told."""
        detectors = tuple(DetectorSummary(**d) for d in record["detectors"])
        return cls(record["root"], detectors, dict(record["refused"]), tuple(record.get("remarks", ())))


def summarize(
    path: Path, extnames: Iterable[str], config: SummarizeConfig, grid: BinnedGrid, scale: float, rule: PixelRule = DEFAULT_RULE
) -> tuple[ExposureSummary, list[BinnedMap]]:
    """Measure detectors of one exposure and average them onto the grid, decoding each once.

    Parameters
    ----------
    path, config, grid
        The MEF, the options, and the survey's grid of cells.
    extnames : iterable of str
        Detectors to measure; see `ExposureReport.detectors`.
    scale : float
        counts28 per ADU; see `kred_core.exposures.rescale.factor`.
    rule : PixelRule
        Which pixels are not used: of statistics and binned maps, what is no sky either.

    Returns
    -------
    summary : ExposureSummary
        A detector that cannot be decoded, has no usable pixels or does not see what the others see (`judge_levels`)
        is in ``refused`` with the reason.
    maps : list of `~kred_core.binned.BinnedMap`
        Of the measured detectors. Saturated pixels are left out, too, and those as far below zero. A detector for which none
        can be made is measured all the same; the log says why.

    Raises
    ------
    ExposureError
        The file as a whole cannot be read, or one of the detectors for a reason that says nothing of it.
    """
    exposure = Exposure.open(path)
    wanted = set(extnames)
    measured, refused, maps = [], {}, []
    for detector in exposure.detectors:
        if detector.extname not in wanted:
            continue
        wanted.discard(detector.extname)  # of two with one name, check has judged the first
        try:
            pixels, bad = detector.pixels(), detector.bad_pixels(rule.of_sky)
            measured.append(_measure(detector, pixels, bad, config))
        except ExposureError as e:
            if is_transient(e):
                raise
            refused[detector.extname] = str(e)
            log.warning("%s: detector %s refused: %s", exposure.root, detector.extname, e)
            continue
        maps += _binned_map(detector, pixels, bad, measured[-1].histogram_mode, grid, scale)
    refused |= dict.fromkeys(sorted(wanted), "it is no longer in the file; run check again")
    odd, remarks = judge_levels(measured)
    for name, why in odd.items():
        log.warning("%s: detector %s refused: %s", exposure.root, name, why)
    used = tuple(d for d in measured if d.extname not in odd)
    return ExposureSummary(exposure.root, used, refused | odd, tuple(remarks)), [s for s in maps if s.extname not in odd]


def bin_exposure(
    path: Path, measured: ExposureSummary, grid: BinnedGrid, scale: float, rule: PixelRule = DEFAULT_RULE
) -> list[BinnedMap]:
    """Return the same binned maps as `summarize` makes, of an exposure that is measured already.

    Raises
    ------
    ExposureError
        The file as a whole, or one of the measured detectors, cannot be read any more.
    """
    levels = {d.extname: d.histogram_mode for d in measured.detectors}
    maps = []
    for detector in Exposure.open(path).detectors:
        if detector.extname in levels:
            pixels, bad = detector.pixels(), detector.bad_pixels(rule.of_sky)
            maps += _binned_map(detector, pixels, bad, levels.pop(detector.extname), grid, scale)
    return maps


def _binned_map(
    detector: Detector, pixels: np.ndarray, bad: np.ndarray | None, level: float, grid: BinnedGrid, scale: float
) -> list[BinnedMap]:
    """The detector's binned map, or nothing where none can be made."""
    try:
        saturated, wcs = binned.saturation(detector.header), celestial_wcs(detector.header)
        return [binned.bin_detector(pixels, bad, wcs, grid, scale, level, detector.root, detector.extname, saturated)]
    except ExposureError as e:
        log.warning("%s: detector %s has no binned map and cannot be matched: %s", detector.root, detector.extname, e)
        return []


def _measure(detector: Detector, pixels: np.ndarray, bad: np.ndarray | None, config: SummarizeConfig) -> DetectorSummary:
    sky = statistics.statistics(pixels, bad, config.clipped, config.clip_sigma)
    if sky.n == 0 and sky.n_nan == pixels.size:
        raise ExposureError("all its pixels are NaN")
    if sky.n < FEW_PIXELS:
        raise ExposureError(f"only {sky.n} of its {pixels.size} pixels are good (not NaN, not masked){_flags(detector)}")
    if sky.minimum == sky.maximum:
        raise ExposureError(f"all its good pixels have the same value {sky.minimum:g}")
    names = ("mean", "median", "std", "mode", "histogram_mode", "histogram_mode_error")
    noise = statistics.pixel_noise(pixels, bad)
    return DetectorSummary(detector.extname, sky.n, **{name: getattr(sky, name) for name in names}, noise=noise)


def _flags(detector: Detector) -> str:
    """What the mask of a detector says of its pixels, for a message."""
    codes = detector.mask_codes()
    return f"; its mask: {masks.counts(codes)}" if codes is not None and codes.any() else ""


def combine(report: ExposureReport, summary: ExposureSummary) -> ExposureReport:
    """A report with what the pixels have shown."""
    if report.refused:
        return report
    for remark in summary.remarks:
        report = report.remark(remark)
    for name, why in sorted(summary.refused.items()):
        report = report.lose(name, why)
    return report if report.detectors else report.refuse("none of its detectors can be used")


def exposure_rows(reports: Iterable[ExposureReport], images: ImageTable, field: str) -> list[dict]:
    """Rows of the exposure table; refused exposures are not in it."""
    return [
        {
            "Root": r.root,
            "File": r.file,
            "OBJECT": r.target,
            "FILTER": r.filter,
            "EXPTIME": r.exptime,
            "MAGZERO": r.magzero,
            "XFACTOR": factor(r.magzero),
            "SEEING": r.seeing,
            "OBSID": r.obsid,
            "MJD-OBS": r.mjd,
            "N_det": len(r.detectors),
            "Image": " ".join(images.of_exposure(r.filter, r.exptime)),
            "Field": field,
        }
        for r in reports
        if not r.refused
    ]


def place_rows(reports: Iterable[ExposureReport], field: str) -> list[dict]:
    """Where the usable detectors of the usable exposures are: what the headers alone can tell."""
    rows = []
    for r in reports:
        for d in () if r.refused else r.detectors:
            row = {"Field": field, "Root": r.root, "EXTNAME": d.extname, "CENRA1": d.centre[0], "CENDEC1": d.centre[1]}
            for i, (ra, dec) in enumerate(d.corners, 1):
                row |= {f"COR{i}RA1": ra, f"COR{i}DEC1": dec}
            rows.append(row | {"NAXIS1": d.naxis1, "NAXIS2": d.naxis2, "PixScale": d.pixel_scale})
    return rows


def detector_rows(reports: Iterable[ExposureReport], summaries: Mapping[str, ExposureSummary], field: str) -> list[dict]:
    """Rows of the detector table: places and statistics of the usable detectors."""
    measured = {(s.root, d.extname): d for s in summaries.values() for d in s.detectors}
    rows = []
    for row in place_rows(reports, field):
        d = measured[row["Root"], row["EXTNAME"]]
        row |= {"Npix": d.n_pixels, "Mean": d.mean, "Med": d.median, "STD": d.std, "Mode": d.mode, "Noise": d.noise}
        rows.append(row | {"HistMode": d.histogram_mode, "e_HistMode": d.histogram_mode_error})
    return rows
