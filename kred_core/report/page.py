"""The page of one field: where each thing that is on disk stands on it, and in which words.

It holds all it needs, so that it can be looked at from a disk, without a network, and be sent to somebody. Without
JavaScript everything is there; with it the two halves of a comparison can be moved by hand.
"""

from __future__ import annotations

import math
from typing import Any

from ..config import STAGES
from ..words import counted, human_size
from .contents import Contents
from .document import document, folded, links, number, table
from .image import image_panel
from .markup import Content, Markup, address, element, joined

__all__ = ["page", "state", "summary"]

FEW_EXPOSURES = 24  # good exposures that are shown without being asked for
VERDICTS = {"refused": "refused", "usable": "usable, with remarks", "good": "good"}


def page(contents: Contents) -> str:
    """The page of a field as HTML; the same contents give the same text."""
    field = contents.paths.field
    here = contents.paths.page
    body = (
        element("a", "All fields", href=address(contents.paths.all_fields_page, here), class_="up"),
        element("header", element("h1", field), _facts(contents), _trouble(contents)),
        element(
            "main",
            _images(contents),
            _exposures(contents),
            _costs(contents),
            _options(contents),
            _files(contents),
        ),
    )
    return document(field, body, _choices(len(contents.images)), script=True)


def state(contents: Contents) -> tuple[str, str]:
    """How far the field is: one of "complete", "incomplete", "waiting", "unknown", and the same in words."""
    if contents.run and not contents.run.get("complete"):
        return "incomplete", "not complete"
    if not any(image.sky or image.shown for image in contents.images):
        return "waiting", "no pictures yet"
    return ("complete", "complete") if contents.run else ("unknown", "no record of a run")


def summary(contents: Contents) -> list[str]:
    """How much there is of the field: exposures, tiles, images."""
    verdicts = [row["Verdict"] for row in contents.verdicts]
    parts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in reversed(VERDICTS) if verdict in verdicts)
    words = [f"{counted(len(verdicts), 'exposure')}: {parts}"] if verdicts else ["no exposures checked yet"]
    coadded = {t.tile.name for image in contents.images for t in image.mosaics}
    seen = {t.tile.name for image in contents.images for t in image.shown}
    if coadded or seen:
        how = "co-added" if coadded else "in the quick look"
        words.append(f"{len(coadded or seen)} of {counted(len(contents.tiles), 'tile')} {how}")
        words.append(", ".join(image.name for image in contents.images if image.shown or image.sky))
    return words


def _facts(contents: Contents) -> Markup:
    kind, words = state(contents)
    run = contents.run
    facts = [*summary(contents), run.get("ended"), f"kred {run['version']}" if run.get("version") else None]
    return element(
        "p",
        element("span", words, class_=f"state {kind}"),
        [element("span", fact) for fact in facts if fact],
        class_="facts",
    )


def _trouble(contents: Contents) -> Markup | None:
    """Why the last run is not complete, and what else people should know."""
    run = contents.run
    reasons = [f"The run stopped: {run['stopped']}"] if run.get("stopped") else []
    for name, stage in sorted(run.get("stages", {}).items(), key=_stage_order):
        reasons += [f"{name} {unit} failed: {reason}" for unit, reason in stage.get("failed", {}).items()]
    missing = run.get("missing", [])
    reasons += [f"missing: {path}" for path in missing[:5]]
    reasons += [f"… and {counted(len(missing) - 5, 'other product')}"] if len(missing) > 5 else []
    notes = [*run.get("notes", []), *contents.unreadable]
    boxes = [
        element("div", element("ul", [element("li", contents.plain(text)) for text in texts]), class_=f"box {kind}")
        for kind, texts in (("bad", reasons), ("note", notes))
        if texts
    ]
    return joined(boxes)


def _stage_order(item: tuple[str, Any]) -> int:
    return STAGES.index(item[0]) if item[0] in STAGES else len(STAGES)


def _choices(n: int) -> str:
    """Which panel is seen: without JavaScript, by which of the images is chosen."""
    return "".join(f"#image-{i}:checked~.panel-{i}{{display:block}}" for i in range(n))


def _images(contents: Contents) -> Markup:
    if not contents.images:
        return element("p", "Nothing of this field has been measured yet.", class_="empty")
    tabs = [
        (
            element("input", type="radio", name="image", id=f"image-{i}", class_="choice", checked=i == 0, autocomplete="off"),
            element("label", image.title, for_=f"image-{i}", class_="tab"),
        )
        for i, image in enumerate(contents.images)
    ]
    panels = [
        element("section", image_panel(contents, image, i), class_=f"panel panel-{i}", aria_label=f"Image {image.name}")
        for i, image in enumerate(contents.images)
    ]
    return element("div", tabs, panels, class_="images")


def _exposures(contents: Contents) -> Markup | None:
    if not contents.verdicts:
        return None
    by_verdict = {verdict: [row for row in contents.verdicts if row["Verdict"] == verdict] for verdict in VERDICTS}
    parts: list[Content] = []
    for verdict, rows in by_verdict.items():
        if not rows:
            continue
        head = ("exposure", "filter", "time, s", "seeing, ″", "zero point", "detectors", "image")
        cells = table(head, [_exposure(contents, row) for row in rows], numeric={2, 3, 4, 5})
        mark = element("span", str(len(rows)), " ", VERDICTS[verdict], class_=verdict)
        parts.append(folded(mark, cells, is_open=verdict != "good" or len(rows) <= FEW_EXPOSURES))
    return element("section", element("h2", "Exposures"), parts)


def _exposure(contents: Contents, row: dict[str, Any]) -> tuple[Content, ...]:
    return (
        (row["Root"], element("p", contents.plain(row["Reasons"]), class_="reasons") if row["Reasons"] else None),
        row["FILTER"],
        number(row["EXPTIME"]),
        number(row.get("SEEING", math.nan)),
        f"{row['MAGZERO']:.3f}" if math.isfinite(row.get("MAGZERO", math.nan)) else "–",
        f"{row['N_used']} of {row['N_det']}",
        row.get("Image", ""),
    )


def _costs(contents: Contents) -> Markup | None:
    run = contents.run
    if not run:
        return None
    stages = sorted(run.get("stages", {}).items(), key=_stage_order)
    times = table(
        ("stage", "made", "up to date", "failed", "time, s", "when"),
        [(name, s["done"], s["current"], len(s["failed"]), f"{s['seconds']:.1f}", s["ended"]) for name, s in stages],
        numeric={1, 2, 3, 4},
    )
    disk = table(("directory", "size"), [(name, human_size(size)) for name, size in run.get("disk", {}).items()], numeric={1})
    return element(
        "section",
        element("h2", "Time and disk"),
        element("p", "Of the last run that had something to do in each stage; times as they passed on the clock.", class_="hint"),
        element("div", times, disk, class_="beside"),
    )


def _options(contents: Contents) -> Markup | None:
    if not contents.options:
        return None
    changed = [element("li", element("code", f"{name} = {value}")) for name, value in contents.changed.items()]
    return element(
        "section",
        element("h2", "Options"),
        element("p", "Different from the default:") if changed else element("p", "All options have their defaults."),
        element("ul", changed, class_="changed") if changed else None,
        folded("All options, as kred.toml", element("pre", contents.options, tabindex="0")),
    )


def _files(contents: Contents) -> Markup | None:
    found = links(contents.files, contents.paths.page, "inline")
    return element("section", element("h2", "Tables and log"), found) if found else None
