"""The page of a field: what it shows, that it shows nothing else, and that everything it leads to is there."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import matched_fields
import numpy as np
import pytest
from PIL import Image

from kred_core import stages, survey
from kred_core.binned import BinnedGrid, quicklook
from kred_core.binned.quicklook import QuickLook
from kred_core.config import BackgroundKind, SurveyConfig
from kred_core.config.settings import to_toml
from kred_core.figures.drawing import short
from kred_core.products import FieldPaths, tables, write_record, write_text
from kred_core.report import inputs, pictures, write_field_page, write_fields_page
from kred_core.report.__main__ import main
from kred_core.report.page import tile_places
from kred_core.simulate import simulate_field
from kred_core.sky import Grid, tan_wcs
from kred_core.stages.outcome import Outcome, StageOutcome

FIELD = "LMC_c42"
HOSTILE = "<script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;"


class Page(HTMLParser):
    """What a browser would find in a page: elements with their attributes, and the texts in them."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.elements, self.texts, self.scripts = path, [], [], []
        self._within: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._within.append(tag)

    def handle_endtag(self, tag):
        self._within = self._within[: len(self._within) - 1 - self._within[::-1].index(tag)]

    def handle_data(self, data):
        within = self._within[-1] if self._within else ""
        (self.scripts if within == "script" else [] if within == "style" else self.texts).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str, **wanted: str) -> list[dict]:
        return [a for name, a in self.elements if name == tag and all((a.get(k) or "").split().count(v) for k, v in wanted.items())]

    def links(self) -> list[Path]:
        """The files that the page leads to."""
        return [self.path.parent / unquote(a["href"]) for a in self.all("a")]

    def pictures(self) -> list[Image.Image]:
        found = []
        for a in self.all("img"):
            kind, _, data = a["src"].partition(";base64,")
            assert kind == "data:image/jpeg"
            picture = Image.open(io.BytesIO(base64.b64decode(data)))
            picture.load()
            assert picture.size == (int(a["width"]), int(a["height"])) if "width" in a else True
            found.append(picture)
        return found


def check_whole(page: Page) -> None:
    """Every link leads to a file, every picture is one, has words for those who do not see it, and nothing comes from elsewhere."""
    missing = [path for path in page.links() if not path.is_file()]
    assert missing == []
    assert len(page.pictures()) == len(page.all("img"))
    assert all(a["alt"] for a in page.all("img"))
    for tag, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on")}, (tag, attributes)
        for name in ("href", "src"):
            assert not attributes.get(name, "").startswith(("http", "//", "/", "javascript"))
    assert len(page.scripts) == len(page.all("script")) <= 1


@pytest.fixture(scope="module")
def reduced(tmp_path_factory) -> Path:
    """Data root with a field of which one tile was reduced; one of its exposures is refused, one has a remark."""
    root = tmp_path_factory.mktemp("report")
    faults = ["missing-magzero", "missing-seeing"]
    simulate_field(
        root, field=FIELD, tiles=["T06"], binning=16, bands=["N662", "r"], exposures=2, n_detectors=6, offsets=20, faults=faults
    )
    config = matched_fields.configuration(root, FIELD, ["T06"])
    write_text(FieldPaths(root, FIELD).run_config, to_toml(config))
    matched_fields.summarize(config)
    matched_fields.measure(config)
    matched_fields.finish(config)
    for tile, image in stages.mosaic_names(config):
        stages.evaluate_mosaic(config, tile, image)
    for (image, background), tiles in stages.evaluated_tiles(config).items():
        stages.draw_field(config, image, background, tiles)
    stages.tabulate_mosaics(config)
    remember(root, StageOutcome("check", done=6, seconds=1.25), StageOutcome("coadd", done=2, seconds=61.5))
    return root


def remember(root: Path, *done: StageOutcome, **rest) -> Path:
    """The record of a run, as runs write it."""
    paths = FieldPaths(root, FIELD)
    path = paths.record("run", "last")
    Outcome(FIELD, stages=list(done), disk={"DECam_SWARP": 123_456_789}, **rest).remember(path, root)
    return path


@pytest.fixture
def copy(reduced, tmp_path) -> FieldPaths:
    """A copy of `reduced` to change."""
    root = tmp_path / "root"
    for name in ("Summary", "DECam_SWARP", "DECam_MEF", ".kred"):
        shutil.copytree(reduced / name, root / name, symlinks=True)
    return FieldPaths(root, FIELD)


def made(paths: FieldPaths) -> Page:
    write_field_page(paths)
    write_fields_page(paths)
    page = Page(paths.page)
    check_whole(page)
    return page


@pytest.fixture(scope="module")
def page(reduced) -> Page:
    return made(FieldPaths(reduced, FIELD))


class TestThePage:
    def test_shows_the_sky_before_and_after(self, page):
        for image in ("N662", "r"):
            shown = [a for a in page.all("img") if a["alt"].startswith(f"{FIELD} in {image}, north up, east left")]
            assert ["matched" in a["alt"] for a in shown] == [True, False]
            assert shown[0]["src"] != shown[1]["src"]
            assert (shown[0]["width"], shown[0]["height"]) == (shown[1]["width"], shown[1]["height"])

    def test_shows_each_tile_with_its_mosaic(self, page, reduced):
        paths = FieldPaths(reduced, FIELD)
        for image in ("N662", "r"):
            assert [a for a in page.all("img") if a["alt"] == f"{FIELD} T06 in {image}, mosaic with matched backgrounds"]
            for product in (
                paths.mosaic_figure("T06", image, BackgroundKind.MATCHED),
                paths.mosaic("T06", image, BackgroundKind.MATCHED),
                paths.quick_look(image),
            ):
                assert product.resolve() in [link.resolve() for link in page.links()]

    def test_tells_verdicts_how_much_matching_improved_times_and_options(self, page, reduced):
        for words in (
            "6 exposures: 4 good, 1 usable, 1 refused",
            "MAGZERO is missing in the primary header",
            "the seeing is unknown",
            "pairs of detectors that agree least",
            "61.5",
            "123.5 MB",
            "kred 0.",
            "evaluate.figure_pixels = 200",  # of the fixture, not the default
            'engine = "native"',  # among all options
        ):
            assert words in page.text
        assert "coadd.engine" not in page.text  # the default
        for row in tables.read(FieldPaths(reduced, FIELD).matching_table, tables.MATCHING, "match"):
            assert f"{short(row['Before'])} → {short(row['After'])} counts28/pixel" in page.text
            assert f"{row['N_det']} in " in page.text

    def test_is_the_same_whoever_makes_it_and_wherever(self, page, copy):
        """Another process, another place on the disk."""
        copy.page.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "kred_core.report", FIELD, "--root", str(copy.root)], capture_output=True, text=True, timeout=100
        )
        assert done.stdout.strip() == str(copy.page), done.stderr
        assert copy.page.read_bytes() == page.path.read_bytes()
        assert copy.all_fields_page.read_bytes() == FieldPaths(page.path.parents[2], FIELD).all_fields_page.read_bytes()

    def test_depends_on_all_that_it_shows(self, page, reduced):
        """Whatever it leads to, but for what each run writes anew, is among the files whose change makes it anew."""
        paths = FieldPaths(reduced, FIELD)
        known = {os.path.normpath(path) for path in inputs(paths)}
        free = {paths.all_fields_page, paths.log, paths.detector_table, paths.background_table}  # linked, not read
        assert {os.path.normpath(link) for link in page.links()} - known <= set(map(str, free))

    def test_does_not_need_the_network_or_let_anything_in(self, page):
        policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
        assert policy.startswith("default-src 'none'; img-src data:;")
        assert "unsafe-inline" not in policy.partition("script-src")[2]


PLACE = pictures.Place(81.0, -66.0, 0.5, 0.5, 3600.0, 3600.0)


class TestPlaces:
    def test_tiles_stand_as_on_the_sky(self):
        """T07 is north of T06 and T10 east of it, which is left."""
        tiles = survey.tiles(FIELD, SurveyConfig())
        places, side, _ = tile_places(tiles)
        where = {t.name: place for t, place in zip(tiles, places, strict=True)}
        assert where["T07"][1] < where["T06"][1]
        assert abs(where["T07"][0] - where["T06"][0]) < 0.2 * side
        assert where["T10"][0] < where["T06"][0]
        assert abs(where["T10"][1] - where["T06"][1]) < 0.2 * side

    @pytest.mark.parametrize("field", ["LMC_c42", "SMC_c01", "LMC_30Dor"])
    def test_a_star_lies_where_its_tile_is_drawn(self, field, tmp_path):
        """The grid of binned maps is that of the galaxy, whose north is not the field's; in the picture it is."""
        tiles = survey.tiles(field, SurveyConfig())
        ra, dec = np.mean([t.ra for t in tiles]) - 8, np.mean([t.dec for t in tiles]) + 2
        grid = BinnedGrid(float(ra), float(dec), 20.0)
        corners = grid.wcs.wcs_world2pix([[t.ra, t.dec] for t in tiles], 0)
        low, high = (np.rint(corners.min(axis=0)) - 80).astype(int), (np.rint(corners.max(axis=0)) + 80).astype(int)
        image = np.zeros((high - low)[::-1], np.float32)
        for number, (x, y) in enumerate(np.rint(corners - low).astype(int), 1):
            image[y - 1 : y + 2, x - 1 : x + 2] = number
        look = QuickLook(int(low[0]), int(low[1]), {"before": image, "after": image}, np.ones(image.shape, np.int16), 0.07)
        path = tmp_path / "look.fits.fz"
        quicklook.write(path, look, grid, field, "N662")
        sky = pictures.Sky.read(path, tiles)
        after, seen = sky.after, sky.place
        plane = tan_wcs(Grid(seen.ra, seen.dec, 1.0, 1, 1))  # arcsec, west and north
        for number, tile in enumerate(tiles, 1):
            west, north = plane.wcs_world2pix([[tile.ra, tile.dec]], 0)[0]
            part = np.array([seen.left + west / seen.width, seen.top - north / seen.height])
            np.testing.assert_allclose(part * after.shape[::-1], sky.outlines[tile.name].mean(axis=0), atol=0.5)
            x, y = sky.outlines[tile.name].mean(axis=0)
            assert after[round(y - 0.5), round(x - 0.5)] == pytest.approx(number, abs=0.3), tile.name


class TestPictures:
    def test_the_greys_have_their_values(self):
        """A picture whose grey is known at each value: the scale says the same as the pixels."""
        after = np.tile(np.repeat(np.linspace(-20, 500, 64), 8), (512, 1)).astype(np.float32)
        sky = pictures.Sky(after + 300, after, {}, PLACE)
        shown = np.asarray(Image.open(io.BytesIO(sky.pictures()["after"].jpeg)))[256].astype(float)
        assert len(sky.greys()) >= 4
        assert sky.shift == pytest.approx(300)
        for value, place in sky.greys():
            assert np.interp(value, after[0], shown) == pytest.approx(30 + place * 225, abs=8)
        nothing = np.full((64, 64), np.nan, np.float32)
        assert pictures.Sky(nothing, nothing, {}, PLACE).greys() == []

    def test_of_a_figure_keep_its_shape_and_take_no_more_than_they_may(self, tmp_path):
        noise = np.random.default_rng(5).integers(0, 256, (900, 1200)).astype(np.uint8)
        for image, width in ((noise, 400), (noise[:150, :200], 200)):
            Image.fromarray(image).save(tmp_path / "figure.png")
            small = pictures.figure_picture(tmp_path / "figure.png", 400, 50_000)
            assert len(small.jpeg) <= 50_000
            assert 0.5 * width < small.width <= width
            assert small.width / small.height == pytest.approx(4 / 3, abs=0.02)


class TestNothingGetsOut:
    def test_of_names_headers_and_messages(self, copy):
        """Every text that comes from a file or a header, in every place where one is shown."""
        for path, columns, names in (
            (copy.quality_table, tables.QUALITY, ("Root", "File", "FILTER", "OBSID", "Reasons")),
            (copy.exposure_table, tables.EXPOSURES, ("FILTER", "OBJECT")),
            (copy.matching_table, tables.MATCHING, ("Remark", "Method")),
            (copy.overlap_table, tables.OVERLAPS, ("File1",)),
        ):
            table = tables.read(path, columns, "test")
            rows = [dict(zip(table.colnames, row, strict=True)) for row in table]
            known = rows if path == copy.quality_table else []  # the exposures must stay known
            tables.write(tables.make(known + [row | dict.fromkeys(names, HOSTILE) for row in rows], columns), path, "test")
        failed = StageOutcome("coadd", failed={"T06_b.r": HOSTILE, HOSTILE: HOSTILE})
        remember(copy.root, failed, notes=[HOSTILE], missing=[copy.root / HOSTILE], stopped=HOSTILE)
        copy.run_config.write_text(copy.run_config.read_text() + f"# {HOSTILE}\n")

        page = made(copy)
        assert page.text.count("<script>alert(1)</script>") >= 12
        assert [script.strip().split("\n")[0] for script in page.scripts] == ['"use strict";']
        assert not [a for a in page.all("img") if a["src"] == "x"]
        check_whole(Page(copy.all_fields_page))

    def test_of_names_that_are_no_utf8(self, copy):
        remember(copy.root, notes=["half a character: \udcff"])
        assert "half a character: ?" in made(copy).text


class TestWhatIsNotThere:
    def test_a_tile_that_failed_is_marked_and_says_why(self, copy):
        copy.mosaic("T06", "r", BackgroundKind.MATCHED).unlink()
        copy.mosaic_figure("T06", "r", BackgroundKind.MATCHED).unlink()
        copy.coverage_figure("T06", "r", BackgroundKind.MATCHED).unlink()
        reason = "no room on the disk"
        remember(
            copy.root,
            StageOutcome("coadd", done=3, failed={"T06_b.r": reason}),
            missing=[copy.mosaic("T06", "r", BackgroundKind.MATCHED)],
        )
        page = made(copy)
        assert "not complete" in page.text
        assert f"coadd T06_b.r failed: {reason}" in page.text
        assert "missing: DECam_SWARP/LMC_c42/T06_b/LMC_c42_T06.r.fits" in page.text
        tile = [a for name in ("a", "div") for a in page.all(name, **{"class": "failed"})]
        assert [a["title"] for a in tile] == [reason]
        assert [a for a in page.all("img") if a["alt"] == f"{FIELD} T06 in r, quick look with matched backgrounds"]

    def test_the_quick_look_stands_in_for_mosaics_also_without_the_memory_of_kred(self, copy):
        shutil.rmtree(copy.coadds("T06", BackgroundKind.MATCHED))
        shutil.rmtree(copy.root / ".kred")
        page = made(copy)
        assert "no record of a run" in page.text
        assert "quick look with matched backgrounds" in page.html
        assert "mosaic with matched backgrounds" not in page.html
        assert "The quick look stands in for" in page.text

    @pytest.mark.parametrize(("n_pairs", "n_det", "shown"), [(0, 1, 0), (0, 2, 1), (1, 2, 2), (2, 2, 3)])
    def test_figures_on_which_there_is_nothing_to_see_are_left_out(self, copy, n_pairs, n_det, shown):
        matching = tables.read(copy.matching_table, tables.MATCHING, "match")
        matching["N_pairs"], matching["N_det"] = n_pairs, n_det
        tables.write(matching, copy.matching_table, "test")
        names = {path.name for path in made(copy).links()}
        assert len(names & {copy.matching_figure("r", kind).name for kind in ("overlaps", "backgrounds", "pairs")}) == shown

    def test_without_matching_there_are_mosaics_alone(self, copy):
        shutil.rmtree(copy.quick_look("r").parent)
        for table in (copy.matching_table, copy.overlap_table, copy.background_table):
            table.unlink()
        page = made(copy)
        assert page.all("input", type="range") == []
        assert "not matched yet" in page.text
        assert "mosaic with matched backgrounds" in page.html

    def test_after_the_exposures_have_been_checked(self, copy):
        shutil.rmtree(copy.page.parent)
        shutil.rmtree(copy.root / ".kred")
        for table in copy.quality_table.parent.iterdir():
            if table != copy.quality_table:
                table.unlink()
        page = made(copy)
        assert "no pictures yet" in page.text
        assert "4 good" in page.text
        assert page.all("img") == []

    def test_before_anything_has_been_done(self, tmp_path):
        paths = FieldPaths(tmp_path, FIELD)
        paths.mef.mkdir(parents=True)
        page = made(paths)
        assert "no exposures checked yet" in page.text
        assert "Nothing of this field has been measured yet." in page.text

    def test_damaged_files_and_pictures_are_named_and_the_rest_shown(self, copy):
        tables = [copy.matching_table, copy.quality_table, copy.mosaic_table, copy.overlap_table, copy.run_config]
        for path in tables:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2].replace(b"\n", b" ", 7) + b"\xff\n\xff \xff")
        pictures = [copy.quick_look("r"), copy.reduced("T06", "r", BackgroundKind.MATCHED), copy.matching_figure("r", "pairs")]
        for path in pictures:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        page = made(copy)
        assert [path for path in tables + pictures if path.name not in page.text] == []
        assert len(page.all("input", type="range")) == 1


class TestRecord:
    def test_keeps_the_time_of_the_run_that_did_the_work(self, copy):
        path = copy.record("run", "last")
        before = path.read_bytes(), path.stat().st_mtime_ns
        remember(copy.root, StageOutcome("check", current=6, seconds=9.0), StageOutcome("coadd", current=4, seconds=9.0))
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before  # of a run that did nothing
        remember(copy.root, StageOutcome("check", current=6, seconds=0.1), StageOutcome("match", done=2, seconds=5.0))
        stages = json.loads(path.read_text())["stages"]
        assert {name: s["seconds"] for name, s in stages.items()} == {"check": 1.2, "coadd": 61.5, "match": 5.0}

    def test_forgets_a_failure_that_has_passed(self, copy):
        remember(copy.root, StageOutcome("coadd", failed={"T06_b.r": "no room"}))
        assert "not complete" in made(copy).text
        remember(copy.root, StageOutcome("coadd", current=4))
        assert "no room" not in made(copy).text


class TestAllFields:
    def test_leads_to_each_field_with_its_state_and_a_picture(self, copy):
        other = FieldPaths(copy.root, "LMC_c41")
        other.mef.mkdir(parents=True)
        made(copy)
        write_field_page(other)
        write_fields_page(other)
        page = Page(copy.all_fields_page)
        check_whole(page)
        assert [link.parent.name for link in page.links()] == ["LMC_c41", "LMC_c42"]
        assert len(page.pictures()) == 1
        assert "2 fields" in page.text
        assert "no pictures yet" in page.text
        assert "1 of 16 tiles co-added" in page.text
        assert page.scripts == []
        other.page.unlink()
        write_fields_page(copy)
        assert len(Page(copy.all_fields_page).links()) == 1

    def test_has_both_of_two_fields_that_end_at_the_same_moment(self, tmp_path):
        names = [f"LMC_c{n}" for n in (41, 42, 43, 44, 51, 52, 53, 54)]

        def end(name: str) -> None:
            paths = FieldPaths(tmp_path, name)
            write_text(paths.page, "page")
            write_record(paths.record("report", "card"), {"state": ["complete", "complete"], "summary": [name]})
            write_fields_page(paths)

        with ThreadPoolExecutor(len(names)) as runs:
            list(runs.map(end, names))
        page = FieldPaths(tmp_path, names[0]).all_fields_page
        write_text(page.parent / ".index.html.abc.tmp", "half")  # what a killed run has left
        end(names[0])
        assert [link.parent.name for link in Page(page).links()] == names
        assert list(page.parent.glob(".*")) == []


class TestByHand:
    def test_pages_are_named_and_a_field_that_is_not_there_is_an_error_in_words(self, tmp_path, capsys):
        FieldPaths(tmp_path / "here", "LMC_c41").mef.mkdir(parents=True)
        assert main(["LMC_c41", "--root", str(tmp_path / "here")]) == 0
        assert capsys.readouterr().out.split() == [str(FieldPaths(tmp_path / "here", "LMC_c41").page)]
        assert main(["LMC_c42", "--root", str(tmp_path)]) == 1
        assert capsys.readouterr().err.startswith("error: there is nothing of a field LMC_c42")
        assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_own_tiles_that_lie_on_one_another_are_all_seen(tmp_path):
    """Distances far below the size of a tile, a single tile, tiles around RA 0."""
    for places in ([(10.0, 0.0)], [(359.9, 1.0), (0.1, 1.0)], [(10.0, 0.0), (10.001, 0.0), (11.0, 0.5)]):
        tiles = [survey.Tile("X", f"T{i}", ra, dec, 0.67) for i, (ra, dec) in enumerate(places)]
        found, side, (width, height) = tile_places(tiles)
        assert all(-1e-9 <= left <= 1 - side + 1e-9 for left, _ in found)
        assert all(-1e-9 <= top <= 1 - side * width / height + 1e-9 for _, top in found)
        assert math.isfinite(side)
        assert side > 0.1
