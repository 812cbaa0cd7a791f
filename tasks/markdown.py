"""Text as the Prefect UI shows it: keys of artifacts, and tables in Markdown.

Apart from the artifacts themselves because all of them need it, and names and messages of people's files must not be taken
for Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["key", "plain", "table"]


def key(*parts: str) -> str:
    """Key of an artifact: Prefect allows lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def plain(text: str) -> str:
    """A text that is shown as it is, in one line."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(text.split()))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are Markdown already; empty where it has no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines]) if lines else ""
