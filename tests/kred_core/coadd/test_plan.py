"""Which pixels a mosaic has, and what goes into it."""

from pathlib import Path

import pytest
from astropy.table import Table

from kred_core.coadd.plan import make_grid, make_plan
from kred_core.config import CoaddConfig

ROW = {
    "Field": "F", "File": "a.fits.fz", "Root": "a", "EXTNAME": "N1", "EXPTIME": 60.0, "XFACTOR": 0.5, "SUB_BACK": 20.0,
    "Noise": 8.0, "SEEING": 1.1, "FILTER": "r", "PixScale": 0.2623,
}  # fmt: skip


def test_the_pixels_are_the_detectors_own_rounded_up():
    grid = make_grid(80.0, -66.0, 0.2623, CoaddConfig())
    assert (grid.pixel_scale, grid.nx, grid.ny) == (0.27, 8700, 8700)
    assert make_grid(80.0, -66.0, 4.1968, CoaddConfig()).pixel_scale == 4.2
    assert make_grid(80.0, -66.0, 0.27, CoaddConfig()).pixel_scale == 0.27


def test_scale_and_size_can_be_chosen():
    grid = make_grid(80.0, -66.0, 0.2623, CoaddConfig(pixel_scale=0.5, size=0.1))
    assert (grid.pixel_scale, grid.nx) == (0.5, 720)


def plan(config=None, **changes):
    def path_of(field, file):
        return Path("/data") / field / file

    return make_plan("F", "T01", "r", Table(rows=[ROW | changes]), (80.0, -66.0), path_of, config or CoaddConfig())


def test_rows_become_inputs():
    entry = plan().inputs[0]
    assert entry.path == Path("/data/F/a.fits.fz")
    assert (entry.scale, entry.back, entry.exptime, entry.seeing) == (0.5, 20.0, 60.0, 1.1)
    assert entry.sky_noise == pytest.approx(4.0)  # counts28


def test_the_digest_knows_everything_but_the_place_of_the_data():
    config = CoaddConfig()
    same = make_plan("F", "T01", "r", Table(rows=[ROW]), (80.0, -66.0), lambda field, file: Path("/elsewhere") / file, config)
    assert same.digest(config) == plan().digest(config)
    others = [plan(SUB_BACK=20.1), plan(EXTNAME="N2"), plan(CoaddConfig(size=0.2))]
    digests = {p.digest(config) for p in others} | {plan().digest(CoaddConfig(combine="clipped")), plan().digest(config)}
    assert len(digests) == 5
