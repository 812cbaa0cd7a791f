"""What several tests of faults start from: the small exposures of the library's tests, and what runs of flows leave behind."""

from __future__ import annotations

import sys
from pathlib import Path

for room in ("kred_core", "flows"):  # where mefs.py and runs.py are
    sys.path.append(str(Path(__file__).resolve().parents[1] / room))
