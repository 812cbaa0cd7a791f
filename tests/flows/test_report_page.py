"""The page of a really reduced field, in a browser without a window: in a wide one and in one as narrow as a phone's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from astropy.coordinates import SkyCoord
from browsing import chromium, picture
from runs import last_log
from serving import reports

from flows.field import reduce
from kred_core.config import BackgroundKind, FieldConfig
from kred_core.products import FieldPaths
from kred_core.sky import Grid, tan_wcs

pytestmark = pytest.mark.usefixtures("prefect_server")

HOSTILE = '<img src=x onerror="window.hacked=1">_ooi_r_v1.fits.fz'  # what a file may be called
SIZES = {"wide": (1400, 900), "phone": (390, 800)}


def config(root: Path, **sections: dict) -> FieldConfig:
    return FieldConfig(field="LMC_c42", tiles=["T07"], root=root, **sections)


@pytest.fixture(scope="module")
def paths(simulated, tmp_path_factory) -> FieldPaths:
    """`simulated`, with one more file that is no exposure and has a name that would do harm, reduced."""
    root = tmp_path_factory.mktemp("page") / "root"
    shutil.copytree(simulated, root)
    paths = FieldPaths(root, "LMC_c42")
    (paths.mef / HOSTILE).write_bytes(b"no FITS file")
    assert reduce(config(root)) == 3
    return paths


@pytest.fixture(scope="class", params=SIZES)
def browser(request, paths) -> Iterator:
    """The page in a browser of each size, and what the browser said and asked for; closed before anything else is run."""
    with chromium(*SIZES[request.param]) as page:
        page.size, page.said, page.asked = request.param, [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(paths.page.as_uri())
        yield page


@pytest.fixture
def page(browser, paths):
    """The page as it is when it is opened."""
    browser.goto(paths.page.as_uri())
    return browser


def seen(page) -> bytes:
    return page.locator(".window").first.screenshot()


class TestInABrowser:
    def test_asks_nobody_and_complains_of_nothing(self, page, tmp_path):
        page.wait_for_load_state("networkidle")
        picture(page, f"page-{page.size}", tmp_path, whole=True)
        assert page.said == []
        assert {urlparse(url).scheme for url in page.asked} <= {"file", "data"}

    def test_shows_every_picture_and_leads_to_files_that_are_there(self, page):
        widths = page.evaluate("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
        assert len(widths) >= 10
        assert min(widths) > 0
        addresses = page.evaluate("[...document.links].map(link => link.href)")
        assert len(addresses) > 20
        assert [a for a in addresses if not (a.startswith("file:") and Path(unquote(urlparse(a).path)).is_file())] == []

    def test_does_not_scroll_sideways(self, page):
        for details in page.locator("details").all():
            details.evaluate("element => element.open = true")
        for image in range(2):
            page.locator("label.tab").nth(image).click()
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    def test_names_of_files_do_no_harm(self, page):
        assert page.evaluate("window.hacked") is None
        assert page.get_by_text(HOSTILE.removesuffix(".fits.fz")).first.is_visible()

    def test_one_image_is_seen_at_a_time(self, page):
        assert page.locator(".panel:visible h2").all_inner_texts() == page.locator(".panel-0 h2").all_inner_texts()
        page.locator("label.tab", has_text="r").click()
        assert page.locator(".panel:visible").count() == 1
        assert page.locator(".panel-1").is_visible()

    def test_opens_with_the_slider_in_the_middle_and_says_what_the_greys_mean(self, page):
        window, bar = page.locator(".window").first, page.locator(".bar").first
        assert window.evaluate("element => getComputedStyle(element).getPropertyValue('--cut')") == "50%"
        assert page.locator(".panel-0 .comparison > .choice:checked").count() == 0
        assert bar.locator(".greys span").count() >= 3
        assert "counts28/pixel" in bar.inner_text()

    def test_says_where_the_pointer_is(self, page, paths):
        window, position = page.locator(".window").first, page.locator(".position").first
        window.scroll_into_view_if_needed()
        box = window.bounding_box()
        for x, y in ((0.5, 0.5), (0.2, 0.7)):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            ra, dec = position.inner_text().removeprefix("RA ").split("  Dec ")
            found = SkyCoord(*(re.sub("[ʰᵐˢ°′″]", " ", text.replace("−", "-")) for text in (ra, dec)), unit="hourangle,deg")
            place = {name: float(value) for name, value in window.evaluate("element => ({...element.dataset})").items()}
            west, north = (x - place["left"]) * place["width"], (place["top"] - y) * place["height"]
            true = SkyCoord(*tan_wcs(Grid(place["ra"], place["dec"], 1.0, 1, 1)).wcs_pix2world(west, north, 0), unit="deg")
            assert found.separation(true).arcsec < 10  # a pixel of the screen is 7 arcsec here

    def test_before_after_and_a_part_of_each_where_the_picture_is_dragged(self, page):
        window = page.locator(".window").first

        def shown(version: str) -> bytes:
            page.get_by_text(version, exact=True).first.click()
            page.mouse.click(1, 1)
            return seen(page)

        after = shown("After")
        assert shown("Before matching") != after
        assert shown("After") == after
        window.scroll_into_view_if_needed()
        box = window.bounding_box()
        page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.3 * box["height"])
        cut = window.evaluate("element => parseFloat(getComputedStyle(element).getPropertyValue('--cut'))")
        assert cut == pytest.approx(25, abs=2)
        assert seen(page) != after

    def test_by_keyboard_alone(self, page):
        """To the image, to before and after, and along the slider."""
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.name") == "image"
        page.keyboard.press("ArrowRight")
        assert page.locator(".panel-1").is_visible()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "before-1"
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowLeft")
        assert page.evaluate("document.activeElement.value") == "99"

    def test_in_the_dark(self, page, tmp_path):
        colour = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(colour)
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(colour) != light
        picture(page, f"page-{page.size}-dark", tmp_path)
        page.emulate_media(color_scheme="light")

    def test_the_way_to_all_fields_and_back(self, page, paths, tmp_path):
        page.get_by_text("All fields").click()
        assert page.evaluate("[...document.images].map(image => image.naturalWidth > 0)") == [True]
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        picture(page, f"fields-{page.size}", tmp_path)
        page.get_by_text("LMC_c42").click()
        assert page.url == paths.page.as_uri()
        assert page.said == []


def test_without_javascript_everything_is_there(paths):
    with chromium() as page:
        plain = page.context.browser.new_context(java_script_enabled=False).new_page()
        plain.goto(paths.page.as_uri())
        after = seen(plain)
        plain.get_by_text("Before matching").first.click()
        assert seen(plain) != after
        plain.locator("label.tab", has_text="r").click()
        assert plain.locator(".panel-1").is_visible()
        assert not plain.locator(".slider").first.is_visible()


class TestRuns:
    def test_end_with_the_place_of_the_page(self, paths):
        """In the terminal and the log, and in the Prefect UI."""
        assert f"page       {paths.page}" in last_log(paths.root)
        assert any(paths.page.as_uri() in report for report in reports(paths.root))

    def test_make_it_again_where_it_is_missing_and_leave_the_other_as_it_is(self, paths):
        for missing, there in ((paths.page, paths.all_fields_page), (paths.all_fields_page, paths.page)):
            before = missing.read_bytes(), there.stat().st_mtime_ns
            missing.unlink()
            assert reduce(config(paths.root)) == 3
            assert (missing.read_bytes(), there.stat().st_mtime_ns) == before

    def test_that_fail_say_on_it_what_failed(self, paths):
        mosaic = paths.mosaic("T07", "r", BackgroundKind.MATCHED)
        mosaic.unlink()
        (mosaic / "in the way").mkdir(parents=True)
        assert reduce(config(paths.root, coadd={"combine": "weighted"})) == 1
        text = paths.page.read_text()
        assert "coadd.combine = &#34;weighted&#34;" in text
        assert "not complete" in text
        assert "coadd T07_b.r failed: " in text
        shutil.rmtree(mosaic)
        assert reduce(config(paths.root)) == 3
        assert "not complete" not in paths.page.read_text()
