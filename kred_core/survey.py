"""Facts about the survey: its fields and tiles, its images, and DECam's focal plane.

The facts are small tables packaged with kred. A user's own table or field
centre replaces them, and is judged here, row by row, before anything is done
with it. No other module knows where a tile lies or which exposures make an image.
"""

from __future__ import annotations

import difflib
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from astropy import units as u
from astropy.table import Table

from .config import NAME, SurveyConfig
from .errors import InputError
from .usertable import UserTable

__all__ = ["ImageTable", "Tile", "field_centre", "fields", "focal_plane", "galaxy", "images", "tiles"]

GRID_STEP = 0.55  # deg between the centres of neighbouring tiles
GRID_SIZE = 0.67  # deg, side of a tile of the grid: neighbours share 0.12
LARGEST_TILE = 10.0  # deg; a larger Size is a mistake (arcmin?), not a tile
EXPTIME_TOLERANCE = 0.5  # s
MATCHED = "_b"  # at the end of names
# Summary/<field>_<tile>.tab must not be one of kred's tables, nor <field>/<tile> one of its directories.
TAKEN = ("data", "data_b", "eval", "quick", "mef", "mef_qual", "det", "overlaps", "backgrounds", "matching", "mosaics")


@dataclass(frozen=True)
class Tile:
    """A square of sky that becomes one mosaic per image.

    Attributes
    ----------
    field, name : str
    ra, dec : float
        Centre (ICRS) in degrees, 0 <= ra < 360.
    size : float
        Side in degrees of the square, north up, whose detectors feed the tile.
    """

    field: str
    name: str
    ra: float
    dec: float
    size: float


@dataclass(frozen=True)
class ImageTable:
    """Which exposures are co-added into which image.

    Attributes
    ----------
    rows : tuple of (str, str, float)
        Image, FILTER (short name) and EXPTIME in s (NaN: any), in the order of the table.
    by_filter : bool
        There is no table: each filter is an image, whatever the exposure time.
    """

    rows: tuple[tuple[str, str, float], ...]
    by_filter: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Images, each once, in the order of the table."""
        return tuple(dict.fromkeys(image for image, _, _ in self.rows))

    def in_order(self, images: Iterable[str]) -> list[str]:
        """Images, each once, in the order of the table; those that are not in it first, by name."""
        return sorted(set(images), key=lambda name: (self.names.index(name) if name in self.names else -1, name))

    def of_exposure(self, filter: str, exptime: float) -> tuple[str, ...]:
        """Images that an exposure feeds.

        Parameters
        ----------
        filter : str
            Short name of the filter.
        exptime : float
            Exposure time in s.

        Returns
        -------
        tuple of str
            In the order of the table; () for a combination that belongs to no image.

        Notes
        -----
        Real exposure times differ from the requested ones by fractions of a second, so that of
        the table's values for this filter the nearest counts, if it is not more than 0.5 s away.
        Rows for any exposure time count too, whether or not another row fits.
        """
        if self.by_filter:
            return (_named_after(filter),)
        rows = [(image, t) for image, name, t in self.rows if name == filter]
        nearest = min((abs(t - exptime) for _, t in rows if not math.isnan(t)), default=math.inf)
        limit = nearest if nearest <= EXPTIME_TOLERANCE else -1.0
        return tuple(dict.fromkeys(image for image, t in rows if math.isnan(t) or abs(t - exptime) <= limit))

    def explain(self, filters: Iterable[str]) -> str:
        """Say which images there are without a table, where that is so; otherwise nothing."""
        if not self.by_filter:
            return ""
        found = ", ".join(sorted({_named_after(name) for name in filters}))
        return f"no image table: one image for each filter, of all exposure times ({found}); --survey.image-table makes others"


def fields() -> list[str]:
    """Names of the survey's fields, sorted."""
    return sorted({*_centres(), *(tile.field for tile in _irregular_tiles())})


def field_centre(field: str) -> tuple[float, float]:
    """Pointing centre of a field.

    Parameters
    ----------
    field : str

    Returns
    -------
    ra, dec : float
        Degrees (ICRS).

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
    """Where the galaxy of a field is: the places of all fields whose names begin alike, up to the first ``_``.

    Parameters
    ----------
    field : str
    config : `~kred_core.config.SurveyConfig`

    Returns
    -------
    list of (float, float)
        RA and Dec in degrees: of the tiles in the tile table; of the own centre; or of the survey's pointings (of
        its tiles, where no field of this name has a pointing). Empty for a name that is not in the survey.

    Raises
    ------
    InputError
        The tile table cannot be used.
    """
    prefix = field.partition("_")[0]

    def alike(name: str) -> bool:
        return name.partition("_")[0] == prefix

    if config.tile_table:
        return [(tile.ra, tile.dec) for tile in _read_tiles(config.tile_table) if alike(tile.field)]
    if config.centre:
        return [(config.centre[0], config.centre[1])]
    pointings = [centre for name, centre in _centres().items() if alike(name)]
    return pointings or [(tile.ra, tile.dec) for tile in _irregular_tiles() if alike(tile.field)]


def focal_plane() -> Table:
    """The 62 CCDs of DECam.

    Returns
    -------
    `~astropy.table.Table`
        CCDNUM, EXTNAME, and CRPIX1, CRPIX2 (FITS pixel of each full 2046x4094 CCD on which
        the pointing centre falls, usually far outside the CCD).
    """
    return _packaged("focal_plane.ecsv").copy()


def tiles(field: str, config: SurveyConfig, names: Sequence[str] = ()) -> tuple[Tile, ...]:
    """Tiles of a field.

    Parameters
    ----------
    field : str
    config : `~kred_core.config.SurveyConfig`
        Its tile table, or the grid around its centre, comes before the survey's own tiles.
    names : sequence of str
        Only these tiles; all where empty.

    Returns
    -------
    tuple of `Tile`
        In the order of the table or grid.

    Raises
    ------
    InputError
        Unknown field or tile, or an unusable table.

    Notes
    -----
    The grid: T01..T16 are centred 0.55 deg * (k - 1.5), k = 0..3, from the field centre in
    longitude and latitude of the spherical frame whose origin is the field centre and whose
    equator points east there; the latitude runs fastest.
    """
    if config.tile_table:
        table = _read_tiles(config.tile_table)
        found = tuple(tile for tile in table if tile.field == field)
        if not found:
            known = list(dict.fromkeys(tile.field for tile in table))
            raise InputError(f"tile table {config.tile_table}: has no tile of field {field}{_near(field, known)}")
    elif config.centre:
        found = _grid(field, config.centre[0], config.centre[1])
    else:
        found = _survey_tiles(field)
    unknown = [name for name in names if name not in {tile.name for tile in found}]
    if unknown:
        raise InputError(f"field {field} has no tile {', '.join(unknown)}; its tiles: {', '.join(tile.name for tile in found)}")
    return tuple(tile for tile in found if not names or tile.name in names)


def images(field: str, config: SurveyConfig) -> ImageTable:
    """Images of a field: of the user's own table; those of the survey; for a field that is not the survey's, one for each filter.

    Parameters
    ----------
    field : str
    config : `~kred_core.config.SurveyConfig`

    Raises
    ------
    InputError
        The user's table cannot be used.
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
            "(option survey.centre: RA,Dec in degrees) or a tile table (survey.tile_table)"
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


def _near(name: str, known: Iterable[str]) -> str:
    """How a message goes on that could not find a name: the most similar ones, or else all of a few."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=8, cutoff=0.5)
    if near:
        return f"; similar names: {', '.join(near)}"
    return f"; there are: {', '.join(known)}" if len(known) <= 30 else ""


def _read_tiles(path: str) -> tuple[Tile, ...]:
    table = UserTable("tile", path, ("Field", "Tile", "RA", "Dec", "Size"))
    ra = [value % 360.0 for value in table.numbers("RA", u.deg, 0.0, 360.0)]
    dec, size = table.numbers("Dec", u.deg, -90.0, 90.0), table.numbers("Size", u.deg, 0.001, LARGEST_TILE)
    rows = [Tile(*values) for values in zip(table.names("Field"), table.names("Tile"), ra, dec, size, strict=True)]
    first: dict[tuple[str, str], int] = {}
    for i, tile in enumerate(rows):
        if tile.name in TAKEN:
            raise table.fault(i, "Tile", tile.name, "another name; kred has tables or directories of this one")
        if tile.name.endswith(MATCHED):
            raise table.fault(i, "Tile", tile.name, f"another name; {MATCHED} marks what kred makes with matched backgrounds")
        before = first.setdefault((tile.field, tile.name), i)
        if before != i:
            raise table.fault(i, "Tile", tile.name, f"each tile of field {tile.field} once; row {before + 1} has the same")
    return tuple(rows)


def _read_images(path: str) -> ImageTable:
    table = UserTable("image", path, ("Image", "FILTER", "EXPTIME"), "EXPTIME", optional=("exp", "time"))
    exptimes = table.numbers("EXPTIME", u.s, 0.0, 1e6)
    # The archive's FILTER is a sentence whose first word is the name.
    filters = [text.split()[0] for text in table.texts("FILTER")]
    return ImageTable(tuple(zip(table.names("Image"), filters, exptimes, strict=True)))
