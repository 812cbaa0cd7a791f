"""How much memory a run may have, and needs: seen to before it begins, because nobody can say anything once it has been killed."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from .config import FieldConfig
from .errors import InputError
from .words import human_size

# Bytes, from what tests/benchmarks/chain.py measures with full-size detectors.
RUN = 0.7e9  # Python, its libraries and compiled kernels, Prefect and its server
PROCESS = 0.4e9  # the same of a worker process, without the server
RESERVED = 1.2e9  # address space that libraries and threads reserve and never use
TASK = 0.1e9  # a task, beside what `coadd.memory` bounds
LEAST = 0.25  # GB: the least of `coadd.memory`; all other tasks need less


def needed(workers: int, processes: bool, memory: float) -> float:
    """Return the bytes that a run may need at most: so many tasks at once, in processes or not, ``coadd.memory`` in GB."""
    return RUN + workers * (memory * 1e9 + TASK + (PROCESS if processes else 0.0))


def limit() -> tuple[float, str]:
    """Return the bytes that a process and those that it starts may have at most, and what limits them, in words."""
    return min(_limits())


def _limits() -> Iterator[tuple[float, str]]:
    yield float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), "the memory of this machine"
    for which, name, reserved in ((resource.RLIMIT_AS, "ulimit -v", RESERVED), (resource.RLIMIT_DATA, "ulimit -d", 0.0)):
        soft, _ = resource.getrlimit(which)
        if soft != resource.RLIM_INFINITY:
            yield max(float(soft) - reserved, 0.0), name
    for file in _control_group_files():
        try:
            yield float(file.read_text()), "the limit of its control group (a container, a batch system)"
        except (OSError, ValueError):  # ValueError: "max"
            continue


def _control_group_files() -> Iterator[Path]:
    """The files that tell the memory limits of this process's control group and of those around it, of both versions (Linux)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, name = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") if controllers else ("/sys/fs/cgroup", "memory.max")
        group = Path(top, path.lstrip("/"))
        yield from (place / name for place in (group, *group.parents) if place.is_relative_to(top))


def fitted(config: FieldConfig, workers: int) -> FieldConfig:
    """Return the configuration with a ``coadd.memory`` that lets all tasks at once fit into the memory that there is.

    Where not even the least fits, that is an InputError.
    """
    processes = config.run.runner == "dask"
    if processes and (config.run.dask_address or config.run.dask_cluster):
        return config  # the machines of a cluster are for its own description to know
    most, what = limit()
    least = needed(workers, processes, LEAST)
    if least > most:
        fewer = int((most - RUN) / (needed(1, processes, LEAST) - RUN))
        advice = f"use --workers {fewer}" if fewer >= 1 else f"it needs {human_size(needed(1, processes, LEAST))} with one"
        raise InputError(
            f"{workers} tasks at once need {human_size(least)} of memory, and no more than {human_size(most)} can be had ({what}); "
            f"{advice}"
        )
    room = (most - needed(workers, processes, 0.0)) / workers / 1e9
    if room >= config.coadd.memory:
        return config
    return config.model_copy(update={"coadd": config.coadd.model_copy(update={"memory": max(LEAST, round(room, 2))})})


def explain(wanted: FieldConfig, got: FieldConfig) -> str:
    """What `fitted` changed, in words; empty where it changed nothing."""
    if got.coadd.memory == wanted.coadd.memory:
        return ""
    most, what = limit()
    return (
        f"memory: {human_size(most)} can be had ({what}), so that each mosaic in the making gets {got.coadd.memory:g} GB and not "
        f"{wanted.coadd.memory:g}; more goes through a file, and the results are the same"
    )
