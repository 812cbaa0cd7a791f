"""The numbers that describe one mosaic, and the table of a field's mosaics.

They are plain values, so that a stage can keep them as JSON until the table of
the whole field is written.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from astropy.table import Table

from ..products import tables
from ..products.tables import Column

__all__ = ["MOSAICS", "MosaicNumbers", "mosaic_table"]

COUNTS28 = "counts28/pix"


@dataclass(frozen=True)
class MosaicNumbers:
    """What one mosaic is like. Every statistic is over its covered pixels: coverage > 0 and a finite value.

    Attributes
    ----------
    n_covered : int
        Number of covered pixels.
    covered_fraction : float
        n_covered over the number of pixels of the mosaic.
    coverage_median : float
        Median number of detectors in a covered pixel.
    coverage_max : int
        Largest number of detectors in a covered pixel.
    level : float
        Median, counts28 per pixel.
    mean : float
        Mean, counts28 per pixel.
    std : float
        Standard deviation, counts28 per pixel; stars and nebulae count in full.
    noise : float or None
        1.4826 / sqrt(2) times the median of |difference| of neighbours in a row, counts28 per pixel:
        blind to nebulae, and to stars unless they crowd. Resampling correlates neighbours, so it is
        lower than the noise that a single pixel has (by 5 % for LANCZOS3 at the survey's scale).
        None where no two neighbours are covered.
    block_jump : float or None
        99th percentile of |difference| of the medians of adjacent blocks (see `block_jump`), counts28 per pixel:
        seams, and nebulae in full. None where no two adjacent blocks are covered.
    low_pass_rms : float or None
        rms of the block medians about their median, counts28 per pixel: nebulae and left-over backgrounds.
        None where no block is covered by more than a half.
    block : int
        Side of these blocks in pixels (see `block_side`).
    """

    n_covered: int
    covered_fraction: float
    coverage_median: float
    coverage_max: int
    level: float
    mean: float
    std: float
    noise: float | None
    block_jump: float | None
    low_pass_rms: float | None
    block: int

    def to_dict(self) -> dict[str, int | float | None]:
        """The numbers as plain values that JSON can hold; ``MosaicNumbers(**values)`` gives them back."""
        return dataclasses.asdict(self)


MOSAICS = (
    Column("Field", str, "", "Field"),
    Column("Tile", str, "", "Tile"),
    Column("Image", str, "", "Image"),
    Column("Background", str, "", "What was subtracted: matched backgrounds, or original, one for each exposure"),
    Column("N_covered", int, "pix", "Covered pixels"),
    Column("Covered", float, "", "Covered part of the mosaic"),
    Column("Cov_med", float, "", "Median number of detectors in a covered pixel"),
    Column("Cov_max", int, "", "Largest number of detectors in a covered pixel"),
    Column("Level", float, COUNTS28, "Median of the covered pixels"),
    Column("Mean", float, COUNTS28, "Mean of the covered pixels"),
    Column("STD", float, COUNTS28, "Standard deviation of the covered pixels, stars included"),
    Column("Noise", float, COUNTS28, "Pixel noise: 1.4826/sqrt(2) x median |difference| of neighbours; NaN: none"),
    Column("BlockJump", float, COUNTS28, "99th percentile of |difference| of the medians of adjacent blocks; NaN: none"),
    Column("LowPass", float, COUNTS28, "rms of the block medians about their median; NaN: none"),
    Column("Block", int, "pix", "Side of these blocks"),
)


def mosaic_table(field: str, rows: Iterable[tuple[str, str, str, MosaicNumbers]]) -> Table:
    """Numbers of a field's mosaics as a table with units and descriptions.

    Parameters
    ----------
    field : str
        Name of the field.
    rows : iterable of (tile, image, background, `MosaicNumbers`)

    Returns
    -------
    `~astropy.table.Table`
        With the columns `MOSAICS`, sorted by image, tile and background; numbers to six digits, NaN where one does not exist.
    """
    rows = sorted(rows, key=lambda row: (row[1], row[0], row[2]))
    names = [column.name for column in MOSAICS]
    values = [(field, *place, *map(_readable, numbers.to_dict().values())) for *place, numbers in rows]
    return tables.make((dict(zip(names, row, strict=True)) for row in values), MOSAICS)


def _readable(value: int | float | None) -> int | float:
    """Six digits for people; NaN for a number that does not exist."""
    if isinstance(value, int):
        return value
    return math.nan if value is None else float(f"{value:.6g}")
