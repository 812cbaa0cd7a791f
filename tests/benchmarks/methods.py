"""Ways to find backgrounds from overlaps, side by side: how far each is from the truth, and what it costs.

Every method gets the same differences of the same simulated fields; what is simulated is in
`overlap_graphs`. Run it as a script; ``--help`` tells what can be chosen.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from report import machine, seconds, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kred_core"))

from overlap_graphs import GRAPHS, Graph, simulate_graph

from kred_core.match.solve import BackgroundModel, solve, solve_svd

ROOT = Path(__file__).resolve().parents[2]
MANY = 3000  # images
SLOPES = {"slope": 1.0, "detector_slope": 0.3}  # rms, DN per half detector


@dataclass(frozen=True)
class Method:
    """One way to find backgrounds."""

    name: str
    find: Callable[[Graph], np.ndarray]  # backgrounds (n,) of an `overlap_graphs.Graph`
    slow: bool = False  # whether more than a few thousand images take it minutes, or gigabytes
    planes: bool = False  # whether its backgrounds have slopes


def _svd(*cuts: float, start: bool = False) -> Callable[[Graph], np.ndarray]:
    def find(g: Graph) -> np.ndarray:
        return solve_svd(g.n, g.first, g.second, g.difference, g.n_cells, np.zeros(g.n) if start else None, cuts)

    return find


def _least_squares(g: Graph, error: np.ndarray, robust: bool, plane: str = "constant") -> np.ndarray:
    shape = None if plane == "constant" else BackgroundModel(g.exposure, g.blocks, g.block_errors, g.block_places, plane)
    return solve(g.n, g.first, g.second, g.difference, error, robust=robust, shape=shape).background.b


METHODS = (
    Method("singular values above 0.1", _svd(0.1), slow=True),
    Method("singular values above 0.01", _svd(0.01), slow=True),
    Method("the better of these, or none (older scripts)", _svd(0.1, 0.01, start=True), slow=True),
    Method("least squares, weights npix", lambda g: _least_squares(g, 1 / np.sqrt(g.n_cells), False)),
    Method("least squares, weights 1/sigma^2", lambda g: _least_squares(g, g.error, False)),
    Method("robust (kred's)", lambda g: _least_squares(g, g.error, True)),
    Method("robust, exposure planes", lambda g: _least_squares(g, g.error, True, "exposure-plane"), planes=True),
    Method("robust, detector planes", lambda g: _least_squares(g, g.error, True, "detector-plane"), planes=True),
)


def compare(graph: Graph, method: Method) -> tuple[float, float, float]:
    """rms error of a method's backgrounds after their mean, and after a plane over the field, and its CPU seconds."""
    before = time.process_time()
    found = method.find(graph)
    cost = time.process_time() - before
    deviation = found - graph.background
    terms = np.column_stack([np.ones(graph.n), graph.place])
    level, plane = (deviation - t @ np.linalg.lstsq(t, deviation, rcond=None)[0] for t in (terms[:, :1], terms))
    return float(np.sqrt(np.mean(level**2))), float(np.sqrt(np.mean(plane**2))), cost


def _table(cases: Sequence[str], changes: dict, methods: Sequence[Method], seeds: int) -> str:
    head, rows = ["rms error of the backgrounds, DN"], [[method.name] for method in methods]
    for case in cases:
        graphs = [simulate_graph(replace(GRAPHS[case], seed=seed, **changes)) for seed in range(1, seeds + 1)]
        head += [f"{case}, n = {graphs[0].n}", "less plane", "CPU s"]
        for method, row in zip(methods, rows, strict=True):
            if method.slow and graphs[0].n > MANY:
                row += ["-"] * 3
                continue
            level, plane, cost = np.mean([compare(graph, method) for graph in graphs], axis=0)
            row += [f"{level:.2f}", f"{plane:.2f}", seconds(cost)]
    return table(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=GRAPHS, default=["tile 60", "tile 300", "field 300", "field 900"])
    parser.add_argument("--seeds", type=int, default=1, help="simulate each case so many times and give the mean")
    parser.add_argument("--no-planes", action="store_true", help="leave out the table of backgrounds that have slopes")
    options = parser.parse_args(arguments)
    print(", ".join(f"{name} {value}" for name, value in machine(ROOT).items()))
    warm = simulate_graph(replace(GRAPHS["tile 60"], exposures=3))
    for method in METHODS:
        method.find(warm)  # compiles what is to be compiled
    constants = [method for method in METHODS if not method.planes]
    for title, changes in (("no outliers", {}), ("3 % outliers, mean 30 DN", {"outliers": 0.03})):
        print(f"\n{title}\n\n{_table(options.cases, changes, constants, options.seeds)}", flush=True)
    if not options.no_planes:
        wanted = ("least squares, weights 1/sigma^2", "robust (kred's)")
        sloped = [method for method in METHODS if method.planes or method.name in wanted]
        cases = [case for case in options.cases if case != "galaxy"]
        title = "3 % outliers, and slopes: of exposures {slope} DN, of detectors {detector_slope} DN per half detector"
        title = title.format(**SLOPES)
        print(f"\n{title}\n\n{_table(cases, {'outliers': 0.03, **SLOPES}, sloped, options.seeds)}", flush=True)


if __name__ == "__main__":
    main()
