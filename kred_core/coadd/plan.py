"""What is co-added into the mosaics of one image of a tile: which detectors, with which factors and backgrounds, on which grid.

Both engines take the same `CoaddPlan`, so they can be compared pixel by pixel. One plan makes the mosaic with
the exposures' own backgrounds, that with the matched ones, or both from the same resampled pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import MappingProxyType

import numpy as np
from astropy.table import Table

from ..background import Background
from ..config import BackgroundKind, CoaddConfig
from ..sky import Grid

__all__ = ["CoaddInput", "CoaddPlan", "make_grid", "make_plan"]

INCONSEQUENTIAL = {"mosaics", "memory", "swarp_timeout"}  # options that change no byte of any one mosaic


@dataclass(frozen=True)
class CoaddInput:
    """One detector of a mosaic: counts28 per native pixel = raw * scale - background.

    Attributes
    ----------
    path : `~pathlib.Path`
        The original MEF, read only.
    root, extname : str
    exptime : float
        Exposure time in s.
    scale : float
        Factor from raw counts to counts28 (XFACTOR).
    back : float
        Background of its exposure in counts28 per native pixel (SUB_BACK), for the mosaic "original".
    sky_noise : float
        Standard deviation of the sky in counts28 per native pixel, for the weighted mean.
    seeing : float
        FWHM of stars in arcsec, for the header; NaN: unknown.
    matched : Background or None
        For the mosaic "matched"; None: not known, for one that is not made or not yet.
    amplifier : str
        A or B, whose half of the columns is left out; empty: neither.
    """

    path: Path
    root: str
    extname: str
    exptime: float
    scale: float
    back: float
    sky_noise: float
    seeing: float = math.nan
    matched: Background | None = None
    amplifier: str = ""

    def background(self, which: BackgroundKind) -> Background:
        """Return what to subtract for one of the mosaics; the matched one is there where that mosaic is asked for."""
        found = self.matched if which == BackgroundKind.MATCHED else Background(self.back)
        if found is None:
            raise ValueError(f"{self.root}, {self.extname}: no matched background")
        return found


@dataclass(frozen=True)
class CoaddPlan:
    """The mosaics of one image of a tile in the making: which detectors, on which grid, with which backgrounds."""

    field: str
    tile: str
    image: str
    filter: str
    grid: Grid
    inputs: tuple[CoaddInput, ...]
    backgrounds: tuple[BackgroundKind, ...] = (BackgroundKind.ORIGINAL,)

    @property
    def n_pixels(self) -> int:
        """Pixels of all its mosaics."""
        return self.grid.nx * self.grid.ny * len(self.backgrounds)

    def digest(self, config: CoaddConfig, background: BackgroundKind) -> str:
        """Hexadecimal digest of all that one mosaic depends on except the files' contents; the same wherever the data root is.

        The same, too, whether the mosaic with the other background is made with it or not.
        """
        inputs = [vars(item) | {"background": vars(item.background(background))} for item in self.inputs]
        for entry in inputs:
            del entry["back"], entry["matched"]
        options = config.model_dump(mode="json", exclude=INCONSEQUENTIAL)
        options["size"] = round(self.grid.nx * self.grid.pixel_scale / 3600, 6)  # as it is, whether an option or the tile says so
        content = vars(self) | {"grid": vars(self.grid), "inputs": inputs, "backgrounds": background, "config": options}
        text = json.dumps(content, sort_keys=True, default=lambda path: path.name)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_grid(ra: float, dec: float, size: float, native_scale: float, config: CoaddConfig) -> Grid:
    """The grid of a mosaic around RA, Dec, all in degrees; a pixel scale of 0 is the native one, rounded up to 0.01 arcsec."""
    scale = config.pixel_scale or math.ceil(round(native_scale * 100, 4)) / 100
    n = max(1, round(size * 3600 / scale))
    return Grid(ra, dec, scale, n, n)


def make_plan(
    field: str,
    tile: str,
    image: str,
    detectors: Table,
    centre: tuple[float, float],
    size: float,
    path_of: Callable[[str, str], Path],
    config: CoaddConfig,
    matched: Sequence[Background] | None = None,
    amplifiers: Mapping[str, str] = MappingProxyType({}),
) -> CoaddPlan:
    """Plan the mosaics of one image of a tile from the rows of its table; the inputs are in the order of the rows.

    Parameters
    ----------
    detectors : `~astropy.table.Table`
        At least one row, all of this image (columns of `kred_core.products.tables.TILE`).
    centre : tuple of float
        RA, Dec of the centre of the mosaic in degrees.
    size : float
        Side of the mosaic in degrees.
    path_of : callable
        The MEF of (field, file name).
    matched : sequence of Background, optional
        Matched background of each row; without them a mosaic with matched backgrounds can be planned, but not made.
    amplifiers : mapping
        The amplifier that is left out of a detector, by EXTNAME in capitals.
    """
    inputs = tuple(
        CoaddInput(
            path=path_of(str(row["Field"]), str(row["File"])),
            root=str(row["Root"]),
            extname=str(row["EXTNAME"]),
            exptime=float(row["EXPTIME"]),
            scale=float(row["XFACTOR"]),
            back=float(row["SUB_BACK"]),
            sky_noise=float(row["Noise"]) * float(row["XFACTOR"]),
            seeing=float(row["SEEING"]),
            matched=background,
            amplifier=amplifiers.get(str(row["EXTNAME"]).upper(), ""),
        )
        for row, background in zip(detectors, matched or repeat(None, len(detectors)), strict=True)
    )
    filters = dict.fromkeys(str(f) for f in detectors["FILTER"])
    grid = make_grid(*centre, size, float(np.median(detectors["PixScale"])), config)
    return CoaddPlan(field, tile, image, " ".join(filters), grid, inputs, config.backgrounds)
