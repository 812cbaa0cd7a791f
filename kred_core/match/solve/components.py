"""Which detectors are connected by overlaps: only within such a component do differences fix levels.

Apart from the solving because the comparison with other methods needs the same components.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["component_means", "components"]


def components(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Number, from 1, of the connected component of each of n detectors; numbered in the order of their first detector."""
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    _, where, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(where.size, dtype=np.int64)
    rank[np.argsort(where)] = np.arange(1, where.size + 1)
    return rank[inverse]


def component_means(values: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Mean of the finite values of each component, for each of its members; 0 where there is none.

    Parameters
    ----------
    values : (n,) float
    component : (n,) int
        Numbers of the components, not negative.
    """
    good = np.isfinite(values)
    count = np.bincount(component[good], minlength=component.max(initial=0) + 1)
    total = np.bincount(component[good], weights=values[good], minlength=count.size)
    return (total / np.maximum(count, 1))[component]
