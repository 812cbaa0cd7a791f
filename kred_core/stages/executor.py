"""How the units of a run are done: side by side, one that fails does not stop the others, and each is counted.

A stage asks a `UnitRunner`; that asks an `Executor`, which is threads of this process here and Prefect's tasks in `flows.run`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol, TypeVar

from .. import progress
from ..config import FieldConfig
from ..errors import KredError, explain, is_transient
from ..products import FieldPaths
from ..progress import TimeLeft
from .outcome import Outcome, StageOutcome
from .work import Manifest, Step, Unit

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
    """Runs units side by side; nobody need watch."""

    workers: int

    def submit(self, step: Step, unit: str, config: FieldConfig, arguments: dict[str, Any]) -> Any:
        """Begin a unit as soon as there is room; returns something that can be waited for."""

    def ended(self, submitted: Iterable[Any]) -> Iterator[tuple[Any, Ended]]:
        """Yield what was submitted, each when it has ended."""

    def once(self, function: Callable[..., T], config: FieldConfig, arguments: dict[str, Any]) -> T:
        """Call a function that concerns the whole field, again where it fails for what can pass."""

    def stage(self, name: str, do: Callable[[], tuple[bool, str]]) -> None:
        """Do a stage, which returns whether it is complete, and how it ended in words."""
        do()

    def show(self, key: str, words: str, rows: list[dict[str, Any]]) -> None:
        """Show a table to those who watch."""
        return

    def begin(self, config: FieldConfig) -> None:
        """A run begins."""
        return

    def progress(self, stage: str, ended: int, units: int, unit: str) -> None:
        """So many units of a stage have ended, this one last."""
        return

    def end(self, outcome: Outcome) -> None:
        """A run has ended."""
        return


class Threads(Executor):
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


@dataclass
class _Batch:
    """Units that run side by side, and where they are counted."""

    stage: StageOutcome
    step: Step
    units: list[Unit]
    began: float = 0.0
    n_ended: int = 0

    @property
    def ended(self) -> bool:
        return self.n_ended == len(self.units)

    def count(self, unit: str, how: Ended) -> None:
        self.n_ended += 1
        if how.error is not None:
            self.stage.failed[unit] = explain(how.error)
            log.error("%s %s failed: %s", self.stage.name, unit, self.stage.failed[unit])
        elif how.current:
            self.stage.current += 1
        else:
            self.stage.done += 1


class UnitRunner:
    """Does the units of the stages of one run, and counts them: ``outcome`` says what happened so far."""

    def __init__(self, config: FieldConfig, executor: Executor):
        self.config, self.executor = config, executor
        self.paths = FieldPaths.of(config)
        self.outcome = Outcome(config.field)
        self.time_left: TimeLeft | None = None
        self._stage = StageOutcome("start")  # the one that is running
        self._began = 0.0
        self._waiting: list[_Batch] = []  # in the background, for the next units
        self._running: dict[Any, tuple[_Batch, str]] = {}
        self._at: tuple[int, int] = 0, 0  # units of the stage that have ended, and all of them

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what cannot be sent to another process; Prefect sends the context of a run with each task."""
        return {**self.__dict__, "_running": {}, "_waiting": []}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens in this block as one stage; what a person can mend ends the run, not the program."""
        self._stage = StageOutcome(name)
        self._at = 0, 0
        self.outcome.stages.append(self._stage)
        self._began = time.monotonic()
        try:
            yield
        except (KredError, OSError, MemoryError) as e:
            self.outcome.stopped = f"{name}: {explain(e)}"
        except BaseException as e:
            if not isinstance(e, Exception):  # Ctrl-C, or what a service makes of a signal
                log.warning("%s was stopped; the next run goes on where it was", name)
            raise
        self._stage.seconds = time.monotonic() - self._began
        if self.time_left:
            self.time_left.taken[name] = self._stage.seconds
        log.info("%s", self._stage.line())

    def once(self, function: Callable[..., T], **arguments: Any) -> T:
        """Call a function that concerns the whole field with the configuration; again where it fails for what can pass."""
        return self.executor.once(function, self.config, arguments)

    def show(self, key: str, words: str, rows: list[dict[str, Any]]) -> None:
        """Show a table to those who watch the run."""
        self.executor.show(f"{self.config.field}-{key}", words, rows)

    def each(self, step: Step, units: Iterable[Unit], required: bool = False) -> list[str]:
        """Do a step for all units side by side; returns those that are complete, in the order given.

        Where nothing can follow if one has failed, they are required, and the failure is raised as `KredError`.
        """
        batch = _Batch(self._stage, step, list(units))
        self._submit(batch)
        self._wait_for(batch)
        if required and self._stage.failed:
            raise KredError("; ".join(self._stage.failed.values()))
        return [name for name, _ in batch.units if name not in self._stage.failed]

    def in_background(self, name: str, step: Step, units: Iterable[Unit]) -> None:
        """Do a step for units that nothing waits for: in the background of the stages that follow, and counted by themselves.

        Drawing a figure keeps the interpreter, and so one core, to itself; kernels of co-adds, which release it, use the others.
        """
        self.outcome.stages.append(StageOutcome(name))
        self._waiting.append(_Batch(self.outcome.stages[-1], step, list(units)))

    def finish_background(self) -> None:
        """Wait for what runs in the background, when the last stage has ended."""
        waiting, self._waiting = self._waiting, []
        for batch in waiting:  # of a stage that none follows
            self._submit(batch)
        for batch in {id(batch): batch for batch, _ in self._running.values()}.values():
            self._wait_for(batch)

    def _submit(self, batch: _Batch) -> None:
        """Units to run side by side, and with them those that waited: first some of the former, then in turns."""
        batches, self._waiting = [batch, *self._waiting], []
        first, *others = ([(batch, *unit) for unit in batch.units] for batch in batches)
        at_once = self.executor.workers
        turns = zip_longest(first[at_once:], *others)
        for batch in batches:
            batch.began = time.monotonic()
        for batch, name, arguments in (*first[:at_once], *(unit for turn in turns for unit in turn if unit is not None)):
            self._running[self.executor.submit(batch.step, name, self.config, arguments)] = batch, name

    def _wait_for(self, awaited: _Batch) -> None:
        """Count what ends, until all units of a batch have."""
        if awaited.ended:
            return
        for ended, how in self.executor.ended(list(self._running)):
            batch, name = self._running.pop(ended)
            batch.count(name, how)
            if batch.stage is not self._stage and batch.ended:
                batch.stage.seconds = time.monotonic() - batch.began
                log.info("%s", batch.stage.line())
            if batch is awaited:
                self.executor.progress(self._stage.name, batch.n_ended, len(batch.units), name)
                self._at = batch.n_ended, len(batch.units)
            progress.show(f"{self.where()}: {name}", last=awaited.ended)
            if awaited.ended:
                break

    def where(self) -> str:
        """Return how far the stage that is running is, and how long the run will still take."""
        ended, units = self._at
        words = f"{self._stage.name:<10} {ended} of {units}" if units else self._stage.name
        if self.time_left is None:
            return words
        return f"{words}, {self.time_left.words(self._stage.name, ended / max(units, 1), time.monotonic() - self._began)}"
