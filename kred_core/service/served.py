"""Where a browser finds the pages of a data root that kred as a service shows, and which files those are.

The service shows what the pages lead to and nothing else: products, never the input, what kred remembers, or hidden files.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import quote

__all__ = ["PLACE", "SERVED_ROOT", "served_address", "served_file"]

SERVED_ROOT = "PAGES_OF_KRED"  # the environment variable that names the data root; KRED_... would be an option
PLACE = "/pages/"  # on the Prefect server

TEXT = "text/plain; charset=utf-8"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".tab": TEXT,
    ".log": TEXT,
    ".toml": TEXT,
    ".fits": "application/fits",
    ".fz": "application/fits",
}
DIRECTORIES = ("DECam_SWARP", "Summary", "Log")


def served_file(root: Path, place: str) -> tuple[Path, str] | None:
    """Find the file that belongs to what follows `PLACE` in an address, decoded.

    Returns
    -------
    tuple of (`~pathlib.Path`, str) or None
        The file, without links, and its type for browsers. None where there is none that may be shown: links below the data root
        that lead out of it are not followed.
    """
    parts = PurePosixPath(place).parts
    kind = TYPES.get(PurePosixPath(place).suffix)
    if kind is None or parts[0] not in DIRECTORIES or "\0" in place or any(part.startswith(".") for part in parts):
        return None
    try:
        file = root.joinpath(*parts).resolve(strict=True)
        own = file.relative_to(root.resolve())
    except (OSError, ValueError):  # it does not exist, or lies elsewhere
        return None
    inside = own.parts[0].startswith("DECam_") or own.parts[0] in DIRECTORIES
    return (file, kind) if file.is_file() and inside and own.parts[0] != "DECam_MEF" else None


def served_address(root: Path, file: Path) -> str | None:
    """Address of a file on the server that shows the data root, without that server's name; None where it is not shown."""
    try:
        place = file.absolute().relative_to(root.absolute()).as_posix()
    except ValueError:
        return None
    return PLACE + quote(place) if served_file(root, place) else None
