"""Kernels behind `kred_core.statistics`: what can be read off the sorted values of an image; and which values to compare to sort.

They are one module because numba's cache on disk notices a change only in the file of a kernel itself, not in those of the
kernels that it calls. All but `select` expect sorted, finite float32 values.
"""

import math
from functools import lru_cache

import numba as nb
import numpy as np

FEWEST_FOR_HISTOGRAM = 50  # below, a histogram has no peak to speak of
KERNEL = 0.5  # width of the smoothing in units of the noise: scatter 2.15/sqrt(n), bias < 0.09 at 20 % contamination
MANY = 3000  # values; a histogram of fewer is smoothed more, as n^(-1/7)
KERNEL_PER_STEP = 0.6  # least width in units of the quantisation step: 0.2 % are left of its comb
COARSE = 1.25  # quantisation step in units of the noise from which on nothing is known between the steps
N_BINS = 256  # a multiple of four
SUMMED = 4096  # values that are added up before their sum is
TOGETHER = 64  # values that are looked at together
STRETCH = 256  # beginnings of windows that are judged together
BINS_REACH = 4.0  # the bins go this many rough standard deviations to both sides
HALF_WIDTH = 2 * 0.6744897501960817  # of the shortest half of a Gaussian distribution, in standard deviations
SIDE_REACH = 3.0
LEAST_NOISE = 0.3  # of the rough value; less is a chance cluster of a few values
# Integrals of d^3 and of d times the standard Gaussian from 0 to 3: their ratio is (1.378 standard deviations)^2.
SIDE_RATIO = (2 - 11 * math.exp(-4.5)) / (1 - math.exp(-4.5))


@nb.njit(nogil=True, cache=True)
def select(values, bad, kept):
    """Put the finite values that are not bad into an array of the same size, in their order.

    Returns their number, and that of the values that are not finite.
    """
    n = 0
    n_nan = 0
    for first in range(0, values.size, TOGETHER):
        last = min(first + TOGETHER, values.size)
        left_out = 0
        for i in range(first, last):
            left_out += (not abs(values[i]) < np.inf) | bad[i]
        if left_out == 0:  # mostly; then no place has to wait for the one before
            for i in range(first, last):
                kept[n + i - first] = values[i]
            n += last - first
            continue
        for i in range(first, last):
            finite = math.isfinite(values[i])
            kept[n] = values[i]
            n += finite and not bad[i]
            n_nan += not finite
    return n, n_nan


@nb.njit(nogil=True, cache=True)
def median(ordered):
    """The middle value, or the mean of the two middle ones, in float64."""
    n = ordered.size
    if n == 0:
        return math.nan
    return 0.5 * (np.float64(ordered[(n - 1) // 2]) + np.float64(ordered[n // 2]))


@nb.njit(nogil=True, cache=True)
def mean_and_std(values):
    """Mean and standard deviation (divided by n) in float64, by blocks, so that rounding does not grow with n."""
    n = values.size
    if n == 0:
        return math.nan, math.nan
    mean = _total(values, 0.0, False) / n
    return mean, math.sqrt(_total(values, mean, True) / n)


@nb.njit(nogil=True, cache=True)
def _total(values, middle, squared):
    """Sum of the distances of values to a middle, or of their squares: first within blocks, then over these.

    Four blocks at a time, each in its own order, because an addition has to wait for the one before.
    """
    total = 0.0
    n_together = values.size // (4 * SUMMED) * 4 * SUMMED
    for first in range(0, n_together, 4 * SUMMED):
        a, b = values[first : first + SUMMED], values[first + SUMMED : first + 2 * SUMMED]
        c, d = values[first + 2 * SUMMED : first + 3 * SUMMED], values[first + 3 * SUMMED : first + 4 * SUMMED]
        in_a = in_b = in_c = in_d = np.float64(0)
        for i in range(SUMMED):
            from_a, from_b, from_c, from_d = a[i] - middle, b[i] - middle, c[i] - middle, d[i] - middle
            in_a += from_a * from_a if squared else from_a
            in_b += from_b * from_b if squared else from_b
            in_c += from_c * from_c if squared else from_c
            in_d += from_d * from_d if squared else from_d
        total += in_a
        total += in_b
        total += in_c
        total += in_d
    for first in range(n_together, values.size, SUMMED):
        part = np.float64(0)
        for i in range(first, min(first + SUMMED, values.size)):
            part += (values[i] - middle) ** 2 if squared else values[i] - middle
        total += part
    return total


@nb.njit(nogil=True, cache=True)
def skewness_and_kurtosis(values, mean, std):
    """Third and fourth moment of the values, standardised with `mean_and_std`, of the sample; 0 where all are the same."""
    n = values.size
    if n == 0:
        return math.nan, math.nan
    if not std > 0:
        return 0.0, 0.0
    third = fourth = 0.0
    for first in range(0, n, SUMMED):
        part3 = part4 = 0.0
        for i in range(first, min(first + SUMMED, n)):
            d = (values[i] - mean) / std
            d2 = d * d
            part3 += d2 * d
            part4 += d2 * d2
        third += part3
        fourth += part4
    return third / n, fourth / n - 3.0


@nb.njit(nogil=True, cache=True)
def clip(ordered, sigma):
    """First and last + 1 of the values that clipping leaves."""
    first, last = 0, ordered.size
    while last > first:
        kept = ordered[first:last]
        middle = median(kept)
        reach = sigma * mean_and_std(kept)[1]
        new_first = first + np.searchsorted(kept, middle - reach)
        new_last = last
        while ordered[new_last - 1] > middle + reach:
            new_last -= 1
        if new_first == first and new_last == last:
            break
        first, last = new_first, new_last
    return first, last


@nb.njit(nogil=True, cache=True)
def _shortest_half(ordered, first, n):
    """Where the first of the narrowest windows begins that start and end (n - (n + 1)//2) values apart.

    Windows are looked at one by one only in stretches where one can be as narrow as the narrowest that begins a stretch:
    none of a stretch is narrower than from its last beginning to its first end, in float32 too, where rounding keeps order.
    """
    h = (n + 1) // 2
    lower, upper = ordered[first : first + h], ordered[first + n - h : first + n]
    best = upper[0] - lower[0]
    for k in range(0, h, STRETCH):
        best = min(best, upper[k] - lower[k])
    at = -1
    for start in range(0, h, STRETCH):
        end = min(start + STRETCH, h)
        if upper[start] - lower[end - 1] > best:
            continue
        for k in range(start, end):
            width = upper[k] - lower[k]
            if width < best or (at < 0 and width == best):
                best = width
                at = k
    return first + at


@nb.njit(nogil=True, cache=True)
def half_sample_mode(ordered):
    """See `kred_core.statistics.half_sample_mode`."""
    n = ordered.size
    if n == 0:
        return math.nan
    first = 0
    while n > 2:
        first = _shortest_half(ordered, first, n)
        n = (n + 1) // 2
    if n == 1:
        return np.float64(ordered[first])
    return np.float64(np.float32(0.5) * (ordered[first] + ordered[first + 1]))


@nb.njit(nogil=True, cache=True)
def histogram_mode(ordered):
    """Mode, its error and the noise of sorted values."""
    n = ordered.size
    if n < FEWEST_FOR_HISTOGRAM:
        std = mean_and_std(ordered)[1]
        return median(ordered), (1.2533 * std / math.sqrt(n - 1) if n > 1 else math.nan), std
    k = _shortest_half(ordered, 0, n)
    low, high = np.float64(ordered[k]), np.float64(ordered[k + n // 2])
    if low == high:
        return low, _distance_to_others(ordered, low) / math.sqrt(12.0), 0.0
    rough = (high - low) / HALF_WIDTH
    start = 0.5 * (low + high) - BINS_REACH * rough
    width = 2 * BINS_REACH * rough / N_BINS
    counts, places = _histogram(ordered, start, width)
    relative = KERNEL * max(1.0, (MANY / n) ** (1 / 7))
    peak, _ = _peak(counts, places, _smoothed_peak(counts, start, width, relative * rough), relative * rough)
    noise = min(_noise_beside(counts, places, peak, rough, -1), _noise_beside(counts, places, peak, rough, 1))
    noise = max(noise, LEAST_NOISE * rough)
    step = _quantisation_step(ordered, peak - 2 * rough, peak + 2 * rough)
    least = KERNEL_PER_STEP * step
    if step >= COARSE * noise:  # so coarse that no smoothing brings the peak back from between the steps
        peak, error = _peak(counts, places, peak, max(relative * noise, 2 * least))
        return peak, math.hypot(error, step / math.sqrt(12.0)), noise
    # What is left of the comb is set by the kernel and the noise together: 1/kernel^2 + 1/noise^2.
    kernel = max(relative * noise, least / math.sqrt(1 - (least / noise) ** 2))
    peak, error = _peak(counts, places, peak, kernel)
    return peak, error, noise


@nb.njit(nogil=True, cache=True)
def _distance_to_others(ordered, value):
    """Distance to the nearest value that is different; 0 where there is none."""
    below, above = np.searchsorted(ordered, value), np.searchsorted(ordered, np.float32(value), side="right")
    distance = math.inf
    if below > 0:
        distance = value - ordered[below - 1]
    if above < ordered.size:
        distance = min(distance, ordered[above] - value)
    return distance if distance < math.inf else 0.0


@nb.njit(nogil=True, cache=True)
def _quantisation_step(ordered, low, high):
    """Mean distance of different values between two limits, or 0 where there are more than a few of them."""
    i = np.searchsorted(ordered, low)
    first = last = np.float64(ordered[min(i, ordered.size - 1)])
    n_different = 0
    while i < ordered.size and ordered[i] <= high:
        last = np.float64(ordered[i])
        n_different += 1
        if n_different > 16:
            return 0.0
        i = np.searchsorted(ordered, np.float32(last), side="right")
    return (last - first) / (n_different - 1) if n_different > 1 else 0.0


@nb.njit(nogil=True, cache=True)
def _histogram(ordered, start, width):
    """Counts, and the mean of the values in each bin: with its middle instead, quantised values would be shifted."""
    counts, places = np.empty(N_BINS), np.empty(N_BINS)
    first = np.searchsorted(ordered, start)
    for j in range(N_BINS):
        last = np.searchsorted(ordered, start + (j + 1) * width)
        middle = start + (j + 0.5) * width
        total = 0.0
        for i in range(first, last):
            total += ordered[i] - middle
        counts[j] = last - first
        places[j] = middle + (total / counts[j] if counts[j] > 0 else 0.0)
        first = last
    return counts, places


@nb.njit(nogil=True, cache=True)
def _smoothed_peak(counts, start, width, kernel):
    """Middle of the bin where the smoothed counts are largest; the first of several."""
    reach = int(4 * kernel / width)
    weights = np.empty(2 * reach + 1)
    for d in range(-reach, reach + 1):
        weights[d + reach] = math.exp(-0.5 * (d * width / kernel) ** 2)
    best = -1.0
    at = 0
    for j in range(N_BINS):
        density = 0.0
        for d in range(-min(reach, j), min(reach, N_BINS - 1 - j) + 1):
            density += weights[d + reach] * counts[j + d]
        if density > best:
            best = density
            at = j
    return start + (at + 0.5) * width


@nb.njit(nogil=True, cache=True)
def _peak(counts, places, peak, kernel):
    """Where the smoothed histogram is stationary, next to a first guess, and the standard error of that place."""
    curvature = squares = 0.0
    for _ in range(60):
        slope = weight = curvature = squares = 0.0
        for j in range(N_BINS):
            d = (places[j] - peak) / kernel
            if counts[j] > 0 and abs(d) < 8:
                w = math.exp(-0.5 * d * d)
                weight += counts[j] * w
                slope += counts[j] * w * d
                curvature += counts[j] * w * (1 - d * d)
                squares += counts[j] * (w * d) ** 2
        if weight == 0:
            break
        # Newton's step where the density is hollow downwards, the (always safe, slower) mean shift elsewhere.
        step = slope / (curvature if curvature > 0.1 * weight else weight)
        step = min(max(step, -1.0), 1.0)
        peak += step * kernel
        if abs(step) < 1e-9:
            break
    return peak, (kernel * math.sqrt(squares) / curvature if curvature > 0 else kernel)


@nb.njit(nogil=True, cache=True)
def _noise_beside(counts, places, peak, rough, side):
    """Standard deviation of the values on one side of the peak: stars and nebulae widen only the other.

    From the third and the first moment of the distance, which the values next to the peak hardly enter,
    so that it does not matter on which side of it quantised ones fall.
    """
    noise = rough
    for _ in range(4):
        first = third = 0.0
        for j in range(N_BINS):
            d = side * (places[j] - peak)
            if 0 < d < SIDE_REACH * noise:
                first += counts[j] * d
                third += counts[j] * d**3
        if first == 0:
            return rough
        noise = math.sqrt(third / first / SIDE_RATIO)
    return noise


@lru_cache(maxsize=32)
def sorting_networks(depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of up to ``depth`` values to compare, and exchange where they are in the wrong order, to sort them.

    Of the result, pairs and starts, ``pairs[starts[m]:starts[m + 1]]`` are the places to compare, shape (n, 2), for m values; the
    smaller value goes to the first place.

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
