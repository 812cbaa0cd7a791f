"""The stages of the pipeline, each from its inputs on disk to its products on disk.

This is the one place that knows which files a stage reads and writes; the science is in the modules it calls. Every function
can be called alone, from a notebook too, and does its whole work each time; what it made is told by the
`~kred_core.stages.work.Manifest` that it returns. What is up to date is for the caller to decide (`kred_core.stages.work`).
Units of work are exposures and mosaics, so that thousands of detectors are a hundred calls.
"""

from .check import check_exposure, check_field, judged
from .coadd import coadd_mosaic, mosaic_names, plan_coadds
from .evaluate import draw_field, evaluate_mosaic, evaluated_tiles, tabulate_mosaics
from .match import explain_matching
from .matching import (
    draw_matching,
    make_quick_looks,
    measure_overlaps,
    plan_matching,
    solve_backgrounds,
    tabulate_matching,
)
from .plan import dry_run, leftovers, missing_products, preflight, table
from .run import reduce
from .summarize import binned_grid, restore_binned_maps, summarize_exposure, summarize_field, without_binned_maps
from .tiles import tile_names, tiles_field

__all__ = [
    "binned_grid",
    "check_exposure",
    "check_field",
    "coadd_mosaic",
    "draw_field",
    "draw_matching",
    "dry_run",
    "evaluate_mosaic",
    "evaluated_tiles",
    "explain_matching",
    "judged",
    "leftovers",
    "make_quick_looks",
    "measure_overlaps",
    "missing_products",
    "mosaic_names",
    "plan_coadds",
    "plan_matching",
    "preflight",
    "reduce",
    "restore_binned_maps",
    "solve_backgrounds",
    "summarize_exposure",
    "summarize_field",
    "table",
    "tabulate_matching",
    "tabulate_mosaics",
    "tile_names",
    "tiles_field",
    "without_binned_maps",
]
