"""What holds for any input is tried with examples that nobody thought of; the same ones each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import settings

__all__ = ["examples", "outcome"]


def examples(n: int) -> settings:
    """Try so many examples."""
    return settings(max_examples=n, derandomize=True, deadline=None, database=None)


def outcome(call: Callable[[], Any], *errors: type[Exception]) -> tuple[Any, str]:
    """What a call gives, or None and the text of the error that it ended with."""
    try:
        return call(), ""
    except errors as e:
        return None, str(e) or "an error without a word"
