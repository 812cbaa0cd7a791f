"""How good a mosaic is, in numbers, and the reduced image that a figure shows.

A mosaic is 300 MB and a field has dozens of them, so it is read in strips of rows and never held whole. All statistics are
those of the covered pixels at full resolution, and exact: medians are found by counting, not by sampling.
"""

from .measure import block_jump, block_medians, block_side, low_pass_rms, measure_mosaic
from .results import MOSAICS, MosaicNumbers, ReducedImage, block_means, mosaic_table

__all__ = [
    "MOSAICS",
    "MosaicNumbers",
    "ReducedImage",
    "block_jump",
    "block_means",
    "block_medians",
    "block_side",
    "low_pass_rms",
    "measure_mosaic",
    "mosaic_table",
]
