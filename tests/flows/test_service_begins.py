"""The service finds what is there when it begins, without waiting for its schedule, and tells of what fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from serving import Service, wait_for

from kred_core.products import FieldPaths

pytestmark = pytest.mark.long

SETTLE = 0.6  # min


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[dict]]]:
    """Where notices are received, as Apprise writes the address, and what was."""
    notices: list[dict] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            notices.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_port}", notices
        server.shutdown()


@pytest.fixture(scope="module")
def service(told, simulated, tmp_path_factory) -> Iterator[Service]:
    """The service on a field that was there before, copied with its old times, an hour before the schedule looks."""
    root = tmp_path_factory.mktemp("served")
    (root / "kred.toml").write_text('[run]\nlast = "check"\n')
    shutil.copytree(FieldPaths(simulated, "LMC_c42").mef, FieldPaths(root, "LMC_c42").mef, copy_function=shutil.copy2)
    service = Service(root, SETTLE, every=60, KRED_SERVICE__NOTIFY=told[0])
    yield service
    service.stop()


@pytest.fixture(scope="module")
def reduced(service) -> None:
    wait_for(lambda: service.runs("reduce field"))
    assert service.end_of(service.runs("reduce field")[0].id).is_completed()


def looks(service: Service) -> list:
    return [run for run in service.runs("discover fields") if run.state.is_completed()]


def test_a_field_that_is_there_is_reduced_when_it_has_settled(service, reduced):
    first, second = looks(service)
    assert [look.state.message for look in (first, second)] == ["1 changing", "1 started"]
    waited = (service.runs("reduce field")[0].created - first.start_time).total_seconds()
    assert 60 * SETTLE < waited < 60 * SETTLE + 60
    assert len(service.runs("reduce field")) == 1


def test_a_run_that_fails_or_crashes_is_told_with_its_reason_and_one_that_does_not_is_not(service, reduced, told):
    assert service.end_of(service.start(field="LMC_c99")).is_failed()
    wait_for(lambda: told[1], 30)
    [notice] = told[1]
    assert notice["title"] == "kred: LMC_c99: Failed"
    assert "there is no directory" in notice["message"]
    assert f"{service.ui}/runs/flow-run/" in notice["message"]
    run = service.start(run={"until": "summarize", "redo": True})
    wait_for(lambda: service.state(run).is_running() and service.paths.run_lock.exists() and service.paths.run_lock.read_text())
    os.kill(int(service.paths.run_lock.read_text().split("(process ")[1].split(" on ")[0]), signal.SIGKILL)
    assert service.end_of(run).is_crashed()
    wait_for(lambda: told[1][-1]["title"] == "kred: LMC_c42: Crashed", 30)


def test_looks_that_fail_are_told_once(service, reduced, told):
    (service.root / "kred.toml").write_text("[run")
    before = len(told[1])
    deployment = service.client.read_deployment_by_name("discover fields/discover")
    for _ in range(2):
        assert service.end_of(service.client.create_flow_run_from_deployment(deployment.id).id).is_failed()
    assert service.end_of(service.start(field="LMC_c98")).is_failed()  # for the same reason, and told after what the looks told
    wait_for(lambda: told[1][-1]["title"] == "kred: LMC_c98: Failed", 30)
    assert [notice["title"] for notice in told[1][before:]] == ["kred: discover fields: Failed", "kred: LMC_c98: Failed"]
    assert "kred.toml cannot be read" in told[1][before]["message"]
