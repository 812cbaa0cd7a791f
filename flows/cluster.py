"""Tasks on a Dask cluster: on other machines, as jobs of a batch system, or in processes of this machine.

All else is as with threads: kred's messages reach the terminal, the field's log and the UI, a run that is stopped leaves
nothing half written, and what a worker took with it when it died is done again by another. Kept apart because Dask is
needed, and installed, only by some.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import queue
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import distributed
import httpx
from distributed.client import FutureCancelledError
from distributed.core import rpc
from distributed.security import Security
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, hydrated_context, serialize_context
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed
from prefect.utilities.annotations import opaque
from prefect_dask import DaskTaskRunner
from prefect_dask.task_runners import PrefectDaskFuture

from kred_core import __version__
from kred_core.config import FieldConfig, RunConfig
from kred_core.errors import ToolError
from tasks.interruption import PATIENCE, interrupt_run

from . import cluster_file, messages
from .cluster_file import LOCAL_CLUSTER, ClusterFile

__all__ = ["preflight", "started"]

log = logging.getLogger("kred_core.cluster")

CONNECTION_TIMEOUT = 10.0  # s
REPORT_TIMEOUT = 10.0  # s
TOPIC = "kred"  # of the messages that workers send


def preflight(run: RunConfig) -> None:
    """Find what would keep the cluster of a configuration from working, as far as that can be known before it is needed.

    Raises
    ------
    ConfigError
        The description of the cluster cannot be used.
    ToolError
        No scheduler answers at the address that was given.
    """
    if run.dask_cluster:
        cluster_file.read(Path(run.dask_cluster))
    if run.dask_address:
        try:
            found = asyncio.run(_identity(run.dask_address))["type"]
        except TimeoutError:
            found = f"nobody answers within {CONNECTION_TIMEOUT:.0f} s"
        except (ValueError, OSError) as e:
            found = str(e)
        except Exception:
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
        Of a cluster of this machine; also of the cluster that a file describes, if ``run.workers`` is set.

    Raises
    ------
    ConfigError, ToolError
        The cluster cannot be started or reached, or its workers cannot do the work of this run.
    """
    run = FlowRunContext.get().flow_run.id
    said: queue.SimpleQueue = queue.SimpleQueue()
    with ExitStack() as stack:
        stack.enter_context(messages.received(said))
        runner = stack.enter_context(_runner(config.run, workers))
        client = runner.client
        _require_usable_workers(client, config)
        client.register_plugin(_Worker(PREFECT_API_URL.value()))
        client.subscribe_topic(TOPIC, lambda event: _pass_on(event[1], said, run))
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
        described = cluster_file.read(Path(run.dask_cluster))
        if run.workers:
            described = described.model_copy(update={"workers": run.workers})
    with cluster_file.started(described) as cluster, _TaskRunner(cluster=cluster) as runner:
        yield runner


def _require_usable_workers(client: distributed.Client, config: FieldConfig) -> None:
    """Wait for the first worker, and ask it whether it could do the work of this run."""
    if not client.nthreads():
        log.info("the Dask cluster %s has no worker yet; if it stays so, look at its jobs and their logs", client.scheduler.address)
    asked = client.submit(_problem, config.root.absolute(), __version__, serialize_context()["settings_context"], pure=False)
    try:
        problem = asked.result()
    except Exception as e:
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
    with hydrated_context({"settings_context": settings}), get_client(sync_client=True) as client:
        if client.api_healthcheck() is not None:
            return (
                f"they do not reach the Prefect server {client.api_url}. Start one that the whole network can reach, and set "
                "PREFECT_API_URL to its address"
            )
    return None


def _pass_on(event: list[dict[str, Any]], said: queue.SimpleQueue, run: UUID) -> None:
    """Take from all that is said in the cluster what is said by tasks of this run."""
    for values in event:
        if values["flow_run_id"] == str(run):
            said.put(values)


class _Worker(distributed.WorkerPlugin):
    """What a worker needs to know of the run, also one that comes later.

    Parameters
    ----------
    server : str
        URL of the Prefect server that it reports to.
    """

    name = "kred"

    def __init__(self, server: str):
        self.server = server

    def setup(self, worker: distributed.Worker) -> None:
        messages.send_to_run(lambda values: worker.log_event(TOPIC, [values]))  # Dask adds to what is not in a list
        messages.kred_only()
        EventsWorker.set_client_override(PrefectEventsClient, api_url=self.server)  # a cluster may outlive a server
        if worker.nanny:  # which ends it; Ctrl-C in the terminal of the run is for the run
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            atexit.register(os._exit, 0)  # to take Python's modules apart would be seconds of work for nothing


async def _finish_reports() -> None:
    """On a worker: wait until Prefect knows how all tasks ended, if it can be told."""
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(EventsWorker.instance().wait_until_empty), REPORT_TIMEOUT)


def _stop(runner: _TaskRunner, run: UUID) -> None:
    """Stop the tasks of this run, and no others: the workers may be those of several runs."""
    client, waiting = runner.client, runner.waiting
    client.run(interrupt_run, run)
    client.cancel(list(waiting.values()), force=True)
    deadline = time.monotonic() + PATIENCE
    while any(client.run(_works_at, set(waiting)).values()) and time.monotonic() < deadline:
        time.sleep(0.1)


def _works_at(tasks: set[str], dask_worker: distributed.Worker) -> bool:
    """On a worker: whether it is still busy with one of these tasks."""
    return not tasks.isdisjoint(dask_worker.active_threads.values())


class _TaskRunner(DaskTaskRunner):
    """Prefect's, which also knows what it waits for."""

    def __init__(self, **how: Any):
        super().__init__(**how)
        self._futures: dict[str, _Future] = {}

    @property
    def waiting(self) -> dict[str, distributed.Future]:
        """The tasks that have not ended, as far as is known here."""
        return {key: future.wrapped_future for key, future in self._futures.items() if not future.ended}

    def submit(self, task: Task, parameters: dict[str, Any], wait_for: Any = None, dependencies: Any = None) -> _Future:
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


class _Future(PrefectDaskFuture):
    """Prefect's, which knows how it ended also where no worker lived long enough to tell."""

    @property
    def ended(self) -> bool:
        return self._final_state is not None

    def wait(self, timeout: float | None = None) -> None:
        if self.ended:
            return
        try:
            self._final_state = self._wrapped_future.result(timeout)
        except distributed.TimeoutError:
            return
        except distributed.KilledWorker as e:
            self._crash(f"{e.allowed_failures + 1} workers died while they did it; do they have enough memory?")
        except FutureCancelledError:
            self._crash("the scheduler of the Dask cluster is gone; the same command goes on where this run was")
        except Exception as e:
            self._crash(f"the cluster could not do it: {type(e).__name__}: {e}")
        self._wrapped_future.release()  # otherwise what a worker has told would be done again should that worker die later

    def _crash(self, reason: str) -> None:
        self._final_state = Crashed(message=reason, data=ToolError(reason))
        with suppress(httpx.HTTPError, PrefectHTTPStatusError), get_client(sync_client=True) as client:
            client.set_task_run_state(self.task_run_id, Crashed(message=reason), force=True)
