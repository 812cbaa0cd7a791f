"""The task runners that a configuration asks for, and what tasks meet in them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from serving import exists, wait_for

from flows.run import ConfiguredTaskRunner, cores, started
from kred_core.config import FieldConfig, RunConfig
from kred_core.stages.work import Manifest, Step, Work
from tasks.steps import step_task

PROJECT = Path(__file__).resolve().parents[2]

log = logging.getLogger("kred_core.test")


def _work(config: FieldConfig, unit: str) -> Work:
    return Work(unit)


def _look_around(config: FieldConfig, unit: str) -> Manifest:
    log.info("%s is being looked at", unit)
    time.sleep(0.05)
    return Manifest.of(
        process=os.getpid(),
        thread=threading.get_ident(),
        numpy_threads=os.environ.get("OPENBLAS_NUM_THREADS"),
        server=os.environ.get("PREFECT_API_URL"),
    )


LOOK_AROUND = Step("look around", 1, _work, _look_around)


@flow(task_runner=ConfiguredTaskRunner())
def look(config: FieldConfig, units: int) -> list[Manifest]:
    names = [f"exposure {i}" for i in range(units)]
    task = step_task(LOOK_AROUND)
    return [f.result() for f in [task.submit(unit=name, config=config, arguments={"unit": name}) for name in names]]


def run(root: Path, units: int, run: RunConfig):
    """Run the flow as a configuration says; its final state."""
    return look(FieldConfig(field="LMC_c42", root=root, run=run), units, return_state=True)


def test_threads_are_the_default_and_as_many_as_cores():
    with started(FieldConfig(field="LMC_c42")) as runner:
        assert isinstance(runner, ThreadPoolTaskRunner)
        assert runner == ThreadPoolTaskRunner(max_workers=cores())
    assert 1 <= cores() <= os.cpu_count()


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_the_number_of_workers_is_the_one_asked_for(kind):
    expected = {"threads": ThreadPoolTaskRunner, "processes": ProcessPoolTaskRunner}[kind](max_workers=3)
    with started(FieldConfig(field="LMC_c42", run=RunConfig(runner=kind, workers=3))) as runner:
        assert runner == expected


def test_threads_never_exceed_the_number_asked_for(tmp_path, prefect_server):
    manifests = run(tmp_path, 12, RunConfig(workers=2)).result()
    assert {m.values["process"] for m in manifests} == {os.getpid()}
    assert len({m.values["thread"] for m in manifests}) == 2


def test_processes_share_server_cache_and_logs_with_the_run(tmp_path, prefect_server, caplog):
    state = run(tmp_path, 3, RunConfig(runner="processes", workers=1))
    manifests = state.result()
    assert {m.values["process"] for m in manifests} & {os.getpid()} == set()
    assert {m.values["numpy_threads"] for m in manifests} == {"1"}
    assert {m.values["server"] for m in manifests} == {prefect_server}
    assert run(tmp_path, 3, RunConfig(workers=2)).result() == manifests  # found by threads, so remembered by processes

    expected = {f"exposure {i} is being looked at" for i in range(3)}
    assert sorted(m for m in caplog.messages if "looked at" in m) == sorted(expected)  # in the terminal and the field's log
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    messages: set[str] = set()
    deadline = time.monotonic() + 60  # messages travel in parcels
    with get_client(sync_client=True) as client:
        while not expected <= messages and time.monotonic() < deadline:
            messages = {entry.message for entry in client.read_logs(wanted)}
            time.sleep(0.1)
    assert expected <= messages


IDLE_POOL = """
import os, time
from prefect import task
from flows.run import started
from kred_core.config import FieldConfig, RunConfig

@task
def process():
    return os.getpid()

if __name__ == "__main__":
    with started(FieldConfig(field="LMC_c42", run=RunConfig(runner="processes", workers=1))) as runner:
        print(runner.submit(process, {}).result(), flush=True)
        time.sleep(600)
"""


def test_processes_end_with_a_run_that_is_killed(tmp_path, prefect_server):
    script = tmp_path / "pool.py"
    script.write_text(IDLE_POOL)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen([sys.executable, script], env=environment, text=True, stdout=subprocess.PIPE) as run:
        worker = int(run.stdout.readline())
        assert exists(worker)
        run.kill()
    wait_for(lambda: not exists(worker), 60)
