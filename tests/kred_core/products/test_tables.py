"""Tables say what their columns mean, are read by everybody's tools, and come back as they were."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import ascii

from kred_core.errors import InputError
from kred_core.products import tables
from kred_core.products.tables import DETECTORS, EXPOSURES, QUALITY, TILE, Column

COLUMNS = (
    Column("Root", str, "", "Exposure"),
    Column("Reasons", str, "", "Words"),
    Column("MAGZERO", float, "mag", "Zero point"),
    Column("Npix", int, "pix", "Good pixels"),
    Column("Mode", np.float32, "adu", "Mode"),
)
ROWS = [
    {"Root": "07", "Reasons": "a; b, 'c' \"d\" – é ☉", "MAGZERO": 0.1 + 0.2, "Npix": 2**40, "Mode": 0.1},
    {"Root": "nan", "Reasons": "", "MAGZERO": np.nan, "Npix": -1, "Mode": np.nan},
    {"Root": "--", "Reasons": "two\nlines", "MAGZERO": np.inf, "Npix": 0, "Mode": 1e-30},
    {"Root": "N/A", "Reasons": "# %ECSV", "MAGZERO": -1e300, "Npix": 1, "Mode": 1234567.0},
]


def values(table):
    return [[repr(value) for value in row] for row in table.iterrows()]


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2], []])
def test_a_table_comes_back_as_it_was(rows, tmp_path):
    table = tables.make(rows, COLUMNS)
    tables.write(table, tmp_path / "x.tab", "Test")
    again = tables.read(tmp_path / "x.tab", COLUMNS, "check")
    assert values(again) == values(table)
    assert [c.dtype.kind for c in again.itercols()] == ["U", "U", "f", "i", "f"]
    assert again["Mode"].dtype == np.float32
    assert [again[c.name].description for c in COLUMNS] == [c.description for c in COLUMNS]
    assert [again[c.name].unit for c in COLUMNS] == [None, None, u.mag, u.pix, u.adu]
    assert not any(hasattr(c, "mask") for c in again.itercols())


def test_the_scripts_of_today_read_a_table_with_ascii_read(tmp_path):
    tables.write(tables.make(ROWS[:2], COLUMNS), tmp_path / "x.tab", "Test")
    found = ascii.read(str(tmp_path / "x.tab"))
    assert found.colnames == [c.name for c in COLUMNS]
    assert found["Root"][0] == "07"
    assert found["MAGZERO"][0] == 0.1 + 0.2


@pytest.mark.parametrize("columns", [QUALITY, EXPOSURES, DETECTORS, TILE], ids=["quality", "exposures", "detectors", "tile"])
def test_every_column_has_one_name_a_meaning_and_a_unit_that_fits_use(columns):
    assert len({c.name for c in columns}) == len(columns)
    for c in columns:
        assert c.description
        assert c.type in (str, int, float, np.float32)
        u.Unit(c.unit)
        assert not (c.type is str and c.unit)
        assert c.unit == "deg" or not c.name.startswith(("COR", "CEN"))


def test_columns_have_the_names_that_older_scripts_look_for():
    names = {kind: {c.name for c in columns} for kind, columns in (("mef", EXPOSURES), ("det", DETECTORS), ("tile", TILE))}
    corners = {f"COR{i}{axis}1" for i in (1, 2, 3, 4) for axis in ("RA", "DEC")}
    assert {"Root", "OBJECT", "FILTER", "EXPTIME", "MAGZERO", "SEEING", "OBSID", "Field"} <= names["mef"]
    assert {"Root", "EXTNAME", "CENRA1", "CENDEC1", "Mean", "Med", "STD", "Mode"} | corners <= names["det"]
    assert {"Root", "EXTNAME", "FILTER", "EXPTIME", "Image"} | corners <= names["tile"]


def test_numbers_that_somebody_took_out_of_a_table_are_unknown(tmp_path):
    path = tmp_path / "x.tab"
    tables.write(tables.make([{"Root": "a", "Reasons": "b", "MAGZERO": 30.5, "Npix": 77, "Mode": 1.5}], COLUMNS), path, "Test")
    path.write_text(path.read_text().replace("a b 30.5 77 1.5", 'a "" "" "" ""'))
    row = tables.read(path, COLUMNS, "check")[0]
    assert (row["Root"], row["Reasons"], row["Npix"]) == ("a", "", 0)
    assert np.isnan(row["MAGZERO"])
    assert np.isnan(row["Mode"])


@pytest.mark.parametrize(
    "damage", [lambda raw: b"", lambda raw: raw[: len(raw) // 2], lambda raw: raw + b"one more\n", lambda raw: b"\0" * 100]
)
def test_a_damaged_table_says_what_to_do(damage, tmp_path):
    path = tmp_path / "x.tab"
    tables.write(tables.make(ROWS, COLUMNS), path, "Test")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"x\.tab .*delete it and run the stage 'summarize' again"):
        tables.read(path, COLUMNS, "summarize")
    with pytest.raises(InputError, match="cannot be read"):
        tables.read(tmp_path, COLUMNS, "summarize")


def test_missing_columns_are_named(tmp_path):
    tables.write(tables.make(ROWS, COLUMNS[:3]), tmp_path / "x.tab", "Test")
    with pytest.raises(InputError, match=r"has no column Npix, Mode; delete it and run the stage 'summarize' again"):
        tables.read(tmp_path / "x.tab", COLUMNS, "summarize")
    assert len(tables.read(tmp_path / "x.tab", COLUMNS[1:2], "summarize")) == len(ROWS)


def test_a_table_that_was_read_before_is_read_again_when_it_has_changed_and_never_shared(tmp_path):
    path = tmp_path / "t.tab"
    rows = [{"Root": "a", "EXTNAME": "N1"}, {"Root": "b", "EXTNAME": "N2"}]
    columns = [c for c in tables.DETECTORS if c.name in rows[0]]
    tables.write(tables.make(rows, columns), path, "title")
    first = tables.read(path, columns, "x")
    first["Root"][0] = "z"
    assert list(tables.read(path, columns, "x")["Root"]) == ["a", "b"]
    tables.write(tables.make(rows[::-1], columns), path, "title")  # of the same size
    assert list(tables.read(path, columns, "x")["Root"]) == ["b", "a"]
    path.unlink()
    with pytest.raises(InputError, match=r"t\.tab is missing; run the stage 'x' first \(--from x\)"):
        tables.read(path, columns, "x")
