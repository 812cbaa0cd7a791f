"""Mutation testing: how many small faults, put into the code one at a time, do the tests notice?

cosmic-ray makes the faults and keeps the results; here is what it lacks. It edits code in place, so this works on a copy. Faults
that are none (in annotations, in what compiles a function) are left out. A sample can be drawn, the same one each time. And
each test starts from a process that has imported numpy and the like already, which takes a quarter of the time.
See README.md beside it for how to run it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import math
import os
import random
import resource
import subprocess
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.modules import find_modules
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

HERE = Path(__file__).resolve().parent
PARTS = tomllib.loads((HERE / "parts.toml").read_text())
TIME_OUT = 2.5  # times what the tests take without a fault
# What the tests import, and no fault is put into.
IMPORTED = (
    "astropy.io.fits",
    "astropy.stats",
    "astropy.table",
    "astropy.wcs",
    "hypothesis.extra.numpy",
    "numba",
    "pydantic_settings",
)
IMPORTED += ("scipy.optimize", "scipy.sparse.csgraph", "scipy.spatial", "scipy.stats")
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


def choose(db, sample: int) -> None:
    """Mark as skipped what is no fault, and what a sample (0: all) does not contain."""
    items = sorted(db.pending_work_items, key=lambda i: [(str(m.module_path), m.operator_name, m.occurrence) for m in i.mutations])
    faults = [item for item in items if all(map(is_fault, item.mutations))]
    chosen = random.Random(1).sample(faults, sample) if 0 < sample < len(faults) else faults
    print(f"{len(faults)} faults, of which {len(chosen)} are tried", flush=True)
    left = {item.job_id for item in chosen}
    for item in items:
        if item.job_id not in left:
            db.set_result(item.job_id, WorkResult(WorkerOutcome.SKIPPED))


def tested(part: dict, limit: int) -> tuple[bool, float]:
    """Whether the tests of a part pass, and the seconds of CPU they take; no more than a limit (0: none)."""
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        if limit:  # a loop without end
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            sys.dont_write_bytecode = True  # that of a fault could be taken for that of the next one
        import pytest

        os._exit(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *part["tests"], "-k", part["select"]]))
    _, status, used = os.wait4(child, 0)
    return status == 0, used.ru_utime + used.ru_stime


def try_all(part: dict, db) -> None:
    """Put each fault into the code, test, take it out again."""
    for _ in range(2):  # the first time compiles
        passed, used = tested(part, 0)
        if not passed:
            raise SystemExit("the tests fail without any fault")
    limit = math.ceil(TIME_OUT * used)
    items = list(db.pending_work_items)
    for n, item in enumerate(items, 1):
        (mutation,) = item.mutations
        operator = get_operator(mutation.operator_name)(**mutation.operator_args)
        with use_mutation(mutation.module_path, operator, mutation.occurrence) as (before, after):
            outcome = TestOutcome.SURVIVED if tested(part, limit)[0] else TestOutcome.KILLED
        row = mutation.start_pos[0] - 1
        changed = f"{before.splitlines()[row].strip()}  ->  {after.splitlines()[row].strip()}"
        db.set_result(item.job_id, WorkResult(WorkerOutcome.NORMAL, test_outcome=outcome, diff=changed))
        if n % 20 == 0:
            print(f"{n} of {len(items)}", flush=True)


def report(db) -> None:
    """Numbers, and what nobody noticed."""
    results = [(item.mutations[0], result) for item, result in db.completed_work_items if result.test_outcome is not None]
    outcomes = Counter((str(mutation.module_path), result.test_outcome) for mutation, result in results)
    for module in sorted({module for module, _ in outcomes}):
        killed, survived = outcomes[module, TestOutcome.KILLED], outcomes[module, TestOutcome.SURVIVED]
        print(f"{module}: {killed} of {killed + survived} noticed, {100 * killed / (killed + survived):.1f} %")
    for mutation, result in sorted(results, key=lambda r: (str(r[0].module_path), r[0].start_pos, r[0].operator_name)):
        if result.test_outcome == TestOutcome.SURVIVED:
            print(
                f"{mutation.module_path}:{mutation.start_pos[0]}: {result.diff}  ({mutation.operator_name.removeprefix('core/')})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--root", type=Path, required=True, help="directory for the copy and the results; what was stopped goes on")
    parser.add_argument("--sample", type=int, default=0, help="try so many faults, drawn at random; 0: all")
    given = parser.parse_args()
    part, code, session = PARTS[given.part], given.root.absolute() / given.part, given.root.absolute() / f"{given.part}.sqlite"
    if not part["compiled"]:
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    if not code.exists():
        code.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=HERE.parents[1], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(code)], input=archive, check=True)
    os.chdir(code)
    sys.path.insert(0, str(code))
    for name in IMPORTED:
        importlib.import_module(name)
    is_new = not session.exists()
    with use_db(session) as db:
        if is_new:
            init(find_modules(map(Path, part["modules"])), db, {})
            choose(db, given.sample)
        try_all(part, db)
        report(db)


if __name__ == "__main__":
    main()
