"""kred: reduction of wide-field CCD mosaics of faint, extended nebulosity.

This package is the whole of the science as a plain library: it never imports Prefect. What is named here is stable; each name is
imported when it is asked for, so that `import kred_core` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import kernel_cache

if TYPE_CHECKING:
    from .api.backgrounds import BackgroundMatch, match_backgrounds, solve_backgrounds
    from .api.images import coadd_images, open_exposure, rescale
    from .config import FieldConfig
    from .errors import KredError
    from .exposures.exposure import Exposure
    from .match.solve import Solution
    from .sky import Grid
    from .stages import reduce
    from .statistics import SkyStatistics, half_sample_mode, pixel_noise
    from .statistics import statistics as sky_statistics

kernel_cache.ensure()

__version__ = "0.1.0"

__all__ = [
    "BackgroundMatch",
    "Exposure",
    "FieldConfig",
    "Grid",
    "KredError",
    "SkyStatistics",
    "Solution",
    "coadd_images",
    "half_sample_mode",
    "match_backgrounds",
    "open_exposure",
    "pixel_noise",
    "reduce",
    "rescale",
    "sky_statistics",
    "solve_backgrounds",
]

# Where each name comes from, as above.
_FRONT = {
    "api.backgrounds": ("BackgroundMatch", "match_backgrounds", "solve_backgrounds"),
    "api.images": ("coadd_images", "open_exposure", "rescale"),
    "config": ("FieldConfig",),
    "errors": ("KredError",),
    "exposures.exposure": ("Exposure",),
    "match.solve": ("Solution",),
    "sky": ("Grid",),
    "stages": ("reduce",),
    "statistics": ("SkyStatistics", "half_sample_mode", "pixel_noise", "statistics"),
}
_NAMES = {"statistics": "sky_statistics"}  # here, of what has another name there
_PLACES = {_NAMES.get(name, name): (place, name) for place, names in _FRONT.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place, inside = _PLACES[name]
    found = getattr(import_module(f".{place}", __name__), inside)
    kernel_cache.announce_compiling()
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
