"""Before and after a run: what would end it before it begins, and whether what was asked for exists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .. import check, matching, survey
from ..coadd import swarp
from ..config import FieldConfig, SurveyConfig
from ..errors import InputError
from ..products import FieldPaths, find_clash, grouped, same_file, table_names
from ..words import counted, some
from .copies import plan_copies
from .exposures import judged, plan_preparation
from .looks import compared_tiles
from .mosaics import mosaic_names, read_backgrounds, tile_names, wanted_tiles

__all__ = ["leftovers", "missing_products", "preflight"]

BY_HAND = ".swarp.fits"  # what a person gets who runs the SWarp script beside a mosaic


def preflight(config: FieldConfig) -> None:
    """Find what would end a run before it begins.

    Raises
    ------
    InputError
        The data root, the field, a tile or a table is missing or unusable.
    ToolError
        SWarp is wanted and not installed.
    """
    paths = FieldPaths.of(config)
    if not config.root.is_dir():
        raise InputError(f"the data root {config.root} is no directory; give the one that holds DECam_MEF with --root")
    if not os.access(config.root, os.W_OK | os.X_OK):
        raise InputError(f"the data root {config.root} cannot be written to; products go below it")
    _stay_inside(config)
    paths.exposures()
    check.zero_points(config.check.zero_points)
    survey.tiles(config.field, config.survey, config.tiles)
    _require_own_files(config)
    survey.images(config.field, config.survey)
    matching.fixed_backgrounds(config.match.fixed)
    if config.coadd.engine == "swarp" and "coadd" in config.run.stages:
        swarp.find_swarp()


def _require_own_files(config: FieldConfig) -> None:
    """Refuse names that would make one file of two products; those within a tile table were judged with it."""
    paths, images = FieldPaths.of(config), survey.images(config.field, config.survey).names
    if same_file(paths.page.parent) == same_file(paths.all_fields_page):
        raise InputError(f"field {config.field}: {paths.all_fields_page} is the page of all fields; give the field another name")
    names = tuple(tile.name for tile in survey.tiles(config.field, config.survey))
    if clash := find_clash(config.field, names, images):
        owner = " of ".join(f"{kind} {name}" for kind, name in (("image", clash.image), ("tile", clash.tile)) if name)
        raise InputError(
            f"{owner} of field {config.field} cannot have this name: {clash.path} would be that of {clash.other} too; "
            "change the table of images or tiles"
        )
    for name in (*names, *table_names()):
        parts = f"{config.field}_{name}".split("_")
        for k in range(1, len(parts)):
            other, rest = FieldPaths(config.root, "_".join(parts[:k])), "_".join(parts[k:])
            if other.field != config.field and other.mef.parent.is_dir() and _has_table(other, rest):
                raise InputError(
                    f"field {config.field}: {paths.tile_table(name)} is a table of field {other.field} too; give the tile "
                    f"{name if name in names else rest} another name"
                )


def _has_table(other: FieldPaths, name: str) -> bool:
    """Whether a field has a tile of this name, as far as the survey and its products say, or kred such a table."""
    with suppress(InputError):
        if name in {tile.name for tile in survey.tiles(other.field, SurveyConfig())}:
            return True
    return name in table_names() or other.prepared_tile(name).is_dir() or other.coadds(name, matched=True).is_dir()


def _stay_inside(config: FieldConfig) -> None:
    """Let no link lead the products to where nobody wants them."""
    wanted = [Path(directory).expanduser().resolve() for directory in config.run.outside]
    for link, target in FieldPaths.of(config).ways_out():
        if not any(target.is_relative_to(directory) for directory in wanted):
            raise InputError(
                f"{link} is a link to {target}, outside the data root; products are written there only if you say so, with "
                f"--outside {target}"
            )


def missing_products(config: FieldConfig) -> list[Path]:
    """Products of the stages of this run that are not on disk."""
    paths = FieldPaths.of(config)
    wanted = []
    if "check" in config.run.stages:
        wanted.append(paths.quality_table)
    if "summarize" in config.run.stages:
        wanted += [paths.exposure_table, paths.detector_table]
    if "prepare" in config.run.stages:
        wanted += sorted(_prepared(config))
    if "tiles" in config.run.stages:
        wanted += map(paths.tile_table, tile_names(config))
    for stage, products in (("match", _matching), ("coadd", _mosaics), ("evaluate", _figures)):
        if stage in config.run.stages:
            wanted += products(config)
    return [path for path in dict.fromkeys(wanted) if not path.is_file()]


def _matching(config: FieldConfig) -> Iterator[Path]:
    """Tables, quick looks, figures and copies that the stage match makes from the present tables."""
    paths = FieldPaths.of(config)
    yield from (paths.overlap_table, paths.background_table, paths.matching_table)
    if not paths.background_table.is_file():
        return
    for image in sorted({image for *_, image in read_backgrounds(config)}):
        yield from (paths.matching_figure(image, kind) for kind in ("overlaps", "backgrounds", "pairs"))
        tiles = tile_names(config)
        yield from (paths.quick_look(image, tile) for tile in ("", *tiles))
        yield from (paths.comparison_figure(image, tile) for tile in ("", *compared_tiles(config, tiles)))
    if config.match.output != "none":
        plain = config.match.output == "plain"
        for copies in plan_copies(config):
            yield from (paths.matched_detector(copies.root, name, plain, copies.image) for name, _ in copies.backgrounds)


def _mosaics(config: FieldConfig) -> Iterator[Path]:
    """The mosaics that the present tables call for, and their coverage maps."""
    paths = FieldPaths.of(config)
    for tile, image in mosaic_names(config):
        for matched in (background == "matched" for background in config.coadd.backgrounds):
            yield paths.mosaic(tile, image, matched)
            yield paths.coverage(tile, image, matched)


def _figures(config: FieldConfig) -> Iterator[Path]:
    """The figures that the present tables call for."""
    paths = FieldPaths.of(config)
    for tile, image in mosaic_names(config):
        for matched in (background == "matched" for background in config.coadd.backgrounds):
            yield paths.mosaic_figure(tile, image, matched)
            yield paths.coverage_figure(tile, image, matched)
            yield paths.field_figure(image, matched)
        if config.coadd.mosaics == "both":
            yield paths.comparison_figure(image, tile)


def _prepared(config: FieldConfig) -> set[Path]:
    """The prepared detectors that the present tables call for."""
    if config.prepare.output == "none":
        return set()
    paths, plain = FieldPaths.of(config), config.prepare.output == "plain"
    return {paths.prepared_detector(p.root, e, plain) for p in plan_preparation(config) for e in p.extnames}


def _unknown_left_out(config: FieldConfig) -> list[str]:
    """Names in ``tiling.leave_out`` of which there is no detector: perhaps meant for other fields, perhaps misspelt."""
    if not config.tiling.leave_out:
        return []
    names = {name.upper() for r in judged(config) for name in (*r.extnames, *r.taken, *(lost for lost, _ in r.lost))}
    unknown = [entry for entry in config.tiling.leave_out if entry.upper().partition(".")[0] not in names]
    return [f"tiling.leave_out: no exposure of this field has a detector {some(unknown)}"] if unknown else []


def leftovers(config: FieldConfig) -> list[str]:
    """A sentence for each kind of file that was not used: beside the input, and of an earlier run with other options."""
    paths = FieldPaths.of(config)
    notes = []
    if left_out := paths.left_out():
        notes.append(f"left out in {paths.mef}, only InstCal images and their masks are taken: {'; '.join(grouped(left_out))}")
    if paths.lacks_masks():
        notes.append(f"no exposure in {paths.mef} has a mask: bad pixels and cosmic rays stay in them")
    notes += _unknown_left_out(config)
    if "coadd" in config.run.stages:
        planned = set(_mosaics(config))
        for directory in (paths.coadds(tile.name, matched) for tile in wanted_tiles(config) for matched in (False, True)):
            old = {path for path in directory.glob("[!.]*.fits") if not path.name.endswith(BY_HAND)} - planned
            if old:
                names = ", ".join(sorted(path.name for path in old))
                notes.append(f"{directory}: {names}: of an earlier run; with these options they would not be made")
    if "prepare" in config.run.stages:
        old = set(paths.prepared.glob("[!.]*.fits*")) - _prepared(config)
        notes += [f"{counted(len(old), 'file')} of an earlier run in {paths.prepared}, not used"] if old else []
    return notes
