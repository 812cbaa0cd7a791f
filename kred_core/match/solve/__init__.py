"""One background per detector from the differences of overlapping detectors.

Pure functions on arrays: nothing here knows files, cameras or units. `solve` is the robust
least squares that kred uses; `solve_svd` is what the older scripts did, for comparison.
"""

from .components import component_means, components
from .robust import solve
from .solution import Shape, Solution
from .svd import solve_svd

__all__ = ["Shape", "Solution", "component_means", "components", "solve", "solve_svd"]
