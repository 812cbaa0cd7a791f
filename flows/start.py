"""Start runs of the deployment that reduces one field, as a person does in the UI, and ask what became of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from kred_core.config import FieldConfig, settings
from kred_core.errors import ToolError
from kred_core.service.discovery import RunState

__all__ = ["DEPLOYMENT", "defaults", "look_again", "options", "start_field", "state_of"]

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
        run = run_deployment(DEPLOYMENT, parameters=parameters, idempotency_key=key, timeout=0, as_subflow=False)
    except ObjectNotFound as e:
        raise ToolError(f"the Prefect server has no deployment '{DEPLOYMENT}'; register it with deployments/register.py") from e
    return str(run.id)


def look_again(seconds: float) -> None:
    """Have the look that is running made once more, as it was asked for, unless another one is due before.

    Parameters
    ----------
    seconds : float
        From now. Nothing is done where the look was not started by a deployment, or where a person has paused its schedule.
    """
    look = FlowRunContext.get().flow_run
    if look.deployment_id is None:
        return
    now = datetime.now(UTC)
    end = now + timedelta(seconds=OVERLAP)
    due = max(end, now + timedelta(seconds=seconds + 1))
    waiting = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[look.deployment_id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(after_=end, before_=due),
    )
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment(look.deployment_id)
        if deployment.paused or not any(schedule.active for schedule in deployment.schedules):
            return
        if client.read_flow_runs(flow_run_filter=waiting, limit=1):
            return
        scheduled = Scheduled(scheduled_time=due)
        client.create_flow_run_from_deployment(deployment.id, parameters=look.parameters, state=scheduled, name=look.name)


def state_of(run: str) -> RunState:
    """What became of a run; one that the server does not know (any more) has failed."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(run)).state
        except ObjectNotFound:
            return "failed"
    return _STATES.get(state.type, "running") if state else "running"
