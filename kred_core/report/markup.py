"""HTML that cannot be broken by what it shows: everything that is not `Markup` already is escaped.

Names of files and values from headers come from elsewhere and may hold anything. Because elements are made here and
nowhere else, no caller can forget to escape.
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

__all__ = ["Content", "Markup", "address", "element", "joined"]

EMPTY = frozenset({"br", "img", "input", "link", "meta"})  # elements without content


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


Content = str | Iterable["Content"] | None


def element(name: str, /, *content: Content, **attributes: object) -> Markup:
    """One HTML element.

    Parameters
    ----------
    name : str
    *content : str, `Markup`, None, or iterables of these
        Text is escaped, `Markup` is not; None is nothing.
    **attributes
        ``_`` in a name stands for ``-``, one at its end for nothing; True: without a value; False or None: left out.
    """
    text = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_escaped(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in EMPTY:
        return Markup(f"<{name}{text}>")
    return Markup(f"<{name}{text}>{joined(content)}</{name}>")


def joined(content: Content) -> Markup:
    """What an element holds, as HTML."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, str):
        return Markup(_escaped(content))
    return Markup("".join(joined(part) for part in content))


def _escaped(text: str) -> str:
    # File names that are not UTF-8 hold half characters, which no page can.
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)


def address(target: Path, page: Path) -> str:
    """A file as a relative link from a page; it holds after the whole data root has been moved."""
    return quote(os.fsencode(os.path.relpath(target, page.parent)))
