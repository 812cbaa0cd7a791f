"""Prefect's share of a run: what its imports, its server and each of its tasks cost beside the work.

Measured with tasks that do nothing (`idle_tasks`), many and few, so that the difference is that of the tasks alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import processes

__all__ = ["Overhead", "measure"]

TASKS = Path(__file__).resolve().with_name("idle_tasks.py")
FEW, MANY = 20, 220
REPEATS = 3


@dataclass(frozen=True)
class Overhead:
    """CPU seconds.

    Attributes
    ----------
    imports : float
        Of everything that a run imports, Prefect with its packages first of all.
    science : float
        Of kred_core alone, which is a part of it.
    task : float
        Of one task in the run, beside its work.
    task_on_server : float
        Of the server for one task.
    """

    imports: float
    science: float
    task: float
    task_on_server: float


def measure(environment: Mapping[str, str], checkout: Path) -> Overhead:
    """Measure Prefect's share with the code of a checkout."""

    def cpu(*arguments: str) -> float:
        return min(processes.run([sys.executable, *arguments], environment, checkout).whole.cpu for _ in range(REPEATS))

    def tasks(n: int) -> tuple[float, float]:
        found = []
        for _ in range(REPEATS):
            run = processes.run([sys.executable, str(TASKS), str(n)], environment, checkout)
            if run.status != 0:
                raise SystemExit(f"{n} tasks could not be run:\n{run.output}")
            found.append(json.loads(run.output.splitlines()[-1]))
        return min(own for own, _ in found), min(server for _, server in found)

    nothing = cpu("-c", "pass")
    few, many = tasks(FEW), tasks(MANY)
    return Overhead(
        imports=cpu("-c", "import flows.field") - nothing,
        science=cpu("-c", "import kred_core.stages") - nothing,
        task=(many[0] - few[0]) / (MANY - FEW),
        task_on_server=(many[1] - few[1]) / (MANY - FEW),
    )
