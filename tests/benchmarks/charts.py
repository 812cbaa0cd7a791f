"""The benchmarks as pictures: where the time goes, and how it grows with the size of the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kred_core.figures import drawing

__all__ = ["chain_chart", "sizes_chart"]

# Eight colours that are told apart by the colour-blind too (Okabe & Ito 2008), and greys for what is not a stage.
COLOURS = {
    "start": "#999999",
    "check": "#56b4e9",
    "summarize": "#0072b2",
    "prepare": "#009e73",
    "tiles": "#f0e442",
    "match": "#cc79a7",
    "coadd": "#e69f00",
    "evaluate": "#d55e00",
    "end": "#bbbbbb",
    "all": "#000000",
    "floor": "#333333",
    "SWarp": "#777777",
}
LABELLED = 0.04  # of the longest bar; parts below have no number in them


def chain_chart(result: Mapping[str, Any], path: Path) -> None:
    """Draw what `chain` has measured: the whole beside the floor, and each phase."""
    floor, whole = result["floor"], result["whole"]
    unit = floor["decode"]["cpu"]
    figure = drawing.page(
        12,
        6.2,
        "What a reduction costs",
        f"{result['n_detectors']} detectors of {result['detector']}, {result['n_mosaics']} mosaics; "
        f"{whole['cpu']:.0f} CPU s are {whole['cpu'] / unit:.1f} times one decoding of the input, "
        f"{whole['wall']:.0f} s of wall clock, {whole['memory'] / 1e9:.1f} GB of memory",
        f"{result['machine']['processor']}, {result['machine']['cores']} cores; kred {result['machine']['commit']}",
    )
    bars = [("decoding once (fitsio)", [("floor", unit)])]
    bars += [("kred, all of it", [(p["name"], p["cpu"]) for p in result["phases"]])]
    if result["swarp"]:
        bars += [("SWarp, the co-adds alone", [("SWarp", sum(s["cpu"] for s in result["swarp"]))])]
    _stacked(figure.add_axes((0.2, 0.66, 0.76, 0.18)), bars, unit)
    _phases(figure.add_axes((0.2, 0.13, 0.76, 0.39)), result["phases"])
    drawing.save(figure, path)


def _stacked(axes, bars: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: float) -> None:
    longest = max(sum(value for _, value in parts) for _, parts in bars)
    for y, (_, parts) in enumerate(bars):
        left = 0.0
        for name, value in parts:
            axes.barh(y, value / unit, left=left / unit, color=COLOURS[name], edgecolor="white", linewidth=0.5)
            if value > LABELLED * longest:
                axes.text((left + value / 2) / unit, y, f"{value:.0f} s", ha="center", va="center", color="white", fontsize=9)
            left += value
    axes.axvline(1, color=COLOURS["floor"], linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02 * longest / unit)
    axes.set_xlabel("CPU, in units of decoding all detectors once")
    axes.spines[["right", "top"]].set_visible(False)


def _phases(axes, phases: Sequence[Mapping[str, Any]]) -> None:
    y = np.arange(len(phases))
    axes.barh(y - 0.2, [p["cpu"] for p in phases], 0.38, color=[COLOURS[p["name"]] for p in phases])
    axes.barh(y + 0.2, [p["wall"] for p in phases], 0.38, color="none", edgecolor="#555555", linewidth=0.8)
    for i, p in enumerate(phases):
        axes.text(p["cpu"], i - 0.2, f"  {p['cpu']:.1f}", va="center", fontsize=9)
    axes.set_yticks(y, [p["name"] for p in phases])
    axes.invert_yaxis()
    axes.set_xlabel("s; filled: CPU, open: wall clock")
    axes.spines[["right", "top"]].set_visible(False)


def sizes_chart(result: Mapping[str, Any], path: Path) -> None:
    """Draw what `sizes` has measured: CPU and memory against the number of exposures and of tiles."""
    figure = drawing.page(
        12,
        8.5,
        "How the cost grows with the size of the work",
        result["subtitle"],
        f"{result['machine']['processor']}, {result['machine']['cores']} cores; kred {result['machine']['commit']}; "
        "p: exponent of a power law, and that of the last step",
    )
    for column, (what, series) in enumerate(result["series"].items()):
        left = 0.07 + 0.48 * column
        _growth(figure.add_axes((left, 0.47, 0.26, 0.4)), what, series)
        axes = figure.add_axes((left, 0.1, 0.26, 0.25))
        axes.plot(series["sizes"], np.array(series["memory"]) / 1e6, "o-", color="black")
        axes.set_xscale("log")
        axes.set_xticks(series["sizes"], map(str, series["sizes"]))
        axes.minorticks_off()
        axes.set_ylim(0, 1.15 * max(series["memory"]) / 1e6)
        axes.set_xlabel(what)
        axes.set_ylabel("peak memory / MB")
    drawing.save(figure, path)


def _growth(axes, what: str, series: Mapping[str, Any]) -> None:
    sizes = np.array(series["sizes"], float)
    for name, values in series["cpu"].items():
        fit = series["exponents"][name]
        label = f"{name}  p = {fit['fit']:.2f}, {fit['last']:.2f}"
        axes.plot(sizes, values, "o-", color=COLOURS[name], linewidth=2.2 if name == "all" else 1.2, label=label)
    first = series["cpu"]["all"][0]
    axes.plot(sizes, first * sizes / sizes[0], ":", color="black", linewidth=0.8, label="p = 1")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{n:g}" for n in sizes])
    axes.minorticks_off()
    drawing.label_log(axes.yaxis)
    axes.set_xlabel(what)
    axes.set_ylabel("CPU s of the stages")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
