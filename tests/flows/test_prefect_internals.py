"""What kred uses of Prefect and Prefect does not document: one test for each use that no other test would miss."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading

import pytest
from prefect import flow, runtime, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, TaskRunFilter, TaskRunFilterId
from prefect.logging import get_run_logger
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_API_URL, temporary_settings
from runs import PROJECT
from serving import wait_for
from websockets.sync.server import serve

from flows import prefect_internals as internals

pytestmark = pytest.mark.usefixtures("prefect_server")

ELSEWHERE = "http://127.0.0.1:9/api"


def logged(run) -> set[str]:
    """What the server has of what a flow run said."""
    with get_client(sync_client=True) as client:
        return {entry.message for entry in client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])))}


def test_a_worker_names_the_run_in_the_environment(monkeypatch):
    assert not internals.started_by_worker()
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "8c26d8c0-9bd4-4c84-9d0f-3f3f6bbf6a43")
    assert runtime.flow_run.id == "8c26d8c0-9bd4-4c84-9d0f-3f3f6bbf6a43"
    assert internals.started_by_worker()


def test_all_threads_see_an_environment_that_has_changed(monkeypatch):
    def seen_by_a_thread() -> str:
        seen = []
        thread = threading.Thread(target=lambda: seen.append(PREFECT_API_URL.value()))
        thread.start()
        thread.join()
        return seen[0]

    before = seen_by_a_thread()
    with monkeypatch.context() as changed:
        changed.setenv("PREFECT_API_URL", ELSEWHERE)
        internals.read_settings_again()
        assert seen_by_a_thread() == ELSEWHERE
    internals.read_settings_again()
    assert seen_by_a_thread() == before


def test_settings_travel_to_another_process():
    with temporary_settings({PREFECT_API_URL: ELSEWHERE}):
        sent = pickle.dumps(internals.settings_here())
    assert PREFECT_API_URL.value() != ELSEWHERE
    with internals.with_settings(pickle.loads(sent)):  # noqa: S301
        assert PREFECT_API_URL.value() == ELSEWHERE


@flow(name="of the tests of Prefect's insides")
def speak(words: str) -> str:
    get_run_logger().warning(words)
    return runtime.flow_run.id


def test_messages_that_wait_are_sent_at_once():
    run = speak("sent at once")
    internals.send_what_waits(30)
    assert "sent at once" in logged(run)


def test_what_prefect_says_elsewhere_can_be_said_here():
    caught: list[dict] = []
    internals.send_what_prefect_says(caught.append)
    try:
        run = speak("said elsewhere")
    finally:
        internals.send_what_prefect_says(None)
    [values] = [values for values in caught if values["message"] == "said elsewhere"]
    assert values["flow_run_id"] == run
    assert "said elsewhere" not in logged(run)
    internals.say_for_prefect(values)
    wait_for(lambda: "said elsewhere" in logged(run), 30)


EVENTS = """
import sys
from prefect.events import emit_event
from flows import prefect_internals
prefect_internals.send_events_to(sys.argv[1])
emit_event("kred.test", {"prefect.resource.id": "kred.test"})
prefect_internals.finish_events()
"""


def test_events_go_where_they_are_sent_and_are_waited_for():
    received: list[str] = []

    def receive(connection) -> None:
        received.append(connection.request.path)
        connection.recv()  # the password
        connection.send('{"type": "auth_success"}')
        received.extend(connection)

    with serve(receive, "127.0.0.1", 0, subprotocols=["prefect"]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}/api"
        environment = os.environ | {"PREFECT_API_URL": ELSEWHERE, "PYTHONPATH": str(PROJECT)}
        subprocess.run([sys.executable, "-c", EVENTS, url], env=environment, check=True, timeout=60)
        wait_for(lambda: len(received) == 2, 10)
        server.shutdown()
    assert received[0] == "/api/events/in"
    assert '"kred.test"' in received[1]


class Gone:
    """A terminal that nobody reads any more."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_terminal_without_a_reader_ends_nothing():
    handler = PrefectConsoleHandler(stream=Gone())
    internals.stay_silent_without_reader(handler)
    handler.emit(logging.makeLogRecord({"msg": "nobody reads this", "levelno": logging.WARNING}))
    assert handler.console.quiet


@task
def measure() -> list[int]:
    return [1]


@task
def use(values: list[int]) -> str:
    return runtime.task_run.id


@flow
def dependent(forgotten: bool) -> str:
    values = measure()
    if forgotten:
        internals.forget_results()
    return use(values)


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_result_that_is_forgotten_makes_no_line_in_the_graph(forgotten):
    run = dependent(forgotten)
    wanted = TaskRunFilter(id=TaskRunFilterId(any_=[run]))
    with get_client(sync_client=True) as client:
        wait_for(lambda: client.read_task_runs(task_run_filter=wanted), 30)  # the server records a little later
        [found] = client.read_task_runs(task_run_filter=wanted)
    assert len(found.task_inputs["values"]) == (0 if forgotten else 1)
