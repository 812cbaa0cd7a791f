"""What is done again, what is not, and what happens to a unit that fails: steps as a run without Prefect does them."""

from __future__ import annotations

import errno
import gc
import json
import os
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from kred_core.config import CoaddConfig, FieldConfig, RunConfig, SummarizeConfig
from kred_core.errors import ExposureError
from kred_core.stages import executor
from kred_core.stages.executor import Ended, Threads
from kred_core.stages.work import Manifest, Step, Work, read_manifest


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch):
    monkeypatch.setattr(executor, "RETRY_DELAYS", (0.0, 0.0))


def _work(config: FieldConfig, exposure: Path) -> Work:
    mask = exposure.with_suffix(".mask")
    return Work(exposure.name, files=[exposure, mask], options=[config.summarize])


def _summarize(config: FieldConfig, exposure: Path) -> Manifest:
    with open(config.root / "calls", "a") as calls:
        calls.write(f"{exposure.name}\n")
    text = exposure.read_text()
    if text == "damaged":
        raise ExposureError(f"{exposure.name}: truncated")
    product = exposure.with_suffix(".summary")
    product.write_text(text.upper())
    return Manifest.of([product], mode=1.5)


def step(function: Callable[..., Manifest] = _summarize, work: Callable[..., Work] = _work, version: int = 1) -> Step:
    return Step("summarize", version, work, function)


SUMMARIZE = step()


def word(how: Ended) -> str:
    return "failed" if how.error is not None else "current" if how.current else "done"


class Field:
    """A field of tiny exposures, and what runs of it did."""

    def __init__(self, root: Path):
        self.root = root
        self.calls = root / "calls"

    def config(self, **sections) -> FieldConfig:
        return FieldConfig(field="LMC_c42", root=self.root, **sections)

    def run(self, step: Step = SUMMARIZE, **sections) -> dict[str, str]:
        """How the units ended."""
        self.calls.write_text("")
        return {name: word(how) for name, how in self.ends(step, **sections).items()}

    def ends(self, step: Step = SUMMARIZE, **sections) -> dict[str, Ended]:
        """Do the step for each exposure, two at a time; how each ended by name."""
        config = self.config(**{"run": RunConfig(workers=2)} | sections)
        with Threads(config) as threads:
            exposures = sorted(self.root.glob("*.mef"))
            units = {threads.submit(step, path.name, config, {"exposure": path}): path.name for path in exposures}
            return {units[future]: how for future, how in threads.ended(units)}

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
    assert set(field.run().values()) == {"done"}
    return field


def test_a_second_run_does_nothing_and_knows_what_the_first_one_found(done):
    done.calls.write_text("")
    ends = done.ends()
    assert set(map(word, ends.values())) == {"current"}
    assert done.worked_on() == []
    assert ends["a.mef"].manifest == Manifest.of([done.root / "a.summary"], mode=1.5)


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
    current = {name: SUMMARIZE.is_current(done.config(), {"exposure": done.root / f"{name}.mef"}) for name in "abc"}
    assert current == {"a": True, "b": False, "c": True}  # which the dry run asks
    assert done.run() == {"a.mef": "current", "b.mef": "done", "c.mef": "current"}
    assert done.worked_on() == ["b.mef"]
    assert (done.root / "b.summary").read_text() == (done.root / "b.mef").read_text().upper()


def test_only_the_options_of_the_step_itself_count_and_its_version(done):
    assert set(done.run(coadd=CoaddConfig(combine="clipped"), run=RunConfig(workers=1)).values()) == {"current"}
    for sigma in (2.5, 3.5):
        assert set(done.run(summarize=SummarizeConfig(clip_sigma=sigma)).values()) == {"done"}
    assert set(done.run(step(version=2)).values()) == {"done"}
    assert len(done.records()) == 3  # one for each unit
    redo = RunConfig(redo=True)
    assert not SUMMARIZE.is_current(done.config(run=redo), {"exposure": done.root / "a.mef"})
    assert set(done.run(step(version=2), run=redo).values()) == {"done"}
    for path in done.records():
        assert json.loads(path.read_text())["values"] == {"mode": 1.5}


def test_what_is_no_record_is_none_and_executes_nothing(tmp_path):
    record, mark = tmp_path / "record", tmp_path / "executed"
    trap = b"cos\nmkdir\n(S'" + bytes(mark) + b"'\ntR."  # a pickle that makes a directory
    for content in (b"", b"null", b"[]", b'{"products": 3}', b"\xff\x00", b"[" * 100_000, trap):
        record.write_bytes(content)
        assert read_manifest(record, tmp_path) is None
    assert not mark.exists()


@pytest.mark.parametrize("spoil", ["link", "half"])
def test_a_record_that_is_a_link_or_half_written_is_replaced(done, spoil):
    precious = done.root / "precious"
    precious.write_text("mine")
    path = next(p for p in done.records() if "b.mef" in str(p))
    content = path.read_bytes()
    path.unlink()
    if spoil == "link":
        path.symlink_to(precious)
    else:
        path.write_bytes(content[: len(content) // 2])
    assert done.run() == {"a.mef": "current", "b.mef": "done", "c.mef": "current"}
    assert precious.read_text() == "mine"
    assert not path.is_symlink()
    assert set(done.run().values()) == {"current"}


def test_figures_leave_no_garbage():
    gc.disable()
    try:
        figure = Figure()
        figure.add_subplot()
        drawn = weakref.ref(figure)
        del figure
        assert Manifest.of([]) == Manifest()
        assert drawn() is not None  # it refers to itself
        assert Manifest.of_figures([]) == Manifest()
        assert drawn() is None
    finally:
        gc.enable()


def test_an_exposure_that_fails_stops_no_other_and_is_not_remembered(field):
    (field.root / "b.mef").write_text("damaged")
    assert field.run() == {"a.mef": "done", "b.mef": "failed", "c.mef": "done"}
    assert field.worked_on() == ["a.mef", "b.mef", "c.mef"]  # once: a damaged file does not get better by trying again
    (field.root / "b.mef").write_text("repaired")
    assert field.run() == {"a.mef": "current", "b.mef": "done", "c.mef": "current"}


@pytest.mark.parametrize(("number", "tries"), [(errno.ESTALE, 3), (errno.EIO, 2), (errno.ENOSPC, 1), (errno.ENOENT, 1)])
def test_only_what_can_pass_is_tried_again(field, caplog, number, tries):
    def fail(config: FieldConfig, exposure: Path) -> Manifest:
        with open(config.root / "calls", "a") as calls:
            calls.write(f"{exposure.name}\n")
        if number == errno.EIO and field.worked_on().count(exposure.name) == 2:
            return Manifest()  # a hiccup
        try:
            raise OSError(number, os.strerror(number))
        except OSError as e:
            raise ExposureError(f"{exposure.name}: {e.strerror}") from e

    assert set(field.run(step(fail)).values()) == {"done" if number == errno.EIO else "failed"}
    assert field.worked_on().count("a.mef") == tries
    assert tries == 1 or f"summarize: [Errno {number}] {os.strerror(number)}; trying again" in caplog.messages


def test_two_runs_at_once_share_the_work(field):
    def slow(config: FieldConfig, exposure: Path) -> Manifest:
        time.sleep(0.3)
        return _summarize(config, exposure)

    with ThreadPoolExecutor(2) as runs:
        results = list(runs.map(lambda _: field.ends(step(slow)), range(2)))
    assert field.worked_on() == ["a.mef", "b.mef", "c.mef"]
    assert sorted(word(how) for ends in results for how in ends.values()) == ["current"] * 3 + ["done"] * 3
