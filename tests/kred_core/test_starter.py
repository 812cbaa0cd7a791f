"""Tables that a command writes for filling in: of the exposures that are there, covering them, and never over a person's work."""

import shlex

import numpy as np
import pytest
from mefs import CENTRE, write_mef

from kred_core import survey
from kred_core.config import settings
from kred_core.errors import InputError
from kred_core.exposures import check
from kred_core.exposures.check import DetectorPlace, ExposureReport
from kred_core.sky import SkyPolygon, local_frame, position
from kred_core.starter import cover, main

CCD = (0.3, 0.15)  # deg


@pytest.fixture
def root(tmp_path):
    """A data root with the exposures of a field that is not the survey's."""
    mef = tmp_path / "DECam_MEF" / "LS_T4" / "mef"
    mef.mkdir(parents=True)
    write_mef(mef / "a_ooi_z.fits.fz", ["N1", "N2"], FILTER="z DECam c4", EXPTIME=107.03, OBSID="a")
    write_mef(mef / "b_ooi_z.fits.fz", ["N1"], FILTER="z DECam c4", EXPTIME=107.0, OBSID="b", MAGZERO=None)
    write_mef(mef / "c_ooi_r.fits.fz", ["N1"], FILTER="r DECam c2", EXPTIME=64, OBSID="c", MAGZERO=None)
    (mef / "d_ooi_r.fits.fz").write_bytes((mef / "c_ooi_r.fits.fz").read_bytes()[:9000])
    return tmp_path


def started(capsys, *arguments):
    status = main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return status, out, err


def command(out):
    return shlex.split(next(line for line in out.splitlines() if "flows/field.py" in line))


def test_the_tables_are_those_of_the_exposures_and_the_command_uses_them(root, capsys):
    status, out, _ = started(capsys, "LS_T4", "--root", root)
    assert status == 0
    assert "left out d_ooi_r.fits.fz: " in out
    assert "Fill in MAGZERO of 2 exposures in" in out
    python, script, *arguments = command(out)
    assert (python, script) == ("python", "flows/field.py")
    config = settings.field_config(arguments)
    images = survey.images("LS_T4", config.survey)
    assert images.rows == (("r", "r", 64.0), ("z", "z", 107.0))
    points = check.zero_points(config.check.zero_points)
    assert points["a_ooi_z"] == 30.0
    assert np.isnan([points["b_ooi_z"], points["c_ooi_r"]]).all()
    (tile,) = survey.tiles("LS_T4", config.survey)
    assert (tile.ra, tile.dec) == pytest.approx(CENTRE, abs=0.05)


def test_what_a_person_has_filled_in_stays_unless_it_is_asked_for(root, capsys):
    started(capsys, "LS_T4", "--root", root)
    table = root / "LS_T4_zero_points.tab"
    table.write_text("mine")
    (root / "LS_T4_images.tab").unlink()
    status, out, _ = started(capsys, "LS_T4", "--root", root)
    assert (status, table.read_text()) == (0, "mine")
    assert f"kept     {table}: it is there already; --force writes it again" in out
    assert f"written  {root / 'LS_T4_images.tab'}" in out
    started(capsys, "LS_T4", "--root", root, "--force")
    assert table.read_text().startswith("# Zero points of LS_T4")


def test_a_field_of_the_survey_keeps_its_tiles_and_images(root, capsys):
    mef = root / "DECam_MEF" / "LMC_c42" / "mef"
    mef.mkdir(parents=True)
    for name, exptime in (("long", 600), ("short", 30), ("odd", 77)):
        write_mef(mef / f"{name}.fits.fz", ["N1"], EXPTIME=exptime, OBSID=name)
    _, out, _ = started(capsys, "LMC_c42", "--root", root, "--output", root / "my tables")
    assert sorted(p.name for p in (root / "my tables").iterdir()) == ["LMC_c42_images.tab", "LMC_c42_zero_points.tab"]
    config = settings.field_config(command(out)[2:])
    assert survey.images("LMC_c42", config.survey).rows == (("N662_s", "N662", 30), ("N662", "N662", 77), ("N662", "N662", 600))
    assert "Fill in" not in out


def test_what_cannot_be_done_is_one_sentence(root, tmp_path, capsys):
    assert started(capsys, "LS_T5", "--root", root)[::2] == (
        1,
        f"error: field LS_T5: there is no directory {root}/DECam_MEF/LS_T5/mef; did you mean LS_T4?\n",
    )
    assert started(capsys, "../LS_T4", "--root", root)[0] == 2
    for path in (root / "DECam_MEF" / "LS_T4" / "mef").iterdir():
        path.write_bytes(b"no exposure")
    status, _, err = started(capsys, "LS_T4", "--root", root)
    assert (status, err) == (1, "error: field LS_T4: none of its 4 exposures can be used\n")
    assert list(root.glob("*.tab")) == []


def test_a_name_that_cannot_stand_in_a_table_is_said_where_it_would_have_to(root, capsys):
    mef = root / "DECam_MEF" / "LS_T4" / "mef"
    write_mef(mef / "with header.fits.fz", ["N1"], OBSID="e")
    write_mef(mef / "my own.fits.fz", ["N1"], OBSID="f", MAGZERO=None)
    _, out, _ = started(capsys, "LS_T4", "--root", root)
    assert "left out my own.fits.fz: it has no MAGZERO, and its name cannot stand in a table; rename it" in out
    assert "left out with header" not in out
    assert set(check.zero_points(str(root / "LS_T4_zero_points.tab"))) == {"a_ooi_z", "b_ooi_z", "c_ooi_r"}


def exposure(*places):
    """An exposure with detectors around places on the sky."""
    detectors = []
    for i, (ra, dec) in enumerate(places):
        middle, east, north = local_frame(ra, dec)
        x, y = np.radians(np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * np.array(CCD) / 2).T
        corners = np.stack(position(middle + x[:, None] * east + y[:, None] * north), axis=-1)
        detectors.append(DetectorPlace(f"N{i + 1}", 4094, 2046, (ra, dec), tuple(map(tuple, corners)), 0.26))
    return ExposureReport("a", "a.fits.fz", detectors=tuple(detectors))


@pytest.mark.parametrize("centre", [(10.0, 0.0), (0.05, -69.0), (120.0, 89.95), (300.0, -90.0)])
@pytest.mark.parametrize("width", [0.1, 0.6, 2.0, 6.0])
def test_every_part_of_every_detector_is_on_a_tile(centre, width):
    middle, east, north = local_frame(*centre)
    rng = np.random.default_rng(int(10 * width))
    x, y = np.radians(rng.uniform(-width / 2, width / 2, (2, 40)))
    ra, dec = position(middle + x[:, None] * east + y[:, None] * north)
    report = exposure(*zip(ra.tolist(), dec.tolist(), strict=True))
    tiles = cover("mine", [report])
    assert (len(tiles) == 1) == (width == 0.1)
    assert width != 2.0 or abs(centre[1]) > 80 or len(tiles) <= 16
    assert max(t.size for t in tiles) <= 0.67
    assert len({t.name for t in tiles}) == len(tiles)
    squares = [SkyPolygon.of_square(t.ra, t.dec, t.size) for t in tiles]
    for place in report.detectors:
        corners = np.array(place.corners)
        assert np.any([s.contains(*corners.T) for s in squares], axis=0).all()
        assert any(s.contains(*place.centre).all() for s in squares)


def test_empty_tiles_between_far_detectors_are_left_out():
    tiles = cover("mine", [exposure((10.0, -20.0)), exposure((15.0, -20.0))])
    assert 2 <= len(tiles) <= 4
    assert [t.name for t in tiles] == [f"T{i:02d}" for i in range(1, len(tiles) + 1)]


@pytest.mark.parametrize("places", [[(10, 0), (40, 0)], [(10, 0), (190, 0)], [(10, 0), (10, 0), (130, 5)]])
def test_exposures_all_over_the_sky_are_not_one_field(places):
    with pytest.raises(InputError, match="more than 10 deg apart"):
        cover("mine", [exposure(*places)])


def test_the_real_field_starts_with_one_tile(real_decam, tmp_path, capsys):
    (tmp_path / "DECam_MEF" / "LS_T4").mkdir(parents=True)
    (tmp_path / "DECam_MEF" / "LS_T4" / "mef").symlink_to(real_decam / "LS_T4" / "mef")
    status, out, _ = started(capsys, "LS_T4", "--root", tmp_path)
    assert status == 0
    assert "LS_T4: 10 exposures, 11 detectors" in out
    assert "Fill in MAGZERO of 5 exposures" in out
    config = settings.field_config(command(out)[2:])
    assert len(survey.tiles("LS_T4", config.survey)) == 1
    assert survey.images("LS_T4", config.survey).names == ("g", "r", "z")
