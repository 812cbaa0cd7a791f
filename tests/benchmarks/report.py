"""What the benchmarks found, for people and for the next benchmark: tables in Markdown, pictures, and JSON to compare with."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from kred_core.config import STAGES

mpl.use("agg")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], n_text: int = 1) -> str:
    """A table in Markdown that can be read as it is: columns of equal width, all but the first ``n_text`` to the right."""
    rows = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < n_text else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "".join(f"|{'-' * (w + 2)}" if i < n_text else f"|{'-' * (w + 1)}:" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def seconds(value: float) -> str:
    """To a hundredth below ten, to a tenth above."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def megabytes(value: float) -> str:
    """Bytes in MB."""
    return f"{value / 1e6:.1f}" if value < 1e7 else f"{value / 1e6:.0f}"


def machine(checkout: Path) -> dict[str, Any]:
    """Where and of what something was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=checkout, capture_output=True, text=True, check=False)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
    }


def keep(stem: Path, result: Mapping[str, Any], text: str) -> None:
    """Print what was found, and write it down for people (.md) and for the next benchmark (.json)."""
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text + "\n")
    print(f"{text}\n\n{stem}.md, .json")


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """CPU by phase of two benchmarks of the chain, each in units of its own floor, so that other machines can be compared too."""
    if old["case"] != new["case"]:
        raise SystemExit("the older benchmark is of another case; they cannot be compared")
    then, now = ({p["name"]: p["cpu"] / b["floor"]["decode"]["cpu"] for p in [*b["phases"], b["whole"]]} for b in (old, new))
    rows = []
    for name in dict.fromkeys([*then, *now]):
        a, b = then.get(name, math.nan), now.get(name, math.nan)
        rows.append([name, f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}" if a else "–"])
    title = f"CPU in units of the floor: {old['machine']['commit']} and {new['machine']['commit']}"
    return f"{title}\n\n{table(['phase', 'then', 'now', 'now / then'], rows)}"


# Colours that are told apart by the colour-blind too (Okabe & Ito 2008); black and greys for what is no stage.
STAGE_COLOURS = ("#56b4e9", "#0072b2", "#009e73", "#f0e442", "#cc79a7", "#e69f00", "#d55e00")
COLOURS = dict(zip(STAGES, cycle(STAGE_COLOURS))) | {"start": "#999999", "end": "#bbbbbb", "all": "#000000"}


def chain_chart(result: Mapping[str, Any], path: Path) -> None:
    """Draw what a run costs: the whole in decodings of the input, and each phase."""
    unit, whole, phases = result["floor"]["decode"]["cpu"], result["whole"], result["phases"]
    figure, (above, below) = plt.subplots(2, figsize=(11, 7), height_ratios=(1, 3), layout="constrained")
    figure.suptitle(
        f"{result['n_detectors']} detectors of {result['detector']}, {result['n_mosaics']} mosaics: {whole['cpu'] / unit:.1f} "
        f"times the CPU of decoding them once, {whole['wall']:.0f} s, {whole['memory'] / 1e9:.1f} GB"
    )
    above.barh("decoding once (fitsio)", 1, color="#333333")
    left = 0.0
    for phase in phases:
        above.barh("kred, all of it", phase["cpu"] / unit, left=left, color=COLOURS[phase["name"]], edgecolor="white")
        left += phase["cpu"] / unit
    above.set_xlabel("CPU, in units of decoding all detectors once")
    for place, phase in enumerate(phases):
        below.barh(place - 0.2, phase["cpu"], 0.38, color=COLOURS[phase["name"]])
        below.barh(place + 0.2, phase["wall"], 0.38, color="none", edgecolor="#555555")
    below.set_yticks(range(len(phases)), [phase["name"] for phase in phases])
    below.set_xlabel("s; filled: CPU, open: wall clock")
    for axes in (above, below):
        axes.invert_yaxis()
        axes.spines[["right", "top"]].set_visible(False)
    figure.savefig(path, dpi=100)


def sizes_chart(result: Mapping[str, Any], path: Path) -> None:
    """Draw how CPU and memory grow with the number of exposures and of tiles."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 8), height_ratios=(2, 1), layout="constrained")
    figure.suptitle(result["subtitle"])
    for (above, below), (what, series) in zip(panels.T, result["series"].items(), strict=True):
        sizes = np.array(series["sizes"], float)
        for name, values in series["cpu"].items():
            p = series["exponents"][name]
            above.plot(sizes, values, "o-", color=COLOURS[name], label=f"{name}  p = {p['fit']:.2f}, {p['last']:.2f}")
        above.plot(sizes, series["cpu"]["all"][0] * sizes / sizes[0], ":", color="black", label="p = 1")
        above.set_yscale("log")
        above.set_ylabel("CPU s of the stages")
        above.legend(fontsize=8, frameon=False)
        below.plot(sizes, np.array(series["memory"]) / 1e6, "o-", color="black")
        below.set_ylim(bottom=0)
        below.set_ylabel("peak memory / MB")
        for axes in (above, below):
            axes.set_xscale("log")
            axes.set_xticks(sizes, [f"{n:g}" for n in sizes])
            axes.minorticks_off()
            axes.set_xlabel(what)
    figure.savefig(path, dpi=100)
