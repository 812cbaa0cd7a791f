"""Register the flows of kred with a Prefect server: ``python deployments/register.py --root DIR [options]``.

Makes the work pool and its queues, the deployments of prefect.yaml, and the watch for runs that died, with the limits and
times of the configuration. May be called again, after kred was updated or options were changed; a schedule that a
person has paused stays paused. The server is the one of PREFECT_API_URL.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before all else that is called flows
    from flows import command

    command.begin()

from kred_core.config import settings

if __name__ == "__main__":  # --help and wrong options are answered before Prefect is imported, which takes seconds
    settings.answer(lambda arguments: settings.service_config(arguments, "python deployments/register.py"), sys.argv[1:])

import flows  # noqa: F401 - before Prefect, which would report home at its first start

# isort: split
import httpx
import yaml
from apprise import Apprise
from prefect.automations import Automation
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import filters
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY
from pydantic import SecretStr

from flows.deployed import remember_file
from flows.server import client_of, require_admission, without_proxy
from kred_core.config import FieldConfig, ServiceConfig
from kred_core.errors import ConfigError, KredError, ToolError

__all__ = ["main", "register"]

PROJECT = Path(__file__).resolve().parents[1]
DEPLOYMENTS = Path(__file__).resolve().with_name("prefect.yaml")
POOL = "kred"
DISCOVER = "discover fields/discover"
DEAD_RUNS = "kred: runs whose machine is gone"
FAILED_FIELDS = "kred: notice of failed fields"
FAILED_LOOKS = "kred: notice of failed looks"
MISSED = 3  # heartbeats


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    try:
        register(*settings.service_config(arguments))
    except KredError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2 if isinstance(e, ConfigError) else 1
    return 0


def register(service: ServiceConfig, options: FieldConfig) -> None:
    """Register everything.

    Parameters
    ----------
    service : `~kred_core.config.ServiceConfig`
    options : `~kred_core.config.FieldConfig`
        Its data root, and the options with which the forms in the UI are filled in.

    Raises
    ------
    ConfigError
        Nobody can be told at the address for notices.
    ToolError
        There is no server, or it refuses.
    """
    if service.notify and Apprise.instantiate(service.notify) is None:
        raise ConfigError("option service.notify (--notify): not an address that Apprise knows, such as mailto://... or json://...")
    url = PREFECT_API_URL.value()
    if not url:
        raise ToolError("PREFECT_API_URL is not set: which Prefect server is meant? For one on this machine alone: make serve")
    os.environ.update(without_proxy(url))
    try:
        with client_of(url) as client:
            require_admission(client, url)
            _make_pool(client, service.fields_at_once)
            paused = _is_paused(client)
            _deploy(_described(service, options, paused), options.root.absolute())
            remember_file(options.root.absolute())
            if not paused:
                _look_now(client)
        _watch_for_dead_runs()
        _give_notice(service.notify)
    except (httpx.HTTPError, PrefectHTTPStatusError) as e:
        raise ToolError(f"the Prefect server {url} does not do what it is asked: {e}") from e


def _make_pool(client: SyncPrefectClient, fields_at_once: int) -> None:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description="Runs of kred"))
    for name, limit in (("fields", fields_at_once), ("watch", None)):
        try:
            queue = client.read_work_queue_by_name(name, work_pool_name=POOL)
        except ObjectNotFound:
            queue = client.create_work_queue(name, work_pool_name=POOL)
        client.update_work_queue(queue.id, concurrency_limit=limit)


def _is_paused(client: SyncPrefectClient) -> bool:
    """Whether a person has paused the schedule; Prefect would start it again when it is registered again."""
    try:
        deployment = client.read_deployment_by_name(DISCOVER)
    except ObjectNotFound:
        return False
    return deployment.paused or not all(schedule.active for schedule in deployment.schedules)


def _described(service: ServiceConfig, options: FieldConfig, paused: bool) -> dict[str, Any]:
    """prefect.yaml with what the configuration says."""
    described = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))
    deployments = {deployment["name"]: deployment for deployment in described["deployments"]}
    given = options.model_dump(mode="json", exclude={"field", "tiles"})
    for name in ("field", "tiles"):
        config = deployments[name]["parameters"]["config"]
        deployments[name]["parameters"]["config"] = given | config | {"run": given["run"] | config.get("run", {})}
    deployments["survey"]["parameters"]["config"]["run"] = given["run"]
    deployments["discover"]["parameters"]["config"] = service.discover.model_dump(mode="json")
    deployments["discover"]["schedules"][0] |= {"interval": 60 * service.every, "active": not paused}
    return described


def _look_now(client: SyncPrefectClient) -> None:
    """Have a look made at once, and none that was due with the options of before; the schedule begins with its interval."""
    discover = client.read_deployment_by_name(DISCOVER).id
    due = filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(any_=[discover]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
    )
    for run in client.read_flow_runs(flow_run_filter=due):
        client.delete_flow_run(run.id)
    client.create_flow_run_from_deployment(discover, name="look for new fields")


def _deploy(described: dict[str, Any], root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kred-deploy-") as directory:
        file = Path(directory, "prefect.yaml")
        file.write_text(yaml.safe_dump(described), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
            cwd=PROJECT,
            env=os.environ | {"KRED_ROOT": str(root)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    said = done.stdout + done.stderr
    # The exit status is 0 also where a deployment could not be understood and was left out.
    if done.returncode or said.count("successfully created") < len(described["deployments"]):
        raise ToolError(f"the deployments of {DEPLOYMENTS} could not be registered:\n{said.strip()}")


def _watch_for_dead_runs() -> None:
    """Mark a run as crashed when its heart no longer beats: its machine went down, and nobody is left to say so."""
    ends = [f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")]
    watch = Automation(
        name=DEAD_RUNS,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=MISSED * (PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() or 180)),
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message="Its machine or process is gone; another run goes on.", force=False
            )
        ],
    )
    if not _existing(DEAD_RUNS):
        watch.create()


def _existing(name: str) -> Automation | None:
    try:
        return cast(Automation, Automation.read(name=name))  # a coroutine in asynchronous code only
    except ValueError:
        return None


def _give_notice(address: str) -> None:
    """Have the server tell an address of each run that ends without what was asked for; tell nobody where there is none."""
    for name in (FAILED_FIELDS, FAILED_LOOKS):
        if old := _existing(name):
            old.delete()
    if not address:
        return
    # Of Prefect's blocks for Apprise the one that takes every address as it is; the others make one from parts.
    block = SlackWebhook(url=SecretStr(address)).save("kred-notice", overwrite=True)
    notice = SendNotification(
        block_document_id=cast(UUID, block),  # a coroutine in asynchronous code only
        subject="kred: {{ flow_run.parameters.config.field or flow.name }}: {{ flow_run.state.name }}",
        body="{{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
    )
    ends = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}
    # A look that fails, because kred.toml cannot be read, does so again every few minutes: only the first after a good one is told.
    for name, flows_, after in (
        (FAILED_FIELDS, ["reduce field", "reduce survey"], set()),
        (FAILED_LOOKS, ["discover fields"], {"prefect.flow-run.Completed"}),
    ):
        trigger = EventTrigger(
            after=after,
            expect=ends,
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.role": ["flow"], "prefect.resource.name": flows_}),
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(days=7) if after else timedelta(0),
        )
        Automation(name=name, trigger=trigger, actions=[notice]).create()


if __name__ == "__main__":
    command.run(main)
