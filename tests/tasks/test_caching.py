"""What is done again, what is not, and what happens to a unit that fails; all with real task runs on a real server."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from prefect import Task, flow
from prefect import task as prefect_task
from prefect.client.orchestration import get_client
from prefect.context import SyncClientContext
from prefect.states import Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import ValidationError

from kred_core.config import CoaddConfig, FieldConfig, RunConfig, SummarizeConfig
from kred_core.errors import ExposureError
from tasks.caching import REFUSED, Manifest, UnitLocks, Work, each_by_itself, for_run, is_current, stage_task

pytestmark = pytest.mark.usefixtures("prefect_server")


def _work(config: FieldConfig, exposure: Path) -> Work:
    mask = exposure.with_suffix(".mask")
    return Work(exposure.name, files=[exposure, mask], options=[config.summarize])


def _summarize(config: FieldConfig, exposure: Path) -> Manifest:
    with open(config.root / "calls", "a") as calls:
        calls.write(f"{exposure.name}\n")
    text = exposure.read_text()
    if text == "damaged":
        raise ExposureError(f"{exposure.name}: truncated")
    if text == "hiccup":
        exposure.write_text("good")
        raise OSError(errno.EIO, "Input/output error")
    product = exposure.with_suffix(".summary")
    product.write_text(text.upper())
    if text == "unknown filter":
        return Manifest.of([product], **{REFUSED: text})
    return Manifest.of([product], mode=1.5)


summarize = stage_task("summarize", version=1, work=_work)(_summarize).with_options(retry_delay_seconds=0)


def reduce(config: FieldConfig, task: Task) -> dict:
    """Run the task for each exposure of a field, two at a time; final states by name."""
    ready = for_run(task, config)
    with SyncClientContext.get_or_create(), ThreadPoolTaskRunner(max_workers=2) as runner:
        futures = {p.name: runner.submit(ready, {"config": config, "exposure": p}) for p in sorted(config.root.glob("*.mef"))}
        for future in futures.values():
            future.wait()
        return {name: future.state for name, future in futures.items()}


class Field:
    """A field of tiny exposures, and what runs of it did."""

    def __init__(self, root: Path):
        self.root = root
        self.calls = root / "calls"

    def config(self, **sections) -> FieldConfig:
        return FieldConfig(field="LMC_c42", root=self.root, **sections)

    def run(self, task: Task = summarize, **sections) -> dict[str, str]:
        """Names of the units' final states."""
        return {name: state.name for name, state in self.states(task, **sections).items()}

    def states(self, task: Task = summarize, **sections) -> dict:
        self.calls.write_text("")
        return reduce(self.config(**sections), task)

    def worked_on(self) -> list[str]:
        """Exposures that the last run really worked on."""
        return sorted(self.calls.read_text().split())

    def records(self) -> list[Path]:
        return [p for p in (self.root / ".kred").rglob("*") if p.is_file() and p.name != "lock"]


@pytest.fixture
def field(tmp_path) -> Field:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mef").write_text(name)
    return Field(tmp_path)


@pytest.fixture
def done(field) -> Field:
    assert set(field.run().values()) == {"Completed"}
    return field


def test_a_second_run_does_nothing(done):
    assert set(done.run().values()) == {"Cached"}
    assert done.worked_on() == []


def test_tasks_of_a_flow_use_the_same_records(done):
    assert {state.name for state in flow(reduce)(done.config(), summarize).values()} == {"Cached"}


def test_the_values_of_a_manifest_come_back_from_the_record(done):
    manifest = done.states()["a.mef"].result()
    assert manifest == Manifest.of([done.root / "a.summary"], mode=1.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "b.summary").unlink(),
        lambda root: (root / "b.summary").write_text("overwritten by hand"),
        lambda root: os.utime(root / "b.mef"),
        lambda root: (root / "b.mef").write_text("another version"),
        lambda root: (root / "b.mask").write_text("a mask has arrived"),
    ],
    ids=["product deleted", "product overwritten", "exposure touched", "exposure replaced", "mask added"],
)
def test_only_what_a_change_concerns_is_done_again(done, change):
    change(done.root)
    assert done.run() == {"a.mef": "Cached", "b.mef": "Completed", "c.mef": "Cached"}
    assert done.worked_on() == ["b.mef"]
    assert (done.root / "b.summary").read_text() == (done.root / "b.mef").read_text().upper()


def test_only_the_options_of_the_stage_itself_count(done):
    assert set(done.run(coadd=CoaddConfig(combine="clipped"), run=RunConfig(workers=1)).values()) == {"Cached"}
    assert set(done.run(summarize=SummarizeConfig(clipped=True)).values()) == {"Completed"}


def test_a_new_version_of_the_stage_does_everything_again(done):
    newer = stage_task("summarize", version=2, work=_work)(_summarize)
    assert set(done.run(newer).values()) == {"Completed"}


def test_redo_does_everything_again_and_remembers_it(done):
    assert set(done.run(run=RunConfig(redo=True)).values()) == {"Completed"}
    assert set(done.run().values()) == {"Cached"}


def test_one_record_for_each_unit_however_often_options_change(done):
    for sigma in (2.5, 3.5, 4.5):
        done.run(summarize=SummarizeConfig(clip_sigma=sigma))
    assert len(done.records()) == 3


def test_records_are_json_and_nothing_else(done):
    for path in done.records():
        record = json.loads(path.read_text())
        assert record["metadata"]["serializer"]["type"] == "kred-manifest"
        assert json.loads(record["result"])["values"] == {"mode": 1.5}


def test_a_half_written_record_is_no_record(done):
    path = next(p for p in done.records() if "b.mef" in str(p))
    path.write_bytes(path.read_bytes()[:100])
    assert done.run()["b.mef"] == "Completed"
    assert done.run()["b.mef"] == "Cached"


def test_the_dry_run_knows_what_a_run_would_do(done):
    (done.root / "b.summary").unlink()
    current = {name: is_current(summarize, done.config(), {"exposure": done.root / f"{name}.mef"}) for name in "abc"}
    assert current == {"a": True, "b": False, "c": True}
    assert not is_current(summarize, done.config(run=RunConfig(redo=True)), {"exposure": done.root / "a.mef"})


def test_an_exposure_that_fails_stops_no_other_and_is_not_remembered(field):
    (field.root / "b.mef").write_text("damaged")
    states = field.states()
    assert {name: state.name for name, state in states.items()} == {"a.mef": "Completed", "b.mef": "Failed", "c.mef": "Completed"}
    assert isinstance(states["b.mef"].result(raise_on_failure=False), ExposureError)
    assert field.worked_on() == ["a.mef", "b.mef", "c.mef"]  # once: a damaged file does not get better by trying again
    (field.root / "b.mef").write_text("repaired")
    assert field.run() == {"a.mef": "Cached", "b.mef": "Completed", "c.mef": "Cached"}


def test_an_exposure_that_is_refused_is_told_from_the_others_and_remembered(field):
    (field.root / "b.mef").write_text("unknown filter")
    states = field.states()
    assert {name: state.name for name, state in states.items()} == {"a.mef": "Completed", "b.mef": "Refused", "c.mef": "Completed"}
    assert states["b.mef"].is_completed()
    assert states["b.mef"].message == "unknown filter"
    assert states["b.mef"].result().paths == (field.root / "b.summary",)
    assert set(field.run().values()) == {"Cached"}


def test_within_a_stage_each_unit_is_remembered_when_it_ends(field, caplog):
    (field.root / "b.mef").write_text("damaged")

    @prefect_task(name="stage")
    def stage() -> State:
        with each_by_itself():
            states = reduce(field.config(), summarize)
            remembered = [is_current(summarize, field.config(), {"exposure": field.root / f"{name}.mef"}) for name in "abc"]
        assert remembered == [True, False, True]
        assert {name: state.name for name, state in states.items()} == {
            "a.mef": "Completed",
            "b.mef": "Failed",
            "c.mef": "Completed",
        }
        return Failed(message="1 failed")

    flow(lambda: stage(return_state=True), name="run")(return_state=True)
    assert field.run() == {"a.mef": "Cached", "b.mef": "Failed", "c.mef": "Cached"}
    assert "committing" not in caplog.text


def test_failures_leave_nothing_behind_in_the_memory_of_the_field(field):
    (field.root / "b.mef").write_text("damaged")
    field.run()
    field.run()
    assert len([p for p in field.records() if p.parent.name == "results"]) <= 1


def test_a_hiccup_of_the_file_system_passes(field, caplog):
    (field.root / "b.mef").write_text("hiccup")
    assert set(field.run().values()) == {"Completed"}
    assert "summarize b.mef: [Errno 5] Input/output error; trying again" in caplog.messages
    assert field.worked_on() == ["a.mef", "b.mef", "b.mef", "c.mef"]


@pytest.mark.parametrize(("number", "tries"), [(errno.ESTALE, 3), (errno.ENOSPC, 1), (errno.EACCES, 1), (errno.ENOENT, 1)])
def test_only_what_can_pass_is_tried_again(field, number, tries):
    def fail(config: FieldConfig, exposure: Path) -> Manifest:
        with open(config.root / "calls", "a") as calls:
            calls.write(f"{exposure.name}\n")
        try:
            raise OSError(number, os.strerror(number))
        except OSError as e:
            raise ExposureError(f"{exposure.name}: {e.strerror}") from e

    task = stage_task("summarize", version=1, work=_work)(fail).with_options(retry_delay_seconds=0)
    assert set(field.run(task).values()) == {"Failed"}
    assert field.worked_on().count("a.mef") == tries


def test_an_error_in_the_description_of_the_work_fails_the_unit(field):
    """Prefect by itself would log it, run the task, and never find its result again."""

    def undescribable(config: FieldConfig, exposure: Path) -> Work:
        raise ExposureError("no such table")

    states = field.states(stage_task("summarize", version=1, work=undescribable)(_summarize))
    assert {state.name for state in states.values()} == {"Failed"}
    assert "no such table" in states["a.mef"].message
    assert field.worked_on() == []


def test_an_exposure_that_vanishes_is_met_by_the_stage_itself(field):
    def late(config: FieldConfig, exposure: Path) -> Manifest:
        exposure.unlink()
        return _summarize(config, exposure)

    states = field.states(stage_task("summarize", version=1, work=_work)(late))
    errors = [state.result(raise_on_failure=False) for state in states.values()]
    assert {type(error.__cause__) for error in errors} == {FileNotFoundError}
    assert str(errors[0]).startswith("changed while it was being read: a.mef")
    assert field.worked_on() == ["a.mef", "b.mef", "c.mef"]


@pytest.mark.parametrize("change", ["more", "newer", "mask"])
def test_of_an_exposure_that_changes_meanwhile_nothing_is_made(field, change):
    def disturbed(config: FieldConfig, exposure: Path) -> Manifest:
        manifest = _summarize(config, exposure)
        if exposure.name == "b.mef":
            {
                "more": lambda: exposure.write_text("bb"),
                "newer": lambda: os.utime(exposure, ns=(0, 0)),
                "mask": lambda: exposure.with_suffix(".mask").touch(),
            }[change]()
        return manifest

    states = field.states(stage_task("summarize", version=1, work=_work)(disturbed))
    assert {name: state.name for name, state in states.items()} == {"a.mef": "Completed", "b.mef": "Failed", "c.mef": "Completed"}
    assert f"changed while it was being read: b.{'mask' if change == 'mask' else 'mef'};" in states["b.mef"].message
    assert not (field.root / "b.summary").exists()
    assert field.run() == {"a.mef": "Cached", "b.mef": "Completed", "c.mef": "Cached"}
    assert (field.root / "b.summary").read_text() == (field.root / "b.mef").read_text().upper()


def test_a_failure_holds_neither_images_nor_files(field):
    held: list[weakref.ref] = []

    def fail(config: FieldConfig, exposure: Path) -> Manifest:
        image, file = np.zeros(9), open(exposure)
        held.extend(map(weakref.ref, (image, file)))
        try:
            raise ValueError(image.sum())
        except ValueError as e:
            raise ExposureError(f"{exposure.name}: {file.read()}") from e

    states = field.states(stage_task("summarize", version=1, work=_work)(fail))
    assert states["a.mef"].is_failed()
    assert len(held) == 6
    assert [ref for ref in held if ref() is not None] == []


def test_a_stage_must_return_a_manifest(field):
    states = field.states(stage_task("summarize", version=1, work=_work)(lambda config, exposure: [exposure]))
    assert "expected a Manifest" in states["a.mef"].message


def test_values_that_are_not_plain_are_refused_at_once():
    with pytest.raises(ValidationError):
        Manifest.of(mode=np.float32(1.5))


def test_task_runs_have_names_that_a_person_can_read(done, prefect_server):
    state = done.states()["b.mef"]
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 60  # the server records a little later
        names: set[str] = set()
        while not names and time.monotonic() < deadline:
            names = {run.name for run in client.read_task_runs() if run.id == state.state_details.task_run_id}
            time.sleep(0.1)
    assert names == {"summarize b.mef"}


def test_two_runs_at_once_share_the_work(field):
    def slow(config: FieldConfig, exposure: Path) -> Manifest:
        time.sleep(0.3)
        return _summarize(config, exposure)

    task = stage_task("summarize", version=1, work=_work)(slow)
    field.calls.write_text("")
    results = []
    runs = [threading.Thread(target=lambda: results.append(reduce(field.config(), task))) for _ in "12"]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert field.worked_on() == ["a.mef", "b.mef", "c.mef"]
    assert sorted(state.name for states in results for state in states.values()) == ["Cached"] * 3 + ["Completed"] * 3


def test_a_killed_run_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from tasks.caching import UnitLocks\n"
            "locks = UnitLocks(Path(sys.argv[1])); locks.acquire_lock('summarize/a.mef/1-x', 'holder')\n"
            "print(flush=True); time.sleep(600)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
    )
    locks = UnitLocks(tmp_path)
    try:
        holder.stdout.readline()
        assert locks.is_locked("summarize/a.mef/1-x")
        assert not locks.acquire_lock("summarize/a.mef/1-other-options", "me", acquire_timeout=0.2)  # the same unit
        assert not locks.is_locked("summarize/b.mef/1-x")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert locks.acquire_lock("summarize/a.mef/1-x", "me", acquire_timeout=60)
    locks.release_lock("summarize/a.mef/1-x", "me")
    assert not locks.is_locked("summarize/a.mef/1-x")


def test_work_goes_on_where_the_file_system_has_no_locks(field, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (field.root / "b.mef").write_text("damaged")
    assert field.run() == {"a.mef": "Completed", "b.mef": "Failed", "c.mef": "Completed"}
    assert field.run() == {"a.mef": "Cached", "b.mef": "Failed", "c.mef": "Cached"}
