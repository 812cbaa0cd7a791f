"""What the backgrounds of a solution are worth: their standard errors relative to each other.

Apart from the solution because it needs a part of the inverse of the matrix, where the solution needs none.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array, diags_array

from .least_squares import HUBER, PRIOR_FREEDOM, Fit, LeastSquares
from .linear import LevelInverse, inverse, product

__all__ = ["standard_errors"]


def standard_errors(problem: LeastSquares, fit: Fit) -> np.ndarray:
    """Standard errors of the backgrounds of a fit, shape (n,).

    Relative to the mean of a detector's component, or, where detectors are fixed, to these: 0 for a fixed one,
    NaN for one without pairs.

    Notes
    -----
    With L the normal matrix of the differences alone and e the constant of a component of n detectors, any generalised inverse
    G of L (L G L = L) gives the covariance of B minus its mean, P G P with P = 1 - e e^T / n. Here G is the inverse of
    L + t u u^T, where u has a 1 for one detector of the component. Slopes and steps have the variances that are
    expected of them. Slopes of exposures concern all detectors of an exposure: they form the border of a matrix that is sparse
    without them.
    """
    pairs = problem.pairs
    result = np.full(pairs.n, np.nan)
    levels = problem.free[: problem.n_levels]
    is_fixed = problem.tied.copy()
    is_fixed[levels] = False
    result[is_fixed] = 0.0
    if levels.size == 0:
        return result

    information = _information(problem, fit)
    normal = problem.normal(information, 1.0 / problem.expected_variance)
    diagonal = normal.diagonal()
    ground = np.zeros(diagonal.size)
    component = pairs.component[levels]
    floating = ~problem.tied[levels]
    numbers, lowest = np.unique(component[floating], return_index=True)
    grounded = np.flatnonzero(floating)[lowest]
    ground[grounded] += diagonal[grounded]
    normal = (normal + diags_array(ground)).tocsr()

    # Columns: the constants of the components; one column serves all where nothing connects components.
    coupled = problem.system.n_exposures > 0
    constants = np.zeros((normal.shape[0], numbers.size if coupled else 1))
    column = np.searchsorted(numbers, component[floating]) if coupled else 0
    constants[np.flatnonzero(floating), column] = 1.0
    border = np.flatnonzero((problem.free >= pairs.n) & (problem.free < pairs.n + 2 * problem.system.n_exposures))
    variance, image = _inverse_parts(normal, border, constants)

    variance, image = variance[: levels.size], image[: levels.size]
    if numbers.size:
        own = np.zeros(levels.size)
        own[floating] = image[np.flatnonzero(floating), column]
        size = np.bincount(component)[component]
        total = np.bincount(component, weights=own)[component]
        variance = variance - floating * (2 * own / size - total / size**2)
    result[levels] = np.sqrt(np.maximum(variance, 0.0))
    return result


def _information(problem: LeastSquares, fit: Fit) -> np.ndarray:
    """Inverse variance of each observation, as it counts in the fit."""
    kept = ~fit.rejected
    freedom = problem.freedom(kept.astype(np.float64))
    inside = np.abs(fit.residual) <= HUBER * fit.scale
    if fit.weight.size and (fit.weight < 1).any():
        # Huber (1981), equation 7.6.12 with its correction K for the number of unknowns.
        share = max(np.count_nonzero(inside & kept) / max(np.count_nonzero(kept), 1), 0.5)
        unknowns = 1 - freedom / max(np.count_nonzero(kept), 1)
        correction = (1 + unknowns * (1 - share) / share) ** 2 / share**2
    else:
        correction = 1.0
    squares = np.sum((fit.weight * fit.residual)[kept] ** 2) * correction
    variance = (PRIOR_FREEDOM + squares) / (PRIOR_FREEDOM + freedom)
    relative = np.full(fit.weight.size, variance)
    relative[fit.rejected] = fit.residual[fit.rejected] ** 2
    return np.where(fit.weight > 0, 1.0 / (relative * problem.system.error**2), 0.0)


def _inverse_parts(matrix: csr_array, border: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal of the inverse, and the inverse times dense columns, of a sparse matrix with a border of full rows."""
    inner = np.setdiff1d(np.arange(matrix.shape[0]), border)
    sparse = LevelInverse(matrix[inner][:, inner].tocsr())
    if border.size == 0:
        return sparse.diagonal(), sparse.solve(columns)
    edge = matrix[border][:, inner].tocsr()
    across = sparse.solve(edge.T.toarray())
    corner = inverse(matrix[border][:, border].toarray() - edge @ across)
    diagonal = np.empty(matrix.shape[0])
    diagonal[inner] = sparse.diagonal() + (product(across, corner) * across).sum(axis=1)
    diagonal[border] = corner.diagonal()
    image = np.empty(columns.shape)
    inside = sparse.solve(columns[inner])
    image[border] = product(corner, columns[border] - edge @ inside)
    image[inner] = inside - product(across, image[border])
    return diagonal, image
