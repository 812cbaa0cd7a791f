"""The stages of the pipeline, each from its inputs on disk to its products on disk.

This is the one place that knows which files a stage reads and writes; the
science is in the modules it calls. Every function can be called alone, from a
notebook too, and does its whole work each time: what is up to date is for the
caller to decide (`kred_core.stages.work`). Units of work are exposures and mosaics, so
that thousands of detectors are a hundred calls.
"""

from .accounts import account_for_input, account_inputs
from .copies import MatchedCopies, copy_matched, link_matched, plan_copies
from .exposures import (
    Preparation,
    binned_grid,
    check_exposure,
    check_field,
    explain_images,
    judged,
    plan_preparation,
    prepare_exposure,
    restore_binned_maps,
    summarize_exposure,
    summarize_field,
    without_binned_maps,
)
from .looks import compared_tiles, draw_matching, make_quick_looks
from .matching import (
    MEASURED_FROM,
    SOLVED_FROM,
    MatchPlan,
    background_rows,
    binned_sources,
    explain_matching,
    look_record,
    measure_overlaps,
    plan_matching,
    remove_binned_maps,
    solve_backgrounds,
    solved_files,
    tabulate_matching,
)
from .mosaics import (
    coadd_mosaic,
    draw_field,
    evaluate_mosaic,
    evaluated_tiles,
    link_prepared,
    mosaic_names,
    mosaic_unit,
    plan_coadds,
    read_backgrounds,
    tabulate_mosaics,
    tile_inputs,
    tile_names,
    tiles_field,
    wanted_tiles,
)
from .plan import dry_run
from .preflight import leftovers, missing_products, preflight
from .run import reduce
from .stage import of_run, table

__all__ = [
    "MEASURED_FROM",
    "SOLVED_FROM",
    "MatchPlan",
    "MatchedCopies",
    "Preparation",
    "account_for_input",
    "account_inputs",
    "background_rows",
    "binned_grid",
    "binned_sources",
    "check_exposure",
    "check_field",
    "coadd_mosaic",
    "compared_tiles",
    "copy_matched",
    "draw_field",
    "draw_matching",
    "dry_run",
    "evaluate_mosaic",
    "evaluated_tiles",
    "explain_images",
    "explain_matching",
    "judged",
    "leftovers",
    "link_matched",
    "link_prepared",
    "look_record",
    "make_quick_looks",
    "measure_overlaps",
    "missing_products",
    "mosaic_names",
    "mosaic_unit",
    "of_run",
    "plan_coadds",
    "plan_copies",
    "plan_matching",
    "plan_preparation",
    "preflight",
    "prepare_exposure",
    "read_backgrounds",
    "reduce",
    "remove_binned_maps",
    "restore_binned_maps",
    "solve_backgrounds",
    "solved_files",
    "summarize_exposure",
    "summarize_field",
    "table",
    "tabulate_matching",
    "tabulate_mosaics",
    "tile_inputs",
    "tile_names",
    "tiles_field",
    "wanted_tiles",
    "without_binned_maps",
]
