"""Quick look: a mosaic at the resolution of the binned maps, before and after matching, long before any co-add.

The binned maps lie on one grid already, so a mosaic is the median of what they say about each cell: seconds for a
tile, half a minute for a field. Apart from the co-adder, because no pixel is opened or resampled here; it is for
looking at, and for counting seams, not for photometry.
"""

from .mosaic import QuickLook, quick_look
from .product import cut, jumps, read, reduced, write

__all__ = ["QuickLook", "cut", "jumps", "quick_look", "read", "reduced", "write"]
