"""Do again only what is missing or out of date: what all stage tasks have in common.

Prefect's own cache policies do not fit files. The default one never hits in a second run; none
sees that an input was replaced or that a product was deleted, and then reports "Cached" for a
file that is not there. Here a task returns a `Manifest` of the files it wrote. Prefect keeps it
under a key made of everything the products depend on: the stage and its version, size and time of
the input files, and the options of that stage alone. A record whose products are no longer on disk
as the manifest says is dropped before Prefect looks for it. One lock for each unit of work lets
two runs of the same field share the work instead of doing it twice.

The records need neither a server nor its database: they are JSON files in the field's own memory
(`FieldPaths.memory`) and may be deleted at any time, which costs the work again and nothing else.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from prefect import Task, task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas import TaskRun
from prefect.context import TaskRunContext
from prefect.locking.protocol import LockManager
from prefect.results import ResultRecord
from prefect.states import Completed, State
from prefect.transactions import Transaction
from pydantic import BaseModel, JsonValue

from kred_core.config import FieldConfig
from kred_core.errors import InputError, KredError
from kred_core.locks import open_lock, try_lock
from kred_core.products import FieldPaths, discard, identity

from .interruption import interruptible
from .records import Manifest, ManifestSerializer, RecordStorage, read_manifest

__all__ = [
    "REFUSED",
    "Manifest",
    "ProductCache",
    "UnitLocks",
    "Work",
    "can_pass",
    "each_by_itself",
    "for_run",
    "is_current",
    "stage_task",
]

log = logging.getLogger("kred_core.tasks")  # below kred_core, whose records Prefect shows in the UI

RETRY_DELAYS = [2.0, 20.0]  # s: a hiccup, then a file server that restarts
PASSING = frozenset(
    getattr(errno, name)
    for name in "EIO EAGAIN EINTR EBUSY ESTALE ETIMEDOUT ECONNRESET ECONNABORTED ENETRESET ENFILE EMFILE EREMOTEIO".split()
    if hasattr(errno, name)
)
NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # a name of no file, or a link that leads to itself
REFUSED = "refused"  # among the values of a manifest: why nobody can go on with this unit; the state of the task says so
NAMED = 5  # files in a message
Identity = tuple[str, int | None, int | None]  # path, size in bytes and time of modification in ns, where it exists
LOCK = "lock"  # in the directory of a unit; all other files there are records, or hidden ones in the making


@dataclass(frozen=True)
class Work:
    """What one call of a stage works on, and everything its products depend on.

    Parameters
    ----------
    unit : str
        Exposure, tile or mosaic. No two calls of a stage in one field share it.
    files : iterable of `~pathlib.Path`
        Input files. One that does not exist counts too: the work is done again when it appears.
    options : iterable of `~pydantic.BaseModel`
        The sections of the configuration that this stage reads, and no others.
    facts : dict
        Other plain values that the products depend on.
    """

    unit: str
    files: Iterable[Path] = ()
    options: Iterable[BaseModel] = ()
    facts: dict[str, JsonValue] = field(default_factory=dict)

    def identities(self) -> list[Identity]:
        """The input files as they are now."""
        return [_identity(path.absolute()) for path in self.files]

    def digest(self) -> str:
        """Hexadecimal digest of all that the products depend on."""
        content = [
            self.identities(),
            [[type(section).__name__, section.model_dump(mode="json")] for section in self.options],
            self.facts,
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def _identity(path: Path) -> Identity:
    try:
        return identity(path)
    except OSError as e:
        if e.errno not in NOWHERE:
            raise
        return str(path), None, None


class UnitLocks(LockManager):
    """One task at a time on a unit of work, among all threads and processes that use the records.

    The lock is the kernel's (``flock``) and ends with the process that holds it. Prefect's own
    FileSystemLockManager leaves its lock file behind when a run is killed, and all later runs wait for it for ever.

    Parameters
    ----------
    records : `~pathlib.Path`
        Directory of the records; key ``stage/unit/digest`` is locked by the file ``stage/unit/lock`` in it.
    """

    def __init__(self, records: Path) -> None:
        self.records = records
        self._held: dict[tuple[str, str], BinaryIO] = {}

    def __reduce__(self) -> tuple:
        return UnitLocks, (self.records,)  # a task that is sent to another process takes its own locks there

    def acquire_lock(self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None) -> bool:
        file = open_lock((self.records / key).with_name(LOCK))
        deadline = time.monotonic() + (float("inf") if acquire_timeout is None else acquire_timeout)
        while not try_lock(file):
            if time.monotonic() >= deadline:
                file.close()
                return False
            time.sleep(0.1)
        self._held[key, holder] = file
        return True

    def release_lock(self, key: str, holder: str) -> None:
        if not self.is_lock_holder(key, holder):
            raise ValueError(f"{holder} does not hold the lock of {key}")
        self._held.pop((key, holder)).close()

    def is_lock_holder(self, key: str, holder: str) -> bool:
        return (key, holder) in self._held

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        waiting = str(uuid4())
        free = self.acquire_lock(key, waiting, timeout)
        if free:
            self.release_lock(key, waiting)
        return free

    def is_locked(self, key: str) -> bool:
        # Prefect asks also for the random keys under which it keeps exceptions: they belong to no unit, and to nobody else.
        return "/" in key and not self.wait_for_lock(key, timeout=0)

    # Prefect asks for these only for asynchronous tasks, which no stage is.
    async def aacquire_lock(self, *args, **kwargs) -> bool:
        return await asyncio.to_thread(self.acquire_lock, *args, **kwargs)

    async def await_for_lock(self, *args, **kwargs) -> bool:
        return await asyncio.to_thread(self.wait_for_lock, *args, **kwargs)


@dataclass
class ProductCache(CachePolicy):
    """Prefect's cache key of a stage, from the stage's own description of its work.

    Parameters
    ----------
    stage : str
    version : int
        Of the stage; a higher one makes everything be done again.
    work : callable
        Takes the arguments of the task, returns its `Work`.
    records : `~pathlib.Path` or None
        Directory of the records. None: nothing is remembered.
    """

    stage: str = ""
    version: int = 0
    work: Callable[..., Work] | None = None
    records: Path | None = None

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        if self.records is None:
            return None
        record = self.record(inputs)
        _drop_outdated(record)
        return str(record.relative_to(self.records))

    def record(self, inputs: dict[str, Any]) -> Path:
        """The file that remembers a call with these arguments, if any does."""
        work = self.work(**inputs)
        return self.records / self.stage / work.unit / f"{self.version}-{work.digest()}"


def _drop_outdated(wanted: Path) -> None:
    """Remove the records of a unit that speak of other inputs, or of products that are not on disk any more."""
    unit = wanted.parent
    for path in unit.iterdir() if unit.is_dir() else ():
        if path.name != LOCK and not path.name.startswith(".") and (path != wanted or not _holds(path)):
            discard(path)


def _holds(record: Path) -> bool:
    """Whether the products are on disk as a record says."""
    manifest = read_manifest(record)
    return manifest is not None and manifest.matches_disk()


def is_current(task: Task, config: FieldConfig, arguments: dict[str, Any]) -> bool:
    """Whether a run would find a unit of work done (and not do it), without running anything.

    Parameters
    ----------
    task : `~prefect.Task`
        Made by `stage_task`.
    config : `~kred_core.config.FieldConfig`
    arguments : dict
        The task's other arguments.
    """
    record = _cache(task, config).record({"config": config, **arguments})
    return not config.run.redo and _holds(record)


def can_pass(task: Task, run: TaskRun, state: State) -> bool:
    """Whether a task failed for a reason that may be gone at the next try: the file system's, not ours (a retry condition)."""
    data = state.data
    error = data.result if isinstance(data, ResultRecord) else data
    while isinstance(error, BaseException):
        if isinstance(error, OSError) and error.errno in PASSING:
            log.warning("%s: %s; trying again", run.name, error)  # Prefect asks only while tries are left
            return True
        error = error.__cause__
    return False


def stage_task(stage: str, version: int, work: Callable[..., Work]) -> Callable[[Callable[..., Manifest]], Task]:
    """Make a function a task of the pipeline: named, retried and remembered as all stages are.

    Parameters
    ----------
    stage : str
        Name of the stage.
    version : int
        Increase it when the stage computes something else than before from the same inputs.
    work : callable
        Called with the arguments of the task; returns the `Work` that they mean.

    Returns
    -------
    callable
        Decorator that turns a function which returns a `Manifest` into a `~prefect.Task`.

    Notes
    -----
    The task remembers nothing until `for_run` has told it where.

    Examples
    --------
    ::

        @stage_task("summarize", version=1, work=lambda exposure, config: Work(
            FieldPaths.root_of(exposure), files=[exposure], options=[config.summarize]))
        def summarize_exposure(exposure: Path, config: FieldConfig) -> Manifest: ...
    """

    def run_name(parameters: dict[str, Any]) -> str:
        try:
            return f"{stage} {work(**parameters).unit}"
        except Exception:  # whatever it is, the task itself will meet and report it; a name must not raise
            return stage

    def decorate(function: Callable[..., Manifest]) -> Task:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Manifest | State:
            try:
                return do(*args, **kwargs)
            except Exception as e:
                _forget_frames(e)
                raise

        def do(*args: Any, **kwargs: Any) -> Manifest | State:
            # Prefect only logs what `work` raises while the key is computed, and runs without a cache: fail here instead.
            begun = work(*args, **kwargs)
            begun.digest()
            before = begun.identities()
            try:
                with interruptible():
                    manifest = function(*args, **kwargs)
            except (KredError, OSError, MemoryError) as e:
                _require_unchanged(before, work(*args, **kwargs), e)
                raise
            except Exception:
                log.exception("%s: unexpected error", stage)  # a defect: Prefect alone would not show where
                raise
            if not isinstance(manifest, Manifest):
                raise TypeError(f"{function.__name__} returned {type(manifest).__name__}, expected a Manifest")
            try:
                _require_unchanged(before, work(*args, **kwargs))
            except InputError:
                for path in manifest.paths:  # partly made from one version of the input, partly from another
                    path.unlink(missing_ok=True)
                raise
            refused = manifest.values.get(REFUSED)
            return Completed(name="Refused", message=refused, data=manifest) if refused else manifest

        return task(
            run,
            name=stage,
            version=str(version),
            task_run_name=run_name,
            retries=len(RETRY_DELAYS),
            retry_delay_seconds=RETRY_DELAYS,
            retry_condition_fn=can_pass,
            cache_policy=ProductCache(isolation_level="SERIALIZABLE", stage=stage, version=version, work=work),
            persist_result=True,
            result_serializer=ManifestSerializer(),
        )

    return decorate


def _forget_frames(error: BaseException | None) -> None:
    """Let go of the images and files that a failure has ended the work on: Prefect keeps the error, and so would keep them."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _require_unchanged(before: list[Identity], work: Work, error: Exception | None = None) -> None:
    """Refuse what was made from files that somebody was changing meanwhile; that may be why it has failed, too."""
    changed = sorted({Path(path).name for path, *_ in set(before) ^ set(work.identities())})
    if changed:
        names = ", ".join(changed[:NAMED]) + (f" and {len(changed) - NAMED} more" if len(changed) > NAMED else "")
        raise InputError(f"changed while it was being read: {names}; when it is whole, run the same command again") from error


@contextmanager
def each_by_itself() -> Iterator[None]:
    """Let the tasks in a task remember what they did, each when it ends.

    Prefect makes them one transaction with the outer one: nothing would be remembered before that ends, and nothing at all
    where one of them has failed.
    """
    token = Transaction.__var__.set(None)
    try:
        yield
    finally:
        Transaction.__var__.reset(token)


def for_run(task: Task, config: FieldConfig) -> Task:
    """A stage's task as one run wants it: its records in the field's memory, and done again where the run says so."""
    cache = _cache(task, config)
    for leftover in cache.records.iterdir() if cache.records.is_dir() else ():
        if leftover.is_file():
            leftover.unlink(missing_ok=True)  # Prefect keeps the exception of a failed task under a random name; nobody asks for it
    ready = task.with_options(cache_policy=cache, refresh_cache=config.run.redo)
    ready.result_storage = RecordStorage(basepath=str(cache.records))  # as an option Prefect wants it registered with a server
    return ready


def _cache(task: Task, config: FieldConfig) -> ProductCache:
    records = (FieldPaths.of(config).memory / "results").absolute()
    return replace(task.cache_policy, records=records, lock_manager=UnitLocks(records))
