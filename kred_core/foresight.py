"""What a run would do and cost, foreseen from headers and tables without decoding a pixel.

Used by the dry run, which must be right about what then happens: the same
functions as in the run itself select detectors and plan mosaics. Costs are
rough, without Prefect's own time; they are meant to tell minutes from days.
"""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import check, duplicates, summary, survey, tables, tiling
from .check import ExposureReport
from .coadd.plan import CoaddPlan, make_plan
from .config import CheckConfig, FieldConfig
from .errors import ExposureError
from .outcome import human_size
from .products import FieldPaths, read_record
from .stages.exposures import with_pixels
from .stages.mosaics import other_fields, wanted_tiles
from .stamp import StampGrid
from .words import counted, human_time

__all__ = [
    "PlannedStage",
    "add_field_figures",
    "coadds",
    "copies_disk",
    "count_images",
    "describe",
    "disk_to_do",
    "most_disk",
    "plan_check",
    "plan_exposures",
    "plan_figures",
    "plan_match",
    "plan_mosaics",
    "plan_tiles",
    "prepared_disk",
    "reports",
    "rough_seconds",
    "shortage",
    "stamp_disk",
]

# CPU seconds on one core, fitted to what tests/benchmarks/chain.py prints for full-size and for small detectors: for a million
# pixels (of the input; of a mosaic for evaluate), and for a unit of work (an exposure, a mosaic, an image).
SECONDS_PER_MPIX = {"check": 0.0005, "summarize": 0.021, "prepare": 0.0014, "coadd": 0.017, "evaluate": 0.01}
SECONDS_PER_UNIT = {
    "check": 0.04, "summarize": 0.12, "prepare": 0.03, "tiles": 0.1, "match": 0.07, "figures": 2.3, "coadd": 0.3, "evaluate": 0.7,
}  # fmt: skip
MATCH_SECONDS_PER_DETECTOR = 0.04  # pairs, solution, quick look
COADD_SECONDS_PER_OUTPUT_MPIX = 0.016
COVERAGE_BYTES_PER_PIXEL = 0.15  # compressed
SPARE_DISK = 50e6  # bytes: tables, figures, logs, and the file that is being replaced
STAMP_BYTES_PER_CELL, STAMP_BYTES = 2.2, 20_000  # compressed; headers


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a run that has not begun.

    Attributes
    ----------
    name, unit : str
        Stage, and what its units are.
    units, to_do : int
        All of them, and those that are missing or out of date.
    disk : float
        Bytes of products that will be written.
    seconds : float
        CPU time.
    """

    name: str
    unit: str
    units: int
    to_do: int
    disk: float = 0.0
    seconds: float = 0.0


def reports(
    config: FieldConfig, exposures: Sequence[Path], current: Iterable[Path], points: dict[str, float]
) -> list[ExposureReport]:
    """Verdicts on all exposures: what is known already, and for the rest what the headers tell.

    Checksums are left for the run itself: verifying them means reading every file.
    """
    known = set(current)
    quick = config.check.model_copy(update={"verify_checksums": False})
    paths = FieldPaths.of(config)
    result = []
    for path in exposures:
        record = read_record(paths.record("check", path.name)) if path in known else None
        result.append(ExposureReport.from_record(record) if record else _judged(path, quick, points))
    return [with_pixels(paths, report) for report in duplicates.compare(result)]


def _judged(path: Path, config: CheckConfig, points: dict[str, float]) -> ExposureReport:
    try:
        return check.judge(path, config, points)
    except ExposureError as e:  # it may be readable when the run comes to it
        return ExposureReport(FieldPaths.root_of(path), path.name, refused=(str(e),))


def coadds(config: FieldConfig, found: Sequence[ExposureReport]) -> list[CoaddPlan]:
    """The mosaics that the usable exposures would make, from the places of their detectors; their backgrounds are not known yet."""
    if not config.coadd.backgrounds:
        return []
    images = survey.images(config.field, config.survey)
    by_root = {row["Root"]: row for row in summary.exposure_rows(found, images, config.field)}
    rows = [
        {**by_root[place["Root"]], **place, "SUB_BACK": 0.0, "Noise": math.nan} for place in summary.place_rows(found, config.field)
    ]
    columns = [c for c in tables.TILE if c.name != "Image"]
    detectors = tiling.stack([tables.make(rows, columns), *other_fields(config)])
    plans = []
    for tile in wanted_tiles(config):
        selected = tiling.select(detectors, tile, images, config.tiling).detectors
        for image in sorted(set(selected["Image"])):
            of_image = selected[selected["Image"] == image]
            centre = tiling.mosaic_centre(tile, selected, config.tiling)
            plans.append(
                make_plan(config.field, tile.name, image, of_image, centre, tile.mosaic, lambda _, file: Path(file), config.coadd)
            )
    return plans


def plan_check(exposures: Sequence[Path], current: Sequence[Path]) -> PlannedStage:
    """The stage check; a plain file has as many pixels as a compressed one five times smaller."""
    to_do = set(exposures) - set(current)
    mega = sum(p.stat().st_size for p in to_do) / 1e6
    return _planned("check", "exposures", len(exposures), len(to_do), mega)


def plan_exposures(name: str, usable: Sequence[ExposureReport], current: Sequence[ExposureReport]) -> PlannedStage:
    """A stage whose unit is an exposure."""
    done = {r.root for r in current}
    to_do = [r for r in usable if r.root not in done]
    return _planned(name, "exposures", len(usable), len(to_do), sum(map(_pixels, to_do)) / 1e6)


def prepared_disk(config: FieldConfig, usable: Sequence[ExposureReport], current: Sequence[ExposureReport]) -> float:
    """Bytes that the stage prepare will write: rescaled copies are as large as what they are copies of."""
    done = {r.root for r in current}
    return sum(_copies(config, config.prepare.output, r) for r in usable if r.root not in done)


def _copies(config: FieldConfig, output: str, report: ExposureReport) -> float:
    """Bytes of rescaled copies of the usable detectors of an exposure."""
    match output:
        case "compressed":
            return FieldPaths.of(config).exposure(report.file).stat().st_size * len(report.detectors) / report.n_detectors
        case "plain":
            return _pixels(report) * 4
        case _:
            return 0.0


def stamp_disk(usable: Sequence[ExposureReport], current: Sequence[ExposureReport], grid: StampGrid | None) -> float:
    """Bytes of the stamps that the stage summarize will write."""
    done = {r.root for r in current}
    places = [d for r in usable if r.root not in done for d in r.detectors]
    cells = sum(d.naxis1 * d.naxis2 * d.pixel_scale**2 for d in places) / grid.cell**2 if grid else 0.0
    return cells * STAMP_BYTES_PER_CELL + len(places) * STAMP_BYTES


def _pixels(report: ExposureReport) -> int:
    return sum(d.naxis1 * d.naxis2 for d in report.detectors)


def most_disk(config: FieldConfig, found: Sequence[ExposureReport], grid: StampGrid | None) -> dict[str, float]:
    """Bytes that each stage of a run writes where nothing has been made yet: at most, from headers alone and at once.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    found : sequence of ExposureReport
        All exposures.
    grid : `~kred_core.stamp.StampGrid` or None
        Of the stamps.
    """
    usable = [r for r in found if not r.refused]
    _, pixels = _mosaics(config, usable)
    disk = {
        "summarize": stamp_disk(usable, [], grid),
        "prepare": prepared_disk(config, usable, []),
        "match": count_images(config, usable) * sum(_copies(config, config.match.output, r) for r in usable),
        "coadd": pixels * (4 + COVERAGE_BYTES_PER_PIXEL),
    }
    return {stage: size for stage, size in disk.items() if stage in config.run.stages}


def rough_seconds(config: FieldConfig, found: Sequence[ExposureReport]) -> dict[str, float]:
    """CPU s that each stage of a run but the first takes where nothing has been made yet, from headers alone and at once."""
    usable = [r for r in found if not r.refused]
    n, n_images, mega = len(usable), count_images(config, usable), sum(map(_pixels, usable)) / 1e6
    n_mosaics, pixels = _mosaics(config, usable)
    per_mpix, per_unit, output = SECONDS_PER_MPIX, SECONDS_PER_UNIT, pixels / 1e6
    seconds = {
        "summarize": mega * per_mpix["summarize"] + n * per_unit["summarize"],
        "prepare": mega * per_mpix["prepare"] + n * per_unit["prepare"],
        "tiles": per_unit["tiles"],
        "match": sum(len(r.detectors) for r in usable) * MATCH_SECONDS_PER_DETECTOR + n_images * per_unit["figures"],
        "coadd": mega * per_mpix["coadd"] + output * COADD_SECONDS_PER_OUTPUT_MPIX + n_mosaics * per_unit["coadd"],
        "evaluate": output * per_mpix["evaluate"] + (n_mosaics + n_images) * per_unit["evaluate"],
    }
    return {name: seconds[name] for name in config.run.stages if name in seconds}


def _mosaics(config: FieldConfig, usable: Sequence[ExposureReport]) -> tuple[int, float]:
    """How many mosaics a run makes at most, and the pixels of all of them."""
    scale = config.coadd.pixel_scale or min((d.pixel_scale for r in usable for d in r.detectors), default=math.inf)
    sides = [tile.mosaic * 3600 / scale for tile in wanted_tiles(config)]
    of_each = count_images(config, usable) * len(config.coadd.backgrounds)
    return of_each * len(sides), of_each * sum(side**2 for side in sides)


def shortage(config: FieldConfig, disk: Mapping[str, float]) -> str:
    """Why products will not fit on their disks, in words, and what can be done; empty where they fit.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    disk : mapping
        Bytes by stage.
    """
    paths = FieldPaths.of(config)
    top = paths.directories
    places = {"summarize": top["DECam_BACK"], "prepare": top["DECam_PREP"], "match": top["DECam_PREP"], "coadd": top["DECam_SWARP"]}
    needed: dict[int, list[tuple[float, Path]]] = {}  # by disk: directories may be links to others
    for stage, size in disk.items():
        place = next(p for p in (places[stage], *places[stage].parents) if p.is_dir())
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
        f"the products do not fit: {'; '.join(lacking)} ({what}). Make room, or make less: copies of the detectors can be left "
        "out (--prepare.output none --match.output none), or some tiles be made at a time"
    )


def plan_tiles(fresh: bool) -> PlannedStage:
    """The stage tiles: one unit, the field."""
    return _planned("tiles", "field", 1, 0 if fresh else 1, 0)


def plan_match(usable: Sequence[ExposureReport], steps: int, to_do: int, copies_to_do: int, disk: float) -> PlannedStage:
    """The stage match: steps of images (overlaps, solution, quick look), of the field (tables) and of exposures (copies)."""
    seconds = sum(len(r.detectors) for r in usable) * MATCH_SECONDS_PER_DETECTOR if to_do else 0.0
    planned = _planned("match", "steps", steps, to_do + copies_to_do, 0)
    return replace(planned, seconds=planned.seconds + seconds, disk=disk)


def plan_figures(images: int, to_do: int) -> PlannedStage:
    """The figures of the stage match, which are drawn beside the stages that follow; its unit is an image."""
    return _planned("figures", "images", images, to_do, 0)


def count_images(config: FieldConfig, usable: Iterable[ExposureReport]) -> int:
    """Images that the exposures of a field feed."""
    table = survey.images(config.field, config.survey)
    return len({image for r in usable for image in table.of_exposure(r.filter, r.exptime)})


def copies_disk(config: FieldConfig, usable: Sequence[ExposureReport], plans: Iterable[CoaddPlan]) -> float:
    """Bytes of the matched copies of all detectors that feed a tile."""
    fed = Counter(root for root, _ in {(i.root, i.extname) for p in plans for i in p.inputs})
    parts = {r.root: fed[r.root] / len(r.detectors) for r in usable}
    return sum(parts[r.root] * _copies(config, config.match.output, r) for r in usable)


def plan_mosaics(name: str, plans: Sequence[CoaddPlan], done: Sequence[CoaddPlan]) -> PlannedStage:
    """A stage whose unit is a mosaic, or the two of one image of a tile with both backgrounds."""
    finished = {(p.tile, p.image) for p in done}
    to_do = [p for p in plans if (p.tile, p.image) not in finished]
    output = sum(p.grid.nx * p.grid.ny * len(p.backgrounds) for p in to_do)
    unit = "mosaics" if all(len(p.backgrounds) == 1 for p in plans) else "pairs"
    planned = _planned(name, unit, len(plans), len(to_do), output / 1e6)
    if name != "coadd":
        second = sum(len(p.backgrounds) - 1 for p in to_do)
        return replace(planned, seconds=planned.seconds + second * SECONDS_PER_UNIT[name])
    # a mosaic needs about as many input pixels as its own times its depth
    depth = sum(p.grid.nx * p.grid.ny * len({i.root for i in p.inputs}) for p in to_do)
    seconds = planned.seconds + (depth * SECONDS_PER_MPIX["coadd"] + output * COADD_SECONDS_PER_OUTPUT_MPIX) / 1e6
    return replace(planned, seconds=seconds, disk=output * (4 + COVERAGE_BYTES_PER_PIXEL))


def add_field_figures(evaluate: PlannedStage, figures: int, to_do: int) -> PlannedStage:
    """The stage evaluate with the figures of the whole field, one for each image and background."""
    seconds = evaluate.seconds + to_do * SECONDS_PER_UNIT["evaluate"]
    return replace(evaluate, unit="figures", units=evaluate.units + figures, to_do=evaluate.to_do + to_do, seconds=seconds)


def _planned(name: str, unit: str, units: int, to_do: int, mega_pixels: float) -> PlannedStage:
    per_mpix = SECONDS_PER_MPIX.get(name, 0.0) if name != "coadd" else 0.0
    return PlannedStage(name, unit, units, to_do, seconds=mega_pixels * per_mpix + to_do * SECONDS_PER_UNIT[name])


def disk_to_do(planned: Iterable[PlannedStage]) -> dict[str, float]:
    """Bytes that stages will write, by stage."""
    return {p.name: p.disk for p in planned if p.to_do and p.disk}


def describe(config: FieldConfig, found: Sequence[ExposureReport], planned: Sequence[PlannedStage]) -> str:
    """The plan as text: stages, counts, time, disk, and what stands in the way."""
    workers = config.run.workers or os.cpu_count() or 1
    lines = [f"{config.field}: what would be done with these options (nothing has been done)", ""]
    lines.append(f"{'stage':<10} {'units':>16} {'to do':>7} {'CPU time':>10} {'disk':>10}")
    for p in planned:
        time, disk = (human_time(p.seconds), human_size(p.disk)) if p.to_do else ("-", "-")
        unit = p.unit.removesuffix("s") if p.units == 1 else p.unit
        lines.append(f"{p.name:<10} {p.units:>6} {unit:<9} {p.to_do:>7} {time:>10} {disk if p.disk else '-':>10}")
    seconds, disk = sum(p.seconds for p in planned if p.to_do), disk_to_do(planned)
    needed = f"{human_size(sum(disk.values()))} of disk ({human_size(shutil.disk_usage(config.root).free)} are free)"
    lines += ["", f"about {human_time(seconds / workers)} with {counted(workers, 'task')} at once, {needed}"]
    if words := survey.images(config.field, config.survey).explain(r.filter for r in found if not r.refused):
        lines.append(words)
    if lacking := shortage(config, disk):
        lines.append(f"WARNING: {lacking}")
    for r in found:
        if r.refused:
            lines.append(f"refused {r.root}: {'; '.join(r.refused)}")
    return "\n".join(lines)
