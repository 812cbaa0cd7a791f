"""What runs left on the Prefect server of the tests; not in runs.py, which is read before Prefect has its own home."""

from __future__ import annotations

from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun

from tasks.publish import key


def runs(root: Path) -> list[FlowRun]:
    """Runs that were started for the fields of a data root, the oldest first."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["reduce field"])), limit=200)
    ours = [run for run in found if run.parameters["config"].get("root") == str(root)]
    return sorted(ours, key=lambda run: run.created)


def reports(root: Path, field: str = "LMC_c42") -> list[str]:
    """What the runs of a data root reported in the Prefect UI, the oldest first; its server may know of other data roots."""
    ours = {run.id for run in runs(root)}
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key(field, "report")]))
    with get_client(sync_client=True) as client:
        shown = client.read_artifacts(artifact_filter=wanted)
    return [artifact.data for artifact in sorted(shown, key=lambda artifact: artifact.created) if artifact.flow_run_id in ours]
