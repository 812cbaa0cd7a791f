"""Decode what only astropy can in a process apart, so that damaged bytes do harm there and nowhere else.

astropy hands compressed pixels to C code that trusts them: bytes that are damaged can make it write beyond its memory, which
ends the interpreter, and with it a run of days. So each image is decoded in a process of its own (`process`), forked from one
that waits for that. Apart from `kred_core.exposures.exposure` because nothing here knows what a detector is.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from queue import Empty, LifoQueue

import numpy as np
from astropy.io import fits

from ...errors import ExposureError
from ..bintable import heap_start_of, table_columns, tile_ranges
from ..hdu import text
from ..storage import LOSSLESS, TILES

__all__ = ["decode"]

_PROCESS = Path(__file__).with_name("process.py")
ENDLESS = ("HCOMPRESS_1", "PLIO_1")  # whose decoders read on behind a tile that is too short, whatever they find there
UNSIGNED = 32768  # BZERO of unsigned 16-bit integers
_idle: LifoQueue[subprocess.Popen] = LifoQueue()  # as many as images were ever decoded at once
os.register_at_fork(after_in_child=_idle.queue.clear)  # they are the parent's


def decode(header: fits.Header, raw_header: bytes, raw: bytes) -> np.ndarray:
    """Decode a tile-compressed image whose header is sound (`kred_core.fits.storage`).

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Header of the HDU as stored: of its binary table.
    raw_header : bytes
        The header in whole blocks.
    raw : bytes
        The data unit: table and heap.

    Returns
    -------
    `~numpy.ndarray`
        As astropy gives it: scaled, blank pixels of scaled integers NaN; unsigned PLIO_1 images as cfitsio gives them.

    Raises
    ------
    ExposureError
        The image is damaged, or stored in a way that astropy would misunderstand.
    """
    _require_sound(header, raw)
    answer = _answer(raw_header, raw)
    if answer is None:  # it was ended by somebody else, as by a system that has no memory left
        answer = _answer(raw_header, raw)
    if answer is None:
        raise ExposureError("the process that decodes it was ended from outside, twice; is there enough memory?")
    if not answer:
        raise ExposureError("its compressed bytes make the decoder crash; the file is damaged")
    if answer.startswith(b"!"):
        raise ExposureError(f"the pixels cannot be decoded ({answer[1:].decode()})")
    return _without_offset(header, np.load(io.BytesIO(answer), allow_pickle=False))


def _without_offset(header: fits.Header, pixels: np.ndarray) -> np.ndarray:
    """Unsigned PLIO_1 images as cfitsio means them.

    PLIO cannot hold negative numbers, so cfitsio stores these numbers as they are, and ignores the header's offset (BZERO) when it
    reads them. astropy adds it, and every pixel of a mask would be flagged.
    """
    unsigned = text(header, "ZCMPTYPE") == "PLIO_1" and header["ZBITPIX"] == 16 and header.get("BZERO", 0) == UNSIGNED
    return pixels - np.uint16(UNSIGNED) if unsigned and pixels.dtype == np.uint16 else pixels


def _answer(*parts: bytes) -> bytes | None:
    """What a process says of an HDU; nothing where its decoder crashed, None where the process was ended."""
    process = _process()
    try:
        for part in (sum(map(len, parts)).to_bytes(8, "big"), *parts):
            process.stdin.write(part)
        process.stdin.flush()
        length = process.stdout.read(8)
        answer = process.stdout.read(int.from_bytes(length, "big"))
        if len(length) == 8 and len(answer) == int.from_bytes(length, "big"):
            _idle.put(process)
            return answer
    except BrokenPipeError:  # told below
        pass
    except BaseException:  # somebody interrupts this thread: the answer must not be taken for that to the next question
        _end(process)
        raise
    _end(process)
    return None


def _process() -> subprocess.Popen:
    """One that waits for work."""
    while True:
        try:
            process = _idle.get_nowait()
        except Empty:
            # As a file, with nothing of kred; in a session of its own, because Ctrl-C in a terminal is for the run. It ends when
            # its input does. What C libraries print when they fail would only frighten people: the error says it.
            command = [sys.executable, "-P", str(_PROCESS)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            return subprocess.Popen(command, **pipes, start_new_session=True)
        if process.poll() is None:
            return process
        _end(process)  # by somebody else


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what had not been sent
            pipe.close()


def _require_sound(header: fits.Header, raw: bytes) -> None:
    """Refuse what astropy would read as something else: it looks for steps in columns only, and does not see where bytes end."""
    codec, columns = text(header, "ZCMPTYPE"), table_columns(header)
    quantised = {"ZSCALE", "ZZERO"} & columns.keys()
    if len(quantised) == 1 or (not quantised and header["ZBITPIX"] < 0 and codec not in LOSSLESS):
        raise ExposureError("the quantised image lacks a column ZSCALE or ZZERO; the header is damaged")
    heap_start = heap_start_of(header, raw)
    ranges = [np.stack(tile_ranges(header, raw, columns[name], heap_start)) for name in TILES & columns.keys()]
    starts, lengths = np.concatenate(ranges, axis=1)
    order = np.argsort(starts[lengths > 0])
    starts, ends = starts[lengths > 0][order], (starts + lengths)[lengths > 0][order]
    if codec in ENDLESS and not np.array_equal(np.append(starts, len(raw)), np.append(heap_start, ends)):
        raise ExposureError(f"the tiles of the {codec} image do not follow one another; the file is damaged")
