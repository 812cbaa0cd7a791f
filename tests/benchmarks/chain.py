"""What kred costs, beside what no reduction can do without: ``python tests/benchmarks/chain.py --help``.

One command makes a simulated full-size case (once), reduces it with the command that people type, and
compares with the floor, measured in the same run on the same machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cases
import floor
import growth
import report
from cases import PROJECT, Case, CaseRun
from processes import Cost
from report import megabytes, seconds

from kred_core.fits.hdu import scan

BANDS = {"bands": ["N662", "N673", "r"], "exposures": 3, "n_detectors": 8, "dither": 300.0, "offsets": [76.0, 51.0, 10.0]}
FULL = Case("full", ("T07",), {"tiles": ["T07"], **BANDS})
SMALL = Case("small", ("T07",), {"tiles": ["T07"], "binning": 16, **BANDS})

EPILOG = """\
Everything goes below --root; the simulated input there is kept for the next time. Results are printed and kept in
<root>/results: a table (.md), and a .json that a later benchmark is compared with (--compare).

  python tests/benchmarks/chain.py --root /tmp/benchmarks                    5 min on 2 cores, 4 GB of disk
  python tests/benchmarks/chain.py --root /tmp/benchmarks --small            a trial of all of it, 2 min
  python tests/benchmarks/chain.py --root /tmp/benchmarks --sizes            cost against exposures and tiles
  python tests/benchmarks/chain.py --root /tmp/benchmarks --nothing-to-do    a second run on what is complete
  python tests/benchmarks/chain.py --root /tmp/benchmarks -- --coadd.engine swarp      options of flows/field.py

CPU is that of all processes of the run. On a machine that does other work, believe the CPU and not the wall clock.
"""


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="What a reduction costs, beside the cost of decoding its input once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, required=True, help="directory for input, runs and results")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--sizes", action="store_true", help="cost against the number of exposures and of tiles, small detectors")
    mode.add_argument("--nothing-to-do", action="store_true", help="what a run costs that finds everything complete")
    parser.add_argument("--small", action="store_true", help="detectors of 128 x 256 pixels, for a trial")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run the chain N times, the cheapest counts")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="compare with an older benchmark of the chain")
    parser.add_argument("--checkout", type=Path, default=PROJECT, help="measure the kred in this directory instead")
    parser.add_argument("options", nargs="*", help="after --: options of flows/field.py")
    given = parser.parse_args(arguments)
    given.root, given.checkout = given.root.resolve(), given.checkout.resolve()
    (given.root / "results").mkdir(parents=True, exist_ok=True)
    cases.reduce(given.root, SMALL, given.checkout, given.options)  # compiles, and makes Prefect's database
    if given.sizes:
        growth.sizes(given.root, given.checkout, given.options)
    elif given.nothing_to_do:
        growth.nothing_to_do(given.root, given.checkout, given.options)
    else:
        _chain(given)


def _chain(given: argparse.Namespace) -> None:
    case = SMALL if given.small else FULL
    older = json.loads(given.compare.read_text()) if given.compare else None
    data = cases.make(given.root, case)
    result = {"case": dataclasses.asdict(case) | {"options": given.options}, "machine": report.machine(given.checkout)}
    result |= _input(data)
    science, masks = (result.pop(name) for name in ("science", "masks"))
    result["floor"] = {
        "read": _plain(floor.read([*science, *masks])),
        "decode": _plain(floor.decode(science)),
        "decode_parallel": _plain(floor.decode(science, result["machine"]["cores"])),
        "decode_masks": _plain(floor.decode(masks)),
    }
    runs = [cases.reduce(given.root, case, given.checkout, given.options) for _ in range(given.repeat)]
    run = min(runs, key=lambda r: r.whole.cost.cpu)
    result["phases"] = [_phase(p) for p in run.phases]
    result["whole"] = _phase(run.whole)
    result["left"] = _left(run)
    result["n_mosaics"] = sum(bool(re.match(r"DECam_SWARP/[^/]+/T\d[^/]*/.*\.fits$", name)) for name in run.left)
    result["floor"]["write"] = _plain(floor.write([size for size in run.left.values() if size], given.root))

    text = "\n\n".join([_heading(result), _phase_table(result), _judgement(result)])
    report.keep(given.root / "results" / "chain", result, text)
    if older:
        print(f"\n{report.compare(older, result)}")


def _input(data: Path) -> dict[str, Any]:
    paths = cases.inputs(data)
    science = [p for p in paths if "_ooi_" in p.name]
    detectors = [hdu for path in science for hdu in scan(path) if hdu.shape]
    return {
        "science": science,
        "masks": [p for p in paths if p not in science],
        "n_exposures": len(science),
        "n_detectors": len(detectors),
        "detector": "{1} x {0} pixels".format(*detectors[0].shape),
        "input": sum(p.stat().st_size for p in paths),
    }


def _plain(cost: Cost) -> dict[str, float]:
    return {name: round(value, 4) for name, value in dataclasses.asdict(cost).items()}


def _phase(phase: cases.Phase) -> dict[str, Any]:
    return {"name": phase.name, "units": phase.units, **_plain(phase.cost), "left": phase.left}


def _left(run: CaseRun) -> dict[str, int]:
    """Bytes on disk by what they are."""
    left = dict.fromkeys(("mosaics", "prepared copies", "matched copies", "all else"), 0)
    for name, size in run.left.items():
        top, _, *rest = Path(name).parts
        kind = "all else"
        if top == "DECam_PREP":
            kind = "matched copies" if rest[0] == "data_b" else "prepared copies"
        elif top == "DECam_SWARP" and rest and re.match(r"T\d", rest[0]):
            kind = "mosaics"
        left[kind] += size
    return left


def _heading(result: Mapping[str, Any]) -> str:
    m = result["machine"]
    options = f" Options: {' '.join(result['case']['options'])}." if result["case"]["options"] else ""
    return (
        f"{result['n_exposures']} exposures with {result['n_detectors']} detectors of {result['detector']}, "
        f"{megabytes(result['input'])} MB; {result['n_mosaics']} mosaics.{options} "
        f"{m['processor']}, {m['cores']} cores (load {m['load']}), Python {m['python']}, kred {m['commit']}."
    )


def _phase_table(result: Mapping[str, Any]) -> str:
    unit, n = result["floor"]["decode"]["cpu"], result["n_detectors"]

    def row(name: str, what: str, cost: Mapping[str, float]) -> list[str]:
        numbers = [seconds(cost["wall"]), seconds(cost["cpu"]), f"{cost['cpu'] / unit:.2f}", f"{1000 * cost['cpu'] / n:.0f}"]
        sizes = [megabytes(cost[key]) if key in cost else "" for key in ("memory", "read", "written", "left")]
        return [name, what, *numbers, *sizes]

    rows = [row(p["name"], p["units"], p) for p in result["phases"]]
    rows.append(row("**all**", "", result["whole"]))
    floors = {
        "read": "read the input",
        "decode": "decode each detector once, fitsio",
        "decode_parallel": f"the same, {result['machine']['cores']} processes",
        "decode_masks": "decode the masks, fitsio",
        "write": "write what is left",
    }
    rows += [row("floor", what, result["floor"][key]) for key, what in floors.items()]
    head = ["phase", "what", "wall s", "CPU s", "x decode", "ms/detector", "memory MB", "read MB", "written MB", "left MB"]
    return report.table(head, rows, n_text=2)


def _judgement(result: Mapping[str, Any]) -> str:
    """What was promised, and what is."""
    whole, decode, left = result["whole"], result["floor"]["decode"], result["left"]
    size, (start, *work) = result["input"], result["phases"]
    server = sum(p["server"] for p in work)
    wall = f"{whole['wall'] / result['floor']['decode_parallel']['wall']:.2f}"
    rows = [
        ["CPU, in decodings of the input", f"{whole['cpu'] / decode['cpu']:.2f}", "<= 6, aim 4"],
        [f"wall clock, in decodings on {result['machine']['cores']} cores", wall, "<= 6"],
        ["peak memory, GB", f"{whole['memory'] / 1e9:.2f}", "<= 3"],
        ["prepared copies / input", f"{left['prepared copies'] / size:.3f}", "<= 1.05"],
        ["matched copies / input", f"{left['matched copies'] / size:.3f}", "<= 1.05"],
        ["disk left beside mosaics and copies / input", f"{left['all else'] / size:.3f}", "<= 0.2"],
        ["Prefect: start, CPU s", seconds(start["cpu"]), ""],
        ["Prefect's server beyond its start, part of all CPU", f"{server / whole['cpu']:.3f}", "< 0.05"],
    ]
    if whole["swarp"]:
        others = whole["cpu"] - whole["swarp"]
        floor = sum(result["floor"][key]["cpu"] for key in ("read", "decode", "write"))
        rows.append(["CPU of all but SWarp, in floors: reading, decoding, writing", f"{others / floor:.2f}", "<= 4"])
        rows.append(["the same, in decodings of the input", f"{others / decode['cpu']:.2f}", ""])
    return report.table(["what", "measured", "wanted"], rows)


if __name__ == "__main__":
    main(sys.argv[1:])
