"""What all of kred's pages share: their frame, tables that scroll for themselves, folded parts, links, pictures, numbers.

A page loads nothing from anywhere, and says so to the browser, which then refuses even what should slip in.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from ..figures.drawing import short
from .markup import Content, Markup, address, element
from .pictures import Picture

__all__ = ["document", "folded", "links", "number", "picture", "table"]


def document(title: str, body: Content, style: str = "", script: bool = False) -> str:
    """A whole page that loads nothing from anywhere: a browser that is told so refuses even what should slip in."""
    code = resources.files(__package__).joinpath("page.js").read_text(encoding="utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
    )
    sheet = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8") + style
    head = (
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · kred"),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(sheet)),
    )
    code_element = element("script", Markup(code)) if script else None
    whole = element("html", element("head", head), element("body", body, code_element), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def picture(shown: Picture, alt: str, **attributes: object) -> Markup:
    """A picture that lies in the page, and in words what it shows."""
    return element("img", src=shown.address, alt=alt, width=shown.width, height=shown.height, **attributes)


def links(files: Mapping[str, Path], page: Path, class_: str = "links") -> Markup | None:
    """A list of links to files, by what they are in words, from a page; None without any."""
    items = [element("li", element("a", words, href=address(path, page))) for words, path in files.items()]
    return element("ul", items, class_=class_) if items else None


def folded(title: Content, content: Content, is_open: bool = False) -> Markup:
    """A part of which only the title is seen until somebody opens it."""
    return element("details", element("summary", title), content, open=is_open)


def table(head: Sequence[str], rows: Iterable[Sequence[Content | int]], numeric: set[int]) -> Markup:
    """A table that scrolls for itself where the window is too narrow."""

    def cells(name: str, row: Sequence[Content | int]) -> list[Markup]:
        return [
            element(name, str(cell) if isinstance(cell, int) else cell, class_="n" if i in numeric else None)
            for i, cell in enumerate(row)
        ]

    body = [element("tr", cells("td", row)) for row in rows]
    whole = element("table", element("thead", element("tr", cells("th", head))), element("tbody", body))
    return element("div", whole, class_="scroll", tabindex="0")


def number(value: float) -> str:
    """A number to three digits; a dash where it is not known."""
    return short(float(value))
