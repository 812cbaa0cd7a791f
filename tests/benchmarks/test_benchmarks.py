"""The benchmarks count what processes really used, cut runs where they say, and find the exponents that they claim."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest
from cases import _parts
from growth import exponents
from processes import Measured, run
from report import compare

from kred_core.products import FieldPaths


def measured(code: str, directory: Path) -> Measured:
    return run([sys.executable, "-c", textwrap.dedent(code)], os.environ, directory)


def test_children_count_while_they_live_and_after_they_have_ended(tmp_path):
    found = measured(
        """
        import subprocess, sys, time
        work = "import time\\nwhile time.process_time() < %g: pass"
        subprocess.run([sys.executable, "-c", work % 0.4])
        living = subprocess.Popen([sys.executable, "-c", work % 0.4 + "\\nkept = bytearray(100_000_000)\\ntime.sleep(1)"])
        while time.process_time() < 0.2: pass
        open("written", "wb").write(bytearray(3_000_000))
        kept = bytearray(100_000_000)
        living.wait()
        """,
        tmp_path,
    )
    assert found.status == 0
    assert found.whole.cpu == pytest.approx(1.0, abs=0.15)
    assert (found.looks["cpu"] <= found.whole.cpu).all()
    assert 200e6 < found.whole.memory < 300e6
    assert found.whole.written == 3_000_000
    middle = 0.5 * (found.start + found.end)
    assert sum(found.between(a, b).cpu for a, b in ((found.start, middle), (middle, found.end))) == pytest.approx(found.whole.cpu)


def test_a_run_is_cut_where_its_log_says_that_stages_ended(tmp_path):
    """The script writes the log of a run of two stages, works in the second and leaves a file in it."""
    log = FieldPaths(tmp_path, "LMC_c42").log
    log.parent.mkdir()
    log.write_text("2020-01-01 00:00:00,000 INFO    kred 0.0: LMC_c42, stages an older run\n")
    found = measured(
        f"""
        import logging, time
        logging.basicConfig(filename={str(log)!r}, level="INFO", format="%(asctime)s %(levelname)-7s %(message)s")
        time.sleep(0.3)
        logging.info("kred 1.0: LMC_c42 T07, stages check, coadd")
        time.sleep(0.3)
        logging.info("check      3 done, 2 up to date                    0.3 s")
        while time.process_time() < 0.5: pass
        open("mosaic", "wb").write(bytes(1000))
        time.sleep(0.05)
        logging.info("coadd      1 done                                  0.6 s")
        time.sleep(0.3)
        """,
        tmp_path,
    )
    parts = _parts(found, tmp_path)
    assert [p.name for p in parts.phases] == ["start", "check", "coadd", "end"]
    assert [p.units for p in parts.stages] == ["3 done, 2 up to date", "1 done"]
    coadd = parts.phases[2]
    assert coadd.cost.cpu > 0.3 > sum(p.cost.cpu for p in parts.phases if p is not coadd)
    assert parts.left["mosaic"] == 1000
    assert coadd.left in (1000, 1000 + log.stat().st_size)
    assert sum(p.cost.cpu for p in parts.phases) == pytest.approx(parts.whole.cost.cpu)


def test_exponents_are_those_of_the_power_law():
    assert exponents([1, 4, 16], [3.0, 12.0, 48.0]) == pytest.approx({"fit": 1.0, "last": 1.0})
    found = exponents([1, 4, 16], [10 + n**1.5 for n in (1, 4, 16)])  # start-up hides growth, least in the last step
    assert found["fit"] < found["last"] < 1.5


def test_benchmarks_are_compared_in_units_of_their_own_floor():
    def result(decode: float, coadd: float) -> dict:
        return {
            "case": "full",
            "machine": {"commit": "abc"},
            "floor": {"decode": {"cpu": decode}},
            "phases": [{"name": "coadd", "cpu": coadd}],
            "whole": {"name": "all", "cpu": 2 * coadd},
        }

    text = compare(result(10.0, 20.0), result(5.0, 5.0))  # on a machine twice as fast
    assert text.splitlines()[4].split("|")[1:5] == [" coadd ", " 2.00 ", " 1.00 ", "       0.50 "]
    with pytest.raises(SystemExit, match="another case"):
        compare(result(10.0, 20.0), result(10.0, 20.0) | {"case": "small"})
