"""One run of a field: the loop over the stages, what is counted on the way, and what is said at the end.

What happens to units is the same for all stages: they run side by side, one that fails does not stop the others, what is up
to date is not done again, and each is counted. *How* they run side by side is an `Executor`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

from .. import __version__, memory, progress, report
from ..config import FieldConfig
from ..config.settings import to_toml
from ..errors import KredError, explain
from ..products import FieldPaths, discard, write_text
from ..products.locks import held
from ..progress import TimeLeft
from ..words import some
from .accounts import ACCOUNT
from .executor import Ended, Executor, Threads
from .outcome import Outcome, StageOutcome, disk_usage
from .page import PAGE
from .plan import require_room
from .preflight import leftovers, missing_products, preflight
from .stage import Stage, of_run, table
from .work import Manifest, Step, Unit

__all__ = ["Run", "reduce"]

log = logging.getLogger("kred_core.run")

T = TypeVar("T")
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


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


class _LogFile(logging.FileHandler):
    """The field's log. Where the disk is full it has gaps; the terminal and Prefect's pages have everything."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class Run:
    """The work of one run.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    executor : Executor

    Attributes
    ----------
    config : `~kred_core.config.FieldConfig`
        With absolute paths where workers may have another current directory, and with as much memory as there is.
    paths : `~kred_core.products.FieldPaths`
    outcome : `~kred_core.stages.outcome.Outcome`
        What happened so far.
    """

    def __init__(self, config: FieldConfig, executor: Executor):
        self.executor = executor
        absolute = config.with_absolute_paths() if config.run.runner == "dask" else config
        self.config = memory.fitted(absolute, executor.workers)
        self._shared = memory.explain(config, self.config)
        self.paths = FieldPaths.of(self.config)
        self.outcome = Outcome(config.field)
        self._stage = StageOutcome("start")  # the one that is running
        self._besides: list[_Batch] = []  # that wait for the next units
        self._running: dict[Any, tuple[_Batch, str]] = {}
        self._at: tuple[int, int] = 0, 0  # units of the stage that have ended, and all of them
        self._left: TimeLeft | None = None
        self._alone = True  # as far as locks can tell

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what cannot be sent to another process; Prefect sends the context of a run with each task."""
        return {**self.__dict__, "_running": {}, "_besides": []}

    def reduce(self) -> Outcome:
        """Do all stages that were asked for, and compare what was asked for with what is on disk."""
        with self.explained(), self.alone(), self.logged(), self.explained():
            self.begin()
            for stage in of_run(self.config):
                self.executor.stage(stage.name, lambda stage=stage: self._do(stage))
                if self.outcome.stopped:
                    break
            self.finish_besides()
            for stage in of_run(self.config):
                stage.finish(self.config)
            self.finish()
        return self.outcome

    def _do(self, stage: Stage) -> tuple[bool, str]:
        with self.stage(stage.name), self.memory(stage):
            self._require_room(stage.name)
            stage.run(self)
        return not (self._stage.failed or self.outcome.stopped), self.outcome.stopped or self._stage.counts()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One run at a time on a field; what runs that were killed left half done is removed."""
        lock = self.paths.run_lock
        with held(
            [lock], self.config.title, lambda holder: log.info("waiting for the run that holds %s: %s", lock, holder)
        ) as self._alone:
            if self._alone:  # otherwise it may be what another run is writing
                self._tidy("a run that was killed")
            yield
            if self._alone and self.config.run.runner == "dask":
                self._tidy("a worker that is gone")

    def _tidy(self, culprit: str) -> None:
        for path in self.paths.unfinished():
            log.info("removing what %s left behind: %s", culprit, path)
            try:
                discard(path)
            except OSError as e:  # it is somebody else's
                log.warning("cannot be removed: %s", explain(e))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What a person can mend ends the run here, with a message."""
        try:
            yield
        except (KredError, OSError, MemoryError) as e:
            self.outcome.stopped = self.outcome.stopped or explain(e)
            log.error("%s", self.outcome.headline())

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Everything that kred says goes into the field's log too."""
        self.paths.log.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(self.paths.log, encoding="utf-8")
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logger = logging.getLogger("kred_core")
        logger.addHandler(handler)
        try:
            log.info("kred %s: %s, stages %s", __version__, self.config.title, ", ".join(self.config.run.stages))
            if self._shared:
                log.info("%s", self._shared)
            if not self._alone:
                log.warning(
                    "%s: this file system has no locks; see to it that no other run works on this field meanwhile. What a run that "
                    "was killed left half written (.*.tmp) stays there",
                    self.config.root,
                )
            with progress.every_minute(lambda: log.info("%s", self._where())):
                yield
        except Exception as e:
            log.exception("unexpected error, a defect of kred (%s: %s); details in %s", type(e).__name__, e, self.paths.log)
            raise
        finally:
            logger.removeHandler(handler)
            with suppress(OSError):  # the last lines on a full disk
                handler.close()

    def begin(self) -> None:
        """Look what is to be reduced, and leave the options beside the products."""
        self._exposures = {path.name for path in self.paths.exposures()}
        write_text(self.paths.run_config, to_toml(self.config))
        self.executor.begin(self.config)

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
        if self._left:
            self._left.taken[name] = self._stage.seconds
        log.info("%s", self._stage.line())

    def _require_room(self, stage: str) -> None:
        """Before anything large is written, and after the exposures are known: is there room for it on the disk?"""
        if self._left is None and stage != next(iter(table())):
            self._left = TimeLeft(require_room(self.config), self.executor.workers)

    @contextmanager
    def memory(self, stage: Stage) -> Iterator[None]:
        """In a stage that needs much memory: wait until there is a place for it. The wait is not counted as work."""
        places = self.paths.heavy_locks(self.config.run.heavy_at_once) if stage.heavy else []
        if not places:
            yield
            return
        with held(
            places,
            f"{self.config.title}, {stage.name}",
            lambda holders: log.info("%s waits: memory is taken by %s", stage.name, holders),
        ):
            self._began = time.monotonic()
            yield

    def once(self, function: Callable[..., T], **arguments: Any) -> T:
        """Call a function that concerns the whole field with the configuration; again where it fails for what can pass."""
        return self.executor.once(function, self.config, arguments)

    def show(self, key: str, words: str, rows: list[dict[str, Any]]) -> None:
        """Show a table to those who watch the run."""
        self.executor.show(f"{self.config.field}-{key}", words, rows)

    def each(self, step: Step, units: Iterable[Unit], required: bool = False) -> list[str]:
        """Do a step for all units, side by side; one that fails does not stop the others.

        Parameters
        ----------
        step : Step
        units : iterable of (str, dict)
            Name of the unit, for people, and the step's arguments.
        required : bool
            Nothing can follow where one has failed.

        Returns
        -------
        list of str
            The units that are complete, in the order given.

        Raises
        ------
        KredError
            A required unit has failed.
        """
        batch = _Batch(self._stage, step, list(units))
        self._submit(batch)
        self._wait_for(batch)
        if required and self._stage.failed:
            raise KredError("; ".join(self._stage.failed.values()))
        return [name for name, _ in batch.units if name not in self._stage.failed]

    def beside(self, name: str, step: Step, units: Iterable[Unit]) -> None:
        """Units that nothing waits for: they run beside those of the stages that follow, and are counted apart.

        For figures above all: the drawing of one keeps the interpreter to itself, and so keeps one core busy, whatever the
        number of threads; kernels that release it, as those of co-adds, use the others meanwhile.

        Parameters
        ----------
        name : str
            What they are, for the log.
        step, units
            As of `each`.
        """
        self.outcome.stages.append(StageOutcome(name))
        self._besides.append(_Batch(self.outcome.stages[-1], step, list(units)))

    def finish_besides(self) -> None:
        """Wait for what runs beside the stages, the last of which has ended."""
        besides, self._besides = self._besides, []
        for batch in besides:  # of a stage that none follows
            self._submit(batch)
        for batch in {id(batch): batch for batch, _ in self._running.values()}.values():
            self._wait_for(batch)

    def _submit(self, batch: _Batch) -> None:
        """Units to run side by side, and with them those that waited: first some of the former, then in turns."""
        batches, self._besides = [batch, *self._besides], []
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
            progress.show(f"{self._where()}: {name}", last=awaited.ended)
            if awaited.ended:
                break

    def _where(self) -> str:
        """How far the stage that is running is, and how long the run will still take."""
        ended, units = self._at
        words = f"{self._stage.name:<10} {ended} of {units}" if units else self._stage.name
        if self._left is None:
            return words
        return f"{words}, {self._left.words(self._stage.name, ended / max(units, 1), time.monotonic() - self._began)}"

    def finish(self) -> None:
        """Compare what was asked for with what is on disk, and say it all in the log."""
        try:
            if not self.outcome.stopped:
                self.outcome.missing = missing_products(self.config)
                self.outcome.notes += leftovers(self.config)
        except KredError as e:
            self.outcome.stopped = explain(e)
        self._account()
        self.outcome.disk = disk_usage(self.paths.directories)
        self._show_page()
        self.executor.end(self.outcome)
        for line in self.outcome.details():
            log.info("%s", line)

    def _account(self) -> None:
        """Compare the input with what became of it; of a run that was stopped, as far as its stages have ended."""
        ended = [s.name for s in self.outcome.stages if s.name in self.config.run.stages]
        if self.outcome.stopped:
            ended.pop()
        if not ended:
            return
        config = self.config.model_copy(update={"run": self.config.run.model_copy(update={"only": ended})})
        try:
            found: dict[str, Any] = {**self._at_the_end(ACCOUNT, config).values}
            self.outcome.input, self.outcome.unaccounted = list(found["sums"]), list(found["faults"])
            self.outcome.n_refused, self.outcome.n_used = found["n_refused"], found["n_used"]
            self.outcome.n_detectors = found["n_detectors"]
            if gone := self._exposures - {path.name for path in self.paths.exposures()}:
                self.outcome.unaccounted.append(f"gone since the run began: {some(gone)}")
        except (KredError, OSError, MemoryError) as e:
            self.outcome.unaccounted = [explain(e)]

    def _show_page(self) -> None:
        """Bring the page of the field up to date, whatever became of the run, and that of all fields."""
        try:
            self.outcome.remember(self.paths.record("run", "last"), self.config.root)
            self._at_the_end(PAGE, self.config)
            report.write_fields_page(self.paths)
            self.outcome.page = self.paths.page
        except (KredError, OSError, MemoryError) as e:
            self.outcome.stopped = self.outcome.stopped or f"report: {explain(e)}"

    def _at_the_end(self, step: Step, config: FieldConfig) -> Manifest:
        """Do a step that concerns the whole field and belongs to no stage."""
        ((_, how),) = self.executor.ended([self.executor.submit(step, config.field, config, {})])
        if how.manifest is None:
            raise KredError(explain(how.error))
        return how.manifest


def reduce(config: FieldConfig) -> Outcome:
    """Reduce one field in threads of this process, without Prefect.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
        Which field and tiles, and every option.

    Returns
    -------
    `~kred_core.stages.outcome.Outcome`
        What was made, what was refused and why; ``complete`` where everything that was asked for exists.

    Raises
    ------
    KredError
        The run cannot begin: the data root, the field or a table is missing or unusable.
    """
    preflight(config)
    with Threads(config) as executor:
        return Run(config, executor).reduce()
