"""What the benchmarks found, for people and for the next benchmark: tables in Markdown, and JSON to compare with."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


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
