"""The description of a Dask cluster that a run starts: which kind, how many workers, its arguments.

It is a small TOML file, and data: only kinds of clusters that are known here can be named in it. Whatever is wrong in it is
said, with the name of the entry, before anything is started. deployments/dask has examples.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from distributed import LocalCluster, Nanny, SpecCluster, Worker
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kred_core.errors import ConfigError, ToolError

__all__ = ["LOCAL_CLUSTER", "ClusterFile", "read", "started"]

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
# Processes of this machine. Threads of one process would share the interpreter lock, and be the runner "threads". kred
# bounds its memory itself (coadd.memory); Dask would kill what uses more than its share of the machine. Others on this
# machine find neither a web page nor a scheduler that would run their programs.
LOCAL_CLUSTER = "dask.distributed.LocalCluster"
LOCAL: dict[str, Any] = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": None, "security": True}


class ClusterFile(BaseModel):
    """Contents of the file.

    Attributes
    ----------
    kind : str
        The class of the cluster.
    workers : int
        Worker processes, of all jobs together.
    arguments : dict
        Of the class.
    """

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


def _explain(problem: dict[str, Any]) -> str:
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


@contextmanager
def started(described: ClusterFile) -> Iterator[SpecCluster]:
    """The cluster, while this block lasts; its workers may still have to wait for their machines.

    Raises
    ------
    ToolError
        It cannot be started.
    """
    local = described.kind == LOCAL_CLUSTER
    given = LOCAL | {"n_workers": described.workers} if local else {}
    try:
        cluster = described.cluster_class(**given | described.arguments)
    except Exception as e:
        raise ToolError(f"the Dask cluster ({described.kind}) cannot be started: {e}") from e
    try:
        if not local:
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
    except Exception as e:
        said = " ".join(str(e).partition("stderr:")[2].split()) or str(e)
        raise ToolError(f"the batch system does not take a job of {described.kind}: {said}") from e
    cluster.adapt(minimum=described.workers, maximum=described.workers)
