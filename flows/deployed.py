"""Runs of deployments: their parameters, how a run of a field is started, what became of it, and the look for new fields.

Prefect knows whole parameters only: whoever types one option of ``config`` would lose all others that the deployment or
kred.toml set. So a flow that was started for a deployment completes what it was given before it begins, option by option: what
was typed over the deployment's, over kred.toml, over kred's own defaults.

The schedule of the service runs the look. What is complete and what is to be done is decided in `kred_core.service`;
this asks Prefect to do it, each content of a field once, whoever looks and how often, and tells what was found.
"""

from __future__ import annotations

import logging
import os
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, cast
from uuid import UUID

from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas import filters
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Scheduled, State
from pydantic import BeforeValidator, ValidationInfo

from kred_core import service
from kred_core.config import DiscoverConfig, FieldConfig, ServiceConfig, settings
from kred_core.config.settings import CONFIG_FILE
from kred_core.errors import KredError, ToolError
from kred_core.products import FieldPaths, discard, locks, read_record, service_state, unfinished_discovery, write_record
from kred_core.service import Finding, RunState
from tasks.publish import publish_findings, publish_given_up

from . import messages

__all__ = [
    "DEPLOYMENT",
    "completed",
    "defaults",
    "discover_fields",
    "look_again",
    "options",
    "remember_file",
    "require_root",
    "start_field",
    "state_of",
]

log = logging.getLogger("kred_core.discovery")

DEPLOYMENT = "reduce field/field"
OVERLAP = 20  # s; a worker takes a look 10 s before its time, and one that it takes while another has not ended is cancelled

_STATES: dict[StateType, RunState] = {
    StateType.COMPLETED: "done",
    StateType.FAILED: "failed",
    StateType.CRASHED: "failed",
    StateType.CANCELLED: "stopped",
    StateType.CANCELLING: "stopped",
}


def options(root: Path, field: str) -> FieldConfig:
    """The configuration of a field as the environment and the data root's kred.toml give it now."""
    return settings.field_config([field, "--root", str(root.absolute())])


def defaults(root: Path) -> dict[str, Any]:
    """The options of every field as the environment and the data root's kred.toml give them now, by section."""
    return options(root, "field").model_dump(mode="json", exclude={"field", "tiles"})


def start_field(config: FieldConfig, key: str | None = None) -> str:
    """Start a run; returns its identifier without waiting for it.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    key : str
        A second start with the same key, by whomever, returns the first run and starts nothing.

    Raises
    ------
    ToolError
        There is no such deployment on the server.
    """
    parameters = {"config": config.model_dump(mode="json")}
    try:
        found = run_deployment(DEPLOYMENT, parameters=parameters, idempotency_key=key, timeout=0, as_subflow=False)
    except ObjectNotFound as e:
        raise ToolError(f"the Prefect server has no deployment '{DEPLOYMENT}'; register it with deployments/register.py") from e
    return str(cast(FlowRun, found).id)  # a coroutine in asynchronous code only


def look_again(seconds: float) -> None:
    """Have the look that is running made once more, as it was asked for, unless another one is due before.

    Parameters
    ----------
    seconds : float
        From now. Nothing is done where the look was not started by a deployment, or where a person has paused its schedule.
    """
    look = cast(FlowRun, cast(FlowRunContext, FlowRunContext.get()).flow_run)  # only a flow calls this
    if look.deployment_id is None:
        return
    now = datetime.now(UTC)
    end = now + timedelta(seconds=OVERLAP)
    due = max(end, now + timedelta(seconds=seconds + 1))
    waiting = filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(any_=[look.deployment_id]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=filters.FlowRunFilterExpectedStartTime.model_validate({"after_": end, "before_": due}),
    )
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment(look.deployment_id)
        scheduling = not deployment.paused and any(schedule.active for schedule in deployment.schedules)
        if scheduling and not client.read_flow_runs(flow_run_filter=waiting, limit=1):
            scheduled: State[Any] = Scheduled(scheduled_time=due)
            client.create_flow_run_from_deployment(deployment.id, parameters=look.parameters, state=scheduled, name=look.name)


def state_of(run: str) -> RunState:
    """What became of a run; one that the server does not know (any more) has failed."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(run)).state
        except ObjectNotFound:
            return "failed"
    return _STATES.get(state.type, "running") if state else "running"


def completed(options: Callable[[Path], dict[str, Any]], within: Sequence[str] = ()) -> BeforeValidator:
    """Return what completes a flow's parameter ``config``, for the annotation of that.

    Parameters
    ----------
    options : callable
        Takes the data root, returns the options as kred.toml and the environment give them now, by section. The data root
        is an option of ``config`` itself or a parameter ``root`` before it.
    within : sequence of str
        The section of kred.toml that has these options.
    """

    def complete(typed: Any, info: ValidationInfo) -> Any:
        if not isinstance(typed, dict):  # a complete configuration, of a command or a notebook
            return typed
        deployed: dict[str, Any] = {}  # the parameters of the deployment for which this run was started, if it was
        if runtime.deployment.id:
            with get_client(sync_client=True) as client:
                deployed = client.read_deployment(UUID(runtime.deployment.id)).parameters
        config = deployed.get("config") or {}
        if typed == config:
            typed = {}  # by the schedule, or by somebody who left all as it was
        root = info.data.get("root") or typed.get("root") or config.get("root") or "."
        registered = read_record(_memory(Path(deployed.get("root") or config.get("root") or root))) or {}
        for section in within:
            registered = registered.get(section, {})
        try:
            known = options(Path(root))
        except KredError as e:
            raise ValueError(str(e)) from e  # which Prefect tells as it tells of other values that cannot be used
        return _over(typed, _over(_changed(config, registered), known))

    return BeforeValidator(complete)


def require_root() -> None:
    """End ``prefect deploy`` where it does not know the data root: the first step of prefect.yaml."""
    if not os.environ.get("KRED_ROOT"):
        sys.exit("error: KRED_ROOT is not set, the data root; better is: python deployments/register.py --root DIR")


def remember_file(root: Path) -> None:
    """Write down what kred.toml says while the deployments are made: of what they only repeat counts what it says later.

    Parameters
    ----------
    root : `~pathlib.Path`
        Data root. Where it cannot be written to, the deployments' options count as they are.
    """
    file = root / CONFIG_FILE
    with suppress(OSError):
        if root.is_dir():
            text = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            own = {"service": ServiceConfig().model_dump(mode="json")} | FieldConfig(field="field").model_dump(mode="json")
            write_record(_memory(root), _over(text, own))


def _memory(root: Path) -> Path:
    return service_state(root) / "registered.json"


def _over(upper: dict[str, Any], lower: dict[str, Any]) -> dict[str, Any]:
    """Options of one source over those of another; a list is one value."""
    merged = dict(lower)
    for name, value in upper.items():
        merged[name] = _over(value, lower[name]) if _are_sections(value, lower.get(name)) else value
    return merged


def _changed(options: dict[str, Any], since: dict[str, Any]) -> dict[str, Any]:
    """The options that are not what they were."""
    return {
        name: _changed(value, since[name]) if _are_sections(value, since.get(name)) else value
        for name, value in options.items()
        if name not in since or value != since[name]
    }


def _are_sections(*values: Any) -> bool:
    return all(isinstance(value, dict) for value in values)


def _look_options(root: Path) -> dict[str, Any]:
    return settings.service_config(["--root", str(root)])[0].discover.model_dump(mode="json")


Options = Annotated[DiscoverConfig, completed(_look_options, ("service", "discover"))]


@flow(name="discover fields", flow_run_name="look for new fields")
def discover_fields(root: Path, config: Options) -> State:
    """Start the reduction of each field whose files are complete and have not been reduced as they are now.

    Parameters
    ----------
    root : `~pathlib.Path`
        Data root: the directory that holds DECam_MEF.
    config : `~kred_core.config.DiscoverConfig`

    Returns
    -------
    `~prefect.states.State`
        Completed; the message counts the fields. Where waiting alone can make a field complete, another look is due when it has.
    """
    messages.to_ui()
    state = service_state(root)
    with locks.held([state / "discover.lock"], "a look for new fields", lambda holder: log.info("waiting for %s", holder)):
        for leftover in unfinished_discovery(root):
            discard(leftover)
        now = service.clock(state)
        findings = [_look(FieldPaths(root, field), config, now) for field in service.fields(root, config.fields)]
        _publish_news(state / "findings.json", findings)
    if waits := [found.waits for found in findings if found.waits]:
        look_again(60 * min(waits))
    counts = Counter(f.state for f in findings)
    return Completed(message=", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "no field is there yet")


def _look(paths: FieldPaths, look: DiscoverConfig, now: float) -> Finding:
    found = service.examine(paths, look, now)
    if found.state != "complete":
        return found

    def begin(attempt: int) -> str:
        config = options(paths.root, paths.field)
        return start_field(config, key=f"{config.root} {found.key(attempt)}")

    return service.reduce_once(paths, found, look.tries, state_of, begin)


def _publish_news(file: Path, findings: list[Finding]) -> None:
    """Tell what is new since the last look; a look every few minutes that finds nothing new leaves nothing behind."""
    before = read_record(file) or {}
    known = {f.field: [f.state, f.reason if f.state == "changing" else ""] for f in findings}
    for found in findings:
        if known[found.field] != before.get(found.field):
            log.info("%s: %s, %s", found.field, found.state, found.reason)
            if found.state == "given up":
                publish_given_up(found)
    if known != before:
        publish_findings(findings)
        write_record(file, known)
