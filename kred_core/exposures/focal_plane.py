"""Whether the CCDs of a DECam exposure lie where the camera has them: all else that is known of a WCS comes from the WCS itself.

The layout is that of `kred_core.survey.focal_plane`, fitted to real headers with an rms of 3 to 4 pixels (1 arcsec), with
the radial distortion of the corrector.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ..sky import position, unit_vectors
from ..survey import focal_plane

__all__ = ["CD", "RADIAL", "displacements"]

CD = 7.287e-5  # deg per native pixel
RADIAL = {1: 1.0056, 7: -0.00305, 9: -0.00305}  # PV1_n and PV2_n: xi (c + k r^2), fitted to 25 real detectors: rms of area 3e-4
CCD = np.array([2046.0, 4094.0])  # NAXIS1, NAXIS2
WHOLE = 0.95  # of a side; a shorter one is that of a cut-out, which may lie anywhere within its CCD
SIBLINGS = 3  # as many CCDs tell where the telescope pointed, whatever CRVAL says
PASSES = 4  # of the search for the pointing, which moves the centre of the distortion too


def displacements(corners: Mapping[str, ArrayLike], reference: ArrayLike) -> dict[str, float]:
    """How far CCDs lie from where the focal plane has them.

    Parameters
    ----------
    corners : mapping of str to array_like
        Of the CCDs of one exposure by EXTNAME: RA and Dec in degrees of the corner pixels, shape (4, 2), in the order of COR1 to
        COR4. A name that DECam does not have is left out.
    reference : array_like
        CRVAL of each in degrees, shape (n, 2), in any order.

    Returns
    -------
    dict of str to float
        Arcsec. Pointing and rotation of the camera are the medians of the CCDs that are whole, if these are at least three, so
        that an offset of the telescope is none of a CCD; with fewer the pointing is the CRVAL that all share, and of one CCD
        alone, or without a common CRVAL, nothing is known: empty. Of a cut-out only that part counts by which it sticks out of
        its CCD.
    """
    layout = {str(row["EXTNAME"]): (float(row["CRPIX1"]), float(row["CRPIX2"])) for row in focal_plane()}
    names = [name for name in corners if name in layout]
    if len(names) < 2:
        return {}
    directions = np.array([unit_vectors(*np.transpose(corners[name])) for name in names])
    crpix = np.array([layout[name] for name in names])
    crval = unit_vectors(*np.transpose(reference))
    pointing = np.median(crval, axis=0)
    for _ in range(PASSES):
        pixels = _native(directions, pointing) + crpix[:, None, :]
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        cut = high - low < WHOLE * CCD
        off = np.where(cut, np.minimum(low - 1, 0) + np.maximum(high - CCD, 0), (low + high - CCD - 1) / 2)
        whole = ~cut.any(axis=1)
        if whole.sum() < SIBLINGS:
            if np.ptp(crval, axis=0).max() > 1e-9:
                return {}
            break
        pointing = _moved(pointing, np.median(off[whole], axis=0))
    return dict(zip(names, (3600 * CD * np.hypot(*off.T)).tolist(), strict=True))


def _frame(pointing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors to the east and north of a direction."""
    ra, dec = np.radians(position(pointing))
    return np.array([-np.sin(ra), np.cos(ra), 0.0]), np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])


def _native(corners: np.ndarray, pointing: np.ndarray) -> np.ndarray:
    """Native pixels from the pointing, shape (n, 4, 2): x runs south, y runs east where the camera is not turned."""
    east, north = _frame(pointing)
    towards = pointing / np.linalg.norm(pointing)
    plane = np.stack([-(corners @ north), corners @ east], axis=-1)
    plane /= np.maximum(corners @ towards, 1e-3)[..., None]  # the other half of the sky is far away, too
    seen = np.degrees(np.linalg.norm(plane, axis=-1, keepdims=True))
    true = seen
    for _ in range(5):
        true = seen / np.maximum(RADIAL[1] + RADIAL[7] * true**2, 0.5)
    straight = np.degrees(plane) * true / np.where(seen > 0, seen, 1.0) / CD
    along = straight[:, 2] - straight[:, 0]  # from the first row to the last
    turn = np.median(np.arctan2(along[:, 0], along[:, 1]))
    c, s = np.cos(turn), np.sin(turn)
    return straight @ np.array([[c, s], [-s, c]])


def _moved(pointing: np.ndarray, off: np.ndarray) -> np.ndarray:
    east, north = _frame(pointing)
    return pointing / np.linalg.norm(pointing) + np.radians(CD) * RADIAL[1] * (off[1] * east - off[0] * north)
