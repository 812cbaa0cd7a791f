"""Decode with astropy, compressed images in an isolated process: damaged bytes can make its C code write beyond its memory,
which ends the interpreter, and with it a run of days.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import textwrap
import threading
import types
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import context, current_process, parent_process
from typing import Any

import numpy as np
from astropy.io import fits

from ..errors import ExposureError

__all__ = ["decode", "decode_isolated", "undecodable"]

LONGEST = 600  # s; a full-size CCD takes 2
_PRIMARY = fits.PrimaryHDU().header.tostring().encode("ascii")
_lock = threading.Lock()
_idle: list[_Worker] = []  # one at most


def _begin_anew() -> None:
    """Leave to the parent of a fork what is the parent's."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


os.register_at_fork(after_in_child=_begin_anew)


def decode(hdu: bytes) -> np.ndarray:
    """Return the pixels of an HDU, header and data as they are stored; what damage makes astropy raise is any error."""
    with warnings.catch_warnings(), fits.open(io.BytesIO(_PRIMARY + hdu)) as f:
        warnings.simplefilter("ignore")
        return np.array(f[1].data)


def undecodable(error: Exception) -> ExposureError:
    """Return such an error in words."""
    return ExposureError(f"the pixels cannot be decoded ({textwrap.shorten(f'{type(error).__name__}: {error}', 200)})")


def decode_isolated(hdu: bytes) -> np.ndarray:
    """Return the same by way of another process; errors, and crashes of the decoder, are each an ExposureError."""
    with _lock:
        for _ in range(2):
            worker = _idle.pop() if _idle else _Worker()
            try:
                pixels = worker.pool.submit(_decode, hdu, LONGEST).result()
            except BrokenProcessPool:
                ended_by = worker.end()
                if ended_by == signal.SIGALRM:
                    raise ExposureError(f"decoding it takes more than {LONGEST} s; the file is damaged") from None
                if ended_by not in (signal.SIGKILL, signal.SIGTERM):  # as by a system that has no memory left
                    raise ExposureError("its compressed bytes make the decoder crash; the file is damaged") from None
            except BaseException:  # the damage may have reached its memory; or somebody interrupts this thread
                worker.end()
                raise
            else:
                _idle.append(worker)
                return pixels
    raise ExposureError("the process that decodes it was ended from outside, twice; is there enough memory?")


class _Process(context.SpawnProcess):
    def start(self) -> None:
        """Start without running the user's script once more, which may have no guard against that, and in workers of Dask, too.

        These are daemons, which multiprocessing lets have no children, because they would not end them; ours end themselves.
        """
        main, without_file = sys.modules["__main__"], types.ModuleType("__main__")
        without_file.__dict__.update({**vars(main), "__file__": None, "__spec__": None})
        us = vars(current_process())["_config"]
        daemon = us.get("daemon")
        sys.modules["__main__"], us["daemon"] = without_file, False
        try:
            super().start()
        finally:
            sys.modules["__main__"], us["daemon"] = main, daemon


class _Worker(context.SpawnContext):
    """A pool of one process."""

    def __init__(self) -> None:
        self.process: _Process | None = None
        self.pool = ProcessPoolExecutor(1, self, _prepare)

    def Process(self, *args: Any, **options: Any) -> _Process:  # type: ignore[override] # for the pool
        self.process = _Process(*args, **options)
        return self.process

    def end(self) -> int:
        """End the process; return the signal that has ended it."""
        if self.process and self.process.is_alive():
            self.process.kill()
        self.pool.shutdown()
        return -(self.process.exitcode or 0) if self.process else 0


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the run
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what C libraries print when they fail would only frighten people
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the run has ended, in whatever way."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _decode(hdu: bytes, longest: int) -> np.ndarray:
    signal.alarm(longest)  # ends the process, also within C code
    try:
        return decode(hdu)
    except Exception as e:  # of a class that may not survive the way to another process
        raise undecodable(e) from None
    finally:
        signal.alarm(0)
