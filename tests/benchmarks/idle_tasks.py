"""Run stage tasks that do nothing: ``python idle_tasks.py N`` prints the CPU seconds of this process and of its Prefect server."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import flows  # noqa: F401 - before Prefect

# isort: split
from prefect import flow
from prefect.futures import as_completed
from prefect.utilities.annotations import opaque

from flows.runners import ConfiguredTaskRunner
from flows.server import server
from kred_core.config import FieldConfig
from kred_core.stages.work import Manifest, Step, Work
from tasks.steps import step_task

__all__ = ["main"]


def _work(config: FieldConfig, unit: str) -> Work:
    return Work(unit)


IDLE = Step("idle", 1, _work, lambda config, unit: Manifest.of())


@flow(task_runner=ConfiguredTaskRunner())
def many(config: FieldConfig, n: int) -> None:
    task = step_task(IDLE)
    units = [{"unit": str(i), "arguments": {"unit": str(i)}} for i in range(n)]
    for future in as_completed([task.submit(config=opaque(config), **unit) for unit in units]):
        future.wait()


def main(n: int) -> None:
    """Run tasks side by side as those of a stage are."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as root, server():
        many(FieldConfig(field="LMC_c42", root=Path(root)), n)
    own = time.process_time() - start
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps([own, ended.ru_utime + ended.ru_stime]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
