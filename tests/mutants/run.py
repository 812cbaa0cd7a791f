"""Mutation testing: how many small faults, put into the code one at a time, do the tests notice?

cosmic-ray makes the faults and runs the tests; here is what it lacks: it works on a copy, because it edits the code in
place; it leaves out faults that are none (in annotations, in what compiles a function); and it can draw a sample, the same one each time. See README.md beside it for how to run it.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

HERE = Path(__file__).resolve().parent
# Of the eleven operators that cosmic-ray puts in place of another, those that could have been meant. Most of the others are
# refused by floats: the first test that reaches them would notice, and the share of noticed faults would say less.
OPERATORS = {
    "Add": ("Sub", "Mul"),
    "Sub": ("Add", "Mul"),
    "Mul": ("Div", "Add"),
    "Div": ("Mul", "FloorDiv"),
    "FloorDiv": ("Div", "Mul"),
    "Mod": ("FloorDiv", "Mul"),
    "Pow": ("Mul",),
    "BitAnd": ("BitOr",),
    "BitOr": ("BitAnd",),
}


@cache
def passive(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Ranges of a module that are annotations, which nobody evaluates, or decorators that compile."""
    ranges = []
    for node in ast.walk(ast.parse(path.read_text())):
        found = [getattr(node, name, None) for name in ("annotation", "returns")]
        found += [d for d in getattr(node, "decorator_list", ()) if "njit" in ast.unparse(d)]
        ranges += [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in found if n is not None]
    return ranges


def is_fault(mutation: MutationSpec) -> bool:
    """Whether a mutation changes what the code does, as far as can be told without running it."""
    kind, _, change = mutation.operator_name.removeprefix("core/").partition("_")
    old, _, new = change.partition("_")
    if kind == "ReplaceBinaryOperator" and new not in OPERATORS.get(old, ()):
        return False
    if kind == "ReplaceComparisonOperator" and new in ("Is", "IsNot") and old not in ("Is", "IsNot"):
        return False
    row, column = at = mutation.start_pos
    if any(start <= at < end or (kind == "RemoveDecorator" and start[0] == row) for start, end in passive(mutation.module_path)):
        return False
    # Python refuses anything else in place of the star before options that must be named.
    return not mutation.module_path.read_text().splitlines()[row - 1][column:].startswith("*,")


def choose(session: Path, sample: int) -> int:
    """Mark as skipped what is no fault, and what a sample (0: all) does not contain; how many are left."""
    with use_db(session) as db:
        items = sorted(db.pending_work_items, key=lambda i: [(str(m.module_path), m.operator_name, m.occurrence) for m in i.mutations])
        faults = [item for item in items if all(map(is_fault, item.mutations))]
        chosen = random.Random(1).sample(faults, sample) if 0 < sample < len(faults) else faults
        left = {item.job_id for item in chosen}
        for item in items:
            if item.job_id not in left:
                db.set_result(item.job_id, WorkResult(WorkerOutcome.SKIPPED))
    return len(faults)


def run(part: str, root: Path, sample: int, environment: dict[str, str]) -> str:
    """Put the faults of one part into a copy of the code, one at a time, and test each; a report."""
    config, session, code = HERE / f"{part}.toml", root / f"{part}.sqlite", root / part
    command = Path(sys.executable).parent / "cosmic-ray"
    options = {"cwd": code, "env": environment | {"PYTHONPATH": str(code)}, "check": True}
    if not session.exists():
        code.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=HERE.parents[1], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(code)], input=archive, check=True)
        subprocess.run([command, "baseline", config], **options)
        subprocess.run([command, "init", config, session], **options)
        before = os.getcwd()
        os.chdir(code)
        choose(session, sample)
        os.chdir(before)
    subprocess.run([command, "exec", config, session], **options)
    return report(part, session)


def report(part: str, session: Path) -> str:
    """Numbers, and what nobody noticed."""
    with use_db(session) as db:
        results = [(item, result) for item, result in db.completed_work_items if result.worker_outcome != WorkerOutcome.SKIPPED]
    outcomes = Counter(result.test_outcome for _, result in results)
    killed = outcomes[TestOutcome.KILLED]
    lines = [f"{part}: {len(results)} faults, {killed} noticed ({100 * killed / max(len(results), 1):.1f} %), {dict(outcomes)}"]
    for item, result in sorted(results, key=lambda r: (str(r[0].mutations[0].module_path), r[0].mutations[0].start_pos)):
        if result.test_outcome != TestOutcome.KILLED:
            m = item.mutations[0]
            changed = [line for line in (result.diff or "").splitlines() if line[:1] in "+-" and line[:3] not in ("---", "+++")]
            lines += [f"{m.module_path}:{m.start_pos[0]} {m.operator_name.removeprefix('core/')}", *(f"    {line}" for line in changed)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = sorted(path.stem for path in HERE.glob("*.toml"))
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help=f"of {', '.join(parts)}; not given: all")
    parser.add_argument("--root", type=Path, required=True, help="directory for copies and results; a run that was stopped goes on")
    parser.add_argument("--python", type=Path, default=Path(".venv/bin"), help="directory of the python that runs the tests")
    parser.add_argument("--sample", type=int, default=0, help="faults of each part, drawn at random; 0: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    given = parser.parse_args()
    environment = os.environ | {"PATH": f"{given.python.absolute()}{os.pathsep}{os.environ['PATH']}"}
    given.root.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(given.workers) as pool:
        for text in pool.map(lambda part: run(part, given.root.absolute(), given.sample, environment), given.parts or parts):
            print(text, flush=True)


if __name__ == "__main__":
    main()
