"""The commands that people type: what they print, what they refuse, how they end."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from runs import PROJECT, done, last_log

from flows import field, survey
from kred_core.products import FieldPaths

pytestmark = pytest.mark.usefixtures("prefect_server")


def planned(text: str) -> dict[str, int]:
    """Units to do, by stage, of a dry run."""
    return {name: int(n) for name, n in re.findall(r"^(\w+) +\d+ \w+ +(\d+) ", text, flags=re.M) if int(n)}


class TestOneField:
    def test_from_exposures_to_figures_and_again(self, root, command, capsys):
        arguments = ["LMC_c42", "T07", "--root", str(root)]

        def foreseen() -> dict[str, int]:
            assert field.main([*arguments, "--dry-run"]) == 0
            return planned(capsys.readouterr().out)

        plan = foreseen()
        assert not (root / "Summary").exists()
        first = command("flows/field.py", *arguments)
        assert first.returncode == 0, first.stderr
        assert "LMC_c42: complete (4 exposures: 4 good)" in first.stderr + first.stdout
        assert plan == done(root)

        (FieldPaths(root, "LMC_c42").exposures()[0]).touch()
        plan = foreseen()
        assert field.main(arguments) == 0
        for stage, n in done(root).items():  # a dry run cannot know that the tables will turn out the same
            assert n <= plan[stage]
        capsys.readouterr()
        assert foreseen() == {}


class TestSeveralFields:
    def test_one_that_cannot_begin_does_not_keep_the_others(self, root, capsys):
        assert survey.main(["LMC_c41", "LMC_c42", "--tiles", "T07", "--root", str(root), "--until", "summarize"]) == 1
        assert "field LMC_c41: there is no directory" in capsys.readouterr().err
        assert "complete (4 exposures: 4 good)" in last_log(root)


class TestWrongSteps:
    """Each gets one clear message, with what to do, and an exit status that is not 0."""

    @pytest.fixture
    def refused(self, root, capsys):
        def run(*arguments: str, status: int = 1) -> str:
            assert field.main([*arguments, "--root", str(root)]) == status
            said = capsys.readouterr().err
            assert said.count("error: ") == 1
            made = [top for top in ("Summary", "DECam_PREP", "DECam_SWARP") if (root / top).exists()]
            assert made == []
            return said

        return run

    @pytest.mark.parametrize("script", ["flows/field.py", "flows/survey.py", "deployments/serve.py"])
    def test_outside_the_virtual_environment(self, script):
        self.is_told_what_to_install([sys.executable, "-S", script, "LMC_c42"], r"\w+ is not installed in this Python \(")

    def test_a_python_that_is_too_old(self):
        old = shutil.which("pypy3")
        version = [old, "-c", "import sys; sys.exit(sys.version_info >= (3, 11))"]
        if old is None or subprocess.run(version, check=False).returncode:
            pytest.skip("no Python older than 3.11 is there (Debian 12: apt install pypy3)")
        self.is_told_what_to_install([old, "flows/field.py", "LMC_c42"], r"kred needs Python 3\.11 or newer, and this is 3\.")
        made = subprocess.run(["make", "demo", f"PYTHON={old}", "VENV=/nowhere/venv"], cwd=PROJECT, capture_output=True, text=True)
        assert made.returncode != 0
        assert "kred needs Python 3.11 or newer; found: 3." in made.stdout + made.stderr

    @staticmethod
    def is_told_what_to_install(command: list[str], words: str) -> None:
        ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert re.match(f"error: {words}", ended.stderr)
        assert ended.stderr.endswith("then `source .venv/bin/activate` in each new terminal\n")
        assert ended.stderr.count("\n") == 1

    def test_a_link_that_leads_elsewhere(self, root, tmp_path, capsys):
        arguments, elsewhere = ["LMC_c42", "T07", "--root", str(root), "--until", "check"], tmp_path / "elsewhere"
        elsewhere.mkdir()
        (root / "DECam_SWARP").symlink_to(elsewhere)
        assert field.main(arguments) == 1
        assert f"{root}/DECam_SWARP is a link to {elsewhere}, outside the data root" in capsys.readouterr().err
        assert list(elsewhere.iterdir()) == []
        assert field.main([*arguments, "--outside", str(elsewhere)]) == 0
        assert (elsewhere / "LMC_c42" / "index.html").is_file()

    def test_data_root_that_is_not_there(self, capsys, tmp_path):
        assert field.main(["LMC_c42", "--root", str(tmp_path / "nowhere")]) == 1
        assert "is no directory; give the one that holds DECam_MEF with --root" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "status", "words"),
        [
            (["XYZ_1"], 1, "error: field XYZ_1: there is no directory"),
            *(([name], 1, "; did you mean LMC_c42?\n") for name in ("lmc_c42", "LMC_c24", "LMCc42")),
            (["LMC_c42", "T99"], 1, "error: field LMC_c42 has no tile T99; its tiles: T01"),
            (["LMC_c42", "T7"], 1, "error: field LMC_c42 has no tile T7; did you mean T07?"),
            (["LMC_c42", "--coadd.size=-1"], 2, "error: option coadd.size: input should be greater than or equal to 0"),
            (["LMC_c42", "--survey.tile-table", "{}/empty.txt"], 1, "empty.txt: is empty"),
            (["LMC_c42", "--survey.image-table", "{}/odd.txt"], 1, "odd.txt: is not a text file"),
        ],
    )
    def test_what_cannot_be_used(self, refused, tmp_path, arguments, status, words):
        (tmp_path / "empty.txt").touch()
        (tmp_path / "odd.txt").write_bytes(b"\0\1\2\xff")
        assert words in refused(*(argument.format(tmp_path) for argument in arguments), status=status)

    def test_swarp_that_is_not_installed(self, refused, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        message = refused("LMC_c42", "T07", "--coadd.engine", "swarp")
        assert "SWarp" in message
        assert "install" in message

    def test_server_that_does_not_answer(self, command, root):
        result = command("flows/field.py", "LMC_c42", "T07", "--root", str(root), PREFECT_API_URL="http://127.0.0.1:9/api")
        assert result.returncode == 1
        assert "error: the Prefect server http://127.0.0.1:9/api does not answer" in result.stderr


class TestWhatOnlyTheRunCanFind:
    @pytest.fixture
    def log_of(self, root):
        def run(*arguments: str) -> str:
            assert field.main(["LMC_c42", "--root", str(root), *arguments]) == 1
            log = last_log(root)
            assert "Traceback" not in log
            return log

        return run

    def test_a_filter_in_no_image(self, log_of, tmp_path):
        (tmp_path / "images.txt").write_text("Image FILTER EXPTIME\nz z 114\n")
        log = log_of("T07", "--survey.image-table", str(tmp_path / "images.txt"), "--until", "tiles")
        assert "N662 with 800 s belongs to no image" in log
        assert "no detector feeds tile T07" in log
        log = log_of("--survey.image-table", str(tmp_path / "images.txt"), "--until", "tiles")
        assert re.search(r"no detector of field LMC_c42 is used \(T\d\d: \d+ detectors? on it; used: none; left out: ", log)
        assert "are centre and tiles right?" not in log

    def test_a_tile_without_detectors(self, log_of):
        assert "no detector feeds tile T16 of field LMC_c42" in log_of("T16", "--until", "tiles")
