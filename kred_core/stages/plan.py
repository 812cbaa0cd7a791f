"""Around a run: what would end it before it begins, what it would do and cost, and whether what was asked for exists.

What a run would do is foreseen from headers and tables without decoding a pixel. Each stage foresees its own part (`Stage.plan`),
with the functions that select detectors and plan mosaics in the run itself, so that what is foreseen is what then happens.
Costs are rough, without Prefect's own time; they are meant to tell minutes from days.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from .. import survey
from ..config import STAGES, BackgroundKind, FieldConfig, SurveyConfig
from ..errors import InputError
from ..exposures import check
from ..match.image import fixed_backgrounds
from ..products import FieldPaths, find_clash, grouped, same_file, table_names
from ..words import counted, human_size, human_time, some
from .check import judged
from .executor import cores
from .stage import Plan, Stage

SPARE_DISK = 50e6  # bytes: tables, figures, logs, and the file that is being replaced


def table() -> dict[str, Stage]:
    """Return all stages by name, in the order in which they run."""
    return {name: import_module(f"kred_core.stages.{name}").STAGE for name in STAGES}


def of_run(config: FieldConfig) -> list[Stage]:
    """Return the stages that a run is asked for."""
    return [stage for name, stage in table().items() if name in config.run.stages]


def preflight(config: FieldConfig) -> None:
    """Find what would end a run before it begins: `InputError` for data and tables, `ToolError` where SWarp is not installed."""
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


def plan_run(config: FieldConfig) -> Plan:
    """Foresee every stage, also those that were not asked for: what follows depends on them."""
    plan = Plan(config)
    for name, stage in table().items():
        plan.planned[name] = stage.plan(plan)
    return plan


def dry_run(config: FieldConfig) -> str:
    """Return what a run with this configuration would do, for a person to read."""
    plan = plan_run(config)
    planned = [line for stage in of_run(config) for line in plan.planned[stage.name]]
    workers = config.run.workers or cores()
    lines = [f"{config.field}: what would be done with these options (nothing has been done)", ""]
    lines.append(f"{'stage':<10} {'units':>16} {'to do':>7} {'CPU time':>10} {'disk':>10}")
    for p in planned:
        time, size = (human_time(p.cost.seconds), human_size(p.cost.disk)) if p.to_do else ("-", "-")
        unit = p.unit.removesuffix("s") if p.units == 1 else p.unit
        lines.append(f"{p.name:<10} {p.units:>6} {unit:<9} {p.to_do:>7} {time:>10} {size if p.cost.disk else '-':>10}")
    seconds, disk = sum(p.cost.seconds for p in planned if p.to_do), _disk_to_do(plan)
    needed = f"{human_size(sum(disk.values()))} of disk ({human_size(shutil.disk_usage(config.root).free)} are free)"
    lines += ["", f"about {human_time(seconds / workers)} with {counted(workers, 'task')} at once, {needed}"]
    if words := survey.images(config.field, config.survey).explain(r.filter for r in plan.usable):
        lines.append(words)
    if lacking := _shortage(config, disk):
        lines.append(f"WARNING: {lacking}")
    for r in plan.reports:
        if r.refused:
            lines.append(f"refused {r.root}: {'; '.join(r.refused)}")
    return "\n".join(lines)


def require_room(config: FieldConfig) -> dict[str, float]:
    """Raise `InputError` where the disk has no room for what a run is going to make, once its exposures have been checked.

    Returns the CPU time in s of each stage of the run where nothing has been made yet.
    """
    usable = [r for r in judged(config) if not r.refused]
    costs = {stage.name: stage.cost(config, usable) for stage in of_run(config)}
    if _shortage(config, {name: cost.disk for name, cost in costs.items()}):  # unless some of it is there already
        lacking = _shortage(config, _disk_to_do(plan_run(config)))
        if lacking:
            raise InputError(lacking)
    return {name: cost.seconds for name, cost in costs.items()}


def _disk_to_do(plan: Plan) -> dict[str, float]:
    """Bytes that stages will write, by stage."""
    sizes = {s.name: sum(p.cost.disk for p in plan.planned[s.name] if p.to_do) for s in of_run(plan.config)}
    return {name: size for name, size in sizes.items() if size}


def _shortage(config: FieldConfig, disk: Mapping[str, float]) -> str:
    """Why products, in bytes by stage, will not fit on their disks, and what can be done; empty where they fit."""
    directories, of_name = FieldPaths.of(config).directories, table()
    needed: dict[int, list[tuple[float, Path]]] = {}  # by disk: directories may be links to others
    for name, size in disk.items():
        if not of_name[name].place:
            continue
        directory = directories[of_name[name].place]
        place = next(p for p in (directory, *directory.parents) if p.is_dir())
        needed.setdefault(place.stat().st_dev, []).append((size, place))
    lacking = []
    for parts in needed.values():
        size, free = sum(size for size, _ in parts), shutil.disk_usage(parts[0][1]).free
        if size > free - SPARE_DISK:
            lacking.append(
                f"{human_size(size)} and room to work in are needed on the disk of {parts[0][1]}, {human_size(free)} are free"
            )
    if not lacking:
        return ""
    what = ", ".join(f"{stage} {human_size(size)}" for stage, size in disk.items() if size)
    return (
        f"the products do not fit: {'; '.join(lacking)} ({what}). Make room, or make less: rescaled detectors can be left "
        "out (--prepare.output none --match.output none), or some tiles be made at a time"
    )


def missing_products(config: FieldConfig) -> list[Path]:
    """Return the products of the stages of this run that are not on disk."""
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
    """Return a sentence for each kind of file that was not used: beside the input, and of an earlier run with other options."""
    paths = FieldPaths.of(config)
    notes = []
    if left_out := paths.left_out():
        notes.append(f"left out in {paths.mef}, only InstCal images and their masks are taken: {'; '.join(grouped(left_out))}")
    if paths.lacks_masks():
        notes.append(f"no exposure in {paths.mef} has a mask: bad pixels and cosmic rays stay in them")
    notes += _left_out(config)
    return notes + [note for stage in of_run(config) for note in stage.leftovers(config)]
