"""Detectors averaged onto the survey's common grid of cells, the files that keep them, and quick-look mosaics of them.

All fields of a galaxy share one grid, so that two detectors are compared by slices of two arrays.
"""

from .average import BinnedGrid, BinnedMap, bin_detector, binned_grid, saturation, usual_cell
from .files import boxes, grid_of, read, write

__all__ = ["BinnedGrid", "BinnedMap", "bin_detector", "binned_grid", "boxes", "grid_of", "read", "saturation", "usual_cell"]
__all__ += ["write"]
