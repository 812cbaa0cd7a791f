"""The one way to write a file: a product appears under its final name only when it is whole.

So whatever has a final name can be trusted after any crash. Apart from the names because nothing here knows what is written.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "TEMPORARY",
    "atomic",
    "discard",
    "identity",
    "link",
    "link_all",
    "read_record",
    "write_record",
    "write_text",
]

TEMPORARY = ".tmp"
_UMASK = os.umask(0o022)  # can only be read by setting it; once, at import, because threads share it
os.umask(_UMASK)


@contextmanager
def atomic(path: Path, keep_same: bool = False) -> Iterator[Path]:
    """Write a file so that its name appears only when it is complete.

    Yields a temporary path beside the final one. When the block ends without
    an error the data are synced to disk and renamed; otherwise they are removed.

    Parameters
    ----------
    path : `~pathlib.Path`
        Final name; its directory is made when needed.
    keep_same : bool
        Leave an existing file with the same bytes untouched, so that its time
        of modification says when the content last changed. For small files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if keep_same and path.is_file() and path.read_bytes() == temporary.read_bytes():
            temporary.unlink()
            return
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def discard(path: Path) -> None:
    """Remove a file or a directory with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small text file; an existing one with the same content keeps its time."""
    with atomic(path, keep_same=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(path: Path, record: dict) -> None:
    """Keep what a stage found out as JSON, for the later stages."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def read_record(path: Path) -> dict | None:
    """What `write_record` kept, or None where there is nothing or nothing readable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def link(path: Path, target: Path) -> None:
    """Make ``path`` a relative symbolic link to ``target``, replacing an older link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # From where the directory really is: a field's directory may itself be a link to another disk.
    _link(path, os.path.relpath(target.parent.resolve() / target.name, path.parent.resolve()))


def link_all(directory: Path, targets: Iterable[Path]) -> None:
    """Make the links to FITS files in a directory those to the targets that exist, by their names, and no others."""
    wanted = {target.name: target.parent for target in targets if target.exists()}
    for old in directory.glob("*.fits*") if directory.is_dir() else ():
        if old.name not in wanted and old.is_symlink():
            old.unlink()
    if wanted:
        directory.mkdir(parents=True, exist_ok=True)
    here = directory.resolve()
    ways = {parent: os.path.relpath(parent.resolve(), here) for parent in set(wanted.values())}
    for name, parent in wanted.items():
        _link(directory / name, os.path.join(ways[parent], name))


def _link(path: Path, goal: str) -> None:
    if path.is_symlink() and os.readlink(path) == goal:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{TEMPORARY}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(goal)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise


def identity(path: Path) -> tuple[str, int, int]:
    """What tells one version of a file from another: path, size in bytes, time of modification in ns."""
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns
