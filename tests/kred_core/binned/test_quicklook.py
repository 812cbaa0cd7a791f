"""The quick look of binned maps whose sky, offsets and places are known: medians, planes, places on the sky, and the file."""

import re
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from kred_core.background import Background
from kred_core.binned import BinnedGrid, BinnedMap, quicklook
from kred_core.errors import InputError
from kred_core.fits.hdu import scan
from kred_core.products import FieldPaths
from kred_core.survey import Tile

GRID = BinnedGrid(80.0, -68.0, 2.0)
AREA = 0.0688  # arcsec2, of a native pixel of DECam
USUAL = 58  # pixels in a cell


def binned_map(x0, y0, mean, count=USUAL, extname="N1"):
    """A binned map whose cells hold ``mean``; u along its rows, v along its columns, from -1 to 1."""
    mean = np.asarray(mean, np.float32)
    ny, nx = mean.shape
    count = np.where(np.isfinite(mean), count, 0).astype(np.uint16)
    to_detector = np.array([[2 / nx, 0, -(2 * x0 + nx - 1) / nx], [0, 2 / ny, -(2 * y0 + ny - 1) / ny]])
    return BinnedMap("c4d_1_ooi_N662", extname, x0, y0, mean, np.full_like(mean, 5), count, 45.0, AREA, to_detector)


def sky(x, y):
    """A smooth sky, counts28 per square arcsec, of cells."""
    return 300 + 80 * np.sin(x / 70) * np.cos(y / 90)


def boxes_of(maps):
    return np.array([(s.x0, s.y0, *s.mean.shape[::-1]) for s in maps]).reshape(-1, 4)


def look_at(maps, **subtract):
    subtract = subtract or {"before": np.zeros(len(maps))}
    return quicklook.quick_look(boxes_of(maps), maps.__getitem__, subtract, AREA)


@pytest.fixture(scope="module")
def field():
    """Forty detectors of the same sky, each with an offset; some cells without pixels, some with few."""
    rng = np.random.default_rng(3)
    maps, offsets = [], rng.normal(0, 60, 40)
    for offset in offsets:
        x0, y0 = (int(v) for v in rng.integers(-120, 120, 2))
        y, x = np.mgrid[y0 : y0 + 40, x0 : x0 + 80]
        mean = sky(x, y) + offset + rng.normal(0, 2, x.shape)
        mean[rng.random(x.shape) < 0.05] = np.nan
        count = np.where(rng.random(x.shape) < 0.1, 20, USUAL)
        count[0] = 28  # less than half: the edge of the detector
        maps.append(binned_map(x0, y0, mean, count))
    return maps, offsets


def brute_force(maps, backgrounds):
    """Median and number of all good values of each cell, or of all values where there is no good one."""
    x0, y0 = (min(v) for v in zip(*((s.x0, s.y0) for s in maps), strict=True))
    x1 = max(s.x0 + s.mean.shape[1] for s in maps)
    y1 = max(s.y0 + s.mean.shape[0] for s in maps)
    stack = np.full((2, len(maps), y1 - y0, x1 - x0), np.nan, np.float32)
    for i, (s, background) in enumerate(zip(maps, backgrounds, strict=True)):
        where = np.s_[i, s.y0 - y0 : s.y0 - y0 + s.mean.shape[0], s.x0 - x0 : s.x0 - x0 + s.mean.shape[1]]
        poor = s.count < USUAL / 2
        value = (AREA * (s.mean.astype(np.float64) - background)).astype(np.float32)
        stack[0][where], stack[1][where] = np.where(poor, np.nan, value), np.where(poor, value, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # cells without any value
        good, poor = np.nanmedian(stack, axis=1)
    n_good, n_poor = np.isfinite(stack).sum(axis=1)
    return x0, y0, np.where(n_good > 0, good, poor), np.where(n_good > 0, n_good, n_poor)


def test_each_cell_is_the_median_of_the_detectors_that_know_enough_about_it(field):
    maps, offsets = field
    look = look_at(maps, before=np.zeros(40), after=offsets)
    for name, backgrounds in (("before", np.zeros(40)), ("after", offsets)):
        x0, y0, median, coverage = brute_force(maps, backgrounds)
        assert (look.x0, look.y0) == (x0, y0)
        np.testing.assert_array_equal(look.images[name], median)
        np.testing.assert_array_equal(look.coverage, coverage)
    assert look.images["after"].dtype == np.float32
    assert look.coverage.dtype == np.int16
    assert np.isnan(look.images["after"]).any()
    assert look.coverage.max() > 5
    before, after, removed = quicklook.jumps(look)
    assert after < 0.2 * before
    assert removed == pytest.approx(before, rel=0.2)


@pytest.mark.parametrize("planes", [False, True])
def test_neither_the_order_of_stamps_nor_the_height_of_strips_changes_a_bit(field, planes, monkeypatch):
    maps, offsets = field
    shapes = Background(*np.random.default_rng(1).normal(0, 9, (4, 40))) if planes else offsets
    whole = look_at(maps, after=shapes)
    order = np.random.default_rng(2).permutation(40)
    for rows in (1, 7, 1000):
        monkeypatch.setattr(quicklook, "STRIP_ROWS", rows)
        again = look_at([maps[i] for i in order], after=shapes[order])
        assert again.images["after"].tobytes() == whole.images["after"].tobytes()
        assert again.coverage.tobytes() == whole.coverage.tobytes()


def test_planes_and_amplifier_steps_are_subtracted_where_they_are_on_the_detector():
    y, x = np.mgrid[0:40, 0:80]
    u, v = (2 * x - 79) / 80, (2 * y - 39) / 40
    shape = Background(*np.array([[12.0], [3.0], [-5.0], [8.0]]))
    look = look_at([binned_map(30, -70, 100 + 12 + 3 * u - 5 * v + 4 * np.sign(u))], before=np.zeros(1), after=shape)
    np.testing.assert_allclose(look.images["after"], 100 * AREA, rtol=1e-6)
    assert np.ptp(look.images["before"]) > 15 * AREA


def test_nan_stays_and_a_map_without_any_good_cell_or_of_no_size_changes_nothing():
    mean = np.arange(12.0).reshape(3, 4)
    mean[1, 2] = np.nan
    one, nothing = binned_map(-2, 5, mean), binned_map(0, 7, np.full((4, 4), np.nan))
    boxes = [(900, 900, 0, 7), *boxes_of([nothing, one])]
    look = quicklook.quick_look(boxes, [None, nothing, one].__getitem__, {"before": np.ones(3)}, AREA)
    assert (look.x0, look.y0, look.shape) == (-2, 5, (6, 6))
    np.testing.assert_allclose(look.images["before"][:3, :4], (mean - 1) * AREA, rtol=1e-6)
    assert np.count_nonzero(np.isfinite(look.images["before"])) == look.coverage.sum() == 11


def test_each_map_is_loaded_once_and_forgotten_after_its_last_row():
    ny, nx, n = 200, 100, 60
    loaded = []

    def load(number):
        loaded.append(number)
        return binned_map(0, 190 * number, np.ones((ny, nx)))

    boxes = [(0, 190 * i, nx, ny) for i in range(n)]
    quicklook.quick_look(boxes[:2], load, {"before": np.zeros(2)}, AREA)  # compiles
    loaded.clear()
    tracemalloc.start()
    look = quicklook.quick_look(boxes, load, {"before": np.zeros(n)}, AREA)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loaded == list(range(n))
    product = look.coverage.nbytes + look.images["before"].nbytes
    assert most - product < 0.2 * n * ny * nx * 5


@pytest.mark.parametrize("grid", [GRID, BinnedGrid(0.0, -72.0, 2.0), BinnedGrid(359.999, 40.0, 2.5)], ids=["LMC", "0h", "24h"])
def test_a_star_appears_at_its_position_in_the_mosaic_the_tile_and_the_file(grid, tmp_path):
    star = SkyCoord(grid.ra + 0.11, grid.dec - 0.07, unit="deg")
    x, y = (int(np.rint(v)) for v in grid.wcs.wcs_world2pix(star.ra.deg, star.dec.deg, 0))
    mean = np.full((300, 300), 10.0)
    mean[y - (y - 100), x - (x - 40)] = 5000
    look = look_at([binned_map(x - 40, y - 100, mean)])
    tile = Tile("LMC_c42", "T07", (star.ra.deg + 0.02) % 360, star.dec.deg, 0.1)
    part = quicklook.cut(look, grid, tile)
    quicklook.write(tmp_path / "look.fits.fz", part, grid, "LMC_c42", "N662", "T07")
    reduced = quicklook.reduced(look, grid, "before", 1000)
    quarter = quicklook.reduced(look, grid, "before", 80)
    assert (reduced.factor, quarter.factor) == (1, 4)
    found = [(reduced.image, reduced.wcs, 1.0), (quarter.image, quarter.wcs, 4.0)]
    with fits.open(tmp_path / "look.fits.fz") as hdus:
        found += [(hdus["BEFORE"].data, WCS(hdus[i].header), 1.0) for i in ("BEFORE", "COVERAGE")]
    for image, wcs, cells in found:
        row, column = np.unravel_index(np.nanargmax(image), image.shape)
        assert wcs.pixel_to_world(column, row).separation(star).arcsec < 0.75 * cells * grid.cell


def test_the_cut_holds_the_square_of_the_tile_and_hardly_more():
    tile = Tile("LMC_c42", "T07", 81.0, -68.3, 0.3)
    look = quicklook.cut(look_at([binned_map(0, 0, np.ones((20, 20)))]), GRID, tile)
    frame = SkyCoord(tile.ra, tile.dec, unit="deg").skyoffset_frame()
    y, x = np.mgrid[look.y0 : look.y0 + look.shape[0], look.x0 : look.x0 + look.shape[1]]
    offset = SkyCoord(*GRID.wcs.wcs_pix2world(x.ravel(), y.ravel(), 0), unit="deg").transform_to(frame)
    inside = (np.maximum(np.abs(offset.lon.wrap_at("180d").deg), np.abs(offset.lat.deg)) < 0.15).reshape(look.shape)
    assert inside.sum() == pytest.approx((0.3 * 1800) ** 2, rel=2e-3)
    assert all(line.any() for line in (inside[1], inside[-2], inside[:, 1], inside[:, -2]))
    assert not any(line.all() for line in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_what_the_look_does_not_reach_is_without_data_in_the_tile():
    look = look_at([binned_map(-100, -100, np.full((200, 200), 3.0))])
    corner = quicklook.cut(look, GRID, Tile("F", "T01", *GRID.wcs.wcs_pix2world([[100, 100]], 0)[0].tolist(), 0.05))
    assert 0.2 < np.mean(corner.coverage) < 0.3
    assert np.isfinite(corner.images["before"][0, 0])
    assert np.isnan(corner.images["before"][-1, -1])
    away = quicklook.cut(look, GRID, Tile("F", "T02", GRID.ra + 5, GRID.dec, 0.05))
    assert away.coverage.sum() == 0
    assert np.isnan(away.images["before"]).all()
    assert quicklook.jumps(replace(away, images={"before": away.images["before"], "after": away.images["before"]})) == (None,) * 3
    with pytest.raises(InputError, match="tile T03 of field F does not lie on the grid"):
        quicklook.cut(look, GRID, Tile("F", "T03", GRID.ra + 180, -GRID.dec, 0.05))


def test_the_file_says_what_it_shows_and_is_read_back(field, tmp_path):
    maps, offsets = field
    look = look_at(maps, before=np.zeros(40), after=offsets)
    path = FieldPaths(tmp_path, "LMC_c42").quick_look("N662", "T07")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quicklook.write(path, look, GRID, "LMC_c42", "N662", "T07", configuration="abc")
        before = path.read_bytes()
        quicklook.write(path, look, GRID, "LMC_c42", "N662", "T07", configuration="abc")
        assert path.read_bytes() == before
        assert all("CHECKSUM" in hdu.header for hdu in scan(path))
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "BEFORE", "AFTER", "COVERAGE"]
            assert hdus[0].header["OBJECT"] == "LMC_c42_T07"
            header = hdus["AFTER"].header
            facts = {"BUNIT": "count", "PIXAREA": AREA, "CELL": 2.0, "IMAGE": "N662", "MAGZERO": 28.0, "KREDCONF": "abc"}
            assert {key: header[key] for key in facts} == facts
            steps = [hdus[name].header["QSTEP"] for name in ("BEFORE", "AFTER")]
        grid, back = quicklook.read(path)
    assert grid == GRID
    assert (back.x0, back.y0, back.pixel_area, list(back.images)) == (look.x0, look.y0, AREA, ["before", "after"])
    np.testing.assert_array_equal(back.coverage, look.coverage)
    for name, step in zip(look.images, steps, strict=True):
        difference = back.images[name] - look.images[name]
        np.testing.assert_array_equal(np.isnan(back.images[name]), np.isnan(look.images[name]))
        assert step < 2 * AREA / 8  # of the noise of a cell where one detector lies
        assert np.nanmax(np.abs(difference)) <= 0.5 * step * 1.01
        assert abs(np.nanmean(difference)) < 0.01 * step
    assert not list(path.parent.glob(".*"))
    assert path.stat().st_size < 2 * 3 * look.coverage.size  # bytes


@pytest.mark.parametrize("values", [0.0, 1e-3, 350.25, 1e6], ids=["nothing", "faint", "sky", "bright"])
def test_a_sky_without_noise_is_kept_to_seven_digits(values, tmp_path):
    mean = np.full((40, 40), values)
    mean[20:] *= 3
    look = look_at([binned_map(0, 0, mean)])
    quicklook.write(tmp_path / "look.fits.fz", look, GRID, "LMC_c42", "N662")
    _, back = quicklook.read(tmp_path / "look.fits.fz")
    np.testing.assert_allclose(back.images["before"], look.images["before"], rtol=1e-6, atol=1e-7)


def test_what_cannot_be_shown_is_explained(tmp_path):
    one = binned_map(0, 0, np.ones((4, 4)), extname="S7")
    boxes = boxes_of([one])
    load = [one].__getitem__
    cases = [
        (np.empty((0, 4)), {"before": []}, "no binned map"),
        ([(0, 0, 0, 0)], {"before": [0.0]}, "no binned map"),
        ([(0, 0, 4, 4), (50000, 0, 4, 4)], {"before": [0.0, 0.0]}, "50004 x 4 cells"),
        (boxes, {"after": [np.nan]}, "'after' of 1 detectors is not finite"),
        (boxes, {"after": [0.0, 1.0]}, r"shape (2,), expected (1,)"),
        (boxes, {"COVERAGE": [0.0]}, "cannot name a version"),
        ([(1, 0, 4, 4)], {"before": [0.0]}, "S7: expected x0, y0, nx, ny = 1, 0, 4, 4, found 0, 0, 4, 4"),
    ]
    for these, subtract, message in cases:
        with pytest.raises(InputError, match=re.escape(message)):
            quicklook.quick_look(these, load, subtract, AREA)
    with pytest.raises(InputError, match="run the stage 'match' first"):
        quicklook.read(tmp_path / "none.fits.fz")
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "other.fits")
    with pytest.raises(InputError, match=r"other\.fits cannot be read"):
        quicklook.read(tmp_path / "other.fits")
