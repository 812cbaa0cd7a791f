"""What is done with a quick look: cut out a tile, measure its blocks, average it for a figure, keep it in a file.

Apart from the arithmetic because all of this is about where cells are on the sky and how they are stored.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from astropy.io import fits

from ... import __version__
from ...errors import InputError
from ...evaluation import ReducedImage, block_jump, block_medians
from ...evaluation.results import explained
from ...fits.cards import Cards, hdu_bytes
from ...fits.compress import quantised_image
from ...fits.hdu import scan
from ...fits.pixels import read_pixels
from ...products import atomic
from ...sky import Grid, celestial_wcs, tan_header
from ...survey import Tile
from .. import BinnedGrid
from .mosaic import COVERAGE, QuickLook

__all__ = ["cut", "jumps", "read", "reduced", "write"]

NOISE_STEPS = 8  # steps of the stored values in the noise of a cell, at least
NORMAL_MAD = 1.482602218505602  # standard deviation / median |deviation| of a normal distribution
SEAM_BLOCK = 8  # cells
DITHER = 1  # seed of the subtractive dither, always the same: the same values give the same bytes
ZERO_POINT = 28.0  # mag, of counts28


def cut(look: QuickLook, grid: BinnedGrid, tile: Tile) -> QuickLook:
    """The part of a quick look that covers a tile.

    Parameters
    ----------
    look : `QuickLook`
    grid : `~kred_core.binned.BinnedGrid`
    tile : `~kred_core.survey.Tile`

    Returns
    -------
    `QuickLook`
        The smallest rectangle of the grid that holds the square of the tile, NaN where the look does not reach. The
        grid's north is the tile's only where both have the same RA, so it is somewhat larger than the square.
    """
    corners = grid.wcs.wcs_world2pix(tile.corners, 0)  # great circles are straight lines on both tangent planes
    if not np.isfinite(corners).all():
        where = f"{grid.ra:.4f}, {grid.dec:.4f}"
        raise InputError(
            f"tile {tile.name} of field {tile.field} does not lie on the grid of the binned maps around RA, Dec {where}"
        )
    low = np.floor(corners.min(axis=0) + 0.5).astype(int)
    nx, ny = np.floor(corners.max(axis=0) + 0.5).astype(int) + 1 - low
    from_look, from_cut = [], []
    for start, size, old_start, old_size in ((low[1], ny, look.y0, look.shape[0]), (low[0], nx, look.x0, look.shape[1])):
        first = max(start, old_start)
        last = max(first, min(start + size, old_start + old_size))
        from_look.append(slice(first - old_start, last - old_start))
        from_cut.append(slice(first - start, last - start))
    coverage = np.zeros((ny, nx), np.int16)
    coverage[tuple(from_cut)] = look.coverage[tuple(from_look)]
    images = {name: np.full((ny, nx), np.nan, np.float32) for name in look.images}
    for name, image in images.items():
        image[tuple(from_cut)] = look.images[name][tuple(from_look)]
    return QuickLook(int(low[0]), int(low[1]), images, coverage, look.pixel_area)


def jumps(look: QuickLook) -> tuple[float | None, float | None, float | None]:
    """How large the steps between neighbouring blocks of cells are: before, after, and in the difference: the removed seams.

    Parameters
    ----------
    look : `QuickLook`

    Returns
    -------
    tuple of float or None
        `~kred_core.evaluation.block_jump` in counts28 per native pixel, with blocks of 8 x 8 cells: with cells of 2 arcsec as
        large as those of 64 pixels that mosaics are judged by. Structure of the sky counts too, in larger blocks for more than
        seams do, but it is the same before and after. None where there are no two blocks side by side.
    """
    before, after = look.images["before"], look.images["after"]
    return tuple(block_jump(block_medians(image, SEAM_BLOCK)) for image in (before, after, before - after))


def reduced(look: QuickLook, grid: BinnedGrid, name: str, figure_pixels: int) -> ReducedImage:
    """One version for a figure, averaged over blocks of cells where it has more than ``figure_pixels`` along a side.

    Parameters
    ----------
    look : `QuickLook`
    grid : `~kred_core.binned.BinnedGrid`
    name : str
        Version.
    figure_pixels : int
        Largest side of the result.

    Returns
    -------
    `~kred_core.evaluation.ReducedImage`
        Its factor counts cells.
    """
    wcs = celestial_wcs(_wcs_cards(look, grid))
    wcs.array_shape = look.shape
    whole = ReducedImage(look.images[name], look.coverage.astype(np.float32), wcs, 1)
    return whole.shrink(-(-max(look.shape) // figure_pixels))


def _wcs_cards(look: QuickLook, grid: BinnedGrid) -> fits.Header:
    header = tan_header(Grid(grid.ra, grid.dec, grid.cell, look.shape[1], look.shape[0]))
    header["CRPIX1"] = (1.0 - look.x0, "[pix] Reference pixel, the grid's tangent point")
    header["CRPIX2"] = (1.0 - look.y0, "[pix] Reference pixel, the grid's tangent point")
    return header


def write(path: Path, look: QuickLook, grid: BinnedGrid, field: str, image: str, tile: str = "", configuration: str = "") -> None:
    """Write a quick look as a tile-compressed FITS file: one extension for each version, and COVERAGE.

    Parameters
    ----------
    path : `~pathlib.Path`
        `~kred_core.products.FieldPaths.quick_look`; appears only when it is whole.
    look : `QuickLook`
    grid : `~kred_core.binned.BinnedGrid`
    field, image, tile : str
        What is shown, for the header; tile '' for the whole field.
    configuration : str
        Digest of what it depends on, for the header.

    Notes
    -----
    The values are quantised in steps (keyword QSTEP, a power of two) of at most 1/8 of the noise of a cell, with a
    subtractive dither, which adds less than 0.1 % to the noise and nothing to means. Noise: 1.4826/sqrt(2) times the median
    absolute difference of neighbours in a row, in every 8th row; stars do not move it. NaN stay NaN. Without noise the
    steps are as fine as float32 is. The coverage is exact. The same quick look gives the same bytes, with checksums.
    """
    step = _step(look)
    subject: Cards = {"OBJECT": ("_".join(filter(None, (field, tile))), "Field and tile"), "FIELD": (field, "")}
    if tile:
        subject["TILE"] = (tile, "")
    subject["IMAGE"] = (image, "Image group: these exposures belong together")
    wcs = _wcs_cards(look, grid)
    place: Cards = {key: (wcs[key], wcs.comments[key]) for key in wcs}
    place["CELL"] = (float(grid.cell), "[arcsec] A cell holds value*CELL**2/PIXAREA")
    place["KREDVER"] = (__version__, "Version of kred that made this file")
    place["KREDCONF"] = (configuration, "Digest of what this depends on")
    primary: Cards = {"SIMPLE": (True, "FITS standard"), "BITPIX": (8, ""), "NAXIS": (0, ""), "EXTEND": (True, "")}
    parts = [*hdu_bytes({**primary, **subject})]
    for name, values in look.images.items():
        facts: Cards = {
            "EXTNAME": (name.upper(), "Version"),
            **subject,
            "BUNIT": ("count", "counts28 per native pixel, see PIXAREA"),
            "MAGZERO": (ZERO_POINT, "[mag] Magnitude zero point"),
            "PIXAREA": (float(look.pixel_area), "[arcsec2] Native pixel that the values are for"),
            "COMBINE": ("median", "How the detectors of a cell were combined"),
            "QSTEP": (step, "Step of the stored values"),
        }
        parts += quantised_image({**facts, **place}, values, step, DITHER)
    facts = {"EXTNAME": (COVERAGE, ""), **subject, "BUNIT": ("", "Number of detectors in each cell")}
    parts += quantised_image({**facts, **place}, look.coverage.astype(np.float32), 1.0)
    with atomic(path, keep_same=True) as temporary:
        temporary.write_bytes(b"".join(parts))


def _step(look: QuickLook) -> float:
    """Step of the stored values: a power of two, at most 1/8 of the noise, and not too small to be counted."""
    noise, largest = [], 0.0
    for image in look.images.values():
        jumps = np.abs(np.diff(image[::8], axis=1))
        jumps = jumps[np.isfinite(jumps)]
        noise += [NORMAL_MAD / np.sqrt(2) * float(np.median(jumps))] if jumps.size else []
        largest = max(largest, float(np.nanmax(np.abs(image), initial=0.0)))
    finest = 2.0 ** (math.ceil(math.log2(largest or 1.0)) - 23)
    wanted = min(noise, default=0.0) / NOISE_STEPS
    return max(finest, 2.0 ** math.floor(math.log2(wanted))) if wanted > 0 else finest


def read(path: Path) -> tuple[BinnedGrid, QuickLook]:
    """Read what `write` wrote.

    Parameters
    ----------
    path : `~pathlib.Path`

    Returns
    -------
    `~kred_core.binned.BinnedGrid`, `QuickLook`

    Raises
    ------
    InputError
        The file is missing or not of this kind.
    """
    with explained(path, "match"):
        path.stat()
        found = {hdu.extname: hdu for hdu in scan(path)[1:]}
        coverage = read_pixels(found.pop(COVERAGE), np.int16)
        images = {name.lower(): read_pixels(hdu) for name, hdu in found.items()}
        header = next(iter(found.values())).header
        x0, y0 = (round(1 - header[f"CRPIX{axis}"]) for axis in (1, 2))
        grid = BinnedGrid(float(header["CRVAL1"]), float(header["CRVAL2"]), float(header["CELL"]))
        return grid, QuickLook(x0, y0, images, coverage, float(header["PIXAREA"]))
