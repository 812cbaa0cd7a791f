"""A stage stands in one place: with one module and one name in the table it is run, remembered, foreseen and missed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kred_core import config as configuration
from kred_core import stages
from kred_core.config import BackgroundKind, FieldConfig
from kred_core.products import FieldPaths
from kred_core.simulate import simulate_field
from kred_core.stages.executor import UnitRunner
from kred_core.stages.outcome import Outcome
from kred_core.stages.stage import Cost, Plan, Planned, Stage
from kred_core.stages.work import Manifest, Step, Work


def names_file(config: FieldConfig) -> Path:
    return config.root / "names" / f"{config.field}.txt"


def toy() -> Stage:
    """A stage that writes down the names of the usable exposures."""

    def work(config: FieldConfig) -> Work:
        return Work(config.field, files=[FieldPaths.of(config).quality_table])

    def write(config: FieldConfig) -> Manifest:
        names_file(config).parent.mkdir(exist_ok=True)
        names_file(config).write_text("\n".join(r.root for r in stages.judged(config) if not r.refused))
        return Manifest.of([names_file(config)])

    step = Step("toy", 1, work, write)

    def run(run: UnitRunner) -> None:
        run.each(step, [(run.config.field, {})])

    def plan(plan: Plan) -> list[Planned]:
        to_do = int(not step.is_current(plan.config, {}))
        return [Planned("toy", "fields", 1, to_do, Cost(120.0 * to_do))]

    return Stage("toy", run=run, plan=plan, products=lambda config: [names_file(config)])


@pytest.fixture
def with_toy(monkeypatch) -> None:
    module = ModuleType("kred_core.stages.toy")
    module.STAGE = toy()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for room in (configuration, stages.plan):
        monkeypatch.setattr(room, "STAGES", ("check", "toy", *configuration.STAGES[1:]))


@pytest.fixture
def config(tmp_path) -> FieldConfig:
    root = tmp_path / "data"
    simulate_field(root, tiles=["T07"], binning=32, exposures=2, bands=["N662"], n_detectors=2)
    return FieldConfig(field="LMC_c42", tiles=["T07"], root=root, run={"until": "summarize"})


def counts(outcome: Outcome) -> list[tuple[str, int, int]]:
    return [(s.name, s.done, s.current) for s in outcome.stages]


@pytest.mark.usefixtures("with_toy")
def test_a_new_stage_is_one_module_and_one_name(config):
    (line,) = (line for line in stages.dry_run(config).splitlines() if line.startswith("toy"))
    assert line.split() == ["toy", "1", "field", "1", "2.0", "min", "-"]
    outcome = stages.reduce(config)
    assert outcome.complete
    assert counts(outcome) == [("check", 2, 0), ("toy", 1, 0), ("summarize", 2, 0)]
    assert len(names_file(config).read_text().split()) == 2
    assert counts(stages.reduce(config)) == [("check", 0, 2), ("toy", 0, 1), ("summarize", 0, 2)]
    names_file(config).unlink()
    assert stages.missing_products(config) == [names_file(config)]
    assert stages.reduce(config).complete
    assert stages.missing_products(config) == []


@pytest.mark.parametrize("spelling", ["elsewhere/../data", "link", "up/data"], ids=["dots", "link", "link on the way"])
def test_a_data_root_is_remembered_however_its_place_is_written(config, tmp_path, monkeypatch, spelling):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "up").symlink_to(".")
    monkeypatch.chdir(tmp_path)
    assert stages.reduce(config.model_copy(update={"root": Path(spelling)})).complete
    assert counts(stages.reduce(config)) == [("check", 0, 2), ("summarize", 0, 2)]


def test_a_data_root_that_was_moved_or_copied_with_its_times_is_not_reduced_again(config, tmp_path):
    (config.root / "images.txt").write_text("Image FILTER\nHalpha N662\n")

    def here(root: Path) -> FieldConfig:
        return FieldConfig(field="LMC_c42", tiles=["T07"], root=root, survey={"image_table": str(root / "images.txt")})

    assert stages.reduce(here(config.root)).complete
    config.root.rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "copied", symlinks=True)
    for name in ("moved", "copied"):
        lines = stages.dry_run(here(tmp_path / name)).splitlines()
        assert {line.split()[3] for line in lines[3:11]} == {"0"}
        outcome = stages.reduce(here(tmp_path / name))
        assert outcome.complete
        assert len(outcome.stages) == 8  # with the figures
        assert {s.done for s in outcome.stages} == {0}


def test_a_field_is_reduced_without_prefect(config):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import kred_core\n"
        "print(sorted(m for m in sys.modules if m.startswith('numpy')))\n"
        "outcome = kred_core.reduce(kred_core.FieldConfig(field='LMC_c42', tiles=['T07'], root=Path(sys.argv[1])))\n"
        "print(outcome.headline())\n"
        "print('prefect' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, config.root], capture_output=True, text=True)
    assert done.stdout.split("\n")[:3] == ["[]", "LMC_c42: complete (2 exposures: 2 good)", "False"], done.stderr
    assert FieldPaths.of(config).mosaic("T07", "N662", BackgroundKind.MATCHED).is_file()
