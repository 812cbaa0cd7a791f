"""Which pixels a mosaic has, and what goes into it."""

from pathlib import Path

import pytest
from astropy.table import Table

from kred_core.background import Background
from kred_core.coadd.plan import make_grid, make_plan
from kred_core.config import CoaddConfig, SurveyConfig
from kred_core.survey import tiles

ROW = {
    "Field": "F", "File": "a.fits.fz", "Root": "a", "EXTNAME": "N1", "EXPTIME": 60.0, "XFACTOR": 0.5, "SUB_BACK": 20.0,
    "Noise": 8.0, "SEEING": 1.1, "FILTER": "r", "PixScale": 0.2623,
}  # fmt: skip


def test_the_pixels_are_the_detectors_own_rounded_up():
    grid = make_grid(80.0, -66.0, 0.1, 0.2623, CoaddConfig())
    assert (grid.pixel_scale, grid.nx, grid.ny) == (0.27, 1333, 1333)
    assert make_grid(80.0, -66.0, 0.1, 4.1968, CoaddConfig()).pixel_scale == 4.2
    assert make_grid(80.0, -66.0, 0.1, 0.27, CoaddConfig()).pixel_scale == 0.27


@pytest.mark.parametrize(("field", "tile"), [("LMC_c42", "T07"), ("LMC_30Dor", "T01"), ("SMC_c02", "T16")])
def test_mosaics_of_the_survey_have_its_standard_size_whatever_feeds_the_tile(field, tile):
    (found,) = tiles(field, SurveyConfig(), [tile])
    assert found.size >= 0.67
    assert make_grid(80.0, -66.0, found.mosaic, 0.2623, CoaddConfig()).nx == 8700


def path_of(field, file):
    return Path("/data") / field / file


def plan(config=None, size=0.6525, **changes):
    return make_plan("F", "T01", "r", Table(rows=[ROW | changes]), (80.0, -66.0), size, path_of, config or CoaddConfig())


def test_rows_become_inputs():
    entry = plan().inputs[0]
    assert entry.path == Path("/data/F/a.fits.fz")
    assert (entry.scale, entry.back, entry.exptime, entry.seeing) == (0.5, 20.0, 60.0, 1.1)
    assert entry.sky_noise == pytest.approx(4.0)  # counts28


def matched(*numbers, mosaics="both", **changes):
    """A plan whose one detector has a matched background with these numbers."""
    config = CoaddConfig(mosaics=mosaics)
    return make_plan("F", "T01", "r", Table(rows=[ROW | changes]), (80.0, -66.0), 0.6525, path_of, config, [Background(*numbers)])


def test_each_mosaic_has_its_background():
    entry = matched(20.5, 0.01, -0.02, 3.0).inputs[0]
    assert entry.background("original") == Background(20.0)
    assert entry.background("matched") == Background(20.5, 0.01, -0.02, 3.0)
    assert entry.background("original").is_constant
    assert not entry.background("matched").is_constant


def test_matched_backgrounds_may_be_unknown_while_the_mosaics_are_planned():
    unknown = plan(CoaddConfig(mosaics="matched"))
    assert unknown.backgrounds == ("matched",)
    assert unknown.inputs[0].matched is None


def test_the_digest_knows_everything_but_the_place_of_the_data():
    config = CoaddConfig()
    rows = Table(rows=[ROW])
    same = make_plan("F", "T01", "r", rows, (80.0, -66.0), 0.6525, lambda field, file: Path("/elsewhere") / file, config)
    assert same.digest(config, "original") == plan().digest(config, "original")
    others = [plan(), plan(SUB_BACK=20.1), plan(EXTNAME="N2"), plan(size=0.2)]
    digests = {p.digest(config, "original") for p in others} | {plan().digest(CoaddConfig(combine="clipped"), "original")}
    assert len(digests) == 5


def test_the_digest_does_not_know_what_the_mosaic_does_not_depend_on():
    config = CoaddConfig()
    others = {"original": [matched(7.0), plan()], "matched": [matched(20.5, SUB_BACK=7.0), matched(20.5, mosaics="matched")]}
    for background in ("original", "matched"):
        for other in others[background]:
            assert other.digest(config, background) == matched(20.5).digest(config, background)
        for options in ({"mosaics": "none"}, {"memory": 2.0}, {"swarp_timeout": 100.0}):
            assert matched(20.5).digest(CoaddConfig(**options), background) == matched(20.5).digest(config, background)
