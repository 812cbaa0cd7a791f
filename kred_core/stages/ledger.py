"""After the stages: what became of each detector of the input, as the files at both ends tell it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from .. import survey
from ..config import STAGES, FieldConfig
from ..errors import InputError
from ..exposures import check, ledger
from ..exposures.check import ExposureReport
from ..exposures.ledger import Entry, Key
from ..products import FieldPaths, tables
from ..products.roles import is_fits
from ..sky import SkyPolygon
from ..survey import tiling
from ..words import some
from .check import judged
from .coadd import STAGE as COADD
from .coadd import mosaic_names
from .tiles import STAGE as TILES
from .tiles import joined_detectors, selection_options, tile_inputs, tile_tables, wanted_tiles
from .work import Manifest, Step, Work

Mosaic = tuple[str, str]  # tile, image


def _has_chosen(config: FieldConfig) -> bool:
    """Whether this run knows which detectors it wanted: it includes the stage tiles or one behind it."""
    return not set(config.run.stages).isdisjoint(STAGES[STAGES.index(TILES.name) :])


def _has_made(config: FieldConfig) -> bool:
    return COADD.name in config.run.stages and bool(config.coadd.backgrounds)


def _account(config: FieldConfig) -> Manifest:
    """Tell what became of each detector of the input, in the table of the input, and find what does not add up."""
    paths = FieldPaths.of(config)
    reports = judged(config)
    chosen, left_out, made, elsewhere, faults = None, None, None, "", list(_changed(paths, reports))
    if _has_chosen(config):
        chosen = _chosen(config)
        detectors = joined_detectors(config, paths)
        left_out = _left_out(config, detectors) | _unmeasured(paths, reports)
        asked = f"the tiles {', '.join(config.tiles)}" if config.tiles else "the field's tiles"
        elsewhere = f"on none of {asked}"
        faults += _overlooked(config, detectors, chosen, left_out)
    if _has_made(config):
        made = _made(config, reports)
    beside = [
        Entry(paths.root_of(Path(shown)), shown, "", "left out", f"{reason}; only InstCal images and their masks are taken")
        for name, reason in paths.left_out()
        if is_fits(name) and (shown := paths.shown(Path(name)))
    ]
    found = ledger.account(map(paths.shown, paths.exposures()), reports, chosen, made, left_out, elsewhere, beside)
    rows = tables.make(ledger.input_rows(found), tables.INPUT)
    tables.write(rows, paths.input_table, f"What became of the input of {config.field}")
    return Manifest.of(
        [paths.input_table],
        sums=found.explain(),
        faults=[*found.faults, *faults],
        n_refused=found.n_refused,
        n_used=found.n_used,
        n_detectors=found.n_detectors,
    )


def _changed(paths: FieldPaths, reports: Iterable[ExposureReport]) -> Iterator[str]:
    """Exposures that are not any more what was judged: what follows may be made from one version or from the other."""
    changed = [r.file for r in reports if paths.exposure(r.file).exists() and check.files_of(paths.exposure(r.file)) != r.read]
    if changed:
        yield f"changed since the stage check: {some(changed)}; run the same command again (with that stage) when they are whole"


def _chosen(config: FieldConfig) -> dict[Key, list[Mosaic]]:
    """For which mosaics each detector of this field was chosen; those of other fields are in their accounts."""
    chosen: dict[Key, list[Mosaic]] = {}
    for tile, table in tile_tables(config):
        for field, root, extname, image in zip(*(table[c].tolist() for c in ("Field", "Root", "EXTNAME", "Image")), strict=True):
            if field == config.field:
                chosen.setdefault((root, extname), []).append((tile.name, image))
    return chosen


def _left_out(config: FieldConfig, detectors: Table) -> dict[Key, str]:
    """Why detectors were left out, whatever the tile."""
    selection = tiling.select_all(detectors, config.field, survey.images(config.field, config.survey), config.tiling)
    return {(root, extname): reason for (_, root, extname), reason in selection.left_out.items()}


def _unmeasured(paths: FieldPaths, reports: Iterable[ExposureReport]) -> dict[Key, str]:
    """Detectors of exposures that the stage summarize could not measure: no later stage knows of them."""
    lacking = [r for r in reports if not r.refused and not paths.measurements(r.root).is_file()]
    return {(r.root, extname): "its exposure has not been summarized" for r in lacking for extname in r.extnames}


def _overlooked(
    config: FieldConfig, detectors: Table, chosen: Mapping[Key, list[Mosaic]], left_out: Mapping[Key, str]
) -> Iterator[str]:
    """Detectors whose centre lies on a tile, by another way than that of `tiling`, and that were not chosen for it."""
    keys = list(zip(map(str, detectors["Root"]), map(str, detectors["EXTNAME"]), strict=True))
    for tile in wanted_tiles(config):
        square = SkyPolygon.of_square(tile.ra, tile.dec, tile.size)
        on_tile = square.contains(np.asarray(detectors["CENRA1"]), np.asarray(detectors["CENDEC1"]))
        for i in np.flatnonzero(on_tile):
            if keys[i] not in left_out and all(name != tile.name for name, _ in chosen.get(keys[i], ())):
                yield f"{'_'.join(keys[i])} lies on tile {tile.name} and was not chosen for it"


def _mosaics(config: FieldConfig) -> dict[Path, Mosaic]:
    """The mosaics that the present tables call for."""
    paths, kinds = FieldPaths.of(config), config.coadd.backgrounds
    return {paths.mosaic(tile, image, kind): (tile, image) for tile, image in mosaic_names(config) for kind in kinds}


def _made(config: FieldConfig, reports: Iterable[ExposureReport]) -> dict[Mosaic, list[dict[Key, int]]]:
    """Of the mosaics that exist, how many pixels each detector of this field contributed to each file."""
    roots = {report.root for report in reports}
    files: dict[Mosaic, list[Path]] = {}
    for path, mosaic in _mosaics(config).items():
        files.setdefault(mosaic, []).append(path)
    return {
        mosaic: [{key: n for key, n in _inputs(path).items() if key[0] in roots} for path in found]
        for mosaic, found in files.items()
        if all(path.is_file() for path in found)
    }


def _inputs(mosaic: Path) -> dict[Key, int]:
    """The pixels that each input of a mosaic contributed."""
    try:
        table = fits.getdata(mosaic, "INPUTS")
        return {(str(r), str(e)): int(n) for r, e, n in zip(table["ROOT"], table["EXTNAME"], table["PIXELS"], strict=True)}
    except (OSError, KeyError, TypeError, ValueError) as e:
        raise InputError(f"{mosaic}: its table INPUTS cannot be read ({e}); delete it and run the stage 'coadd' again") from e


def _work(config: FieldConfig) -> Work:
    paths = FieldPaths.of(config)
    exposures = paths.exposures()
    files = [*exposures, *(mask for path in exposures if (mask := paths.mask_of(path))), paths.quality_table]
    files += [paths.verdict(path.name) for path in exposures]
    files += [paths.exposure(name) for name, _ in paths.left_out() if is_fits(name)]
    files += [paths.measurements(paths.root_of(path)) for path in exposures]
    if _has_chosen(config):
        files += [*tile_inputs(config), *(paths.tile_table(tile.name) for tile in wanted_tiles(config))]
    if _has_made(config):
        files += _mosaics(config)
    facts = {"tiles": config.tiles, "stages": config.run.stages, "size": config.coadd.size, "mosaics": config.coadd.mosaics}
    return Work(config.field, files, selection_options(config), facts)


ACCOUNT = Step("account", 2, _work, _account)
