"""Figures of the matching show what they say, wherever a field is and however little of it there is."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from drawn_figures import BLUE, look, words
from PIL import Image, ImageColor

from kred_core import figures, survey
from kred_core.evaluation import MosaicNumbers, ReducedImage
from kred_core.figures import PairCutout, backgrounds, drawing
from kred_core.products import tables
from kred_core.sky import Grid, tan_wcs

pytestmark = pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # which may be of what other tests have left
SCALE = 0.2623  # arcsec per pixel
NX, NY = 2046, 4094
POSITIONS = ["CENRA1", "CENDEC1", *(f"COR{i}{axis}1" for i in (1, 2, 3, 4) for axis in ("RA", "DEC"))]
ORANGE, DARK_BLUE = drawing.BEFORE, drawing.AFTER
EXPTIMES = {f"c4d_{x}_v1_{n}": t for x, t in (("a", 800.0), ("b", 600.0), ("c", 400.0)) for n in ("S4", "N_12")}
PLACES = (("S29", -18.6, 54.2), ("N7", 55.9, -4.9), ("S4", 0.0, 4.9), ("N31", 18.6, -54.2))  # offsets of real headers, arcmin


# simulated tables


def footprints(n_exposures=6, ra=81.8, dec=-66.45, dither=300.0, names=None, seed=1):
    """DECam's detectors in some dithered exposures: columns of DETECTORS that say where they are."""
    rng = np.random.default_rng(seed)
    plane = survey.focal_plane()
    plane = plane if names is None else plane[np.isin(plane["EXTNAME"], names)]
    rows = []
    for e in range(n_exposures):
        offset = rng.uniform(-dither, dither, 2) if e else np.zeros(2)
        pointing = tan_wcs(Grid(ra, dec, 1.0, 1, 1)).wcs_pix2world(*offset, 0)
        wcs = tan_wcs(Grid(float(pointing[0]), float(pointing[1]), SCALE, 1, 1))
        # x runs south and y east on the detector; on the TAN grid x runs west and y north
        x, y = np.array([[(NX + 1) / 2, 1, NX, 1, NX], [(NY + 1) / 2, 1, 1, NY, NY]])
        west, north = np.array(plane["CRPIX2"])[:, None] - y, np.array(plane["CRPIX1"])[:, None] - x
        sky = np.stack(wcs.wcs_pix2world(west.ravel(), north.ravel(), 0), axis=-1).reshape(len(plane), 10)
        for name, values in zip(plane["EXTNAME"], sky, strict=True):
            row = {"Root": f"c4d_{e:06d}_ooi_N662_v1", "EXTNAME": str(name), "NAXIS1": NX, "NAXIS2": NY}
            rows.append(row | dict(zip(POSITIONS, values, strict=True)))
    return tables.make(rows, [c for c in tables.DETECTORS if c.name in rows[0]])


def solved(detectors, excess, error=0.02, **more):
    """A table of backgrounds with the given b - SUB_BACK."""
    n = len(detectors)
    values = {"b": 120.0 + np.broadcast_to(excess, n), "b_err": np.broadcast_to(error, n), "SUB_BACK": np.full(n, 120.0)}
    texts = {name: np.array(detectors[name], dtype="U60") for name in ("Root", "EXTNAME")}
    texts["file"] = np.array([f"{r}_{e}" for r, e in zip(texts["Root"], texts["EXTNAME"], strict=True)])
    values |= texts | {"component": np.ones(n, int), "Remark": np.full(n, "", dtype="U60")}
    values |= {name: np.array(v) for name, v in more.items()}
    rows = [{c.name: values[c.name][i] if c.name in values else c.type() for c in tables.BACKGROUNDS} for i in range(n)]
    return tables.make(rows, tables.BACKGROUNDS)


def pairs_of(n=500, offset=3.0, residual=0.02, outliers=0.03, seed=1):
    """A table of overlaps: three detectors' worth of names, residuals of known scatter, some contradicting pairs."""
    rng = np.random.default_rng(seed)
    n_pix = np.exp(rng.uniform(np.log(1e4), np.log(4e6), n))
    error = residual * np.sqrt(1 + 3e5 / n_pix)
    after = rng.normal(0, error)
    bad = rng.random(n) < outliers
    after[bad] += rng.choice([-1, 1], bad.sum()) * rng.uniform(1, 5, bad.sum())
    before = after + rng.normal(0, offset, n)
    roots = rng.choice(["c4d_a_v1", "c4d_b_v1", "c4d_c_v1"], (n, 2))
    rows = [
        {c.name: c.type() for c in tables.OVERLAPS}
        | {
            "Image": "N662", "File1": f"{roots[i, 0]}_S4", "File2": f"{roots[i, 1]}_N_12", "Sep": rng.uniform(60, 1100),
            "Npix": int(n_pix[i]), "e_Delta": error[i], "Before": before[i], "After": after[i], "Rejected": bool(bad[i]),
        }
        for i in range(n)
    ]  # fmt: skip
    return tables.make(rows, tables.OVERLAPS)


def cutout(shape=(60, 90), after=0.5, rejected=False, seed=1):
    """Two noisy views of the same sky, the second brighter by ``after`` throughout, no data in the south-east corner."""
    rng = np.random.default_rng(seed)
    sky = 5 * np.sin(np.arange(shape[1]) / 15)
    one, other = (sky + rng.normal(0, 0.3, shape) + level for level in (0.0, after))
    one[: shape[0] // 4, : shape[1] // 4] = np.nan
    return PairCutout("c4d_1_S4", "c4d_2_N12", np.float32(one), np.float32(other), np.isfinite(one), after, 0.02, rejected)


def tile(step=2.0, nebula=0.0, noise=0.2, pixels=256, seed=1, factor=8):
    """A mosaic before and after: the west half is brighter before, the lower left corner has no data."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:pixels, :pixels] / pixels
    sky = 10 + nebula * np.exp(-((x - 0.3) ** 2 + (y - 0.7) ** 2) / 0.01) + rng.normal(0, noise, x.shape)
    sky[: pixels // 8, : pixels // 8] = np.nan
    wcs = tan_wcs(Grid(81.8, -66.45, 0.65 * 3600 / pixels, pixels, pixels))
    return [ReducedImage(np.float32(s), np.isfinite(sky).astype(np.float32), wcs, factor) for s in (sky + step * (x >= 0.5), sky)]


# looking: each draws a figure into f.png


@pytest.fixture
def overlaps(draw):
    return lambda pairs, exptimes=EXPTIMES: draw(figures.overlap_figure, pairs, exptimes, "LMC_c42 N662")


@pytest.fixture
def background(draw):
    """The figure, and its panels by the letters that they have when there are all four."""
    titles = {"Focal plane": "a", "Sky: mean": "b", "Sky: components": "c", "Sky: standard error": "d"}

    def background(table, detectors):
        figure = draw(figures.background_figure, table, detectors, "LMC_c42 N662")
        titled = [(axes, text.get_text()) for axes in figure.axes for text in axes.texts[:1]]
        return figure, {letter: axes for axes, title in titled for start, letter in titles.items() if start in title}

    return background


@pytest.fixture
def pair(draw):
    return lambda *cutouts: draw(figures.pair_figure, cutouts, "LMC_c42 N662")


@pytest.fixture
def compare(draw):
    def compare(before, after, outlines=()):
        figure = draw(figures.comparison_figure, before, after, (12.3, 4.56, None), "LMC_c42 T07 N662", outlines=outlines)
        return [axes.images[0] for axes in figure.axes if axes.images]

    return compare


def points(axes, colour, marker):
    """Points of one kind, shape (2, n)."""
    return np.concatenate([line.get_xydata() for line in axes.lines if (line.get_color(), line.get_marker()) == (colour, marker)]).T


def place_of(axes, name):
    """East and north of a detector's label, arcmin."""
    return next(text.get_position() for text in axes.texts if text.get_text().split("\n")[0] == name)


class TestOverlaps:
    def test_the_head_has_the_numbers(self, overlaps):
        pairs = pairs_of(500)
        before, after, rejected = (np.array(pairs[name]) for name in ("Before", "After", "Rejected"))
        title, subtitle, note = words(overlaps(pairs))[:3]
        assert title.startswith("LMC_c42 N662")
        robust = [1.482602218505602 * np.median(np.abs(values)) for values in (before, after)]
        rms = [np.sqrt(np.mean(a**2)) for a in (before, after[~rejected])]
        assert f"500 pairs      robust rms {robust[0]:.3g} → {robust[1]:.3g}" in subtitle
        assert f"rms {rms[0]:.3g} → {rms[1]:.3g} without the rejected" in subtitle
        assert f"{rejected.sum()} rejected" in subtitle
        assert "matched backgrounds" in note

    def test_every_pair_is_a_point_at_its_separation_exposure_time_and_area(self, overlaps):
        pairs = pairs_of(100)
        by_separation, by_exptime, by_area = overlaps(pairs).axes[2:5]
        for axes, x in ((by_separation, np.array(pairs["Sep"]) / 60), (by_area, np.array(pairs["Npix"]))):
            for name, colour in (("Before", ORANGE), ("After", DARK_BLUE)):
                shown, true = points(axes, colour, "o"), np.stack([x, np.abs(pairs[name])])
                inside = (true[1] >= axes.get_ylim()[0]) & (true[1] <= axes.get_ylim()[1])
                np.testing.assert_allclose(shown[:, np.argsort(shown[0])], true[:, inside][:, np.argsort(true[0, inside])])
        # spread over less than half of the step of 100 s, after on the right
        shown = points(by_exptime, DARK_BLUE, "o")
        shown = shown[:, np.isin(shown[1], np.abs(pairs["After"]))]
        true = {abs(row["After"]): 0.5 * (EXPTIMES[row["File1"]] + EXPTIMES[row["File2"]]) for row in pairs}
        assert len(shown[0]) > 90
        assert all(0 <= x - true[y] < 50 for x, y in shown.T)

    @pytest.mark.parametrize(
        ("n", "said"),
        [(0, "no two detectors overlap"), (1, "1 pair      difference 3.21 → 0.0123      standard error 0.02"), (2, "2 pairs")],
    )
    def test_few_are_drawn_too(self, overlaps, n, said):
        pairs = pairs_of(12)[:n]
        if n == 1:
            pairs["Before"], pairs["After"], pairs["e_Delta"] = 3.21, 0.0123, 0.02
        figure = overlaps(pairs)
        assert words(figure)[1].startswith(said)
        assert len(figure.axes) == (5 if n > 1 else 0)  # nothing is seen on an empty panel, or of a single pair
        for axes in figure.axes[:2]:
            assert sum(patch.get_data().values.sum() for patch in axes.patches[:1]) == n

    def test_differences_that_are_not_known_all_zero_or_all_rejected_are_drawn_too(self, overlaps):
        zero, unknown, rejected, some = (pairs_of(50) for _ in range(4))
        zero["Before"], zero["After"] = 0.0, 0.0
        assert "robust rms 0 → 0" in words(overlaps(zero))[1]
        for name in ("Before", "After", "e_Delta", "Sep"):
            unknown[name] = np.nan
        unknown["Npix"] = 0
        figure = overlaps(unknown)
        assert "robust rms – → –" in words(figure)[1]
        assert figure.axes == []
        rejected["Rejected"] = True
        assert "50 rejected (100.0 %)" in words(overlaps(rejected))[1]
        some["After"][::2] = np.nan
        np.testing.assert_array_less(0, points(overlaps(some).axes[2], DARK_BLUE, "o")[1])


class TestBackgrounds:
    def test_the_focal_plane_has_north_up_east_left_and_each_detector_at_its_place(self, background):
        detectors = footprints(3)
        plane = background(solved(detectors, 0.0), detectors)[1]["a"]
        left, right = plane.get_xlim()
        assert left > right  # east is left
        assert plane.get_ylim()[0] < plane.get_ylim()[1]
        for name, east, north in PLACES:
            np.testing.assert_allclose(place_of(plane, name), (east, north), atol=0.15)

    def test_the_sky_map_is_the_mean_of_the_detectors_that_cover_a_place(self, background):
        detectors = footprints(2, dither=0, names=["S4"])
        for name in [name for name in detectors.colnames if "RA" in name]:  # the second is half a detector further east
            detectors[name][1] += NY * SCALE / 3600 / 2 / np.cos(np.radians(66.4))
        panels = background(solved(detectors, [1.0, 3.0], error=[0.1, np.nan]), detectors)[1]
        image, (west, east) = panels["b"].images[0].get_array(), sorted(panels["b"].get_xlim())
        scale = backgrounds._around_zero(np.array([1.0, 3.0]))
        row = image[image.shape[0] // 2]
        for place, value in ((-9.0, 1.0), (0.0, 2.0), (9.0, 3.0)):
            column = int((place - west) / (east - west) * len(row))
            np.testing.assert_allclose(row[column], backgrounds._colours("RdYlBu_r")(scale(value)), atol=0.01)
        assert (image[0] == 1).all()  # nothing there
        # an error that is not known is grey where no other is
        row = panels["d"].images[0].get_array()[image.shape[0] // 2]
        grey = np.array(ImageColor.getrgb(backgrounds.NOT_KNOWN)) / 255
        np.testing.assert_allclose(row[int((9.0 - west) / (east - west) * len(row))][:3], grey, atol=0.01)
        assert np.abs(row[int((-9.0 - west) / (east - west) * len(row))][:3] - grey).max() > 0.1

    def test_another_camera_is_drawn_as_it_lies_on_the_sky(self, background):
        detectors = footprints(3)
        detectors["EXTNAME"] = [f"ccd{name}" for name in detectors["EXTNAME"]]
        # the exposures lack one detector each; that of the one with most is put in its place by the others
        drop = [(0, "ccdS4"), (1, "ccdN4"), (1, "ccdN5"), (2, "ccdS10"), (2, "ccdS11")]
        keep = [not any(row["Root"].startswith(f"c4d_{e:06d}") and row["EXTNAME"] == name for e, name in drop) for row in detectors]
        plane = background(solved(detectors[keep], 0.0), detectors[keep])[1]["a"]
        assert "not DECam" in plane.get_xlabel()
        assert "c4d_000000_ooi_N662_v1" in plane.get_xlabel()
        origin = np.array(place_of(plane, "ccdS5")) - (18.7, 4.9)
        for name, east, north in PLACES:
            np.testing.assert_allclose(place_of(plane, f"ccd{name}") - origin, (east, north), atol=0.3)

    def test_detectors_without_places_are_counted_not_lost(self, background):
        detectors = footprints(1)
        table = solved(detectors, 0.0)
        detectors["COR2RA1"][3] = np.nan
        subtitle = words(background(table, detectors[:-2])[0])[1]
        assert "3 without known corners" in subtitle
        assert f"{len(table)} detectors of 1 exposure " in subtitle
        assert "without known corners" in words(background(table, detectors[:0])[0])[1]

    @pytest.mark.parametrize("n", [0, 1])
    def test_none_and_a_single_one_are_drawn(self, background, n):
        detectors = footprints(1)
        figure, _ = background(solved(detectors, np.nan if n else 1.0)[:n], detectors)
        assert words(figure)[1].startswith("1 detector of 1 exposure" if n else "no detectors")
        assert figure.axes == []

    def test_where_no_detectors_overlap_there_is_no_map_of_what_connects_them_or_of_errors(self, background):
        detectors = footprints(1)
        n = len(detectors)
        figure, panels = background(solved(detectors, np.linspace(-1, 1, n), np.nan, component=np.arange(n)), detectors)
        assert set(panels) == {"a", "b"}
        assert f"{n} without a neighbour" in words(figure)[1]
        assert "standard error" not in words(figure)[1]


class TestPairs:
    def test_have_their_names_and_numbers(self, pair):
        one = cutout(after=-0.5, rejected=True)
        said = "\n".join(words(pair(one)))
        assert "first: c4d_1_S4   second: c4d_2_N12" in said
        assert "difference −0.5 ± 0.02 counts28/pixel    25.0 standard errors" in said
        assert f"{one.good.sum():,} cells" in said
        assert "rejected" in said.splitlines()[-1]

    def test_are_shown_north_up_with_their_difference_in_the_cells_that_were_compared(self, pair, tmp_path):
        one = cutout(after=0.5)
        one.good[-20:, -30:] = False
        figure = pair(one)
        pictures = (np.asarray(picture.get_array())[1:-1, 1:-1] for picture in figure.images)  # within their frames
        first, second, difference = (picture.astype(int) for picture in pictures)
        rows, columns = (np.arange(1, n + 1) * size // (n + 2) for n, size in zip(first.shape[:2], one.image1.shape, strict=True))
        shown = one.image1[::-1][rows[:, None], columns]  # north is up
        known = np.isfinite(shown)
        assert np.corrcoef(shown[known], first[known][:, 0])[0, 1] > 0.95
        assert (np.abs(first[~known][:, :3] - BLUE) < 4).all()
        assert np.median(second[known][:, 0]) > np.median(first[known][:, 0]) + 3  # the same greys for both
        left_out = (difference[..., :3] == 0x8C).all(axis=2)
        assert left_out[0, -1]
        assert (left_out == ~one.good[::-1][rows[:, None], columns]).mean() > 0.95
        assert difference[~left_out][:, 0].mean() > difference[~left_out][:, 2].mean() + 20  # second is brighter: red
        assert "colours ± " in "\n".join(words(figure))
        assert (np.abs(look(tmp_path / "f.png") - BLUE).max(axis=2) < 4).any()  # no data are blue, also in the file

    def test_are_the_ten_worst_and_none_is_no_error(self, pair):
        figure = pair(*(replace(cutout((30, 40)), first=f"worst_{k}") for k in range(12)))
        said = "\n".join(words(figure))
        assert "worst_9" in said
        assert "worst_10" not in said
        assert len(figure.images) == 30
        assert "no two detectors overlap" in words(pair())[1]

    def test_without_data_or_without_noise_are_shown(self, pair):
        one = cutout()
        empty = replace(one, image1=one.image1 * np.nan, good=np.zeros_like(one.good), after=np.nan, error=np.nan)
        flat = replace(one, image1=np.zeros_like(one.image1), image2=np.zeros_like(one.image1), after=0.0, error=0.0)
        said = words(pair(empty, flat))
        assert "|difference| up to 0 " in said[1]
        assert "difference – ± –" in "\n".join(said)


class TestComparison:
    def test_has_the_same_greys_twice_and_the_given_numbers_in_the_head(self, compare):
        first, second, _ = compare(*tile())
        assert first.norm is second.norm
        _, subtitle, note = words(first.figure)
        assert subtitle.split() == "block jump 12.3 → 4.56, nebulae count too seams removed – counts28/pixel".split()
        assert "linear to" in note

    @pytest.mark.parametrize(("step", "nebula", "noise"), [(2.0, 0.0, 0.2), (0.5, 0.0, 0.2), (2.0, 300.0, 0.2), (20.0, 5.0, 0.2)])
    def test_a_seam_is_seen_before_and_gone_after_whatever_the_sky(self, compare, step, nebula, noise):
        before, after, change = compare(*tile(step, nebula, noise))

        def jump(shown):
            """Grey of the west minus that of the east, far from the nebula."""
            grey = np.ma.filled(shown.norm(shown.get_array()), np.nan)
            rows, columns = grey.shape
            part = grey[rows // 5 : rows // 3]
            return np.median(part[:, columns // 2 + 5 : columns * 3 // 4]) - np.median(part[:, columns // 4 : columns // 2 - 5])

        assert jump(before) > 0.1
        assert abs(jump(after)) < 0.03
        assert jump(change) > 0.45
        assert change.norm(0.0) == pytest.approx(0.5)
        below, zero, above = change.cmap(change.norm([-1e9, 0.0, 1e9]))[:, :3]
        assert below[2] > below[0]
        assert above[0] > above[2]
        assert zero.min() > 0.9

    def test_outlines_lie_where_they_are_on_the_sky(self, compare):
        before, after = tile()
        corners = np.array([[40, 30], [200, 30], [200, 220], [40, 220]])  # pixels from the south east, by south west
        for shown in compare(before, after, [("T07", np.stack(before.wcs.wcs_pix2world(*corners.T, 0), axis=-1))])[:2]:
            np.testing.assert_allclose(shown.axes.lines[0].get_xydata()[:4], corners, atol=1e-6)
            assert "T07" in [text.get_text() for text in shown.axes.texts]

    @pytest.mark.parametrize("value", [None, 3, np.nan])
    def test_images_unchanged_without_spread_or_without_data_are_drawn(self, compare, value):
        image = tile()[0]
        image = image if value is None else replace(image, image=np.full_like(image.image, value))
        assert len(compare(image, image)) == 3

    def test_images_of_different_pixels_are_not_compared(self, compare):
        with pytest.raises(ValueError, match="cannot be compared"):
            compare(tile()[0], tile(pixels=100)[0])


def test_all_figures_are_the_same_on_threads_small_undated_and_hold_all_that_is_written(tmp_path, monkeypatch):
    """With a long title, while whatever passes through mathtext, which has state that threads share, fails."""
    from matplotlib import mathtext

    def parse(*_args, **_kwargs):
        raise AssertionError("matplotlib parses mathtext")

    def draw_all(directory):
        directory.mkdir()
        title = "A_field_with_a_long_name_of_its_own N662_s   112 exposures, 1036 detectors in all of its fields and tiles"
        detectors = footprints(3)
        table = solved(detectors, np.random.default_rng(1).normal(0, 3, len(detectors)))
        figures.overlap_figure(pairs_of(300), EXPTIMES, title, directory / "overlaps.png")
        figures.background_figure(table, detectors, title, directory / "backgrounds.png")
        figures.pair_figure([cutout(seed=k, rejected=k > 1) for k in range(3)], title, directory / "pairs.png")
        before, after = tile()
        numbers = MosaicNumbers(
            1000, 0.9, 7.0, 12, level=5.0, mean=6.0, std=40.0, noise=3.2, block_jump=0.5, low_pass_rms=0.7, block=64
        )
        figures.comparison_figure(before, after, (1.0, 1.0, 1.0), title, directory / "comparison.png")
        figures.mosaic_figure(after, numbers, title, 0.1, directory / "mosaic.png")
        figures.coverage_figure(after, numbers, title, directory / "coverage.png")
        figures.field_figure([("T01", after)], title, directory / "field.png")
        return sorted(directory.glob("*.png"))

    monkeypatch.setattr(mathtext.MathTextParser, "parse", parse)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(draw_all, [tmp_path / "one", tmp_path / "other"])
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert len(one) == 7
    for path in one:
        with Image.open(path) as picture:
            assert picture.info.keys() <= {"dpi", "transparency", "gamma"}
        assert path.stat().st_size < 1_000_000
        picture = look(path)
        assert all((edge == 255).all() for edge in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:])), path.name
