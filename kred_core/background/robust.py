"""The robust, weighted, sparse least squares for the backgrounds of a whole field."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .solution import Shape, Solution

__all__ = ["solve"]


def solve(
    n: int,
    first: ArrayLike,
    second: ArrayLike,
    difference: ArrayLike,
    error: ArrayLike,
    *,
    own: ArrayLike = 0.0,
    own_error: float = np.inf,
    fixed: ArrayLike | None = None,
    key: ArrayLike | None = None,
    robust: bool = True,
    shape: Shape | None = None,
) -> Solution:
    """Backgrounds of n detectors.

    Parameters
    ----------
    n : int
        Number of detectors.
    first, second : (K,) int
        Detectors of each pair, from 0.
    difference, error : (K,) float
        Background of the second minus that of the first, and its standard error.
    own : (n,) float
        Each detector's own sky.
    own_error : float
        How far own skies may be from backgrounds; inf: they only set the zero point.
    fixed : (n,) float, optional
        Known backgrounds; NaN where free.
    key : (n,) array, optional
        Name or number of each detector, all different: makes the answer independent of the order of the detectors.
    robust : bool
        False: plain least squares.
    shape : `Shape`, optional
        Planes and steps.
    """
    raise NotImplementedError
