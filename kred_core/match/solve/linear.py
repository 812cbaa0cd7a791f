"""Sparse symmetric systems: their solution, and the diagonal of their inverse, the same to the bit everywhere.

Apart from the statistics because this is plain linear algebra. BLAS is not used: it sums in another
order on another number of threads, and the last bits of a background would depend on the machine's load.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from scipy.sparse import csr_array

__all__ = ["LevelInverse", "conjugate_gradients", "inverse", "product"]

SMALL = 48  # side of a matrix that is inverted without being split


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


@nb.njit(nogil=True, cache=True, fastmath=True)
def _add_product(total, left, right, factor):
    """total += factor * left @ right, for C-contiguous arrays; blocked, so that the rows in use stay in the cache."""
    rows, columns = total.shape
    depth = left.shape[1]
    for c in range(0, columns, 256):
        to_c = min(columns, c + 256)
        for d in range(0, depth, 128):
            to_d = min(depth, d + 128)
            by_four = to_d - (to_d - d) % 4
            for i in range(rows):
                out = total[i, c:to_c]
                for k in range(d, by_four, 4):
                    f0, f1, f2, f3 = factor * left[i, k], factor * left[i, k + 1], factor * left[i, k + 2], factor * left[i, k + 3]
                    r0, r1, r2, r3 = right[k, c:to_c], right[k + 1, c:to_c], right[k + 2, c:to_c], right[k + 3, c:to_c]
                    for j in range(out.size):
                        out[j] += f0 * r0[j] + f1 * r1[j] + f2 * r2[j] + f3 * r3[j]
                for k in range(by_four, to_d):
                    f0, r0 = factor * left[i, k], right[k, c:to_c]
                    for j in range(out.size):
                        out[j] += f0 * r0[j]


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left @ right of dense matrices, without BLAS."""
    total = np.zeros((left.shape[0], right.shape[1]))
    _add_product(total, np.ascontiguousarray(left), np.ascontiguousarray(right), 1.0)
    return total


@nb.njit(nogil=True, cache=True)
def _inverse_small(matrix):
    """Gauss and Jordan; a positive definite matrix needs no pivoting. NaN where it is not positive definite."""
    n = matrix.shape[0]
    for k in range(n):
        pivot = matrix[k, k]
        if not pivot > 0:
            matrix[:] = np.nan
            return
        matrix[k, k] = 1.0
        for j in range(n):
            matrix[k, j] /= pivot
        for i in range(n):
            if i != k:
                f = matrix[i, k]
                matrix[i, k] = 0.0
                for j in range(n):
                    matrix[i, j] -= f * matrix[k, j]


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a dense symmetric positive definite matrix, by halves; NaN where it is not positive definite."""
    n = matrix.shape[0]
    if n <= SMALL:
        result = np.array(matrix, dtype=np.float64, order="C")
        _inverse_small(result)
        return result
    h = n // 2
    upper, corner = inverse(matrix[:h, :h]), np.ascontiguousarray(matrix[:h, h:])
    across = product(upper, corner)
    lower = np.array(matrix[h:, h:], order="C")
    _add_product(lower, np.ascontiguousarray(corner.T), across, -1.0)
    result = np.empty((n, n))
    result[h:, h:] = lower = inverse(lower)
    mixed = product(across, lower)
    _add_product(upper, mixed, np.ascontiguousarray(across.T), 1.0)
    result[:h, :h], result[:h, h:], result[h:, :h] = upper, -mixed, -mixed.T
    return result


def _levels(matrix: csr_array) -> np.ndarray:
    """Distance of each unknown, counted in links, from one at the edge of the graph; unconnected parts follow each other."""
    n = matrix.shape[0]
    level = np.full(n, -1)
    base = 0
    for start in range(n):
        if level[start] >= 0:
            continue
        front, part = start, None
        # The farthest from anywhere lies at an edge; from there the levels are many and small.
        for _ in range(3):
            part, distance = _distances(matrix.indptr, matrix.indices, front)
            front = part[-1]
        level[part] = base + distance
        base = int(level[part].max()) + 1
    return level


@nb.njit(nogil=True, cache=True)
def _distances(pointers, neighbours, start):
    """Unknowns connected with one, nearest first, and their distances."""
    seen = np.full(pointers.size - 1, -1)
    queue = np.empty(pointers.size - 1, np.int64)
    queue[0], seen[start], end, k = start, 0, 1, 0
    while k < end:
        i = queue[k]
        k += 1
        for p in range(pointers[i], pointers[i + 1]):
            j = neighbours[p]
            if seen[j] < 0:
                seen[j] = seen[i] + 1
                queue[end] = j
                end += 1
    return queue[:end], seen[queue[:end]]


class LevelInverse:
    """What is needed of the inverse of a sparse symmetric positive definite matrix.

    Parameters
    ----------
    matrix : `~scipy.sparse.csr_array`
        Shape (P, P).

    Notes
    -----
    Sorted by their distance from one unknown, the unknowns of a graph fall into levels that touch only their neighbours: the
    matrix is block tridiagonal. With D_l its diagonal and U_l its upper blocks, the Schur complements are
    S_0 = D_0, S_l = D_l - U_{l-1}^T S_{l-1}^-1 U_{l-1}, and with X_l = S_l^-1 U_l the diagonal blocks of the inverse follow
    from the last, Z_l = S_l^-1 + X_l Z_{l+1} X_l^T. Exact; for detectors on the sky the work grows as
    the number of detectors times the square of how many of them a line across the field meets.
    """

    def __init__(self, matrix: csr_array):
        level = _levels(matrix)
        self._order = np.argsort(level, kind="stable")
        self._ends = np.concatenate([[0], np.cumsum(np.bincount(level))]) if level.size else np.zeros(1, dtype=int)
        permuted = matrix[self._order][:, self._order].tocsr()
        self._inverses: list[np.ndarray] = []  # of the Schur complements
        self._above: list[csr_array] = []  # U_l
        self._across: list[np.ndarray] = []  # X_l
        for k in range(len(self._ends) - 1):
            rows = permuted[self._ends[k] : self._ends[k + 1]]
            block = rows[:, self._ends[k] : self._ends[k + 1]].toarray()
            if k:
                block -= self._above[-1].T @ self._across[-1]
                block = 0.5 * (block + block.T)
            self._inverses.append(inverse(block))
            if k < len(self._ends) - 2:
                above = rows[:, self._ends[k + 1] : self._ends[k + 2]].tocsr()
                self._above.append(above)
                self._across.append(np.ascontiguousarray((above.T @ self._inverses[-1]).T))

    def diagonal(self) -> np.ndarray:
        """Diagonal of the inverse, shape (P,)."""
        result = np.empty(self._order.size)
        block = None
        for k in range(len(self._inverses) - 1, -1, -1):
            if block is None:
                block = self._inverses[k]
            else:
                across = self._across[k]
                half = product(across, block)
                block = self._inverses[k].copy()
                _add_product(block, half, np.ascontiguousarray(across.T), 1.0)
            result[self._order[self._ends[k] : self._ends[k + 1]]] = block.diagonal()
        return result

    def solve(self, right: np.ndarray) -> np.ndarray:
        """The inverse times a dense matrix, shape (P, columns)."""
        parts = [np.array(right[self._order[a:b]]) for a, b in zip(self._ends[:-1], self._ends[1:], strict=True)]
        for k, across in enumerate(self._across):
            _add_product(parts[k + 1], np.ascontiguousarray(across.T), parts[k], -1.0)
        result = np.empty(right.shape)
        solved = None
        for k in range(len(parts) - 1, -1, -1):
            part = product(self._inverses[k], parts[k])
            if solved is not None:
                _add_product(part, self._across[k], solved, -1.0)
            solved = part
            result[self._order[self._ends[k] : self._ends[k + 1]]] = part
        return result
