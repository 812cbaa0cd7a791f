"""The input is never written to, and nothing is made of input that changes meanwhile without a word."""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fields import FIELD, config, copy_of, made, mounted, temporaries, when
from tally import tried

from flows.field import reduce
from kred_core.config import STAGES
from kred_core.products import FieldPaths

pytestmark = pytest.mark.usefixtures("prefect_server")

QUICK = {"coadd": {"mosaics": "original"}, "run": {"only": [name for name in STAGES if name != "match"]}}
BY_SWARP = QUICK | {"coadd": {"mosaics": "original", "engine": "swarp"}}
needs_swarp = pytest.mark.skipif(not (shutil.which("SWarp") or shutil.which("swarp")), reason="SWarp is not installed")


# From linux/inotify.h.
EVENTS = {"modify": 0x2, "attrib": 0x4, "close_write": 0x8, "open": 0x20, "moved_from": 0x40, "moved_to": 0x80}
EVENTS |= {"create": 0x100, "delete": 0x200, "delete_self": 0x400, "move_self": 0x800}
CHANGES = sum(bit for name, bit in EVENTS.items() if name != "open")


class Watch:
    """The kernel's own record of what happens to the files in some directories (inotify).

    Parameters
    ----------
    directories : iterable of `~pathlib.Path`
    events : int
        Which of `EVENTS`.
    """

    HEAD = struct.Struct("iIII")

    def __init__(self, directories: Iterator[Path], events: int):
        kernel = ctypes.CDLL(None, use_errno=True)
        self._file = kernel.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._file >= 0, os.strerror(ctypes.get_errno())
        for directory in directories:
            assert kernel.inotify_add_watch(self._file, bytes(directory), events) >= 0, os.strerror(ctypes.get_errno())

    def seen(self, seconds: float = 0) -> list[tuple[str, str]]:
        """What has happened since somebody asked last, or will within some time: kind of event and name of the file."""
        if not select.select([self._file], [], [], seconds)[0]:
            return []
        raw, found = os.read(self._file, 1 << 20), []
        while raw:
            _, bits, _, length = self.HEAD.unpack_from(raw)
            name = raw[self.HEAD.size : self.HEAD.size + length].rstrip(b"\0").decode()
            found += [(kind, name) for kind, bit in EVENTS.items() if bits & bit]
            raw = raw[self.HEAD.size + length :]
        return found

    def close(self) -> None:
        os.close(self._file)


@contextmanager
def watching(root: Path, events: int = CHANGES) -> Iterator[Watch]:
    """Watch the input of a data root with all its directories."""
    top = root / "DECam_MEF"
    watch = Watch([top, *(p for p in top.rglob("*") if p.is_dir())], events)
    try:
        yield watch
    finally:
        watch.close()


@pytest.fixture(scope="module")
def undisturbed(simulated, tmp_path_factory) -> dict[str, bytes]:
    """What a quick run makes of `simulated`."""
    root = copy_of(simulated, tmp_path_factory.mktemp("undisturbed"))
    assert reduce(config(root, **QUICK)) == 0
    return made(root)


class TestNobodyWritesToIt:
    def test_in_any_stage(self, simulated, tmp_path):
        root = copy_of(simulated, tmp_path)
        with watching(root) as watch:
            assert reduce(config(root)) == 0
            assert watch.seen() == []
            with open(FieldPaths(root, FIELD).exposures()[0], "r+b"):  # without a byte written
                pass
            assert [kind for kind, _ in watch.seen()] == ["close_write"]
        tried("input watched during a run")

    @pytest.mark.long
    @needs_swarp
    def test_by_swarp(self, simulated, tmp_path):
        root = copy_of(simulated, tmp_path)
        with watching(root) as watch:
            assert reduce(config(root, **BY_SWARP)) == 0
            assert watch.seen() == []
        tried("input watched during a run")

    @pytest.mark.long
    def test_by_worker_processes(self, simulated, tmp_path):
        root = copy_of(simulated, tmp_path)
        with watching(root) as watch:
            assert reduce(config(root, run={"runner": "dask", "workers": 2})) == 0
            assert watch.seen() == []
        tried("input watched during a run")

    def test_so_it_may_be_read_only(self, simulated, undisturbed, tmp_path):
        with mounted(tmp_path / "DECam_MEF", "--bind", "-o", "ro", str(simulated / "DECam_MEF")) as top:
            with pytest.raises(OSError, match="Read-only"):
                (top / FIELD / "mef" / "x").touch()
            assert reduce(config(tmp_path, **QUICK)) == 0
            assert made(tmp_path) == undisturbed
        tried("read-only input")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def append(path: Path) -> None:
    with open(path, "ab") as f:
        f.write(bytes(2880))


def replace(path: Path) -> None:
    """Another version, under the same name at once."""
    other = path.with_name("..other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def vanish(path: Path) -> None:
    path.unlink()


@contextmanager
def disturbed(path: Path, change: Callable[[Path], None], after: str) -> Iterator[None]:
    """Change a file as soon as somebody opens it when a stage has ended."""
    watch = Watch([path.parent], EVENTS["open"])
    changed, given_up = threading.Event(), threading.Event()

    def lie_in_wait() -> None:
        watch.seen()
        while not given_up.is_set():
            if any(name == path.name for _, name in watch.seen(0.05)):
                change(path)
                changed.set()
                return

    thread = threading.Thread(target=lie_in_wait)
    try:
        with when(after, thread.start):
            yield
    finally:
        given_up.set()
        thread.join()
        watch.close()
    assert changed.is_set(), f"nobody opened {path}"


class TestItChangesMeanwhile:
    """Stage by stage: an exposure that is not what it was any more. The run says so, and the next one makes what is right."""

    def check(self, root, exposure, whole, undisturbed, words, change=cut, **options) -> None:
        assert re.search(rf"changed (while it was being read|since the stage check): {exposure.name}", words) or (
            change is vanish and f"gone since the run began: {exposure.name}" in words
        )
        assert temporaries(root) == []
        exposure.write_bytes(whole)
        assert reduce(config(root, **options)) == 0
        if options["coadd"].get("engine") != "swarp":
            assert made(root) == undisturbed

    @pytest.mark.parametrize(
        ("change", "after"),
        [
            (replace, "check"),
            pytest.param(append, "check", marks=pytest.mark.long),
            pytest.param(vanish, "check", marks=pytest.mark.long),
            pytest.param(cut, "tiles", marks=pytest.mark.long),
        ],
    )
    def test_between_two_stages(self, simulated, undisturbed, tmp_path, said, change, after):
        root = copy_of(simulated, tmp_path)
        exposure = FieldPaths(root, FIELD).exposures()[0]
        whole = exposure.read_bytes()
        with when(f"{after} ", lambda: change(exposure)):
            assert reduce(config(root, **QUICK)) == 1
        self.check(root, exposure, whole, undisturbed, said.text(), change, **QUICK)
        tried("exposure changed between two stages")

    @pytest.mark.parametrize(
        ("after", "options"),
        [
            ("tiles", QUICK),
            pytest.param("check", QUICK, marks=pytest.mark.long),
            pytest.param("kred", QUICK, marks=pytest.mark.long),
            pytest.param("summarize", QUICK, marks=pytest.mark.long),
            pytest.param("tiles", BY_SWARP, marks=[pytest.mark.long, needs_swarp]),
        ],
        ids=["coadd", "summarize", "check", "prepare", "swarp"],
    )
    def test_while_a_stage_reads_it(self, simulated, undisturbed, tmp_path, said, after, options):
        root = copy_of(simulated, tmp_path)
        exposure = FieldPaths(root, FIELD).exposures()[0]
        whole = exposure.read_bytes()
        with disturbed(exposure, cut, f"{after} "):
            assert reduce(config(root, **options)) == 1
        self.check(root, exposure, whole, undisturbed, said.text(), **options)
        tried("exposure changed while it was read")

    @pytest.mark.long
    def test_before_a_run_that_does_not_look_at_it_again(self, simulated, undisturbed, tmp_path, said):
        root = copy_of(simulated, tmp_path)
        assert reduce(config(root, **QUICK)) == 0
        replace(FieldPaths(root, FIELD).exposures()[0])
        said.text()
        assert reduce(config(root, coadd=QUICK["coadd"], run={"only": ["coadd"]})) == 1
        assert "changed since the stage check" in said.text()
        assert reduce(config(root, **QUICK)) == 0
        assert made(root) == undisturbed
        tried("exposure changed between two runs")
