"""The measured differences of all overlapping detectors of one image, in memory and on disk.

Separate from the measuring because the solution, the tables and the figures
need nothing else: who solves again, with other options, does not measure again.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..products import atomic

__all__ = ["N_BLOCKS", "Pairs"]

N_BLOCKS = 4  # parts of an overlap that are measured by themselves


@dataclass(frozen=True, eq=False)
class Pairs:
    """Differences of K overlapping pairs of detectors, always second minus first.

    Attributes
    ----------
    first, second : (K,) int64
        The detectors, as places in the caller's list; first < second, in rising order.
    separation : (K,) float
        Distance of the detectors' centres in arcsec.
    n_cells : (K,) int64
        Good cells that the two have in common.
    difference, error : (K,) float
        Histogram mode of the difference of the two binned maps, in counts28/arcsec2, and its standard error:
        of its noise, and of what the parts of all overlaps scatter beyond their noise.
    mode, mean, median, std, skew, kurtosis, clipped_mean, clipped_median, clipped_std : (K,) float
        Half-sample mode, moments, and moments clipped at 3 standard deviations, of the same values;
        the kurtosis of a normal distribution is 0.
    blocks, block_errors : (K, 4) float
        Difference and its standard error in four parts of the overlap; NaN where a part has too few cells.
    block_places : (K, 4, 2, 3) float
        Mean u, v and sign(u) of the cells of a part, on the first and on the second detector: u along NAXIS1
        and v along NAXIS2 run from -1 to 1. NaN as ``blocks``. The parts are of nearly equal numbers of cells,
        or those that one amplifier of each detector reads.
    floor : float
        What ``error`` has beyond noise, in the middle of all pairs (median, in quadrature), in counts28/arcsec2.
    small_first, small_second : (M,) int64
        Pairs that touch but have too few good cells in common to be measured.
    """

    first: np.ndarray
    second: np.ndarray
    separation: np.ndarray
    n_cells: np.ndarray
    difference: np.ndarray
    error: np.ndarray
    mode: np.ndarray
    mean: np.ndarray
    median: np.ndarray
    std: np.ndarray
    skew: np.ndarray
    kurtosis: np.ndarray
    clipped_mean: np.ndarray
    clipped_median: np.ndarray
    clipped_std: np.ndarray
    blocks: np.ndarray
    block_errors: np.ndarray
    block_places: np.ndarray
    floor: float
    small_first: np.ndarray
    small_second: np.ndarray

    def __len__(self) -> int:
        return self.first.size

    @property
    def n_small(self) -> int:
        """Number of pairs that touch but have too few good cells in common."""
        return self.small_first.size

    def write(self, path: Path) -> None:
        """Keep them; the same pairs give the same bytes, and an existing file with these is left as it is."""
        with atomic(path, keep_same=True) as temporary, open(temporary, "wb") as f:
            np.savez(f, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def read(cls, path: Path) -> Pairs:
        """Read what `write` kept.

        Raises
        ------
        InputError
            The file is missing or damaged.
        """
        advice = "run the stage 'match' again (--from match)"
        try:
            with np.load(path, allow_pickle=False) as stored:
                values = {field.name: stored[field.name] for field in fields(cls)}
        except FileNotFoundError:
            raise InputError(f"{path} is missing; {advice}") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
            raise InputError(f"{path} cannot be read ({type(e).__name__}: {e}); delete it and {advice}") from e
        return cls(**{**values, "floor": float(values["floor"])})
