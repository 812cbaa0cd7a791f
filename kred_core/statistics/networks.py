"""Sorting networks: which values to compare to sort few values at a fixed cost, for many pixels at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["sorting_networks"]


@lru_cache(maxsize=32)
def sorting_networks(depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Which values to compare, and exchange where they are in the wrong order, to sort up to ``depth`` of them.

    Parameters
    ----------
    depth : int

    Returns
    -------
    pairs : `~numpy.ndarray`
        int32, shape (n, 2): places to compare, the smaller value goes to the first; for all numbers of values from 0 to
        ``depth``, one after the other.
    starts : `~numpy.ndarray`
        int64, shape (depth + 2,): the pairs for m values are ``pairs[starts[m]:starts[m + 1]]``.

    Notes
    -----
    Odd-even merge sort (Batcher 1968, AFIPS Conf. Proc. 32, 307; Knuth, The Art of Computer Programming 3, section 5.2.2,
    algorithm M). Without those pairs that reach beyond m it sorts m values, as if infinities followed them.
    """
    pairs = []
    exponent = max(depth - 1, 0).bit_length()
    for p in (1 << e for e in reversed(range(exponent))):
        q, r, d = 1 << (exponent - 1), 0, p
        while True:
            pairs += [(i, i + d) for i in range((1 << exponent) - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
    whole = np.array(pairs, np.int32).reshape(-1, 2)
    parts = [whole[whole[:, 1] < m] for m in range(depth + 1)]
    starts = np.cumsum([0] + [len(part) for part in parts])
    return np.concatenate(parts), starts
