"""Pictures small enough to lie inside a page: the sky of a field before and after matching, its tiles, its figures.

Nothing is measured here and nothing at full resolution is read: the quick look and the reduced mosaics are there already.
A picture is a grey JPEG, because noise makes any lossless form five times larger.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numba as nb
import numpy as np

from ..binned import BinnedGrid
from ..errors import InputError
from ..evaluation import ReducedImage
from ..figures.drawing import round_values
from ..fits.hdu import scan
from ..fits.pixels import read_pixels
from ..sky import Grid, mean_position, tan_wcs
from ..survey import Tile

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from PIL import Image

__all__ = [
    "Greys",
    "Picture",
    "Place",
    "Sky",
    "card_picture",
    "figure_picture",
    "read_sky",
    "sky_greys",
    "sky_pictures",
    "tile_picture",
    "tile_pictures",
]

SKY_SIDE = 900  # pixels of the longer side of a field
SKY_BYTES, TILE_BYTES = 200_000, 12_000  # at most; with 3 images of 16 tiles 2.4 MB in base64
CARD_SIDE, CARD_BYTES = 320, 16_000
SMALLEST_SIDE = 64
QUALITIES = (84, 72, 60, 48)  # of JPEG, until it is small enough; then the picture becomes smaller
DARKEST, BRIGHTEST, SOFTENING = 0.5, 99.6, 0.1  # percentiles, and the linear part of the range between them
VALUES = 6  # about so many on the bar of greys
LEAST_COVERED = 0.05  # of a tile; less comes from the exposures of its neighbours
NO_DATA, BLACK = 14, 30  # grey levels; the sky's darkest is told from where there is no data


@dataclass(frozen=True)
class Picture:
    """A JPEG and its size in pixels."""

    jpeg: bytes
    width: int
    height: int

    @property
    def address(self) -> str:
        """The picture itself as an address, for a page that needs no other file."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode('ascii')}"


@dataclass(frozen=True)
class Place:
    """Where a picture is on the sky: TAN projection, north up, east left.

    Attributes
    ----------
    ra, dec : float
        Tangent point in degrees.
    left, top : float
        The tangent point in the picture, as parts of its width and height from the upper left corner.
    width, height : float
        Of the picture in arcsec.
    """

    ra: float
    dec: float
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Greys:
    """What the greys of the picture of a field mean.

    Attributes
    ----------
    values : list of (float, float)
        Round values of the matched image, counts28 per native pixel, and where they are from black, 0, to white, 1.
    shift : float
        What was subtracted from the image before matching so that it has the same greys.
    """

    values: list[tuple[float, float]]
    shift: float


@dataclass(frozen=True)
class Sky:
    """The quick look of a field, north up and east left.

    Attributes
    ----------
    versions : dict
        Image by name (``before``, ``after``): float32, first row north; NaN where there is no data.
    outlines : dict
        Corners of each tile by its name, in pixels from the upper left corner of the picture, shape (4, 2).
    place : Place
    """

    versions: dict[str, np.ndarray]
    outlines: dict[str, np.ndarray]
    place: Place


@nb.njit(nogil=True, cache=True)
def _block_means(image, factor):
    """Means of the finite pixels of blocks, and which part of a block is finite; those at the far edges may be cut.

    Rows of blocks are summed column by column first, which the compiler vectorises.
    """
    rows, columns = image.shape
    shape = (-(-rows // factor), -(-columns // factor))
    means, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    sums, counts = np.empty(columns, np.float32), np.empty(columns, np.int32)
    for block_y in range(shape[0]):
        sums[:] = 0
        counts[:] = 0
        for y in range(block_y * factor, min(rows, (block_y + 1) * factor)):
            row = image[y]
            for x in range(columns):
                known = abs(row[x]) < np.inf
                sums[x] += row[x] if known else np.float32(0)
                counts[x] += known
        for block_x in range(shape[1]):
            total, n = 0.0, 0
            for x in range(block_x * factor, min(columns, (block_x + 1) * factor)):
                total += sums[x]
                n += counts[x]
            means[block_y, block_x] = total / max(n, 1)
            weights[block_y, block_x] = n / factor**2
    return means, weights


def read_sky(path: Path, tiles: Sequence[Tile]) -> Sky:
    """Turn the quick look of a field so that north is up at its middle, at the size of a picture.

    Parameters
    ----------
    path : `~pathlib.Path`
        `~kred_core.products.FieldPaths.quick_look` of the whole field: its grid is that of the galaxy.
    tiles : sequence of `~kred_core.survey.Tile`
        Those whose outlines are wanted; the picture is as large as the data, whatever the tiles are.

    Raises
    ------
    ExposureError, InputError
        The file cannot be read.
    """
    hdus = {hdu.extname: hdu for hdu in scan(path)}
    if not {"BEFORE", "AFTER"} <= hdus.keys():
        raise InputError(f"{path} has no images BEFORE and AFTER; delete it and run the stage 'match' again")
    header, shape = hdus["AFTER"].header, hdus["AFTER"].shape
    grid = BinnedGrid(float(header["CRVAL1"]), float(header["CRVAL2"]), float(header["CELL"]))
    x0, y0 = (round(1 - header[f"CRPIX{axis}"]) for axis in (1, 2))
    # edges of the quick look in cells of the grid, all around
    along = np.linspace(0, 1, 9)
    ones, zeros = np.ones(9), np.zeros(9)
    edge = np.stack([np.concatenate([along, ones, along, zeros]), np.concatenate([zeros, along, ones, along])], axis=1)
    sky = grid.wcs.wcs_pix2world(edge * shape[::-1] + [x0 - 0.5, y0 - 0.5], 0)
    ra, dec = mean_position(*sky.T)
    plane = tan_wcs(Grid(ra, dec, 1.0, 1, 1)).wcs_world2pix(sky, 0)  # arcsec, west and north
    low, high = plane.min(axis=0), plane.max(axis=0)
    scale = max((high - low).max() / SKY_SIDE, grid.cell)
    columns, rows = (max(1, math.ceil(side)) for side in (high - low) / scale)
    target = tan_wcs(Grid(ra, dec, scale, columns, rows))
    target.wcs.crpix = [0.5 - low[0] / scale, 0.5 - low[1] / scale]
    target.wcs.set()

    factor = max(1, int(scale / grid.cell))
    corners = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], dtype=float)  # of the picture, first row north
    from_target = np.stack([corners[:, 0], rows - corners[:, 1]], axis=1) - 0.5
    from_cells = grid.wcs.wcs_world2pix(target.wcs_pix2world(from_target, 0), 0)
    turn = _projective(corners, (from_cells - [x0 - 0.5, y0 - 0.5]) / factor)
    versions = {}
    for name in ("before", "after"):
        means, weights = _block_means(read_pixels(hdus[name.upper()]), factor)
        weighted, weights = _turned(means * weights, turn, columns, rows), _turned(weights, turn, columns, rows)
        versions[name] = np.where(weights > 0.5, weighted / np.maximum(weights, 1e-6), np.nan).astype(np.float32)
    window = _covered(versions["after"])
    outlines = {tile.name: _outline(tile, target, rows) - [window[1].start or 0, window[0].start or 0] for tile in tiles}
    height, width = versions["after"][window].shape
    left, top = -low[0] / scale - (window[1].start or 0), rows + low[1] / scale - (window[0].start or 0)
    place = Place(ra, dec, left / width, top / height, scale * width, scale * height)
    return Sky({name: image[window] for name, image in versions.items()}, outlines, place)


def _projective(points: np.ndarray, images: np.ndarray) -> tuple[float, ...]:
    """The eight numbers of Pillow's PERSPECTIVE that lead from four points to others.

    One tangent plane is a projective image of the other, so that four points say all of it.
    """
    equations, values = [], []
    for (x, y), (u, v) in zip(points, images, strict=True):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(np.linalg.solve(np.array(equations), np.array(values)))


def _turned(image: np.ndarray, turn: tuple[float, ...], columns: int, rows: int) -> np.ndarray:
    from PIL import Image

    turned = Image.fromarray(image).transform((columns, rows), Image.Transform.PERSPECTIVE, turn, Image.Resampling.BILINEAR)
    return np.asarray(turned)


def _covered(image: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle that holds all data; everything where there is none."""
    found = [np.flatnonzero(np.isfinite(image).any(axis=axis)) for axis in (1, 0)]
    return tuple(slice(f[0], f[-1] + 1) if f.size else slice(None) for f in found)


def _outline(tile: Tile, target: WCS, rows: int) -> np.ndarray:
    x, y = target.wcs_world2pix(_corners(tile), 0).T
    return np.stack([x + 0.5, rows - (y + 0.5)], axis=1)


@lru_cache(maxsize=64)
def _corners(tile: Tile) -> np.ndarray:
    """RA and Dec of the corners of a tile, the last one the north-eastern."""
    square = tan_wcs(Grid(tile.ra, tile.dec, tile.size * 3600, 1, 1))  # one pixel as large as the tile
    return square.wcs_pix2world([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], 0)


def sky_pictures(sky: Sky) -> dict[str, Picture]:
    """A picture of each version, with the same greys: what differs between them is what matching did.

    Zero of ``before`` is moved by the median of before - after, a level that all detectors have in common.
    """
    scale, before = _Scale.of(sky.versions["after"]), sky.versions["before"] - _shift(sky)
    return {name: _encoded(scale.greys(image), SKY_BYTES) for name, image in (("before", before), ("after", sky.versions["after"]))}


def sky_greys(sky: Sky) -> Greys:
    """What the greys of `sky_pictures` mean."""
    scale = _Scale.of(sky.versions["after"])
    return Greys([(value, scale.place_of(value)) for value in round_values(scale.value_at, scale.place_of, VALUES)], _shift(sky))


def _shift(sky: Sky) -> float:
    change = sky.versions["before"] - sky.versions["after"]
    known = np.isfinite(change)
    return float(np.median(change[known])) if known.any() else 0.0


def tile_pictures(tiles: dict[str, ReducedImage], side: int) -> dict[str, Picture]:
    """Pictures of tiles of one image, all with the same greys, at most ``side`` pixels along a side; north up."""
    images = {name: _shrunk(reduced.image, side)[::-1] for name, reduced in tiles.items()}
    known = [image[np.isfinite(image)] for image in images.values()]
    scale = _Scale.of(np.concatenate(known) if known else np.zeros(0))
    return {name: _encoded(scale.greys(image), TILE_BYTES) for name, image in images.items()}


def tile_picture(sky: Sky, tile: str, side: int) -> Picture | None:
    """A tile cut out of the quick look after matching; None where that knows next to nothing of it."""
    after = sky.versions["after"]
    low, high = np.rint(sky.outlines[tile].min(axis=0)).astype(int), np.rint(sky.outlines[tile].max(axis=0)).astype(int)
    (left, top), (right, bottom) = np.maximum(low, 0), np.maximum(high, 0)
    part = after[top:bottom, left:right]
    if np.isfinite(part).sum() < LEAST_COVERED * np.prod(high - low):
        return None
    image = np.full((high[1] - low[1], high[0] - low[0]), np.nan, np.float32)
    image[top - low[1] :, left - low[0] :][: part.shape[0], : part.shape[1]] = part
    return _encoded(_Scale.of(after).greys(_shrunk(image, side)), TILE_BYTES)


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """An image averaged to at most ``side`` pixels along a side; NaN only where nothing of a pixel is known."""
    from PIL import Image

    part = min(1.0, side / max(image.shape))
    size = tuple(max(1, round(part * n)) for n in reversed(image.shape))
    known = np.isfinite(image)
    sums, weights = (
        np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BOX))
        for values in (np.where(known, image, 0.0), known)
    )
    return np.where(weights > 0, sums / np.maximum(weights, 1e-6), np.nan)


@dataclass(frozen=True)
class _Scale:
    """How brightness becomes grey: asinh, linear near the median, logarithmic beyond."""

    black: float
    middle: float
    white: float

    @classmethod
    def of(cls, image: np.ndarray) -> _Scale:
        known = image[np.isfinite(image)]
        return cls(*(np.percentile(known, [DARKEST, 50.0, BRIGHTEST]) if known.size else (0.0, 0.0, 0.0)))

    @property
    def softening(self) -> float:
        """Distance from the middle within which the scale is nearly linear."""
        return SOFTENING * (self.white - self.black) or 1.0

    @property
    def ends(self) -> tuple[float, float]:
        """asinh at black and at white."""
        return tuple(math.asinh((limit - self.middle) / self.softening) for limit in (self.black, self.white))

    def place_of(self, values: np.ndarray | float) -> np.ndarray | float:
        """Where values are from black, 0, to white, 1; those beyond are less or more."""
        low, high = self.ends
        return (np.arcsinh((values - self.middle) / self.softening) - low) / (high - low or 1.0)

    def value_at(self, place: float) -> float:
        """The reverse of `place_of`."""
        low, high = self.ends
        return self.middle + self.softening * math.sinh(low + place * (high - low))

    def greys(self, image: np.ndarray) -> np.ndarray:
        """Grey levels, 0 to 255; `NO_DATA` where there is none."""
        known = np.isfinite(image)
        part = self.place_of(np.where(known, image, self.middle))
        levels = np.rint(BLACK + (255 - BLACK) * np.clip(part, 0.0, 1.0))
        return np.where(known, levels, NO_DATA).astype(np.uint8)


def _encoded(greys: np.ndarray, largest: int) -> Picture:
    from PIL import Image

    return _jpeg(Image.fromarray(np.ascontiguousarray(greys)), largest)


def _jpeg(image: Image.Image, largest: int) -> Picture:
    """A JPEG as good as the number of bytes allows."""
    while True:
        for quality in QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, format="jpeg", quality=quality, optimize=True)
            if buffer.tell() <= largest or max(image.size) < SMALLEST_SIDE:
                return Picture(buffer.getvalue(), *image.size)
        image = image.resize([max(1, round(0.85 * side)) for side in image.size], reducing_gap=2.0)


def card_picture(picture: Picture) -> Picture:
    """A picture once more, small enough to stand among those of all fields."""
    from PIL import Image

    with Image.open(io.BytesIO(picture.jpeg)) as opened:
        small = opened.copy()
    small.thumbnail((CARD_SIDE, CARD_SIDE), reducing_gap=2.0)
    return _jpeg(small, CARD_BYTES)


def figure_picture(path: Path, width: int, largest: int) -> Picture:
    """A figure as a small picture that leads to it.

    Raises
    ------
    InputError
        The file is no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as figure:
            small = figure.convert("RGB")
            small.thumbnail((width, 4 * width), reducing_gap=2.0)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read ({type(e).__name__}: {e}); delete it and run again") from e
    return _jpeg(small, largest)
