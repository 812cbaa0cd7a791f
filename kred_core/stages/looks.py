"""What people look at first after matching: mosaics of the binned maps, before and after, and figures of how it went."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table

from .. import figures, match, survey
from ..background import Background
from ..binned import BinnedMap, quicklook
from ..config import FieldConfig
from ..match import Pairs
from ..match.image import Skies
from ..products import FieldPaths, read_record, tables, write_record
from ..survey import Tile
from .matching import SOLVED_FROM, MatchPlan, PlannedMaps, look_record, read_skies, solved_files
from .mosaics import wanted_tiles

__all__ = ["compared_tiles", "draw_matching", "make_quick_looks"]

WORST = 10  # pairs that are shown
JUMPS = ("Jump_bef", "Jump_aft", "Seam_off")  # columns of the table of the matching
CUTOUT_CELLS = 400  # larger overlaps are shown in part


def make_quick_looks(config: FieldConfig, plan: MatchPlan, tiles: list[str]) -> list[Path]:
    """Quick looks of one image, before and after: of the whole field and of tiles.

    Returns
    -------
    list of `~pathlib.Path`
        Mosaics of the binned maps, and the record of the jumps of their blocks.
    """
    paths = FieldPaths.of(config)
    skies = read_skies(paths, plan.image)
    maps = PlannedMaps(config, plan)
    used = np.flatnonzero(maps.has_map)
    look = quicklook.quick_look(
        maps.boxes[used],
        lambda i: maps.load(int(used[i])),
        {name: values[used] for name, values in _subtracted(plan, skies, _backgrounds(paths, plan)).items()},
        float(np.median(skies.area[used])),
    )
    record = look_record(paths, plan.image)
    write_record(record, dict(zip(JUMPS, quicklook.jumps(look), strict=True)))
    made = [record]
    parts = {"": look} | {t.name: quicklook.cut(look, maps.grid, t) for t in wanted_tiles(config) if t.name in tiles}
    digest = plan.digest(SOLVED_FROM)
    for name, part in parts.items():
        made.append(paths.quick_look(plan.image, name))
        quicklook.write(made[-1], part, maps.grid, config.field, plan.image, name, digest)
    return made


def draw_matching(config: FieldConfig, plan: MatchPlan, tiles: list[str]) -> list[Path]:
    """Figures of one image: its overlaps, its backgrounds, the worst pairs, and the quick looks before and after.

    Returns
    -------
    list of `~pathlib.Path`
    """
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
    figures.pair_figure(_worst(pairs, pair_table, PlannedMaps(config, plan), after), title, made[2])
    for name in ["", *compared_tiles(config, tiles)]:
        grid, look = quicklook.read(paths.quick_look(plan.image, name))
        versions = [quicklook.reduced(look, grid, version, config.evaluate.figure_pixels) for version in ("before", "after")]
        outlines = () if name else _outlines(wanted_tiles(config), tiles)
        made.append(paths.comparison_figure(plan.image, name))
        known = {} if name else read_record(look_record(paths, plan.image)) or {}  # the field's, as in the table
        jumps = tuple(known[key] for key in JUMPS) if known.keys() >= set(JUMPS) else quicklook.jumps(look)
        figures.comparison_figure(
            versions[0], versions[1], jumps, " ".join(filter(None, (config.field, name, shown))), made[-1], outlines
        )
    return made


def compared_tiles(config: FieldConfig, tiles: list[str]) -> list[str]:
    """The tiles whose quick looks are drawn: none where evaluate draws them better, from mosaics of both kinds."""
    return [] if config.coadd.mosaics == "both" else tiles


def _backgrounds(paths: FieldPaths, plan: MatchPlan) -> Table:
    return tables.read(solved_files(paths, plan.image)[1], tables.BACKGROUNDS, "match")


def _outlines(wanted: Iterable[Tile], names: list[str]) -> list[tuple[str, np.ndarray]]:
    """Name and corners of the tiles."""
    return [(tile.name, tile.corners) for tile in wanted if tile.name in names]


def _subtracted(plan: MatchPlan, skies: Skies, backgrounds: Table) -> dict[str, Background]:
    """What is to be subtracted from the maps, which are less their own skies, in counts28 per square arcsec and half sides."""
    sides = (np.asarray(plan.detectors[name], dtype=np.float64) for name in ("NAXIS1", "NAXIS2"))
    after = Background.from_table(backgrounds).per_half_side(*sides)
    before = Background(np.asarray(plan.detectors["SUB_BACK"], dtype=np.float64))
    return {name: replace(b, b=b.b - skies.level) / skies.area for name, b in (("before", before), ("after", after))}


def _worst(pairs: Pairs, table: Table, maps: PlannedMaps, subtract: Background) -> list[figures.PairCutout]:
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
        cutouts.append(
            figures.PairCutout(
                first=str(row["File1"]),
                second=str(row["File2"]),
                image1=images[0],
                image2=images[1],
                good=good,
                after=float(row["After"]),
                error=float(row["e_Delta"]),
                rejected=bool(row["Rejected"]),
            )
        )
    return cutouts


def _model(s: BinnedMap, background: Background) -> np.ndarray:
    """A background in each cell of a binned map."""
    y, x = np.indices(s.mean.shape)
    u, v = np.tensordot(s.to_detector, np.stack([x + s.x0, y + s.y0, np.ones_like(x)]), axes=1)
    return background.at(u, v)
