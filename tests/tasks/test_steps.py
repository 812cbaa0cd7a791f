"""Steps as Prefect tasks: named, tried again, and remembered as without Prefect; all with real task runs on a real server."""

from __future__ import annotations

import errno
import weakref
from pathlib import Path

import numpy as np
import pytest
from prefect import flow
from prefect.states import State

from kred_core.config import FieldConfig
from kred_core.errors import ExposureError
from kred_core.stages.work import REFUSED, Manifest, Step, Work
from tasks import steps
from tasks.steps import once_task, step_task

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch):
    monkeypatch.setattr(steps, "RETRY_DELAYS", [0.0, 0.0])


held: list[weakref.ref] = []


def _copy(config: FieldConfig, exposure: Path) -> Manifest:
    """Copy a text in capitals; some texts mean trouble."""
    with open(config.root / "calls", "a") as calls:
        calls.write(f"{exposure.name}\n")
    match exposure.read_text():
        case "damaged":
            image, file = np.zeros(9), open(exposure)
            held.extend(map(weakref.ref, (image, file)))
            raise ExposureError(f"{exposure.name}: truncated")
        case "hiccup":
            if (config.root / "calls").read_text().count(exposure.name) < 3:
                raise OSError(errno.EIO, "Input/output error")
    product = exposure.with_suffix(".summary")
    product.write_text(exposure.read_text().upper())
    refused = {REFUSED: "unknown filter"} if exposure.read_text() == "odd" else {}
    return Manifest.of([product], **refused)


def _work(config: FieldConfig, exposure: Path) -> Work:
    return Work(exposure.name, files=[exposure])


@pytest.fixture
def config(tmp_path) -> FieldConfig:
    for name, text in {"a": "good", "b": "good", "c": "odd"}.items():
        (tmp_path / f"{name}.mef").write_text(text)
    return FieldConfig(field="LMC_c42", root=tmp_path)


def run(config: FieldConfig, step: Step | None = None) -> dict[str, State]:
    """Final states of the step's tasks by exposure."""
    task = step_task(step or Step("copy", 1, _work, _copy))  # a new step each time: tasks are made once for each

    @flow
    def copy() -> None:
        for path in sorted(config.root.glob("*.mef")):
            states[path.name] = task(unit=path.name, config=config, arguments={"exposure": path}, return_state=True)

    states: dict[str, State] = {}
    (config.root / "calls").write_text("")
    copy(return_state=True)
    return states


def names(states: dict[str, State]) -> dict[str, str]:
    return {name: state.name for name, state in states.items()}


def test_a_unit_is_done_once_and_then_cached_until_its_product_is_gone(config):
    states = run(config)
    assert names(states) == {"a.mef": "Completed", "b.mef": "Completed", "c.mef": "Refused"}
    assert states["c.mef"].message == "unknown filter"
    states = run(config)
    assert set(names(states).values()) == {"Cached"}
    assert states["a.mef"].result().paths == (config.root / "a.summary",)
    (config.root / "a.summary").unlink()
    assert names(run(config)) == {"a.mef": "Completed", "b.mef": "Cached", "c.mef": "Cached"}
    assert (config.root / "calls").read_text() == "a.mef\n"


def test_one_that_fails_stops_no_other_and_holds_neither_images_nor_files(config):
    (config.root / "b.mef").write_text("damaged")
    states = run(config)
    assert names(states) == {"a.mef": "Completed", "b.mef": "Failed", "c.mef": "Refused"}
    assert "b.mef: truncated" in states["b.mef"].message
    assert held
    assert [ref for ref in held if ref() is not None] == []
    assert (config.root / "calls").read_text().count("b.mef") == 1  # a damaged file does not get better by trying again


def test_what_can_pass_is_tried_again(config, caplog):
    (config.root / "b.mef").write_text("hiccup")
    assert names(run(config))["b.mef"] == "Completed"
    assert caplog.messages.count("copy b.mef: [Errno 5] Input/output error; trying again") == 2


def test_what_concerns_the_whole_field_is_tried_again_too(config):
    tries = []

    def check_field(config: FieldConfig) -> str:
        tries.append(config.field)
        if len(tries) < 3:
            raise OSError(errno.ESTALE, "Stale file handle")
        return config.field

    assert once_task(check_field)(config=config, arguments={}) == "LMC_c42"
    assert len(tries) == 3
