"""A table that a person wrote (tiles, images, zero points), in any text format that astropy can guess, read with care.

Every value is judged here before anything is done with it, and a message names the table, the row, the column, what was found
and what was expected.
"""

from __future__ import annotations

import csv
import textwrap
import warnings
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import ascii
from astropy.table import Column, MaskedColumn, Table
from pydantic import TypeAdapter, ValidationError

from ..config import Name
from ..errors import InputError

__all__ = ["UserTable"]

LARGEST_TABLE = 10_000_000  # bytes; a larger file is not a table that a person wrote
OPEN = ("", "*", "-", "--", "any", "all", "nan")  # what people and programs write into a cell that holds no value


class UserTable:
    """A table that a person wrote: its columns found whatever their case, its values judged row by row.

    Parameters
    ----------
    kind : str
        What the table holds ("tile", "image", "zero point"), for messages.
    path : str
    columns : tuple of str
        Names that it must have.
    open_column : str
        The one of them whose cells may be left open: empty, ``*``, ``any`` or the like, and where it is the last one not there.
    optional : tuple of str
        The open column as a whole may be missing, if no column has a name with one of these parts, as it would be misspelt.
    """

    def __init__(self, kind: str, path: str, columns: tuple[str, ...], open_column: str = "", optional: tuple[str, ...] = ()):
        self.name = f"{kind} table {path}"
        self.open_column = open_column
        table = self._read(path)
        if optional and not any(part in name.lower() for name in table.colnames for part in optional):
            table[open_column] = [""] * len(table)
        alike = {name: [c for c in table.colnames if c.strip().lower() == name.lower()] for name in columns}
        missing = [name for name in columns if len(alike[name]) != 1]
        if missing:
            raise InputError(
                f"{self.name}: must have one column {', '.join(missing)}; "
                f"found {textwrap.shorten(', '.join(table.colnames), 200)}. "
                f"Its first line names the columns {' '.join(columns)}, in any order"
            )
        if len(table) == 0:
            raise InputError(f"{self.name}: has no rows")
        self.columns = {name: table[alike[name][0]] for name in columns}
        self.length = len(table)

    def _read(self, path: str) -> Table:
        try:
            with open(Path(path).expanduser(), encoding="utf-8-sig") as f:
                text = f.read(LARGEST_TABLE + 1)
            if "\0" in text:
                raise UnicodeError("a text has no zero bytes")
        except OSError as e:
            raise InputError(f"{self.name}: cannot be read: {e.strerror or e}") from e
        except UnicodeError as e:
            raise InputError(f"{self.name}: is not a text file; expected ECSV, CSV or columns separated by blanks") from e
        except (ValueError, RuntimeError) as e:  # a zero byte in the name, or a ~user that is not there
            raise InputError(f"{self.name}: cannot be read: {e}") from e
        if len(text) > LARGEST_TABLE:
            raise InputError(f"{self.name}: is larger than {LARGEST_TABLE // 1_000_000} MB; that cannot be the right file")
        if not text.strip():
            raise InputError(f"{self.name}: is empty")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # As lines, because astropy takes a text of one line for a file name or even a web address;
                # as texts, because a tile named 07 must not become 7.
                return ascii.read(self._filled_up(text.splitlines()), converters={"*": [ascii.convert_numpy(str)]})
        except (ascii.InconsistentTableError, csv.Error, ValueError, TypeError, KeyError, IndexError) as e:
            raise InputError(
                f"{self.name}: is not a table that can be understood; expected one line of column names, then one line for each row"
            ) from e

    def _filled_up(self, lines: list[str]) -> list[str]:
        """The lines of a table, with an empty last cell in rows that end before it, which no reader of tables understands."""
        rows = [i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")]
        separator = next((sign for sign in ",\t|" if rows and sign in lines[rows[0]]), " ")
        cells = {i: next(csv.reader([lines[i].strip(" ")], delimiter=separator, skipinitialspace=True)) for i in rows}
        names = cells[rows[0]] if rows else [""]
        underlined = len(rows) > 1 and not set(lines[rows[1]]) - set("-= ")
        if underlined or names[-1].strip().lower() != self.open_column.lower():
            return lines
        return [f'{line}{separator}""' if len(cells.get(i, ())) == len(names) - 1 else line for i, line in enumerate(lines)]

    def fault(self, row: int, column: str, found: object, expected: str) -> InputError:
        """The error for one value: row counted from 0, what was found, what was expected."""
        shown = "nothing" if np.ma.is_masked(found) or found == "" else f"'{found}'"
        return InputError(f"{self.name}: row {row + 1}, column {column}: found {shown}, expected {expected}")

    def texts(self, column: str) -> list[str]:
        """Texts of a column; empty ones are errors."""
        values = []
        for row, value in enumerate(self.columns[column]):
            text = "" if np.ma.is_masked(value) else str(value).strip()
            if not text:
                raise self.fault(row, column, text, "a name")
            values.append(text)
        return values

    def names(self, column: str) -> list[str]:
        """Texts of a column that become parts of file names."""
        values = self.texts(column)
        for row, value in enumerate(values):
            try:
                TypeAdapter(Name).validate_python(value)
            except ValidationError as e:
                raise self.fault(row, column, value, "a name of letters, digits and _ . + - that can be part of a file name") from e
        return values

    def numbers(self, column: str, unit: u.UnitBase, low: float, high: float) -> list[float]:
        """Numbers of a column in a unit, within [low, high]; a column that states no unit is in this one. NaN: an open cell."""
        data: Column | MaskedColumn = self.columns[column]
        factor = 1.0
        if data.unit is not None and data.unit != unit:
            try:
                factor = u.Unit(data.unit).to(unit)
            except (u.UnitsError, ValueError, TypeError) as e:
                raise InputError(f"{self.name}: column {column} is in '{data.unit}', expected {unit}") from e
        values = []
        for row, value in enumerate(data):
            if column == self.open_column and (np.ma.is_masked(value) or str(value).strip().lower() in OPEN):
                values.append(np.nan)
                continue
            try:
                number = np.nan if np.ma.is_masked(value) else float(value) * factor
            except (TypeError, ValueError):
                number = np.nan
            if not low <= number <= high:
                raise self.fault(row, column, value, f"a number from {low:g} to {high:g} ({unit})")
            values.append(number)
        return values
