"""Figures small enough to be part of a page: the Prefect UI takes 200 kB as text.

Apart from the drawing because it works on any figure that is on disk.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

from .drawing import with_palette

__all__ = ["EMBEDDED_BYTES", "shrunk"]

EMBEDDED_BYTES = 147_000  # 196 kB in base64


def shrunk(path: Path) -> bytes:
    """A figure as a PNG of at most `EMBEDDED_BYTES`, made smaller by as little as that needs.

    Parameters
    ----------
    path : `~pathlib.Path`
        A PNG.

    Returns
    -------
    bytes
        The file itself where it is small enough.
    """
    from PIL import Image

    raw = path.read_bytes()
    with Image.open(io.BytesIO(raw)) as opened:
        picture = opened.convert("RGB")
    part = 1.0
    while len(raw) > EMBEDDED_BYTES:
        part *= min(0.9, 0.95 * math.sqrt(EMBEDDED_BYTES / len(raw)))  # bytes go with the area, a little slower
        buffer = io.BytesIO()
        small = picture.resize([max(1, round(side * part)) for side in picture.size], Image.Resampling.LANCZOS)
        with_palette(small).save(buffer, format="png")
        raw = buffer.getvalue()
    return raw
