"""The files of a mosaic and its coverage map: pixels row by row, headers, checksums, and the table of inputs.

The same for both engines. A mosaic is never whole in memory. Nothing depends on when or where it was made: the same input
gives the same bytes.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time

from .. import __version__
from ..config import BackgroundKind, CoaddConfig
from ..constants import ZERO_POINT
from ..exposures.exposure import start_mjd
from ..fits.checksum import UNSEALED, Cards, add, datasum, hdu_bytes, sealed
from ..fits.compress import CountsHeap
from ..fits.hdu import BLOCK, CARD, number, text
from ..sky import centre, corners, tan_header, tan_wcs
from .plan import CoaddPlan, Source

__all__ = ["CoaddResult", "MosaicFile", "inputs_table", "mosaic_header", "write_coverage"]

SPARE_CARDS = 10  # blank ones: a few keywords can be added later without moving 300 MB
SECONDS_PER_DAY = 86400.0
BACKGROUND_MEANING = {
    BackgroundKind.ORIGINAL: "Subtracted: one background per exposure",
    BackgroundKind.MATCHED: "Subtracted: backgrounds that match overlaps",
}


class MosaicFile:
    """A float32 FITS image that is written from the first row to the last: a context in which `append` all rows, and `finish` once.

    ``path`` is a temporary file, ``draft`` a header as long as the final one will be, to some cards.
    """

    def __init__(self, path: Path, draft: fits.Header):
        self._path = path
        self._header_length = -(-(len(_cards(draft)) + CARD * (SPARE_CARDS + 3)) // BLOCK) * BLOCK  # 3: two checksums and END
        self._sum = 0
        self._length = 0

    def __enter__(self) -> MosaicFile:
        self._file = open(self._path, "wb")
        self._file.seek(self._header_length)
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def append(self, rows: np.ndarray) -> None:
        """Write the next rows: an array of floats, shape (rows, NAXIS1)."""
        raw = np.ascontiguousarray(rows, dtype=">f4")
        self._sum = add(self._sum, datasum(raw.data))
        self._length += raw.nbytes
        self._file.write(raw.data)

    def finish(self, header: fits.Header, extension: bytes = b"") -> None:
        """Write a whole extension behind the pixels, and the primary header, to which DATASUM and CHECKSUM are added."""
        self._file.write(b"\0" * (-self._length % BLOCK) + extension)
        header["DATASUM"] = (str(self._sum), "Checksum of the pixels")
        header["CHECKSUM"] = (UNSEALED, "Checksum of the HDU")
        cards = _cards(header)
        if len(cards) + CARD > self._header_length:
            raise ValueError(f"a header of {len(cards)} bytes for a place of {self._header_length}")
        padded = cards.ljust(self._header_length - CARD) + "END".ljust(CARD)
        self._file.seek(0)
        self._file.write(sealed(padded.encode("ascii"), self._sum))


def _cards(header: fits.Header) -> str:
    return header.tostring(sep="", endcard=False, padding=False)


@dataclass(frozen=True)
class CoaddResult:
    """The engine, the pixels of the mosaic that each input of the plan contributed to, and those with data."""

    engine: str
    pixels: tuple[int, ...]
    covered: int


def mosaic_header(
    plan: CoaddPlan, background: BackgroundKind, config: CoaddConfig, sources: list[Source], result: CoaddResult
) -> fits.Header:
    """The primary header of a mosaic, without checksums.

    EXPTIME is the mean over the covered pixels of the summed exposure time of the detectors in a pixel; TEXPTIME is the
    sum over the distinct exposures. Neither scales the pixels: counts28 have the zero point 28 whatever the
    exposure time. GAIN is for the mean number of detectors in a pixel: n / mean(1/g), g being
    the gains in counts28; times 2/pi, the efficiency of a median, where n > 2 are combined by the median.
    SATURATE is the lowest saturation level of the inputs in pixels of the mosaic.
    """
    used = [source for source, n in zip(sources, result.pixels, strict=True) if n > 0]
    exposures = {source.input.root: source for source in used}
    header = fits.Header()
    header["SIMPLE"] = (True, "FITS standard")
    header["BITPIX"] = (-32, "float32")
    header["NAXIS"] = 2
    header["NAXIS1"] = plan.grid.nx
    header["NAXIS2"] = plan.grid.ny
    header["EXTEND"] = True
    _identity(header, plan, used)
    header["BUNIT"] = ("count", "counts28: a source of 28 mag has 1 count")
    header["MAGZERO"] = (ZERO_POINT, "[mag] Magnitude zero point")
    depth = sum(s.input.exptime * n for s, n in zip(sources, result.pixels, strict=True)) / max(result.covered, 1)
    header["EXPTIME"] = (round(depth, 3), "[s] Mean over pixels of the summed time")
    header["TEXPTIME"] = (sum(s.input.exptime for s in exposures.values()), "[s] Sum over the distinct exposures")
    header["NEXP"] = (len(exposures), "Exposures that contributed")
    header["NDET"] = (len(used), "Detectors that contributed, see table INPUTS")
    header["MEANDET"] = (round(sum(result.pixels) / max(result.covered, 1), 3), "Mean number of detectors in a covered pixel")
    header["COVERED"] = (result.covered, "Pixels with data; the others are 0")
    _observation(header, exposures.values())
    _detector_facts(header, background, config, used, result)
    header.update(tan_header(plan.grid))
    _corners(header, plan)
    header["BACKGND"] = (background, BACKGROUND_MEANING[background])
    header["COMBINE"] = (config.combine, "How the detectors of a pixel were combined")
    if config.combine == "clipped":
        header["CLIPSIG"] = (config.clip_sigma, "Limit in standard deviations")
    header["RESAMPLE"] = ("LANCZOS3", "Interpolation")
    native = result.engine == "native"
    codes = ",".join(map(str, config.mask_codes)) if native else ""
    header["MASKCODE"] = (codes, "ood codes of pixels left out; empty: none")
    header["ENGINE"] = (result.engine, "What co-added: kred itself or SWarp")
    _origin(header, plan, background, config)
    return header


def write_coverage(path: Path, plan: CoaddPlan, background: BackgroundKind, config: CoaddConfig, counts: CountsHeap) -> None:
    """Write the number of detectors in each pixel as a RICE-compressed image, the first extension of a FITS file."""
    header = fits.Header()
    _identity(header, plan, [])
    header["BUNIT"] = ("", "Number of detectors in each pixel")
    header.update(tan_header(plan.grid))
    _origin(header, plan, background, config)
    header = fits.Header.fromstring(header.tostring())  # with the digits that the mosaic's header has
    primary: Cards = {"SIMPLE": (True, "FITS standard"), "BITPIX": (8, ""), "NAXIS": (0, ""), "EXTEND": (True, "")}
    cards: Cards = {"EXTNAME": ("COVERAGE", ""), **{key: (header[key], header.comments[key]) for key in header}}
    path.write_bytes(b"".join([*hdu_bytes(primary), *counts.hdu(cards)]))


def _origin(header: fits.Header, plan: CoaddPlan, background: BackgroundKind, config: CoaddConfig) -> None:
    header["KREDVER"] = (__version__, "Version of kred that made this file")
    header["KREDCONF"] = (plan.digest(config, background), "Digest of plan and configuration")


def _identity(header: fits.Header, plan: CoaddPlan, sources: list[Source]) -> None:
    header["OBJECT"] = (_ascii(f"{plan.field}_{plan.tile}"), "Field and tile")
    header["FIELD"] = _ascii(plan.field)
    header["TILE"] = _ascii(plan.tile)
    header["IMAGE"] = (_ascii(plan.image), "Image group: these exposures belong together")
    header["FILTER"] = _ascii(plan.filter)
    for key in ("TELESCOP", "INSTRUME"):
        value = _shared(text(source.primary, key) for source in sources)
        if value:
            header[key] = _ascii(value)


def _ascii(value: str) -> str:
    """A text as FITS can hold it; names of files and odd headers can have more."""
    return "".join(c if " " <= c <= "~" else "?" for c in value)


def _observation(header: fits.Header, exposures: Iterable[Source]) -> None:
    starts = [(start_mjd(s.primary), s.input.exptime) for s in exposures]
    known = [(start, exptime) for start, exptime in starts if start is not None]
    if known:
        first = min(start for start, _ in known)
        last = max(start + exptime / SECONDS_PER_DAY for start, exptime in known)
        for key, time, meaning in (("BEG", first, "Start of the first exposure"), ("END", last, "End of the last exposure")):
            header[f"DATE-{key}"] = (Time(time, format="mjd").isot, meaning)
            header[f"MJD-{key}"] = (time, f"[d] {meaning}")
    seeing = [s.input.seeing for s in exposures if np.isfinite(s.input.seeing)]
    if seeing:
        header["SEEING"] = (round(statistics.median(seeing), 3), "[arcsec] Median over the exposures")
        header["SEEINGLO"] = (round(min(seeing), 3), "[arcsec] Best")
        header["SEEINGHI"] = (round(max(seeing), 3), "[arcsec] Worst")


def _detector_facts(
    header: fits.Header, background: BackgroundKind, config: CoaddConfig, used: list[Source], result: CoaddResult
) -> None:
    gains = [_of_amplifiers(s.detector.header, ("GAINA", "GAINB"), "GAIN", statistics.mean) for s in used]
    known = [g / s.input.scale for g, s in zip(gains, used, strict=True) if g is not None and 0 < g / s.input.scale < np.inf]
    if used and len(known) == len(used):
        n = sum(result.pixels) / result.covered
        gain = n / statistics.mean(1 / g for g in known)
        if config.combine == "median" and n > 2:
            gain *= 2 / np.pi
        _add_finite(header, "GAIN", gain, "[electron/count] At the mean depth")
    stated = [_of_amplifiers(s.detector.header, ("SATURATA", "SATURATB"), "SATURATE", min) for s in used]
    levels = [level for level in stated if level is not None]
    if used and len(levels) == len(used):
        backs = [s.input.background(background).b for s in used]
        saturated = [(v * s.input.scale - b) * s.flux_scale for v, s, b in zip(levels, used, backs, strict=True)]
        _add_finite(header, "SATURATE", min(saturated), "[count] Lowest saturation level of the inputs")


def _add_finite(header: fits.Header, key: str, value: float, comment: str) -> None:
    """A number to five digits; absurd ones of the inputs can lead beyond what a header holds."""
    if np.isfinite(value):
        header[key] = (float(f"{value:.5g}"), comment)


def _of_amplifiers(header: fits.Header, keys: tuple[str, ...], single: str, combine: Callable) -> float | None:
    values = [v for v in (number(header, key) for key in keys) if v is not None]
    return combine(values) if values else number(header, single)


def _shared(values: Iterable[str]) -> str:
    different = list(dict.fromkeys(v for v in values if v))
    return different[0] if len(different) == 1 else ("several" if different else "")


def _corners(header: fits.Header, plan: CoaddPlan) -> None:
    wcs, shape = tan_wcs(plan.grid), (plan.grid.ny, plan.grid.nx)
    ra, dec = centre(wcs, shape)
    header["CENRA1"] = (ra, "[deg] Centre of the image")
    header["CENDEC1"] = (dec, "[deg] Centre of the image")
    places = ("(1,1)", "(NAXIS1,1)", "(1,NAXIS2)", "(NAXIS1,NAXIS2)")
    for i, (place, (ra, dec)) in enumerate(zip(places, corners(wcs, shape), strict=True), 1):
        header[f"COR{i}RA1"] = (float(ra), f"[deg] Pixel {place}")
        header[f"COR{i}DEC1"] = (float(dec), f"[deg] Pixel {place}")


def _text_column(name: str, values: list[str]) -> fits.Column:
    return fits.Column(name, f"{max(map(len, values))}A", array=[_ascii(value) for value in values])


def inputs_table(background: BackgroundKind, sources: list[Source], result: CoaddResult) -> bytes:
    """The extension INPUTS, one row for each input of the plan, as the bytes of a FITS extension with checksums.

    Columns GRADX, GRADY and STEP are there where one of the backgrounds is not a constant.
    """
    items = [source.input for source in sources]
    backs = [item.background(background) for item in items]
    shape = []
    if not all(b.is_constant for b in backs):
        for name, unit, term in (("GRADX", "count/pix", "grad_x"), ("GRADY", "count/pix", "grad_y"), ("STEP", "count", "step")):
            shape.append(fits.Column(name, "D", unit=unit, array=[getattr(b, term) for b in backs]))
    columns = [
        _text_column("ROOT", [item.root for item in items]),
        _text_column("EXTNAME", [item.extname for item in items]),
        fits.Column("EXPTIME", "D", unit="s", array=[i.exptime for i in items]),
        fits.Column("SCALE", "D", array=[i.scale for i in items]),
        fits.Column("BACK", "D", unit="count", array=[b.b for b in backs]),
        *shape,
        fits.Column("NOISE", "D", unit="count", array=[i.sky_noise for i in items]),
        fits.Column("FLXSCALE", "D", array=[source.flux_scale for source in sources]),
        fits.Column("PIXELS", "J", unit="pix", array=list(result.pixels)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="INPUTS")
    comments = {
        "SCALE": "counts28 = ADU x SCALE - BACK, per native pixel",
        "BACK": "counts28 per native pixel",
        "GRADX": "slope of BACK along NAXIS1",
        "GRADY": "slope of BACK along NAXIS2",
        "STEP": "of BACK, upper minus lower columns",
        "NOISE": "of the sky, counts28 per native pixel",
        "FLXSCALE": "pixel area of the mosaic over native",
        "PIXELS": "of the mosaic with data of this detector",
    }
    for i, column in enumerate(columns, 1):
        table.header.comments[f"TTYPE{i}"] = comments.get(column.name, "")
    table.add_checksum(when="kred")  # astropy would put the time of day there
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(buffer)
    return buffer.getvalue()[BLOCK:]  # without the empty primary HDU
