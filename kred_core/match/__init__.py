"""Which detectors of an image overlap, and by how much they differ where they do.

Apart from the solution, because it is a matter of cells and stars, not of
graphs: what leaves this package is one difference with its error for each pair.
"""

from .compare import good_cells
from .measure import measure
from .pairs import N_BLOCKS, Pairs, find_pairs

__all__ = ["N_BLOCKS", "Pairs", "find_pairs", "good_cells", "measure"]
