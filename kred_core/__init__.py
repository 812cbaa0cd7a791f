"""kred: reduction of wide-field CCD mosaics of faint, extended nebulosity.

This package is the whole of the science as a plain library: it never imports Prefect. What is named here is stable; each name is
imported when it is asked for, so that `import kred_core` costs nothing.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
import threading
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

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

log = logging.getLogger(__name__)

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
    _announce_compiling()
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# A place where numba can keep what it compiles, where it would find none and refuse to compile at all: where kred is the
# installation of somebody else, and the home directory cannot be written to either. Numba reads its settings when it is imported.

_CACHE = "NUMBA_CACHE_DIR"
_made: list[str] = []
_listening = threading.Event()


def _ensure_kernel_cache() -> None:
    """Have this process, and those that it starts, keep compiled loops in a temporary directory if no lasting place can be used."""
    caches = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME", "~/.cache")
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__")
    lasting = [os.environ.get(_CACHE), here, os.path.join(os.path.expanduser(caches), "numba")]  # as numba tries them
    if any(map(_usable, filter(None, lasting))):
        return
    with suppress(OSError):
        directory = os.environ[_CACHE] = tempfile.mkdtemp(prefix="kred-numba-")
        _made.append(directory)
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        log.warning(
            "compiled loops cannot be kept in any of %s, so they are compiled each time (half a minute); set %s to a directory "
            "that can be written to",
            ", ".join(filter(None, lasting)),
            _CACHE,
        )


def _announce_compiling() -> None:
    """Have the first loop that is compiled in this process, and not found where they are kept, said with how long it takes."""
    if "numba" not in sys.modules or _listening.is_set():
        return
    _listening.set()
    from numba.core import event

    class Once(event.Listener):
        said = False

        def on_start(self, event: Any) -> None:
            if not Once.said:
                Once.said = True
                log.warning("compiling, once after an installation (some 10 s)")

        def on_end(self, event: Any) -> None:
            pass

    event.register("numba:compile", Once())


def cache_is_temporary() -> bool:
    """Whether what is compiled now is lost with this process."""
    return os.environ.get(_CACHE) in _made


def _usable(directory: str) -> bool:
    with suppress(OSError):
        os.makedirs(directory, exist_ok=True)
    return os.access(directory, os.W_OK | os.X_OK)


_ensure_kernel_cache()
