"""What a run may have of memory, and how it makes do with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kred_core import memory
from kred_core.config import CoaddConfig, FieldConfig, RunConfig
from kred_core.errors import InputError

GB = 1e9
PROJECT = Path(__file__).resolve().parents[2]


def config(coadd_memory: float = 1.0, **run) -> FieldConfig:
    return FieldConfig(field="LMC_c42", coadd=CoaddConfig(memory=coadd_memory), run=RunConfig(**run))


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GB."""
    return lambda size: monkeypatch.setattr(memory, "limit", lambda: (size * GB, "the memory of this machine"))


@pytest.mark.parametrize("runner", ["threads", "dask"])
@pytest.mark.parametrize(("size", "workers"), [(4, 1), (6, 4), (8, 8)])
def test_where_there_is_less_mosaics_share_what_there_is(machine, size, workers, runner):
    machine(size)
    wanted = config(4.0, runner=runner)
    got = memory.fitted(wanted, workers)
    assert memory.LEAST <= got.coadd.memory < 4.0
    assert memory.needed(workers, runner == "dask", got.coadd.memory) == pytest.approx(size * GB, rel=0.02)
    assert got.model_copy(update={"coadd": wanted.coadd}) == wanted
    assert f"each mosaic in the making gets {got.coadd.memory:g} GB and not 4" in memory.explain(wanted, got)
    machine(64)
    assert memory.fitted(wanted, workers) is wanted
    assert memory.explain(wanted, wanted) == ""


def test_where_not_even_the_least_fits_it_says_with_how_many_workers_it_would(machine):
    machine(2)
    with pytest.raises(InputError, match=r"8 tasks at once need 3\.5 GB of memory, and no more than 2\.0 GB .*; use --workers 3"):
        memory.fitted(config(), 8)
    assert memory.fitted(config(), 3).coadd.memory == pytest.approx(0.33)
    machine(0.5)
    with pytest.raises(InputError, match=r"of this machine\); it needs 1\.1 GB with one"):
        memory.fitted(config(), 1)
    machine(memory.needed(2, False, memory.LEAST) / GB)
    assert memory.fitted(config(), 2).coadd.memory == memory.LEAST == CoaddConfig.model_fields["memory"].metadata[0].ge


@pytest.mark.parametrize(("option", "size", "found"), [("-d", 3_000_000, 3.072e9), ("-v", 4_000_000, 4.096e9 - memory.RESERVED)])
def test_limits_of_the_shell_count(option, size, found):
    code = "from kred_core import memory; print(*memory.limit(), sep='\\n')"
    command = f'ulimit {option} {size} && exec {sys.executable} -c "$0"'
    said = subprocess.run(["sh", "-c", command, code], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert float(said[0]) == pytest.approx(min(found, memory.limit()[0]))
    assert said[1] == f"ulimit {option}"


def test_limits_of_a_control_group_count(monkeypatch, tmp_path):
    """That a real one does is shown in tests/faults/test_memory_limit.py, where one can be made."""
    files = [tmp_path / name for name in ("of the process", "around it", "without a limit", "gone")]
    for file, text in zip(files, ("2000000000\n", "1500000000\n", "max\n"), strict=False):
        file.write_text(text)
    monkeypatch.setattr(memory, "_control_group_files", lambda: iter(files))
    assert memory.limit() == (1.5e9, "the limit of its control group (a container, a batch system)")
