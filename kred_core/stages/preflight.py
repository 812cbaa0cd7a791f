"""Before and after a run: what would end it before it begins, and whether what was asked for exists."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .. import survey
from ..config import BackgroundKind, FieldConfig, SurveyConfig
from ..errors import InputError
from ..exposures import check
from ..match.image import fixed_backgrounds
from ..products import FieldPaths, find_clash, grouped, same_file, table_names
from ..words import some
from .exposures import judged
from .stage import of_run

__all__ = ["leftovers", "missing_products", "preflight"]


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
    fixed_backgrounds(config.match.fixed)
    for stage in of_run(config):
        stage.require(config)


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
    return name in table_names() or other.prepared_tile(name).is_dir() or other.coadds(name, BackgroundKind.MATCHED).is_dir()


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
    wanted = (path for stage in of_run(config) for path in stage.products(config))
    return [path for path in dict.fromkeys(wanted) if not path.is_file()]


def _left_out(config: FieldConfig) -> list[str]:
    """What ``tiling.leave_out`` did: amplifiers left out, and names of no detector, for other fields perhaps, or misspelt."""
    if not config.tiling.leave_out:
        return []
    names = {name.upper() for r in judged(config) for name in (*r.extnames, *r.taken, *(lost for lost, _ in r.lost))}
    unknown = [entry for entry in config.tiling.leave_out if entry.upper().partition(".")[0] not in names]
    halves = sorted(entry for entry in set(config.tiling.leave_out) - set(unknown) if "." in entry)
    notes = [f"tiling.leave_out: of its detector the amplifier {some(halves)} was left out"] if halves else []
    return notes + ([f"tiling.leave_out: no exposure of this field has a detector {some(unknown)}"] if unknown else [])


def leftovers(config: FieldConfig) -> list[str]:
    """A sentence for each kind of file that was not used: beside the input, and of an earlier run with other options."""
    paths = FieldPaths.of(config)
    notes = []
    if left_out := paths.left_out():
        notes.append(f"left out in {paths.mef}, only InstCal images and their masks are taken: {'; '.join(grouped(left_out))}")
    if paths.lacks_masks():
        notes.append(f"no exposure in {paths.mef} has a mask: bad pixels and cosmic rays stay in them")
    notes += _left_out(config)
    return notes + [note for stage in of_run(config) for note in stage.leftovers(config)]
