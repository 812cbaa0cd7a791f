"""New fields start their own reduction on a real Prefect server, each content once, and people are told."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Completed, Crashed, Failed
from serving import runs

from flows import deployed
from flows.deployed import discover_fields
from kred_core.config import DiscoverConfig, FieldConfig
from kred_core.errors import ToolError
from kred_core.products import FieldPaths

AT_ONCE = DiscoverConfig(settle=0, tries=2)


@pytest.fixture(scope="module")
def registered(command, tmp_path_factory) -> None:
    """The deployments, on the server of the tests; no worker runs there, so what is started stays scheduled."""
    done = command("deployments/register.py", "--root", str(tmp_path_factory.mktemp("registered")))
    assert done.returncode == 0, done.stderr


pytestmark = pytest.mark.usefixtures("registered")


def end(run: FlowRun, state) -> None:
    """End a run as a worker or a person would."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, state, force=True)


def look(root: Path) -> str:
    """Look for fields; the message of the look's final state."""
    return discover_fields(root, AT_ONCE, return_state=True).message


def artifact(key: str) -> str:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return sorted(found, key=lambda a: a.created)[-1].data


def test_the_server_alone_keeps_a_content_from_being_started_twice(root):
    """Also where two looks are made at the same moment."""
    config = FieldConfig(field="LMC_c42", root=root)
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(lambda _: deployed.start_field(config, key=f"{root} content 1"), range(4)))
    assert len(set(started)) == len(runs(root)) == 1
    assert deployed.start_field(config, key=f"{root} content 2") not in started


def test_a_run_has_the_options_of_the_data_root(root):
    (root / "kred.toml").write_text("[coadd]\nengine = 'swarp'\n[service]\nevery = 60\n")
    assert look(root) == "1 started"
    config = FieldConfig.model_validate(runs(root)[0].parameters["config"])
    assert (config.field, config.root, config.coadd.engine) == ("LMC_c42", root, "swarp")


def test_options_that_cannot_be_used_are_told(root):
    (root / "kred.toml").write_text("[coadd]\nengine = 'swrap'\n")
    state = discover_fields(root, AT_ONCE, return_state=True)
    assert state.is_failed()
    assert "option coadd.engine" in state.message


def test_what_fails_is_tried_again_and_then_given_up_with_a_notice(root):
    assert [look(root), look(root)] == ["1 started", "1 running"]
    end(runs(root)[0], Failed(message="a tile is missing"))
    assert look(root) == "1 started"
    end(runs(root)[1], Crashed(message="the machine went down"))
    assert [look(root), look(root)] == ["1 given up", "1 given up"]
    assert len(runs(root)) == 2
    assert f"/runs/flow-run/{runs(root)[1].id}" in artifact("lmc-c42-given-up")
    assert "| LMC_c42 | given up | failed 2 times" in artifact("fields")
    os.utime(FieldPaths(root, "LMC_c42").exposures()[0])
    assert look(root) == "1 started"


@pytest.mark.parametrize(("state", "found"), [(Completed(), "1 done"), (Cancelled(), "1 stopped")])
def test_what_is_done_or_was_stopped_is_left_alone(root, state, found):
    look(root)
    end(runs(root)[0], state)
    assert [look(root), look(root)] == [found, found]
    assert len(runs(root)) == 1


def test_a_run_that_was_deleted_is_started_again(root):
    look(root)
    with get_client(sync_client=True) as client:
        client.delete_flow_run(runs(root)[0].id)
    assert look(root) == "1 started"


def test_fields_do_not_wait_for_each_other(root):
    other = FieldPaths(root, "LMC_c41").mef
    other.mkdir(parents=True)
    assert look(root) == "1 no exposures, 1 started"
    shutil.copy(FieldPaths(root, "LMC_c42").exposures()[0], other)
    assert look(root) == "1 running, 1 started"
    assert [run.parameters["config"]["field"] for run in runs(root)] == ["LMC_c42", "LMC_c41"]


def test_a_server_that_does_not_know_the_deployment_is_named(root, monkeypatch):
    monkeypatch.setattr(deployed, "DEPLOYMENT", "reduce field/unknown")
    with pytest.raises(ToolError, match=r"register it with deployments/register\.py"):
        deployed.start_field(FieldConfig(field="LMC_c42", root=root))
