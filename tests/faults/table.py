"""The table of faults in the manual (docs/explanation/nothing-is-lost.md): ``make faults``, or ``python tests/faults/table.py``.

Runs all tests of this directory, also those that take minutes, and counts what they have tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run the tests and print the table; the exit status is that of the tests."""
    with tempfile.TemporaryDirectory() as directory:
        tally, results = Path(directory, "tally"), Path(directory, "results.xml")
        tally.touch()
        command = [sys.executable, "-m", "pytest", "-m", "long or not long", "-n", "0", f"--junitxml={results}", str(HERE)]
        status = subprocess.run(command, env=os.environ | {"FAULTS_TALLY": str(tally)}, cwd=HERE.parents[1], check=False).returncode
        tried: dict[str, int] = {}
        for line in tally.read_text(encoding="utf-8").splitlines():
            fault = json.loads(line)
            tried[fault["kind"]] = tried.get(fault["kind"], 0) + fault["tried"]
        suite = ElementTree.parse(results).getroot().find("testsuite")
    lost = int(suite.get("failures")) + int(suite.get("errors"))
    print("\n| what was done | tried | survived |\n|---|---:|---:|")
    for kind, n in sorted(tried.items()):
        print(f"| {kind} | {n:,} | {n:,} |")
    print(f"| **all** | **{sum(tried.values()):,}** | **{sum(tried.values()):,}** |")
    skipped = f"; {suite.get('skipped')} tests were skipped, which say above what they need" if int(suite.get("skipped")) else ""
    print(f"\nlost: {lost}{' (tests that failed)' if lost else ''}{skipped}")
    return status


if __name__ == "__main__":
    sys.exit(main())
