"""The page that leads to the pages of all fields.

Each field keeps a card of itself. The page is made from all cards that are there, under a lock, so that two fields
which end at the same moment are both on it, whoever writes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..products import FieldPaths, discard, read_record, write_text
from ..products.locks import held
from ..words import counted
from .contents import Contents
from .document import document
from .markup import Content, Markup, address, element
from .page import state, summary
from .pictures import card_picture

__all__ = ["card", "fields_page", "write_fields_page"]


def card(contents: Contents) -> dict[str, Any]:
    """What the page of all fields says of one, as plain values."""
    pictures = [image.sky["after"] for image in contents.images if image.sky]
    pictures += [t.picture for image in contents.images for t in image.shown]
    return {
        "field": contents.paths.field,
        "state": state(contents),
        "summary": summary(contents),
        "ended": contents.run.get("ended", ""),
        "picture": card_picture(pictures[0]).address if pictures else "",
    }


def fields_page(cards: Sequence[tuple[FieldPaths, dict[str, Any]]]) -> str:
    """The page of all fields as HTML.

    Parameters
    ----------
    cards : sequence of (`~kred_core.products.FieldPaths`, dict)
        The fields that have a page, and their `card`; one that has been lost may be empty.
    """
    states = [card.get("state", ["unknown", ""])[0] for _, card in cards]
    facts = [element("span", counted(len(cards), "field"))]
    for kind, words in (("complete", "complete"), ("incomplete", "not complete"), ("waiting", "without pictures yet")):
        if n := states.count(kind):
            facts.append(element("span", f"{n} {words}", class_=kind))
    body = (
        element("header", element("h1", "Fields"), element("p", facts, class_="facts")),
        element("main", element("ul", [element("li", _link(paths, card)) for paths, card in cards], class_="fields")),
    )
    return document("Fields", body)


def _link(paths: FieldPaths, card: dict[str, Any]) -> Markup:
    kind, words = card.get("state", ("unknown", ""))
    picture = card.get("picture")
    lines: list[Content] = [*card.get("summary", []), card.get("ended")]
    return element(
        "a",
        element("div", element("img", src=picture, alt=f"{paths.field}, north up") if picture else None, class_="picture"),
        element("b", paths.field),
        element("span", words, class_=f"state {kind}"),
        [element("p", line) for line in lines if line],
        href=address(paths.page, paths.all_fields_page),
        class_="card",
    )


def write_fields_page(paths: FieldPaths) -> None:
    """Make the page of all fields from what is on disk; one that has not changed keeps its time."""
    target = paths.all_fields_page
    with held([paths.all_fields_lock], paths.field, lambda holder: None):
        for leftover in target.parent.glob(f".{target.name}.*"):  # of a run that was killed: this one holds the lock
            discard(leftover)
        cards = [(other, read_record(other.record("report", "card")) or {}) for other in paths.with_pages()]
        write_text(target, fields_page(cards))
