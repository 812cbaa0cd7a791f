"""How far a run is and how long it will take, for a terminal that shows it and for a log that keeps it.

Nothing here needs Prefect: the first line is there before Prefect has been imported, which takes seconds.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import __version__
from .words import human_time

MINUTE = 60.0  # s between two lines in a log
PRIOR = 10.0  # CPU s: what has been foreseen counts as much as this much work that has been timed


def announce(words: str) -> None:
    """Say at once that a run starts."""
    print(f"{time.strftime('%H:%M:%S')} kred {__version__}: {words}, starting", flush=True)


def on_terminal() -> bool:
    """Return whether a person looks at the standard error; otherwise it may be a file."""
    return sys.stderr is not None and sys.stderr.isatty()


def show(line: str, last: bool) -> None:
    """Write a line over the one before it, at a terminal; nothing elsewhere."""
    if on_terminal():
        width = shutil.get_terminal_size().columns - 1  # what is longer could not be written over
        print(f"\r\033[K{line[:width]}", end="\n" if last else "", file=sys.stderr, flush=True)


@contextmanager
def every_minute(say: Callable[[], None]) -> Iterator[None]:
    """Call a function each minute of this block, beside it; not at a terminal, which shows progress all the time."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(MINUTE):
            say()

    if on_terminal():
        yield
        return
    thread = threading.Thread(target=repeat, name="every minute", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass
class TimeLeft:
    """The time that a run will still take, from what was foreseen and how long the work has taken so far."""

    foreseen: Mapping[str, float]  # CPU time of each stage in s, in the order of the stages
    workers: int  # tasks at once
    taken: dict[str, float] = field(default_factory=dict)  # wall time of the stages that have ended in s

    def seconds(self, stage: str, part: float, elapsed: float) -> float:
        """Return the wall time left in s, when a part (0 to 1) of the stage that is running took so many s so far."""
        done = sum(self.foreseen.get(name, 0.0) for name in self.taken) + part * self.foreseen.get(stage, 0.0)
        spent = sum(self.taken.values()) + elapsed
        pace = (spent + PRIOR / self.workers) / (done + PRIOR)  # wall s for each CPU s that was foreseen
        names = list(self.foreseen)
        after = sum(self.foreseen[name] for name in names[names.index(stage) + 1 :]) if stage in names else 0.0
        guess = self.foreseen.get(stage, 0.0) * (1 - part) * pace
        here = (1 - part) * (elapsed + guess)  # what is timed, elapsed * (1 - part) / part, counts the more the more is done
        return here + after * pace

    def words(self, stage: str, part: float, elapsed: float) -> str:
        """Return the time left in words; see `seconds`."""
        return f"about {human_time(self.seconds(stage, part, elapsed))} left"
