"""Combination of the values that several detectors give for one pixel: median, clipped mean, weighted mean.

Layers (resampled detectors, in raw counts) are calibrated and gathered pixel by pixel, a few rows at a time, so the same layers
can be combined with several backgrounds. The result does not depend on how the mosaic is cut into rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import numba as nb
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from ..statistics import sorting_networks

__all__ = ["CLIP_AMPLITUDE", "Combiner"]

CLIP_AMPLITUDE = 0.3  # part of the median that a value may deviate on top of the noise: seeing differs, stars are not noise
ALMOST_ZERO = np.float32(1e-30)  # counts28, for a pixel with data whose value is 0, which means no data
BLOCK = 256  # pixels that are sorted together
FLOAT = 4  # bytes
MEDIAN, CLIPPED, WEIGHTED = 0, 1, 2


class Combiner:
    """Combine layers, a few rows at a time.

    Parameters
    ----------
    method : {"median", "clipped", "weighted"}
    clip_sigma : float
        Limit of the clipped mean in units of the noise.
    scale, back : `~numpy.ndarray`
        Factor and background of each layer, shape (n_layers,): its values become raw * scale - back, counts28.
    noise : `~numpy.ndarray`
        Noise of each layer's pixels, same shape, counts28; not used for the median.

    Notes
    -----
    median: of an even number of values the mean of the two in the middle.

    weighted: sum(w x) / sum(w), w = 1/noise**2.

    clipped: the weighted mean of the values x with abs(x - m) <= clip_sigma * noise + 0.3 * abs(m), m being the
    median of all. The second term keeps stars, whose profiles differ from exposure to exposure by more than
    the noise of the sky (Gruen, Seitz & Bernstein 2014, PASP 126, 158). Where no value is left (two that
    exclude each other), the smaller one is taken: what the masks overlook adds light.
    """

    def __init__(self, method: str, clip_sigma: float, scale: np.ndarray, back: np.ndarray, noise: np.ndarray):
        self.method = {"median": MEDIAN, "clipped": CLIPPED, "weighted": WEIGHTED}[method]
        self.clip_sigma = clip_sigma
        self.scale, self.back, self.noise = (np.ascontiguousarray(a, dtype=np.float64) for a in (scale, back, noise))

    def rows(self, shape: tuple[int, int], layers: Iterable[tuple[int, int, int, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Combine some rows: image (float32, 0 where no layer has data, and nowhere else) and coverage (int16).

        Each layer has its number (index into ``scale``, ``back`` and ``noise``), first row, first column, and its raw float32
        values there, NaN for no data.
        """
        coverage = np.zeros(shape, np.int16)
        image = np.zeros(shape, np.float32)
        found = [(number, row, column, np.ascontiguousarray(layer, np.float32)) for number, row, column, layer in layers]
        numbers = [number for number, *_ in found]
        spans = np.array([[y, y + a.shape[0], x, x + a.shape[1]] for _, y, x, a in found], np.int64).reshape(-1, 4)
        addresses = np.array([layer.ctypes.data for *_, layer in found], np.int64)
        factors = self.scale[numbers], self.back[numbers], self.noise[numbers]
        _combine(addresses, spans, *factors, self.method, self.clip_sigma, *sorting_networks(len(found)), image, coverage)
        return image, coverage


@intrinsic
def _floats(typingctx, address):
    """An address as that of float32 values: so a kernel takes any number of arrays, and Python need not call it for each."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), generate


@nb.njit(nogil=True, cache=True)
def _combine(addresses, spans, scale, back, noise, method, clip_sigma, pairs, starts, image, coverage):
    # Many pixels go through the same steps together, without branches, so that vector units can be used.
    plain, ordered = np.empty((addresses.size, BLOCK), np.float32), np.empty((addresses.size, BLOCK), np.float32)
    sigmas = np.empty(addresses.size, np.float64)
    counts = np.empty(BLOCK, np.int16)
    for y in range(image.shape[0]):
        for first in range(0, image.shape[1], BLOCK):
            width = min(BLOCK, image.shape[1] - first)
            depth = 0
            for x in range(BLOCK):
                counts[x] = 0
            for k in range(addresses.size):
                top, bottom, left, right = spans[k]
                low, high = max(left - first, 0), min(right - first, width)
                if low < high and top <= y < bottom:
                    start = (y - top) * (right - left) + first + low - left
                    raw = nb.carray(_floats(addresses[k] + start * FLOAT), high - low)
                    for x in range(BLOCK):
                        plain[depth, x] = np.inf
                    for x in range(high - low):
                        value = np.float32(raw[x] * scale[k] - back[k])
                        there = value == value
                        plain[depth, low + x] = value if there else np.inf
                        counts[low + x] += there
                    sigmas[depth] = noise[k]
                    depth += 1
            if depth == 0:
                continue
            if method != WEIGHTED:
                for k in range(depth):
                    for x in range(BLOCK):
                        ordered[k, x] = plain[k, x]
                _sort(ordered, pairs, starts[depth], starts[depth + 1])
                for x in range(width):
                    n = counts[x]
                    if n > 0:
                        image[y, first + x] = np.float32(0.5) * (ordered[(n - 1) // 2, x] + ordered[n // 2, x])
            if method != MEDIAN:
                _means(plain, sigmas, depth, method == CLIPPED, clip_sigma, image[y], first, width)
            for x in range(width):
                coverage[y, first + x] = counts[x]
                if counts[x] > 0 and image[y, first + x] == 0.0:
                    image[y, first + x] = ALMOST_ZERO


@nb.njit(nogil=True, cache=True)
def _sort(values, pairs, start, end):
    """Sort along the first axis by a part of the pairs."""
    for pair in range(start, end):
        lower, upper = values[pairs[pair, 0]], values[pairs[pair, 1]]
        for x in range(BLOCK):
            a, b = lower[x], upper[x]
            lower[x] = a if a < b else b
            upper[x] = b if a < b else a


@nb.njit(nogil=True, cache=True)
def _means(values, sigmas, depth, clipped, clip_sigma, out, first, width):
    """Means, weighted and where asked for clipped, of pixels whose median is in ``out``; infinite values are none."""
    for x in range(width):
        middle = out[first + x]
        total = weights = 0.0
        smallest = np.float32(np.inf)
        for k in range(depth):
            value = values[k, x]
            smallest = min(smallest, value)
            limit = clip_sigma * sigmas[k] + CLIP_AMPLITUDE * abs(middle)
            if value < np.inf and not (clipped and abs(value - middle) > limit):
                weight = 1.0 / (sigmas[k] * sigmas[k])
                total += weight * value
                weights += weight
        if weights > 0.0:
            out[first + x] = total / weights
        elif smallest < np.inf:
            out[first + x] = smallest
