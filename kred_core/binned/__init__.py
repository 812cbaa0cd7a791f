"""Detectors averaged onto the survey's common grid of cells.

All fields of a galaxy share one grid, so that two detectors are compared by
slices of two arrays. It knows how pixels become cells and how the cells of an
exposure are kept in a file; what is measured from them is for other modules.
"""

from .average import BinnedMap, bin_detector, saturation
from .files import boxes, grid_of, read, write
from .grid import BinnedGrid, binned_grid, usual_cell

__all__ = [
    "BinnedGrid",
    "BinnedMap",
    "bin_detector",
    "binned_grid",
    "boxes",
    "grid_of",
    "read",
    "saturation",
    "usual_cell",
    "write",
]
