"""Which detectors of an image overlap, and by how much they differ where they do.

Apart from the solution, because it is a matter of cells and stars, not of
graphs: what leaves this package is one difference with its error for each pair.
"""

from .measure import measure
from .pairs import N_BLOCKS, Pairs, find_pairs
from .sky_mask import good_cells

__all__ = ["N_BLOCKS", "Pairs", "find_pairs", "good_cells", "measure"]
