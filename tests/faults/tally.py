"""How many faults of each kind were tried: counted by the tests that make them, so that the numbers people read were measured.

Nothing is counted unless somebody asks: the environment variable FAULTS_TALLY names the file to add to.
"""

from __future__ import annotations

import json
import os

__all__ = ["tried"]


def tried(kind: str, n: int = 1) -> None:
    """Say that faults of one kind were made, and that each ended as promised; called after the assertions that say so.

    Parameters
    ----------
    kind : str
        What the fault is, in words for the table in the manual: "file cut short".
    n : int
        How many were made.
    """
    tally = os.environ.get("FAULTS_TALLY")
    if tally:
        with open(tally, "a", encoding="utf-8") as f:  # a line at once: tests run in several processes
            f.write(json.dumps({"kind": kind, "tried": n}) + "\n")
