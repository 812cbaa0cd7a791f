"""The solution of the older scripts, by singular values, kept for comparison with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["CUTS", "solve_svd"]

CUTS = (0.1, 0.01)  # in units of the mean row sum of the weights


def solve_svd(
    n: int,
    first: np.ndarray,
    second: np.ndarray,
    difference: np.ndarray,
    n_cells: np.ndarray,
    start: np.ndarray | None,
    cuts: Sequence[float] = CUTS,
) -> np.ndarray:
    """Backgrounds as the older scripts found them.

    Parameters
    ----------
    n : int
        Number of detectors.
    first, second : (K,) int
        Detectors of each pair.
    difference : (K,) float
        Of the second minus the first. Pairs without a finite difference or without cells are left out.
    n_cells : (K,) int
        Cells in common.
    start : (n,) float
        Backgrounds to keep if they agree better with the differences than all solutions. None: there are none.
    cuts : sequence of float
        Singular values below are dropped; one solution for each.

    Returns
    -------
    (n,) float
        Of mean 0 over all detectors, or ``start``. 0 where there is neither a pair nor ``start``.

    Notes
    -----
    With W the symmetric matrix of cells in common divided by the mean of its row sums, A = W - diag(row sums) and
    s_i = sum_j W_ij (b_j - b_i), solves A b = s by the pseudo-inverse without the singular values below 0.1, and below 0.01,
    and returns that which leaves the smallest sqrt(sum r^2)/K. A is symmetric: its singular values are the magnitudes of its
    eigenvalues, which take a tenth of the time. It is dense: n^2 numbers and n^3 operations. A detector without pairs gets 0.
    The dropped singular values belong to the smoothest patterns: slopes over the whole field are flattened with them.
    """
    good = np.isfinite(difference) & (n_cells > 0)
    i, j, delta, cells = first[good], second[good], difference[good], n_cells[good]
    if i.size == 0:
        return np.zeros(n) if start is None else np.array(start, dtype=np.float64)
    weights = np.zeros((n, n))
    np.add.at(weights, (i, j), cells)
    np.add.at(weights, (j, i), cells)
    norm = weights.sum(axis=1).mean()
    weights /= norm
    matrix = weights - np.diag(weights.sum(axis=1))
    pull = cells * delta / norm
    right = np.bincount(i, pull, n) - np.bincount(j, pull, n)
    values, vectors = np.linalg.eigh(matrix)
    projected = vectors.T @ right

    def misfit(b: np.ndarray) -> float:
        return float(np.sqrt(np.sum((delta - (b[j] - b[i])) ** 2)) / i.size)

    candidates = [] if start is None else [np.array(start, dtype=np.float64)]
    for cut in cuts:
        kept = np.abs(values) >= cut
        candidates.append(vectors[:, kept] @ (projected[kept] / values[kept]))
    return min(candidates, key=misfit)
