"""kred as a service, as people run it: real server, real worker, real runs; and nothing of it stays behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelling
from runs import PROJECT, done
from serving import LONG, SERVE, Service, exists, wait_for

from kred_core.products import FieldPaths
from kred_core.simulate import simulate_field

pytestmark = pytest.mark.flaky  # whoever starts the service


def processes_below(process: int) -> dict[int, str]:
    """The processes that a process has started, directly or not, with their arguments."""
    columns = ["-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "args="]
    listed = subprocess.run(["ps", "-A", "-ww", *columns], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=3) for line in listed.splitlines()]
    below = {process}
    for _ in rows:
        below |= {int(pid) for pid, parent, _, _ in rows if int(parent) in below}
    return {int(pid): args for pid, _, state, args in rows if int(pid) in below - {process} and "Z" not in state}


@pytest.fixture(scope="module")
def exposures(tmp_path_factory) -> Path:
    """Three exposures of eight small detectors, with masks, not where the service looks."""
    root = tmp_path_factory.mktemp("exposures")
    simulate_field(root, field="LMC_c42", tiles=["T07"], binning=16, exposures=3, bands=["r"], n_detectors=8)
    return FieldPaths(root, "LMC_c42").mef


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("served")
    (root / "kred.toml").write_text('[run]\nlast = "tiles"\n[service]\nfields_at_once = 1\n')
    service = Service(root)
    yield service
    service.stop()


@pytest.fixture(scope="module")
def reduced(service, exposures) -> list[str]:
    """Two exposures have been copied slowly, and were found and reduced; what the looks said meanwhile."""
    service.paths.mef.mkdir(parents=True)
    said = []
    for path in sorted(exposures.iterdir())[:4]:
        said.append(None if said else service.look())
        content = path.read_bytes()
        with open(service.paths.mef / path.name, "wb") as copy:
            for part in (content[: len(content) // 2], content[len(content) // 2 :]):
                copy.write(part)
                copy.flush()
                time.sleep(0.5)
    said += [service.look()]
    time.sleep(3)
    said += [service.look()]
    wait_for(lambda: service.runs("reduce field"))
    assert service.end_of(service.runs("reduce field")[0].id).is_completed()
    return [look for look in said if look]


def test_a_field_that_is_copied_slowly_is_reduced_once_when_it_is_complete(service, reduced):
    assert reduced[0] == "1 no exposures"
    assert set(reduced[1:]) <= {"1 changing", "1 started", "1 running"}  # the schedule may have been first
    assert reduced[-1] != "1 changing"
    assert len(service.runs("reduce field")) == 1
    assert service.paths.tile_table("T07").exists()
    assert done(service.root) == {"check": 2, "summarize": 2, "prepare": 2, "tiles": 1}


def test_a_value_that_cannot_be_used_is_refused_with_words(service):
    for wrong, words in [({"coadd": {"size": -1}}, "config.coadd.size"), ({"run": {"only": ["cook"]}}, "'cook' is not one of")]:
        with pytest.raises(PrefectHTTPStatusError) as refused:
            service.start(**wrong)
        assert words in refused.value.response.text


def test_cancel_leaves_no_process_and_no_partial_file(service, reduced):
    run = service.start_long()
    engine = service.in_the_midst_of(run)
    waiting = service.start(run={"until": "check"})  # one field at once
    time.sleep(3)
    assert service.state(waiting).is_scheduled()
    service.client.set_flow_run_state(run, Cancelling())
    took = wait_for(lambda: not exists(engine) and not service.paths.unfinished(), 20)
    assert took < 20
    assert service.end_of(run, 30).is_cancelled()
    assert not any("SWarp" in arguments for arguments in processes_below(service.process.pid).values())
    assert not service.paths.mosaic("T07", "r").exists()
    assert service.end_of(waiting).is_completed()


def test_a_data_root_is_served_once_and_a_port_too_and_with_one_password(service, tmp_path):
    def refused(*options: str, status: int = 1, **environment: str) -> str:
        command, given = [sys.executable, SERVE, *options], service.environment | environment
        second = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == status
        return second.stderr

    assert f"is served already, by kred as a service (process {service.process.pid} on" in refused("--root", str(service.root))
    assert f"port {service.port} of this machine cannot be used" in refused("--root", str(tmp_path), "--port", str(service.port))
    passwords = {"PREFECT_SERVER_API_AUTH_STRING": "kred:a", "PREFECT_API_AUTH_STRING": "kred:b"}
    said = refused("--root", str(tmp_path), status=2, **passwords)
    assert "PREFECT_API_AUTH_STRING is not what PREFECT_SERVER_API_AUTH_STRING says" in said


def test_only_this_machine_can_connect(service):
    with socket.socket() as s:  # an address that a server has which listens on all
        assert s.connect_ex(("127.0.0.2", service.port)) != 0


def test_a_scheduled_look_is_run_by_the_worker(service):
    wait_for(lambda: any(run.auto_scheduled and run.state.is_completed() for run in service.runs("discover fields")))


@pytest.mark.long
class TestWhatDies:
    def test_a_killed_worker_takes_its_run_along_and_the_next_run_goes_on(self, service, reduced):
        run = service.start_long()
        engine = service.in_the_midst_of(run)
        [worker] = [pid for pid, arguments in processes_below(service.process.pid).items() if "worker.py kred" in arguments]
        os.kill(worker, signal.SIGKILL)
        assert service.end_of(run).is_crashed()
        wait_for(lambda: not exists(engine) and not service.paths.unfinished(), 20)
        again = service.start(**LONG | {"coadd": {"mosaics": "original"}})
        assert service.end_of(again).is_completed()
        assert done(service.root) == {"coadd": 1}

    def test_a_run_survives_a_killed_server(self, service, reduced):
        run = service.start(**LONG | {"coadd": LONG["coadd"] | {"pixel_scale": 0.5}})
        service.in_the_midst_of(run)
        [server] = [pid for pid, arguments in processes_below(service.process.pid).items() if "server_process.py" in arguments]
        os.kill(server, signal.SIGKILL)
        wait_for(lambda: service.said.count("starting Prefect") == 2)
        wait_for(lambda: answers(service))
        assert service.end_of(run).is_completed()


def answers(service: Service) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", service.port)) == 0 and service.client.api_healthcheck() is None


def test_ctrl_c_stops_everything_with_a_run_in_progress(service, reduced):
    run = service.start_long()
    engine = service.in_the_midst_of(run)
    below = processes_below(service.process.pid)
    assert engine in below
    service.stop()
    assert "stopped" in service.said.splitlines()[-1]
    assert [arguments for pid, arguments in below.items() if exists(pid)] == []
    assert not service.paths.unfinished()
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", service.port)) != 0


@pytest.fixture
def postgres() -> Iterator[str]:
    """URL of an empty PostgreSQL database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    initdb = shutil.which("initdb", path=os.pathsep.join([*map(str, programs[-1:]), os.environ["PATH"]]))
    if initdb is None:
        pytest.skip("PostgreSQL is not installed (Debian and Ubuntu: apt install postgresql)")
    directory = Path(tempfile.mkdtemp(prefix="kred-postgres-"))
    user = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(directory, "postgres")
        user = {"user": "postgres"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    data = directory / "data"
    subprocess.run([initdb, "-D", data, "-A", "trust", "-U", "kred", "--no-sync"], check=True, **quiet, **user)
    options = ["-p", str(port), "-k", directory, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    server = subprocess.Popen([Path(initdb).with_name("postgres"), "-D", data, *options], **quiet, **user)
    try:
        ready = [Path(initdb).with_name("pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        wait_for(lambda: subprocess.run(ready, check=False, **quiet).returncode == 0, 60)
        yield f"postgresql+asyncpg://kred@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(directory)


@pytest.mark.long
def test_the_same_with_postgresql(postgres, exposures, tmp_path):
    paths = FieldPaths(tmp_path, "LMC_c42")
    shutil.copytree(exposures, paths.mef)
    (tmp_path / "kred.toml").write_text('[run]\nlast = "summarize"\n')
    service = Service(tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL=postgres)
    try:
        assert "history of the runs" not in service.said  # that would be SQLite
        service.look()
        time.sleep(3)
        assert service.look() in ("1 started", "1 running")  # the schedule may have been first
        assert service.end_of(service.runs("reduce field")[0].id).is_completed()
        assert done(tmp_path) == {"check": 3, "summarize": 3}
        service.look_as_deployed()
        wait_for(lambda: {"lmc-c42-exposures", "fields"} <= {artifact.key for artifact in service.client.read_artifacts()}, 30)
    finally:
        service.stop()


@pytest.mark.long
def test_a_service_with_a_password_answers_only_those_who_know_it(exposures, tmp_path):
    paths = FieldPaths(tmp_path, "LMC_c42")
    shutil.copytree(exposures, paths.mef)
    (tmp_path / "kred.toml").write_text('[run]\nlast = "check"\n')
    service = Service(tmp_path, settle=1000, PREFECT_SERVER_API_AUTH_STRING="kred:secret")
    try:
        command = [sys.executable, PROJECT / "flows" / "field.py", "LMC_c42", "--root", str(tmp_path)]
        ours = service.environment | {"PREFECT_API_URL": service.url}
        stranger = subprocess.run(command, env=ours, capture_output=True, text=True, timeout=60, check=False)
        assert stranger.returncode == 1
        assert "wants a password: set PREFECT_API_AUTH_STRING" in stranger.stderr
        assert "Traceback" not in stranger.stderr
        service.environment["PREFECT_API_AUTH_STRING"] = "kred:secret"
        service.call(*command)
        assert done(tmp_path) == {"check": 3}
        service.look_as_deployed()  # by the worker, which knows the password too
    finally:
        service.stop()
