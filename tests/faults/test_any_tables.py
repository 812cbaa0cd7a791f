"""Tables that people wrote: any file is a table, or an error that names it."""

from __future__ import annotations

import re

import pytest
from astropy import units as u
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import examples, outcome

from kred_core.config import NAME
from kred_core.errors import InputError
from kred_core.products.usertable import UserTable

COLUMNS = ("Root", "MAGZERO")
WORDS = st.sampled_from(
    ["Root", "MAGZERO", "root", "magzero", "07", "S7", "30", "29.5", "1e3", "nan", "-inf", "--", "", "'", '"', "a b", "../x", "é",
     "\\", "#", "# %ECSV 1.0", "# ---", "# datatype:", "# - {name: Root, datatype: string}", "|", ",", "\t", ";", "&", "\\hline",
     "<table>", "+---+", "====", "0x10", "1_0", "٣", "\ufeff", "\r", "\x0b", "\x85", "\u2028"]
)  # fmt: skip
LINES = st.lists(st.lists(WORDS | st.text(max_size=4), max_size=5).map(tuple), max_size=6)
SEPARATORS = st.sampled_from([" ", ",", "\t", "|", "  "])
TEXTS = st.builds(
    lambda lines, separator: "\n".join(separator.join(line) for line in lines).encode("utf-8", "surrogatepass"), LINES, SEPARATORS
)
HEADED = TEXTS.map(lambda text: b"Root MAGZERO\n" + text) | TEXTS.map(lambda text: b"Root,MAGZERO\n" + text)


@examples(200)
@given(raw=st.binary(max_size=200) | TEXTS | HEADED)
def test_any_file_is_a_table_or_an_error_that_names_it(raw, directory):
    path = directory / "mine.txt"
    path.write_bytes(raw)
    table, message = outcome(lambda: UserTable("zero point", str(path), COLUMNS), InputError)
    if table is None:
        assert message.startswith(f"zero point table {path}: ")
        return
    assert table.length > 0
    place = re.escape(f"zero point table {path}: ") + r"(row \d+, column (Root|MAGZERO): found|column MAGZERO is in)"
    for read in (lambda: table.names("Root"), lambda: table.texts("Root"), lambda: table.numbers("MAGZERO", u.mag, 1, 60)):
        values, message = outcome(read, InputError)
        if values is None:
            assert re.match(place, message)
        else:
            assert len(values) == table.length
            assert all(1 <= value <= 60 if isinstance(value, float) else value.strip() for value in values)


ROWS = st.lists(
    st.tuples(st.from_regex(NAME, fullmatch=True).map(lambda name: name[:40].rstrip("\n")), st.floats(1, 60)),
    min_size=1,
    max_size=8,
)


@examples(100)
@given(rows=ROWS, separator=SEPARATORS, swapped=st.booleans())
def test_what_is_written_in_any_usual_form_is_read(rows, separator, swapped, directory):
    assume(separator == "," or not any(set(name) & {"|"} for name, _ in rows))
    path = directory / "rows.txt"
    lines = [COLUMNS, *((name, repr(value)) for name, value in rows)]
    path.write_text("\n".join(separator.join(line[::-1] if swapped else line) for line in lines))
    table = UserTable("zero point", str(path), COLUMNS)
    assert table.names("Root") == [name for name, _ in rows]
    assert table.numbers("MAGZERO", u.mag, 1, 60) == [value for _, value in rows]


@examples(100)
@given(rows=ROWS, row=st.integers(0, 7), wrong=st.sampled_from(["-1", "nan", "inf", "61", "bright", "1e400", "3O", "0x1E"]))
def test_the_row_of_a_wrong_number_is_named(rows, row, wrong, directory):
    row %= len(rows)
    path = directory / "wrong.txt"
    lines = ["Root MAGZERO", *(f"{name} {wrong if k == row else value}" for k, (name, value) in enumerate(rows))]
    path.write_text("\n".join(lines))
    with pytest.raises(
        InputError, match=re.escape(f"row {row + 1}, column MAGZERO: found '{wrong}', expected a number from 1 to 60")
    ):
        UserTable("zero point", str(path), COLUMNS).numbers("MAGZERO", u.mag, 1, 60)
