"""Exposures with faults, and what everything that reads exposures makes of them, tried where a crash can be survived.

A trial hands the bytes of an exposure to each of its readers in turn: check, summarize, prepare, co-add. It runs in a
process of its own, so that a fault which ends the interpreter, or never ends, is an answer like others.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from kred_core.binned import BinnedGrid
from kred_core.coadd import native
from kred_core.coadd.plan import CoaddInput, CoaddPlan
from kred_core.config import CheckConfig, CoaddConfig, SummarizeConfig
from kred_core.errors import ExposureError, KredError
from kred_core.exposures import rescale, summary
from kred_core.exposures.check import ExposureReport, judge
from kred_core.exposures.exposure import Detector, Exposure
from kred_core.exposures.summary import ExposureSummary
from kred_core.fits.hdu import BLOCK, number
from kred_core.sky import Grid

SCALE, BACK = 0.5, 40.0
PATIENCE = 120.0  # s; a trial takes 0.03
CELLS = BinnedGrid(186.7, 25.5, 2.0)
MOSAIC = Grid(186.744, 25.462, 0.27, 70, 170)
READERS = ("check", "summarize", "prepare", "coadd")


@dataclass
class Answer:
    """What kred makes of one exposure."""

    judged: ExposureReport | None = None  # the verdict of check
    report: ExposureReport | None = None  # and what it is after summarize
    measured: ExposureSummary | None = None
    pixels: dict[str, np.ndarray] = field(default_factory=dict)  # of usable detectors by EXTNAME, as the co-adder gets them
    copies: dict[str, np.ndarray | str] = field(default_factory=dict)  # prepared copies, read again; or what was said instead
    mosaic: str = ""  # what the co-adder said instead of making one
    escaped: str = ""  # traceback of whatever was raised and is no `KredError`, or was printed as a warning


def answer(directory: Path, files: dict[str, bytes], until: str = "coadd") -> Answer:
    """Hand an exposure, and perhaps its mask, to those who read exposures, up to one of `READERS`.

    ``files`` are contents by name; each process works in a part of its own of the directory.
    """
    directory = directory / str(os.getpid())
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    for name, raw in files.items():
        (directory / name).write_bytes(raw)
    found = Answer()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="error", category=RuntimeWarning):
            _read(directory / next(iter(files)), READERS.index(until), found)
    except Exception:
        found.escaped = traceback.format_exc()
    finally:
        logging.disable(logging.NOTSET)
    return found


def _read(path: Path, last: int, found: Answer) -> None:
    found.judged = found.report = judge(path, CheckConfig(), {})
    if last >= 1 and not found.report.refused:
        found.measured, _ = summary.summarize(path, found.judged.extnames, SummarizeConfig(), CELLS, SCALE)
        found.report = summary.combine(found.judged, found.measured)
    if last < 2 or found.report.refused:
        return
    exposure = Exposure.open(path)
    for detector in exposure.detectors:
        if detector.extname in found.report.extnames:
            found.pixels[detector.extname] = detector.pixels()
            found.copies[detector.extname] = _copied(exposure, detector, path.with_name(f"copy_{detector.extname}.fits.fz"))
    if last < 3:
        return
    inputs = [CoaddInput(path, found.report.root, name, 600.0, SCALE, BACK, 1.0) for name in found.report.extnames]
    plan = CoaddPlan("LMC_c42", "T07", "N662", "N662", MOSAIC, tuple(inputs))
    try:
        native.coadd(plan, CoaddConfig(), {"original": (path.with_name("mosaic.fits"), path.with_name("coverage.fits.fz"))})
    except KredError as e:
        found.mosaic = str(e)


def _copied(exposure: Exposure, detector: Detector, copy: Path) -> np.ndarray | str:
    """A prepared copy, read again. Cards of its header are those of the input, or numbers that a header can hold."""
    try:
        rescale.rescale_detector(exposure.primary, detector, copy, SCALE, BACK)
    except ExposureError as e:
        return str(e)
    read = Exposure.open(copy).detectors[0]
    for key in (*rescale.GAINS, *rescale.LEVELS, *rescale.SPREADS, "MAGZERO", "MAGZPT", "XFACTOR", "SUB_BACK"):
        before, after = (_card(d.hdu.raw_header, key) for d in (detector, read))
        assert after in (b"", before) or number(read.header, key) is not None, f"the copy has {after}"
    return read.pixels()


def _card(raw_header: bytes, key: str) -> bytes:
    cards = (raw_header[at : at + 80] for at in range(0, len(raw_header), 80))
    return next((card for card in cards if card.startswith(f"{key:8}=".encode())), b"")


def require_account(report: ExposureReport) -> None:
    """Each detector of the file is used, lost with a reason, or taken from elsewhere, and a line of a table can say it."""
    assert len(report.detectors) + len(report.lost) + len(report.taken) == report.n_detectors
    names = [*report.extnames, *(name for name, _ in report.lost), *report.taken]
    assert len(set(names)) == len(names)
    words = [*report.refused, *report.remarks, *(reason for _, reason in report.lost)]
    assert all(word and word.isprintable() for word in words), words
    assert all(f"detector {name} refused: {reason}" in report.remarks for name, reason in report.lost)
    assert report.verdict == ("refused" if report.refused else "usable" if report.remarks else "good")
    assert report.refused or report.detectors


def require_answer(found: Answer | str, fault: str) -> Answer:
    """The answer, if it is one: a verdict, no crash, no exception, and copies that agree with the pixels."""
    assert isinstance(found, Answer), f"{fault}: {found}"
    assert not found.escaped, f"{fault}: {found.escaped}"
    require_account(found.judged)
    require_account(found.report)
    for name, copy in found.copies.items():
        assert not isinstance(copy, str), f"{fault}: summarize can read {name}, prepare says {copy}"
        with np.errstate(all="ignore"):
            expected = found.pixels[name].astype(np.float64) * SCALE - BACK
        sensible = np.abs(expected) < 1e30  # beyond, the one or the other is infinite
        size = np.maximum(np.abs(expected), BACK)[sensible]
        assert np.all(np.abs(copy[sensible] - expected[sensible]) <= 2e-7 * size), f"{fault}: the copy of {name} is another image"
    return found


def with_cards(raw: bytes, key: str, cards: list[bytes], start: int = 0) -> bytes:
    """A file in which these cards stand in the place of a keyword, or at the end, in the header that begins at a byte."""
    end = next(at for at in range(start, len(raw), 80) if raw[at : at + 80].rstrip() == b"END")
    old = [raw[at : at + 80] for at in range(start, end, 80)]
    where = next((i for i, card in enumerate(old) if card[:8].rstrip() == key.encode()), len(old))
    new = [card.ljust(80) for card in cards]
    assert all(len(card) == 80 for card in new)
    header = b"".join([*old[:where], *new, *old[where + 1 :], b"END".ljust(80)])
    after = end + 80 + -(end + 80 - start) % BLOCK
    return raw[:start] + header + b" " * (-len(header) % BLOCK) + raw[after:]


def flipped(raw: bytes, at: int, bit: int) -> bytes:
    """The same bytes but for one bit."""
    return raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]


def as_cfitsio_reads(directory: Path, raw: bytes) -> np.ndarray | str:
    """Pixels of the first extension, or what cfitsio says of it."""
    import fitsio

    path = directory / f"{os.getpid()}.fits.fz"
    path.write_bytes(raw)
    try:
        pixels = fitsio.read(str(path), ext=1)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return f"no image but {pixels.dtype}" if pixels.dtype.names else pixels.astype(np.float32)


class Survivors:
    """So many processes that call a function, and are replaced when a call has ended them or takes more than ``patience`` s."""

    def __init__(self, function: Callable, n: int = 1, patience: float = PATIENCE):
        self._function, self._n, self._patience = function, n, patience
        self._idle: SimpleQueue[ProcessPoolExecutor | None] = SimpleQueue()
        for _ in range(n):
            self._idle.put(None)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the function returns; a text that says how the process ended where it did."""
        pool, patience = self._idle.get(), self._patience
        if pool is None:
            pool, patience = ProcessPoolExecutor(1, multiprocessing.get_context("spawn")), patience + PATIENCE  # it imports first
        try:
            return pool.submit(self._function, *arguments, **options).result(patience)
        except (BrokenProcessPool, TimeoutError) as e:
            pool = self._ended(pool)
            return f"it took more than {patience:g} s" if isinstance(e, TimeoutError) else "it ended the process"
        finally:
            self._idle.put(pool)

    def map(self, calls: Iterable[dict[str, Any]]) -> Iterator[Any]:
        """The answers to calls with these options, in their order, from all processes."""
        with ThreadPoolExecutor(self._n) as threads:
            yield from threads.map(lambda options: self(**options), list(calls))

    def __enter__(self) -> Survivors:
        return self

    def __exit__(self, *_: object) -> None:
        for _ in range(self._n):
            pool = self._idle.get()
            if pool is not None:
                self._ended(pool)

    @staticmethod
    def _ended(pool: ProcessPoolExecutor) -> None:
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown()
