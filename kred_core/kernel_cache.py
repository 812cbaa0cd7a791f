"""A place where numba can keep what it compiles, where it would find none and refuse to compile at all.

So it is where kred is the installation of somebody else, and the home directory cannot be written to either. Called before
numba is imported, which reads its settings only then.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Any

__all__ = ["announce_compiling", "ensure", "is_temporary"]

log = logging.getLogger(__name__)

VARIABLE = "NUMBA_CACHE_DIR"
_made: list[str] = []
_listening = threading.Event()


def ensure() -> None:
    """Have this process, and those that it starts, keep compiled loops in a temporary directory if no lasting place can be used."""
    caches = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME", "~/.cache")
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__")
    lasting = [os.environ.get(VARIABLE), here, os.path.join(os.path.expanduser(caches), "numba")]  # as numba tries them
    if any(map(_usable, filter(None, lasting))):
        return
    with suppress(OSError):
        directory = os.environ[VARIABLE] = tempfile.mkdtemp(prefix="kred-numba-")
        _made.append(directory)
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        log.warning(
            "compiled loops cannot be kept in any of %s, so they are compiled each time (half a minute); set %s to a directory "
            "that can be written to",
            ", ".join(filter(None, lasting)),
            VARIABLE,
        )


def announce_compiling() -> None:
    """Have the first loop that is compiled in this process, and not found where they are kept, said with how long it takes."""
    if "numba" not in sys.modules or _listening.is_set():
        return
    _listening.set()
    from numba.core import event

    class Once(event.Listener):
        said = False

        def on_start(self, event: Any) -> None:
            if not Once.said:
                Once.said = True
                log.warning("compiling, once after an installation (some 10 s)")

        def on_end(self, event: Any) -> None:
            pass

    event.register("numba:compile", Once())


def is_temporary() -> bool:
    """Whether what is compiled now is lost with this process."""
    return os.environ.get(VARIABLE) in _made


def _usable(directory: str) -> bool:
    with suppress(OSError):
        os.makedirs(directory, exist_ok=True)
    return os.access(directory, os.W_OK | os.X_OK)
