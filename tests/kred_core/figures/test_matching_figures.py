"""Figures of the matching show what they say, wherever a field is and however little of it there is."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageColor

from kred_core import figures, survey
from kred_core.evaluation import ReducedImage
from kred_core.figures import PairCutout, backgrounds, drawing
from kred_core.products import tables
from kred_core.sky import Grid, tan_wcs

pytestmark = pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # which may be of what other tests have left
SCALE = 0.2623  # arcsec per pixel
NX, NY = 2046, 4094
POSITIONS = ["CENRA1", "CENDEC1", *(f"COR{i}{axis}1" for i in (1, 2, 3, 4) for axis in ("RA", "DEC"))]
BLUE = ImageColor.getrgb(figures.UNCOVERED)
ORANGE, DARK_BLUE = drawing.BEFORE, drawing.AFTER


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
    columns = [c for c in tables.DETECTORS if c.name in rows[0]]
    return tables.make(rows, columns)


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
    return tables.make(
        (
            {c.name: c.type() for c in tables.OVERLAPS}
            | {
                "Image": "N662", "File1": f"{roots[i, 0]}_S4", "File2": f"{roots[i, 1]}_N_12", "Sep": rng.uniform(60, 1100),
                "Npix": int(n_pix[i]), "e_Delta": error[i], "Before": before[i], "After": after[i], "Rejected": bool(bad[i]),
            }
            for i in range(n)
        ),
        tables.OVERLAPS,
    )  # fmt: skip


EXPTIMES = {f"c4d_{x}_v1_{n}": t for x, t in (("a", 800.0), ("b", 600.0), ("c", 400.0)) for n in ("S4", "N_12")}


def cutout(shape=(60, 90), after=0.5, rejected=False, seed=1):
    """Two noisy views of the same sky, the second brighter by ``after`` throughout, no data in the south-east corner."""
    rng = np.random.default_rng(seed)
    sky = 5 * np.sin(np.arange(shape[1]) / 15)
    one, other = (sky + rng.normal(0, 0.3, shape) + level for level in (0.0, after))
    one[: shape[0] // 4, : shape[1] // 4] = np.nan
    good = np.isfinite(one)
    return PairCutout("c4d_1_S4", "c4d_2_N12", np.float32(one), np.float32(other), good, after, 0.02, rejected)


def tile(step=2.0, nebula=0.0, noise=0.2, pixels=256, seed=1, factor=8):
    """A mosaic before and after: the west half is brighter before, the lower left corner has no data."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:pixels, :pixels] / pixels
    sky = 10 + nebula * np.exp(-((x - 0.3) ** 2 + (y - 0.7) ** 2) / 0.01) + rng.normal(0, noise, x.shape)
    sky[: pixels // 8, : pixels // 8] = np.nan
    wcs = tan_wcs(Grid(81.8, -66.45, 0.65 * 3600 / pixels, pixels, pixels))
    coverage = np.isfinite(sky).astype(np.float32)
    return [ReducedImage(np.float32(s), coverage, wcs, factor) for s in (sky + step * (x >= 0.5), sky)]


# looking


@pytest.fixture
def drawn(monkeypatch):
    """The figures, instead of files of them: what is written is looked at further below, and takes most of the time."""
    kept = []
    monkeypatch.setattr(drawing, "save", lambda figure, path: kept.append(figure))
    return kept


@pytest.fixture
def saved(monkeypatch):
    """The figures behind the files that were written."""
    kept = []
    save = drawing.save

    def keep_and_save(figure, path):
        save(figure, path)
        kept.append(figure)

    monkeypatch.setattr(drawing, "save", keep_and_save)
    return kept


def look(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def words(figure):
    """Title, subtitle and note."""
    return [text.get_text() for text in figure.texts]


def all_words(figure):
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    labels = [text.get_text() for legend in legends for text in legend.get_texts()]
    return "\n".join([text.get_text() for text in texts] + labels)


def points(axes, colour, marker):
    """Points of one kind, shape (2, n)."""
    found = [line.get_xydata() for line in axes.lines if line.get_color() == colour and line.get_marker() == marker]
    return np.concatenate(found).T


def robust_rms(values):
    return 1.482602218505602 * np.median(np.abs(values))


# overlaps


def overlaps(pairs, drawn, tmp_path, exptimes=EXPTIMES):
    figures.overlap_figure(pairs, exptimes, "LMC_c42 N662", tmp_path / "o.png")
    return drawn[-1]


def test_the_head_of_the_figure_of_overlaps_has_its_numbers(drawn, tmp_path):
    pairs = pairs_of(500)
    before, after, rejected = (np.array(pairs[name]) for name in ("Before", "After", "Rejected"))
    title, subtitle, note = words(overlaps(pairs, drawn, tmp_path))
    assert title.startswith("LMC_c42 N662")
    assert "500 pairs" in subtitle
    assert f"robust rms {robust_rms(before):.3g} → {robust_rms(after):.3g}" in subtitle
    rms = [np.sqrt(np.mean(a**2)) for a in (before, after[~rejected])]
    assert f"rms {rms[0]:.3g} → {rms[1]:.3g} without the rejected" in subtitle
    assert f"{rejected.sum()} rejected" in subtitle
    assert "matched backgrounds" in note


def test_before_and_after_are_both_seen_although_one_is_a_hundred_times_narrower(drawn, tmp_path):
    pairs = pairs_of(2000)
    figure = overlaps(pairs, drawn, tmp_path)
    kept = ~np.array(pairs["Rejected"])
    for axes, name in zip(figure.axes[:2], ("Before", "After"), strict=True):
        low, high = axes.get_xlim()
        values = np.array(pairs[name])[kept]
        assert low == pytest.approx(-high)
        assert np.mean(np.abs(values) < high) > 0.98
        assert high < 8 * np.std(values)
        counts, edges, _ = axes.patches[-1].get_data()  # the histogram without the rejected
        expected = np.histogram(values, edges)[0]
        np.testing.assert_array_equal(np.where(expected > 0, counts, 0), expected)
    n_beyond = np.count_nonzero(np.abs(pairs["After"]) > figure.axes[1].get_xlim()[1])
    said = next(t.get_text() for t in figure.axes[1].texts if "beyond" in t.get_text())
    assert sum(int(word) for word in said.partition("◀")[2].replace(",", "").split() if word.isdigit()) == n_beyond


def test_every_pair_is_a_point_at_its_separation_exposure_time_and_area(drawn, tmp_path):
    pairs = pairs_of(100)
    by_separation, by_exptime, by_area = overlaps(pairs, drawn, tmp_path).axes[2:5]
    for axes, x in ((by_separation, np.array(pairs["Sep"]) / 60), (by_area, np.array(pairs["Npix"]))):
        for name, colour in (("Before", ORANGE), ("After", DARK_BLUE)):
            shown, true = points(axes, colour, "o"), np.stack([x, np.abs(pairs[name])])
            inside = (true[1] >= axes.get_ylim()[0]) & (true[1] <= axes.get_ylim()[1])
            np.testing.assert_allclose(shown[:, np.argsort(shown[0])], true[:, inside][:, np.argsort(true[0, inside])])
    means = {file.rpartition("_")[0]: t for file, t in (("c4d_a_v1_", 800), ("c4d_b_v1_", 600), ("c4d_c_v1_", 400))}
    exptime = [0.5 * (means[row["File1"].removesuffix("_S4")] + means[row["File2"].removesuffix("_N_12")]) for row in pairs]
    # spread over less than half of the step of 100 s, after on the right
    shown = points(by_exptime, DARK_BLUE, "o")
    shown = shown[:, np.isin(shown[1], np.abs(pairs["After"]))]
    true = {abs(row["After"]): t for row, t in zip(pairs, exptime, strict=True)}
    assert len(shown[0]) > 90
    assert all(0 <= x - true[y] < 50 for x, y in shown.T)


def test_rejected_pairs_are_marked(drawn, tmp_path):
    pairs = pairs_of(400, outliers=0.1)
    figure = overlaps(pairs, drawn, tmp_path)
    rejected = np.array(pairs["Rejected"])
    for axes in figure.axes[2:5]:
        crosses = points(axes, drawing.MARKED, "x")
        np.testing.assert_allclose(np.sort(crosses[1]), np.sort(np.abs(pairs["After"][rejected])))
    everything, kept = (patch.get_data().values for patch in figure.axes[0].patches)
    assert np.sum(everything - np.maximum(kept, 0)) >= 0.9 * rejected.sum()


def test_running_medians_follow_the_differences(drawn, tmp_path):
    pairs = pairs_of(3000, outliers=0)
    area = overlaps(pairs, drawn, tmp_path).axes[4]
    before, after, error = (line.get_xydata().T for line in area.lines if line.get_linewidth() == 1.8)
    np.testing.assert_allclose(before[1], 3 * 0.6745, rtol=0.2)
    np.testing.assert_allclose(after[1], 0.02 * 0.6745 * np.sqrt(1 + 3e5 / after[0]), rtol=0.2)
    # the stated errors are right here, and the figure says so
    np.testing.assert_allclose(error[1], after[1], rtol=0.2)


@pytest.mark.parametrize("n", [0, 1, 2, 11])
def test_few_overlaps_are_drawn_too(saved, tmp_path, n):
    figure = overlaps(pairs_of(12)[:n], saved, tmp_path)
    assert words(figure)[1].startswith(["no two detectors overlap", "1 pair ", "2 pairs"][min(n, 2)] if n < 11 else "11 pairs")
    assert len(figure.axes) == (5 if n > 1 else 0)  # nothing is seen on an empty panel, or of a single pair
    for axes in figure.axes[:2]:
        assert sum(patch.get_data().values.sum() for patch in axes.patches[:1]) == n


def test_a_single_pair_has_its_numbers_in_words(drawn, tmp_path):
    pairs = pairs_of(12)[:1]
    pairs["Before"], pairs["After"], pairs["e_Delta"] = 3.21, 0.0123, 0.02
    assert words(overlaps(pairs, drawn, tmp_path))[1].split() == (
        "1 pair difference 3.21 → 0.0123 standard error 0.02 counts28/pixel".split() + ["rejected"] * bool(pairs["Rejected"][0])
    )


@pytest.mark.parametrize(("column", "lacking"), [("Sep", "separation"), ("Npix", "area")])
def test_a_plot_against_what_is_the_same_for_all_pairs_is_left_out(drawn, tmp_path, column, lacking):
    pairs = pairs_of(50)
    pairs[column] = pairs[column][0]
    labels = [axes.get_xlabel() for axes in overlaps(pairs, drawn, tmp_path).axes]
    assert len(labels) == 4
    assert lacking not in " ".join(labels)
    labels = [axes.get_xlabel() for axes in overlaps(pairs, drawn, tmp_path, dict.fromkeys(EXPTIMES, 600.0)).axes]
    assert len(labels) == 3
    assert "exposure time" not in " ".join(labels)


def test_differences_that_are_not_known_all_zero_or_all_rejected_are_drawn_too(saved, tmp_path):
    pairs = pairs_of(50)
    zero = pairs.copy()
    zero["Before"], zero["After"] = 0.0, 0.0
    assert "robust rms 0 → 0" in words(overlaps(zero, saved, tmp_path))[1]
    unknown = pairs.copy()
    for name in ("Before", "After", "e_Delta", "Sep"):
        unknown[name] = np.nan
    unknown["Npix"] = 0
    figure = overlaps(unknown, saved, tmp_path)
    assert "robust rms – → –" in words(figure)[1]
    assert figure.axes == []
    rejected = pairs.copy()
    rejected["Rejected"] = True
    assert "50 rejected (100.0 %)" in words(overlaps(rejected, saved, tmp_path))[1]
    some = pairs.copy()
    some["After"][::2] = np.nan
    np.testing.assert_array_less(0, points(overlaps(some, saved, tmp_path).axes[2], DARK_BLUE, "o")[1])


def test_pairs_of_unknown_exposure_time_are_left_out_of_that_plot_only(drawn, tmp_path):
    figure = overlaps(pairs_of(50), drawn, tmp_path, {})
    assert [axes.get_xlabel().split()[0] for axes in figure.axes[2:]] == ["separation", "area"]


# backgrounds


def background(table, detectors, drawn, tmp_path):
    figures.background_figure(table, detectors, "LMC_c42 N662", tmp_path / "b.png")
    return drawn[-1]


def maps(figure):
    """The panels by the letters that they have when there are all four."""
    titles = {"Focal plane": "a", "Sky: mean": "b", "Sky: components": "c", "Sky: standard error": "d"}
    titled = [(axes, text.get_text()) for axes in figure.axes for text in axes.texts[:1]]
    return {letter: axes for axes, title in titled for start, letter in titles.items() if start in title}


def place_of(axes, name):
    """East and north of a detector's label, arcmin."""
    return next(text.get_position() for text in axes.texts if text.get_text().split("\n")[0] == name)


def test_the_focal_plane_has_north_up_east_left_and_each_detector_at_its_place(drawn, tmp_path):
    detectors = footprints(3)
    plane = maps(background(solved(detectors, 0.0), detectors, drawn, tmp_path))["a"]
    left, right = plane.get_xlim()
    assert left > right  # east is left
    assert plane.get_ylim()[0] < plane.get_ylim()[1]
    # offsets of real headers, arcmin
    for name, east, north in (("S29", -18.6, 54.2), ("N7", 55.9, -4.9), ("S4", 0.0, 4.9), ("N31", 18.6, -54.2)):
        np.testing.assert_allclose(place_of(plane, name), (east, north), atol=0.15)


def test_a_detector_that_is_always_bright_stands_out_on_the_focal_plane(drawn, tmp_path):
    detectors = footprints(5)
    excess = np.random.default_rng(1).normal(0, 0.5, len(detectors))
    excess[detectors["EXTNAME"] == "S7"] += 4.0
    excess[np.flatnonzero(detectors["EXTNAME"] == "N12")[0]] += 50  # once: the median does not see it
    plane = maps(background(solved(detectors, excess), detectors, drawn, tmp_path))["a"]
    names = np.unique(detectors["EXTNAME"])
    colours = plane.collections[0].get_facecolors()
    reddest = np.array(backgrounds._colours("RdYlBu_r")(1.0))
    red = names[np.abs(colours - reddest).max(axis=1) < 0.01]
    assert "S7" in red
    assert "N12" not in red
    assert len(red) <= 3
    median = np.median(excess[detectors["EXTNAME"] == "S7"])
    label = next(text.get_text() for text in plane.texts if text.get_text().startswith("S7"))
    assert float(label.split("\n")[1]) == pytest.approx(median, abs=0.06)


def test_the_sky_map_is_the_mean_of_the_detectors_that_cover_a_place(drawn, tmp_path):
    detectors = footprints(2, dither=0, names=["S4"])
    # the second is half a detector further east
    for name in [name for name in detectors.colnames if "RA" in name]:
        detectors[name][1] += NY * SCALE / 3600 / 2 / np.cos(np.radians(66.4))
    table = solved(detectors, [1.0, 3.0], error=[0.1, np.nan])
    panels = maps(background(table, detectors, drawn, tmp_path))
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


@pytest.mark.parametrize(("ra", "dec"), [(0.01, 2.0), (81.8, -66.45), (200.0, -89.6)])
def test_maps_of_the_sky_are_as_large_as_the_field_everywhere(drawn, tmp_path, ra, dec):
    detectors = footprints(2, ra, dec, dither=60.0)
    axes = maps(background(solved(detectors, 0.0), detectors, drawn, tmp_path))["b"]
    assert 120 < abs(np.subtract(*axes.get_xlim())) < 160
    assert np.mean(axes.get_xlim()) == pytest.approx(0, abs=3)


def test_components_have_their_colours_and_what_is_special_is_marked(drawn, tmp_path):
    detectors = footprints(2)
    n = len(detectors)
    component = np.where(np.arange(n) < n // 2, 1, 2)
    component[[5, 70]] = 3, 4
    remark = np.full(n, "", dtype="U60")
    remark[5] = "no overlap with another detector: own sky level kept"
    remark[[7, 9, 11]] = "contradicts 5 of its 6 overlaps"
    remark[20] = "fixed by the user"
    axes = maps(background(solved(detectors, 0.0, component=component, Remark=remark), detectors, drawn, tmp_path))["c"]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    sizes = [np.count_nonzero(component == k) for k in (1, 2)]
    assert labels == [
        f"1: {sizes[0]} detectors", f"2: {sizes[1]} detectors", "fixed by the user: 1", "contradicts its neighbours: 3",
        "without a neighbour: 2",
    ]  # fmt: skip
    assert [len(c.get_paths()) for c in axes.collections] == [sizes[0]] * 2 + [sizes[1]] * 2 + [1, 3, 2]
    assert "2 components" in words(drawn[-1])[1]


def test_another_camera_is_drawn_as_it_lies_on_the_sky(drawn, tmp_path):
    detectors = footprints(3)
    detectors["EXTNAME"] = [f"ccd{name}" for name in detectors["EXTNAME"]]
    # the exposures lack one detector each; that of the one with most is put in its place by the others
    drop = [(0, "ccdS4"), (1, "ccdN4"), (1, "ccdN5"), (2, "ccdS10"), (2, "ccdS11")]
    keep = [not any(row["Root"].startswith(f"c4d_{e:06d}") and row["EXTNAME"] == name for e, name in drop) for row in detectors]
    detectors = detectors[keep]
    plane = maps(background(solved(detectors, 0.0), detectors, drawn, tmp_path))["a"]
    assert "not DECam" in plane.get_xlabel()
    assert "c4d_000000_ooi_N662_v1" in plane.get_xlabel()
    origin = np.array(place_of(plane, "ccdS5")) - (18.7, 4.9)
    for name, east, north in (("S29", -18.6, 54.2), ("N7", 55.9, -4.9), ("S4", 0.0, 4.9), ("N31", 18.6, -54.2)):
        np.testing.assert_allclose(place_of(plane, f"ccd{name}") - origin, (east, north), atol=0.3)


def test_detectors_without_places_are_counted_not_lost(drawn, tmp_path):
    detectors = footprints(1)
    table = solved(detectors, 0.0)
    detectors["COR2RA1"][3] = np.nan
    figure = background(table, detectors[:-2], drawn, tmp_path)
    assert "3 without known corners" in words(figure)[1]
    assert f"{len(table)} detectors of 1 exposure " in words(figure)[1]
    assert "without known corners" in words(background(table, detectors[:0], drawn, tmp_path))[1]


@pytest.mark.parametrize("n", [0, 1])
def test_no_background_and_a_single_one_are_drawn(saved, tmp_path, n):
    detectors = footprints(1)
    figure = background(solved(detectors, np.nan if n else 1.0)[:n], detectors, saved, tmp_path)
    assert words(figure)[1].startswith("1 detector of 1 exposure" if n else "no detectors")
    assert figure.axes == []


def test_where_no_detectors_overlap_there_is_no_map_of_what_connects_them_or_of_errors(saved, tmp_path):
    detectors = footprints(1)
    n = len(detectors)
    table = solved(detectors, np.linspace(-1, 1, n), np.nan, component=np.arange(n))
    assert set(maps(background(table, detectors, saved, tmp_path))) == {"a", "b"}
    assert f"{n} without a neighbour" in words(saved[-1])[1]
    assert "standard error" not in words(saved[-1])[1]


@pytest.mark.parametrize("level", [0.0, -300.0, 40.0])
def test_colours_of_differences_are_centred_on_zero(drawn, tmp_path, level):
    detectors = footprints(2)
    excess = level + np.random.default_rng(1).normal(0, 20, len(detectors))
    figure = background(solved(detectors, excess), detectors, drawn, tmp_path)
    bars = [axes for axes in figure.axes if axes.get_ylabel().startswith("b − SUB_BACK")]
    assert len(bars) == 2
    for bar in bars:
        low, high = bar.get_ylim()
        assert low == pytest.approx(-high)
        assert 0.5 * abs(level) < high < abs(level) + 100


# pairs


def pair_words(cutouts, drawn, tmp_path):
    figures.pair_figure(cutouts, "LMC_c42 N662", tmp_path / "p.png")
    return words(drawn[-1])


def test_a_pair_is_shown_with_its_names_and_numbers(drawn, tmp_path):
    pair = cutout(after=-0.5, rejected=True)
    said = "\n".join(pair_words([pair], drawn, tmp_path))
    assert "first: c4d_1_S4   second: c4d_2_N12" in said
    assert "difference −0.5 ± 0.02 counts28/pixel" in said
    assert "25.0 standard errors" in said
    assert f"{pair.good.sum():,} cells" in said
    assert "rejected" in said.splitlines()[-1]


def test_a_pair_is_shown_north_up_with_its_difference_in_the_cells_that_were_compared(saved, tmp_path):
    pair = cutout(after=0.5)
    pair.good[-20:, -30:] = False
    pair_words([pair], saved, tmp_path)
    pictures = (np.asarray(picture.get_array())[1:-1, 1:-1] for picture in saved[0].images)  # within their frames
    first, second, difference = (picture.astype(int) for picture in pictures)
    rows, columns = (np.arange(1, n + 1) * size // (n + 2) for n, size in zip(first.shape[:2], pair.image1.shape, strict=True))
    shown = pair.image1[::-1][rows[:, None], columns]  # north is up
    known = np.isfinite(shown)
    assert np.corrcoef(shown[known], first[known][:, 0])[0, 1] > 0.95
    assert (np.abs(first[~known][:, :3] - BLUE) < 4).all()
    assert np.median(second[known][:, 0]) > np.median(first[known][:, 0]) + 3  # the same greys for both
    compared = pair.good[::-1][rows[:, None], columns]
    left_out = (difference[..., :3] == 0x8C).all(axis=2)
    assert left_out[0, -1]
    assert (left_out == ~compared).mean() > 0.95
    assert difference[~left_out][:, 0].mean() > difference[~left_out][:, 2].mean() + 20  # second is brighter: red
    assert "colours ± " in "\n".join(words(saved[0]))
    # no data are blue, also in the file
    picture = look(tmp_path / "p.png")
    assert (np.abs(picture - BLUE).max(axis=2) < 4).any()


def test_wide_overlaps_lie_below_one_another_and_high_ones_side_by_side(drawn, tmp_path):
    pair_words([cutout((20, 200)), cutout((200, 20))], drawn, tmp_path)
    places = [(picture.ox, picture.oy, *picture.get_array().shape[1::-1]) for picture in drawn[0].images]
    (x0, y0, width, height), (x1, y1, *_), (x2, y2, *_) = places[:3]
    assert x0 == x1 == x2
    assert y0 > y1 + height > y1 > y2 + height
    assert width / height == pytest.approx(10, rel=0.05)
    (x0, y0, width, height), (x1, y1, *_), (x2, y2, *_) = places[3:]
    assert y0 == y1 == y2
    assert x0 + width < x1 < x1 + width < x2
    assert width / height == pytest.approx(0.1, rel=0.05)


def test_a_large_overlap_is_averaged_without_the_cells_that_do_not_count(drawn, tmp_path):
    pair = cutout((300, 500), after=0.5)
    pair.image2[::2] += 1000.0
    pair.good[::2] = False
    pair_words([pair], drawn, tmp_path)
    shown = np.asarray(drawn[0].images[2].get_array())[1:-1, 1:-1, :3].astype(int)
    assert max(np.count_nonzero(np.diff(shown, axis=axis).any(axis=(1 - axis, 2))) for axis in (0, 1)) <= 80
    assert (shown[..., 0] < shown[..., 2]).mean() < 0.02  # of single cells 12 % would be blue


def test_the_ten_worst_pairs_are_shown_and_no_pair_is_no_error(drawn, tmp_path):
    pair_words([replace(cutout((30, 40)), first=f"worst_{k}") for k in range(12)], drawn, tmp_path)
    said = "\n".join(words(drawn[0]))
    assert "worst_9" in said
    assert "worst_10" not in said
    assert len(drawn[0].images) == 30
    assert "no two detectors overlap" in pair_words([], drawn, tmp_path)[1]


def test_a_pair_without_data_or_without_noise_is_shown(saved, tmp_path):
    pair = cutout()
    empty = replace(pair, image1=pair.image1 * np.nan, good=np.zeros_like(pair.good), after=np.nan, error=np.nan)
    flat = replace(pair, image1=np.zeros_like(pair.image1), image2=np.zeros_like(pair.image1), after=0.0, error=0.0)
    assert "|difference| up to 0 " in pair_words([empty, flat], saved, tmp_path)[1]
    assert "difference – ± –" in "\n".join(words(saved[0]))


# before and after


def compare(before, after, drawn, tmp_path, outlines=()):
    figures.comparison_figure(before, after, (12.3, 4.56, None), "LMC_c42 T07 N662", tmp_path / "c.png", outlines)
    return [axes.images[0] for axes in drawn[-1].axes if axes.images]


def test_before_and_after_have_the_same_greys_and_the_given_numbers_in_the_head(drawn, tmp_path):
    before, after = tile()
    first, second, _ = compare(before, after, drawn, tmp_path)
    assert first.norm is second.norm
    assert words(drawn[0])[1].split() == "block jump 12.3 → 4.56, nebulae count too seams removed – counts28/pixel".split()
    assert "linear to" in words(drawn[0])[2]


@pytest.mark.parametrize(("step", "nebula", "noise"), [(2.0, 0.0, 0.2), (0.5, 0.0, 0.2), (2.0, 300.0, 0.2), (20.0, 5.0, 0.2)])
def test_a_seam_is_seen_before_and_gone_after_whatever_the_sky(drawn, tmp_path, step, nebula, noise):
    before, after, change = compare(*tile(step, nebula, noise), drawn, tmp_path)

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


def test_nebulae_keep_their_shape(drawn, tmp_path):
    _, after, _ = compare(*tile(step=1.0, nebula=300.0), drawn, tmp_path)
    grey = np.ma.filled(after.norm(after.get_array()), np.nan)
    rows, columns = grey.shape
    profile = grey[int(0.7 * rows), int(0.3 * columns) : int(0.5 * columns) : columns // 24]
    assert (np.diff(profile) < 0).all()
    assert np.mean(grey > 1) < 0.01


def test_another_zero_of_the_matched_image_changes_nothing_but_the_images_themselves(drawn, tmp_path):
    before, after = tile()
    one = compare(before, after, drawn, tmp_path)
    other = compare(before, replace(after, image=after.image + 7), drawn, tmp_path)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.get_array(), b.get_array(), atol=1e-4)
        assert a.get_clim() == pytest.approx(b.get_clim(), rel=1e-3)


def test_what_is_not_covered_is_blue_in_all_three(saved, tmp_path):
    compare(*tile(), saved, tmp_path)
    picture = look(tmp_path / "c.png")
    for axes in saved[0].axes[:2]:
        place = axes.get_position()
        x, y = (place.x0 + 0.04 * place.width) * picture.shape[1], (1 - place.y0 - 0.04 * place.height) * picture.shape[0]
        assert np.abs(picture[int(y), int(x)] - BLUE).max() <= 6
        assert np.abs(picture[int(y), int(x + 0.3 * place.width * picture.shape[1])] - BLUE).max() > 20


def test_outlines_lie_where_they_are_on_the_sky(drawn, tmp_path):
    before, after = tile()
    corners = np.array([[40, 30], [200, 30], [200, 220], [40, 220]])  # pixels from the south east, by south west
    sky = np.stack(before.wcs.wcs_pix2world(*corners.T, 0), axis=-1)
    compare(before, after, drawn, tmp_path, [("T07", sky[[0, 1, 2, 3]])])
    for axes in drawn[0].axes[:2]:
        np.testing.assert_allclose(axes.lines[0].get_xydata()[:4], corners, atol=1e-6)
        assert "T07" in [text.get_text() for text in axes.texts]


def test_large_images_are_averaged_and_small_ones_enlarged_by_whole_factors(saved, tmp_path):
    assert compare(*tile(pixels=1000), saved, tmp_path)[0].get_array().shape == (500, 500)
    assert compare(*tile(pixels=100), saved, tmp_path)[0].get_array().shape == (100, 100)
    picture, place = look(tmp_path / "c.png"), saved[1].axes[0].get_position()
    assert place.width * picture.shape[1] == pytest.approx(500, abs=0.1)
    assert place.x0 * picture.shape[1] == pytest.approx(round(place.x0 * picture.shape[1]), abs=0.01)


def test_images_without_data_without_spread_or_unchanged_are_drawn(saved, tmp_path):
    before, _ = tile()
    compare(before, before, saved, tmp_path)
    flat = replace(before, image=np.full_like(before.image, 3))
    compare(flat, flat, saved, tmp_path)
    nothing = replace(before, image=np.full_like(before.image, np.nan))
    compare(nothing, nothing, saved, tmp_path)
    assert len(saved) == 3


def test_images_of_different_pixels_are_not_compared(tmp_path):
    with pytest.raises(ValueError, match="cannot be compared"):
        figures.comparison_figure(tile()[0], tile(pixels=100)[0], (None,) * 3, "F", tmp_path / "c.png")


# all of them


def draw_all(directory, title):
    detectors = footprints(3)
    rng = np.random.default_rng(1)
    figures.overlap_figure(pairs_of(300), EXPTIMES, title, directory / "overlaps.png")
    figures.background_figure(solved(detectors, rng.normal(0, 3, len(detectors))), detectors, title, directory / "backgrounds.png")
    figures.pair_figure([cutout(seed=k, rejected=k > 1) for k in range(3)], title, directory / "pairs.png")
    figures.comparison_figure(*tile(), (1.0, 1.0, 1.0), title, directory / "comparison.png")
    return sorted(directory.glob("*.png"))


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """All figures, with a long title, drawn on two threads at once while whatever passes through mathtext fails."""
    from matplotlib import mathtext

    def parse(*_args, **_kwargs):
        raise AssertionError("matplotlib parses mathtext with global state, which threads share")

    long = "A_field_with_a_long_name_of_its_own N662_s   112 exposures, 1036 detectors in all of its fields and tiles"
    directories = [tmp_path_factory.mktemp("figures") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(mathtext.MathTextParser, "parse", parse)
        return list(pool.map(draw_all, directories, [long, long]))


def test_the_same_input_gives_the_same_bytes_also_on_threads(twice):
    one, other = twice
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert len(one) == 4


def test_files_are_small_and_have_no_date(twice):
    for path in twice[0]:
        with Image.open(path) as picture:
            assert picture.info.keys() <= {"dpi", "transparency", "gamma"}
        assert path.stat().st_size < 1_000_000


def test_all_that_is_written_is_inside_the_picture(twice):
    for path in twice[0]:
        picture = look(path)
        edges = [picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]]
        assert all((edge == 255).all() for edge in edges), path.name
