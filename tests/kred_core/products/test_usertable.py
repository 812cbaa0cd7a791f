"""A table that a person wrote is read in the forms people write, and a mistake in it is named by table, row and column."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Table

from kred_core.errors import InputError
from kred_core.products.usertable import LARGEST_TABLE, UserTable

ROWS = [("07", 30.0), ("S7", 29.5)]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mine.txt"

    def read(raw):
        path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
        return UserTable("zero point", str(path), ("Root", "MAGZERO"))

    return read


def rows(table):
    return list(zip(table.names("Root"), table.numbers("MAGZERO", u.mag, 1, 60), strict=True))


def fault(table, raw):
    with pytest.raises(InputError) as error:
        rows(table(raw))
    assert str(error.value).startswith("zero point table /")
    assert "mine.txt: " in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value).split("mine.txt: ")[1]


@pytest.mark.parametrize(
    "raw",
    [
        "  root   MagZero\n  07     30.0\n  S7     29.5\n",
        "Root,MAGZERO\n07,30\nS7,29.5\n",
        "Root\tMAGZERO\n07\t30\nS7\t29.5",
        "Root|MAGZERO\n07|30\nS7|29.5\n",
        "MAGZERO,note,Root\n30,'a, b',07\n29.5,,S7\n",
        "# of last night\nRoot MAGZERO\n# the first\n07 30\n\nS7 29.5\n",
        "Root MAGZERO\n---- -------\n07   3e1\nS7   2.95e1\n",
        b"\xef\xbb\xbfRoot,MAGZERO\r\n07,30\r\nS7,29.5\r\n",
        '"Root","MAGZERO"\n"07","30"\n"S7","29.5"\n',
    ],
)
def test_every_usual_form_of_a_text_table_is_read(raw, table):
    assert rows(table(raw)) == ROWS
    assert table(raw).length == 2


def test_a_table_that_astropy_wrote_is_read_in_its_unit(tmp_path):
    path = tmp_path / "tiles.ecsv"
    Table({"Tile": ["T01", "T02"], "Size": [40.2, 30.0] * u.arcmin}).write(path)
    assert UserTable("tile", str(path), ("Tile", "Size")).numbers("Size", u.deg, 0, 1) == pytest.approx([0.67, 0.5])
    Table({"Tile": ["T01"], "Size": [40.2] * u.mag}).write(path, overwrite=True)
    with pytest.raises(InputError, match=r"tile table .*tiles\.ecsv: column Size is in 'mag', expected deg"):
        UserTable("tile", str(path), ("Tile", "Size")).numbers("Size", u.deg, 0, 1)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (" \n\n", "is empty"),
        ("Root MAGZERO\n", "has no rows"),
        ("07 30\nS7 29.5\n", "must have one column Root, MAGZERO; found col1, col2"),
        ("Root;MAGZERO\n07;30\n", "must have one column Root, MAGZERO; found Root;MAGZERO."),
        ("Root MAGZERO magzero\n07 30 31\n", "must have one column MAGZERO; found Root, MAGZERO, magzero."),
        ("MAGZERO Root\n07\n30 S7\n", "is not a table that can be understood; expected one line of column names"),
        ("Root MAGZERO\n" + "a" * 200_000 + " 30\n", "is not a table that can be understood"),
        ("Root MAGZERO\n07 bright\n", "row 1, column MAGZERO: found 'bright', expected a number from 1 to 60 (mag)"),
        ("Root MAGZERO\n07 30\nS7 nan\n", "row 2, column MAGZERO: found 'nan', expected a number from 1 to 60 (mag)"),
        ("Root MAGZERO\n07 60.001\n", "row 1, column MAGZERO: found '60.001'"),
        ("Root MAGZERO\n07 30,5\n", "row 1, column MAGZERO: found '30,5'"),
        ("Root,MAGZERO\n07,\n", "row 1, column MAGZERO: found nothing, expected a number"),
        ("Root,MAGZERO\n07,30\n,29\n", "row 2, column Root: found nothing, expected a name"),
        ("Root,MAGZERO\n../x,30\n", "row 1, column Root: found '../x', expected a name of letters, digits and _ . + -"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is not a text file; expected ECSV, CSV or columns separated by blanks"),
        (b"Root MAGZERO\n\xe9 30\n", "is not a text file"),
        (b"a" * (LARGEST_TABLE + 1), "is larger than 10 MB; that cannot be the right file"),
        ("http://127.0.0.1:9/table.txt", "must have one column Root, MAGZERO; found http://127.0.0.1:9/table.txt"),
    ],
)
def test_a_mistake_is_named_with_what_was_found_and_what_was_expected(raw, message, table):
    assert fault(table, raw).startswith(message)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("gone.txt", "No such file or directory"),
        (".", "Is a directory"),
        ("~nobody-of-this-name/x.txt", "home directory"),
        ("a\0b", "null byte"),
        ("http://127.0.0.1:9/x", "No such file or directory"),
    ],
)
def test_a_table_that_cannot_be_opened_is_named_with_the_reason(path, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"(?s)^tile table .*: cannot be read: .*{reason}"):
        UserTable("tile", path, ("Field",))


def test_a_table_below_the_home_directory_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_text("Root MAGZERO\n07 30\nS7 29.5\n")
    assert rows(UserTable("zero point", "~/mine.txt", ("Root", "MAGZERO"))) == ROWS


FORMS_WITH_AN_OPEN_CELL = {
    "nothing there": "Image FILTER EXPTIME\ndeep z\ns N662 30\n",
    "quoted cells": 'Image FILTER EXPTIME\ndeep "z DECam SDSS c0004"\n',
    "underlined names": "Image FILTER EXPTIME\n----- ------ -------\ndeep  z\ns     N662   30\n",
    "comments": "# mine\nImage FILTER EXPTIME\n# a b\ndeep z\n",
    "tabs": "Image\tFILTER\tEXPTIME\ndeep\tz\t\n",
    "tabs, short": "Image\tFILTER\tEXPTIME\ndeep\tz\ns\tN662\t30\n",
    "csv": "Image,FILTER,EXPTIME\ndeep,z,\n",
    "csv in another order": "EXPTIME,Image,FILTER\n,deep,z\n30,s,N662\n",
    "bars, short": "Image|FILTER|EXPTIME\ndeep|z\ns|N662|30\n",
    "empty quotes": 'Image FILTER EXPTIME\ndeep z ""\n',
    **{f"written {word}": f"Image FILTER EXPTIME\ndeep z {word}\n" for word in ("*", "Any", "all", "NaN", "-", "--")},
}


@pytest.mark.parametrize("form", FORMS_WITH_AN_OPEN_CELL)
def test_a_cell_of_an_open_column_may_hold_nothing_in_any_form(form, tmp_path):
    path = tmp_path / "images.tab"
    path.write_text(FORMS_WITH_AN_OPEN_CELL[form])
    table = UserTable("image", str(path), ("Image", "FILTER", "EXPTIME"), "EXPTIME")
    assert (table.texts("Image")[0], table.texts("FILTER")[0].split()[0]) == ("deep", "z")
    exptimes = table.numbers("EXPTIME", u.s, 0, 1e6)
    assert np.isnan(exptimes[0])
    assert exptimes[1:] in ([], [30.0])


def test_only_the_open_column_may_be_left_open(tmp_path):
    path = tmp_path / "images.tab"

    def read(raw):
        path.write_text(raw)
        table = UserTable("image", str(path), ("Image", "FILTER", "EXPTIME"), "EXPTIME")
        return table.names("Image"), table.numbers("EXPTIME", u.s, 0, 1e6)

    for raw in ("Image FILTER EXPTIME\ndeep *z* 30s\n", "Image FILTER EXPTIME\ndeep\n", "Image,FILTER,EXPTIME\n,z,30\n"):
        with pytest.raises(InputError, match=r"^image table .*images\.tab: "):
            read(raw)
