"""From raw counts to counts28: two numbers for each exposure.

counts28 = raw * factor - background. The factor follows from the zero point;
the background is one number for all detectors of an exposure, so that it takes
out the sky and leaves what differs between detectors to the matching.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["exposure_background", "factor"]


def factor(magzero: float) -> float:
    """Factor from ADU to counts28, in which a source of 28 mag has 1 count.

    Parameters
    ----------
    magzero : float
        Zero point: magnitude of a source of 1 ADU.

    Returns
    -------
    float
        10**(0.4 * (28 - magzero)).
    """
    return 10.0 ** (0.4 * (28.0 - magzero))


def exposure_background(method: str, mode: Sequence[float], median: Sequence[float], scale: float) -> float:
    """Background of one exposure in counts28 per pixel.

    Parameters
    ----------
    method : {"mode", "median", "min", "none"}
        Median over the detectors of their mode or of their median, the
        smallest mode, or 0.
    mode, median : sequence of float
        Half-sample mode and median of each detector, in ADU.
    scale : float
        See `factor`.

    Returns
    -------
    float
    """
    if method == "none":
        return 0.0
    levels = np.asarray(median if method == "median" else mode, dtype=np.float64)
    level = np.min(levels) if method == "min" else np.median(levels)
    return float(level * scale)
