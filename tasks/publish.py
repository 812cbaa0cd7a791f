"""Publish: what the Prefect UI shows of a field beside the states of its tasks."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from kred_core import figures, stages, tables
from kred_core.check import ExposureReport, quality_rows
from kred_core.config import FieldConfig
from kred_core.outcome import Outcome
from kred_core.products import FieldPaths

__all__ = ["publish_matching", "publish_outcome", "publish_verdicts"]


def _key(*parts: str) -> str:
    """Prefect's keys have lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def publish_verdicts(field: str, reports: list[ExposureReport]) -> None:
    """The verdict on each exposure, with reasons, as a table."""
    rows = [{name: _json(value) for name, value in row.items()} for row in quality_rows(reports)]
    create_table_artifact(key=_key(field, "exposures"), table=rows, description=f"Verdict on each exposure of {field}")


def publish_matching(config: FieldConfig) -> None:
    """How much better each image got: a table, and for each image a line and the figure of before and after."""
    paths = FieldPaths.of(config)
    table = tables.read(paths.matching_table, tables.MATCHING, "match")
    rows = [{name: _json(row[name]) for name in table.colnames} for row in table]
    create_table_artifact(key=_key(config.field, "matching"), table=rows, description=f"Background matching of {config.field}")
    for row, line in zip(rows, stages.explain_matching(config), strict=True):
        picture = paths.comparison_figure(row["Image"])
        if picture.exists():
            text = f"{line}\n\n![{row['Image']}, before and after](data:image/png;base64,{_base64(picture)})"
            create_markdown_artifact(key=_key(config.field, row["Image"], "matching"), markdown=text, description=line)


def _json(value: object) -> object:
    """A value of a table as JSON can hold it."""
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _base64(picture: Path) -> str:
    return base64.b64encode(figures.shrunk(picture)).decode("ascii")


def publish_outcome(outcome: Outcome) -> None:
    """What the run made and refused, as people read it in the terminal."""
    text = "```\n" + "\n".join(outcome.lines()) + "\n```"
    if outcome.page:  # browsers do not follow it from a page of a server, but copy it
        text += f"\n\nPictures and numbers, for people who only want to look: [{outcome.page}]({outcome.page.absolute().as_uri()})"
    create_markdown_artifact(key=_key(outcome.field, "summary"), markdown=text, description=outcome.headline())
