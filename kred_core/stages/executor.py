"""How the units of a run are done side by side: what a run asks of whoever does it, and threads of this process.

Prefect's tasks are another way (`flows.run`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ..config import FieldConfig
from ..errors import KredError, is_transient
from .outcome import Outcome
from .work import Manifest, Step

__all__ = ["Ended", "Executor", "Threads"]

log = logging.getLogger("kred_core.run")

T = TypeVar("T")
RETRY_DELAYS = (2.0, 20.0)  # s: a hiccup, then a file server that restarts


@dataclass(frozen=True)
class Ended:
    """How a unit ended: what it left, and whether that was there before; or why it failed."""

    manifest: Manifest | None = None
    current: bool = False
    error: BaseException | None = None


class Executor(Protocol):
    """Runs units side by side."""

    workers: int

    def submit(self, step: Step, unit: str, config: FieldConfig, arguments: dict[str, Any]) -> Any:
        """Begin a unit as soon as there is room; returns something that can be waited for."""

    def ended(self, submitted: Iterable[Any]) -> Iterator[tuple[Any, Ended]]:
        """Yield what was submitted, each when it has ended."""

    def once(self, function: Callable[..., T], config: FieldConfig, arguments: dict[str, Any]) -> T:
        """Call a function that concerns the whole field, again where it fails for what can pass."""

    def stage(self, name: str, do: Callable[[], tuple[bool, str]]) -> None:
        """Do a stage, which returns whether it is complete, and how it ended in words."""

    def show(self, key: str, words: str, rows: list[dict[str, Any]]) -> None:
        """Show a table to those who watch."""

    def begin(self, config: FieldConfig) -> None:
        """A run begins."""

    def progress(self, stage: str, ended: int, units: int, unit: str) -> None:
        """So many units of a stage have ended, this one last."""

    def end(self, outcome: Outcome) -> None:
        """A run has ended."""


class Threads:
    """Runs units in threads of this process, and keeps the same records as Prefect's tasks do."""

    def __init__(self, config: FieldConfig):
        self.workers = config.run.workers or cores()
        self._pool = ThreadPoolExecutor(self.workers)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *ended: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, step: Step, unit: str, config: FieldConfig, arguments: dict[str, Any]) -> Future[Ended]:
        return self._pool.submit(_do, step, config, arguments)

    def ended(self, submitted: Iterable[Future[Ended]]) -> Iterator[tuple[Future[Ended], Ended]]:
        waiting = set(submitted)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future, future.result()

    def once(self, function: Callable[..., T], config: FieldConfig, arguments: dict[str, Any]) -> T:
        return _again(lambda: function(config, **arguments), function.__name__)

    def stage(self, name: str, do: Callable[[], tuple[bool, str]]) -> None:
        do()

    def show(self, key: str, words: str, rows: list[dict[str, Any]]) -> None:
        pass

    def begin(self, config: FieldConfig) -> None:
        pass

    def progress(self, stage: str, ended: int, units: int, unit: str) -> None:
        pass

    def end(self, outcome: Outcome) -> None:
        pass


def _do(step: Step, config: FieldConfig, arguments: dict[str, Any]) -> Ended:
    try:
        return Ended(*_again(lambda: step.ensure(config, arguments), step.name))
    except (KredError, OSError, MemoryError) as e:
        return Ended(error=e)


def _again(do: Callable[[], T], name: str) -> T:
    """Try again what failed for a reason that can pass."""
    for delay in RETRY_DELAYS:
        try:
            return do()
        except (KredError, OSError) as e:
            if not is_transient(e, soon=True):
                raise
            log.warning("%s: %s; trying again", name, e.__cause__ or e)
            time.sleep(delay)
    return do()


def cores() -> int:
    """Return the number of cores that this process may use; batch systems and containers often grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
