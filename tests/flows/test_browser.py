"""What people see of kred in Prefect's pages, with a real browser: the form, a run that goes green, and what it shows."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import httpx
import numpy as np
import pytest
from browsing import chromium, picture
from PIL import Image
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId
from pydantic import BaseModel
from runs import done
from serving import Service, wait_for

from kred_core.config import STAGES, BackgroundKind, FieldConfig
from kred_core.products import FieldPaths

TILE = "T07"
TRUNCATED = 150_000  # bytes that are left of an exposure

# What the form says of each option: its title, help, controls with their values, and the options below it.
FORM = """
() => {
  const said = (option, part) => option.querySelector(`:scope > .p-label__header ${part}`)?.innerText ?? '';
  const read = option => {
    const body = option.querySelector(':scope > .p-label__body');
    const below = [...body.querySelectorAll('.schema-form-property')];
    return {
      title: said(option, '.schema-form-property__label'),
      help: said(option, '.schema-form-property__description'),
      controls: [...body.querySelectorAll('input, textarea, button')].map(c => [c.type, c.value || c.innerText]),
      options: below.filter(e => e.parentElement.closest('.schema-form-property') === option).map(read),
    };
  };
  const all = [...document.querySelectorAll('.schema-form-property')];
  return all.filter(e => !e.parentElement.closest('.schema-form-property')).map(read);
}
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
    deployment = service.client.read_deployment_by_name("reduce field/field")
    page.goto(f"{service.ui}/deployments/deployment/{deployment.id}/run")
    page.get_by_text("Figure Pixels").wait_for()
    return page


def option(page, *titles: str):
    """What is below the title of an option, or of a section, in the form; by its title and those of the sections around it."""
    found = page
    for title in titles:
        header = f"xpath=./div[contains(@class, 'p-label__header')]//span[starts-with(normalize-space(), '{title}')]"
        found = found.locator(".schema-form-property").filter(has=page.locator(header)).first.locator("> .p-label__body")
    return found


def fill(page, field: str, *tiles: str) -> None:
    option(page, "Field").locator("textarea").fill(field)
    for n, tile in enumerate(tiles):
        option(page, "Tiles").get_by_text("Add item").click()
        option(page, "Tiles").locator("textarea").nth(n).fill(tile)


def submit(page) -> None:
    page.get_by_role("button", name="Submit").click()


def title(name: str) -> str:
    return name.replace("_", " ").title()


def test_the_form_has_every_section_and_option_with_help_and_value(form, tmp_path, service):
    [config] = form.evaluate(FORM)
    sections = {shown["title"].removesuffix(" (Optional)"): shown for shown in config["options"]}
    assert list(sections) == [title(name) for name in FieldConfig.model_fields]
    picture(form, "form", tmp_path)
    for name, field in FieldConfig.model_fields.items():
        if not isinstance(field.default, BaseModel):
            assert sections[title(name)]["help"] == field.description
            continue
        section = type(field.default)
        assert sections[title(name)]["help"] == section.__doc__
        options = {shown["title"].removesuffix(" (Optional)"): shown for shown in sections[title(name)]["options"]}
        assert list(options) == [title(name) for name in section.model_fields]
        for own, described in section.model_fields.items():
            shown = options[title(own)]
            assert shown["help"] == described.description  # bounds are a part of it
            default = getattr(field.default, own)
            kind, value = shown["controls"][0]
            if isinstance(default, bool):
                assert kind == "checkbox"
            elif isinstance(default, float | int):
                assert (kind, float(value)) == ("number", default)
            elif hasattr(described.annotation, "__args__") and isinstance(default, str):  # choices
                assert (kind, value) == ("button", default)
            elif isinstance(default, str):
                assert (kind, value) == ("textarea", default)


def test_the_newer_pages_of_prefect_name_the_sections_alike(page, service):
    deployment = service.client.read_deployment_by_name("reduce field/field")
    page.goto(f"{service.ui}/v2/deployments/deployment/{deployment.id}/run")
    for name, field in FieldConfig.model_fields.items():
        if isinstance(field.default, BaseModel):
            page.get_by_text(f"{title(name)} (Optional)", exact=True).first.wait_for()


def test_the_pages_with_the_graph_of_the_stages_are_shown_first(page, service):
    page.goto(service.ui)
    page.wait_for_url(f"{service.ui}/dashboard**")


def test_choices_are_in_a_drop_down(form):
    option(form, "Coadd", "Combine").get_by_role("button").press("ArrowDown")
    form.locator(".p-select-option").first.wait_for()
    shown = form.locator(".p-select-option").all_inner_texts()
    assert [text.strip() for text in shown] == ["median", "clipped", "weighted"]


@pytest.mark.parametrize(
    ("titles", "wrong", "words"),
    [
        (("Coadd", "Size"), "-1", "'config.coadd.size'. Failure reason: -1 is less than the minimum of 0"),
        (("Match", "Min Cells"), "3", "'config.match.min_cells'. Failure reason: 3 is less than the minimum of 10"),
        (("Tiles",), "T99", "'config.tiles[0]'. Failure reason: 'T99' is not one of ['T01', 'T02',"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_there_with_words(form, service, tmp_path, titles, wrong, words):
    before = len(service.runs("reduce field"))
    fill(form, "LMC_c42", *([wrong] if titles == ("Tiles",) else []))
    if titles != ("Tiles",):
        option(form, *titles).locator("input").fill(wrong)
    submit(form)
    form.get_by_text(words).first.wait_for()
    picture(form, f"refused_{titles[-1]}".lower().replace(" ", "_"), tmp_path)
    assert form.url.endswith("/run")  # still in the form
    assert len(service.runs("reduce field")) == before


@pytest.fixture(scope="module")
def run(page, service) -> dict:
    """A run that was started in the form, when it has ended, as the server knows it."""
    deployment = service.client.read_deployment_by_name("reduce field/field")
    page.goto(f"{service.ui}/deployments/deployment/{deployment.id}/run")
    fill(page, "LMC_c42", TILE)
    submit(page)
    wait_for(lambda: service.runs("reduce field"))
    run = service.runs("reduce field")[-1]
    state = service.end_of(run.id)
    assert state.is_completed(), state.message
    return run.id


@pytest.fixture
def run_page(page, service, run):
    page.goto(f"{service.ui}/runs/flow-run/{run}")
    page.locator("#logs").wait_for()
    return page


def test_a_run_that_was_started_in_the_form_goes_green(run_page, service, run, tmp_path):
    run_page.get_by_text(f"LMC_c42 {TILE}", exact=True).wait_for()  # its name
    run_page.locator(".state-badge", has_text="Completed").first.wait_for()
    assert service.state(run).message == "LMC_c42: complete (4 exposures: 3 good, 1 refused)"
    picture(run_page, "run", tmp_path)


def test_the_graph_is_that_of_the_stages(run_page, service, run):
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


def test_the_log_tells_of_each_exposure(run_page, service):
    for exposure in service.paths.exposures():
        run_page.get_by_text(f"check {exposure.name}").first.wait_for()


def test_the_refused_exposure_is_marked_among_the_tasks(run_page, service, tmp_path):
    refused = next(path for path in service.paths.exposures() if path.stat().st_size == TRUNCATED)
    run_page.locator("li#task-runs").click()
    run_page.get_by_placeholder("Search by run name").fill(f"check {refused.name}")
    run_page.locator(".state-badge", has_text="Refused").wait_for()
    picture(run_page, "refused", tmp_path)
    run_page.get_by_text(f"check {refused.name}").last.click()
    run_page.get_by_text("the file is truncated").first.wait_for()


def artifact(page, service, run, name: str) -> None:
    """Open an artifact from the page of the run."""
    page.locator("li#artifacts").click()
    page.get_by_text(f"lmc-c42-{name}", exact=True).last.click()
    page.wait_for_url("**/artifacts/artifact/**")


def test_the_report_shows_numbers_and_pictures(run_page, service, run, tmp_path):
    artifact(run_page, service, run, "report")
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


def test_the_report_leads_to_the_page_of_the_field_and_that_to_its_files(run_page, service, run):
    artifact(run_page, service, run, "report")
    with run_page.context.expect_page() as opened:
        run_page.get_by_role("link", name=service.paths.page.name).click()
    shown, said = opened.value, []
    shown.on("console", lambda message: said.append(message.text))
    shown.reload()
    assert shown.url == f"{service.ui}/pages/DECam_SWARP/LMC_c42/index.html"
    assert shown.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    files = set(shown.evaluate("[...document.links].map(link => link.href)"))
    kinds = {file.rpartition(".")[2] for file in files}
    assert {"png", "tab", "log", "toml", "fits", "html"} <= kinds
    assert {file: shown.request.head(file).status for file in files} == dict.fromkeys(files, 200)
    assert said == []
    refused = shown.evaluate("fetch('/api/flows/count', {method: 'POST'}).then(() => 'answered', () => 'refused')")
    assert refused == "refused"  # a page that somebody has changed cannot start runs
    shown.get_by_role("link", name="All fields").click()
    shown.wait_for_url(f"{service.ui}/pages/DECam_SWARP/index.html")
    shown.close()


def test_exposures_and_backgrounds_are_in_tables(run_page, service, run, tmp_path):
    artifact(run_page, service, run, "exposures")
    run_page.get_by_text("4 Items").wait_for()
    assert run_page.locator("td", has_text="refused").count() == 1
    assert run_page.locator("td", has_text="the file is truncated").count() == 1
    picture(run_page, "exposures", tmp_path)
    run_page.go_back()
    artifact(run_page, service, run, "backgrounds")
    run_page.get_by_text("3 Items").wait_for()  # two exposures in N662, one in r
    picture(run_page, "backgrounds", tmp_path)


def test_the_bar_is_at_its_end(service, run):
    shown = service.client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])),
    )
    [bar] = [artifact for artifact in shown if artifact.type == "progress"]
    assert (bar.key, bar.data) == ("lmc-c42-progress", 100.0)


@pytest.mark.long
def test_a_tile_that_cannot_be_made_is_red_while_the_rest_goes_on(page, service, run, tmp_path):
    mosaic = service.paths.mosaic(TILE, "r", BackgroundKind.MATCHED)
    mosaic.unlink()
    (mosaic / "in the way").mkdir(parents=True)
    failed = service.start(tiles=[TILE], run={"only": ["coadd"], "redo": True})
    try:
        assert service.end_of(failed).is_failed()
    finally:
        shutil.rmtree(mosaic)
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[failed]))

    def ended() -> dict[str, str]:
        tasks = service.client.read_task_runs(flow_run_filter=wanted)
        return {task.name: task.state.type.value for task in tasks if task.state and task.state.is_final()}

    wait_for(lambda: "coadd" in ended(), 20)  # the server records the states of tasks a second later
    assert ended()[f"coadd {TILE}_b.r"] == ended()["coadd"] == "FAILED"
    assert ended()[f"coadd {TILE}_b.N662"] == "COMPLETED"
    page.goto(f"{service.ui}/runs/flow-run/{failed}")
    page.locator(".state-badge", has_text="Failed").first.wait_for()
    page.locator("li#artifacts").click()
    page.get_by_text("lmc-c42-report", exact=True).last.click()
    page.get_by_role("heading", name="What is wrong").wait_for()
    page.get_by_text(f"coadd {TILE}_b.r failed:").first.wait_for()
    picture(page, "failed", tmp_path)


def deployment_run(service: Service, **config) -> subprocess.CompletedProcess:
    """``prefect deployment run``, as a person types it."""
    parameters = json.dumps({"field": "LMC_c42", "root": str(service.root)} | config)
    command = ["deployment", "run", "reduce field/field", "--param", f"config={parameters}", "--watch", "--watch-interval", "1"]
    environment = service.environment | {"PREFECT_API_URL": service.url}
    return subprocess.run(
        [sys.executable, "-m", "prefect", *command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.long
def test_the_same_from_the_command_line(service, run):
    started = deployment_run(service, tiles=[TILE], run={"only": ["coadd"]})
    assert started.returncode == 0, started.stdout + started.stderr
    last = service.runs("reduce field")[-1]
    assert last.name == f"LMC_c42 {TILE}"
    assert last.state.is_completed()
    assert done(service.root) == {"coadd": 1}  # that of the test before, in which the other one was made and remembered


def test_the_command_line_refuses_what_cannot_be_used(service):
    refused = deployment_run(service, coadd={"size": -1})
    assert refused.returncode != 0
    assert "config.coadd.size" in " ".join((refused.stdout + refused.stderr).split())
