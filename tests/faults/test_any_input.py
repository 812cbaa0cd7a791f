"""What people and archives hand in, at random: any of it is understood, or is an error in words. The same examples each time."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
import tomli_w
from astropy import units as u
from astropy.io import fits
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from kred_core.config import FieldConfig
from kred_core.config.settings import field_config, service_config, survey_configs
from kred_core.errors import ConfigError, InputError
from kred_core.fits import checksum
from kred_core.fits.checksum import hdu_bytes
from kred_core.products.usertable import UserTable


def examples(n: int) -> settings:
    """Try so many examples."""
    return settings(max_examples=n, derandomize=True, deadline=None, database=None)


def outcome(call: Callable[[], Any], *errors: type[BaseException]) -> tuple[Any, str]:
    """What a call gives, or None and the text of the error that it ended with."""
    try:
        return call(), ""
    except errors as e:
        return None, str(e) or "an error without a word"


# options


def option_paths(model, prefix=()):
    for name, info in model.model_fields.items():
        yield (*prefix, name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from option_paths(info.annotation, (*prefix, name))


PATHS = [path for path in option_paths(FieldConfig) if path[0] not in ("field", "tiles", "root")]
VALUES = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=8) | st.sampled_from(["mode", "native"])
ANYTHING = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=5
)


@st.composite
def documents(draw):
    """The tables of a kred.toml: known options, now and then unknown ones, with values of any kind."""
    document: dict = {}
    unknown = st.lists(st.text(max_size=5), min_size=1, max_size=3).map(tuple)
    for *sections, name in draw(st.lists(st.sampled_from(PATHS) | unknown, max_size=5)):
        place = document
        for section in sections:
            inner = place.setdefault(section, {})
            place = inner if isinstance(inner, dict) else {}
        place[name] = draw(ANYTHING)
    return document


@pytest.fixture(autouse=True, scope="module")
def no_options_from_outside():
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith("KRED_"):
                patch.delenv(name)
        yield


def loaded(load, arguments):
    """What a command line gives; None where it was refused in words."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        config, message = outcome(lambda: load(arguments), ConfigError, SystemExit)
    if config is None:  # in words; a status of 0 is that of the help
        assert said.getvalue() if message in ("0", "2") else " " in message
    return config


@examples(100)
@given(document=documents() | st.binary(max_size=60))
def test_any_file_gives_a_configuration_or_an_error_in_words(document, directory):
    raw = document if isinstance(document, bytes) else tomli_w.dumps(document).encode("utf-8", "replace")
    (directory / "kred.toml").write_bytes(raw)
    config = loaded(field_config, ["LMC_c42", "--root", str(directory)])
    assert config is None or FieldConfig.model_validate(config.model_dump()) == config


FLAGS = [f"--{'.'.join(path).replace('_', '-')}" for path in PATHS]
WORDS = ["--help", "--", "-x", "LMC_c42", "T07", "--only", "--from", "nan", "[]", "A,B", "'", "[[", "{", "1e999", "true"]


@examples(60)
@given(
    arguments=st.lists(st.sampled_from(FLAGS) | st.sampled_from(WORDS) | st.text(max_size=6), max_size=5),
    load=st.sampled_from([field_config, survey_configs, service_config]),
)
def test_any_command_line_gives_a_configuration_or_an_error_in_words(arguments, load, directory):
    (directory / "kred.toml").unlink(missing_ok=True)
    assume(not any("\0" in argument for argument in arguments))
    with contextlib.chdir(directory):
        loaded(load, arguments)


# tables

COLUMNS = ("Root", "MAGZERO")
CELLS = st.sampled_from(
    ["Root", "MAGZERO", "root", "magzero", "07", "S7", "30", "29.5", "1e3", "nan", "-inf", "--", "", "'", '"', "a b", "../x", "é",
     "\\", "#", "# %ECSV 1.0", "# ---", "# datatype:", "# - {name: Root, datatype: string}", "|", ",", "\t", ";", "&", "\\hline",
     "<table>", "+---+", "====", "0x10", "1_0", "٣", "\ufeff", "\r", "\x0b", "\x85", "\u2028"]
)  # fmt: skip
LINES = st.lists(st.lists(CELLS | st.text(max_size=4), max_size=5), max_size=6)


@examples(200)
@given(
    lines=LINES,
    separator=st.sampled_from([" ", ",", "\t", "|", "  "]),
    head=st.sampled_from(["", "Root MAGZERO\n", "Root,MAGZERO\n"]),
)
def test_any_file_is_a_table_or_an_error_that_names_it(lines, separator, head, directory):
    path = directory / "mine.txt"
    path.write_bytes((head + "\n".join(separator.join(line) for line in lines)).encode("utf-8", "surrogatepass"))
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


# headers


PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
CARD_VALUES = (
    st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(PRINTABLE, max_size=200).map(str.rstrip).filter(lambda text: not text.endswith("&"))
)


@examples(100)
@given(values=st.lists(st.tuples(CARD_VALUES, st.text(PRINTABLE, max_size=60)), max_size=8), data=st.binary(max_size=50))
def test_what_kred_writes_into_a_header_is_read_by_astropy_as_it_was_meant(values, data):
    structure = {"SIMPLE": (True, ""), "BITPIX": (8, ""), "NAXIS": (1, ""), "NAXIS1": (len(data), "")}
    cards = {f"KEY-{i}_A": card for i, card in enumerate(values)}
    parts = hdu_bytes({**structure, **cards}, data)
    assert all(len(part) % 2880 == 0 for part in parts)
    assert checksum.datasum(b"".join(parts)) in (0, 0xFFFFFFFF)
    header = fits.Header.fromstring(parts[0].decode("ascii"))
    assert {key: header[key] for key in cards} == {key: value for key, (value, _) in cards.items()}
    assert int(header["DATASUM"]) == checksum.datasum(data)
