"""What goes into a solution for backgrounds beyond the pairs, and what comes out of it.

Apart from the solving, so that tables, figures and other solvers can hold a
solution without any of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...background import Background

__all__ = ["Shape", "Solution"]


@dataclass(frozen=True, eq=False)
class Shape:
    """Backgrounds that are more than constants, and the parts of overlaps that show it.

    The model is that of `~kred_core.background.Background`, x and y being u and v, from -1 to 1 along the detector's
    axes. All lengths K are those of the pairs.

    Attributes
    ----------
    exposure : (n,) int
        Which detectors belong to one exposure: equal numbers.
    blocks, block_errors : (K, 4) float
        Difference, second minus first, in four parts of each overlap, and its error; NaN: not measured.
    block_places : (K, 4, 2, 3) float
        Mean u, v and sign(u) of a part, on the first and on the second detector.
    plane : {"constant", "exposure-plane", "detector-plane"}
        Slopes: none; one for each exposure, shared by its detectors, which are parallel; or one for each
        detector, drawn towards that of its exposure.
    amplifier_steps : bool
        Whether each detector has a step between its two amplifiers.
    exposure_slope, detector_slope, amplifier_step : float or None
        Expected sizes, in units of the differences: of the slope of an exposure, of a detector's slope minus
        that of its exposure, and of a step. What the overlaps do not determine stays near 0 within these.
        None: as in `kred_core.match.solve.solve`.
    """

    exposure: np.ndarray
    blocks: np.ndarray
    block_errors: np.ndarray
    block_places: np.ndarray
    plane: Literal["constant", "exposure-plane", "detector-plane"] = "constant"
    amplifier_steps: bool = False
    exposure_slope: float | None = None
    detector_slope: float | None = None
    amplifier_step: float | None = None


@dataclass(frozen=True, eq=False)
class Solution:
    """Backgrounds of n detectors from K pairs, in units of the differences.

    Attributes
    ----------
    background : `~kred_core.background.Background`
        Of arrays (n,), x and y in half sides: u and v. Its constants are always finite where own skies are.
    error : (n,) float
        Standard error of each constant relative to the mean of its component, or to the fixed detectors of its component;
        NaN for a detector without usable pairs, 0 for a fixed one.
    component : (n,) int
        Detectors that used pairs connect have the same number; numbered from 1 in the order of their first detectors.
    n_pairs, n_rejected : (n,) int
        Pairs of each detector that were used, and how many of these contradict the solution.
    weight : (K,) float
        Weight in the last step: 1 for a pair that agrees, less for one that does not, 0 for one without any influence.
    residual : (K,) float
        Difference minus what the solution says; NaN where the difference is.
    rejected : (K,) bool
        Used pairs that contradict the solution.
    scale : float
        Scatter of the residuals in units of their errors: near 1 where the errors are right.
    """

    background: Background
    error: np.ndarray
    component: np.ndarray
    n_pairs: np.ndarray
    n_rejected: np.ndarray
    weight: np.ndarray
    residual: np.ndarray
    rejected: np.ndarray
    scale: float
