"""Sparse symmetric systems: their solution, and the diagonal of their inverse."""

from __future__ import annotations

import numpy as np
from scipy import linalg
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

__all__ = ["BlockInverse", "conjugate_gradients", "inverse"]


def conjugate_gradients(matrix: csr_array, right: np.ndarray, group: np.ndarray, tolerance: float) -> np.ndarray:
    """Solve several symmetric systems at once, each with its own steps.

    Parameters
    ----------
    matrix : csr_array (P, P)
        Positive semidefinite.
    right : (P,) float
        Orthogonal to the null space of the matrix.
    group : (P,) int
        Unknowns that the matrix connects have the same number, from 0: a system that converges slowly does not
        stop, and one that is badly scaled does not spoil, the others.
    tolerance : float
        Norm of the residual of each system relative to that of its right side, both weighted by 1 / diagonal of the matrix.

    Returns
    -------
    (P,) float

    Notes
    -----
    Hestenes & Stiefel (1952), preconditioned with the diagonal, started at 0.
    """
    diagonal = matrix.diagonal()
    diagonal = np.where(diagonal > 0, diagonal, 1.0)
    n_groups = int(group.max(initial=-1)) + 1
    solution = np.zeros_like(right)
    residual = right.copy()
    search = residual / diagonal
    size = np.bincount(group, weights=residual * search, minlength=n_groups)
    goal = tolerance**2 * size
    active = size > 0
    for _ in range(2 * right.size + 100):
        if not active.any():
            break
        image = matrix @ search
        curvature = np.bincount(group, weights=search * image, minlength=n_groups)
        active &= curvature > 0
        step = np.divide(size, curvature, out=np.zeros(n_groups), where=active)[group]
        solution += step * search
        residual -= step * image
        scaled = residual / diagonal
        new_size = np.bincount(group, weights=residual * scaled, minlength=n_groups)
        factor = np.divide(new_size, size, out=np.zeros(n_groups), where=active)
        active &= new_size > goal
        search = np.where(active[group], scaled + factor[group] * search, 0.0)
        size = new_size
    return solution


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a dense symmetric positive definite matrix; NaN where it is not positive definite."""
    try:
        factor = linalg.cho_factor(matrix, check_finite=False)
    except linalg.LinAlgError:
        return np.full(matrix.shape, np.nan)
    return linalg.cho_solve(factor, np.eye(len(matrix)), check_finite=False)


class BlockInverse:
    """What is needed of the inverse of a sparse symmetric positive definite matrix; NaN where it is not positive definite.

    Parameters
    ----------
    matrix : `~scipy.sparse.csr_array`
        Shape (P, P).

    Notes
    -----
    Ordered by Cuthill and McKee, the unknowns fall into blocks that touch only their neighbours: the
    matrix is block tridiagonal. With D_l its diagonal and U_l its upper blocks, the Schur complements are
    S_0 = D_0, S_l = D_l - U_{l-1}^T S_{l-1}^-1 U_{l-1}, and with X_l = S_l^-1 U_l the diagonal blocks of the inverse follow
    from the last, Z_l = S_l^-1 + X_l Z_{l+1} X_l^T. For detectors on the sky the work grows as
    the number of detectors times the square of how many of them a line across the field meets.
    """

    def __init__(self, matrix: csr_array):
        self._order = reverse_cuthill_mckee(matrix, symmetric_mode=True).astype(np.int64)
        permuted = matrix[self._order][:, self._order].tocsr()
        self._ends = _block_ends(permuted)
        self._inverses: list[np.ndarray] = []  # of the Schur complements
        self._across: list[np.ndarray] = []  # X_l
        above = None  # U_{l-1}
        for low, high, following in zip(self._ends[:-1], self._ends[1:], [*self._ends[2:], None], strict=True):
            rows = permuted[low:high]
            block = rows[:, low:high].toarray()
            if above is not None:
                block -= above.T @ self._across[-1]
            self._inverses.append(inverse(block))
            if following is not None:
                above = rows[:, high:following].tocsr()
                self._across.append((above.T @ self._inverses[-1]).T)

    def diagonal(self) -> np.ndarray:
        """Diagonal of the inverse, shape (P,)."""
        result = np.empty(self._order.size)
        block = None
        for k in reversed(range(len(self._inverses))):
            if block is None:
                block = self._inverses[k]
            else:
                block = self._inverses[k] + self._across[k] @ block @ self._across[k].T
            result[self._order[self._ends[k] : self._ends[k + 1]]] = block.diagonal()
        return result

    def solve(self, right: np.ndarray) -> np.ndarray:
        """The inverse times a dense matrix, shape (P, columns)."""
        parts = np.split(right[self._order], self._ends[1:-1])
        for k, across in enumerate(self._across):
            parts[k + 1] = parts[k + 1] - across.T @ parts[k]
        for k in reversed(range(len(self._inverses))):
            parts[k] = self._inverses[k] @ parts[k]
            if k < len(self._across):
                parts[k] -= self._across[k] @ parts[k + 1]
        result = np.empty(right.shape)
        result[self._order] = np.concatenate(parts)
        return result


def _block_ends(matrix: csr_array) -> np.ndarray:
    """Where to cut a symmetric matrix so that each block touches only the next and the one before: 0, ..., P."""
    n = matrix.shape[0]
    reach = np.maximum.accumulate(np.maximum.reduceat(matrix.indices, matrix.indptr[:-1])) + 1
    ends = [0]
    while ends[-1] < n:
        ends.append(max(ends[-1] + 1, int(reach[ends[-1] - 1]) if ends[-1] else 1))
    return np.array(ends)
