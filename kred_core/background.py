"""The background of a detector: the one place where its model is written down and evaluated.

Solved for by `kred_core.match.solve`, kept in the table of backgrounds, subtracted by the co-adders and the quick look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def variation(grad_x, grad_y, step, x, y):
    """Return what a background has at (x, y) beyond its constant: numbers or arrays; numba can compile it."""
    return grad_x * x + grad_y * y + step * (0.5 * np.sign(x))


@dataclass(frozen=True)
class Background:
    """Background of a detector, or, with arrays, of several.

    At (x, y), x along NAXIS1 and y along NAXIS2 from the detector's centre, it is::

        B(x, y) = b + grad_x x + grad_y y + step/2 sign(x)

    Its terms are the columns of the table of backgrounds, where values are counts28 per native pixel and x and y are
    in native pixels. The solution has counts28 per square arcsec, and x and y from -1 to 1 over the detector (half sides).
    Each is a float, or (n,) float for several detectors.
    """

    b: Any  # at the detector's centre; with a step, the mean of both sides
    grad_x: Any = 0.0  # slopes along NAXIS1 and NAXIS2
    grad_y: Any = 0.0
    step: Any = 0.0  # of the upper half of the columns over the lower half: between amplifiers

    @classmethod
    def from_table(cls, table: Mapping) -> Background:
        """Return the backgrounds of all rows of a table (or the one of a row) with the columns b, grad_x, grad_y and step."""
        return cls(*(np.asarray(table[term.name], dtype=np.float64) for term in fields(cls)))

    def columns(self) -> dict[str, Any]:
        """Return the terms by name."""
        return dict(vars(self))

    def coefficients(self) -> np.ndarray:
        """Return the terms as an array, shape (n, 4)."""
        return np.stack(np.broadcast_arrays(*vars(self).values()), axis=-1).astype(np.float64)

    def each(self) -> list[Background]:
        """Return one background of plain numbers for each detector."""
        return [Background(*terms) for terms in self.coefficients().tolist()]

    def __getitem__(self, which: ArrayLike) -> Background:
        """Return the backgrounds of some of the detectors."""
        return Background(*(term[which] if np.ndim(term) else term for term in vars(self).values()))

    def __mul__(self, factor: float | np.ndarray) -> Background:
        """Return the same in another unit of its values."""
        return Background(*(term * factor for term in vars(self).values()))

    def __truediv__(self, factor: float | np.ndarray) -> Background:
        """Return the same in another unit of its values."""
        return Background(*(term / factor for term in vars(self).values()))

    def per_pixel(self, naxis1: float | np.ndarray, naxis2: float | np.ndarray) -> Background:
        """Return the same with x and y in pixels, where they were in half sides of a detector of so many pixels."""
        return Background(self.b, self.grad_x / (naxis1 / 2), self.grad_y / (naxis2 / 2), self.step)

    def per_half_side(self, naxis1: float | np.ndarray, naxis2: float | np.ndarray) -> Background:
        """Return the same with x and y in half sides of a detector of so many pixels, where they were in pixels."""
        return Background(self.b, self.grad_x * (naxis1 / 2), self.grad_y * (naxis2 / 2), self.step)

    @property
    def is_constant(self) -> bool:
        """Whether it is the same in all pixels."""
        return self.grad_x == self.grad_y == self.step == 0

    @property
    def is_finite(self) -> bool:
        """Whether all its terms are."""
        return all(map(math.isfinite, vars(self).values()))

    def at(self, x: ArrayLike, y: ArrayLike) -> np.ndarray:
        """Return its values at places (x, y) from the detector's centre."""
        return self.b + variation(self.grad_x, self.grad_y, self.step, x, y)

    def subtract_variation(self, image: np.ndarray) -> None:
        """Subtract all but the constant from the pixels of the detector, in place: float32, shape (NAXIS2, NAXIS1)."""
        x, y = (np.arange(n) - (n - 1) / 2 for n in reversed(image.shape))
        image -= variation(self.grad_x, 0.0, self.step, x, 0.0).astype(np.float32)
        image -= variation(0.0, self.grad_y, 0.0, 0.0, y).astype(np.float32)[:, None]
