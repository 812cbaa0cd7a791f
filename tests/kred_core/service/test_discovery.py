"""A field is found when it is complete, and each content of it is reduced once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kred_core.config import DiscoverConfig
from kred_core.errors import InputError
from kred_core.products import FieldPaths
from kred_core.service import clock, examine, fields, reduce_once
from kred_core.simulate import simulate_field

CONFIG = DiscoverConfig(settle=5, patience=60, tries=3)
MINUTE = 60.0


@pytest.fixture(scope="module")
def arrived(tmp_path_factory) -> Path:
    """Three small exposures, with masks, on their way to a field."""
    root = tmp_path_factory.mktemp("arrived")
    simulate_field(root, field="LMC_c42", tiles=["T07"], binning=32, exposures=3, bands=["r"], n_detectors=1)
    return FieldPaths(root, "LMC_c42").mef


def a_file(directory: Path, kind: str = "_ooi_") -> Path:
    return next(path for path in directory.iterdir() if kind in path.name)


class Looks:
    """Looks at one field, minutes apart."""

    def __init__(self, paths: FieldPaths):
        self.paths = paths
        self.paths.mef.mkdir(parents=True)
        self.minutes = 0.0

    def after(self, minutes: float, config: DiscoverConfig = CONFIG):
        """What is found when so many more minutes have passed."""
        self.minutes += minutes
        return examine(self.paths, config, clock(self.paths.state) + self.minutes * MINUTE)

    def copy_all(self, arrived: Path) -> None:
        for path in arrived.iterdir():
            self.copy(path)

    def copy(self, source: Path, n_bytes: int | None = None) -> Path:
        """Copy a file as `cp -p` and rsync do: with its old time, and perhaps not to its end."""
        target = self.paths.mef / source.name
        target.write_bytes(source.read_bytes()[:n_bytes])
        os.utime(target, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns - 10**15))
        return target


@pytest.fixture
def look(tmp_path) -> Looks:
    return Looks(FieldPaths(tmp_path, "LMC_c42"))


@pytest.fixture
def complete(look, arrived):
    """A complete field that has been looked at once, and what the second look finds."""
    look.copy_all(arrived)
    look.after(0)
    return look.after(10)


class TestComplete:
    def test_nothing_or_a_mask_alone_is_no_field(self, look, arrived):
        found = look.after(10)
        assert found.state == "no exposures"
        assert "no *.fits.fz exposure" in found.reason
        look.copy(a_file(arrived, "_ood_"))
        look.after(10)
        assert look.after(10).state == "no exposures"

    def test_a_field_is_complete_when_nothing_has_changed_for_a_while_and_says_when_to_look_again(self, look, arrived):
        look.copy_all(arrived)
        (look.paths.mef / "notes.txt").symlink_to("/nowhere")
        for minutes, state, waits in ((0, "changing", 5), (3, "changing", 2), (1.9, "changing", 0.1), (0.2, "complete", 0)):
            found = look.after(minutes)
            assert (found.state, found.waits) == (state, pytest.approx(waits, abs=0.1))
        assert found.reason == "3 exposures"
        os.utime(a_file(look.paths.mef))
        assert look.after(0).reason.startswith("changed less than 5 min ago")
        look.after(-1e6)  # the clock was two years ahead when the files came and when they were seen, and is put right
        assert look.after(4).state == "changing"
        assert look.after(2).state == "complete"

    def test_a_copy_in_progress_under_a_hidden_name_counts(self, look, arrived):
        first = look.copy(a_file(arrived))
        look.after(0)
        hidden = first.with_name(f".{first.name}.Ab12Cd")  # rsync
        for size in (10, 20):
            hidden.write_bytes(bytes(size))
            assert look.after(6).state == "changing"
        assert look.after(6).state == "complete"

    def test_a_link_to_where_the_data_are_is_fine(self, look, arrived):
        look.paths.mef.rmdir()
        look.paths.mef.symlink_to(arrived)
        look.after(0)
        assert look.after(6).state == "complete"


class TestDamaged:
    def test_files_are_waited_for_and_named_but_not_for_ever(self, look, arrived):
        for path in arrived.iterdir():
            look.copy(path, None if "_ood_" in path.name else path.stat().st_size - 6000)
        look.after(0)
        found = look.after(6)
        assert found.state == "damaged"
        assert found.reason.count("the file is truncated") == 3
        assert "Waits 60 min for another copy" in found.reason
        assert found.waits == pytest.approx(54, abs=0.1)
        assert look.after(53).state == "damaged"
        found = look.after(2)
        assert found.state == "complete"
        assert "not all of them whole" in found.reason


class TestContent:
    def test_is_the_same_until_an_exposure_or_a_mask_changes(self, look, complete, arrived):
        weight = look.paths.mef / "c4d_220110_010101_oow_r_v1.fits.fz"
        weight.write_bytes(b"not read")
        (look.paths.mef / "README").write_text("copied by hand")
        look.after(0)
        assert look.after(6).fingerprint == complete.fingerprint
        for kind in ("_ooi_", "_ood_"):
            os.utime(a_file(look.paths.mef, kind))
            look.after(0)
            assert look.after(6).fingerprint != complete.fingerprint

    def test_is_told_from_all_others_by_its_key_also_when_it_comes_back_and_whoever_looks(self, look, complete):
        file = a_file(look.paths.mef)
        elsewhere = look.paths.root / file.name
        file.rename(elsewhere)
        look.after(0)
        without = look.after(6)
        elsewhere.rename(file)
        look.after(0)
        again = look.after(6)
        assert again.fingerprint == complete.fingerprint
        assert len({complete.key(1), without.key(1), again.key(1), again.key(2)}) == 4
        shutil.rmtree(look.paths.state)  # another who looks has no memory
        look.after(0)
        assert look.after(6).key(1) == again.key(1)
        look.paths.record("discover", "memory").write_text("{")  # a damaged one is none
        assert [look.after(minutes).state for minutes in (0, 6)] == ["changing", "complete"]


class Runs:
    """Stands for the runs of a server: started by key, ended by the test."""

    def __init__(self):
        self.states: dict[str, str] = {}

    def start(self, attempt: int) -> str:
        self.states.setdefault(f"run {len(self.states) + 1}, try {attempt}", "running")
        return list(self.states)[-1]

    def end(self, state: str) -> None:
        self.states[list(self.states)[-1]] = state


class TestReducedOnce:
    @pytest.fixture
    def runs(self) -> Runs:
        return Runs()

    @pytest.fixture
    def pursue(self, look, runs):
        """One look at a complete field, and what is done about it."""
        return lambda found: reduce_once(look.paths, found, CONFIG.tries, runs.states.__getitem__, runs.start)

    def test_started_running_done(self, complete, runs, pursue):
        assert pursue(complete).state == "started"
        assert pursue(complete).state == "running"
        runs.end("done")
        for _ in range(2):
            assert pursue(complete).state == "done"
        assert len(runs.states) == 1

    @pytest.mark.parametrize("end", ["done", "failed", "running"])
    def test_another_content_is_started_whatever_became_of_the_first(self, look, complete, runs, pursue, end):
        for _ in range(CONFIG.tries):
            pursue(complete)
            runs.end(end)
        pursue(complete)
        n_before = len(runs.states)
        os.utime(a_file(look.paths.mef))
        look.after(0)
        found = pursue(look.after(6))
        assert found.state == "started"
        assert len(runs.states) == n_before + 1
        assert found.run.endswith("try 1")


class TestFields:
    def test_are_the_directories_with_a_mef_in_them_or_it_is_said_where_they_are_looked_for(self, tmp_path):
        with pytest.raises(InputError, match="DECam_MEF, which cannot be read: No such file"):
            fields(tmp_path)
        for name in ("LMC_c42", "LMC_c41", "not a field", ".trash"):
            (tmp_path / "DECam_MEF" / name / "mef").mkdir(parents=True)
        (tmp_path / "DECam_MEF" / "LMC_c43").mkdir()
        (tmp_path / "DECam_MEF" / "README").touch()
        assert fields(tmp_path) == ["LMC_c41", "LMC_c42"]
        assert fields(tmp_path, ["LMC_c42", "LMC_c99"]) == ["LMC_c42"]
