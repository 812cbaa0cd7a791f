"""Pictures for people, who look before they read numbers.

Each function draws one PNG, with a title and into a path that it is given, from arrays and tables that other modules have made.
Nothing here knows where products lie, or measures what is not shown. Without data a picture has the colour `UNCOVERED`.
"""

from .backgrounds import background_figure
from .drawing import UNCOVERED
from .overlaps import PairCutout, overlap_figure, pair_figure
from .sky import comparison_figure, coverage_figure, field_figure, mosaic_figure

__all__ = ["UNCOVERED", "PairCutout", "background_figure", "comparison_figure", "coverage_figure", "field_figure"]
__all__ += ["mosaic_figure", "overlap_figure", "pair_figure"]
