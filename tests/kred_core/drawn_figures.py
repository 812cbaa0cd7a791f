"""For tests that look at figures: the figures behind the files, their words, and files as pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from kred_core.figures import UNCOVERED, drawing

__all__ = ["BLUE", "drawn", "look", "words"]

BLUE = ImageColor.getrgb(UNCOVERED)


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures behind the files that are written."""
    kept, save = [], drawing.save

    def keep_and_save(figure, path):
        save(figure, path)
        kept.append(figure)

    monkeypatch.setattr(drawing, "save", keep_and_save)
    return kept


def look(path: Path) -> np.ndarray:
    """A picture as an array of red, green and blue."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def words(figure) -> list[str]:
    """Title, subtitle, note, and what else is written beside the axes."""
    return [text.get_text() for text in figure.texts]
