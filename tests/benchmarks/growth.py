"""How the cost grows with the number of exposures and of tiles, and what a run costs that has nothing to do.

Small simulated detectors, because what is looked for are costs that do not come from pixels, and costs that grow
faster than the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cases
import numpy as np
import report
from cases import Case, CaseRun
from report import megabytes, seconds

from kred_core.config import STAGES

SIZES = (1, 4, 16)
# One of average coverage, then a quarter of the field: corner, edges and middle, as the whole has them.
SOME_TILES = {1: ("T02",), 4: ("T01", "T02", "T05", "T06"), 16: tuple(f"T{n:02d}" for n in range(1, 17))}
SHOWN = 0.05  # s of CPU; less than that at the largest size has no exponent worth showing


def sizes(root: Path, checkout: Path, options: Sequence[str]) -> None:
    """Measure and print CPU and memory against size."""
    middle = {"tiles": ["T07"], "n_detectors": 8, "binning": 8, "bands": ["N662"], "dither": 300.0}
    whole = {"exposures": 4, "binning": 8, "bands": ["N662"], "dither": 300.0}
    work = {
        "exposures": [Case(f"exposures-{n}", ("T07",), {**middle, "exposures": n}) for n in SIZES],
        "tiles": [Case("tiles", SOME_TILES[n], whole) for n in SIZES],
    }
    series = {what: _series([cases.reduce(root, case, checkout, options) for case in cases_]) for what, cases_ in work.items()}
    result = {
        "machine": report.machine(checkout),
        "series": series,
    }
    report.keep(root / "results" / "sizes", result, "\n\n".join(_size_table(what, found) for what, found in series.items()))


def _series(runs: Sequence[CaseRun]) -> dict[str, Any]:
    cpu = {"all": [sum(p.cost.cpu for p in run.stages) for run in runs]}
    for name in STAGES:
        found = [next((p.cost.cpu for p in run.stages if p.name == name), 0.0) for run in runs]
        if min(found) > 0 and max(found) > SHOWN:
            cpu[name] = found
    memory = [float(run.whole.cost.memory) for run in runs]
    return {
        "sizes": list(SIZES),
        "cpu": cpu,
        "memory": memory,
        "exponents": {name: exponents(SIZES, values) for name, values in {**cpu, "memory": memory}.items()},
    }


def exponents(sizes: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Exponents p of values proportional to size**p: ``fit`` of all, ``last`` of the two largest, where start-up counts least."""
    x, y = np.log(sizes), np.log(values)
    return {"fit": float(np.polyfit(x, y, 1)[0]), "last": float((y[-1] - y[-2]) / (x[-1] - x[-2]))}


def _size_table(what: str, found: dict[str, Any]) -> str:
    def row(name: str, values: Sequence[str]) -> list[str]:
        p = found["exponents"][name]
        return [name, *values, f"{p['fit']:.2f}", f"{p['last']:.2f}"]

    rows = [row(name, [seconds(v) for v in values]) for name, values in found["cpu"].items()]
    rows.append(row("memory", [f"{megabytes(v)} MB" for v in found["memory"]]))
    return report.table([f"CPU s, by {what}", *map(str, found["sizes"]), "exponent", "of the last step"], rows)


def nothing_to_do(root: Path, checkout: Path, options: Sequence[str]) -> None:
    """Measure and print what a second run costs, of a small and of a large field of small detectors."""
    little = {"binning": 16, "bands": ["N662", "r"], "dither": 300.0}
    work = [
        (Case("second-10", ("T07",), {**little, "tiles": ["T07"], "exposures": 5}), 15),
        (Case("second-100", SOME_TILES[16], {**little, "exposures": 50}), 30),
    ]
    rows, kept = [], {}
    for case, wanted in work:
        cases.reduce(root, case, checkout, options)
        second = cases.reduce(root, case, checkout, options, again=True)
        start, end = second.phases[0].cost, second.phases[-1].cost
        between = [sum(getattr(p.cost, name) for p in second.stages) for name in ("wall", "cpu")]
        whole = second.whole.cost
        n_exposures, n_tiles = 2 * case.options["exposures"], len(case.tiles)
        pairs = [(start.wall, start.cpu), between, (end.wall, end.cpu), (whole.wall, whole.cpu)]
        name = f"{n_exposures} exposures, {n_tiles} tiles"
        rows.append([name, *(f"{seconds(a)} / {seconds(b)}" for a, b in pairs), f"< {wanted}"])
        kept[case.name] = {"wall": whole.wall, "cpu": whole.cpu, "phases": {p.name: p.cost.wall for p in second.phases}}
        again = [p.name for p in second.stages if "done" in p.units]
        if again:
            raise SystemExit(f"the second run of {case.name} has done {', '.join(again)} again")
    text = report.table(["second run: wall / CPU, s", "start", "stages", "end", "all", "wanted wall"], rows)
    report.keep(root / "results" / "nothing-to-do", {"machine": report.machine(checkout), "runs": kept}, text)
