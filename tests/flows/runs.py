"""What a run left behind: what its log says was done, and the products' bytes."""

from __future__ import annotations

import os
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def done(root: Path, field: str = "LMC_c42") -> dict[str, int]:
    """Units that the last run did, by stage, as its log says; stages with nothing to do are left out."""
    return {name: int(n) for name, n in re.findall(r"INFO +(\w+) +(\d+) done", last_log(root, field))}


def last_log(root: Path, field: str = "LMC_c42") -> str:
    """What the last run wrote into the field's log."""
    text = (root / "Log" / f"{field}.log").read_text()
    return text[text.rindex(" kred ") :]


def products(root: Path) -> dict[str, bytes]:
    """Contents of all products by name, links as their goals; not what tells when it was made."""
    found = {}
    for top in ("Summary", "DECam_PREP", "DECam_BACK", "DECam_SWARP"):
        for path in sorted((root / top).rglob("*")):
            if path.is_symlink():
                found[str(path.relative_to(root))] = os.readlink(path).encode()
            elif path.is_file() and path.name not in ("kred.toml", "index.html"):
                found[str(path.relative_to(root))] = path.read_bytes()
    return found
