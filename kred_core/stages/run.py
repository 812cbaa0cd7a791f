"""One run of a field: the loop over the stages, and what is said at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

from .. import __version__, memory, progress, report
from ..config import FieldConfig
from ..config.settings import to_toml
from ..errors import KredError, explain
from ..products import FieldPaths, discard, write_text
from ..products.locks import held
from ..progress import TimeLeft
from ..words import some
from .executor import Executor, Threads, UnitRunner
from .ledger import ACCOUNT
from .outcome import Outcome, disk_usage
from .plan import leftovers, missing_products, of_run, preflight, require_room, table
from .stage import Stage
from .tiles import tile_inputs
from .work import Manifest, Step, Work

log = logging.getLogger("kred_core.run")

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def _page_work(config: FieldConfig) -> Work:
    files = [*report.inputs(FieldPaths.of(config)), *tile_inputs(config)]
    return Work(config.field, files=files, facts={"kred": __version__})


PAGE = Step("report", 2, _page_work, lambda config: Manifest.of(report.write_field_page(FieldPaths.of(config))))


class _LogFile(logging.FileHandler):
    """The field's log. Where the disk is full it has gaps; the terminal and Prefect's pages have everything."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class Run(UnitRunner):
    """The work of one run.

    Its configuration has absolute paths where workers may have another current directory, and as much memory as there is.
    """

    def __init__(self, config: FieldConfig, executor: Executor):
        absolute = config.with_absolute_paths() if config.run.runner == "dask" else config
        super().__init__(memory.fitted(absolute, executor.workers), executor)
        self._shared = memory.explain(config, self.config)
        self._exclusive = True  # as far as locks can tell

    def reduce(self) -> Outcome:
        """Do all stages that were asked for, and compare what was asked for with what is on disk."""
        with self.explained(), self.exclusive(), self.logged(), self.explained():
            self.begin()
            for stage in of_run(self.config):
                self.executor.stage(stage.name, partial(self._do, stage))
                if self.outcome.stopped:
                    break
            self.finish_background()
            for stage in of_run(self.config):
                stage.finish(self.config)
            self._finish()
        return self.outcome

    def _do(self, stage: Stage) -> tuple[bool, str]:
        with self.stage(stage.name), self.memory(stage):
            # before anything large is written, and after the exposures are known
            if self.time_left is None and stage.name != next(iter(table())):
                self.time_left = TimeLeft(require_room(self.config), self.executor.workers)
            stage.run(self)
        return not (self._stage.failed or self.outcome.stopped), self.outcome.stopped or self._stage.counts()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One run at a time on a field; what runs that were killed left half done is removed."""
        lock = self.paths.run_lock
        with held(
            [lock], self.config.title, lambda holder: log.info("waiting for the run that holds %s: %s", lock, holder)
        ) as self._exclusive:
            if self._exclusive:  # otherwise it may be what another run is writing
                self._tidy("a run that was killed")
            yield
            if self._exclusive and self.config.run.runner == "dask":
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
            if not self._exclusive:
                log.warning(
                    "%s: this file system has no locks; see to it that no other run works on this field meanwhile. What a run that "
                    "was killed left half written (.*.tmp) stays there",
                    self.config.root,
                )
            with progress.every_minute(lambda: log.info("%s", self.where())):
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

    def _finish(self) -> None:
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
            raise KredError(explain(cast(BaseException, how.error)))
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
