"""Which detectors feed which tile and image; detectors and amplifiers that a user leaves out.

A detector feeds a tile where the true outline of its pixels touches the tile's square on the sky. Everything that is left out is
counted with its reason, so that no detector disappears without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits
from astropy.table import Row, Table, vstack

from .. import sky
from ..config import AMPLIFIERS, TilingConfig
from ..errors import ExposureError
from ..fits.hdu import text
from ..words import counted
from . import ImageTable, Tile

RIM = 4  # pixels at the edge of a mosaic; nothing that reaches farther in fails to cover a pixel


@dataclass(frozen=True)
class Selection:
    """The detectors of a tile, and what was left out.

    The rows of the detector table that feed the tile stand once for each image that they go into, with the additional column Image,
    sorted by Image, Root, EXTNAME.
    """

    detectors: Table
    n_on_tile: int  # detectors that touch the tile, used or not
    n_elsewhere: int
    left_out: Mapping[tuple[str, str, str], str]  # why detectors on the tile are not used, by Field, Root and EXTNAME
    n_unknown_seeing: int = 0  # detectors that are used although a largest seeing is set, because theirs is not known

    def explain(self) -> str:
        """What feeds the tile and what does not, in one line."""
        if self.n_on_tile == 0:
            return f"none of {counted(self.n_elsewhere, 'detector')} lies on it"
        counts = Counter(map(str, self.detectors["Image"]))
        used = ", ".join(f"{image} {counts[image]}" for image in sorted(counts)) or "none"
        parts = [f"{counted(self.n_on_tile, 'detector')} on it; used: {used}"]
        if self.left_out:
            reasons = sorted(Counter(self.left_out.values()).items())
            parts.append("left out: " + ", ".join(f"{n} ({reason})" for reason, n in reasons))
        if self.n_unknown_seeing:
            parts.append(f"used without known seeing: {self.n_unknown_seeing}")
        return "; ".join(parts)


def stack(parts: Sequence[Table]) -> Table:
    """One detector table from those of several fields, with the columns that all of them have."""
    return vstack(list(parts), join_type="inner", metadata_conflicts="silent") if len(parts) > 1 else parts[0].copy()


def select(detectors: Table, tile: Tile, images: ImageTable, config: TilingConfig) -> Selection:
    """Find the detectors that feed a tile.

    The table has one row for each detector, of one field or of several (see `stack`): Field, Root, EXTNAME, OBSID, FILTER,
    EXPTIME [s], SEEING [arcsec], NAXIS1, NAXIS2 and COR1RA1..COR4DEC1 [deg], the centres of the corner pixels from the WCS.

    Notes
    -----
    The tile is a square in its tangent plane. The outline of a detector is that of its pixels with straight sides, which for a
    DECam CCD is right to 0.12 arcsec; the survey's tiles reach farther than the mosaics made of them by half an arcmin. An
    unknown SEEING (NaN) is not larger than any limit.

    Fields can share exposures. Of several rows with one EXTNAME and one OBSID (Root, where it has none) that of the tile's own
    field is used, or else that of the first field by name.
    """
    rows = detectors[_touches(detectors, tile)]
    selection = _selection(rows, len(detectors) - len(rows), tile.field, images, config)
    return _with_mosaics(selection, tile) if config.centre == "table" else selection


def _with_mosaics(selection: Selection, tile: Tile) -> Selection:
    """Without the images that only the rim of the tile has, outside of their mosaic: that would have no pixel."""
    found = selection.detectors
    if len(found) == 0:
        return selection
    rim = 2 * RIM * float(np.median(found["PixScale"])) / 3600
    reaching = set(map(str, found["Image"][_touches(found, replace(tile, size=tile.mosaic - rim))]))
    kept = found[[str(image) in reaching for image in found["Image"]]]
    keys = {_key(row) for row in found} - {_key(row) for row in kept}
    reason = "on the rim of the tile, outside the mosaic"
    return replace(selection, detectors=kept, left_out={**selection.left_out, **dict.fromkeys(sorted(keys), reason)})


def select_all(detectors: Table, field: str, images: ImageTable, config: TilingConfig) -> Selection:
    """Find the detectors that are used wherever they lie: those whose backgrounds are matched.

    A detector that `select` finds for a tile of ``field``, with the same arguments, is among them. Of several rows with one
    observation and detector that of this field is used.
    """
    return _selection(detectors.copy(), 0, field, images, config)


def _selection(rows: Table, n_elsewhere: int, field: str, images: ImageTable, config: TilingConfig) -> Selection:
    """Of the given rows those that are used, for each of their images, and why the others are not."""
    reasons = np.full(len(rows), "", dtype=object)

    def leave_out(which: np.ndarray, reason: str | np.ndarray) -> None:
        reasons[:] = np.where((reasons == "") & which, reason, reasons)

    unwanted = left_out(config.leave_out)[0]
    names = np.array([str(name).upper() for name in rows["EXTNAME"]], dtype=object)
    leave_out(np.isin(names, list(unwanted)), np.array([f"detector {name}" for name in names], dtype=object))
    seeing = np.asarray(rows["SEEING"], dtype=np.float64)
    if config.max_seeing > 0:
        leave_out(seeing > config.max_seeing, f"seeing above {config.max_seeing:g} arcsec")
    combinations = [(str(f), float(t)) for f, t in zip(rows["FILTER"], rows["EXPTIME"], strict=True)]
    fed = {c: images.of_exposure(*c) for c in set(combinations)}
    homeless = np.array([not fed[c] for c in combinations], dtype=bool)
    leave_out(homeless, np.array([f"{f} {t:g} s belongs to no image" for f, t in combinations], dtype=object))
    leave_out(_repeated(rows, reasons == "", field), "observation that is there twice")

    used = np.flatnonzero(reasons == "")
    pairs = [(image, i) for i in used for image in fed[combinations[i]]]
    pairs.sort(key=lambda p: (p[0], str(rows["Root"][p[1]]), str(rows["EXTNAME"][p[1]])))
    selected = rows[[i for _, i in pairs]]
    selected["Image"] = np.array([image for image, _ in pairs], dtype=str)
    return Selection(
        detectors=selected,
        n_on_tile=len(rows),
        n_elsewhere=n_elsewhere,
        left_out={_key(rows[i]): reasons[i] for i in np.flatnonzero(reasons != "")},
        n_unknown_seeing=int(np.isnan(seeing[used]).sum()) if config.max_seeing > 0 else 0,
    )


def mosaic_centre(tile: Tile, selected: Table, config: TilingConfig) -> tuple[float, float]:
    """Return the centre of a tile's mosaics, RA and Dec in degrees.

    It is the tile's own centre, or the mean position on the sphere, to 1e-6 deg, of the centres of its selected detectors, of
    all images: they share the grid.
    """
    if config.centre == "table":
        return tile.ra, tile.dec
    different = {_key(row): (float(row["CENRA1"]), float(row["CENDEC1"])) for row in selected}
    ra, dec = sky.mean_position(*np.array([different[key] for key in sorted(different)]).T)
    return round(ra, 6) % 360.0, round(dec, 6)


def _key(row: Row) -> tuple[str, str, str]:
    return str(row["Field"]), str(row["Root"]), str(row["EXTNAME"])


def _touches(detectors: Table, tile: Tile) -> np.ndarray:
    if len(detectors) == 0:
        return np.zeros(0, dtype=bool)
    corners = np.stack([np.stack([detectors[f"COR{i}{axis}1"] for axis in ("RA", "DEC")], axis=-1) for i in (1, 2, 3, 4)], axis=1)
    outlines = sky.outlines(np.asarray(corners), np.asarray(detectors["NAXIS1"]), np.asarray(detectors["NAXIS2"]))
    return sky.touching(sky.SkyPolygon.of_square(tile.ra, tile.dec, tile.size), outlines)


def _repeated(rows: Table, candidates: np.ndarray, own_field: str) -> np.ndarray:
    """Rows, among the candidates, whose observation and detector are there already, in a field that comes first."""
    repeated = np.zeros(len(rows), dtype=bool)
    seen = set()
    fields, roots, observations, names = ([str(v) for v in rows[c]] for c in ("Field", "Root", "OBSID", "EXTNAME"))
    for i in sorted(np.flatnonzero(candidates), key=lambda i: (fields[i] != own_field, fields[i], roots[i], names[i])):
        key = (observations[i] or roots[i], names[i])
        repeated[i] = key in seen
        seen.add(key)
    return repeated


def left_out(entries: Iterable[str]) -> tuple[set[str], dict[str, str]]:
    """Return what the entries of ``tiling.leave_out`` mean: detectors by EXTNAME, or amplifiers as S7.A, in capitals or not.

    The set has the names, in capitals, of the detectors that are left out by their name or with both amplifiers; the dictionary the
    amplifier that is left out of another detector, by its name in capitals.
    """
    parts = {tuple(entry.upper().partition(".")[::2]) for entry in entries}
    both = {name for name, _ in parts if all((name, amplifier) in parts for amplifier in AMPLIFIERS)}
    whole = both | {name for name, amplifier in parts if not amplifier}
    return whole, {name: amplifier for name, amplifier in sorted(parts) if name not in whole}


def amplifier_columns(header: fits.Header, extname: str, n_columns: int, amplifier: str) -> slice:
    """Return the half of the columns that an amplifier reads.

    DATASECA and DATASECB say on which side an amplifier is. Files of the Community Pipeline lack them: there A reads the lower
    columns of DECam's N detectors and the upper ones of the S detectors. The halves meet in the middle of the columns, as the
    edges that the pipeline trims are equal.

    Raises
    ------
    ExposureError
        Neither header nor name says on which side the amplifier is.

    References
    ----------
    DATASECA of DES images: [1:1024,1:4096] of CCDNUM 32 and above (N), [1025:2048,1:4096] below (S).
    """
    found = [re.match(r"\[(\d+):", text(header, f"DATASEC{name}").replace(" ", "")) for name in AMPLIFIERS]
    starts = [int(start[1]) for start in found if start]
    if len(starts) == 2 and starts[0] != starts[1]:
        lower = AMPLIFIERS[starts[1] < starts[0]]
    elif side := re.fullmatch(r"([NS])\d+", extname.upper()):
        lower = {"N": "A", "S": "B"}[side[1]]
    else:
        raise ExposureError(
            f"which columns its amplifier {amplifier} reads is not known: it has no DATASECA and DATASECB, and no name of DECam's"
        )
    middle = n_columns // 2
    return slice(0, middle) if amplifier == lower else slice(middle, n_columns)
