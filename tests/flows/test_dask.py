"""Fields on real Dask clusters: the same bytes, whatever happens to workers, and one sentence where a cluster cannot be used."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import pytest
from dask.distributed import LocalCluster
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterTaskRunId
from prefect.states import State
from runs import PROJECT, last_log, products
from serving import wait_for

from flows import cluster, field
from flows.field import reduce
from flows.run import ConfiguredTaskRunner
from kred_core.config import FieldConfig
from kred_core.stages.work import Manifest, Step, Work
from tasks.steps import step_task

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks in /proc at what a worker is doing"),
]

EXAMPLES = PROJECT / "deployments" / "dask"


def config(root: Path, **run) -> FieldConfig:
    return FieldConfig(field="LMC_c42", tiles=["T07"], root=root, run={"runner": "dask", "workers": 2} | run)


def works_at(worker: int, stage: str, root: Path) -> bool:
    """Whether a process is at work on a unit of a stage, whose lock it then holds."""
    units = str(root / ".kred" / "LMC_c42" / "results" / stage)
    try:
        opened = [os.readlink(path) for path in Path(f"/proc/{worker}/fd").iterdir()]
    except OSError:
        return False
    return any(path.startswith(units) and path.endswith("/lock") for path in opened)


def unfinished(root: Path) -> list[Path]:
    return list(root.rglob(".*.tmp"))


class Killer(threading.Thread):
    """Kills the first worker of this process that is at work on a stage."""

    def __init__(self, stage: str, root: Path):
        super().__init__(daemon=True)
        self.stage, self.root, self.killed = stage, root, 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.killed and not self.stop.wait(0.002):
            for worker in multiprocessing.active_children():
                if works_at(worker.pid, self.stage, self.root):
                    os.kill(worker.pid, signal.SIGKILL)
                    self.killed = worker.pid
                    return

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop.set()
        self.join()


def test_a_killed_worker_costs_time_and_nothing_else(root, reduced):
    with Killer("summarize", root) as killer:
        assert reduce(config(root, workers=0, dask_cluster=str(EXAMPLES / "local.toml"))) == 0
    assert killer.killed
    assert "a worker is gone" in last_log(root)
    assert products(root) == products(reduced)
    assert unfinished(root) == []
    assert last_log(root).count("LMC_c42 T07: 32 detectors on it") == 1  # said by a task


def _nothing(config: FieldConfig, unit: str) -> Work:
    return Work(unit)


def _die(config: FieldConfig, unit: str) -> Manifest:
    os.kill(os.getpid(), signal.SIGKILL)
    return Manifest()


def _speak(config: FieldConfig, unit: str) -> Manifest:
    logging.getLogger("kred_core.test").warning("%s speaks", unit)
    return Manifest.of(numpy_threads=os.environ["OPENBLAS_NUM_THREADS"], threads=os.environ["NUMBA_NUM_THREADS"])


DIE, SPEAK = Step("die", 1, _nothing, _die), Step("speak", 1, _nothing, _speak)


@flow(task_runner=ConfiguredTaskRunner())
def speak_and_die(config: FieldConfig) -> dict[str, State]:
    states = {}
    for step in (SPEAK, DIE):
        unit = f"exposure of {step.name}"
        future = step_task(step).submit(unit=unit, config=config, arguments={"unit": unit})
        future.wait()
        states[step.name] = future.state
    return states


def test_work_that_no_worker_survives_is_given_up_with_a_reason(tmp_path, caplog):
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        states = speak_and_die(config(tmp_path, workers=1))
    died = states["die"]
    assert died.is_crashed()
    assert "1 workers died while they did it; do they have enough memory?" in str(died.result(raise_on_failure=False))
    assert caplog.messages.count("exposure of speak speaks") == 1
    assert states["speak"].result().values == {"numpy_threads": "1", "threads": "1"}
    spoken = LogFilter(task_run_id=LogFilterTaskRunId(any_=[states["speak"].state_details.task_run_id]))
    with get_client(sync_client=True) as client:
        wait_for(lambda: "exposure of speak speaks" in {entry.message for entry in client.read_logs(spoken)})


class TestAClusterThatIsRunning:
    """Its workers are those of many runs, and have their own current directory."""

    @pytest.fixture(scope="class")
    @classmethod
    def running(cls) -> Iterator[LocalCluster]:
        with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None, memory_limit=0) as running:
            yield running

    def test_does_the_work_of_a_run_elsewhere(self, running, root, monkeypatch):
        monkeypatch.chdir(root)
        assert reduce(config(Path("."), dask_address=running.scheduler_address, last="prepare")) == 0
        assert len(list(Path("DECam_PREP/LMC_c42/data").iterdir())) == 32

    def test_goes_on_when_a_run_is_stopped_and_that_leaves_nothing_half_done(self, running, root, prefect_server):
        arguments = ["flows/field.py", "LMC_c42", "T07", "--root", str(root), "--runner", "dask"]
        environment = os.environ | {"PREFECT_API_URL": prefect_server}
        worker = running.workers[0].pid
        with subprocess.Popen(
            [sys.executable, *arguments, "--dask-address", running.scheduler_address],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as run:
            wait_for(lambda: works_at(worker, "look", root), pause=0.01)
            run.send_signal(signal.SIGTERM)
            run.wait(40)
        assert not works_at(worker, "look", root)
        assert unfinished(root) == []
        assert running.workers[0].pid == worker
        assert reduce(config(root, dask_address=running.scheduler_address, last="match")) == 0


@pytest.fixture
def refused(root, capsys) -> Callable[..., str]:
    """Run a command that must be refused, with one sentence."""

    def run(*arguments: str, status: int) -> str:
        assert field.main(["LMC_c42", "--root", str(root), "--runner", "dask", *arguments]) == status
        assert not (root / "Summary").exists()
        said = capsys.readouterr().err
        assert said.count("error: ") == 1
        return said

    return run


class TestWhatCannotBeUsed:
    def test_dask_that_is_not_installed(self, refused, monkeypatch):
        monkeypatch.setitem(sys.modules, "prefect_dask", None)
        assert "pip install 'kred[dask]'" in refused(status=1)

    @pytest.mark.parametrize(
        ("address", "reason"), [("tcp://127.0.0.1:9", "nobody answers within 1 s"), ("somewhere", "missing port number")]
    )
    def test_address_without_a_scheduler(self, refused, monkeypatch, address, reason):
        monkeypatch.setattr(cluster, "CONNECTION_TIMEOUT", 1.0)
        said = refused("--dask-address", address, status=1)
        assert f"there is no Dask scheduler at {address} (--dask-address): {reason}" in said

    def test_address_of_something_else(self, refused):
        with socket.create_server(("127.0.0.1", 0)) as web:
            threading.Thread(target=lambda: web.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), daemon=True).start()
            said = refused("--dask-address", f"tcp://127.0.0.1:{web.getsockname()[1]}", status=1)
        assert "what answers there is something else" in said

    def test_address_and_file(self, refused):
        assert "not both" in refused("--dask-address", "tcp://here:8786", "--dask-cluster", "local.toml", status=2)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ('class = "os.system"\nworkers = 2', "class: input should be 'dask.distributed.LocalCluster'"),
            ('class = "dask_jobqueue.SLURMCluster"\nworkers = 0', "workers: input should be greater than or equal to 1, not 0"),
            ('class = "dask_jobqueue.SLURMCluster"', "workers: field required"),
            ('class = "dask.distributed.LocalCluster"\nworkers = 1\ncores = 2', "cores is not known here"),
            (
                'class = "dask_jobqueue.SLURMCluster"\nworkers = 1\n[arguments]\nwaltime = "1:0:0"',
                "arguments.waltime: dask_jobqueue.SLURMCluster has no such argument; did you mean walltime?",
            ),
            ("workers = ", "cannot be read: Invalid value (at end of document)"),
        ],
    )
    def test_description_of_a_cluster(self, refused, tmp_path, text, reason):
        file = tmp_path / "cluster.toml"
        file.write_text(text)
        assert reason in refused("--dask-cluster", str(file), status=2)

    def test_description_that_is_not_there(self, refused, tmp_path):
        assert "nothere.toml (--dask-cluster) cannot be read" in refused("--dask-cluster", "nothere.toml", status=2)


class TestSlurm:
    def test_is_asked_for_what_stands_in_the_example(self, tmp_path):
        described = cluster.read(EXAMPLES / "slurm.toml")
        arguments = described.arguments | {"shared_temp_directory": str(tmp_path), "log_directory": str(tmp_path)}
        with described.cluster_class(**arguments) as jobs:
            script = jobs.job_script()
        for line in ("-p normal", "--cpus-per-task=8", "--mem=30G", "-t 12:00:00"):
            assert f"#SBATCH {line}" in script
        assert "--nthreads 1 --memory-limit 3.73GiB --nworkers 8" in script
        assert "--lifetime 11.5h" in script

    @pytest.mark.long
    def test_makes_the_same_bytes(self, root, reduced, tmp_path):
        if not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
            pytest.skip("no SLURM here")
        file = tmp_path / "cluster.toml"
        file.write_text(
            'class = "dask_jobqueue.SLURMCluster"\nworkers = 2\n[arguments]\ncores = 1\nmemory = "2GB"\nsecurity = true\n'
            f'shared_temp_directory = "{tmp_path}"\nlog_directory = "{tmp_path}"\n'
        )
        assert reduce(config(root, workers=0, dask_cluster=str(file))) == 0
        assert products(root) == products(reduced)
