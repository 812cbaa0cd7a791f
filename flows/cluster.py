"""Tasks on a Dask cluster: in processes of this machine, on other machines, or as jobs of a batch system.

What a worker took with it when it died is done again by another. A cluster that is neither running nor one of this machine is
described by a small TOML file, which is data: only kinds that are known here can be named in it. deployments/dask has examples.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import inspect
import logging
import signal
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import distributed
import httpx
from dask.typing import Key
from distributed import LocalCluster, Nanny, SpecCluster, Worker
from distributed.client import FutureCancelledError
from distributed.core import rpc
from distributed.security import Security
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed
from prefect.utilities.annotations import opaque
from prefect_dask import DaskTaskRunner
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kred_core import __version__
from kred_core.config import FieldConfig, RunConfig
from kred_core.errors import ConfigError, ToolError
from tasks.steps import PATIENCE, interrupt_run

from . import messages
from .prefect_internals import EndedFuture, finish_events, send_events_to, settings_here, with_settings

__all__ = ["ClusterFile", "preflight", "read", "started"]

log = logging.getLogger("kred_core.cluster")

CONNECTION_TIMEOUT = 10.0  # s
REPORT_TIMEOUT = 10.0  # s
TOPIC = "kred"  # of the messages that workers send

Kind = Literal[
    "dask.distributed.LocalCluster",
    "dask_jobqueue.HTCondorCluster",
    "dask_jobqueue.LSFCluster",
    "dask_jobqueue.MoabCluster",
    "dask_jobqueue.OARCluster",
    "dask_jobqueue.PBSCluster",
    "dask_jobqueue.SGECluster",
    "dask_jobqueue.SLURMCluster",
]
# Processes of this machine. kred bounds its memory itself (coadd.memory); Dask would kill what uses more than its share of the
# machine. Others on this machine find neither a web page nor a scheduler that would run their programs.
LOCAL_CLUSTER: Kind = "dask.distributed.LocalCluster"
LOCAL: dict[str, Any] = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": None, "security": True}


class ClusterFile(BaseModel):
    """Contents of the file: the class of the cluster, its arguments, and worker processes, of all jobs together."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    kind: Annotated[Kind, Field(alias="class")]
    workers: int = Field(ge=1, le=10000)
    arguments: dict[str, Any] = {}

    @property
    def cluster_class(self) -> type[SpecCluster]:
        module, name = self.kind.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)


def read(path: Path) -> ClusterFile:
    """Read and judge a description.

    Raises
    ------
    ConfigError
        It cannot be read, or has an entry that is missing, unknown or unusable, which is named.
    ToolError
        The package that it needs is not installed.
    """
    try:
        found = ClusterFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ConfigError(f"{path} (--dask-cluster) cannot be read: {e}") from e
    except ValidationError as e:
        raise ConfigError(f"{path} (--dask-cluster): {'; '.join(map(_explain, e.errors()))}") from e
    try:
        known = _arguments(found.cluster_class)
    except ImportError as e:
        raise ToolError(f"{path}: {found.kind} is not installed: pip install 'kred[dask]'") from e
    for name in found.arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"{path} (--dask-cluster): arguments.{name}: {found.kind} has no such argument{hint}")
    return found


def _explain(problem: Mapping[str, Any]) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{name} is not known here; arguments of the class stand below [arguments]"
    return f"{name}: {problem['msg'][0].lower()}{problem['msg'][1:]}, not {problem['input']!r}"


def _arguments(cluster: type) -> set[str]:
    """All arguments that a class of clusters takes, for itself and for what it starts."""
    classes = [*cluster.__mro__, *getattr(cluster, "job_cls", object).__mro__]
    if issubclass(cluster, LocalCluster):
        classes += [Nanny, Worker]
    named = {name for c in classes for name, p in inspect.signature(c.__init__).parameters.items() if p.kind.name != "VAR_KEYWORD"}
    return named - {"self", "args", "loop", "asynchronous", "n_workers", "scheduler_ip", "worker_class", "job_cls", "scheduler_cls"}


def preflight(run: RunConfig) -> None:
    """Find what would keep the cluster of a configuration from working.

    Raises
    ------
    ConfigError
        The description of the cluster cannot be used.
    ToolError
        No scheduler answers at the address that was given.
    """
    if run.dask_cluster:
        read(Path(run.dask_cluster))
    if run.dask_address:
        try:
            found = asyncio.run(_identity(run.dask_address))["type"]
        except TimeoutError:
            found = f"nobody answers within {CONNECTION_TIMEOUT:.0f} s"
        except (ValueError, OSError) as e:
            found = str(e)
        except Exception:  # Dask takes whatever it is told for lengths of arrays and the like; a web server makes it a MemoryError
            found = "what answers there is something else"
        if found != "Scheduler":
            raise ToolError(
                f"there is no Dask scheduler at {run.dask_address} (--dask-address): {found}. Start one (dask scheduler), "
                "or correct the address; it looks like tcp://HOST:8786"
            )


async def _identity(address: str) -> dict[str, Any]:
    async with asyncio.timeout(CONNECTION_TIMEOUT):
        async with rpc(address, connection_args=Security().get_connection_args("client")) as there:
            return await there.identity()


@contextmanager
def started(config: FieldConfig, workers: int) -> Iterator[DaskTaskRunner]:
    """The task runner of a configuration, with its cluster, at work in this block.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    workers : int
        Of a cluster of this machine.

    Raises
    ------
    ConfigError, ToolError
        The cluster cannot be started or reached, or its workers cannot do the work of this run.
    """
    run = flow_run.id
    with _runner(config.run, workers) as runner:
        client = runner.client
        _require_usable_workers(client, config)
        client.register_plugin(_Worker(PREFECT_API_URL.value()))
        client.subscribe_topic(TOPIC, lambda event: _say(event[1], run))
        client.subscribe_topic("all", runner.watch)
        try:
            yield runner
        except BaseException as e:
            if not isinstance(e, Exception) and client.status == "running":
                _stop(runner, run)
            raise
        finally:
            if client.status == "running":  # the scheduler may be gone
                client.run(_finish_reports)
                for topic in (TOPIC, "all"):
                    client.unsubscribe_topic(topic)


@contextmanager
def _runner(run: RunConfig, workers: int) -> Iterator[_TaskRunner]:
    if run.dask_address:
        with _TaskRunner(address=run.dask_address, client_kwargs={"timeout": CONNECTION_TIMEOUT}) as runner:
            yield runner
        return
    described = ClusterFile(kind=LOCAL_CLUSTER, workers=workers)
    if run.dask_cluster:
        described = read(Path(run.dask_cluster))
        if run.workers:
            described = described.model_copy(update={"workers": run.workers})
    with _cluster(described) as cluster, _TaskRunner(cluster=cluster) as runner:
        yield runner


@contextmanager
def _cluster(described: ClusterFile) -> Iterator[SpecCluster]:
    """The cluster, while this block lasts; its workers may still have to wait for their machines."""
    given = LOCAL | {"n_workers": described.workers} if described.kind == LOCAL_CLUSTER else {}
    try:
        cluster = described.cluster_class(**given | described.arguments)
    except Exception as e:  # what the classes of other packages raise is known to nobody
        raise ToolError(f"the Dask cluster ({described.kind}) cannot be started: {e}") from e
    try:
        if not given:
            _ask_for(cluster, described)
    except ToolError:
        with suppress(AssertionError):  # Dask fails to close what has not begun
            cluster.close()
        raise
    with cluster:
        yield cluster


def _ask_for(cluster: SpecCluster, described: ClusterFile) -> None:
    """Submit the jobs, and have others submitted when these end before the run does."""

    async def submit_one() -> None:
        cluster.worker_spec.update(cluster.new_worker_spec())
        await cluster

    try:
        cluster.sync(submit_one)  # the others are submitted in the background, where nobody would see why that fails
    except (RuntimeError, OSError, ValueError) as e:  # RuntimeError: what the command of the batch system says
        said = " ".join(str(e).partition("stderr:")[2].split()) or str(e)
        raise ToolError(f"the batch system does not take a job of {described.kind}: {said}") from e
    cluster.adapt(minimum=described.workers, maximum=described.workers)


def _require_usable_workers(client: distributed.Client, config: FieldConfig) -> None:
    """Wait for the first worker, and ask it whether it could do the work of this run."""
    if not client.nthreads():
        log.info("the Dask cluster %s has no worker yet; if it stays so, look at its jobs and their logs", client.scheduler.address)
    asked = client.submit(_problem, config.root.absolute(), __version__, settings_here(), pure=False)
    try:
        problem = asked.result()
    except Exception as e:  # raised by a worker, which may have any packages or none
        problem = f"{type(e).__name__}: {e}"
    if problem:
        raise ToolError(f"the workers of the Dask cluster {client.scheduler.address} cannot do the work of this run: {problem}")
    log.info("Dask cluster %s, workers so far: %d", client.scheduler.address, len(client.nthreads()))


def _problem(root: Path, version: str, settings: dict[str, Any]) -> str | None:
    """Asked on a worker: what is missing there, if anything is."""
    if __version__ != version:
        return f"they have kred {__version__}, and this is {version}"
    if not root.is_dir():
        return f"they do not see the data root {root}"
    with with_settings(settings), get_client(sync_client=True) as client:
        if client.api_healthcheck() is not None:
            return (
                f"they do not reach the Prefect server {client.api_url}. Start one that the whole network can reach, and set "
                "PREFECT_API_URL to its address"
            )
    return None


def _say(event: list[dict[str, Any]], run: str) -> None:
    """Say, of all that is said in the cluster, what is said by tasks of this run."""
    for values in event:
        if values["flow_run_id"] == run:
            messages.say(values)


class _Worker(distributed.WorkerPlugin):
    """What a worker needs to know of the run, also one that comes later: the URL of the Prefect server that it reports to."""

    name = "kred"

    def __init__(self, server: str):
        self.server = server

    def setup(self, worker: distributed.Worker) -> None:
        messages.send_to_run(lambda values: worker.log_event(TOPIC, [values]))  # Dask adds to what is not in a list
        messages.kred_only()
        send_events_to(self.server)
        if worker.nanny:  # which ends it; Ctrl-C in the terminal of the run is for the run
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)


async def _finish_reports() -> None:
    """On a worker: wait until Prefect knows how all tasks ended, if it can be told."""
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(finish_events), REPORT_TIMEOUT)


def _stop(runner: _TaskRunner, run: str) -> None:
    """Stop the tasks of this run, and no others: the workers may be those of several runs."""
    client, waiting = runner.client, runner.waiting
    client.run(interrupt_run, run)
    client.cancel(list(waiting.values()), force=True)
    deadline = time.monotonic() + PATIENCE
    while any(client.run(_works_at, set(waiting)).values()) and time.monotonic() < deadline:
        time.sleep(0.1)


def _works_at(tasks: set[Key], dask_worker: distributed.Worker) -> bool:
    """On a worker: whether it is still busy with one of these tasks."""
    return not tasks.isdisjoint(dask_worker.active_threads.values())


class _TaskRunner(DaskTaskRunner):
    """Prefect's, which also knows what it waits for."""

    def __init__(self, **how: Any):
        super().__init__(**how)
        self._futures: dict[Key, _Future] = {}

    @property
    def waiting(self) -> dict[Key, distributed.Future]:
        """Tasks that have not ended, as far as is known here."""
        return {key: future.wrapped_future for key, future in self._futures.items() if not future.ended}

    def submit(  # type: ignore[override] # one signature stands for Prefect's overloads
        self, task: Task, parameters: dict[str, Any], wait_for: Any = None, dependencies: Any = None
    ) -> _Future:
        # Prefect's marks around arguments are of no use here, and do not survive the journey.
        plain = {name: value.unwrap() if isinstance(value, opaque) else value for name, value in parameters.items()}
        future = super().submit(task, plain, wait_for, dependencies)
        ours = _Future(future.task_run_id, future.wrapped_future)
        self._futures[ours.wrapped_future.key] = ours
        return ours

    def watch(self, event: tuple[float, dict[str, Any]]) -> None:
        """Say that work was lost with a worker. Called for whatever happens in the cluster."""
        happened = event[1]
        if happened.get("action") == "remove-worker" and not happened["expected"]:
            lost = set(happened["processing-tasks"]) & set(self.waiting)
            if lost:
                log.warning("a worker is gone, %s; tasks that it had are done again: %d", happened["worker"], len(lost))


class _Future(EndedFuture[distributed.Future]):
    """Prefect's, which knows how it ended also where no worker lived long enough to tell."""

    def wait(self, timeout: float | None = None) -> None:
        if self.ended:
            return
        try:
            self.ended = self.wrapped_future.result(timeout)
        except distributed.TimeoutError:
            return
        except distributed.KilledWorker as e:
            self._crash(f"{e.allowed_failures + 1} workers died while they did it; do they have enough memory?")
        except FutureCancelledError:
            self._crash("the scheduler of the Dask cluster is gone; the same command goes on where this run was")
        except Exception as e:  # raised by a worker or on the way from there
            self._crash(f"the cluster could not do it: {type(e).__name__}: {e}")
        self.wrapped_future.release()  # otherwise what a worker has told would be done again should that worker die later

    def _crash(self, reason: str) -> None:
        self.ended = Crashed(message=reason, data=ToolError(reason))
        with suppress(httpx.HTTPError, PrefectHTTPStatusError), get_client(sync_client=True) as client:
            client.set_task_run_state(self.task_run_id, Crashed(message=reason), force=True)
