"""What people and archives hand in, at random: any of it is understood, or is an error in words. The same examples each time."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tomli_w
from astropy import units as u
from astropy.io import fits
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel

from kred_core import sky
from kred_core.config import FieldConfig
from kred_core.config.settings import field_config, service_config, survey_configs
from kred_core.errors import ConfigError, ExposureError, InputError
from kred_core.fits import checksum, storage
from kred_core.fits.checksum import hdu_bytes
from kred_core.match.solve import solve
from kred_core.products.usertable import UserTable
from kred_core.sky import SkyPolygon


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


@examples(60)
@given(
    path=st.sampled_from(PATHS),
    value=st.text(max_size=12) | st.sampled_from(["[", "{}", '{"a": 1}', "null", "[1,,2]", "true", "1e999"]),
)
def test_any_environment_gives_a_configuration_or_an_error_in_words(path, value, directory):
    (directory / "kred.toml").unlink(missing_ok=True)
    assume("\0" not in value)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(UnicodeEncodeError):
        patch.setenv("KRED_" + "__".join(path).upper(), value)
        loaded(field_config, ["LMC_c42", "--root", str(directory)])


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


# headers and packed tables

NUMBERS = st.floats(-400, 400) | st.sampled_from([0.0, math.nan, math.inf, 90.0, -90.0, 1e-300, 1e300]) | st.text(max_size=3)
WCS_KEYS = "CRVAL1 CRVAL2 CRPIX1 CRPIX2 CD1_1 CD1_2 CD2_1 CD2_2 CDELT1 CROTA2 PV1_1 PV2_0 LONPOLE EQUINOX".split()
KINDS = "RA---TAN DEC--TAN RA---TPV DEC--TPV RA---SIN RA---XXX DEC--XXX GLON-CAR RA---TAN-SIP".split()
TWO_KINDS = st.just(("RA---TAN", "DEC--TAN")) | st.tuples(st.sampled_from(["", *KINDS]), st.sampled_from(["", *KINDS]))


@examples(150)
@given(changes=st.dictionaries(st.sampled_from(WCS_KEYS), NUMBERS | st.none(), max_size=6), kinds=TWO_KINDS)
def test_any_header_gives_positions_or_says_why_it_has_none(changes, kinds):
    cards = {"CRVAL1": 10.0, "CRVAL2": -70.0, "CRPIX1": 50.5, "CRPIX2": 40.5, "CD1_1": -7e-5, "CD2_2": 7e-5, **changes}
    header = fits.Header({"CTYPE1": kinds[0], "CTYPE2": kinds[1]})
    for key, value in cards.items():
        text = str(value) if isinstance(value, float) and not math.isfinite(value) else value  # as real headers have it
        if text is not None and (not isinstance(text, str) or (text.isascii() and text.isprintable())):
            header[key] = text

    def read():
        wcs = sky.celestial_wcs(header)
        corners = sky.corners(wcs, (80, 100))
        return corners, sky.centre(wcs, (80, 100)), SkyPolygon(*sky.outlines([corners], [100], [80]))

    found, message = outcome(read, ExposureError, InputError)
    if found is None:
        assert "WCS" in message or "radius" in message
        return
    corners, centre, outline = found
    for ra, dec in (*corners, centre):
        assert 0 <= ra < 360
        assert abs(dec) <= 90
    assert np.isfinite(outline.area_deg2)


FORM = st.integers(-3, 40) | st.booleans() | st.sampled_from(["1PB(9)", "1D", "99999999999999D", "PB", "", "Z", "0J", "1QB", "J"])
FORM_KEYS = ["TFIELDS", "NAXIS1", "NAXIS2", "PCOUNT", "THEAP", "TFORM1", "TFORM2", "TTYPE1", "TTYPE2"]


@examples(150)
@given(cards=st.dictionaries(st.sampled_from(FORM_KEYS), FORM), raw=st.binary(max_size=120))
def test_a_damaged_table_is_no_table_or_an_error_in_words(cards, raw):
    header = fits.Header({"NAXIS1": 16, "NAXIS2": 2, "TFIELDS": 1, "TFORM1": "1PB(9)", "TTYPE1": "X", **cards})
    sensible = all(type(header[key]) is int and header[key] >= 0 for key in ("NAXIS1", "NAXIS2"))
    for column in storage.table_columns(header).values():
        assert 0 <= column.offset <= 40
        if column.code not in "PQ" or not sensible:
            continue

        def read(column=column):
            return storage.tile_ranges(header, raw, column, storage.heap_start_of(header, raw))

        ranges, message = outcome(read, ExposureError)
        if ranges is None:
            assert "damaged" in message
        else:
            starts, lengths = ranges
            assert ((starts >= 0) & (lengths >= 0) & (starts + lengths <= len(raw))).all()


@examples(60)
@given(values=hnp.arrays(np.int16, st.integers(0, 40)), cut=st.integers(0, 60), flip=st.integers(0, 500))
def test_a_packed_row_comes_back_or_is_called_damaged(values, cut, flip):
    whole, kind = gzip.compress(values.astype(">i2").tobytes(), mtime=0), np.dtype(">i2")
    np.testing.assert_array_equal(storage.unpack_row(whole, 0, len(whole), 0, kind, values.size), values)
    damaged = bytearray(whole[: len(whole) - cut % len(whole)])
    damaged[flip % len(damaged)] ^= 1 << flip % 8
    found, message = outcome(lambda: storage.unpack_row(bytes(damaged), 0, len(damaged), 6, kind, values.size), ExposureError)
    assert "row 7 is damaged" in message if found is None else found.size == values.size


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


# differences of detectors: some twice, some of equal size, some far off

DIFFERENCES = st.integers(-8, 8).map(float) | st.floats(-50, 50).map(lambda x: round(x, 6)) | st.sampled_from([0.0, 1e3, -1e3])
ERRORS = st.sampled_from([0.5, 1.0, 2.0]) | st.floats(0.1, 9).map(lambda x: round(x, 3))


@examples(35)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), robust=st.booleans())
def test_any_order_and_sense_of_the_pairs_gives_the_same_backgrounds_to_the_bit(data, seed, robust):
    n, k = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 24))
    first, second = data.draw(hnp.arrays(np.int64, (2, k), elements=st.integers(0, n - 1)))
    difference, error = (data.draw(hnp.arrays(float, k, elements=some)) for some in (DIFFERENCES, ERRORS))
    own = data.draw(hnp.arrays(float, n, elements=DIFFERENCES))
    rng = np.random.default_rng(seed)
    to, order, turned, names = rng.permutation(n), rng.permutation(k), rng.random(k) < 0.5, rng.permutation(n)
    one, other, old = to[first[order]], to[second[order]], np.argsort(to)
    ends = np.where(turned, other, one), np.where(turned, one, other)
    options = {"own_error": 5.0, "robust": robust}
    a = solve(n, first, second, difference, error, own=own, key=names, **options)
    signed = np.where(turned, -1.0, 1.0) * difference[order]
    b = solve(n, *ends, signed, error[order], own=own[old], key=names[old], **options)
    np.testing.assert_array_equal(b.background.b[to], a.background.b)
    for name in ("error", "component", "n_pairs", "n_rejected"):
        np.testing.assert_array_equal(getattr(b, name)[to], getattr(a, name), err_msg=name)
    for name in ("weight", "rejected"):
        np.testing.assert_array_equal(getattr(b, name), getattr(a, name)[order], err_msg=name)
    assert a.scale == b.scale
