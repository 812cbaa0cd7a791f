"""Figures show the sky the right way up, at the right place, with honest greys, and say what they show."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageColor

from kred_core import figures
from kred_core.evaluation import MosaicNumbers, ReducedImage
from kred_core.figures import drawing, panels
from kred_core.figures import sky as sky_figures
from kred_core.sky import Grid, tan_wcs

ROOT = Path(__file__).parents[3]
BLUE = ImageColor.getrgb(figures.UNCOVERED)
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
    # rows count northwards, columns westwards: east is left
    return reduced_image(image)


@pytest.fixture
def drawn(monkeypatch):
    """The figures behind the files that were written."""
    kept = []
    save = drawing.save

    def keep_and_save(figure, path, grey):
        save(figure, path, grey)
        kept.append(figure)

    monkeypatch.setattr(drawing, "save", keep_and_save)
    return kept


def look(path):
    """A picture as an array of red, green and blue."""
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def image_part(picture, shape):
    """The part of a picture that is the sky; from the layout in inches that the module states."""
    enlarged = [n * max(1, -(-sky_figures.SMALLEST_SIDE // max(shape))) for n in shape]
    dpi = max(enlarged) / sky_figures.SIDE
    left, top = round(sky_figures.LEFT * dpi), round(sky_figures.TOP * dpi)
    assert picture.shape[0] == enlarged[0] + top + round(sky_figures.BOTTOM * dpi)
    assert picture.shape[1] == enlarged[1] + left + round(sky_figures.RIGHT * dpi)
    return picture[top : top + enlarged[0], left : left + enlarged[1]]


def panel_part(picture, shape, k):
    """The sky (0) or the flaws (1) in the figure of a mosaic; from the layout in inches that the module of panels states."""
    enlarged = [n * max(1, -(-panels.SMALLEST_SIDE // max(shape))) for n in shape]
    dpi = max(enlarged) / panels.SIDE
    left, top = round(panels.LEFT * dpi), round(panels.TOP * dpi)
    assert picture.shape[0] == enlarged[0] + top + round(panels.BOTTOM * dpi)
    left += k * (enlarged[1] + round(panels.GAP * dpi) + round(panels.BAR_ROOM * dpi))
    return picture[top : top + enlarged[0], left : left + enlarged[1]]


def near(colour, expected, tolerance=6):
    return np.abs(np.asarray(colour) - np.asarray(expected)).max() <= tolerance


def words_of(figure):
    """All that is written in a figure, without the tick labels."""
    sky = figure.axes[0]
    return [text.get_text() for text in figure.texts] + [coordinate.get_axislabel() for coordinate in sky.coords]


def tick_labels(figure):
    return [[text for texts in c.ticklabels.text.values() for text in texts] for c in figure.axes[0].coords]


def test_north_is_up_east_is_left_and_greys_are_the_median_and_its_surroundings(quarters, tmp_path):
    figures.mosaic_figure(quarters, NUMBERS, "F T01 N662", 0.1, tmp_path / "f.png")
    sky = panel_part(look(tmp_path / "f.png"), (60, 60), 1)
    quarter, three_quarters = np.array(sky.shape[:2]) // 4 + 5, 3 * np.array(sky.shape[:2]) // 4 + 5
    assert near(sky[quarter[0], quarter[1]], (255, 255, 255))  # bright, north east: upper left
    assert near(sky[quarter[0], three_quarters[1]], (128, 128, 128))
    assert near(sky[three_quarters[0], three_quarters[1]], (0, 0, 0))
    assert near(sky[three_quarters[0], quarter[1]], BLUE)


def test_the_stretch_is_in_standard_deviations(tmp_path):
    image = np.full((60, 60), LEVEL + 2.0)  # half way to white with 0.1, a twentieth with 1
    for stretch, grey in ((0.1, 0.75), (1.0, 0.525)):
        figures.mosaic_figure(reduced_image(image), NUMBERS, "F T01 N662", stretch, tmp_path / "f.png")
        sky = panel_part(look(tmp_path / "f.png"), (60, 60), 1)
        assert near(sky[100, 100], [255 * grey] * 3, 5)


def test_one_pixel_of_the_image_is_a_whole_square_of_the_picture(tmp_path):
    image = np.full((50, 60), -1e6)
    image[20, 10] = 1e6
    figures.mosaic_figure(reduced_image(image), NUMBERS, "F T01 N662", 0.1, tmp_path / "f.png")
    for k in range(2):
        sky = panel_part(look(tmp_path / "f.png"), (50, 60), k)
        rows, columns = np.nonzero(sky.min(axis=2) > 250)
        # 9 times enlarged; the first row is at the bottom
        assert (rows.min(), rows.max()) == (9 * 29, 9 * 30 - 1)
        assert (columns.min(), columns.max()) == (9 * 10, 9 * 11 - 1)


def test_a_mosaic_is_shown_so_that_nebulae_are_seen_and_beside_it_so_that_flaws_are(drawn, tmp_path):
    image = np.repeat(np.geomspace(1, 1000, 200), 200).reshape(200, 200)
    numbers = replace(NUMBERS, level=float(np.median(image)), std=float(image.std()))
    figures.mosaic_figure(reduced_image(image), numbers, "F T01 N662", 0.1, tmp_path / "f.png")
    sky, flaws = (panel_part(look(tmp_path / "f.png"), (600, 600), k)[:, 300, 0] for k in range(2))
    assert len(np.unique(sky)) > 40  # shades from the faintest to the brightest
    assert np.mean((flaws == 0) | (flaws == 255)) > 0.7
    assert drawn[0].axes[0].images[0].get_array() is not None
    assert [text.get_text() for axes in drawn[0].axes for text in axes.texts] == ["sky", "flaws: median ± 0.1 standard deviations"]


ODD = {
    "no data": np.full((40, 40), np.nan), "one pixel": np.array([[3.0]]),
    "all negative": -np.geomspace(1, 1e4, 1600).reshape(40, 40),
    "constant": np.full((40, 40), -7.0), "infinite": np.where(np.eye(40) > 0, np.inf, 1.0),
    "tiny": np.geomspace(1e-30, 1e-28, 1600).reshape(40, 40), "huge": np.geomspace(1e30, 1e37, 1600).reshape(40, 40),
    "one row": np.arange(50.0)[None], "nearly constant": np.where(np.arange(1600).reshape(40, 40) == 7, 1e6, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("error")
def test_odd_mosaics_are_drawn_without_a_warning(drawn, tmp_path, kind):
    image = ODD[kind]
    known = image[np.isfinite(image)]
    level, std = (float(np.median(known)), float(known.std())) if known.size else (0.0, 0.0)
    figures.mosaic_figure(reduced_image(image), replace(NUMBERS, level=level, std=std), "F T01 N662", 0.1, tmp_path / "f.png")
    figures.field_figure([("T01", reduced_image(image))], "F N662", tmp_path / "field.png")
    for figure in drawn:
        scale = figure.axes[0].images[0].norm
        assert np.isfinite([scale.vmin, scale.vmax]).all()
        assert scale.vmin < scale.vmax
    assert near(look(tmp_path / "f.png")[1, 1], (255, 255, 255))


def test_a_figure_says_what_it_shows(quarters, drawn, tmp_path):
    figures.mosaic_figure(quarters, NUMBERS, "LMC_c42 T07 N662   12 exposures, 36 detectors", 0.1, tmp_path / "f.png")
    words = words_of(drawn[0])
    assert words[0] == "LMC_c42 T07 N662   12 exposures, 36 detectors"
    assert (
        words[1].split()
        == (
            "level 5 std 40 noise 3.21 block jump 0.456 counts28/pixel "
            "block jump: 99th percentile of |difference| of the medians of adjacent 64 × 64 pixels"
        ).split()
    )
    assert "asinh from percentile 0.5 to 99.5" in words[2]
    assert "mean of 8 × 8, 39″" in words[2]
    assert words[3:] == ["Right ascension (ICRS)", "Declination (ICRS)"]
    sky, sky_bar, flaws, flaws_bar = drawn[0].axes
    assert sky_bar.get_ylabel() == flaws_bar.get_ylabel() == "counts28/pixel"
    assert sky.images[0].get_array() is not None
    assert flaws.images[0].get_clim() == pytest.approx((1, 9))


def test_numbers_that_do_not_exist_are_not_shown(quarters, drawn, tmp_path):
    figures.mosaic_figure(quarters, replace(NUMBERS, noise=None, block_jump=None), "F T01 N662", 0.1, tmp_path / "f.png")
    assert words_of(drawn[0])[1].split() == "level 5 std 40 counts28/pixel".split()


@pytest.mark.filterwarnings("ignore:CoordinateHelper.ticklabels")  # there is no other way to read them
@pytest.mark.parametrize(
    ("ra", "dec", "right_ascension", "declination"),
    [
        (81.8, -66.45, "5ʰ28ᵐ", "-66°20′"),
        (0.001, 2.0, "23ʰ59ᵐ", "2°00′"),
        (0.02, -89.0, "0ʰ00ᵐ", "-89°00′"),
    ],
)
def test_axes_are_sexagesimal_everywhere_on_the_sky(drawn, tmp_path, ra, dec, right_ascension, declination):
    figures.mosaic_figure(reduced_image(np.ones((40, 40)), ra, dec), NUMBERS, "F T01 N662", 0.1, tmp_path / "f.png")
    east_west, south_north = tick_labels(drawn[0])
    assert any(label.startswith(right_ascension) for label in east_west), east_west
    assert declination in [label.replace("\N{MINUS SIGN}", "-") for label in south_north], south_north
    assert len(east_west) >= 3
    assert len(south_north) >= 3


def test_tick_labels_and_titles_are_inside_the_picture(quarters, drawn, tmp_path):
    long = "A_field_with_a_long_name_of_its_own T07 N662   112 exposures, 1036 detectors in all of its fields"
    figures.mosaic_figure(quarters, NUMBERS, long, 0.1, tmp_path / "f.png")
    picture = look(tmp_path / "f.png")
    frame = np.concatenate([picture[:4].reshape(-1, 3), picture[-4:].reshape(-1, 3), picture[:, :4].reshape(-1, 3),
                            picture[:, -4:].reshape(-1, 3)])  # fmt: skip
    assert (frame == 255).all()


def test_an_image_without_spread_is_a_middle_grey(tmp_path):
    figures.mosaic_figure(reduced_image(np.full((40, 40), LEVEL)), replace(NUMBERS, std=0.0), "F", 0.1, tmp_path / "f.png")
    assert all(near(panel_part(look(tmp_path / "f.png"), (40, 40), k)[300, 300], (128, 128, 128)) for k in range(2))


# coverage


def test_coverage_grows_brighter_and_what_is_uncovered_is_blue(drawn, tmp_path):
    coverage = np.zeros((60, 60))
    coverage[:30, :30], coverage[:30, 30:], coverage[30:, :30] = 1, 6, 12
    image = np.where(coverage > 0, 1.0, np.nan)
    figures.coverage_figure(reduced_image(image, coverage=coverage), NUMBERS, "F T01 N662", tmp_path / "c.png")
    sky = image_part(look(tmp_path / "c.png"), (60, 60))
    south_east, south_west, north_east, north_west = sky[700, 205], sky[700, 705], sky[205, 205], sky[205, 705]
    assert south_east.sum() < south_west.sum() < north_east.sum()
    assert near(north_west, BLUE)
    words = words_of(drawn[0])
    assert words[0] == "F T01 N662 · coverage"
    assert words[1].split() == "covered 92.5 % median 7 most 12 detectors per pixel".split()
    assert drawn[0].axes[1].get_ylabel() == "detectors per pixel"
    assert drawn[0].axes[0].images[0].get_clim() == (0, 12)
    assert all(tick == round(tick) for tick in drawn[0].axes[1].get_yticks())


# the field


def test_tiles_lie_where_they_are_on_the_sky(drawn, tmp_path):
    bright, dark = np.full((80, 80), 100.0), np.full((80, 80), -100.0)
    tiles = [
        ("T02", reduced_image(dark, 359.6, 0.4, 0.5)),  # west
        ("T01", reduced_image(bright, 0.4, -0.4, 0.5)),  # east
    ]
    figures.field_figure(tiles, "F N662", tmp_path / "field.png")
    image = drawn[0].axes[0].images[0].get_array()
    sky = image_part(look(tmp_path / "field.png"), image.shape)
    rows, columns = sky.shape[:2]
    assert near(sky[int(rows * 0.92), int(columns * 0.3)], (255, 255, 255))  # south east is lower left
    assert near(sky[int(rows * 0.3), int(columns * 0.92)], (0, 0, 0))
    assert near(sky[int(rows * 0.15), int(columns * 0.15)], BLUE)
    wcs = drawn[0].axes[0].wcs
    names = {text.get_text(): text.get_position() for text in drawn[0].axes[0].texts}
    for name, reduced in tiles:
        inside = reduced.wcs.wcs_world2pix(*wcs.wcs_pix2world(*names[name], 0), 0)
        np.testing.assert_allclose(inside, (0.22 * 80, 0.78 * 80), atol=1)  # upper left of its tile
    assert words_of(drawn[0])[:2] == ["F N662", "2 tiles   median 0  counts28/pixel"]


def test_a_field_shows_faint_and_bright_and_says_how(drawn, tmp_path):
    image = np.repeat(np.linspace(-10, 1000, 200), 200).reshape(200, 200)
    figures.field_figure([("T01", reduced_image(image))], "F N662", tmp_path / "field.png")
    scale = drawn[0].axes[0].images[0].norm
    black, middle, white = np.percentile(image, [0.5, 50, 99.5])
    assert scale(black) == pytest.approx(0, abs=0.01)
    assert scale(white) == pytest.approx(1, abs=0.01)
    # a step near the median is brighter than the same step near white: asinh(1) against the rest
    assert scale(middle + 10) - scale(middle) > 4 * (scale(white) - scale(white - 10))
    assert scale.inverse(0.7) == pytest.approx(np.interp(0.7, scale(image[:, 0]), image[:, 0]), rel=0.01)
    assert "asinh from percentile 0.5 to 99.5" in words_of(drawn[0])[2]


def test_a_star_is_in_the_field_where_it_is_in_the_tile_also_near_the_pole(drawn, tmp_path):
    tiles = []
    for name, ra, dec in (("T01", 10.0, -89.0), ("T02", 70.0, -88.8), ("T03", 350.0, -88.5)):
        image = np.zeros((200, 200))
        image[150:153, 40:43] = 50.0
        tiles.append((name, reduced_image(image, ra, dec)))
    figures.field_figure(tiles, "F N662", tmp_path / "field.png")
    image, wcs = drawn[0].axes[0].images[0].get_array(), drawn[0].axes[0].wcs
    for _, reduced in tiles:
        x, y = wcs.wcs_world2pix(*reduced.wcs.wcs_pix2world(41, 151, 0), 0)
        assert image[round(float(y)), round(float(x))] > 20  # a mean where tiles overlap
    assert (image > 10).sum() < 200


@pytest.mark.parametrize(("pixels", "dec"), [(20, -66), (333, 0), (700, -88.9)])
def test_tiles_of_any_size_leave_no_holes_in_the_field(drawn, tmp_path, pixels, dec):
    figures.field_figure([("T01", reduced_image(np.ones((pixels, pixels)), 5, dec))], "F", tmp_path / "f.png")
    image = drawn[0].axes[0].images[0].get_array()
    assert min(pixels, sky_figures.FIELD_SIDE) - 1 <= max(image.shape) <= sky_figures.FIELD_SIDE + 1
    inner = image[1:-1, 1:-1]
    assert not np.ma.getmaskarray(inner).any()
    assert (inner == 1).all()


def test_overlapping_tiles_are_averaged(drawn, tmp_path):
    low, high = np.full((50, 50), 2.0), np.full((50, 50), 4.0)
    high[:10] = np.nan
    figures.field_figure([("T01", reduced_image(low)), ("T02", reduced_image(high))], "F N662", tmp_path / "field.png")
    image = drawn[0].axes[0].images[0].get_array()
    assert image[20, 20] == 3
    assert image[5, 20] == 2


def test_a_row_of_tiles_makes_a_flat_picture(drawn, tmp_path):
    tiles = [(f"T{i:02d}", reduced_image(np.ones((60, 60)), 30 + 0.6 * i, 0)) for i in range(4)]
    figures.field_figure(tiles, "F N662", tmp_path / "field.png")
    rows, columns = drawn[0].axes[0].images[0].get_array().shape
    assert rows / columns == pytest.approx(0.6, abs=0.02)


# files


def test_a_figure_of_pure_noise_at_the_usual_size_stays_below_two_megabytes(tmp_path):
    noise = np.random.default_rng(1).normal(LEVEL, 2.0, (1088, 1088))
    figures.mosaic_figure(reduced_image(noise), NUMBERS, "F T01 N662", 0.1, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size < 2_000_000


def test_the_same_mosaic_gives_the_same_bytes_also_on_threads(quarters, tmp_path):
    def draw(i):
        figures.mosaic_figure(quarters, NUMBERS, "F T01 N662", 0.1, tmp_path / f"{i}.png")
        figures.coverage_figure(quarters, NUMBERS, "F T01 N662", tmp_path / f"{i}.coverage.png")
        figures.field_figure([("T01", quarters)], "F N662", tmp_path / f"{i}.field.png")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(draw, range(2)))
    for kind in (".png", ".coverage.png", ".field.png"):
        assert len({(tmp_path / f"{i}{kind}").read_bytes() for i in range(2)}) == 1
    assert Image.open(tmp_path / "0.png").info.keys() <= {"dpi", "transparency", "gamma"}  # no date, no version
    assert not list(tmp_path.glob(".*"))


def test_settings_of_a_person_change_no_figure_and_are_given_back(quarters, tmp_path):
    settings = {"text.usetex": True, "font.size": 30, "axes.facecolor": "red", "path.sketch": (1, 100, 2), "image.origin": "upper"}

    def draw(name):
        figures.mosaic_figure(quarters, NUMBERS, "LMC_c42 T07 N662", stretch=0.1, path=tmp_path / name)
        return (tmp_path / name).read_bytes()

    expected = draw("a")
    with matplotlib.rc_context(settings), ThreadPoolExecutor(4) as pool:
        assert set(pool.map(draw, map(str, range(8)))) == {expected}
        assert {name: matplotlib.rcParams[name] for name in settings} == settings


def test_a_matplotlibrc_that_cannot_be_read_is_said(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: caf\xe9\n")
    script = "from kred_core.figures import drawing\nwith drawing.own_settings():\n    pass"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "ToolError: matplotlib cannot be imported: UnicodeDecodeError" in done.stderr
    assert "Move a file matplotlibrc that it cannot read away" in done.stderr


def test_whoever_draws_nothing_does_not_load_matplotlib():
    code = "import sys, kred_core.figures; print('matplotlib' in sys.modules or 'PIL' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def with_palette(rgb):
    return np.asarray(drawing.with_palette(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])).convert("RGB"))


def test_a_palette_of_few_colours_changes_nothing():
    rgb = np.zeros((16, 16, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = np.arange(256).reshape(16, 16), 7
    assert np.array_equal(with_palette(rgb), rgb)


def test_a_palette_of_many_colours_keeps_the_frequent_ones_and_comes_near_the_others():
    """64 greys over most of a picture, and around them one pixel each of 1600 colours from orange to white."""
    rgb = np.repeat(np.arange(0, 256, 4, dtype=np.uint8), 200)[:, None] * np.ones(3, np.uint8)
    red_to_white = [(255, 128 + y // 2, y) for y in range(0, 200, 5)]
    others = np.array([np.add(colour, (-x, 0, 0)) for colour in red_to_white for x in range(40)], np.uint8)
    picture = np.concatenate([rgb, others])[None]
    found = with_palette(picture)
    assert np.array_equal(found[0, : len(rgb)], rgb)
    assert np.abs(found[0, len(rgb) :].astype(int) - others).max() < 16
    assert np.array_equal(with_palette(picture), found)
