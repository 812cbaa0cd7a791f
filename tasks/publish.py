"""Publish: what the Prefect UI shows of a field beside the states of its tasks."""

from __future__ import annotations

import math
import re

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from kred_core.check import ExposureReport, quality_rows
from kred_core.outcome import Outcome

__all__ = ["publish_outcome", "publish_verdicts"]


def _key(*parts: str) -> str:
    """Prefect's keys have lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def publish_verdicts(field: str, reports: list[ExposureReport]) -> None:
    """The verdict on each exposure, with reasons, as a table."""
    rows = [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in quality_rows(reports)
    ]
    create_table_artifact(key=_key(field, "exposures"), table=rows, description=f"Verdict on each exposure of {field}")


def publish_outcome(outcome: Outcome) -> None:
    """What the run made and refused, as people read it in the terminal."""
    text = "\n".join(outcome.lines())
    create_markdown_artifact(key=_key(outcome.field, "summary"), markdown=f"```\n{text}\n```", description=outcome.headline())
