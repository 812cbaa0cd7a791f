"""Publish: what the Prefect UI shows beside the states of tasks, of a field and of all fields that were found.

A bar that moves, a table of the exposures and one of their backgrounds, and at the end a report: what was made, what was
refused and why, how much better each image got, in numbers and small pictures.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import artifacts
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.utilities.urls import url_for

from kred_core.config import FieldConfig
from kred_core.exposures.check import ExposureReport
from kred_core.products import FieldPaths, tables
from kred_core.report.pictures import figure_picture
from kred_core.service import SERVED_ROOT, Finding, served_address
from kred_core.stages.outcome import Outcome

__all__ = ["Progress", "key", "plain", "publish_findings", "publish_given_up", "publish_report", "publish_table", "table"]

log = logging.getLogger("kred_core.run")

PAUSE = 2.0  # s between two steps of the bar; each is a request to the server
PICTURE_WIDTH = 1400  # pixels, of the pictures in a report
PICTURE_BYTES = 147_000  # at most; 196 kB in base64, and Prefect's pages take 200 kB of text


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


class Progress:
    """The bar of a run: each stage has the same share of it."""

    def __init__(self, config: FieldConfig) -> None:
        self._stages = config.run.stages
        self._percent = 0.0
        self._shown = time.monotonic()
        self._bar: UUID | None = None
        self._troubled = False
        self._tell(lambda: artifacts.create_progress_artifact(0.0, key=key(config.field, "progress"), description=config.title))

    def show(self, stage: str, ended: int, units: int, unit: str) -> None:
        """So many units of a stage have ended, this one last."""
        done = 100 * (self._stages.index(stage) + ended / units) / len(self._stages)
        self._percent = max(self._percent, done)  # a stage may have units of several kinds, one kind after the other
        if time.monotonic() - self._shown >= PAUSE:
            self._update(f"{stage} {ended} of {units}: {unit}")

    def end(self, outcome: Outcome) -> None:
        """The run has ended; where it is not complete, the bar stays where it was."""
        self._percent = 100.0 if outcome.complete else self._percent
        self._update(outcome.headline())

    def _update(self, words: str) -> None:
        self._shown = time.monotonic()
        if bar := self._bar:
            self._tell(lambda: artifacts.update_progress_artifact(bar, self._percent, words))

    def _tell(self, request: Callable[[], object]) -> None:
        try:
            self._bar = cast(UUID, request())  # a coroutine in asynchronous code only
        except (httpx.HTTPError, ObjectNotFound, PrefectHTTPStatusError) as e:
            if not self._troubled:
                log.warning("the Prefect server does not take how far this run is: %s", e)
            self._troubled = True


def publish_table(name: str, words: str, rows: list[dict[str, Any]]) -> None:
    """A table that a stage has made, such as the verdicts on the exposures."""
    shown = [{column: _json(value) for column, value in row.items()} for row in rows]
    artifacts.create_table_artifact(key=key(name), table=shown, description=words)


def publish_report(config: FieldConfig, outcome: Outcome) -> None:
    """What the run made and refused, and why, and how much better each image got."""
    matched = bool(outcome.matching)
    parts = [
        _problems(outcome),
        _section("Background matching", _matching(config) if matched else ""),
        *(_pictures(config) if matched else ()),
        _section("Exposures to look at", _verdicts(outcome.reports)),
        _section("What was done", _stages(outcome)),
        _where(outcome),
    ]
    text = "\n\n".join(filter(None, parts))
    artifacts.create_markdown_artifact(key=key(outcome.field, "report"), markdown=text, description=outcome.headline())


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _problems(outcome: Outcome) -> str:
    failed = [f"{s.name} {unit} failed: {reason}" for s in outcome.stages for unit, reason in s.failed.items()]
    missing = [f"missing: {path}" for path in outcome.missing]
    stopped = [outcome.stopped] if outcome.stopped else []
    return _section("What is wrong", _items([*stopped, *failed, *missing]))


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)


def _matching(config: FieldConfig) -> str:
    """Numbers of each image before and after, and what was special."""
    rows = list(tables.read(FieldPaths.of(config).matching_table, tables.MATCHING, "match"))
    columns = ["image", "detectors", "overlaps", "differences before", "after", "seams removed", "error of a background"]
    numbers = (
        [plain(str(row["Image"])), str(row["N_det"]), str(row["N_pairs"])]
        + [_short(row[name]) for name in ("Before", "After", "Seam_off", "b_err")]
        for row in rows
    )
    words = "In counts28 per pixel; differences are those of overlapping detectors."
    remarks = _items(f"{row['Image']}: {row['Remark']}" for row in rows if row["Remark"])
    return "\n\n".join(filter(None, [words, table(columns, numbers), remarks]))


def _pictures(config: FieldConfig) -> Iterable[str]:
    """Each image before and after."""
    paths = FieldPaths.of(config)
    for row in tables.read(paths.matching_table, tables.MATCHING, "match"):
        picture = paths.comparison_figure(str(row["Image"]))
        if picture.exists():
            small = figure_picture(picture, PICTURE_WIDTH, PICTURE_BYTES)
            yield f"![{row['Image']}, before and after]({small.address})"


def _verdicts(reports: Iterable[ExposureReport]) -> str:
    odd = [r for verdict in ("refused", "usable") for r in reports if r.verdict == verdict]
    return table(
        ["exposure", "verdict", "why"], ([plain(r.root), r.verdict, plain("; ".join((*r.refused, *r.remarks)))] for r in odd)
    )


def _stages(outcome: Outcome) -> str:
    return table(["stage", "units", "s"], ([s.name, s.counts(), f"{s.seconds:.1f}"] for s in outcome.stages))


def _where(outcome: Outcome) -> str:
    """Notes, disk, and the page."""
    lines = [*(plain(f"note: {note}") for note in outcome.notes)]
    lines += [f"disk: {outcome.disk_words()}"] if outcome.disk else []
    if outcome.page:
        lines.append(f"pictures and numbers of the field, for people who only want to look: {_page(outcome.page)}")
    return "\n".join(f"- {line}" for line in lines)


def _page(page: Path) -> str:
    """A link where the server shows the page; browsers follow none from there to a file, so else what a person can copy."""
    root = os.environ.get(SERVED_ROOT)
    address = served_address(Path(root), page) if root else None
    copied = f"`{page.absolute().as_uri()}`"
    return f"[{plain(str(page))}]({address})" if address else f"copy {copied} into the address line of a browser on that machine"


def _short(value: float) -> str:
    """Two digits, as a person says it."""
    return f"{float(f'{float(value):.2g}'):g}" if math.isfinite(value) else ""


def _json(value: object) -> object:
    """A value of a table as JSON can hold it."""
    plainly = value.item() if hasattr(value, "item") else value
    return None if isinstance(plainly, float) and not math.isfinite(plainly) else plainly


def publish_findings(findings: Iterable[Finding]) -> None:
    """All fields and what is known of them, as a table."""
    rows = ([plain(f.field), f.state, plain(f.reason), _link(f.run)] for f in findings)
    text = table(["field", "state", "", "run"], rows)
    artifacts.create_markdown_artifact(key="fields", markdown=text, description="Fields below DECam_MEF, and what became of them")


def publish_given_up(found: Finding) -> None:
    """A notice that a field needs a person."""
    text = (
        f"**{plain(found.field)}** {plain(found.reason)}. Why, is in the log of its last run ({_link(found.run)}) and in "
        f"`Log/{found.field}.log`. When that is mended, start the deployment *field* for it, or change its files."
    )
    artifacts.create_markdown_artifact(key=key(found.field, "given-up"), markdown=text, description=f"{found.field} {found.reason}")


def _link(run: str) -> str:
    return f"[run]({url_for('flow-run', obj_id=UUID(run))})" if run else ""
