"""How good a mosaic is, in numbers, and the reduced image that a figure shows.

A mosaic is 300 MB and a field has dozens of them, so it is never held whole: it
is read in strips of rows, twice, and both the numbers and the block-averaged
image come out of that. All statistics are those of the covered pixels at full
resolution, and exact: medians are found by counting, not by sampling.
"""

from .measure import measure_mosaic
from .numbers import MOSAICS, MosaicNumbers, mosaic_table
from .reduced import ReducedImage
from .seams import block_jump, block_medians, block_side, low_pass_rms

__all__ = [
    "MOSAICS",
    "MosaicNumbers",
    "ReducedImage",
    "block_jump",
    "block_medians",
    "block_side",
    "low_pass_rms",
    "measure_mosaic",
    "mosaic_table",
]
