"""Locks between processes: one run at a time on a field, few heavy stages at a time on a machine.

The lock is the kernel's (``flock``): it ends with the process that holds it, however that ends, so nothing has to be
cleaned up. The file that carries it tells, for those who wait, who holds it. Kept apart from Prefect's own limits because
it holds for runs from the command line and without a server, too.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["exclusive", "held", "open_lock", "try_lock"]

log = logging.getLogger(__name__)

# Without a lock service (NFS), without the option flock (Lustre), in folders that are shared with a virtual machine.
NO_LOCKS_HERE = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL})
SHORT_PAUSE = 0.1  # s
PAUSE = 0.5  # s between two looks at a lock that somebody else holds


def open_lock(path: Path) -> BinaryIO:
    """Open the file that carries a lock, and make it where there is none; a link is an OSError: its target must not be a lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def try_lock(file: BinaryIO) -> bool:
    """Lock a file that is open for writing unless somebody else has, and return whether it is; closing it ends the lock.

    True also where the file system has no locks: products are written whole or not at all, so the worst that can happen without
    is that two runs of one field do the same work.
    """
    return _lock(file) is not False


def _lock(file: BinaryIO) -> bool | None:
    """Whether the lock is held now; None where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        if e.errno not in NO_LOCKS_HERE:
            raise
        log.debug("%s: no file locks on this file system", file.name)
        return None
    return True


@contextmanager
def held(paths: Sequence[Path], title: str, waiting: Callable[[str], None]) -> Iterator[bool]:
    """Hold one of several locks for a while, and wait for one where all are taken.

    Parameters
    ----------
    paths : sequence of `~pathlib.Path`
        Files that carry the locks; made where they do not exist. One path is a lock, n are n places.
    title : str
        Who holds it, in words for those who wait.
    waiting : callable
        Called once before waiting, with the holders of all the locks.

    Yields
    ------
    bool
        False where the file system has no locks, so that nobody can be kept out.
    """
    found = _first_free(paths)
    if found is None:
        waiting("; ".join(_holder(path) for path in paths))
        while (found := _first_free(paths)) is None:
            time.sleep(PAUSE)
    file, locked = found
    with file:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        _say(file, f"{title} (process {os.getpid()} on {socket.gethostname()}, since {since})")
        try:
            yield locked
        finally:
            _say(file, "")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold one lock for a while, of which nobody needs to know who holds it."""
    with open_lock(path) as file:
        while not try_lock(file):
            time.sleep(SHORT_PAUSE)
        yield


def _say(file: BinaryIO, holder: str) -> None:
    """Tell those who wait; a disk that is full keeps nobody from holding a lock."""
    with suppress(OSError):
        file.truncate(0)
        file.write(holder.encode())


def _first_free(paths: Sequence[Path]) -> tuple[BinaryIO, bool] | None:
    for path in paths:
        file = open_lock(path)
        locked = _lock(file)
        if locked is not False:
            return file, bool(locked)
        file.close()
    return None


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "a run that just began"
    except OSError:
        return "a run that just ended"
