"""Pictures small enough to lie inside a page: the sky of a field before and after matching, its tiles, its figures.

Nothing is measured here and nothing at full resolution is read: the quick look and the reduced mosaics are there already.
A picture is a grey JPEG, because noise makes any lossless form five times larger.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..binned import quicklook
from ..errors import InputError
from ..evaluation import ReducedImage
from ..figures.drawing import Stretch, round_values
from ..sky import Grid, mean_position, tan_wcs
from ..survey import Tile

if TYPE_CHECKING:
    from PIL import Image


SKY_SIDE = 900  # pixels of the longer side of a field
SKY_BYTES, TILE_BYTES = 200_000, 12_000  # at most; with 3 images of 16 tiles 2.4 MB in base64
CARD_SIDE, CARD_BYTES = 320, 16_000
SMALLEST_SIDE = 64
QUALITIES = (84, 72, 60, 48)  # of JPEG, until it is small enough; then the picture becomes smaller
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
    """Where a picture is on the sky: TAN projection, north up, east left."""

    ra: float  # of the tangent point, degrees
    dec: float
    left: float  # of the tangent point, as parts of the width and height of the picture from its upper left corner
    top: float
    width: float  # of the picture, arcsec
    height: float


@dataclass(frozen=True)
class Sky:
    """The quick look of a field, north up and east left."""

    before: np.ndarray  # float32, first row north; NaN where there is no data
    after: np.ndarray
    outlines: dict[str, np.ndarray]  # corners of each tile by its name, pixels from the upper left corner, shape (4, 2)
    place: Place

    @classmethod
    def read(cls, path: Path, tiles: Sequence[Tile]) -> Sky:
        """Turn the quick look of a field, which has the grid of the galaxy, so that north is up, at the size of a picture.

        The picture is as large as the data, whatever the tiles are. Raises InputError where it cannot be read.
        """
        from PIL import Image

        grid, look = quicklook.read(path)
        if not {"before", "after"} <= look.images.keys():
            raise InputError(f"{path} has no images BEFORE and AFTER; delete it and run the stage 'match' again")
        first = np.array([look.x0, look.y0]) - 0.5  # edge of the quick look in cells of the grid
        along, ones, zeros = np.linspace(0, 1, 9), np.ones(9), np.zeros(9)
        edge = np.stack([np.concatenate([along, ones, along, zeros]), np.concatenate([zeros, along, ones, along])], axis=1)
        sky = grid.wcs.wcs_pix2world(edge * look.shape[::-1] + first, 0)
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
        turn = _projective(corners, (from_cells - first) / factor)

        def turned(image: Image.Image) -> Image.Image:
            small = image.reduce(factor)
            return small.transform((columns, rows), Image.Transform.PERSPECTIVE, turn, Image.Resampling.BILINEAR)

        before, after = (_averaged(look.images[name], turned, 0.5) for name in ("before", "after"))
        window = _covered(after)
        cut = np.array([window[1].start or 0, window[0].start or 0])
        outlines = {}
        for tile in tiles:
            x, y = target.wcs_world2pix(tile.corners, 0).T
            outlines[tile.name] = np.stack([x + 0.5, rows - (y + 0.5)], axis=1) - cut
        height, width = after[window].shape
        left, top = np.array([-low[0] / scale, rows + low[1] / scale]) - cut
        place = Place(ra, dec, left / width, top / height, scale * width, scale * height)
        return cls(before[window], after[window], outlines, place)

    @cached_property
    def _stretch(self) -> Stretch:
        return Stretch.of(self.after)

    @cached_property
    def shift(self) -> float:
        """Median of before - after, a level that all detectors have in common, counts28 per native pixel."""
        change = self.before - self.after
        known = np.isfinite(change)
        return float(np.median(change[known])) if known.any() else 0.0

    def pictures(self) -> dict[str, Picture]:
        """Pictures of ``before``, less `shift`, and ``after`` with the same greys: what differs is what matching did."""
        shown = {"before": self.before - self.shift, "after": self.after}
        return {name: _grey_jpeg(image, self._stretch, SKY_BYTES) for name, image in shown.items()}

    def greys(self) -> list[tuple[float, float]]:
        """Round values of ``after``, counts28 per native pixel, and where they are from black, 0, to white, 1."""
        of = self._stretch
        values = round_values(of.value_at, lambda value: float(of.place_of(value)), VALUES)
        return [(value, float(of.place_of(value))) for value in values]

    def tile(self, name: str, side: int) -> Picture | None:
        """A tile cut out of the quick look after matching; None where that knows next to nothing of it."""
        low, high = (np.rint(limit).astype(int) for limit in (self.outlines[name].min(axis=0), self.outlines[name].max(axis=0)))
        (left, top), (right, bottom) = np.maximum(low, 0), np.maximum(high, 0)
        part = self.after[top:bottom, left:right]
        if np.isfinite(part).sum() < LEAST_COVERED * np.prod(high - low):
            return None
        image = np.full((high - low)[::-1], np.nan, np.float32)
        image[top - low[1] :, left - low[0] :][: part.shape[0], : part.shape[1]] = part
        return _grey_jpeg(_shrunk(image, side), self._stretch, TILE_BYTES)


def _averaged(image: np.ndarray, change: Callable[[Image.Image], Image.Image], least: float) -> np.ndarray:
    """What ``change`` makes of an image by averaging pixels: those with data only; NaN where no more than ``least`` have any."""
    from PIL import Image

    known = np.isfinite(image)
    planes = (np.where(known, image, np.float32(0)), known.astype(np.float32))
    sums, parts = (np.asarray(change(Image.fromarray(plane))) for plane in planes)
    return np.where(parts > least, sums / np.maximum(parts, 1e-6), np.float32(np.nan))


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """An image averaged to at most ``side`` pixels along a side."""
    from PIL import Image

    part = min(1.0, side / max(image.shape))
    size = tuple(max(1, round(part * n)) for n in reversed(image.shape))
    return _averaged(image, lambda plane: plane.resize(size, Image.Resampling.BOX), 0.0)


def _projective(points: np.ndarray, images: np.ndarray) -> tuple[float, ...]:
    """The eight numbers of Pillow's PERSPECTIVE from four points to others, which say all of how two tangent planes are related."""
    equations, values = [], []
    for (x, y), (u, v) in zip(points, images, strict=True):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(np.linalg.solve(np.array(equations), np.array(values)))


def _covered(image: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle that holds all data; everything where there is none."""
    found = [np.flatnonzero(np.isfinite(image).any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(f[0], f[-1] + 1) if f.size else slice(None) for f in found)
    return rows, columns


def tile_pictures(tiles: dict[str, ReducedImage], side: int) -> dict[str, Picture]:
    """Pictures of tiles of one image, all with the same greys, at most ``side`` pixels along a side; north up."""
    images = {name: _shrunk(reduced.image, side)[::-1] for name, reduced in tiles.items()}
    stretch = Stretch.of(np.concatenate([image.ravel() for image in images.values()] or [np.zeros(0)]))
    return {name: _grey_jpeg(image, stretch, TILE_BYTES) for name, image in images.items()}


def card_picture(picture: Picture) -> Picture:
    """A picture once more, small enough to stand among those of all fields."""
    return _small_jpeg(io.BytesIO(picture.jpeg), (CARD_SIDE, CARD_SIDE), CARD_BYTES)


def figure_picture(path: Path, width: int, largest: int) -> Picture:
    """A figure as a small picture that leads to it; InputError where the file is no picture."""
    try:
        return _small_jpeg(path, (width, 4 * width), largest)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read ({type(e).__name__}: {e}); delete it and run again") from e


def _small_jpeg(file: Path | io.BytesIO, size: tuple[int, int], largest: int) -> Picture:
    from PIL import Image

    with Image.open(file) as opened:
        small = opened.convert("L" if opened.mode == "L" else "RGB")
        small.thumbnail(size, reducing_gap=2.0)
    return _jpeg(small, largest)


def _grey_jpeg(image: np.ndarray, stretch: Stretch, largest: int) -> Picture:
    """An image in grey, its pixels without data darker than any sky."""
    from PIL import Image

    known = np.isfinite(image)
    part = stretch.place_of(np.where(known, image, stretch.middle))
    levels = np.rint(BLACK + (255 - BLACK) * np.clip(part, 0.0, 1.0))
    return _jpeg(Image.fromarray(np.where(known, levels, NO_DATA).astype(np.uint8)), largest)


def _jpeg(image: Image.Image, largest: int) -> Picture:
    """A JPEG as good as the number of bytes allows."""
    while True:
        for quality in QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, format="jpeg", quality=quality, optimize=True)
            if buffer.tell() <= largest or max(image.size) < SMALLEST_SIDE:
                return Picture(buffer.getvalue(), *image.size)
        image = image.resize([max(1, round(0.85 * side)) for side in image.size], reducing_gap=2.0)
