"""What several tests of the library start from: small exposures in a temporary directory, and the real cut-outs."""

from pathlib import Path

import pytest
from mefs import write_mef


@pytest.fixture
def mef(tmp_path):
    """`write_mef` into a temporary directory: mef("name.fits.fz", ["N1", "S7"], MAGZERO=None)."""
    return lambda name, extensions, **changes: write_mef(tmp_path / name, extensions, **changes)


@pytest.fixture(scope="session")
def real_decam():
    """Directory of the real DECam cut-outs."""
    path = Path(__file__).resolve().parents[2].parent / "shared" / "real_decam" / "DECam_MEF"
    if not path.is_dir():
        pytest.skip(f"the real DECam cut-outs are not at {path}")
    return path
