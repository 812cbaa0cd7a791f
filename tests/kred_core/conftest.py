"""What several tests of the library start from: small exposures in a temporary directory."""

import ctypes
import os

import numpy as np
import pytest
from mefs import write_mef

from kred_core.coadd import combine, resample
from kred_core.fits import rice


@pytest.fixture
def mef(tmp_path):
    """`write_mef` into a temporary directory: mef("name.fits.fz", ["N1", "S7"], MAGZERO=None)."""
    return lambda name, extensions, **changes: write_mef(tmp_path / name, extensions, **changes)


@pytest.fixture(autouse=True, scope="session")
def python_in_place_of_machine_code():
    """Where the compiler is off, as in a part of `make coverage`: what is made of machine instructions, and numbers that wrap."""
    if os.environ.get("NUMBA_DISABLE_JIT") == "1":
        rice._leading_zeros = lambda word: np.uint64(64 - int(word).bit_length())
        resample._weighted_sum = weighted_sum
        combine._floats = lambda address: ctypes.cast(int(address), ctypes.POINTER(ctypes.c_float))
        np.seterr(over="ignore")


def weighted_sum(image, start, stride, table, ix, iy):
    rows = [image[start + r * stride :][: resample.LANES] @ table[ix:][: resample.LANES] for r in range(resample.TAPS)]
    return np.float32(table[iy:][: resample.TAPS] @ np.array(rows))
