"""What people see of kred in Prefect's pages, with a real browser: the form, a run that goes green, and what it shows."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from uuid import UUID

import httpx
import numpy as np
import pytest
from browsing import chromium, picture
from PIL import Image
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from pydantic import BaseModel
from serving import Service, wait_for

from kred_core.config import STAGES, FieldConfig
from kred_core.products import FieldPaths

TILE = "T07"
TRUNCATED = 150_000  # bytes that are left of an exposure

# What the form says of each option, in order: its title, help, control, and its value.
FORM = """
() => [...document.querySelectorAll('label[data-slot=label]')].map(label => {
  const control = label.parentElement.parentElement.parentElement.querySelector(':scope > fieldset :is(input, textarea, button)');
  const kind = control ? control.getAttribute('role') ?? control.type : '';
  return [label.innerText.replace(' (Optional)', ''), label.nextElementSibling?.innerText ?? '', kind,
          control ? control.ariaChecked ?? (control.value || control.innerText) : ''];
})
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory, simulated) -> Iterator[Service]:
    """The service on a field with a truncated exposure; it does not start to reduce that by itself."""
    root = tmp_path_factory.mktemp("served")
    mef = FieldPaths(root, "LMC_c42").mef
    shutil.copytree(FieldPaths(simulated, "LMC_c42").mef, mef)
    exposure = next(path for path in FieldPaths(root, "LMC_c42").exposures() if "_r_" in path.name)
    exposure.write_bytes(exposure.read_bytes()[:TRUNCATED])
    service = Service(root, settle=1000)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def page(service):
    with chromium() as page:
        yield page


@pytest.fixture
def form(page, service):
    """The form of the deployment "field"."""
    return open_form(page, service)


def open_form(page, service):
    deployment = service.client.read_deployment_by_name("reduce field/field")
    page.goto(f"{service.ui}/v2/deployments/deployment/{deployment.id}/run")
    page.get_by_text("Figure Pixels").wait_for()
    page.get_by_label("Field", exact=True).fill("LMC_c42")
    return page


def fill_tile(page, tile: str) -> None:
    page.get_by_role("button", name="Add item").first.click()
    page.locator("fieldset textarea").nth(1).fill(tile)


def submit(page) -> None:
    page.get_by_role("button", name="Submit").click()


def title(name: str) -> str:
    return name.replace("_", " ").title()


def test_the_newest_pages_of_prefect_are_shown_first(page, service):
    page.goto(service.ui)
    page.wait_for_url(f"{service.ui}/v2/dashboard**")


def test_no_page_asks_another_machine_for_anything(page, service):
    """That of the kinds of blocks would ask for logos, and each of Prefect's newest pages for the settings of its analytics."""
    with page.expect_event("requestfailed", lambda request: "127.0.0.1" not in request.url) as asked:
        page.goto(f"{service.ui}/v2/blocks/catalog")
    assert asked.value.failure == "csp"


def test_the_form_has_every_section_and_option_with_help_and_value(form, tmp_path):
    shown = iter(form.evaluate(FORM))
    picture(form, "form", tmp_path)

    def require(shown_as: str, words: str) -> tuple[str, str]:
        """The control and value of the next option, which must be this one."""
        found, said, kind, value = next(row for row in shown if row[0] not in ("Run Name", "config"))
        assert (found, said) == (shown_as, words)
        return kind, value

    for name, field in FieldConfig.model_fields.items():
        if not isinstance(field.default, BaseModel):
            require(title(name), field.description)
            continue
        section = type(field.default)
        require(section.model_config.get("title", title(name)), section.__doc__)
        for own, described in section.model_fields.items():
            kind, value = require(title(described.alias or own), described.description)  # bounds are a part of it
            default = getattr(field.default, own)
            if isinstance(default, bool):
                assert (kind, value) == ("switch", str(default).lower())
            elif isinstance(default, float | int):
                assert (kind, float(value)) == ("number", default)
            elif hasattr(described.annotation, "__args__") and isinstance(default, str):  # choices
                assert (kind, value) == ("button", default)
            elif isinstance(default, str):
                assert (kind, value) == ("textarea", default)


def test_a_number_that_cannot_be_used_is_refused_there_with_words(form, service):
    before = len(service.runs("reduce field"))
    number = form.get_by_label("Min Cells (Optional)", exact=True)
    number.fill("3")
    submit(form)
    assert number.evaluate("e => e.validationMessage") == "Value must be greater than or equal to 10."
    assert form.url.endswith("/run")  # still in the form
    assert len(service.runs("reduce field")) == before


def test_a_tile_that_there_is_not_is_refused_there_with_words(form, service, tmp_path):
    before = len(service.runs("reduce field"))
    fill_tile(form, "T99")
    submit(form)
    form.get_by_text("'config.tiles[0]'. Failure reason: 'T99' is not one of ['T01', 'T02',").first.wait_for()
    picture(form, "refused", tmp_path)
    assert len(service.runs("reduce field")) == before


@pytest.fixture(scope="module")
def run(page, service) -> UUID:
    """A run that was started in the form and has ended."""
    fill_tile(open_form(page, service), TILE)
    submit(page)
    wait_for(lambda: service.runs("reduce field"))
    run = service.runs("reduce field")[-1]
    state = service.end_of(run.id, 300)
    assert state.is_completed(), state.message
    return run.id


@pytest.fixture
def run_page(page, service, run):
    page.goto(f"{service.ui}/v2/runs/flow-run/{run}")
    page.get_by_role("tab", name="Logs").wait_for()
    return page


def test_a_run_that_was_started_in_the_form_goes_green_and_tells_of_each_exposure(run_page, service, run, tmp_path):
    run_page.get_by_text(f"LMC_c42 {TILE}", exact=True).first.wait_for()  # its name
    run_page.get_by_text("Completed", exact=True).first.wait_for()
    assert service.state(run).message == "LMC_c42: complete (4 exposures: 3 good, 1 refused)"
    run_page.get_by_text("the file is truncated").first.wait_for()  # in the log
    picture(run_page, "run", tmp_path)


def test_the_graph_has_the_stages_in_their_order(run_page, service, run):
    def befores() -> dict[str, set[str]]:
        graph = httpx.get(f"{service.url}/flow_runs/{run}/graph-v2").json()
        nodes = {node["id"]: node for _, node in graph["nodes"]}
        stages = [node for node in nodes.values() if not node["encapsulating"] and node["parents"]]
        after = {node["label"]: {nodes[parent["id"]]["label"] for parent in node["parents"]} for node in stages}
        return {stage: after.get(stage) for stage in STAGES[1:]}

    def n_green() -> int:
        drawn = np.array(Image.open(io.BytesIO(run_page.locator("canvas").first.screenshot())).convert("RGB"), int)
        red, green, blue = drawn[..., 0], drawn[..., 1], drawn[..., 2]
        return np.sum((green > red + 60) & (green > blue + 60))

    wait_for(lambda: None not in befores().values(), 20)  # the server records tasks a second later
    assert befores() == {stage: {before} for before, stage in pairwise(STAGES)}
    wait_for(lambda: n_green() > 1000, 20)  # pixels of the bars of completed stages, which are drawn by and by


def test_the_refused_exposure_is_marked_among_the_tasks(run_page, service, tmp_path):
    refused = next(path for path in service.paths.exposures() if path.stat().st_size == TRUNCATED)
    run_page.get_by_role("tab", name="Task Runs").click()
    run_page.get_by_placeholder("Search by run name").fill(f"check {refused.name}")
    run_page.get_by_text("Refused", exact=True).first.wait_for()
    picture(run_page, "refused_exposure", tmp_path)
    run_page.get_by_role("link", name=f"check {refused.name}").last.click()
    run_page.get_by_text("the file is truncated").first.wait_for()


def artifact(page, name: str) -> None:
    """Open an artifact from the page of the run."""
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("heading", name=f"lmc-c42-{name}", exact=True).last.click()
    page.wait_for_url("**/artifacts/artifact/**")


def test_the_report_shows_numbers_and_pictures(run_page, tmp_path):
    artifact(run_page, "report")
    run_page.get_by_role("heading", name="Background matching").wait_for()
    run_page.wait_for_function("[...document.images].filter(i => i.complete && i.naturalWidth > 300).length == 2")
    for image, n_det in (("N662", 16), ("r", 8)):
        row = run_page.locator("tr").filter(has=run_page.get_by_text(image, exact=True)).first.inner_text().split()
        assert row[:2] == [image, str(n_det)]
        if image == "N662":
            before, after = map(float, row[3:5])
            assert 0 <= after < 0.2 * before
    text = run_page.inner_text("body")
    assert re.search(r"^c4d\w+_r_v1\s+refused\s+.*the file is truncated", text, re.MULTILINE)
    for stage in STAGES:
        assert re.search(rf"^{stage}\s+\d+ done\s+\d+\.\d$", text, re.MULTILINE)
    picture(run_page, "report", tmp_path)


def test_the_report_leads_to_the_page_of_the_field_and_that_to_its_files(run_page, service):
    artifact(run_page, "report")
    address = run_page.get_by_role("link", name=service.paths.page.name).get_attribute("href")
    shown, said = run_page, []
    shown.on("console", lambda message: said.append(message.text))
    shown.goto(f"{service.ui}{address}")
    assert shown.url == f"{service.ui}/pages/DECam_SWARP/LMC_c42/index.html"
    assert shown.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    files = set(shown.evaluate("[...document.links].map(link => link.href)"))
    kinds = {file.rpartition(".")[2] for file in files}
    assert {"png", "tab", "log", "toml", "fits", "html"} <= kinds
    assert {file: shown.request.head(file).status for file in files} == dict.fromkeys(files, 200)
    # Prefect's own page, left before, may still be asking its makers for a file, which the policy refuses.
    assert [words for words in said if "amplitude.com" not in words] == []
    refused = shown.evaluate("fetch('/api/flows/count', {method: 'POST'}).then(() => 'answered', () => 'refused')")
    assert refused == "refused"  # a page that somebody has changed cannot start runs
    shown.get_by_role("link", name="All fields").click()
    shown.wait_for_url(f"{service.ui}/pages/DECam_SWARP/index.html")


def test_exposures_and_backgrounds_are_in_tables_and_the_bar_at_its_end(run_page, service, run, tmp_path):
    artifact(run_page, "exposures")
    run_page.locator("tbody tr").nth(3).wait_for()
    assert run_page.locator("td", has_text="refused").count() == 1
    assert run_page.locator("td", has_text="the file is truncated").count() == 1
    picture(run_page, "exposures", tmp_path)
    run_page.go_back()
    artifact(run_page, "backgrounds")
    run_page.locator("tbody tr").nth(2).wait_for()  # two exposures in N662, one in r
    assert run_page.locator("tbody tr").count() == 3
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    [bar] = [artifact for artifact in service.client.read_artifacts(artifact_filter=wanted) if artifact.type == "progress"]
    assert (bar.key, bar.data) == ("lmc-c42-progress", 100.0)


@pytest.mark.parametrize(
    ("origin", "allowed"), [("http://elsewhere.example", None), ("http://127.0.0.1:{}", "http://127.0.0.1:{}")]
)
def test_no_page_of_another_place_may_speak_to_the_server(service, origin, allowed):
    headers = {"Origin": origin.format(service.port), "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{service.url}/flows/count", headers=headers)
    assert answer.headers.get("Access-Control-Allow-Origin") == (allowed and allowed.format(service.port))
