"""What a person types for a deployment counts, and nothing else that the deployment or kred.toml says is lost for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.exceptions import ParameterTypeError

from flows.deployed import discover_fields
from flows.field import reduce_field
from flows.survey import reduce_survey
from kred_core.config import SeveralConfig

FLOWS = {flow.name: flow for flow in (reduce_field, reduce_survey, discover_fields)}

TOML = """
[run]
heavy_at_once = 3
[tiling]
leave_out = ["S7"]
[coadd]
combine = "clipped"
memory = 2.0
[service.discover]
patience = 44
"""


@pytest.fixture(scope="module")
def served(command, tmp_path_factory) -> Path:
    """A data root for which the deployments were made, with an option on the command line beside those in kred.toml."""
    root = tmp_path_factory.mktemp("served")
    (root / "kred.toml").write_text(TOML)
    done = command("deployments/register.py", "--root", str(root), "--settle", "7")
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def begun(served, monkeypatch) -> Callable[..., Any]:
    """With which configuration a run begins that was started with some parameters."""
    (served / "kred.toml").write_text(TOML)

    def begin(deployment: str, **typed: Any) -> Any:
        with get_client(sync_client=True) as client:
            run = client.create_flow_run_from_deployment(client.read_deployment_by_name(deployment).id, parameters=typed)
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(run.id))  # as a worker does
        return FLOWS[deployment.split("/")[0]].validate_parameters(run.parameters)["config"]

    return begin


def test_one_option_of_a_field_leaves_all_others_as_they_are(begun, served):
    config = begun("reduce field/field", config={"field": "LMC_c42", "coadd": {"combine": "weighted"}})
    assert (config.field, config.root) == ("LMC_c42", served)
    assert (config.coadd.combine, config.coadd.memory, config.coadd.engine) == ("weighted", 2.0, "native")
    assert config.tiling.leave_out == ["S7"]
    assert config.run.heavy_at_once == 3
    # a list that is typed is the whole list
    assert begun("reduce field/field", config={"field": "LMC_c42", "tiling": {"leave_out": []}}).tiling.leave_out == []


def test_tiles_are_still_made_from_the_tables_on(begun):
    config = begun("reduce field/tiles", config={"field": "LMC_c42", "tiles": ["T08"], "run": {"workers": 2}})
    assert (config.title, config.run.first, config.run.workers, config.run.heavy_at_once) == ("LMC_c42 T08", "tiles", 2, 3)
    assert begun("reduce field/tiles", config={"field": "LMC_c42"}).title == "LMC_c42 T07"


def test_several_fields_keep_the_data_root_and_how_runs_are_run(begun, served):
    config = begun("reduce survey/survey", config={"fields": ["LMC_c41"]})
    assert config == SeveralConfig(fields=["LMC_c41"], root=served, run={"heavy_at_once": 3})


def test_a_look_with_one_option_keeps_those_of_the_command_line_and_of_the_file(begun):
    config = begun("discover fields/discover", config={"tries": 7})
    assert (config.tries, config.settle, config.patience) == (7, 7, 44)


def test_what_kred_toml_says_now_counts_unless_a_person_said_otherwise(begun, served):
    (served / "kred.toml").write_text('[coadd]\ncombine = "median"\n[service.discover]\npatience = 55\nsettle = 1\n')
    config = begun("reduce field/field", config={"field": "LMC_c42"})
    assert (config.coadd.combine, config.coadd.memory, config.tiling.leave_out) == ("median", 1.0, [])
    look = begun("discover fields/discover")  # as the schedule starts it
    assert (look.patience, look.settle) == (55, 7)


@pytest.fixture
def edited(served) -> Iterator[None]:
    """A person has changed an option of the deployment "field" in the browser."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("reduce field/field")
        config = deployment.parameters["config"]
        changed = config | {"coadd": config["coadd"] | {"memory": 4.0}}
        client.update_deployment(deployment.id, DeploymentUpdate(parameters={"config": changed}))
        yield
        client.update_deployment(deployment.id, DeploymentUpdate(parameters=deployment.parameters))


def test_what_a_person_has_changed_in_a_deployment_counts_before_kred_toml(begun, edited):
    config = begun("reduce field/field", config={"field": "LMC_c42"})
    assert (config.coadd.memory, config.coadd.combine) == (4.0, "clipped")


def test_another_data_root_has_its_own_kred_toml(begun, tmp_path):
    (tmp_path / "kred.toml").write_text("[match]\nmin_cells = 77\n")
    config = begun("reduce field/field", config={"field": "LMC_c42", "root": str(tmp_path)})
    assert (config.root, config.match.min_cells, config.tiling.leave_out) == (tmp_path, 77, [])


@pytest.mark.parametrize(
    ("text", "words"), [("[coadd", "cannot be read"), ("[run]\nlast = 'check'\n", "no stage left to run: tiles comes after check")]
)
def test_what_does_not_fit_together_is_told(begun, served, text, words):
    (served / "kred.toml").write_text(text)
    with pytest.raises(ParameterTypeError, match=words):
        begun("reduce field/tiles", config={"field": "LMC_c42"})


def test_prefect_deploy_says_how_it_is_done_better(served, command, monkeypatch):
    monkeypatch.delenv("KRED_ROOT", raising=False)
    done = command("-m", "prefect", "--no-prompt", "deploy", "--all")
    assert done.returncode != 0
    assert "KRED_ROOT is not set" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
