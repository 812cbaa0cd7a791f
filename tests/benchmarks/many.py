"""A field of a thousand exposures: ``python tests/benchmarks/many.py --root DIR``.

Tiny detectors, so that what is seen is what does not come from pixels: whether the time of a task, the memory, the open
files or the threads of a run grow with the number of tasks that it has done, and how much room its records take in the database.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cases
import report
from cases import PROJECT, Case
from report import megabytes, seconds

EXPOSURES = (250, 1000)
INTERVAL = 0.5  # s between two looks


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Time, memory, open files and database of fields of 250 and of 1000 tiny exposures.",
        epilog="Takes 15 minutes on 2 cores and 1 GB of disk below --root. The table is printed and kept in <root>/results.",
    )
    parser.add_argument("--root", type=Path, required=True, help="directory for input, runs and results")
    given = parser.parse_args(arguments)
    root = given.root.resolve()
    (root / "results").mkdir(parents=True, exist_ok=True)
    rows = [_row(root, n) for n in EXPOSURES]
    head = ["exposures", "tasks", "wall s", "CPU s", "ms of CPU a task", "memory MB", "most open files", "in the last third"]
    head += ["most threads", "in the last third", "database grew by MB"]
    report.keep(
        root / "results" / "many", {"machine": report.machine(PROJECT), "head": head, "rows": rows}, report.table(head, rows, 0)
    )


def _row(root: Path, n: int) -> list[str]:
    options = {"binning": 32, "bands": ["N662"], "exposures": n, "n_detectors": 1, "noise": False, "star_density": 0.0}
    # Over 2 by 2 degrees, so that a detector overlaps with some tens of others; were all on one spot, it would be with all.
    case = Case(f"many-{n}", ("T07",), options | {"cosmic_rays": 0.0, "dither": 3600.0})
    cases.make(root, case)
    before = _database(root)
    with _looking(root / "runs" / case.name) as looks:
        run = cases.reduce(root, case, PROJECT, ["--match.output", "none"])
    n_tasks = sum(int(word) for phase in run.stages for word in phase.units.replace(",", "").split() if word.isdigit())
    last = looks[-len(looks) // 3 :]
    whole = run.whole.cost
    numbers = [str(n), str(n_tasks), seconds(whole.wall), seconds(whole.cpu), f"{1e3 * whole.cpu / n_tasks:.0f}"]
    numbers.append(megabytes(whole.memory))
    for which in (0, 1):
        numbers += [str(max(look[which] for look in looks)), f"{min(x[which] for x in last)} to {max(x[which] for x in last)}"]
    return [*numbers, megabytes(_database(root) - before)]


def _database(root: Path) -> int:
    """Bytes in use in the database of the benchmarks' Prefect."""
    file = root / "prefect" / "prefect.db"
    if not file.exists():
        return 0
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        pages, free, size = (
            database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * size


@contextmanager
def _looking(data: Path) -> Iterator[list[tuple[int, int]]]:
    """Open files and threads of the run that works in a data root, again and again while the block lasts."""
    looks: list[tuple[int, int]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(INTERVAL):
            for process in Path("/proc").iterdir():
                with suppress(OSError):  # it has ended meanwhile
                    words = process.name.isdigit() and (process / "cmdline").read_bytes().split(b"\0")
                    if words and b"flows/field.py" in words and os.fsencode(data) in words:
                        looks.append((len(os.listdir(process / "fd")), len(os.listdir(process / "task"))))

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield looks
    finally:
        ended.set()
        watch.join()


if __name__ == "__main__":
    main(sys.argv[1:])
