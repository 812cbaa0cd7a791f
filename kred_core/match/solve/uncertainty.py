"""What the backgrounds of a solution are worth: their standard errors relative to each other.

Apart from the solution because it needs a part of the inverse of the matrix, where the solution needs none.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from .least_squares import HUBER, PRIOR_FREEDOM, Fit, LeastSquares, conjugate_gradients

__all__ = ["BlockInverse", "standard_errors"]

PLANE_POINTS = 3  # detectors that a plane can always be laid through
PLANE_TOLERANCE = 1e-10


def standard_errors(problem: LeastSquares, fit: Fit) -> np.ndarray:
    """Standard errors of the backgrounds of a fit, shape (n,).

    Relative to what the differences leave open: the mean of a component; where exposures have slopes, also the plane
    through a component of more than 3 detectors. Where detectors are fixed, relative to these. 0 for a fixed detector,
    NaN for one without pairs.

    Notes
    -----
    With L the normal matrix and E an orthonormal basis of what the differences leave open (L E = 0), any generalised inverse G of L
    (L G L = L) gives the covariance P G P of the rest, with P = 1 - E E^T. Here G is the inverse of L with one diagonal element for
    each component enlarged. Slopes and steps have the inverse variances that are expected of them. Slopes of exposures concern all
    detectors of an exposure: they form the border of a matrix that is sparse without them.
    """
    pairs = problem.pairs
    result = np.full(pairs.n, np.nan)
    levels = problem.free[: problem.n_levels]
    is_fixed = problem.tied.copy()
    is_fixed[levels] = False
    result[is_fixed] = 0.0
    if levels.size == 0:
        return result

    normal = problem.normal(_information(problem, fit), 1.0 / problem.expected_variance)
    component = np.where(problem.tied[levels], 0, pairs.component[levels])  # 0: nothing is open
    numbers, lowest = np.unique(component, return_index=True)
    grounded = lowest[numbers > 0]
    ground = np.zeros(normal.shape[0])
    ground[grounded] = normal.diagonal()[grounded]
    is_border = (problem.free >= pairs.n) & (problem.free < pairs.n + 2 * problem.system.n_exposures)
    border = np.flatnonzero(is_border)
    patterns = [(component > 0).astype(np.float64)]
    if border.size:
        patterns += _planes(normal[: levels.size], border, component)
    basis = _orthonormal(patterns, component)

    # Column c of the patterns serves all components, unless the slopes of exposures connect these.
    _, column = np.unique(component, return_inverse=True) if border.size else (None, np.zeros(levels.size, dtype=np.int64))
    n_columns = int(column.max()) + 1
    columns = np.zeros((normal.shape[0], n_columns * len(basis)))
    for k, pattern in enumerate(basis):
        columns[np.arange(levels.size), n_columns * k + column] = pattern
    variance, image = _inverse_parts((normal + diags_array(ground)).tocsr(), border, columns)
    variance, image = variance[: levels.size].copy(), image[: levels.size]
    within = [image[np.arange(levels.size), n_columns * k + column] for k in range(len(basis))]  # G e_k in its own component
    for k, pattern in enumerate(basis):
        variance -= 2 * within[k] * pattern
        for other in basis:
            variance += np.bincount(component, weights=other * within[k])[component] * pattern * other
    result[levels] = np.sqrt(np.maximum(variance, 0.0))
    return result


def _planes(normal: csr_array, border: np.ndarray, component: np.ndarray) -> list[np.ndarray]:
    """Backgrounds of the detectors that look like the same slope in all exposures, for both axes.

    They are the positions of the detectors on the sky, along the axes of the detectors, as far as the overlaps show them.
    """
    sparse = normal[:, : component.size].tocsr()
    slopes = normal[:, border].tocsr()
    planes = []
    for axis in (0, 1):
        right = -slopes[:, axis::2].sum(axis=1)
        position = conjugate_gradients(sparse, np.where(component > 0, right, 0.0), component, PLANE_TOLERANCE)
        size = np.bincount(component)[component]
        planes.append(np.where((component > 0) & (size > PLANE_POINTS), position, 0.0))
    return planes


def _orthonormal(patterns: list[np.ndarray], component: np.ndarray) -> list[np.ndarray]:
    """The same, orthogonal and of norm 1 within each component (Gram and Schmidt); 0 where nothing new is left."""
    basis: list[np.ndarray] = []
    for pattern in patterns:
        before = np.bincount(component, weights=pattern**2)[component]
        for _ in range(2):
            for other in basis:
                pattern = pattern - np.bincount(component, weights=pattern * other)[component] * other
        square = np.bincount(component, weights=pattern**2)[component]
        basis.append(np.divide(pattern, np.sqrt(square), out=np.zeros_like(pattern), where=square > 1e-12 * before))
    return basis


def _information(problem: LeastSquares, fit: Fit) -> np.ndarray:
    """Inverse variance of each observation, as it counts in the fit."""
    kept = ~fit.rejected
    freedom = problem.freedom(kept.astype(np.float64))
    inside = np.abs(fit.residual) <= HUBER * fit.scale
    if fit.weight.size and (fit.weight < 1).any():
        # Huber (1981), equation 7.6.12 with its correction K for the number of unknowns.
        n_kept = int(np.count_nonzero(kept))
        share = max(int(np.count_nonzero(inside & kept)) / max(n_kept, 1), 0.5)
        unknowns = 1 - freedom / max(n_kept, 1)
        correction = (1 + unknowns * (1 - share) / share) ** 2 / share**2
    else:
        correction = 1.0
    squares = np.sum((fit.weight * fit.residual)[kept] ** 2) * correction
    variance = (PRIOR_FREEDOM + squares) / (PRIOR_FREEDOM + freedom)
    return np.where(fit.weight > 0, 1.0 / (variance * (fit.inflation * problem.system.error) ** 2), 0.0)


def _inverse_parts(matrix: csr_array, border: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal of the inverse, and the inverse times dense columns, of a sparse matrix with a border of full rows."""
    inner = np.setdiff1d(np.arange(matrix.shape[0]), border)
    sparse = BlockInverse(matrix[inner][:, inner].tocsr())
    if border.size == 0:
        return sparse.diagonal(), sparse.solve(columns)
    edge = matrix[border][:, inner].tocsr()
    across = sparse.solve(edge.T.toarray())
    corner = inverse(matrix[border][:, border].toarray() - edge @ across)
    diagonal = np.empty(matrix.shape[0])
    diagonal[inner] = sparse.diagonal() + ((across @ corner) * across).sum(axis=1)
    diagonal[border] = corner.diagonal()
    image = np.empty(columns.shape)
    inside = sparse.solve(columns[inner])
    image[border] = corner @ (columns[border] - edge @ inside)
    image[inner] = inside - across @ image[border]
    return diagonal, image


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a dense symmetric positive definite matrix; NaN where it is not positive definite."""
    try:
        factor = linalg.cho_factor(matrix, check_finite=False)
    except linalg.LinAlgError:
        return np.full(matrix.shape, np.nan)
    return linalg.cho_solve(factor, np.eye(len(matrix)), check_finite=False)


class BlockInverse:
    """What is needed of the inverse of a sparse symmetric positive definite matrix (P, P); NaN if it is not positive definite.

    Ordered by Cuthill and McKee, the unknowns fall into blocks that touch only their neighbours. With D_l the diagonal and U_l the
    upper blocks, the Schur complements are S_0 = D_0, S_l = D_l - U_{l-1}^T S_{l-1}^-1 U_{l-1}, and with X_l = S_l^-1 U_l
    the diagonal blocks of the inverse follow from the last, Z_l = S_l^-1 + X_l Z_{l+1} X_l^T. For detectors on the sky the work
    grows as their number times the square of how many of them a line across the field meets.
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
