"""The stages of the pipeline, each from its inputs on disk to its products on disk.

This is the one place that knows which files a stage reads and writes; the
science is in the modules it calls. Every function can be called alone, from a
notebook too, and does its whole work each time: what is up to date is for the
caller to decide (`tasks.caching`). Units of work are exposures and mosaics, so
that thousands of detectors are a hundred calls.
"""

from .bounds import leftovers, missing_products, preflight
from .exposures import (
    Preparation,
    check_exposure,
    check_field,
    plan_preparation,
    prepare_exposure,
    restore_stamps,
    stamp_grid,
    stampless,
    summarize_exposure,
    summarize_field,
)
from .mosaics import (
    coadd,
    draw_field,
    evaluate_mosaic,
    evaluated_tiles,
    mosaic_names,
    mosaic_unit,
    plan_coadds,
    read_backgrounds,
    tabulate_mosaics,
    tile_inputs,
    tile_names,
    tiles_field,
)

__all__ = [
    "Preparation",
    "check_exposure",
    "check_field",
    "coadd",
    "draw_field",
    "evaluate_mosaic",
    "evaluated_tiles",
    "leftovers",
    "missing_products",
    "mosaic_names",
    "mosaic_unit",
    "plan_coadds",
    "plan_preparation",
    "preflight",
    "prepare_exposure",
    "read_backgrounds",
    "restore_stamps",
    "stamp_grid",
    "stampless",
    "summarize_exposure",
    "summarize_field",
    "tabulate_mosaics",
    "tile_inputs",
    "tile_names",
    "tiles_field",
]
