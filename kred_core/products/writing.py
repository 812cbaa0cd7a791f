"""The one way to write a file: a product appears under its final name only when it is whole.

So whatever has a final name can be trusted after any crash. Apart from the names because nothing here knows what is written.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

__all__ = ["TEMPORARY", "atomic", "discard", "identity", "link_all", "read_record", "scratch", "write_record", "write_text"]

TEMPORARY = ".tmp"
WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})  # errors of writing, whatever else is done meanwhile
# What file systems answer to a request that they do not know: exFAT, network shares, folders shared with a virtual machine, FUSE.
REFUSED = frozenset(
    {errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EISDIR}
)

log = logging.getLogger(__name__)


@contextmanager
def atomic(path: Path, keep_same: bool = False, mode: int = 0o666) -> Iterator[Path]:
    """Write a file so that its name appears only when it is complete.

    Yields a temporary path beside the final one. When the block ends without an error the data are synced to disk and renamed;
    otherwise they are removed. An OSError names the file by its final name, which is the one that people know.

    Parameters
    ----------
    path : `~pathlib.Path`
        Final name; its directory is made when needed.
    keep_same : bool
        Leave an existing file with the same bytes untouched, so that its time of modification says when the content last changed.
    mode : int
        Permissions, of which the umask takes some away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}{TEMPORARY}")
    name = str(temporary)
    try:
        # Made here, and not by a function that makes a name, too: a thread that is stopped is stopped just after such a call.
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        yield temporary
        if keep_same and path.is_file() and path.read_bytes() == temporary.read_bytes():
            temporary.unlink()
            return
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException as e:
        with suppress(OSError):  # where it was not even made
            temporary.unlink()
        if isinstance(e, OSError) and (e.filename == name or (e.filename is None and e.errno in WRITING)):
            e.filename = str(path)
        raise


def scratch(directory: Path) -> BinaryIO:
    """A file without a name in a directory, for what does not fit into memory; the system removes it however the program ends.

    Where the file system wants it to have a name for a moment, that is one of those that the next run removes.
    """
    return tempfile.TemporaryFile(prefix=".", suffix=TEMPORARY, dir=directory, buffering=0)


def _sync(path: Path) -> None:
    """Have a file, or the names in a directory, written to disk; file systems that refuse do that when they want to."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as e:
        if e.errno not in REFUSED:
            raise


def discard(path: Path) -> None:
    """Remove a file or a directory with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a small text file; an existing one with the same content keeps its time."""
    with atomic(path, keep_same=True, mode=mode) as temporary:
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


def link_all(directory: Path, targets: Iterable[Path]) -> bool:
    """Make the links to FITS files in a directory those to the targets that exist, by their names, and no others.

    False where the file system refuses symbolic links, which has been said; they are for people, and nothing depends on them.
    """
    wanted = {target.name: target.parent for target in targets if target.exists()}
    for old in directory.glob("[!.]*.fits*") if directory.is_dir() else ():
        if old.name not in wanted and old.is_symlink():
            old.unlink()
    if wanted:
        directory.mkdir(parents=True, exist_ok=True)
    here = directory.resolve()  # a field's directory may itself be a link to another disk
    ways = {parent: os.path.relpath(parent.resolve(), here) for parent in set(wanted.values())}
    try:
        for name, parent in wanted.items():
            _link(directory / name, os.path.join(ways[parent], name))
    except _LinksRefused as e:
        log.warning("%s: no links to the detectors, because this file system refuses them (%s); nothing else needs them", here, e)
        return False
    if wanted:
        _sync(directory)
    return True


class _LinksRefused(Exception):
    """A file system without symbolic links; the text is its own reason."""


def _link(path: Path, goal: str) -> None:
    if path.is_symlink() and os.readlink(path) == goal:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{TEMPORARY}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    try:
        _make_link(temporary, goal)
        temporary.replace(path)
    except BaseException as e:
        temporary.unlink(missing_ok=True)
        if isinstance(e, OSError):
            e.filename = str(path)
        raise


def _make_link(path: Path, goal: str) -> None:
    try:
        path.symlink_to(goal)
    except OSError as e:
        if e.errno in REFUSED and os.access(path.parent, os.W_OK | os.X_OK):
            raise _LinksRefused(e.strerror) from e
        raise  # such as the directory of somebody else


def identity(path: Path) -> tuple[str, int, int]:
    """What tells one version of a file from another: path, size in bytes, time of modification in ns."""
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns
