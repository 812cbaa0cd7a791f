"""Detectors with known pixels, each in a small file of its own, and plans that co-add them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits

from kred_core.background import Background
from kred_core.coadd.plan import CoaddInput, CoaddPlan
from kred_core.config import CoaddConfig
from kred_core.sky import Grid

GRID = Grid(80.0, -69.0, 0.27, 120, 100)
SHAPE = (80, 90)
DECAM = ((0.0, 1.0), (-1.0, 0.0))  # x runs south, y runs east
NORTH_UP = ((-1.0, 0.0), (0.0, 1.0))


def noise(seed=1, shape=SHAPE, level=1000.0):
    return np.random.default_rng(seed).normal(level, 5, shape).astype(np.float32)


def tan_cards(grid: Grid, shape, offset=(0.0, 0.0), axes=NORTH_UP, scale=None, turn=0.0) -> fits.Header:
    """WCS of a detector whose centre lies at an offset, in its own pixels, from the centre of a grid; turned by some degrees."""
    step = (scale or grid.pixel_scale) / 3600
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    cd = step * np.array(axes) @ np.array([[c, -s], [s, c]])
    header = fits.Header()
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "CRVAL1": grid.ra, "CRVAL2": grid.dec}
    cards |= {"CRPIX1": (shape[1] + 1) / 2 - offset[0], "CRPIX2": (shape[0] + 1) / 2 - offset[1]}
    cards |= {"CD1_1": cd[0, 0], "CD1_2": cd[0, 1], "CD2_1": cd[1, 0], "CD2_2": cd[1, 1]}
    for key, value in cards.items():
        header[key] = float(value) if not isinstance(value, str) else value
    return header


class Night:
    """Exposures of one detector each, and the plan that co-adds them all.

    Pixels are stored uncompressed, so that they are exactly those given.
    """

    def __init__(self, root: Path, grid: Grid = GRID):
        self.root, self.grid = root, grid
        self.mef = root / "DECam_MEF" / "LMC_c42" / "mef"
        self.mef.mkdir(parents=True)
        self.inputs = []

    @property
    def products(self) -> Path:
        return self.root / "DECam_SWARP" / "LMC_c42" / "T07"

    @property
    def mosaic(self) -> Path:
        return self.products / "LMC_c42_T07.N662.fits"

    @property
    def coverage(self) -> Path:
        return self.products / "LMC_c42_T07.N662.coverage.fits.fz"

    @property
    def matched(self) -> tuple[Path, Path]:
        """Mosaic with matched backgrounds and its coverage map."""
        directory = self.products.with_name("T07_b")
        return directory / self.mosaic.name, directory / self.coverage.name

    def expose(
        self, pixels, header=None, mask=None, exptime=60.0, scale=1.0, back=0.0, noise=1.0, name=None, seeing=1.0, matched=None,
        **cards,
    ):  # fmt: skip
        """Write an exposure and add its detector to the plan; ``matched`` has the numbers of its matched background."""
        number = len(self.inputs) + 1
        name = name or f"c4d_16010{number}_ooi_N662_v1.fits"
        pixels = np.asarray(pixels, dtype=np.float32)
        header = tan_cards(self.grid, pixels.shape) if header is None else header
        primary = fits.PrimaryHDU()
        facts = {"EXPTIME": exptime, "MJD-OBS": 57388.0 + number, "TELESCOP": "CTIO 4.0-m telescope", "INSTRUME": "DECam"}
        primary.header.update(facts)
        header.update(cards)
        fits.HDUList([primary, fits.ImageHDU(pixels, header, name="N4")]).writeto(self.mef / name)
        if mask is not None:
            hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.asarray(mask, dtype=np.int16), header, name="N4")]
            fits.HDUList(hdus).writeto(self.mef / name.replace("_ooi_", "_ood_"))
        root = name.removesuffix(".fz").removesuffix(".fits")
        background = Background(*matched) if matched else None
        self.inputs.append(CoaddInput(self.mef / name, root, "N4", exptime, scale, back, noise, seeing, background))
        return self

    @property
    def plan(self) -> CoaddPlan:
        return CoaddPlan("LMC_c42", "T07", "N662", "N662", self.grid, tuple(self.inputs))

    def coadd(self, engine, progress=None, backgrounds=("original",), **options):
        """Co-add everything; of the last of the backgrounds the mosaic's pixels and the coverage, and the result."""
        products = {"original": (self.mosaic, self.coverage), "matched": self.matched}
        result = engine.coadd(replace(self.plan, backgrounds=backgrounds), CoaddConfig(**options), products, progress)
        with fits.open(products[backgrounds[-1]][0]) as mosaic, fits.open(products[backgrounds[-1]][1]) as coverage:
            return mosaic[0].data.astype(np.float32), np.array(coverage[1].data), result
