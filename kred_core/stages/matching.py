"""The stage match: overlaps of a whole field, the backgrounds that follow, and what people look at first.

Its unit is an image, because the detectors of an image are matched with one
another and with nobody else. Each of its steps ends in files, so that another
solution does not measure again, and another figure does not solve again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from .. import binned, match, survey
from ..binned import BinnedGrid, BinnedMap
from ..config import FieldConfig
from ..errors import InputError
from ..match import Pairs
from ..match.image import Skies, explain, fixed_backgrounds, match_image
from ..products import FieldPaths, read_record, tables, write_record
from ..survey import tiling
from .mosaics import joined_detectors, other_fields

__all__ = [
    "MEASURED_FROM",
    "SOLVED_FROM",
    "MatchPlan",
    "PlannedMaps",
    "background_rows",
    "binned_sources",
    "explain_matching",
    "look_record",
    "measure_overlaps",
    "plan_matching",
    "read_skies",
    "remove_binned_maps",
    "solve_backgrounds",
    "solved_files",
    "tabulate_matching",
]

log = logging.getLogger(__name__)

CORNERS = tuple(f"COR{i}{axis}1" for i in (1, 2, 3, 4) for axis in ("RA", "DEC"))
SOLVED_FROM = ("Field", "Root", "EXTNAME", "NAXIS1", "NAXIS2", "SUB_BACK")  # what the solution needs beside the overlaps
MEASURED_FROM = ("Field", "Root", "EXTNAME", "NAXIS1", "NAXIS2", *CORNERS)  # what the measuring needs beside the binned maps


@dataclass(frozen=True, eq=False)
class MatchPlan:
    """One image to match.

    Attributes
    ----------
    image : str
    detectors : `~astropy.table.Table`
        All detectors of the field (and of the fields that are solved together with it) that feed the image, sorted by Root and
        EXTNAME: columns of `kred_core.products.tables.TILE`, and HistMode.
    """

    image: str
    detectors: Table

    def digest(self, columns: Iterable[str]) -> str:
        """Hexadecimal digest of some columns."""
        content = [[_plain(v) for v in self.detectors[name]] for name in columns]
        return hashlib.sha256(json.dumps([self.image, content]).encode()).hexdigest()[:16]


def _plain(value: Any) -> str | float:
    return str(value) if isinstance(value, str) else float(value)


def plan_matching(config: FieldConfig) -> list[MatchPlan]:
    """The images to match, each with all its detectors, from the tables: those of the whole field, whatever tiles are asked for."""
    images = survey.images(config.field, config.survey)
    detectors = tiling.stack([joined_detectors(config, FieldPaths.of(config)), *_others(config)])
    selection = tiling.select_all(detectors, config.field, images, config.tiling)
    log.info("%s: to be matched: %s", config.field, selection.explain())
    found = images.in_order(map(str, selection.detectors["Image"]))
    return [MatchPlan(name, selection.detectors[selection.detectors["Image"] == name]) for name in found]


def _others(config: FieldConfig) -> list[Table]:
    """Detectors of other fields: those that feed this field's tiles too, or that are to agree with it."""
    if config.tiling.all_fields or not config.match.joint:
        return other_fields(config)
    wider = config.model_copy(update={"tiling": config.tiling.model_copy(update={"all_fields": True})})
    found = []
    for table in other_fields(wider):
        has_map = [FieldPaths(config.root, str(row["Field"])).binned_file(str(row["Root"])).exists() for row in table]
        log.info("%s: %d of %d detectors of %s have binned maps", config.field, sum(has_map), len(table), table["Field"][0])
        found.append(table[has_map])
    return found


def binned_sources(config: FieldConfig, plan: MatchPlan) -> list[Path]:
    """What the binned maps of a plan are made from. They follow from it, so whoever has used them need not keep them."""
    exposures = dict.fromkeys((str(row["Field"]), str(row["Root"]), str(row["File"])) for row in plan.detectors)
    found: list[Path] = []
    for field, root, file in exposures:
        paths = FieldPaths(config.root, field)
        exposure = paths.exposure(file)
        found += [exposure, *filter(None, [paths.mask_of(exposure)]), paths.record("summarize", root)]
    return found


class PlannedMaps:
    """The binned maps of an image by number of the detector; remembers what they were made with."""

    def __init__(self, config: FieldConfig, plan: MatchPlan):
        n = len(plan.detectors)
        self.names = [str(name) for name in plan.detectors["EXTNAME"]]
        self.files = [FieldPaths(config.root, str(row["Field"])).binned_file(str(row["Root"])) for row in plan.detectors]
        own = FieldPaths.of(config).binned
        found = {path: binned.boxes(path) if path.parent == own or path.exists() else {} for path in dict.fromkeys(self.files)}
        boxes = [found[path].get(name) for path, name in zip(self.files, self.names, strict=True)]
        self.has_map = np.array([box is not None for box in boxes], dtype=bool)
        self.boxes = np.array([box or (0, 0, 0, 0) for box in boxes], dtype=np.int64).reshape(n, 4)
        self.grid = _one_grid(path for path, boxes in found.items() if boxes)
        # What is known without the binned maps, for detectors that have none.
        self.level = np.asarray(plan.detectors["HistMode"], dtype=np.float64) * np.asarray(plan.detectors["XFACTOR"])
        self.area = np.asarray(plan.detectors["PixScale"], dtype=np.float64) ** 2

    def load(self, i: int) -> BinnedMap:
        return binned.read(self.files[i], self.names[i])


def _one_grid(files: Iterable[Path]) -> BinnedGrid:
    """The grid that all binned maps share; they were made with other options where they do not."""
    grids = {path: binned.grid_of(path) for path in files}
    if not grids:
        raise InputError("there is no binned map of any detector; run the stage 'summarize' again (--from summarize)")
    grid = next(iter(grids.values()))
    odd = next((path for path, other in grids.items() if other != grid), None)
    if odd is not None:
        raise InputError(
            f"{odd} is on the grid {grids[odd]}, other binned maps on {grid}; fields that are matched together need the same "
            "options of the section stamps: run the stage 'summarize' of each of them again with these (--from summarize)"
        )
    return grid


def measure_overlaps(config: FieldConfig, plan: MatchPlan) -> list[Path]:
    """Measure how the overlapping detectors of an image differ.

    Returns
    -------
    list of `~pathlib.Path`
        The measured pairs, and the record of the binned maps' own levels.
    """
    paths = FieldPaths.of(config)
    maps = PlannedMaps(config, plan)
    level, area, area_terms = maps.level, maps.area, np.zeros((len(plan.detectors), 5))

    def load(i: int) -> BinnedMap:
        loaded = maps.load(i)
        level[i], area[i], area_terms[i] = loaded.level, loaded.area, loaded.area_terms
        return loaded

    used = np.flatnonzero(maps.has_map)
    corners = np.stack([plan.detectors[name] for name in CORNERS], axis=-1).astype(np.float64).reshape(-1, 4, 2)
    exposures = np.unique(np.array([str(r) for r in plan.detectors["Root"]]), return_inverse=True)[1]
    n1, n2 = (np.asarray(plan.detectors[name], dtype=np.int64)[used] for name in ("NAXIS1", "NAXIS2"))
    first, second = match.find_pairs(corners[used], n1, n2, exposures[used])
    centres = np.stack([plan.detectors["CENRA1"], plan.detectors["CENDEC1"]], axis=-1).astype(np.float64)
    pairs = match.measure(used[first], used[second], load, maps.boxes, centres, config.match)
    for i in np.setdiff1d(used, np.concatenate([first, second]) if first.size else []):
        load(i)  # detectors alone: their level counts too
    pairs.write(paths.pairs(plan.image))
    record = paths.record("match", f"{plan.image}.skies")
    skies = Skies(level, area, maps.has_map, maps.grid.cell, area_terms)
    write_record(record, {name: np.asarray(value).tolist() for name, value in vars(skies).items()})
    return [paths.pairs(plan.image), record]


def read_skies(paths: FieldPaths, image: str) -> Skies:
    record = read_record(paths.record("match", f"{image}.skies"))
    if record is None:
        raise InputError(f"the overlaps of {image} have not been measured; run the stage 'match' again (--from match)")
    values: dict[str, Any] = {name: value if name == "cell" else np.array(value) for name, value in record.items()}
    return Skies(**values)


def solved_files(paths: FieldPaths, image: str) -> list[Path]:
    """What the solution of one image wrote, of which the tables of the field are put together: overlaps, backgrounds, numbers."""
    table = [paths.memory / "match" / f"{image}.{kind}.ecsv" for kind in ("overlaps", "backgrounds")]
    return [*table, paths.record("match", f"{image}.numbers")]


def solve_backgrounds(config: FieldConfig, plan: MatchPlan) -> list[Path]:
    """Find the backgrounds of an image from its measured match.

    Returns
    -------
    list of `~pathlib.Path`
        Tables of backgrounds and of overlaps of this image, and the record of its numbers.
    """
    paths = FieldPaths.of(config)
    pairs, skies = Pairs.read(paths.pairs(plan.image)), read_skies(paths, plan.image)
    fixed = fixed_backgrounds(config.match.fixed)
    matched = match_image(plan.image, plan.detectors, skies, pairs, fixed, config.match)
    pair_table, background_table, record = solved_files(paths, plan.image)
    tables.write(matched.overlaps, pair_table, f"Overlaps of {config.field}")
    tables.write(matched.backgrounds, background_table, f"Backgrounds of {config.field}")
    write_record(record, matched.numbers)
    return [pair_table, background_table, record]


def tabulate_matching(config: FieldConfig, images: list[str]) -> list[Path]:
    """Put the tables of the images together: overlaps, backgrounds, and the numbers of the matching.

    Returns
    -------
    list of `~pathlib.Path`
        The three tables of the field.

    Raises
    ------
    InputError
        There is nothing to put into them: no image was matched.
    """
    paths = FieldPaths.of(config)
    if not images:
        raise InputError(f"field {config.field}: none of its images could be matched")
    solved = [solved_files(paths, image) for image in images]
    tables.concatenate([overlap for overlap, _, _ in solved], paths.overlap_table)
    tables.concatenate([background for _, background, _ in solved], paths.background_table)
    rows = [_numbers(paths, image) for image in images]
    tables.write(tables.make(rows, tables.MATCHING), paths.matching_table, f"Matching of {config.field}")
    return [paths.overlap_table, paths.background_table, paths.matching_table]


def look_record(paths: FieldPaths, image: str) -> Path:
    """The jumps of blocks and the removed seams of the quick look of one image."""
    return paths.record("match", f"{image}.look")


def _numbers(paths: FieldPaths, image: str) -> dict:
    solved, look = read_record(solved_files(paths, image)[-1]), read_record(look_record(paths, image))
    if solved is None:
        raise InputError(f"the numbers of {image} cannot be read; run the stage 'match' again (--from match)")
    row = {"Jump_bef": None, "Jump_aft": None, "Seam_off": None} | (look or {}) | solved
    return {name: math.nan if value is None else value for name, value in row.items()}


def explain_matching(config: FieldConfig) -> list[str]:
    """How much better each image got, a line for each."""
    return [explain(row) for row in tables.read(FieldPaths.of(config).matching_table, tables.MATCHING, "match")]


def background_rows(config: FieldConfig) -> list[dict]:
    """The matched backgrounds, a row for each exposure in each image, with what stands out among its detectors.

    Returns
    -------
    list of dict
        Image, Root; N_det; SUB_BACK; Lowest, Median and Highest of its detectors' b - SUB_BACK, and their median b_err
        (all in counts28 per native pixel); N_reject, the overlaps that contradict the solution; Remarks.
    """
    table = tables.read(FieldPaths.of(config).background_table, tables.BACKGROUNDS, "match")
    found: dict[tuple[str, str], list[int]] = {}
    for i, exposure in enumerate(zip(table["Image"], table["Root"], strict=True)):
        found.setdefault(exposure, []).append(i)
    return [{"Image": image, "Root": root} | _of_exposure(table[rows]) for (image, root), rows in found.items()]


def _of_exposure(detectors: Table) -> dict:
    above = np.asarray(detectors["b"] - detectors["SUB_BACK"])
    errors = np.asarray(detectors["b_err"])
    known = errors[np.isfinite(errors)]
    remarks: dict[str, list[str]] = {}
    for name, remark in zip(detectors["EXTNAME"], detectors["Remark"], strict=True):
        if remark:
            remarks.setdefault(str(remark), []).append(str(name))
    numbers = {
        "SUB_BACK": detectors["SUB_BACK"][0],
        "Lowest": above.min(),
        "Median": np.median(above),
        "Highest": above.max(),
        "b_err": np.median(known) if len(known) else math.nan,
    }
    return {
        "N_det": len(detectors),
        **{name: float(f"{value:.4g}") for name, value in numbers.items()},
        "N_reject": int(np.sum(detectors["n_rejected"])),
        "Remarks": "; ".join(f"{remark}: {', '.join(names)}" for remark, names in remarks.items()),
    }


def remove_binned_maps(config: FieldConfig) -> int:
    """Remove the binned maps of the field; returns how many files."""
    files = sorted(FieldPaths.of(config).binned.glob("*.stamps.fits"))
    for path in files:
        path.unlink()
    return len(files)
