"""kred: reduction of wide-field CCD mosaics of faint, extended nebulosity.

This package is the whole of the science as a plain library: it never imports
Prefect, and every stage of the pipeline is one function here.
"""

from . import kernel_cache

kernel_cache.ensure()

__version__ = "0.1.0"
