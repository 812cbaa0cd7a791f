"""End a command as Python does, but without taking its modules apart: half a second of work that nobody would see anything of.

To be imported before anything else that has something to do at the end: what is registered first is called last.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn

__all__ = ["leave"]

_status: list[int] = []


def leave(status: int) -> NoReturn:
    """End this process with an exit status, after all threads and everything that is registered for the end."""
    _status.append(status)
    sys.exit(status)


@atexit.register
def _leave() -> None:
    if _status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status[0])
