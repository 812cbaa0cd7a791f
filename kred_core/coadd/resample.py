"""Resampling of one detector onto the grid of a mosaic: Lanczos-3 through a control grid, with masks.

Arrays go in, one array with NaN for "no data" comes out. The footprint rule here also says what SWarp covers.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .plan import PixelMap

__all__ = ["block_mean", "fill_masked", "footprint", "lanczos3", "resample"]

TAPS = 6  # of Lanczos-3, along each axis
LANES = 8  # of the vector unit that is asked for; the two spare lanes have weight 0
PHASE_BITS = 12  # 4096 subpixel phases: a position is right to 1.2e-4 pixel
LOST_WEIGHT = 0.25  # of the sum of the weights, which is 1; see resample
TOGETHER = 64  # pixels of a row of which it is first seen whether any is masked: mostly none is
FILL_RADIUS = 5  # pixel; no pixel farther from all good ones has a part in a pixel that is kept


def lanczos3(phase: np.ndarray) -> np.ndarray:
    """Weights of the six pixels around a position, at floor(position) - 2 to + 3: float64, shape (*phase.shape, 6).

    sinc(t) sinc(t/3), divided by the sum, so that a constant stays a constant (Duchon 1979, J. Appl. Meteorol. 18, 1016).
    The phase is position - floor(position).
    """
    t = np.arange(-2, 4) - np.asarray(phase, dtype=np.float64)[..., None]
    weights = np.sinc(t) * np.sinc(t / 3)
    return weights / weights.sum(axis=-1, keepdims=True)


def _weight_table() -> np.ndarray:
    """float32, shape (phases + 1, 10): two zeros, six weights, two zeros.

    Eight weights are used at a time: from the third on with the pixels from the first tap on, or, at the right edge
    where eight pixels would not fit, from the first on with the pixels from two before it.
    """
    phases = np.arange((1 << PHASE_BITS) + 1) / (1 << PHASE_BITS)
    table = np.zeros((phases.size, LANES + 2), np.float32)
    table[:, 2 : 2 + TAPS] = lanczos3(phases)
    return table


_WEIGHTS = _weight_table()
_ROW = LANES + 2
_SHIFT = 32 - PHASE_BITS
_HALF = 1 << (_SHIFT - 1)
_FRACTION = (1 << 32) - 1
_PLACE_BITS, _STEP_BITS = 20, 26  # a place is rounded to 1e-6 pixel, a step to 1.5e-8


@intrinsic
def _weighted_sum(typingctx, image, start, stride, table, ix, iy):
    """sum_r table[iy + r] * sum_k table[ix + k] * image[start + r * stride + k], r < 6, k < 8, all arrays flat.

    Written as vectors of eight, because what the compiler makes of the plain loops takes twice the time.
    """
    signature = types.float32(image, types.intp, types.intp, table, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        vector, integer = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
        pixels = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        weights = context.make_array(signature.args[3])(context, builder, arguments[3]).data
        offset, stride, ix, iy = arguments[1], arguments[2], arguments[4], arguments[5]
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{LANES}f32"
        )

        def load(array, index):
            value = builder.load(builder.bitcast(builder.gep(array, [index]), vector.as_pointer()))
            value.align = 4
            return value

        def lanes(value, which):
            mask = ir.Constant(ir.VectorType(integer, len(which)), which)
            return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)

        total = ir.Constant(vector, [0.0] * LANES)
        for r in range(TAPS):
            weight = builder.load(builder.gep(weights, [builder.add(iy, ir.Constant(iy.type, r))]))
            first = builder.insert_element(ir.Constant(vector, ir.Undefined), weight, ir.Constant(integer, 0))
            total = builder.call(multiply_add, [load(pixels, offset), lanes(first, [0] * LANES), total])
            offset = builder.add(offset, stride)
        total = builder.fmul(total, load(weights, ix))
        width = LANES
        while width > 1:
            width //= 2
            total = builder.fadd(lanes(total, list(range(width))), lanes(total, list(range(width, 2 * width))))
        return builder.extract_element(total, ir.Constant(integer, 0))

    return signature, generate


@nb.njit(nogil=True, cache=True)
def _reach(u, v, j, i, nx, ny):
    """Whether the positions in a cell of the control grid have all six taps: 0 none, 1 perhaps some, 2 all."""
    total = 0.0
    for array in (u, v):
        total += abs(array[j, i]) + abs(array[j, i + 1]) + abs(array[j + 1, i]) + abs(array[j + 1, i + 1])
    if not total < 1e8:  # NaN, or so far away that fixed-point numbers would overflow
        return 0
    low_u = min(min(u[j, i], u[j, i + 1]), min(u[j + 1, i], u[j + 1, i + 1]))
    low_v = min(min(v[j, i], v[j, i + 1]), min(v[j + 1, i], v[j + 1, i + 1]))
    high_u = max(max(u[j, i], u[j, i + 1]), max(u[j + 1, i], u[j + 1, i + 1]))
    high_v = max(max(v[j, i], v[j, i + 1]), max(v[j + 1, i], v[j + 1, i + 1]))
    if high_u < 1.99 or high_v < 1.99 or low_u > nx - 2.99 or low_v > ny - 2.99:
        return 0
    if low_u > 2.01 and low_v > 2.01 and high_u < nx - 3.01 and high_v < ny - 3.01:
        return 2
    return 1


@nb.njit(nogil=True, cache=True)
def _along_row(points, j, i, part, step):
    """First position and step along a row of a cell, in units of 2**-32 pixel.

    They are rounded to more than the errors of the WCS (1e-9 pixel), so that a detector whose pixels are
    those of the grid is copied, and has its full footprint, however a computer rounds.
    """
    first = points[j, i] * (1.0 - part) + points[j + 1, i] * part
    last = points[j, i + 1] * (1.0 - part) + points[j + 1, i + 1] * part
    place = np.int64(np.floor(first * (1 << _PLACE_BITS) + 0.5)) << (32 - _PLACE_BITS)
    return place, np.int64(np.floor((last - first) / step * (1 << _STEP_BITS) + 0.5)) << (32 - _STEP_BITS)


@nb.njit(nogil=True, cache=True)
def _has_taps(x, y, nx, ny):
    """The footprint rule: six pixels of the detector on both axes, from floor(position) - 2 to floor(position) + 3."""
    lowest = np.int64(2) << 32
    return x >= lowest and y >= lowest and x < np.int64(nx - 3) << 32 and y < np.int64(ny - 3) << 32


@nb.njit(nogil=True, cache=True)
def _footprint(u, v, step, nx, ny, covered):
    for j in range(u.shape[0] - 1):
        for i in range(u.shape[1] - 1):
            reach = _reach(u, v, j, i, nx, ny)
            if reach == 0:
                continue
            for y in range(j * step, min((j + 1) * step, covered.shape[0])):
                part = (y - j * step) / step
                px, dx = _along_row(u, j, i, part, step) if reach == 1 else (np.int64(0), np.int64(0))
                py, dy = _along_row(v, j, i, part, step) if reach == 1 else (np.int64(0), np.int64(0))
                for x in range(i * step, min((i + 1) * step, covered.shape[1])):
                    covered[y, x] = reach == 2 or _has_taps(px, py, nx, ny)
                    px += dx
                    py += dy


def footprint(where: PixelMap, shape: tuple[int, int]) -> np.ndarray:
    """Which pixels of a box a detector of so many rows and columns covers, all 6x6 pixels of the kernel on it: bool.

    So a mosaic ends 2 pixels within the outermost pixel centres, as SWarp's does.
    """
    covered = np.zeros(where.shape, np.bool_)
    if min(shape) >= LANES:
        _footprint(where.u, where.v, where.step, shape[1], shape[0], covered)
    return covered


@nb.njit(nogil=True, cache=True)
def _resample(image, near, bad, masked, u, v, step, table, out):
    ny, nx = image.shape
    pixels, weights = image.reshape(-1), table.reshape(-1)
    n_good = 0
    for j in range(u.shape[0] - 1):
        for i in range(u.shape[1] - 1):
            reach = _reach(u, v, j, i, nx, ny)
            for y in range(j * step, min((j + 1) * step, out.shape[0])):
                part = (y - j * step) / step
                px, dx = _along_row(u, j, i, part, step) if reach > 0 else (np.int64(0), np.int64(0))
                py, dy = _along_row(v, j, i, part, step) if reach > 0 else (np.int64(0), np.int64(0))
                for x in range(i * step, min((i + 1) * step, out.shape[1])):
                    if reach == 2 or (reach == 1 and _has_taps(px, py, nx, ny)):
                        column, row = (px >> 32) - 2, (py >> 32) - 2
                        ix = (((px & _FRACTION) + _HALF) >> _SHIFT) * _ROW + 2
                        iy = (((py & _FRACTION) + _HALF) >> _SHIFT) * _ROW + 2
                        if masked and near[row, column] and _lost(bad, row, column, weights, ix, iy) > LOST_WEIGHT:
                            out[y, x] = np.nan
                        else:
                            if column > nx - LANES:
                                before = min(np.int64(2), column)  # a detector of eight columns may have but one
                                column -= before
                                ix -= before
                            out[y, x] = _weighted_sum(pixels, row * nx + column, nx, weights, ix, iy)
                            n_good += 1
                    else:
                        out[y, x] = np.nan
                    px += dx
                    py += dy
    return n_good


@nb.njit(nogil=True, cache=True)
def _lost(bad, row, column, weights, ix, iy):
    """Sum of the absolute weights of the masked pixels under the kernel."""
    lost = 0.0
    for r in range(TAPS):
        for c in range(TAPS):
            if bad[row + r, column + c]:
                lost += abs(weights[iy + r] * weights[ix + c])
    return lost


def resample(
    image: np.ndarray, where: PixelMap, bad: np.ndarray | None = None, near: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """Interpolate a detector at the pixels of a box of the grid.

    Parameters
    ----------
    image : `~numpy.ndarray`
        float32, shape (NAXIS2, NAXIS1), C order, finite everywhere: see `fill_masked`.
    where : PixelMap
    bad, near : `~numpy.ndarray`, optional
        Masked pixels, and where a kernel meets one, as from `fill_masked`.

    Returns
    -------
    out : `~numpy.ndarray`
        float32, of the box's shape; NaN where there is no data.
    n_good : int
        Pixels with data.

    Notes
    -----
    A pixel has data where all its taps are on the detector (`footprint`) and the absolute weights of the masked ones sum up to no
    more than 0.25, where those of all taps sum up to between 1 (a position on a pixel) and 2.4 (between four). So a masked
    pixel takes out the positions of which it is a next neighbour with a share of more than a quarter, and none
    that it would only reach with the side lobes of the kernel; there its filled value stands in for it.

    On a grid of other pixels than the detector's the flux of a star varies with its place between them, by up to
    0.7 % where the axes are parallel and 0.2 % where they are not (0.30 to 0.27 arcsec, FWHM 4 pixels); the mean is right.
    """
    out = np.empty(where.shape, np.float32)
    if min(image.shape) < LANES:
        out.fill(np.nan)
        return out, 0
    if bad is None or near is None:
        bad = near = np.zeros((1, 1), np.bool_)
    masked = near.shape == image.shape
    u, v, target = where.u, where.v, out
    # Neighbours in the inner loop should be neighbours in the image's rows, too: with x and y exchanged
    # (DECam's x runs south) every pixel would come from other rows, and half the time would go into waiting for memory.
    if _change(u, axis=0) > _change(u, axis=1):
        u, v, target = np.ascontiguousarray(u.T), np.ascontiguousarray(v.T), out.T
    n_good = _resample(image, near, bad, masked, u, v, where.step, _WEIGHTS, target)
    return out, n_good


def _change(points: np.ndarray, axis: int) -> float:
    difference = np.abs(np.diff(points, axis=axis))
    return float(difference.sum(where=np.isfinite(difference)))


@nb.njit(nogil=True, cache=True)
def _fill(image, bad, near, level):
    ny, nx = image.shape
    for y in range(ny):
        for first in range(0, nx, TOGETHER):
            last = min(first + TOGETHER, nx)
            n_bad = 0
            for x in range(first, last):
                n_bad += bad[y, x]
            if n_bad == 0:
                continue
            for x in range(first, last):
                if bad[y, x]:
                    near[max(y - TAPS + 1, 0) : y + 1, max(x - TAPS + 1, 0) : x + 1] = True
                    image[y, x] = _around(image, bad, y, x, level)


@nb.njit(nogil=True, cache=True)
def _around(image, bad, y, x, level):
    """Mean of the good pixels in the smallest square around a masked one that holds three."""
    ny, nx = image.shape
    total, n = 0.0, 0
    radius = 0
    while n < 3 and radius < FILL_RADIUS:
        radius += 1
        total, n = 0.0, 0
        for r in range(max(y - radius, 0), min(y + radius + 1, ny)):
            for c in range(max(x - radius, 0), min(x + radius + 1, nx)):
                if not bad[r, c]:
                    total += image[r, c]
                    n += 1
    return total / n if n > 0 else level


def fill_masked(image: np.ndarray, bad: np.ndarray, level: float) -> np.ndarray:
    """Replace masked pixels of a float32 image, in place, by the mean of the good pixels in the smallest square that holds three.

    Only original values enter, never filled ones, so the order of the pixels does not matter; without a good one
    within 5 pixels it is ``level``. Returns where a kernel whose first tap is there meets a masked pixel, bool.
    """
    near = np.zeros(image.shape, np.bool_)
    _fill(image, bad, near, np.float32(level))
    return near


@nb.njit(nogil=True, cache=True)
def _block_mean(fine, n, out):
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            total, count = 0.0, 0
            for r in range(y * n, (y + 1) * n):
                for c in range(x * n, (x + 1) * n):
                    if not np.isnan(fine[r, c]):
                        total += fine[r, c]
                        count += 1
            out[y, x] = total / count if count > 0 else np.nan


def block_mean(fine: np.ndarray, n: int) -> np.ndarray:
    """Mean over blocks of n x n pixels of those that have data, float32; NaN where none has. The sides are multiples of n."""
    out = np.empty((fine.shape[0] // n, fine.shape[1] // n), np.float32)
    _block_mean(fine, n, out)
    return out
