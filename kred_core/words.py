"""Words of messages: counts, times, sizes, and lists that stay short."""

from __future__ import annotations

import sys
from collections.abc import Iterable

NAMED = 5  # in a message


def counted(n: int, thing: str) -> str:
    """Return a number of things, whose plural ends in s, in words: "1 exposure", "1,024 exposures"."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def human_time(seconds: float) -> str:
    """Return a time in s as a person says it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def human_size(size: float) -> str:
    """Return a number of bytes as a person reads it."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.95:  # more would be rounded to 1000.0
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def some(names: Iterable[str]) -> str:
    """Return the first few of the names, and how many more there are."""
    ordered = sorted(names)
    return ", ".join(ordered[:NAMED]) + (f" and {len(ordered) - NAMED:,} more" if len(ordered) > NAMED else "")


def program(default: str) -> str:
    """Return what the help calls the program: that of the command `kred`, which names itself, or the default."""
    return sys.argv[0] if sys.argv[0].startswith("kred ") else default
