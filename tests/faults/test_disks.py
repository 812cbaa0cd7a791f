"""Disks that are full, closed or in disorder: each is said in words, nothing is damaged, and the same command goes on later."""

from __future__ import annotations

import functools
import os
import re
import resource
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from fields import FIELD, NATIVE, SWARP, config, copy_of, made, mounted, needs_swarp, temporaries, when
from tally import tried

from flows.field import reduce
from kred_core.products import FieldPaths, tables
from kred_core.stages.outcome import disk_usage

pytestmark = pytest.mark.usefixtures("prefect_server")

STATE = (f"Summary/{FIELD}_input.tab", f"Summary/{FIELD}_mosaics.tab")  # which tell how far a run has come
UNTIL_TILES = {"run": {"until": "tiles"}}
NOBODY = 65534
HOST = socket.gethostname()


@pytest.fixture(scope="module")
def reduced(simulated, tmp_path_factory) -> Path:
    """A complete data root; the tests that use it leave it complete."""
    root = copy_of(simulated, tmp_path_factory.mktemp("reduced"))
    assert reduce(config(root)) == 0
    return root


@pytest.fixture(scope="module")
def undisturbed(reduced) -> dict[str, bytes]:
    return made(reduced)


@pytest.fixture
def disk(tmp_path, simulated) -> Iterator[Path]:
    """A data root on a disk of its own of 70 MB; the exposures are elsewhere."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=70m", "tmpfs") as root:
        (root / "DECam_MEF").symlink_to(simulated / "DECam_MEF")
        yield root


def fill(root: Path, leave: int = 0) -> None:
    """Another program fills the disk."""
    with open(root / "others", "wb") as f:
        free = os.statvfs(root)
        os.posix_fallocate(f.fileno(), 0, max(1, free.f_bavail * free.f_frsize - leave))


def assert_nothing_is_damaged(root: Path, undisturbed: dict[str, bytes]) -> None:
    found = made(root)
    assert temporaries(root) == []
    assert found.keys() <= undisturbed.keys()
    for name in (name for name in found if found[name] != undisturbed[name]):
        assert name in STATE
        tables.read(root / name, (), "check")


class TestFull:
    def test_a_run_that_will_not_fit_says_so_before_it_writes_anything_large(self, disk, undisturbed, said):
        fill(disk, leave=30_000_000)
        assert reduce(config(disk)) == 1
        number = r"\d[\d.]* [kMG]?B"
        words = said.text()
        assert re.search(rf"the products do not fit: {number} and room to work in are needed on the disk of \S+, {number} ", words)
        assert re.search(rf"are free \(summarize {number}, prepare {number}, match {number}, coadd {number}\)\. Make room", words)
        assert sum(disk_usage(FieldPaths(disk, FIELD).directories).values()) < 50_000
        (disk / "others").unlink()
        assert reduce(config(disk)) == 0
        assert made(disk) == undisturbed
        tried("disk too small for the run")

    @pytest.mark.parametrize(
        "moment",
        ["match", *(pytest.param(name, marks=pytest.mark.long) for name in ("summarize", "coadd", "evaluate"))],
    )
    def test_a_disk_that_fills_up_meanwhile_damages_nothing(self, disk, undisturbed, said, moment):
        with when(f"{moment} ", lambda: fill(disk)):
            assert reduce(config(disk)) == 1
        assert "the disk is full" in said.text()
        assert_nothing_is_damaged(disk, undisturbed)
        (disk / "others").unlink()
        assert sum(disk_usage({"": disk}).values()) < 1.1 * sum(map(len, undisturbed.values())) + 200_000  # nothing else stays
        assert reduce(config(disk)) == 0
        assert made(disk) == undisturbed
        tried("disk full in the middle of a run")

    @pytest.mark.long
    @needs_swarp
    def test_swarp_on_a_full_disk(self, disk, said):
        last = config(disk, **SWARP | {"run": {"only": ["tiles", "coadd"]}})
        assert reduce(config(disk, run={"only": ["check", "summarize", "tiles"]})) == 0
        for leave in (0, 170_000, 400_000):
            with when("tiles ", functools.partial(fill, disk, leave)):
                assert reduce(last) == 1
            assert re.search("the disk is full|SWarp failed", said.text())
            assert temporaries(disk) == []
            assert not [path for path in disk.rglob("T07/*") if path.suffix == ".fits"]
            (disk / "others").unlink()
        assert reduce(last) == 0
        tried("disk full while SWarp works", 3)

    @pytest.mark.long
    def test_a_disk_that_holds_no_more_files(self, tmp_path, simulated, said):
        with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=70m,nr_inodes=60", "tmpfs") as root:
            (root / "DECam_MEF").symlink_to(simulated / "DECam_MEF")
            assert reduce(config(root, **NATIVE)) == 1
            assert "the disk is full, or holds no more files" in said.text()
            assert temporaries(root) == []
            subprocess.run(["mount", "-o", "remount,nr_inodes=6000", str(root)], check=True)
            assert reduce(config(root, **NATIVE)) == 0
        tried("no more files on the disk")

    @pytest.mark.long
    def test_files_that_may_not_become_large(self, tmp_path, simulated, said):
        root = copy_of(simulated, tmp_path)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            assert reduce(config(root, **NATIVE)) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert f"{FIELD}_T07.r.fits: files may not become that large here" in said.text()
        assert temporaries(root) == []
        assert reduce(config(root, **NATIVE)) == 0
        tried("limit of the size of a file")


class TestClosed:
    def test_a_data_root_that_cannot_be_written_to(self, reduced, undisturbed, said, tmp_path):
        with mounted(tmp_path / "closed", "--bind", "-o", "ro", str(reduced)) as root:
            assert reduce(config(root)) == 1
        assert f"the data root {root} cannot be written to" in said.text()
        assert made(reduced) == undisturbed
        tried("read-only data root")

    @pytest.mark.long
    def test_a_directory_that_becomes_read_only_meanwhile(self, simulated, said, tmp_path):
        root = copy_of(simulated, tmp_path)
        products = FieldPaths(root, FIELD).coadds("T07")
        products.mkdir(parents=True)
        with ExitStack() as stack:
            with when("tiles ", lambda: stack.enter_context(mounted(products, "--bind", "-o", "ro", str(products)))):
                assert reduce(config(root, **NATIVE)) == 1
        assert f"{products}/{FIELD}_T07.r.coverage.fits.fz: the file system cannot be written to" in said.text()
        assert temporaries(root) == []
        assert reduce(config(root, **NATIVE)) == 0
        tried("disk that becomes read-only")

    @pytest.mark.parametrize("n", [2, pytest.param(None, marks=pytest.mark.long)], ids=["some", "all"])
    def test_what_belongs_to_somebody_else(self, open_to_all, said, n):
        for name, words in CLOSED[:n]:
            place = open_to_all / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch() if place.suffix in (".lock", ".log") else place.mkdir(exist_ok=True)
            for directory in (d for d in place.parents if d.is_relative_to(open_to_all)):
                directory.chmod(0o777)
            os.chown(place, 0, 0)
            place.chmod(0o755)
            with somebody_else():
                assert reduce(config(open_to_all, **UNTIL_TILES)) == 1, name
            assert words.format(place) in said.text(), name
            place.chmod(0o777)
        with somebody_else():
            assert reduce(config(open_to_all, **UNTIL_TILES)) == 0
        tried("no permission", len(CLOSED[:n]))

    @pytest.mark.parametrize("n", [1, pytest.param(None, marks=pytest.mark.long)], ids=["an exposure", "all"])
    def test_input_that_may_not_be_read_is_not_remembered_as_bad(self, open_to_all, said, n):
        for name, words in UNREADABLE[:n]:
            place = sorted((open_to_all / "DECam_MEF" / FIELD).glob(name))[0]
            mode = place.stat().st_mode
            os.utime(place)  # another version: it has to be read
            place.chmod(0)
            with somebody_else():
                assert reduce(config(open_to_all, **UNTIL_TILES)) == 1, name
            assert re.search(rf"{re.escape(words.format(place))}.*: Permission denied", said.text()), name
            place.chmod(mode)  # and nothing else changes
            with somebody_else():
                assert reduce(config(open_to_all, **UNTIL_TILES)) == 0, name
        tried("no permission to read the input", len(UNREADABLE[:n]))


CLOSED = [  # in the order in which a run comes to write there
    (".kred/LMC_c42", "no permission"),
    ("Summary", "{}/LMC_c42_mef_qual.tab: no permission"),
    ("Log/LMC_c42.log", "{}: no permission"),
    (".kred/_service/LMC_c42.run.lock", "{}: no permission"),
    ("DECam_PREP/LMC_c42/data", "_r_v1_S10.fits.fz: no permission"),
    ("DECam_SWARP/LMC_c42", "{}/kred.toml: no permission"),
    ("", "the data root {} cannot be written to"),
]
UNREADABLE = [
    ("mef/*_ooi_*", "check {0.name} failed"),
    ("mef/*_ood_*", "{0.name}: cannot be read"),
    ("mef", "field LMC_c42: {0} cannot be read"),
]


@pytest.fixture
def open_to_all(simulated) -> Iterator[Path]:
    """A data root where everybody may write."""
    with tempfile.TemporaryDirectory(prefix="kred-open-") as directory:  # below tmp_path nobody else may look
        Path(directory).chmod(0o777)
        yield copy_of(simulated, Path(directory))


@contextmanager
def somebody_else() -> Iterator[None]:
    """Be a person without rights for a while: the superuser may do everything."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    groups, group = os.getgroups(), os.getgid()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, group)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(group, group, group)
        os.setgroups(groups)


PREP, MOSAICS, KRED = f"DECam_PREP/{FIELD}", f"DECam_SWARP/{FIELD}", f".kred/{FIELD}"
FILES = [  # in the place of a directory
    "Summary", "DECam_PREP", "DECam_BACK", "DECam_SWARP", "Log", ".kred", f"{PREP}/data", f"{PREP}/T07", f"{PREP}/T07_b", MOSAICS,
    f"{MOSAICS}/T07_b", f"{KRED}/results",
]  # fmt: skip
DIRECTORIES = [  # in the place of a file
    f"Log/{FIELD}.log", f".kred/_service/{FIELD}.run.lock", f".kred/_service/heavy.{HOST}.1.lock", f"Summary/{FIELD}_mef_qual.tab",
    f"Summary/{FIELD}_T07.tab", f"Summary/{FIELD}_backgrounds.tab", f"Summary/{FIELD}_input.tab", f"{MOSAICS}/kred.toml",
    f"{MOSAICS}/index.html", "DECam_SWARP/index.html", f"{MOSAICS}/T07_b/{FIELD}_T07.r.fits", f"{PREP}/data/{{}}_S10.fits.fz",
    f"{KRED}/check/{{}}.fits.fz.json", f"{KRED}/run/last.json", f"{KRED}/results/summarize/{{}}/lock",
]  # fmt: skip
SHORT = ["Log", f"{PREP}/data", f"Summary/{FIELD}_det.tab", f".kred/_service/{FIELD}.run.lock"]


class TestInTheWay:
    """Of a complete data root: what is moved away has to be found again when the obstacle is gone."""

    @pytest.mark.parametrize("places", [SHORT, pytest.param(FILES + DIRECTORIES, marks=pytest.mark.long)], ids=["some", "all"])
    def test_a_file_where_a_directory_should_be_or_the_other_way_round(self, reduced, undisturbed, said, places):
        for name in places:
            place = reduced / name.format("c4d_210406_010450_ooi_r_v1")
            is_directory = place.is_dir()
            with something_else(place):
                assert reduce(config(reduced)) == 1, place
                words = "(is a file, and a directory|a directory on the way)" if is_directory else "is a directory, and a file"
                assert re.search(rf"{re.escape(str(place))}\S*: {words}", said.text()), place
        assert reduce(config(reduced)) == 0  # the same command, when what was in the way is gone
        assert made(reduced) == undisturbed
        tried("a file in the place of a directory, or a directory in that of a file", len(places))


class TestClocks:
    def test_times_to_come_and_times_gone_by_are_times_like_others(self, simulated, tmp_path, said):
        root = copy_of(simulated, tmp_path)
        in_2100, in_1990 = 4_102_444_800, 631_152_000
        assert reduce(config(root, **UNTIL_TILES)) == 0
        before = made(root)
        for seconds in (in_2100, in_1990):  # a newer version, and then again an older one
            os.utime(FieldPaths(root, FIELD).exposures()[0], (seconds, seconds))
            said.text()
            assert reduce(config(root, **UNTIL_TILES)) == 0
            assert re.search("check +1 done, 1 up to date", said.text())
        for path in (p for top in ("Summary", "DECam_PREP", ".kred") for p in (root / top).rglob("*") if p.is_file()):
            os.utime(path, (in_2100, in_2100))  # whatever that means, it must not be done for ever
        assert reduce(config(root, **UNTIL_TILES)) == 0
        said.text()
        assert reduce(config(root, **UNTIL_TILES)) == 0
        assert " done" not in said.text()
        assert made(root) == before
        tried("clock that was wrong", 3)


@contextmanager
def something_else(place: Path) -> Iterator[None]:
    """Put a file in the place of a directory for a while, and a directory in the place of a file."""
    aside = place.with_name(".aside")
    place.rename(aside)
    place.touch() if aside.is_dir() else place.mkdir()
    try:
        yield
    finally:
        place.unlink() if place.is_file() else place.rmdir()
        aside.rename(place)
