"""What a file, a header or a table is called is a name and nothing else: it is not executed, and leads nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from astropy.io import fits
from astropy.table import Table
from fields import PROJECT, needs_swarp
from mefs import detector_hdu, write_mef
from pydantic import ValidationError
from runs import last_log
from tally import tried

from flows.field import reduce
from kred_core.config import BackgroundKind, CheckConfig, FieldConfig
from kred_core.errors import InputError, KredError
from kred_core.exposures.check import judge
from kred_core.products import FieldPaths
from kred_core.simulate import simulate_field
from kred_core.survey import images, tiles

pytestmark = pytest.mark.usefixtures("prefect_server")

MARK = "executed"
NAMES = [  # of exposures that are as good as any other
    f"a;touch {MARK};_ooi_r_v1.fits.fz",
    f"$(touch {MARK})_ooi_r_v1.fits.fz",
    f"`touch {MARK}`_ooi_r_v1.fits.fz",
    "-rf _ooi_r_v1.fits.fz",
    "--help_ooi_r_v1.fits.fz",
    "@list_ooi_r_v1.fits.fz",
    "a b 'c' \"d\"_ooi_r_v1.fits.fz",
    "a[1]_ooi_r_v1.fits.fz",
    "a,b{c}%s%n\\_ooi_r_v1.fits.fz",
    "<script>alert(1)<_script>_ooi_r_v1.fits.fz",
    "{{ 7*7 }}_ooi_r_v1.fits.fz",
]
NOT_PLAIN = [
    "a\nb_ooi_r_v1.fits.fz",
    "a\tb_ooi_r_v1.fits.fz",
    "a\x1b[31m_ooi_r_v1.fits.fz",
    os.fsdecode(b"a\xff_ooi_r_v1.fits.fz"),
]
TEXTS = [f"$(touch {MARK})", f"'; touch {MARK}; '", "../../etc/passwd", "<script>alert(1)</script>", "%s%n{0}", "T07\\n"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """A field of two good exposures, and more of the same sky with odd names and with odd texts in their headers."""
    root = tmp_path_factory.mktemp("odd") / "root"
    exposures = 2 + len(NAMES) + len(NOT_PLAIN) + len(TEXTS)
    simulate_field(root, field="LMC_c42", tiles=["T07"], binning=16, exposures=exposures, bands=["r"], n_detectors=2)
    mef = FieldPaths(root, "LMC_c42").mef
    _, _, *others = sorted(mef.glob("*_ooi_*"))
    for name in [*NAMES, *NOT_PLAIN]:
        others.pop().rename(mef / name)
    for i, text in enumerate(TEXTS):
        path = others.pop().rename(mef / f"header{i}_ooi_r_v1.fits.fz")
        set_keywords(path, OBSID=f"{text} {i}", OBJECT=text, PLVER=text, TELESCOP=text, INSTRUME=text)
    return root


def set_keywords(path: Path, **values: str) -> None:
    """Change keywords of the primary header in place; its checksums no longer count there."""
    raw = bytearray(path.read_bytes())
    header = fits.Header.fromstring(bytes(raw[: raw.index(b"END" + b" " * 77) + 80]).decode("ascii"))
    length = -(-len(header.tostring(padding=False)) // 2880) * 2880
    for key, value in values.items():
        header[key] = value
    for key in ("CHECKSUM", "DATASUM"):
        header.remove(key, ignore_missing=True)
    path.write_bytes(header.tostring().encode("ascii") + raw[length:])


@pytest.mark.parametrize("engine", ["native", pytest.param("swarp", marks=needs_swarp)])
def test_odd_names_are_names(odd, tmp_path, monkeypatch, engine):
    root = tmp_path / "data" / "root"
    shutil.copytree(odd, root, symlinks=True)
    monkeypatch.chdir(tmp_path)
    assert reduce(FieldConfig(field="LMC_c42", tiles=["T07"], root=root, coadd={"engine": engine})) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["data"]  # nothing was executed here,
    assert [path.name for path in root.parent.iterdir()] == ["root"]  # or led outside,
    assert list(root.rglob(MARK)) == []  # or anywhere
    paths = FieldPaths(root, "LMC_c42")
    found = Table.read(paths.input_table, format="ascii.ecsv")
    fates = {str(row["File"]): (str(row["Fate"]), str(row["Reason"])) for row in found}
    refused = {name: reason for name, (fate, reason) in fates.items() if fate == "refused"}
    assert refused == {FieldPaths.shown(Path(name)): "its file name has odd characters; give it another" for name in NOT_PLAIN}
    good = set(NAMES) | {f"header{i}_ooi_r_v1.fits.fz" for i in range(len(TEXTS))}
    assert {name for name, (fate, _) in fates.items() if fate == "used"} >= good
    inputs = fits.getdata(paths.mosaic("T07", "r", BackgroundKind.MATCHED), "INPUTS")
    assert len(set(inputs["ROOT"])) == 2 + len(good)
    assert "Traceback" not in last_log(root)
    page = paths.page.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    tried("odd names of files and odd texts in headers", len(NAMES) + len(NOT_PLAIN) + len(TEXTS))


@pytest.mark.parametrize("name", ["../N1", "/tmp/N1", "N1/../../x", "N1\nN2", ".N1", "-N1", "N1;x", "N" * 80, " N x", "Ñ1"])
def test_a_detector_has_a_plain_name_or_is_refused(name, tmp_path):
    hdus = [detector_hdu("N1"), detector_hdu("N2", 1, storage=None)]
    path = write_mef(tmp_path / "a_ooi_r_v1.fits.fz", hdus, checksum=False)
    raw = path.read_bytes()
    at = raw.index(b"EXTNAME = 'N2      '")
    card = (b"EXTNAME = '" + name.encode("latin-1", "replace")[:60] + b"'").ljust(80)
    path.write_bytes(raw[:at] + card + raw[at + 80 :])
    report = judge(path, CheckConfig(), {})
    assert report.extnames == ("N1",)
    assert len(report.lost) == 1
    tried("detector with a name that leads elsewhere")


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "x\n", "", ".", "..", "a b", "x" * 65, "$(touch x)", "é"])
@pytest.mark.parametrize("option", ["field", "tile"])
def test_fields_and_tiles_have_plain_names(name, option):
    values = {"field": name} if option == "field" else {"field": "LMC_c42", "tiles": [name]}
    with pytest.raises(ValidationError):
        FieldConfig(**values)
    tried("field or tile with a name that leads elsewhere")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", "$(touch;x)"])
def test_tables_name_tiles_and_images_plainly(name, tmp_path):
    (tmp_path / "tiles.txt").write_text(f"Field Tile RA Dec Size\nLMC_c42 {name} 80 -69 0.1\n")
    (tmp_path / "images.txt").write_text(f"Image FILTER EXPTIME\n{name} r 100\n")
    config = FieldConfig(
        field="LMC_c42",
        survey={"tile_table": str(tmp_path / "tiles.txt"), "image_table": str(tmp_path / "images.txt")},
    )
    with pytest.raises(KredError, match=r"tiles\.txt"):
        tiles("LMC_c42", config.survey, [])
    with pytest.raises(InputError, match=r"images\.txt"):
        images(config.field, config.survey)
    tried("table with a name that leads elsewhere", 2)


def test_a_lock_or_log_that_is_a_link_is_not_written_through(odd, tmp_path):
    """A file that others can put into the data root must not become a way to write elsewhere."""
    root = tmp_path / "root"
    shutil.copytree(odd, root)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    paths = FieldPaths(root, "LMC_c42")
    for link in (paths.log, paths.run_lock):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(precious)
        command = [sys.executable, "flows/field.py", "LMC_c42", "--root", str(root), "--until", "check"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
        assert ended.returncode == 1
        assert str(link) in ended.stdout + ended.stderr
        assert precious.read_text() == "mine"
        link.unlink()
    tried("log or lock that is a link to elsewhere", 2)
