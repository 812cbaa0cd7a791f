"""What runs left on a Prefect server, and kred as a service: real server, real worker, on a data root and a port of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun, State
from runs import PROJECT

from kred_core.products import FieldPaths
from tasks.publish import key

__all__ = ["LONG", "SERVE", "Service", "exists", "reports", "runs", "wait_for"]

LOOK = """
import sys
from pathlib import Path
from flows.deployed import discover_fields
from kred_core.config import DiscoverConfig
print(discover_fields(Path(sys.argv[1]), DiscoverConfig(settle=0.05), return_state=True).message)
"""
SERVE = PROJECT / "deployments" / "serve.py"

# A co-add that takes a minute: the small detectors onto pixels of full size, by SWarp, which is slow. No backgrounds needed.
LONG = {
    "tiles": ["T07"],
    "coadd": {"mosaics": "original", "pixel_scale": 0.2, "engine": "swarp"},
    "run": {"only": ["tiles", "coadd"]},
}


class Service:
    """kred as a service on a data root of its own.

    Parameters
    ----------
    root : `~pathlib.Path`
    settle : float
        Minutes until a field that has arrived is complete.
    every : int
        Minutes between two looks of the schedule.
    environment
        What is set beside what the tests set.
    """

    def __init__(self, root: Path, settle: float = 0.05, every: int = 1, **environment: str):
        self.root, self.paths = root, FieldPaths(root, "LMC_c42")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.ui = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.ui}/api"
        self.environment = os.environ | {"PYTHONPATH": str(PROJECT), "PREFECT_WORKER_QUERY_SECONDS": "2"} | environment
        self.client = SyncPrefectClient(self.url).__enter__()
        self.output = root / "serve.txt"
        options = ["--root", str(root), "--port", str(self.port), "--every", str(every), "--settle", str(settle)]
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, SERVE, *options], env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        wait_for(lambda: "stops everything" in self.said or self.process.poll() is not None, 200)
        assert self.process.poll() is None, self.said

    @property
    def said(self) -> str:
        return self.output.read_text()

    def call(self, *command: str) -> str:
        """Run a command with this server; what it prints."""
        finished = self._run(*command)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    def _run(self, *command: str) -> subprocess.CompletedProcess:
        environment = self.environment | {"PREFECT_API_URL": self.url}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False, cwd="/")

    def look_as_deployed(self) -> None:
        """Look for new fields as a person asks for it: again where it is cancelled because the schedule is just looking."""
        command = [sys.executable, "-m", "prefect", "deployment", "run", "discover fields/discover", "--watch"]
        for _ in range(5):
            finished = self._run(*command)
            if "finished in state 'Cancelled'" not in finished.stdout:
                break
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert "Completed" in finished.stdout

    def look(self) -> str:
        """Look for new fields, apart from the schedule; what the look says."""
        return self.call(sys.executable, "-c", LOOK, str(self.root)).strip().splitlines()[-1]

    def start_long(self) -> UUID:
        """Start a co-add that takes a minute."""
        if not (shutil.which("SWarp") or shutil.which("swarp")):
            pytest.skip("SWarp is not installed; kred's own co-add ends too soon to be interrupted")
        return self.start(**LONG)

    def start(self, **config) -> UUID:
        """Start the deployment "field", as the form in the UI does."""
        deployment = self.client.read_deployment_by_name("reduce field/field")
        parameters = {"config": {"field": "LMC_c42", "root": str(self.root)} | config}
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id

    def state(self, run: UUID) -> State:
        return self.client.read_flow_run(run).state

    def end_of(self, run: UUID, seconds: float = 120) -> State:
        wait_for(lambda: self.state(run).is_final(), seconds)
        return self.state(run)

    def runs(self, flow: str) -> list[FlowRun]:
        """All runs of a flow, the oldest first."""
        found = self.client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), limit=200)
        return sorted(found, key=lambda run: run.created)

    def in_the_midst_of(self, run: UUID) -> int:
        """Wait until a run is writing a mosaic; its process."""
        wait_for(lambda: self.state(run).is_running() and self.paths.unfinished())
        return int(re.search(r"\(process (\d+) on ", self.paths.run_lock.read_text())[1])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.client.__exit__(None, None, None)


def exists(process: int) -> bool:
    """Whether a process lives; one that has ended can stay in the system's list until somebody asks what became of it."""
    state = subprocess.run(["ps", "-p", str(process), "-o", "stat="], capture_output=True, text=True, check=False).stdout
    return state.strip()[:1] not in ("", "Z")


def wait_for(condition: Callable[[], object], seconds: float = 120, pause: float = 0.2) -> float:
    """Wait until something is true; returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        time.sleep(pause)
    return time.monotonic() - began


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
