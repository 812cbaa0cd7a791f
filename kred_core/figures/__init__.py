"""Pictures for people, who look before they read numbers.

Each function draws one PNG from arrays and tables that other modules have made.
Nothing here knows where products lie or measures anything that is not shown.
"""

from .drawing import UNCOVERED
from .sky import coverage_figure, field_figure, mosaic_figure, thumbnail

__all__ = ["UNCOVERED", "coverage_figure", "field_figure", "mosaic_figure", "thumbnail"]
