"""The survey: where its fields and tiles are, which exposures belong to which image, and DECam's focal plane.

They are small tables packaged with kred. A user's own table or field centre replaces them, and is judged here, row by row,
before anything is done with it.
"""

from __future__ import annotations

import difflib
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Table

from ..config import NAME, SurveyConfig
from ..errors import InputError
from ..products import FieldPaths, find_clash, same_file, table_names
from ..products.usertable import UserTable
from ..sky import Grid, mean_position, separation, tan_wcs

__all__ = ["ImageTable", "Tile", "field_centre", "fields", "focal_plane", "galaxy", "images", "tiles"]

NEAR = 15.0  # deg; what lies farther apart shares no tangent plane: at its edge cells are 7 % smaller on the sky than in the middle
GRID_STEP = 0.55  # deg between the centres of neighbouring tiles
GRID_SIZE = 0.67  # deg, side of a tile of the grid: neighbours share 0.12
MOSAIC_SIZE = 0.6525  # deg, 8700 pixels of 0.27″: the survey's standard settings, which stay so that its mosaics can be compared
LARGEST_TILE = 5.0  # deg; a larger Size is a mistake (arcmin?), not a tile
EXPTIME_TOLERANCE = 0.5  # s
# What the narrow filters are for. Images that are named after them are explained so; a user's own names speak for themselves.
LIGHT = {"N501": "[O III]", "N540": "continuum at 540 nm", "N662": "Hα", "N673": "[S II]", "N708": "continuum at 708 nm"}
MATCHED = "_b"  # at the end of names


@dataclass(frozen=True)
class Tile:
    """A square of sky, north up, that becomes one mosaic per image."""

    field: str
    name: str
    ra: float  # of the centre (ICRS) in degrees, 0 <= ra < 360
    dec: float
    size: float  # side in degrees of the square whose detectors feed the tile
    mosaic: float = MOSAIC_SIZE  # side in degrees of its mosaics: the survey's standard one, or size for tiles of a user's table

    @cached_property
    def corners(self) -> np.ndarray:
        """RA and Dec in degrees of the corners: south east, south west, north west, north east; shape (4, 2)."""
        square = tan_wcs(Grid(self.ra, self.dec, self.size * 3600, 1, 1))  # one pixel as large as the tile
        return square.wcs_pix2world([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], 0)


@dataclass(frozen=True)
class ImageTable:
    """Which exposures are co-added into which image."""

    rows: tuple[tuple[str, str, float], ...]  # image, FILTER (short name) and EXPTIME in s (NaN: any), in the order of the table
    by_filter: bool = False  # there is no table: each filter is an image, whatever the exposure time

    @property
    def names(self) -> tuple[str, ...]:
        """Images, each once, in the order of the table."""
        return tuple(dict.fromkeys(image for image, _, _ in self.rows))

    def in_order(self, images: Iterable[str]) -> list[str]:
        """Images, each once, in the order of the table; those that are not in it first, by name."""
        return sorted(set(images), key=lambda name: (self.names.index(name) if name in self.names else -1, name))

    def title(self, image: str) -> str:
        """The name of an image and, where it is that of its filter, what light that is: N662 Hα."""
        name = image.removesuffix("_s")
        filters = {image} if self.by_filter else {filter for other, filter, _ in self.rows if other == image}
        return f"{image} {LIGHT[name]}" if name in LIGHT and filters == {name} else image

    def of_exposure(self, filter: str, exptime: float) -> tuple[str, ...]:
        """Return the images that an exposure of a filter (its short name) and time in s feeds, in the order of the table.

        Real exposure times differ from the requested ones by fractions of a second, so that of the table's values for this
        filter the nearest counts, if it is not more than 0.5 s away. Rows for any exposure time count too, whether or not
        another row fits.
        """
        if self.by_filter:
            return (_named_after(filter),)
        rows = [(image, t) for image, name, t in self.rows if name == filter]
        nearest = min((abs(t - exptime) for _, t in rows if not math.isnan(t)), default=math.inf)
        limit = nearest if nearest <= EXPTIME_TOLERANCE else -1.0
        return tuple(dict.fromkeys(image for image, t in rows if math.isnan(t) or abs(t - exptime) <= limit))

    def explain(self, filters: Iterable[str]) -> str:
        """Say which images there are where there is no table; nothing where there is one."""
        if not self.by_filter:
            return ""
        found = ", ".join(sorted({_named_after(name) for name in filters}))
        return f"no image table: one image for each filter, of all exposure times ({found}); --survey.image-table makes others"


def fields() -> list[str]:
    """Return the names of the survey's fields, sorted."""
    return sorted({*_centres(), *(tile.field for tile in _irregular_tiles())})


def field_centre(field: str) -> tuple[float, float]:
    """Return the pointing centre of a field: RA and Dec in degrees (ICRS).

    Raises
    ------
    InputError
        The field is unknown, or is a set of tiles without a pointing of its own.
    """
    centres = _centres()
    if field in centres:
        return centres[field]
    if field in fields():
        raise InputError(
            f"field {field} is a set of tiles and has no pointing centre of its own; fields that have one: {', '.join(centres)}"
        )
    raise InputError(f"field {field} is not in the survey{_near(field, fields())}")


def galaxy(field: str, config: SurveyConfig) -> list[tuple[float, float]]:
    """Return where the galaxy of a field is: the places of the fields whose names begin alike, up to the first ``_``.

    They are RA and Dec in degrees: of the tiles in the tile table; of the own centre; or of the survey's pointings (of its tiles,
    where no field of this name has a pointing). There are none for a name that is not in the survey. In a tile table names may be
    alike by chance: only the fields count that lead to this one in steps of at most 15 deg, and only the field itself where they
    reach farther than 15 deg from their middle.

    Raises
    ------
    InputError
        The tile table cannot be used.
    """
    prefix = field.partition("_")[0]

    def alike(name: str) -> bool:
        return name.partition("_")[0] == prefix

    if config.tile_table:
        return _on_one_plane(field, [tile for tile in _read_tiles(config.tile_table, field) if alike(tile.field)])
    if config.centre:
        return [(config.centre[0], config.centre[1])]
    pointings = [centre for name, centre in _centres().items() if alike(name)]
    return pointings or [(tile.ra, tile.dec) for tile in _irregular_tiles() if alike(tile.field)]


def _on_one_plane(field: str, tiles: list[Tile]) -> list[tuple[float, float]]:
    """Places of the tiles of the fields that can share a tangent plane with a field; the same for each of those fields."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for tile in tiles:
        rows.setdefault(tile.field, []).append((tile.ra, tile.dec))
    left = {name: mean_position(*np.transpose(places)) for name, places in rows.items()}
    found, new = [], [field] if field in left else []
    while new:
        found += new
        last = [left.pop(name) for name in new]
        new = [name for name, place in left.items() if any(separation(place, other) <= NEAR for other in last)]
    together = [place for name in rows if name in found for place in rows[name]]
    if not together:
        return together
    middle = mean_position(*np.transpose(together))
    return together if all(separation(place, middle) <= NEAR for place in together) else rows[field]


def focal_plane() -> Table:
    """Return a table of the 62 CCDs of DECam.

    Its columns are CCDNUM, EXTNAME, and CRPIX1, CRPIX2: the FITS pixel of each full 2046x4094 CCD on which the pointing centre
    falls, usually far outside the CCD.
    """
    return _packaged("focal_plane.ecsv").copy()


def tiles(field: str, config: SurveyConfig, names: Sequence[str] = ()) -> tuple[Tile, ...]:
    """Return the tiles of a field, in the order of the table or grid.

    The tile table of the options, or the grid around their centre, comes before the survey's own tiles. Given names of tiles, only
    these are returned.

    Raises
    ------
    InputError
        Unknown field or tile, or an unusable table.

    Notes
    -----
    The grid: T01..T16 are centred 0.55 deg * (k - 1.5), k = 0..3, from the field centre in longitude and latitude of the
    spherical frame whose origin is the field centre and whose equator points east there; the latitude runs fastest.
    """
    if config.tile_table:
        table = _read_tiles(config.tile_table, field)
        found = tuple(tile for tile in table if tile.field == field)
        if not found:
            known = list(dict.fromkeys(tile.field for tile in table))
            raise InputError(f"tile table {config.tile_table}: has no tile of field {field}{_near(field, known)}")
        _require_one_place(field, found, config.tile_table)
    elif config.centre:
        found = _grid(field, config.centre[0], config.centre[1])
    else:
        found = _survey_tiles(field)
    unknown = [name for name in names if name not in {tile.name for tile in found}]
    if unknown:
        plain = {_plain(tile.name): tile.name for tile in found}
        meant = [plain[_plain(name)] for name in unknown if _plain(name) in plain]
        hint = f"; did you mean {' '.join(meant)}?" if meant else f"; its tiles: {', '.join(tile.name for tile in found)}"
        raise InputError(f"field {field} has no tile {', '.join(unknown)}{hint}")
    return tuple(tile for tile in found if not names or tile.name in names)


def images(field: str, config: SurveyConfig) -> ImageTable:
    """Return the images of a field: of the user's table; of the survey; elsewhere one for each filter.

    Raises InputError where the user's table cannot be used.
    """
    if config.image_table:
        return _read_images(config.image_table)
    if field not in fields():
        return ImageTable((), by_filter=True)
    return ImageTable(tuple((str(r["Image"]), str(r["FILTER"]), float(r["EXPTIME"])) for r in _packaged("images.ecsv")))


@cache
def _packaged(name: str) -> Table:
    text = resources.files(__package__).joinpath("data", name).read_text(encoding="utf-8")
    return Table.read(text.splitlines(), format="ascii.ecsv")


@cache
def _centres() -> dict[str, tuple[float, float]]:
    return {str(row["Field"]): (float(row["RA"]), float(row["Dec"])) for row in _packaged("fields.ecsv")}


@cache
def _irregular_tiles() -> tuple[Tile, ...]:
    rows = _packaged("irregular_tiles.ecsv")
    return tuple(Tile(str(r["Field"]), str(r["Tile"]), float(r["RA"]), float(r["Dec"]), float(r["Size"])) for r in rows)


def _survey_tiles(field: str) -> tuple[Tile, ...]:
    own = {tile.name: tile for tile in _irregular_tiles() if tile.field == field}
    if field not in _centres():
        if own:
            return tuple(own.values())
        raise InputError(
            f"field {field} is not in the survey{_near(field, fields())}; for a field of your own give its centre "
            "(option survey.centre: RA,Dec in degrees) or a tile table (survey.tile_table); "
            f"python -m kred_core.starter {field} writes one"
        )
    return tuple(own.get(tile.name, tile) for tile in _grid(field, *_centres()[field]))


def _grid(field: str, ra: float, dec: float) -> tuple[Tile, ...]:
    offsets = np.radians(GRID_STEP * (np.arange(4) - 1.5))
    longitude, latitude = (a.ravel() for a in np.meshgrid(offsets, offsets, indexing="ij"))
    # In the frame of the field centre, then tipped by Dec towards the pole and turned by RA around it.
    x, y, z = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)
    sin, cos = np.sin(np.radians(dec)), np.cos(np.radians(dec))
    x, z = x * cos - z * sin, x * sin + z * cos
    tile_ra = (ra + np.degrees(np.arctan2(y, x))) % 360.0
    tile_dec = np.degrees(np.arctan2(z, np.hypot(x, y)))
    return tuple(Tile(field, f"T{i + 1:02d}", float(tile_ra[i]), float(tile_dec[i]), GRID_SIZE) for i in range(16))


def _named_after(filter: str) -> str:
    """The image of a filter: its name, or where that cannot be part of a file name, what is left of it and a number instead."""
    if re.fullmatch(NAME, filter) and len(filter) <= 40:
        return filter
    return f"{re.sub('[^A-Za-z0-9]', '', filter)[:30] or 'filter'}-{zlib.crc32(filter.encode()):08x}"


def _require_one_place(field: str, tiles: Sequence[Tile], table: str) -> None:
    middle = mean_position([tile.ra for tile in tiles], [tile.dec for tile in tiles])
    farthest = max(tiles, key=lambda tile: separation((tile.ra, tile.dec), middle))
    away = separation((farthest.ra, farthest.dec), middle)
    if away > NEAR:
        raise InputError(
            f"tile table {table}: tile {farthest.name} lies {away:.0f} deg from the middle of field {field}, at most {NEAR:g} "
            "works; call tiles that far apart different fields (column Field)"
        )


def _plain(tile: str) -> str:
    """A tile's name whatever its case and the zeros before its number: T7 is T07."""
    return re.sub(r"(?<=[A-Z])0+(?=\d)", "", tile.upper())


def _near(name: str, known: Iterable[str]) -> str:
    """How a message goes on that could not find a name: the most similar ones, or else all of a few."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=8, cutoff=0.5)
    if near:
        return f"; similar names: {', '.join(near)}"
    return f"; there are: {', '.join(known)}" if len(known) <= 30 else ""


def _read_tiles(path: str, field: str) -> tuple[Tile, ...]:
    table = UserTable("tile", path, ("Field", "Tile", "RA", "Dec", "Size"))
    ra = [value % 360.0 for value in table.numbers("RA", u.deg, 0.0, 360.0)]
    dec, size = table.numbers("Dec", u.deg, -90.0, 90.0), table.numbers("Size", u.deg, 0.001, LARGEST_TILE)
    rows = [Tile(*values) for values in zip(table.names("Field"), table.names("Tile"), ra, dec, size, size, strict=True)]
    first: dict[tuple[str, str], int] = {}
    for i, tile in enumerate(rows):
        before = first.setdefault((tile.field, tile.name), i)
        if before != i:
            raise table.fault(i, "Tile", tile.name, f"each tile of field {tile.field} once; row {before + 1} has the same")
    _require_own_files(table, rows, field)
    return tuple(rows)


def _require_own_files(table: UserTable, rows: Sequence[Tile], field: str) -> None:
    """Refuse names that would make one file of two products: of the field, or of it and another field of the table."""
    number = {tile.name: i for i, tile in enumerate(rows) if tile.field == field}
    for name, i in number.items():
        if same_file(name).endswith(MATCHED):
            raise table.fault(i, "Tile", name, f"another name; {MATCHED} marks what kred makes with matched backgrounds")
        if any(same_file(name).endswith(f"_{ours}") for ours in table_names()):
            raise table.fault(i, "Tile", name, "another name; its table would look like one of kred's tables of another field")
    clash = find_clash(field, tuple(number))
    if clash and clash.other.startswith("tile"):
        raise table.fault(number[clash.tile], "Tile", clash.tile, f"another name; {clash.path} would be that of {clash.other} too")
    if clash:
        raise table.fault(
            number[clash.tile], "Tile", clash.tile, f"another name; kred has tables or directories of this one ({clash.path})"
        )
    owners = {same_file(tile.field): tile.field for tile in reversed(rows)}
    tabled = {same_file(FieldPaths(Path(), f).tile_table(name)): f for f in owners.values() for name in table_names()}
    for i, tile in enumerate(rows):
        if (other := owners[same_file(tile.field)]) != tile.field:
            raise table.fault(i, "Field", tile.field, f"another name; {other} has the same letters, and files may be the same")
        path = FieldPaths(Path(), tile.field).tile_table(tile.name)
        if (other := tabled.setdefault(same_file(path), tile.field)) != tile.field:
            raise table.fault(i, "Tile", tile.name, f"another name; {path} would be a table of field {other} too")


def _read_images(path: str) -> ImageTable:
    table = UserTable("image", path, ("Image", "FILTER", "EXPTIME"), "EXPTIME", optional=("exp", "time"))
    exptimes = table.numbers("EXPTIME", u.s, 0.0, 1e6)
    # The archive's FILTER is a sentence whose first word is the name.
    filters = [text.split()[0] for text in table.texts("FILTER")]
    return ImageTable(tuple(zip(table.names("Image"), filters, exptimes, strict=True)))
