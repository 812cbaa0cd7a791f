"""``python -m kred_core.starter FIELD``: write tables of a field for a person to fill in, from the headers of its exposures."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from . import sky, survey
from .config import NAME, CheckConfig, FieldConfig, settings
from .errors import ConfigError, ExposureError, InputError, KredError, explain
from .exposures import check
from .exposures.check import ExposureReport
from .products import FieldPaths, write_text
from .survey import GRID_SIZE, GRID_STEP, Tile
from .words import counted, program

DESCRIPTION = """\
Write tables of a field for filling in, from the headers in DECam_MEF/<field>/mef: which exposures make which image
(<field>_images.tab), zero points (<field>_zero_points.tab), and for a field that is not the survey's its tiles
(<field>_tiles.tab); and say the command for a run with them."""

MARGIN = 20 / 3600  # deg that a tile reaches beyond the detectors
LARGEST_TURN = 0.2  # rad; tiles of the survey's grid, which overlap by a fifth, have no gaps up to 14 deg
WIDEST = 10.0  # deg; exposures that lie farther apart are not one field


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit status: 0, 1 for what cannot be read or written, 2 for wrong options."""
    parser = argparse.ArgumentParser(prog=program("python -m kred_core.starter"), description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("field", metavar="FIELD", help="field, for example LMC_c42")
    parser.add_argument("--root", metavar="DIR", type=Path, default=Path("."), help="data root (default: here)")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where the tables go (default: the data root)")
    parser.add_argument("--force", action="store_true", help="write tables again that are there already")
    chosen = parser.parse_args(arguments)
    try:
        config = settings.field_config([chosen.field, "--root", str(chosen.root)])
        _start(config, chosen.output or chosen.root, chosen.force)
    except (KredError, OSError) as e:
        print(f"error: {explain(e)}", file=sys.stderr)
        return 2 if isinstance(e, ConfigError) else 1
    return 0


def _start(config: FieldConfig, directory: Path, force: bool) -> None:
    reports = _readable(config)
    tables = {
        "--survey.image-table": (f"{config.field}_images.tab", _image_table(config, reports)),
        "--check.zero-points": (f"{config.field}_zero_points.tab", _zero_point_table(config, reports)),
    }
    try:
        survey.tiles(config.field, config.survey)
    except InputError:  # neither the survey nor the options say where they are
        tables["--survey.tile-table"] = (f"{config.field}_tiles.tab", _tile_table(config.field, reports))
    directory.mkdir(parents=True, exist_ok=True)
    command = [*("kred reduce" if program("") else "python flows/field.py").split(), config.field, "--root", str(config.root)]
    for option, (name, text) in tables.items():
        path = directory / name
        command += [option, str(path)]
        if path.exists() and not force:
            print(f"kept     {path}: it is there already; --force writes it again")
        else:
            write_text(path, text)
            print(f"written  {path}")
    if n := sum(math.isnan(r.magzero) for r in reports):
        print(f"\nFill in MAGZERO of {counted(n, 'exposure')} in {directory / tables['--check.zero-points'][0]}; ", end="")
        print("an exposure whose MAGZERO stays empty is refused.")
    print(f"\nThe tables are yours to change; then:\n\n  {shlex.join(command)}\n")


def _readable(config: FieldConfig) -> list[ExposureReport]:
    """Reports on the exposures that can be used once they have a zero point, with NaN where they have none; say the others."""
    paths = FieldPaths.of(config)
    quick = CheckConfig(verify_checksums=False)
    found, files = [], paths.exposures()
    for path in files:
        root = paths.root_of(path)
        try:
            report = check.judge(path, quick, {})
            if report.refused:  # for want of a zero point alone?
                report = replace(check.judge(path, quick, {root: 25.0}), magzero=math.nan)
        except ExposureError as e:
            report = ExposureReport(root, path.name, refused=(str(e),))
        if report.refused:
            print(f"left out {report.file}: {report.refused[0]}")
        else:
            found.append(report)
    if not found:
        raise InputError(f"field {config.field}: none of its {counted(len(files), 'exposure')} can be used")
    print(f"{config.field}: {counted(len(found), 'exposure')}, {counted(sum(len(r.detectors) for r in found), 'detector')}")
    return found


def _aligned(words: str, rows: Iterable[Sequence[str]]) -> str:
    """Text of a table with aligned columns, below lines of words."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "".join(f"# {line}\n" for line in words.splitlines()) + "\n".join(lines) + "\n"


def _image_table(config: FieldConfig, reports: Iterable[ExposureReport]) -> str:
    images = survey.images(config.field, config.survey)
    own = survey.ImageTable((), by_filter=True)
    count = Counter((r.filter, round(r.exptime, 1)) for r in reports)
    rows = [
        (image, filter, f"{exptime:g}", str(n))
        for (filter, exptime), n in sorted(count.items())
        for image in images.of_exposure(filter, exptime) or own.of_exposure(filter, exptime)
    ]
    words = (
        f"Images of {config.field}: exposures with the same Image are co-added together, whatever their EXPTIME (s).\n"
        "Rename, join, split or leave out. EXPTIME * is every exposure time of the FILTER; n is for your eyes only."
    )
    return _aligned(words, [("Image", "FILTER", "EXPTIME", "n"), *rows])


def _zero_point_table(config: FieldConfig, reports: Iterable[ExposureReport]) -> str:
    rows = []
    for r in reports:
        if re.fullmatch(NAME, r.root):
            value = "" if math.isnan(r.magzero) else repr(r.magzero)
            rows.append((r.root, r.filter, f"{r.exptime:g}", value))
        elif math.isnan(r.magzero):
            print(f"left out {r.file}: it has no MAGZERO, and its name cannot stand in a table; rename it")
    words = (
        f"Zero points of {config.field}: MAGZERO is the magnitude of a source of 1 ADU in the whole exposure.\n"
        "An exposure whose MAGZERO is empty here and missing in its header is refused."
    )
    return _aligned(words, [("Root", "FILTER", "EXPTIME", "MAGZERO"), *rows])


def _tile_table(field: str, reports: Iterable[ExposureReport]) -> str:
    rows = [(t.field, t.name, f"{t.ra:.5f}", f"{t.dec:.5f}", f"{t.size:g}") for t in cover(field, reports)]
    words = f"Tiles of {field}, which cover all its detectors: RA, Dec of the centre and Size of the side in degrees."
    return _aligned(words, [("Field", "Tile", "RA", "Dec", "Size"), *rows])


def cover(field: str, reports: Iterable[ExposureReport]) -> list[Tile]:
    """Cover all detectors of a field with tiles: one as large as needed, or where that were too large a grid of the survey's.

    Raises
    ------
    InputError
        The detectors are too far apart to be one field.
    """
    places = [d for r in reports for d in r.detectors]
    corners = np.array([d.corners for d in places])  # (detectors, 4, 2)
    vectors = sky.unit_vectors(corners[..., 0], corners[..., 1])
    ra, dec = sky.mean_position(corners[..., 0], corners[..., 1])
    frame = sky.local_frame(ra, dec)
    out, east, north = (vectors @ axis for axis in frame)
    if out.min() < math.cos(math.radians(WIDEST)):
        raise InputError(f"field {field}: its exposures are more than {WIDEST:g} deg apart; put them into fields of their own")
    plane = np.degrees(np.stack([east / out, north / out]).reshape(2, -1))  # deg in the tangent plane
    low, high = plane.min(axis=1) - MARGIN, plane.max(axis=1) + MARGIN
    centre, size = (low + high) / 2, float((high - low).max())
    if size <= GRID_SIZE:
        return [Tile(field, "T01", *_sky(frame, *centre), math.ceil(size * 1000) / 1000)]
    # North is up in each tile. Around a pole they are turned against each other: circles in them must cover the sky then.
    turned = size / math.sqrt(2) > LARGEST_TURN * (90 - abs(dec))
    step, side = (GRID_SIZE / math.sqrt(2),) * 2 if turned else (GRID_STEP, GRID_SIZE)
    counts = np.ceil(np.maximum(high - low - side, 0) / step).astype(int) + 1
    x, y = np.meshgrid(*(c + step * (np.arange(n) - (n - 1) / 2) for c, n in zip(centre, counts, strict=True)), indexing="ij")
    outlines = sky.outlines(corners, np.array([d.naxis1 for d in places]), np.array([d.naxis2 for d in places]))
    squares = [_sky(frame, *centre) for centre in zip(x.ravel(), y.ravel(), strict=True)]
    used = [s for s in squares if sky.touching(sky.SkyPolygon.of_square(*s, GRID_SIZE), outlines).any()]
    digits = max(2, len(str(len(used))))
    return [Tile(field, f"T{i:0{digits}d}", *s, GRID_SIZE) for i, s in enumerate(used, 1)]


def _sky(frame: tuple[np.ndarray, np.ndarray, np.ndarray], x: float, y: float) -> tuple[float, float]:
    """RA and Dec of a point in the tangent plane of a frame, all in degrees."""
    middle, east, north = frame
    ra, dec = sky.position(middle + math.radians(x) * east + math.radians(y) * north)
    return float(ra), float(dec)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
