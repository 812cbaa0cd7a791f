"""How many faults of each kind were tried: counted by the tests that make them, so that the numbers people read were measured.

Nothing is counted unless somebody asks: the environment variable FAULTS_TALLY names the file to add to.
"""

from __future__ import annotations

import json
import os


def tried(kind: str, n: int = 1) -> None:
    """Say that n faults of a kind, in words for the manual, were made and ended as promised; called after the assertions."""
    tally = os.environ.get("FAULTS_TALLY")
    if tally:
        with open(tally, "a", encoding="utf-8") as f:  # a line at once: tests run in several processes
            f.write(json.dumps({"kind": kind, "tried": n}) + "\n")
