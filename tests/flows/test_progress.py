"""A run says at once that it starts, while it lasts how far it is, and in a file line by line."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import threading

import pytest
from runs import PROJECT, last_log

from flows import field
from kred_core import progress, survey
from kred_core.config import SurveyConfig
from kred_core.progress import TimeLeft


def test_the_first_line_is_there_before_prefect_is_imported(root, tmp_path):
    package = tmp_path / "first" / "prefect"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('Prefect is imported now')")
    environment = os.environ | {"PYTHONPATH": str(package.parent), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    for script, words in (("field.py", "LMC_c42 T07"), ("survey.py", "LMC_c42, SMC_a")):
        arguments = [sys.executable, f"flows/{script}", *words.replace(",", "").split(), "--root", str(root)]
        said = subprocess.run(arguments, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60)
        assert re.fullmatch(rf"\d\d:\d\d:\d\d kred [\d.]+: {words}, starting\n", said.stdout), said.stderr
        assert said.stderr == "Prefect is imported now\n"
        dry = subprocess.run([*arguments, "--dry-run"], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60)
        assert dry.stdout == ""


@pytest.mark.usefixtures("prefect_server")
def test_a_log_has_lines_in_between_with_the_time_left_and_no_bars(root, monkeypatch, capfd):
    monkeypatch.setattr(progress, "MINUTE", 0.2)
    assert field.main(["LMC_c42", "T07", "--root", str(root), "--until", "coadd"]) in (0, 3)
    log = last_log(root)
    assert re.search(r"INFO +(summarize|match|coadd) +\d+ of \d+, about \d+ s left\n", log), log
    out, err = capfd.readouterr()
    assert "\r" not in log + out + err
    assert "\033[K" not in log + out + err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_at_a_terminal_one_line_is_written_over_and_never_longer_than_it_is_wide(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    progress.show("coadd 1 of 2: " + "x" * 50, last=False)
    progress.show("coadd 2 of 2", last=True)
    assert terminal.getvalue() == "\r\033[Kcoadd 1 of 2: xxxxx\r\033[Kcoadd 2 of 2\n"
    monkeypatch.setattr(progress, "MINUTE", 0.0)
    with progress.every_minute(lambda: pytest.fail("the terminal shows it already")):
        pass


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_elsewhere_nothing_is_written_over(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "MINUTE", 0.01)
    progress.show("coadd 1 of 2", last=True)
    assert stream is None or stream.getvalue() == ""
    said = threading.Event()
    with progress.every_minute(said.set):
        assert said.wait(10)
    assert "every minute" not in {thread.name for thread in threading.enumerate()}


def test_the_time_left_follows_the_plan_first_and_then_the_clock():
    left = TimeLeft({"summarize": 100.0, "prepare": 0.0, "coadd": 300.0}, workers=2)
    assert left.seconds("summarize", 0.0, 0.0) == pytest.approx(200)
    assert left.seconds("summarize", 0.5, 25.0) == pytest.approx(25 + 150)
    left.taken = {"summarize": 500.0, "prepare": 1.0}  # ten times slower than foreseen
    assert 1200 < left.seconds("coadd", 0.0, 0.0) < 1500
    assert left.seconds("coadd", 0.9, 900.0) == pytest.approx(100, rel=0.1)
    assert left.seconds("coadd", 1.0, 1000.0) == 0
    assert left.words("coadd", 0.0, 0.0) == "about 23.0 min left"


def test_the_time_left_is_finite_whatever_was_foreseen():
    for foreseen in ({}, {"coadd": 0.0}, {"match": 5.0}):
        assert 0 <= TimeLeft(foreseen, workers=1).seconds("coadd", 0.5, 10.0) < 100


@pytest.mark.usefixtures("prefect_server")
def test_a_field_of_ones_own_without_image_table_has_an_image_of_each_filter(root, caplog):
    (root / "DECam_MEF" / "LMC_c42").rename(root / "DECam_MEF" / "MINE")
    tiles = root / "tiles.tab"
    (tile,) = survey.tiles("LMC_c42", SurveyConfig(), ["T07"])
    tiles.write_text(f"Field Tile RA Dec Size\nMINE A {tile.ra} {tile.dec} 0.67\n")
    with caplog.at_level(logging.INFO, "kred_core"):
        assert field.main(["MINE", "--root", str(root), "--survey.tile-table", str(tiles), "--until", "match"]) in (0, 3)
    assert "no image table: one image for each filter, of all exposure times (N662, r); --survey.image-table makes" in caplog.text
    assert "belongs to no image" not in caplog.text
