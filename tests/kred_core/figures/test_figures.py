"""Figures show the sky the right way up, at the right place, with honest greys, and say what they show."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_figures import BLUE, look, words

from kred_core import figures
from kred_core.evaluation import MosaicNumbers, ReducedImage
from kred_core.figures.sky import FIELD_SIDE
from kred_core.sky import Grid, tan_wcs

ROOT = Path(__file__).parents[3]
LEVEL, STD = 5.0, 40.0  # with a stretch of 0.1: black at 1, white at 9
NUMBERS = MosaicNumbers(
    n_covered=70_000_000, covered_fraction=0.925, coverage_median=7.0, coverage_max=12, level=LEVEL, mean=6.0, std=STD,
    noise=3.21, block_jump=0.456, low_pass_rms=0.7, block=64,
)  # fmt: skip


def reduced_image(image, ra=81.8, dec=-66.45, side=0.65, coverage=None, factor=8):
    rows, columns = image.shape
    wcs = tan_wcs(Grid(ra, dec, side * 3600 / columns, columns, rows))
    coverage = np.where(np.isfinite(image), 4.0, 0.0) if coverage is None else coverage
    return ReducedImage(image.astype(np.float32), coverage.astype(np.float32), wcs, factor)


@pytest.fixture
def quarters():
    """Bright in the north east, dark in the south west, the median in the north west, no data in the south east."""
    image = np.full((60, 60), LEVEL)
    image[30:, :30] = 1e6
    image[:30, :30] = np.nan
    image[:30, 30:] = -1e6
    return reduced_image(image)  # rows count northwards, columns westwards: east is left


@pytest.fixture
def draw_sky(draw, tmp_path):
    """Draw a figure of mosaics: it, and the parts of its file that are images of the sky."""

    def draw_sky(function, *arguments):
        figure = draw(function, *arguments)
        picture, parts = look(tmp_path / "f.png"), []
        rows, columns = picture.shape[:2]
        for box in (axes.get_position() for axes in figure.axes if axes.images):
            left, right, top, bottom = box.x0 * columns, box.x1 * columns, (1 - box.y1) * rows, (1 - box.y0) * rows
            parts.append(picture[round(top) : round(bottom), round(left) : round(right)])
        return figure, parts

    return draw_sky


@pytest.fixture
def draw_mosaic(draw_sky):
    return lambda image, numbers=NUMBERS, title="F T01 N662": draw_sky(figures.mosaic_figure, image, numbers, title, 0.1)


@pytest.fixture
def draw_field(draw_sky):
    def draw_field(*tiles):
        figure, (sky,) = draw_sky(figures.field_figure, [(f"T{i:02d}", tile) for i, tile in enumerate(tiles, 1)], "F N662")
        return figure, figure.axes[0].images[0].get_array(), sky

    return draw_field


def near(colour, expected, tolerance=6):
    return np.abs(np.asarray(colour) - np.asarray(expected)).max() <= tolerance


class TestMosaic:
    def test_north_is_up_east_is_left_and_greys_are_the_median_and_its_surroundings(self, quarters, draw_mosaic):
        _, (_, sky) = draw_mosaic(quarters)
        quarter, three_quarters = np.array(sky.shape[:2]) // 4 + 5, 3 * np.array(sky.shape[:2]) // 4 + 5
        assert near(sky[quarter[0], quarter[1]], (255, 255, 255))  # bright, north east: upper left
        assert near(sky[quarter[0], three_quarters[1]], (128, 128, 128))
        assert near(sky[three_quarters[0], three_quarters[1]], (0, 0, 0))
        assert near(sky[three_quarters[0], quarter[1]], BLUE)

    def test_says_what_it_shows(self, quarters, draw_mosaic):
        figure, _ = draw_mosaic(quarters, title="LMC_c42 T07 N662   12 exposures, 36 detectors")
        title, subtitle, note = words(figure)
        assert title == "LMC_c42 T07 N662   12 exposures, 36 detectors"
        assert (
            subtitle.split()
            == (
                "level 5 std 40 noise 3.21 block jump 0.456 counts28/pixel "
                "block jump: 99th percentile of |difference| of the medians of adjacent 64 × 64 pixels"
            ).split()
        )
        assert "asinh from percentile 0.5 to 99.5" in note
        assert "mean of 8 × 8, 39″" in note
        sky, sky_bar, flaws, flaws_bar = figure.axes
        assert [axes.texts[0].get_text() for axes in (sky, flaws)] == ["sky", "flaws: median ± 0.1 standard deviations"]
        assert sky_bar.get_ylabel() == flaws_bar.get_ylabel() == "counts28/pixel"
        assert flaws.images[0].get_clim() == pytest.approx((1, 9))
        figure, _ = draw_mosaic(quarters, replace(NUMBERS, noise=None, block_jump=None))
        assert words(figure)[1].split() == "level 5 std 40 counts28/pixel".split()  # numbers that do not exist are not shown

    @pytest.mark.filterwarnings("ignore:CoordinateHelper.ticklabels")  # there is no other way to read them
    @pytest.mark.parametrize(
        ("ra", "dec", "right_ascension", "declination"),
        [(81.8, -66.45, "5ʰ28ᵐ", "-66°20′"), (0.001, 2.0, "23ʰ59ᵐ", "2°00′"), (0.02, -89.0, "0ʰ00ᵐ", "-89°00′")],
    )
    def test_axes_are_sexagesimal_everywhere_on_the_sky(self, draw_mosaic, ra, dec, right_ascension, declination):
        axes = draw_mosaic(reduced_image(np.ones((40, 40)), ra, dec))[0].axes[0]
        east_west, south_north = ([text for texts in c.ticklabels.text.values() for text in texts] for c in axes.coords)
        assert any(label.startswith(right_ascension) for label in east_west), east_west
        assert declination in [label.replace("\N{MINUS SIGN}", "-") for label in south_north], south_north
        assert len(east_west) >= 3
        assert len(south_north) >= 3
        assert [c.get_axislabel() for c in axes.coords] == ["Right ascension (ICRS)", "Declination (ICRS)"]


ODD = {
    "no data": np.full((40, 40), np.nan), "one pixel": np.array([[3.0]]), "one row": np.arange(50.0)[None],
    "constant": np.full((40, 40), -7.0), "infinite": np.where(np.eye(40) > 0, np.inf, 1.0),
    "huge": np.geomspace(1e30, 1e37, 1600).reshape(40, 40),
    "nearly constant": np.where(np.arange(1600).reshape(40, 40) == 7, 1e6, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("error")
def test_odd_mosaics_are_drawn_without_a_warning(draw_mosaic, draw_field, kind):
    known = ODD[kind][np.isfinite(ODD[kind])]
    level, std = (float(np.median(known)), float(known.std())) if known.size else (0.0, 0.0)
    image = reduced_image(ODD[kind])
    for figure in (draw_mosaic(image, replace(NUMBERS, level=level, std=std))[0], draw_field(image)[0]):
        scale = figure.axes[0].images[0].norm
        assert np.isfinite([scale.vmin, scale.vmax]).all()
        assert scale.vmin < scale.vmax


def test_coverage_grows_brighter_and_what_is_uncovered_is_blue(draw_sky):
    coverage = np.zeros((60, 60))
    coverage[:30, :30], coverage[:30, 30:], coverage[30:, :30] = 1, 6, 12
    image = reduced_image(np.where(coverage > 0, 1.0, np.nan), coverage=coverage)
    figure, (sky,) = draw_sky(figures.coverage_figure, image, NUMBERS, "F T01 N662")
    south_east, south_west, north_east, north_west = sky[700, 205], sky[700, 705], sky[205, 205], sky[205, 705]
    assert south_east.sum() < south_west.sum() < north_east.sum()
    assert near(north_west, BLUE)
    assert words(figure)[0] == "F T01 N662 · coverage"
    assert words(figure)[1].split() == "covered 92.5 % median 7 most 12 detectors per pixel".split()
    assert figure.axes[1].get_ylabel() == "detectors per pixel"
    assert figure.axes[0].images[0].get_clim() == (0, 12)
    assert all(tick == round(tick) for tick in figure.axes[1].get_yticks())


class TestField:
    def test_tiles_lie_where_they_are_on_the_sky(self, draw_field):
        east, west = (
            reduced_image(np.full((80, 80), value), ra, dec, 0.5) for value, ra, dec in ((100, 0.4, -0.4), (-100, 359.6, 0.4))
        )
        figure, _, sky = draw_field(east, west)
        rows, columns = sky.shape[:2]
        assert near(sky[int(rows * 0.92), int(columns * 0.3)], (255, 255, 255))  # south east is lower left
        assert near(sky[int(rows * 0.3), int(columns * 0.92)], (0, 0, 0))
        assert near(sky[int(rows * 0.15), int(columns * 0.15)], BLUE)
        wcs = figure.axes[0].wcs
        names = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
        for name, reduced in (("T01", east), ("T02", west)):
            inside = reduced.wcs.wcs_world2pix(*wcs.wcs_pix2world(*names[name], 0), 0)
            np.testing.assert_allclose(inside, (0.22 * 80, 0.78 * 80), atol=1)  # upper left of its tile
        assert words(figure)[:2] == ["F N662", "2 tiles   median 0  counts28/pixel"]

    def test_a_star_is_where_it_is_in_the_tile_also_near_the_pole(self, draw_field):
        image = np.zeros((200, 200))
        image[150:153, 40:43] = 50.0
        tiles = [reduced_image(image, ra, dec) for ra, dec in ((10.0, -89.0), (70.0, -88.8), (350.0, -88.5))]
        figure, shown, _ = draw_field(*tiles)
        for reduced in tiles:
            x, y = figure.axes[0].wcs.wcs_world2pix(*reduced.wcs.wcs_pix2world(41, 151, 0), 0)
            assert shown[round(float(y)), round(float(x))] > 20  # a mean where tiles overlap
        assert (shown > 10).sum() < 200

    @pytest.mark.parametrize(("pixels", "dec"), [(20, -66), (333, 0), (700, -88.9)])
    def test_tiles_of_any_size_leave_no_holes(self, draw_field, pixels, dec):
        _, image, _ = draw_field(reduced_image(np.ones((pixels, pixels)), 5, dec))
        assert min(pixels, FIELD_SIDE) - 1 <= max(image.shape) <= FIELD_SIDE + 1
        inner = image[1:-1, 1:-1]
        assert not np.ma.getmaskarray(inner).any()
        assert (inner == 1).all()

    def test_overlapping_tiles_are_averaged(self, draw_field):
        low, high = np.full((50, 50), 2.0), np.full((50, 50), 4.0)
        high[:10] = np.nan
        _, image, _ = draw_field(reduced_image(low), reduced_image(high))
        assert image[20, 20] == 3
        assert image[5, 20] == 2


def test_a_matplotlibrc_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: caf\xe9\n")
    script = "from kred_core.figures import drawing\nwith drawing.own_style():\n    pass"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "ToolError: matplotlib cannot be imported: UnicodeDecodeError" in done.stderr
    assert "Move a file matplotlibrc that it cannot read away" in done.stderr


def test_whoever_draws_nothing_does_not_load_matplotlib():
    code = "import sys, kred_core.figures; print('matplotlib' in sys.modules or 'PIL' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
