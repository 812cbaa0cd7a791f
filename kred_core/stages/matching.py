"""Matching one image of a field: its overlaps, the backgrounds that follow, and what people look at first.

The unit is an image, because the detectors of an image are matched with one another and with nobody else. Each of these
functions ends in files, so that another solution does not measure again, and another figure does not solve again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from .. import binned, figures, match, survey
from ..background import Background
from ..binned import BinnedGrid, BinnedMap, quicklook
from ..config import FieldConfig
from ..errors import InputError
from ..match import Pairs
from ..match.image import Skies, fixed_backgrounds, match_image
from ..products import FieldPaths, read_record, tables, write_record
from ..survey import tiling
from .tiles import joined_detectors, other_fields, wanted_tiles
from .work import Manifest

log = logging.getLogger(__name__)

CORNERS = tuple(f"COR{i}{axis}1" for i in (1, 2, 3, 4) for axis in ("RA", "DEC"))
SOLVED_FROM = ("Field", "Root", "EXTNAME", "NAXIS1", "NAXIS2", "SUB_BACK")  # what the solution needs beside the overlaps
MEASURED_FROM = ("Field", "Root", "EXTNAME", "NAXIS1", "NAXIS2", *CORNERS)  # what the measuring needs beside the binned maps
WORST = 10  # pairs that are shown
JUMPS = ("Jump_bef", "Jump_aft", "Seam_off")  # columns of the table of the matching
CUTOUT_CELLS = 400  # larger overlaps are shown in part


@dataclass(frozen=True, eq=False)
class MatchPlan:
    """One image to match, with all detectors of the field, and of fields that are solved together with it, that feed it."""

    image: str
    detectors: Table  # sorted by Root and EXTNAME: columns of `kred_core.products.tables.TILE`, and HistMode

    def digest(self, columns: Iterable[str]) -> str:
        """Hexadecimal digest of some columns."""
        content = [[str(v) if isinstance(v, str) else float(v) for v in self.detectors[name]] for name in columns]
        return hashlib.sha256(json.dumps([self.image, content]).encode()).hexdigest()[:16]


def plan_matching(config: FieldConfig) -> list[MatchPlan]:
    """Return the images to match, each with all detectors of the whole field, whatever tiles are asked for, from the tables."""
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
    """Return what the binned maps of a plan are made from; they follow from it, so whoever has used them need not keep them."""
    exposures = dict.fromkeys((str(row["Field"]), str(row["Root"]), str(row["File"])) for row in plan.detectors)
    found: list[Path] = []
    for field, root, file in exposures:
        paths = FieldPaths(config.root, field)
        exposure = paths.exposure(file)
        found += [exposure, *filter(None, [paths.mask_of(exposure)]), paths.measurements(root)]
    return found


class _Maps:
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


def measure_overlaps(config: FieldConfig, plan: MatchPlan) -> Manifest:
    """Measure how the overlapping detectors of an image differ: the pairs, and the record of the binned maps' own levels."""
    paths = FieldPaths.of(config)
    maps = _Maps(config, plan)
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
    return Manifest.of([paths.pairs(plan.image), record])


def read_skies(paths: FieldPaths, image: str) -> Skies:
    """Return the binned maps' own levels, as `measure_overlaps` kept them."""
    record = read_record(paths.record("match", f"{image}.skies"))
    if record is None:
        raise InputError(f"the overlaps of {image} have not been measured; run the stage 'match' again (--from match)")
    values: dict[str, Any] = {name: value if name == "cell" else np.array(value) for name, value in record.items()}
    return Skies(**values)


def solved_files(paths: FieldPaths, image: str) -> list[Path]:
    """Return the files of the solution of one image: tables of overlaps and of backgrounds, and the record of its numbers."""
    table = [paths.state / "match" / f"{image}.{kind}.ecsv" for kind in ("overlaps", "backgrounds")]
    return [*table, paths.record("match", f"{image}.numbers")]


def solve_backgrounds(config: FieldConfig, plan: MatchPlan) -> Manifest:
    """Find the backgrounds of an image from its measured overlaps, and keep them: see `solved_files`."""
    paths = FieldPaths.of(config)
    pairs, skies = Pairs.read(paths.pairs(plan.image)), read_skies(paths, plan.image)
    fixed = fixed_backgrounds(config.match.fixed)
    matched = match_image(plan.image, plan.detectors, skies, pairs, fixed, config.match)
    pair_table, background_table, record = solved_files(paths, plan.image)
    tables.write(matched.overlaps, pair_table, f"Overlaps of {config.field}")
    tables.write(matched.backgrounds, background_table, f"Backgrounds of {config.field}")
    write_record(record, matched.numbers)
    return Manifest.of([pair_table, background_table, record])


def tabulate_matching(config: FieldConfig, images: list[str]) -> Manifest:
    """Put the tables of the images together: overlaps, backgrounds, and the numbers of the matching of the field."""
    paths = FieldPaths.of(config)
    if not images:
        raise InputError(f"field {config.field}: none of its images could be matched")
    solved = [solved_files(paths, image) for image in images]
    tables.concatenate([overlap for overlap, _, _ in solved], paths.overlap_table)
    tables.concatenate([background for _, background, _ in solved], paths.background_table)
    rows = [_numbers(paths, image) for image in images]
    tables.write(tables.make(rows, tables.MATCHING), paths.matching_table, f"Matching of {config.field}")
    return Manifest.of([paths.overlap_table, paths.background_table, paths.matching_table])


def quick_look_record(paths: FieldPaths, image: str) -> Path:
    """Return the record of the jumps of blocks and of the removed seams in the quick look of one image."""
    return paths.record("match", f"{image}.look")


def _numbers(paths: FieldPaths, image: str) -> dict:
    solved, look = read_record(solved_files(paths, image)[-1]), read_record(quick_look_record(paths, image))
    if solved is None:
        raise InputError(f"the numbers of {image} cannot be read; run the stage 'match' again (--from match)")
    row = {"Jump_bef": None, "Jump_aft": None, "Seam_off": None} | (look or {}) | solved
    return {name: math.nan if value is None else value for name, value in row.items()}


def make_quick_looks(config: FieldConfig, plan: MatchPlan, tiles: list[str]) -> Manifest:
    """Make mosaics of the binned maps of one image, before and after: of the whole field and of tiles."""
    paths = FieldPaths.of(config)
    skies = read_skies(paths, plan.image)
    maps = _Maps(config, plan)
    used = np.flatnonzero(maps.has_map)
    look = quicklook.quick_look(
        maps.boxes[used],
        lambda i: maps.load(int(used[i])),
        {name: values[used] for name, values in _subtracted(plan, skies, _backgrounds(paths, plan)).items()},
        float(np.median(skies.area[used])),
    )
    record = quick_look_record(paths, plan.image)
    write_record(record, dict(zip(JUMPS, quicklook.jumps(look), strict=True)))
    made = [record]
    parts = {"": look} | {t.name: quicklook.cut(look, maps.grid, t) for t in wanted_tiles(config) if t.name in tiles}
    digest = plan.digest(SOLVED_FROM)
    for name, part in parts.items():
        made.append(paths.quick_look(plan.image, name))
        quicklook.write(made[-1], part, maps.grid, config.field, plan.image, name, digest)
    return Manifest.of(made)


def draw_matching(config: FieldConfig, plan: MatchPlan, tiles: list[str]) -> Manifest:
    """Draw one image: its overlaps, its backgrounds, the worst pairs, and the quick looks before and after."""
    paths = FieldPaths.of(config)
    pairs, skies = Pairs.read(paths.pairs(plan.image)), read_skies(paths, plan.image)
    backgrounds = _backgrounds(paths, plan)
    pair_table = tables.read(solved_files(paths, plan.image)[0], tables.OVERLAPS, "match")
    shown = survey.images(config.field, config.survey).title(plan.image)
    title = f"{config.field} {shown}"
    made = [paths.matching_figure(plan.image, kind) for kind in ("overlaps", "backgrounds", "pairs")]
    exptimes = {f"{row['Root']}_{row['EXTNAME']}": float(row["EXPTIME"]) for row in plan.detectors}
    figures.overlap_figure(pair_table, exptimes, title, made[0])
    figures.background_figure(backgrounds, plan.detectors, title, made[1])
    after = _subtracted(plan, skies, backgrounds)["after"]
    figures.pair_figure(_worst(pairs, pair_table, _Maps(config, plan), after), title, made[2])
    for name in ["", *compared_tiles(config, tiles)]:
        grid, look = quicklook.read(paths.quick_look(plan.image, name))
        versions = [quicklook.reduced(look, grid, version, config.evaluate.figure_pixels) for version in ("before", "after")]
        outlines = () if name else [(tile.name, tile.corners) for tile in wanted_tiles(config) if tile.name in tiles]
        made.append(paths.comparison_figure(plan.image, name))
        known = {} if name else read_record(quick_look_record(paths, plan.image)) or {}  # the field's, as in the table
        jumps = tuple(known[key] for key in JUMPS) if known.keys() >= set(JUMPS) else quicklook.jumps(look)
        subject = " ".join(filter(None, (config.field, name, shown)))
        figures.comparison_figure(versions[0], versions[1], jumps, subject, made[-1], outlines)
    return Manifest.of_figures(made)


def compared_tiles(config: FieldConfig, tiles: list[str]) -> list[str]:
    """Return the tiles whose quick looks are drawn: none where evaluate draws them better, from mosaics of both kinds."""
    return [] if config.coadd.mosaics == "both" else tiles


def _backgrounds(paths: FieldPaths, plan: MatchPlan) -> Table:
    return tables.read(solved_files(paths, plan.image)[1], tables.BACKGROUNDS, "match")


def _subtracted(plan: MatchPlan, skies: Skies, backgrounds: Table) -> dict[str, Background]:
    """What is to be subtracted from the maps, which are less their own skies, in counts28 per square arcsec and half sides."""
    sides = (np.asarray(plan.detectors[name], dtype=np.float64) for name in ("NAXIS1", "NAXIS2"))
    after = Background.from_table(backgrounds).per_half_side(*sides)
    before = Background(np.asarray(plan.detectors["SUB_BACK"], dtype=np.float64))
    return {name: replace(b, b=b.b - skies.level) / skies.area for name, b in (("before", before), ("after", after))}


def _worst(pairs: Pairs, table: Table, maps: _Maps, subtract: Background) -> list[figures.PairCutout]:
    """The pairs that agree least, for what is known of them, the worst first, as they look in their overlap."""
    order = np.lexsort((pairs.second, pairs.first, -np.abs(np.asarray(table["After"])) / np.asarray(table["e_Delta"])))
    of_detectors = {int(n): maps.load(int(n)) for n in np.unique([pairs.first[order[:WORST]], pairs.second[order[:WORST]]])}
    cells = {n: match.good_cells(s) for n, s in of_detectors.items()}
    cutouts = []
    for k in order[:WORST]:
        i, j = int(pairs.first[k]), int(pairs.second[k])
        one, other = of_detectors[i], of_detectors[j]
        x0, y0 = max(one.x0, other.x0), max(one.y0, other.y0)
        x1 = min(one.x0 + one.mean.shape[1], other.x0 + other.mean.shape[1])
        y1 = min(one.y0 + one.mean.shape[0], other.y0 + other.mean.shape[0])
        x1, y1 = min(x1, x0 + CUTOUT_CELLS), min(y1, y0 + CUTOUT_CELLS)
        images, good = [], np.ones((y1 - y0, x1 - x0), dtype=bool)
        for s, n in ((one, i), (other, j)):
            part = slice(y0 - s.y0, y1 - s.y0), slice(x0 - s.x0, x1 - s.x0)
            images.append(((s.mean[part] - _model(s, subtract[n])[part]) * s.area).astype(np.float32))
            good &= cells[n][part]
        row = table[int(k)]
        names, values = (str(row["File1"]), str(row["File2"])), (float(row["After"]), float(row["e_Delta"]))
        cutouts.append(figures.PairCutout(*names, images[0], images[1], good, *values, bool(row["Rejected"])))
    return cutouts


def _model(s: BinnedMap, background: Background) -> np.ndarray:
    """A background in each cell of a binned map."""
    y, x = np.indices(s.mean.shape)
    u, v = np.tensordot(s.to_detector, np.stack([x + s.x0, y + s.y0, np.ones_like(x)]), axes=1)
    return background.at(u, v)
