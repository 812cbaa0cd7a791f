"""The survey's facts against its own tile table, and a user's tables, good and bad."""

from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from pydantic import TypeAdapter

from kred_core import survey
from kred_core.config import Name, SurveyConfig
from kred_core.errors import InputError

SURVEY_TABLES = Path(__file__).resolve().parents[3].parent / "shared" / "survey"
HEADER = "Field Tile RA Dec Size\n"


def separation_mas(tiles, ra, dec):
    found = SkyCoord([t.ra for t in tiles], [t.dec for t in tiles], unit="deg")
    return found.separation(SkyCoord(ra, dec, unit="deg")).to_value(u.mas)


def test_every_tile_of_the_survey_is_where_its_table_says():
    path = SURVEY_TABLES / "tiles.ecsv"
    if not path.exists():
        pytest.skip(f"the survey's tile table is not at {path}")
    table = Table.read(path)
    fields = sorted(set(table["Field"].tolist()))
    assert fields == survey.fields()
    assert len(table) == 424
    for field in fields:
        rows = table[table["Field"] == field]
        tiles = survey.tiles(field, SurveyConfig())
        assert [t.name for t in tiles] == rows["Tile"].tolist()
        assert [t.size for t in tiles] == rows["Size"].tolist()
        assert separation_mas(tiles, rows["RA"], rows["Dec"]).max() < 5


def test_tiles_around_an_own_centre_follow_astropys_spherical_offsets():
    for ra, dec in [(186.744, 25.462), (0.3, -89.5), (359.9, 0.0), (12.0, 90.0)]:
        tiles = survey.tiles("mine", SurveyConfig(centre=[ra, dec]))
        k = np.arange(16)
        offsets = 0.55 * (k // 4 - 1.5) * u.deg, 0.55 * (k % 4 - 1.5) * u.deg
        expected = SkyCoord(ra, dec, unit="deg").spherical_offsets_by(*offsets)
        assert [t.name for t in tiles] == [f"T{i:02d}" for i in range(1, 17)]
        assert separation_mas(tiles, expected.ra, expected.dec).max() < 1e-3
        assert all(0 <= t.ra < 360 and t.size == 0.67 and t.field == "mine" for t in tiles)


def test_tiles_are_numbered_from_the_south_west_north_first_and_unknown_ones_are_named():
    tiles = {t.name: t for t in survey.tiles("LMC_c42", SurveyConfig())}
    ra, dec = survey.field_centre("LMC_c42")
    assert tiles["T01"].ra < ra < tiles["T16"].ra
    assert tiles["T01"].dec < tiles["T02"].dec < dec < tiles["T04"].dec
    assert [t.name for t in survey.tiles("LMC_c42", SurveyConfig(), ["T08", "T07"])] == ["T07", "T08"]
    with pytest.raises(InputError, match=r"LMC_c42 has no tile T7, t12; did you mean T07 T12\?$"):
        survey.tiles("LMC_c42", SurveyConfig(), ["T7", "T08", "t12"])
    with pytest.raises(InputError, match=r"LMC_c42 has no tile T17, X; its tiles: T01, .*T16"):
        survey.tiles("LMC_c42", SurveyConfig(), ["T07", "T17", "X"])


def test_unknown_field_lists_similar_ones_and_what_to_do():
    with pytest.raises(InputError, match=r"LMC_c24 is not in the survey; similar names: .*LMC_c42.*survey\.centre.*tile_table"):
        survey.tiles("LMC_c24", SurveyConfig())
    with pytest.raises(InputError, match=r"LMC_c24 is not in the survey"):
        survey.field_centre("LMC_c24")
    with pytest.raises(InputError, match=r"SMC_all is a set of tiles"):
        survey.field_centre("SMC_all")


def test_focal_plane_has_62_ccds_that_do_not_overlap():
    table = survey.focal_plane()
    assert table["CCDNUM"].tolist() == list(range(1, 63))
    assert len(set(table["EXTNAME"])) == 62
    # The reference pixel of a CCD to the right is smaller by its distance: 2046 or 4094 px at least.
    dx = np.abs(np.subtract.outer(table["CRPIX1"], table["CRPIX1"]))
    dy = np.abs(np.subtract.outer(table["CRPIX2"], table["CRPIX2"]))
    apart = (dx >= 2046) | (dy >= 4094)
    assert apart[~np.eye(62, dtype=bool)].all()
    table["CRPIX1"][:] = 0
    assert survey.focal_plane()["CRPIX1"][0] == 13415  # a copy: nobody can spoil it for others


def test_images_of_the_survey():
    images = survey.images("LMC_c42", SurveyConfig())
    assert (images.names[:2], len(images.rows)) == (("N501", "N501_s"), 22)
    found = {(f, t): images.of_exposure(f, t) for f, t in (("N662", 600), ("N662", 30), ("r", 30), ("N662", 60), ("g", 30))}
    assert list(found.values()) == [("N662",), ("N662_s",), ("r",), (), ()]


def images_of(tmp_path, text, field="mine"):
    path = tmp_path / "images.tab"
    path.write_text(text)
    return survey.images(field, SurveyConfig(image_table=str(path)))


TIMES = "Image FILTER EXPTIME\na z 107\nb z 107.6\nc z 107\nd z 5\n"
ANY = "Image FILTER EXPTIME\ns N662 30\nall N662\nz z *\n"
NO_TIMES = "Image,FILTER,remark\nred,r,\nred,i,x\n"


@pytest.mark.parametrize(
    ("table", "filter", "exptimes", "images"),
    [
        (TIMES, "z", [107], ("a", "c")),
        (TIMES, "z", [107.4], ("b",)),  # the nearest within half a second
        (TIMES, "z", [5.5], ("d",)),
        (TIMES, "z", [5.51, float("nan")], ()),
        (ANY, "N662", [30.2], ("s", "all")),
        (ANY, "N662", [31, 800, 1e-3, 1e5], ("all",)),  # a row without exposure time takes every one, whatever other rows say
        (ANY, "z", [31, 800], ("z",)),
        (ANY, "r", [30], ()),
        (NO_TIMES, "r", [1, 777], ("red",)),
        (NO_TIMES, "i", [1, 777], ("red",)),
        ('exptime,filter,image\n107.0,"z DECam SDSS c0004 9260.0 1520.0",deep\n', "z", [107], ("deep",)),
    ],
)
def test_the_rows_of_a_table_say_which_exposures_an_image_has(tmp_path, table, filter, exptimes, images):
    found = images_of(tmp_path, table, "LMC_c42")
    assert {found.of_exposure(filter, exptime) for exptime in exptimes} == {images}
    assert found.explain([filter]) == ""


@pytest.mark.parametrize("name", ["EXP_TIME", "exposure", "ExpTime[s]", "time"])
def test_exposure_times_by_another_name_are_not_overlooked(tmp_path, name):
    with pytest.raises(InputError, match="must have one column EXPTIME; found Image, FILTER, "):
        images_of(tmp_path, f"Image,FILTER,{name}\na,z,30\n")


def test_without_a_table_each_filter_of_a_field_of_ones_own_is_an_image():
    for config in (SurveyConfig(centre=[10, -20]), SurveyConfig(tile_table="tiles.tab")):
        images = survey.images("mine", config)
        assert images.of_exposure("z", 107) == images.of_exposure("z", 0.5) == ("z",)
        assert images.of_exposure("N662", 30) == ("N662",)
        assert images.explain(["z", "N662", "z"]) == (
            "no image table: one image for each filter, of all exposure times (N662, z); --survey.image-table makes others"
        )
    assert survey.images("LMC_c42", SurveyConfig()).explain(["z"]) == ""
    assert survey.images("LMC_c42", SurveyConfig(centre=[10, -20])).of_exposure("N662", 30) == ("N662_s",)


def test_images_of_filters_with_odd_names_have_names_of_files_and_stay_different():
    images = survey.images("mine", SurveyConfig(centre=[10, -20]))
    filters = ["g", "[OIII]", "(OIII)", "a/b", "a_b", "..", "/", "x" * 200, "x" * 201, "\xe9"]
    names = [images.of_exposure(name, 30)[0] for name in filters]
    assert [TypeAdapter(Name).validate_python(name) for name in names] == names
    assert len(set(names)) == len(filters)
    assert (names[0], names[4]) == ("g", "a_b")


def test_images_are_put_in_the_order_of_the_table(tmp_path):
    images = images_of(tmp_path, "Image FILTER\nz z\ng g\n")
    assert images.in_order(["z", "old", "g", "z"]) == ["old", "z", "g"]
    assert survey.images("mine", SurveyConfig(centre=[1, 2])).in_order(["z", "g"]) == ["g", "z"]


BAD = {
    "declination": (HEADER + "A T1 10 20 1\nA T2 10 -91 1\n", "row 2, column Dec: found '-91', expected a number from -90 to 90"),
    "size in arcmin": (HEADER + "A T1 10 20 40\n", "row 1, column Size: found '40', expected a number from 0.001 to 5"),
    "name of what is matched": (HEADER + "A T1_b 10 20 1\n", "row 1, column Tile: found 'T1_b', expected another name; _b marks"),
    "name of a directory": (HEADER + "A quick 10 20 1\n", "row 1, column Tile: found 'quick', expected another name; kred has"),
    "name of a table": (HEADER + "A input 10 20 1\n", r"row 1, column Tile: found 'input', .* of this one \(Summary/A_input.tab"),
    "name of a page": (HEADER + "A index.html 10 20 1\n", "found 'index.html', expected another name; kred has"),
    "figure of the whole field": (HEADER + "A b 10 20 1\n", "found 'b', expected another name; kred has .*A_b.image.png"),
    "table of a field that is not there": (HEADER + "A my_det 10 20 1\n", "found 'my_det', .* look like one of kred's tables"),
    "same but for capitals": (HEADER + "A t1 10 20 1\nA T1 10 20 1\n", "row 2, column Tile: found 'T1', .* that of tile t1 too"),
    "fields but for capitals": (HEADER + "A T1 10 20 1\na T2 1 2 1\n", "row 2, column Field: found 'a', .*A has the same letters"),
    "table of another field": (
        HEADER + "A_c4 T1 1 2 1\nA c4_T1 1 2 1\n",
        "A_c4_T1.tab would be a table of field A_c4",
    ),
    "far apart": (HEADER + "A T1 10 0 1\nA T2 130 0 1\n", "lies 60 deg from the middle of field A, at most 15 works"),
    "same tile twice": (HEADER + "A T1 10 20 1\nB T1 1 2 1\nA T1 10 21 1\n", "row 3, column Tile: found 'T1'.* row 1 has the same"),
    "other field": (HEADER + "A_c2 T1 10 20 1\n", "has no tile of field A; there are: A_c2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tile_table_is_explained(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / "tiles.tab"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        survey.tiles("A", SurveyConfig(tile_table=str(path)))
    assert f"tile table {path}" in str(caught.value)


@pytest.mark.parametrize("name", ["07", "a.b", "x+y", "T-1", "c4_T1", "match", "A", "T1b", "B1", "x" * 64])
def test_every_other_name_of_a_tile_is_allowed(tmp_path, name):
    path = tmp_path / "tiles.tab"
    path.write_text(HEADER + f"A {name} 0.05 90 0.67\nA T2 359.9 89.9 0.67\nB input 200 0 1\n")  # B is refused when it is asked for
    config = SurveyConfig(tile_table=str(path))
    assert [t.name for t in survey.tiles("A", config)] == [name, "T2"]
    with pytest.raises(InputError, match="row 3, column Tile: found 'input'"):
        survey.tiles("B", config)


def test_a_bad_image_table_is_explained(tmp_path):
    with pytest.raises(InputError, match=r"image table .*: row 1, column EXPTIME: found '-30', expected a number from 0"):
        images_of(tmp_path, "Image FILTER EXPTIME\na z -30\n")


def test_images_say_what_light_they_are_and_own_names_stay_as_they_are(tmp_path):
    images = survey.images("LMC_c42", SurveyConfig())
    assert [images.title(name) for name in ("N662", "N662_s", "N673", "N501", "r")] == [
        "N662 Hα", "N662_s Hα", "N673 [S II]", "N501 [O III]", "r",
    ]  # fmt: skip
    own = images_of(tmp_path, "Image FILTER EXPTIME\nHalpha N662 800\nN673 r 30\nN662_deep N662 800\n", "LMC_c42")
    assert [own.title(name) for name in own.names] == ["Halpha", "N673", "N662_deep"]
