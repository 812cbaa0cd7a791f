"""Detectors that do not see what the others of their exposure see: dead, disconnected, or read by a broken amplifier.

All detectors of an exposure look at one sky for one time. Their levels differ by vignetting and nebulae, and where they are
brighter they are noisier, by what photons explain; not by more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

__all__ = ["judge"]

SKY = 3.0  # noises: a median level below that may be one whose sky was subtracted, to which no level has a ratio
FAINTEST = 0.1  # of the median level; no vignetting takes so much, and no more than half of an exposure lies in so bright a nebula
BRIGHTEST = 100.0  # times the median level; 30 Doradus is 30 times as bright as the sky in a narrow band
QUIETEST = 0.2  # of the median noise; at a tenth of the level photons alone make 0.3 of it
NOISIEST = 5.0  # times the median noise and that of the additional photons, at one electron per ADU or more


class Measured(Protocol):
    """What is known of a detector: its name, sky level and noise of a pixel in ADU."""

    extname: str
    histogram_mode: float
    noise: float


def judge(detectors: Sequence[Measured]) -> tuple[dict[str, str], list[str]]:
    """Find the detectors of one exposure whose level or noise is far from that of the others.

    Parameters
    ----------
    detectors : sequence
        With ``extname``, ``histogram_mode`` and ``noise``.

    Returns
    -------
    refused : dict
        Why a detector cannot be used, by EXTNAME. One of three or more is compared with the median of all; one without noise sees
        no sky, however many there are.
    remarks : list of str
        Two detectors that cannot both be right: which of them is wrong, nobody can tell.
    """
    refused = {d.extname: reason for d in detectors if (reason := _without_noise(d))}
    rest = [d for d in detectors if d.extname not in refused]
    if len(rest) == 2:
        found = [(one, other, _difference(one, [other])) for one, other in (rest, rest[::-1])]
        remarks = [f"detector {one.extname}: {why} ({other.extname}); one of the two is wrong" for one, other, why in found if why]
        return refused, remarks[:1]
    refused |= {d.extname: reason for d in rest if (reason := _difference(d, rest))}
    return refused, []


def _without_noise(d: Measured) -> str:
    if math.isnan(d.noise):
        return "no three good pixels lie side by side, so that its noise is not known"
    level = f"{d.histogram_mode:.5g} ADU"
    return "" if d.noise > 0 else f"its pixels do not differ from their neighbours: it sees no sky (its level is {level})"


def _difference(d: Measured, others: Sequence[Measured]) -> str:
    """How a detector differs from the median of some, in words; empty where it can be one of them."""
    level = float(np.median([other.histogram_mode for other in others]))
    noise = float(np.median([other.noise for other in others]))
    those = f"the median of the {len(others)} detectors of this exposure" if len(others) > 1 else "that of the other"
    if level > SKY * noise and not FAINTEST * level <= d.histogram_mode <= BRIGHTEST * level:
        return f"its sky level is {d.histogram_mode:.5g} ADU, {those} {level:.5g} ADU"
    if not QUIETEST * noise <= d.noise <= NOISIEST * math.sqrt(noise**2 + max(d.histogram_mode - level, 0.0)):
        return f"its noise is {d.noise:.5g} ADU at a level of {d.histogram_mode:.5g}, {those} {noise:.5g} at {level:.5g}"
    return ""
