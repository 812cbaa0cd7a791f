"""The input is never written to, and nothing is made of input that changes meanwhile without a word."""

from __future__ import annotations

import ctypes
import os
import re
import select
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from fields import FIELD, NATIVE, SWARP, config, copy_of, made, mounted, needs_swarp, temporaries, when
from tally import tried

from flows.field import reduce
from kred_core.products import FieldPaths

pytestmark = pytest.mark.usefixtures("prefect_server")

# From linux/inotify.h.
EVENTS = {"modify": 0x2, "attrib": 0x4, "close_write": 0x8, "open": 0x20, "moved_from": 0x40, "moved_to": 0x80}
EVENTS |= {"create": 0x100, "delete": 0x200, "delete_self": 0x400, "move_self": 0x800}
CHANGES = sum(bit for name, bit in EVENTS.items() if name != "open")


class Watch:
    """The kernel's own record of what happens to the files in some directories (inotify): which of `EVENTS`."""

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


@pytest.fixture(scope="module")
def undisturbed(simulated, tmp_path_factory) -> dict[str, bytes]:
    """What a quick run makes of `simulated`."""
    root = copy_of(simulated, tmp_path_factory.mktemp("undisturbed"))
    assert reduce(config(root, **NATIVE)) == 0
    return made(root)


class TestNobodyWritesToIt:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            pytest.param(SWARP, marks=[pytest.mark.long, needs_swarp]),
            pytest.param({"run": {"runner": "dask", "workers": 2}}, marks=pytest.mark.long),
        ],
        ids=["in any stage", "by SWarp", "by worker processes"],
    )
    def test_during_a_run(self, simulated, tmp_path, options):
        root = copy_of(simulated, tmp_path)
        top = root / "DECam_MEF"
        with closing(Watch([top, *(p for p in top.rglob("*") if p.is_dir())], CHANGES)) as watch:
            assert reduce(config(root, **options)) == 0
            assert watch.seen() == []
            with open(FieldPaths(root, FIELD).exposures()[0], "r+b"):  # without a byte written
                pass
            assert [kind for kind, _ in watch.seen()] == ["close_write"]
        tried("input watched during a run")

    def test_so_it_may_be_read_only(self, simulated, undisturbed, tmp_path):
        with mounted(tmp_path / "DECam_MEF", "--bind", "-o", "ro", str(simulated / "DECam_MEF")) as top:
            with pytest.raises(OSError, match="Read-only"):
                (top / FIELD / "mef" / "x").touch()
            assert reduce(config(tmp_path, **NATIVE)) == 0
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


@contextmanager
def disturbed(path: Path, change: Callable[[Path], None], after: str) -> Iterator[None]:
    """Change a file as soon as somebody opens it when a stage has ended."""
    changed, given_up = threading.Event(), threading.Event()

    def lie_in_wait() -> None:
        watch.seen()
        while not given_up.is_set():
            if any(name == path.name for _, name in watch.seen(0.05)):
                change(path)
                changed.set()
                return

    thread = threading.Thread(target=lie_in_wait)
    with closing(Watch([path.parent], EVENTS["open"])) as watch:
        try:
            with when(after, thread.start):
                yield
        finally:
            given_up.set()
            thread.join()
    assert changed.is_set(), f"nobody opened {path}"


class TestItChangesMeanwhile:
    """Stage by stage: an exposure that is not what it was any more. The run says so, and the next one makes what is right."""

    @pytest.fixture
    def tried_with(self, simulated, undisturbed, tmp_path, said):
        """Reduce a field whose first exposure changes meanwhile, and again when it is what it was."""

        def go(disturb, words, options):
            root = copy_of(simulated, tmp_path)
            exposure = FieldPaths(root, FIELD).exposures()[0]
            whole = exposure.read_bytes()
            with disturb(exposure):
                assert reduce(config(root, **options)) == 1
            assert re.search(rf"{words}: {exposure.name}", said.text())
            assert temporaries(root) == []
            exposure.write_bytes(whole)
            assert reduce(config(root, **options)) == 0
            if options is not SWARP:
                assert made(root) == undisturbed

        return go

    @pytest.mark.parametrize(
        ("change", "after"),
        [
            (replace, "check"),
            pytest.param(append, "check", marks=pytest.mark.long),
            pytest.param(Path.unlink, "check", marks=pytest.mark.long),
            pytest.param(cut, "tiles", marks=pytest.mark.long),
        ],
    )
    def test_between_two_stages(self, tried_with, change, after):
        words = "(changed|gone) since the (stage check|run began)"
        tried_with(lambda exposure: when(f"{after} ", lambda: change(exposure)), words, NATIVE)
        tried("exposure changed between two stages")

    @pytest.mark.parametrize(
        ("after", "options"),
        [
            ("tiles", NATIVE),
            pytest.param("check", NATIVE, marks=pytest.mark.long),
            pytest.param("kred", NATIVE, marks=pytest.mark.long),
            pytest.param("summarize", NATIVE, marks=pytest.mark.long),
            pytest.param("tiles", SWARP, marks=[pytest.mark.long, needs_swarp]),
        ],
        ids=["coadd", "summarize", "check", "prepare", "swarp"],
    )
    def test_while_a_stage_reads_it(self, tried_with, after, options):
        words = "changed (while it was being read|since the stage check)"
        tried_with(lambda exposure: disturbed(exposure, cut, f"{after} "), words, options)
        tried("exposure changed while it was read")

    @pytest.mark.long
    def test_before_a_run_that_does_not_look_at_it_again(self, simulated, undisturbed, tmp_path, said):
        root = copy_of(simulated, tmp_path)
        assert reduce(config(root, **NATIVE)) == 0
        replace(FieldPaths(root, FIELD).exposures()[0])
        said.text()
        assert reduce(config(root, coadd=NATIVE["coadd"], run={"only": ["coadd"]})) == 1
        assert "changed since the stage check" in said.text()
        assert reduce(config(root, **NATIVE)) == 0
        assert made(root) == undisturbed
        tried("exposure changed between two runs")
