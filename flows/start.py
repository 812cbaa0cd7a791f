"""Start runs of the deployment that reduces one field, as a person does in the UI, and ask what became of them."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from kred_core import settings
from kred_core.config import FieldConfig
from kred_core.discovery import RunState
from kred_core.errors import ToolError

__all__ = ["DEPLOYMENT", "options", "start_field", "state_of"]

DEPLOYMENT = "reduce field/field"

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


def state_of(run: str) -> RunState:
    """What became of a run; one that the server does not know (any more) has failed."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(run)).state
        except ObjectNotFound:
            return "failed"
    return _STATES.get(state.type, "running") if state else "running"
