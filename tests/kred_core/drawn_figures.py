"""For tests that look at figures: their words, and files as pixels."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from kred_core.figures import UNCOVERED

BLUE = ImageColor.getrgb(UNCOVERED)


def look(path: Path) -> np.ndarray:
    """A picture as an array of red, green and blue."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def words(figure) -> list[str]:
    """Title, subtitle, note, and what else is written beside the axes."""
    return [text.get_text() for text in figure.texts]
