"""The Prefect server of a command-line run: it is there, everything is recorded, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.server import server

PROJECT = Path(__file__).resolve().parents[2]

# A run of 40 short tasks of which one fails. With an argument it waits afterwards, to be killed.
RUN = """
import logging, signal, sys, time
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner
from flows.server import server
from kred_core.errors import ExposureError

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a script, programs are started without it
log = logging.getLogger("kred_core.test")

@task(task_run_name="exposure {number}")
def measure(number):
    log.info("measuring %d", number)
    if number == 7:
        raise ExposureError("exposure 7: truncated")

@flow(name="field of a test", task_runner=ThreadPoolTaskRunner(max_workers=4))
def measure_all():
    futures = measure.map(range(40))
    return sum(not future.state.is_completed() for future in futures if future.wait() is None)

with server() as url:
    log.info("%d of 40 failed", measure_all())
    print(url, flush=True)
    if sys.argv[1:]:
        time.sleep(600)
"""


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        env=os.environ | environment,
        cwd=PROJECT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="module")
def two_runs(prefect_server):
    """Two runs at once, sharing one Prefect database: one ends by itself, the other is killed; both behind a dead proxy."""
    own = {"PREFECT_API_URL": "", "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    whole, killed = start(**own), start("wait", **own)
    try:
        url_of_killed = killed.stdout.readline().strip()
        killed.kill()
        output, messages = whole.communicate(timeout=400)
        killed.communicate()
    finally:
        for process in (whole, killed):
            process.kill()
            process.wait()
    return whole.returncode, output.strip(), messages, url_of_killed


def answers(url: str) -> bool:
    host, port = url.removeprefix("http://").removesuffix("/api").split(":")
    with socket.socket() as s:
        return s.connect_ex((host, int(port))) == 0


def test_a_run_records_every_task_before_it_ends(two_runs):
    status, _, messages, _ = two_runs
    assert status == 0, messages
    with sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db") as database:
        rows = database.execute(
            "SELECT flow_run.id, task_run.state_type, count(*) FROM task_run JOIN flow_run ON flow_run.id = task_run.flow_run_id "
            "JOIN flow ON flow.id = flow_run.flow_id WHERE flow.name = 'field of a test' GROUP BY 1, 2 ORDER BY 3"
        ).fetchall()
        marks = database.execute("SELECT count(*) FROM task_run WHERE name LIKE '%end of run%'").fetchone()
        messages_by_run = dict(
            database.execute("SELECT flow_run_id, count(*) FROM log WHERE message LIKE 'measuring %' GROUP BY 1").fetchall()
        )
    by_run: dict[str, dict[str, int]] = {}
    for run, state, count in rows:
        by_run.setdefault(run, {})[state] = count
    # The killed run may or may not have been recorded in time; the other one is, with all that it said.
    assert ({"COMPLETED": 39, "FAILED": 1}, 40) in [(states, messages_by_run.get(run)) for run, states in by_run.items()]
    assert marks == (0,)


def test_the_terminal_shows_what_kred_says_and_nothing_else(two_runs):
    messages = [line.split(" ", 1)[1] for line in two_runs[2].splitlines()]
    assert messages[:1] == ["starting Prefect"]
    assert sorted(messages[2:-1]) == sorted(f"measuring {i}" for i in range(40))
    assert messages[-1] == "1 of 40 failed"


def test_no_server_outlives_its_run_even_when_that_is_killed(two_runs):
    _, url, _, url_of_killed = two_runs
    assert url != url_of_killed
    deadline = time.monotonic() + 60
    while answers(url_of_killed) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not answers(url)
    assert not answers(url_of_killed)


def test_ctrl_c_ends_run_and_server(prefect_server):
    run = start("wait", PREFECT_API_URL="")
    try:
        url = run.stdout.readline().strip()
        assert answers(url)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert not answers(url)


def test_a_configured_server_is_used_and_left_alone(prefect_server):
    with server() as url:
        assert url == prefect_server
    assert answers(prefect_server)
