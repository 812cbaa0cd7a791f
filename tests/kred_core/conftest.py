"""What several tests of the library start from: small exposures in a temporary directory."""

import pytest
from mefs import write_mef


@pytest.fixture
def mef(tmp_path):
    """`write_mef` into a temporary directory: mef("name.fits.fz", ["N1", "S7"], MAGZERO=None)."""
    return lambda name, extensions, **changes: write_mef(tmp_path / name, extensions, **changes)
