"""kred: reduction of wide-field CCD mosaics of faint, extended nebulosity.

This package is the whole of the science as a plain library: it never imports Prefect. What is named here is stable; each name is
imported when it is asked for, so that `import kred_core` costs nothing.
"""

from importlib import import_module
from typing import Any

from . import kernel_cache

kernel_cache.ensure()

__version__ = "0.1.0"

_FRONT = {"FieldConfig": "config", "reduce": "stages"}  # where each name comes from

__all__ = ["FieldConfig", "reduce"]


def __getattr__(name: str) -> Any:
    if name not in _FRONT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_FRONT[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FRONT})
