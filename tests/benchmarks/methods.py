"""Ways to find backgrounds from overlaps, side by side: how far each is from the truth, and what it costs.

Every method gets the same differences of the same simulated fields; what is simulated is in
`overlap_graphs`. Run it as a script; ``--help`` tells what can be chosen.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from report import machine, seconds, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kred_core"))

from overlap_graphs import GRAPHS, NX, NY, Graph, simulate_graph

from kred_core.match.solve import Shape, solve, solve_svd
from kred_core.simulate.camera import NATIVE_SCALE

__all__ = ["METHODS", "Method", "compare"]

ROOT = Path(__file__).resolve().parents[2]
MANY = 3000  # images
SLOPES = {"slope": 1.0, "detector_slope": 0.3}  # rms, DN per half detector
MONTAGE = "mBgModel"


@dataclass(frozen=True)
class Method:
    """One way to find backgrounds.

    Attributes
    ----------
    name : str
    find : callable
        Backgrounds (n,) of an `overlap_graphs.Graph`.
    slow : bool
        Whether more than a few thousand images take it minutes, or gigabytes.
    planes : bool
        Whether its backgrounds have slopes.
    """

    name: str
    find: Callable[[Graph], np.ndarray]
    slow: bool = False
    planes: bool = False


def _svd(*cuts: float, start: bool = False) -> Callable[[Graph], np.ndarray]:
    def find(g: Graph) -> np.ndarray:
        return solve_svd(g.n, g.first, g.second, g.difference, g.n_cells, np.zeros(g.n) if start else None, cuts)

    return find


def _least_squares(g: Graph, error: np.ndarray, robust: bool, plane: str = "constant") -> np.ndarray:
    shape = None if plane == "constant" else Shape(g.exposure, g.blocks, g.block_errors, g.block_places, plane)
    return solve(g.n, g.first, g.second, g.difference, error, robust=robust, shape=shape).background.b


def _write(path: Path, columns: Sequence[tuple[str, str, Sequence[object]]]) -> None:
    """A table of IPAC: name, type and values of each column."""
    cells = [[name, kind, *(f"{v:.9g}" if kind == "double" else str(v) for v in values)] for name, kind, values in columns]
    widths = [max(map(len, column)) for column in cells]
    rows = list(zip(*cells, strict=True))
    with open(path, "w") as f:
        for row in rows[:2]:
            f.write("|" + "|".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + "|\n")
        for row in rows[2:]:
            f.write(" " + " ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " \n")


def _montage(planes: bool) -> Callable[[Graph], np.ndarray]:
    def find(g: Graph) -> np.ndarray:
        with tempfile.TemporaryDirectory() as directory:
            return _run_montage(g, planes, Path(directory))

    return find


def _run_montage(g: Graph, planes: bool, directory: Path) -> np.ndarray:
    """Backgrounds of Montage's mBgModel, from the tables that its mImgtbl and mFitExec would have made."""
    cell = 2.0
    middle = g.place * 3600 / cell  # of each detector, in cells of a common grid: x east, y north
    half = np.array([NY, NX]) * NATIVE_SCALE / cell / 2  # u runs south, v runs east
    # Montage counts from the reference pixel; images of cells around their middle.
    size = np.ceil(2 * half).astype(int)
    number = np.arange(g.n)
    _write(
        directory / "images.tbl",
        [
            ("cntr", "int", number),
            ("fname", "char", [f"{name}.fits" for name in g.name]),
            ("ns", "int", np.full(g.n, size[0])),
            ("nl", "int", np.full(g.n, size[1])),
            ("crpix1", "double", size[0] / 2 - middle[:, 0]),
            ("crpix2", "double", size[1] / 2 - middle[:, 1]),
        ],
    )
    places = g.block_places[:, :, 0, 1::-1] * half * [1, -1] + middle[g.first][:, None]  # x, y of the parts
    good = np.isfinite(g.blocks) & np.isfinite(places).all(axis=-1)
    weight = np.where(good, 1.0, 0.0)
    count = np.maximum(weight.sum(axis=1), 1)
    places, blocks = np.where(good[..., None], places, 0.0), np.where(good, g.blocks, 0.0)
    fallback = (middle[g.first] + middle[g.second]) / 2
    centre = np.where(good.any(axis=1)[:, None], (weight[..., None] * places).sum(axis=1) / count[:, None], fallback)
    slopes = np.zeros((g.first.size, 2))
    if planes:
        offset = np.where(good[..., None], places - centre[:, None], 0.0)
        for axis in (0, 1):  # the parts of an overlap are the quarters of a rectangle
            spread = (offset[..., axis] ** 2).sum(axis=1)
            np.divide((offset[..., axis] * blocks).sum(axis=1), spread, out=slopes[:, axis], where=spread > 0)
    overlap = 2 * half - np.abs(middle[g.second] - middle[g.first])
    side = np.maximum(overlap, 1.0)
    low, high = np.floor(centre - side / 2).astype(int), np.ceil(centre + side / 2).astype(int)
    nothing = np.zeros(g.first.size)
    _write(
        directory / "fits.tbl",
        [
            ("plus", "int", g.second),
            ("minus", "int", g.first),
            ("a", "double", slopes[:, 0]),
            ("b", "double", slopes[:, 1]),
            ("c", "double", g.difference - (slopes * centre).sum(axis=1)),
            ("crpix1", "double", nothing),
            ("crpix2", "double", nothing),
            ("xmin", "int", low[:, 0]),
            ("xmax", "int", high[:, 0]),
            ("ymin", "int", low[:, 1]),
            ("ymax", "int", high[:, 1]),
            ("xcenter", "double", centre[:, 0]),
            ("ycenter", "double", centre[:, 1]),
            ("npixel", "int", g.n_cells),
            ("rms", "double", g.error * np.sqrt(g.n_cells)),
            ("boxx", "double", centre[:, 0]),
            ("boxy", "double", centre[:, 1]),
            ("boxwidth", "double", side[:, 0]),
            ("boxheight", "double", side[:, 1]),
            ("boxang", "double", nothing),
        ],
    )
    command = [MONTAGE, "-a", *([] if planes else ["-l"]), "images.tbl", "fits.tbl", "corrections.tbl"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode or '"OK"' not in done.stdout:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")
    rows = [line.split() for line in (directory / "corrections.tbl").read_text().splitlines() if line[:1] not in ("|", "\\")]
    found = np.full((g.n, 3), np.nan)
    for row in rows:
        found[int(row[0])] = [float(value) for value in row[1:4]]
    return found[:, 2] + (found[:, :2] * middle).sum(axis=1)


METHODS = (
    Method("singular values above 0.1", _svd(0.1), slow=True),
    Method("singular values above 0.01", _svd(0.01), slow=True),
    Method("the better of these, or none (older scripts)", _svd(0.1, 0.01, start=True), slow=True),
    Method("least squares, weights npix", lambda g: _least_squares(g, 1 / np.sqrt(g.n_cells), False)),
    Method("least squares, weights 1/sigma^2", lambda g: _least_squares(g, g.error, False)),
    Method("robust (kred's)", lambda g: _least_squares(g, g.error, True)),
    Method("robust, exposure planes", lambda g: _least_squares(g, g.error, True, "exposure-plane"), planes=True),
    Method("robust, detector planes", lambda g: _least_squares(g, g.error, True, "detector-plane"), planes=True),
    Method("Montage mBgModel, levels", _montage(False), slow=True),
    Method("Montage mBgModel, planes", _montage(True), slow=True, planes=True),
)


def compare(graph: Graph, method: Method) -> tuple[float, float, float]:
    """rms error of a method's backgrounds after their mean, and after a plane over the field, and its CPU seconds."""
    before = _cpu()
    found = method.find(graph)
    cost = _cpu() - before
    deviation = found - graph.background
    terms = np.column_stack([np.ones(graph.n), graph.place])
    level, plane = (deviation - t @ np.linalg.lstsq(t, deviation, rcond=None)[0] for t in (terms[:, :1], terms))
    return float(np.sqrt(np.mean(level**2))), float(np.sqrt(np.mean(plane**2))), cost


def _cpu() -> float:
    """CPU seconds of this process and of the children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


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


def _available(methods: Sequence[Method]) -> list[Method]:
    if shutil.which(MONTAGE):
        return list(methods)
    return [method for method in methods if "Montage" not in method.name]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=GRAPHS, default=["tile 60", "tile 300", "field 300", "field 900"])
    parser.add_argument("--seeds", type=int, default=1, help="simulate each case so many times and give the mean")
    parser.add_argument("--no-planes", action="store_true", help="leave out the table of backgrounds that have slopes")
    options = parser.parse_args(arguments)
    print(", ".join(f"{name} {value}" for name, value in machine(ROOT).items()))
    if not shutil.which(MONTAGE):
        print(f"Montage is not installed (no {MONTAGE} on the PATH): without it")
    warm = simulate_graph(replace(GRAPHS["tile 60"], exposures=3))
    for method in METHODS[:-2]:
        method.find(warm)  # compiles what is to be compiled
    constants = _available([method for method in METHODS if not method.planes])
    for title, changes in (("no outliers", {}), ("3 % outliers, mean 30 DN", {"outliers": 0.03})):
        print(f"\n{title}\n\n{_table(options.cases, changes, constants, options.seeds)}", flush=True)
    if not options.no_planes:
        wanted = ("least squares, weights 1/sigma^2", "robust (kred's)")
        sloped = _available([method for method in METHODS if method.planes or method.name in wanted])
        cases = [case for case in options.cases if case != "galaxy"]
        title = "3 % outliers, and slopes: of exposures {slope} DN, of detectors {detector_slope} DN per half detector"
        title = title.format(**SLOPES)
        print(f"\n{title}\n\n{_table(cases, {'outliers': 0.03, **SLOPES}, sloped, options.seeds)}", flush=True)


if __name__ == "__main__":
    main()
