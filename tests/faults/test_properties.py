"""What holds for any input: tables, options, positions, graphs and headers that nobody thought of; the same ones each time."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import os
import re
import struct
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tomli_w
from astropy import units as u
from astropy.io import fits
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, ValidationError

from kred_core import bintable, checksum, geometry
from kred_core.background import Shape, solve
from kred_core.cards import hdu_bytes
from kred_core.config import NAME, FieldConfig, RunConfig, Section
from kred_core.errors import ConfigError, ExposureError, InputError
from kred_core.geometry import SkyPolygon
from kred_core.overlaps import find_pairs
from kred_core.settings import field_config, service_config, survey_configs, to_toml
from kred_core.usertable import UserTable


def examples(n):
    return settings(max_examples=n, derandomize=True, deadline=None, database=None)


def outcome(call, *errors):
    """What a call gives, or None and the text of the error that it ended with."""
    try:
        return call(), ""
    except errors as e:
        return None, str(e) or "an error without a word"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


# ---- tables that people wrote

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


# ---- options


def option_paths(model, prefix=()):
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield (*prefix, name)
            yield from option_paths(info.annotation, (*prefix, name))
        else:
            yield (*prefix, name)


PATHS = [path for path in option_paths(FieldConfig) if path[0] not in ("field", "tiles", "root")]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["mode", "native", "threads"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def without_none(value):
    """TOML knows no null."""
    if isinstance(value, dict):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_none(inner) for inner in value if inner is not None]
    return value


@st.composite
def documents(draw):
    """The tables of a kred.toml: known options, now and then unknown ones, with values of any kind."""
    document: dict = {}
    for path in draw(
        st.lists(st.sampled_from(PATHS) | st.lists(st.text(max_size=5), min_size=1, max_size=3).map(tuple), max_size=5)
    ):
        place = document
        for name in path[:-1]:
            if not isinstance(place.get(name, {}), dict):
                break
            place = place.setdefault(name, {})
        else:
            place[path[-1]] = draw(ANYTHING)
    return without_none(document)


@pytest.fixture
def no_options_from_outside(monkeypatch):
    for name in os.environ:
        if name.upper().startswith("KRED_"):
            monkeypatch.delenv(name)


def loaded(load, arguments):
    """What a command line gives; None where it was refused in words."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        config, message = outcome(lambda: load(arguments), ConfigError, SystemExit)
    if config is None:  # in words; a status of 0 is that of the help
        assert said.getvalue() if message in ("0", "2") else " " in message
    return config


@pytest.mark.usefixtures("no_options_from_outside")
class TestOptions:
    @examples(100)
    @given(document=documents() | st.binary(max_size=60))
    def test_any_file_gives_a_configuration_or_an_error_in_words(self, document, directory):
        (directory / "kred.toml").write_bytes(
            document if isinstance(document, bytes) else tomli_w.dumps(document).encode("utf-8", "replace")
        )
        config = loaded(field_config, ["LMC_c42", "--root", str(directory)])
        assert config is None or FieldConfig.model_validate(config.model_dump()) == config

    @examples(60)
    @given(
        arguments=st.lists(
            st.sampled_from(
                [f"--{'.'.join(path).replace('_', '-')}" for path in PATHS]
                + ["--help", "--", "-x", "LMC_c42", "T07", "--only", "--from"]
            )
            | st.text(max_size=6).filter(lambda text: "\0" not in text)
            | st.sampled_from(["nan", "[]", "A,B", "'", "[[", "{", "1e999", "true"]),
            max_size=5,
        ),
        load=st.sampled_from([field_config, survey_configs, service_config]),
    )
    def test_any_command_line_gives_a_configuration_or_an_error_in_words(self, arguments, load, directory):
        (directory / "kred.toml").unlink(missing_ok=True)
        with contextlib.chdir(directory):
            loaded(load, arguments)

    @examples(60)
    @given(
        path=st.sampled_from(PATHS),
        value=st.text(max_size=12) | st.sampled_from(["[", "{}", '{"a": 1}', "null", "[1,,2]", "true", "1e999"]),
    )
    def test_any_environment_gives_a_configuration_or_an_error_in_words(self, path, value, directory):
        (directory / "kred.toml").unlink(missing_ok=True)
        assume("\0" not in value)
        with pytest.MonkeyPatch.context() as patch:
            with contextlib.suppress(UnicodeEncodeError):
                patch.setenv("KRED_" + "__".join(path).upper(), value)
            loaded(field_config, ["LMC_c42", "--root", str(directory)])

    @examples(100)
    @given(data=st.data())
    def test_a_configuration_written_as_toml_is_the_same_configuration_again(self, data, directory):
        config = data.draw(sections(FieldConfig))
        text = to_toml(config)
        (directory / "kred.toml").write_text(text, encoding="utf-8")
        again = field_config([config.field, *config.tiles, "--root", str(directory)])
        assert again == config.model_copy(update={"root": directory, "run": RunConfig()})


@st.composite
def sections(draw, model):
    """A section with some options other than the defaults, drawn from what their bounds allow."""
    values = {}
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            values[name] = draw(sections(info.annotation))
        elif info.is_required() or draw(st.integers(0, 3)) == 0:
            values[name] = draw(option(info))
    try:
        return model(**values)
    except ValidationError:  # options that exclude each other
        assume(False)


def option(info):
    low, high = -1e6, 1e6
    for bound in info.metadata:
        low, high = max(low, getattr(bound, "ge", getattr(bound, "gt", low))), min(high, getattr(bound, "le", high))
    if info.annotation is bool:
        return st.booleans()
    if info.annotation is int:
        return st.integers(math.ceil(low), math.floor(high))
    if info.annotation is float:
        return st.floats(low, high)
    kind = str(info.annotation)
    if "Literal" in kind and "list" not in kind:
        return st.sampled_from(info.annotation.__args__)
    names = st.from_regex(NAME, fullmatch=True).map(lambda name: name.strip()[:64])
    if "list[float]" in kind:
        return st.tuples(st.floats(0, 359.9), st.floats(-90, 90)).map(list)
    if "Literal" in kind:
        return st.lists(st.sampled_from(["check", "tiles", "coadd"]), max_size=2)
    if "int" in kind:
        return st.lists(st.integers(1, 255), max_size=3)
    if "list[str]" in kind:
        return st.lists(st.text(max_size=5), max_size=2)
    if "list" in kind:
        return st.lists(names, max_size=3)
    if "Path" in kind:
        return st.just(info.default)
    return names if info.is_required() else st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


# ---- the sky

RA = st.floats(0, 360, exclude_max=True) | st.sampled_from([0.0, 1e-12, 90.0, 180.0, 270.0, math.nextafter(360.0, 0)])
DEC = st.floats(-90, 90) | st.sampled_from([-90.0, -89.999999, 0.0, 90.0, 89.999999])
SIZE = st.floats(0.01, 20)


@examples(150)
@given(ra=RA, dec=DEC, turns=st.integers(-2, 2))
def test_a_position_comes_back_from_its_vector(ra, dec, turns):
    found_ra, found_dec = geometry.position(3.0 * geometry.unit_vectors(ra + 360 * turns, dec))
    assert 0 <= found_ra < 360
    assert found_dec == pytest.approx(dec, abs=1e-6)  # 1e-8 radian: at a pole the cosine is what is known
    off = (found_ra - ra + 180) % 360 - 180
    assert abs(off) * math.cos(math.radians(dec)) < 1e-11
    mean_ra, mean_dec = geometry.mean_position([ra, ra + 360 * turns], [dec, dec])
    assert 0 <= mean_ra < 360
    assert mean_dec == pytest.approx(dec, abs=1e-6)


@examples(100)
@given(ra=RA, dec=DEC, size=SIZE, x=st.floats(-2, 2), y=st.floats(-2, 2))
def test_a_square_has_its_area_and_contains_what_is_in_it(ra, dec, size, x, y):
    square = SkyPolygon.of_square(ra, dec, size)
    half = math.radians(size / 2)
    solid_angle = 4 * math.atan(half**2 / math.sqrt(1 + 2 * half**2))
    assert square.area_deg2 == pytest.approx(solid_angle * math.degrees(1) ** 2, rel=1e-9)
    middle, east, north = geometry.sphere._local_frame(ra, dec)
    inside = max(abs(x), abs(y))
    assume(abs(inside - 1) > 1e-6)
    point = geometry.position(middle + half * (x * east + y * north))
    assert square.contains(*point) == (inside < 1)
    assert square.contains(*geometry.position(-middle)) == np.False_
    for shrunk, expected in ((1 - 1e-6, True), (1 + 1e-6, False)):
        corners = geometry.position(square.middle + shrunk * (square.vertices - square.middle))
        assert (square.contains(*corners) == expected).all()


@dataclass(frozen=True)
class Places:
    """Squares around one place of the sky, each by its offset, size and position angle."""

    ra: float
    dec: float
    squares: tuple[tuple[float, float, float, float], ...]

    def vertices(self, k, growth=1.0):
        """Unit vectors, (4, 3)."""
        x0, y0, size, angle = self.squares[k]
        middle, east, north = geometry.sphere._local_frame(self.ra, self.dec)
        c, s = math.cos(angle), math.sin(angle)
        corners = [
            (x0 + growth * size * (c * i - s * j), y0 + growth * size * (s * i + c * j))
            for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        vectors = np.array([middle + math.radians(x) * east + math.radians(y) * north for x, y in corners])
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def places(n):
    square = st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.05, 1), st.floats(0, 2))
    return st.builds(Places, RA, DEC, st.lists(square, min_size=n, max_size=n).map(tuple))


@examples(150)
@given(where=places(2), data=st.data())
def test_whether_polygons_touch_is_symmetric_and_agrees_with_what_they_contain(where, data):
    one, other = (SkyPolygon(where.vertices(k)) for k in (0, 1))
    touch = one.intersects(other)
    # Where they touch but for rounding, either may come out, also of the two orders.
    tight, loose = (SkyPolygon(where.vertices(0, growth)).intersects(other) for growth in (1 - 1e-9, 1 + 1e-9))
    assume(tight == loose)
    assert touch == other.intersects(one) == tight
    assert SkyPolygon(one.vertices[::-1]).intersects(SkyPolygon(np.roll(other.vertices, 1, axis=0))) == touch
    mixture = data.draw(hnp.arrays(float, (20, 4), elements=st.floats(0, 1)))
    points = geometry.position((mixture + 1e-3) @ one.vertices)  # inside the first, which is convex
    if other.contains(*points).any() or one.contains(*geometry.position(other.vertices)).any():
        assert touch
    # The same verdict as that of the pairs of an image.
    corners = np.array([np.stack(geometry.position(p.vertices[[0, 1, 3, 2]]), axis=-1) for p in (one, other)])
    large = np.full(2, 10**9)  # pixels so small that the outline is that of the corners
    assert (find_pairs(corners, large, large)[0].size == 1) == touch


NUMBERS = (
    st.floats(-400, 400) | st.sampled_from([0.0, math.nan, math.inf, 90.0, -90.0, 1e-300, 1e300]) | st.text(max_size=3) | st.none()
)
WCS_KEYS = (
    "CRVAL1",
    "CRVAL2",
    "CRPIX1",
    "CRPIX2",
    "CD1_1",
    "CD1_2",
    "CD2_1",
    "CD2_2",
    "CDELT1",
    "CROTA2",
    "PV1_1",
    "PV2_0",
    "LONPOLE",
    "EQUINOX",
)
KINDS = st.sampled_from(
    ["RA---TAN", "DEC--TAN", "RA---TPV", "DEC--TPV", "RA---SIN", "RA---XXX", "DEC--XXX", "GLON-CAR", "", "RA---TAN-SIP"]
)


@examples(150)
@given(changes=st.dictionaries(st.sampled_from(WCS_KEYS), NUMBERS, max_size=6), kinds=st.tuples(KINDS, KINDS), usual=st.booleans())
def test_any_header_gives_positions_or_says_why_it_has_none(changes, kinds, usual):
    cards = {"CRVAL1": 10.0, "CRVAL2": -70.0, "CRPIX1": 50.5, "CRPIX2": 40.5, "CD1_1": -7e-5, "CD2_2": 7e-5, **changes}
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = ("RA---TAN", "DEC--TAN") if usual else kinds
    for key, value in cards.items():
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)  # as real headers have it
        if value is not None and (not isinstance(value, str) or (value.isascii() and value.isprintable())):
            header[key] = value

    def read():
        wcs = geometry.celestial_wcs(header)
        return geometry.corners(wcs, (80, 100)), geometry.centre(wcs, (80, 100)), SkyPolygon.of_detector(wcs, (80, 100))

    found, message = outcome(read, ExposureError, InputError)
    if found is None:
        assert "WCS" in message or "radius" in message
        return
    corners, (ra, dec), outline = found
    assert ((corners[:, 0] >= 0) & (corners[:, 0] < 360)).all()
    assert (np.abs(corners[:, 1]) <= 90).all()
    assert 0 <= ra < 360
    assert abs(dec) <= 90
    assert np.isfinite(outline.area_deg2)


@examples(60)
@given(
    ra=RA,
    dec=DEC,
    scale=st.floats(0.05, 5),
    angle=st.floats(0, 2 * math.pi),
    flip=st.sampled_from([1, -1]),
    nx=st.integers(20, 500),
)
def test_pixels_have_their_place_and_area_anywhere(ra, dec, scale, angle, flip, nx):
    header, ny = fits.Header(), 2 * nx
    header["CTYPE1"], header["CTYPE2"], header["CRVAL1"], header["CRVAL2"] = "RA---TAN", "DEC--TAN", ra, dec
    header["CRPIX1"], header["CRPIX2"] = (nx + 1) / 2, (ny + 1) / 2
    c, s = scale / 3600 * math.cos(angle), scale / 3600 * math.sin(angle)
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = flip * c, -s, flip * s, c
    wcs = geometry.celestial_wcs(header)
    centre = geometry.centre(wcs, (ny, nx))
    assert np.linalg.norm(geometry.unit_vectors(*centre) - geometry.unit_vectors(ra, dec)) < 1e-11
    assert geometry.pixel_scale(wcs, (ny, nx)) == pytest.approx(scale, rel=1e-6)
    outline = SkyPolygon.of_detector(wcs, (ny, nx))
    assert outline.contains(ra, dec)
    x, y = np.meshgrid((np.arange(20) + 0.5) * nx / 20 - 0.5, (np.arange(20) + 0.5) * ny / 20 - 0.5)
    total = geometry.pixel_area_arcsec2(wcs, x, y).mean() * nx * ny
    assert outline.area_deg2 * 3600**2 == pytest.approx(total, rel=1e-4)
    assert outline.contains(*geometry.corners(wcs, (ny, nx)).T).all()


# ---- backgrounds


@dataclass(frozen=True)
class Pairs:
    """Differences of detectors, as they come: some twice, some of equal size, some far off."""

    n: int
    first: np.ndarray
    second: np.ndarray
    difference: np.ndarray
    error: np.ndarray
    own: np.ndarray

    def solved(self, **options):
        arguments = {"own": self.own, "own_error": 5.0, **options}
        return solve(self.n, self.first, self.second, self.difference, self.error, **arguments)


VALUES = (
    st.integers(-8, 8).map(float)
    | st.floats(-50, 50, allow_subnormal=False).map(lambda x: round(x, 6))
    | st.sampled_from([0.0, 1e3, -1e3])
)


@st.composite
def graphs(draw, largest=9):
    n = draw(st.integers(2, largest))
    k = draw(st.integers(1, 24))
    ends = hnp.arrays(np.int64, k, elements=st.integers(0, n - 1))
    error = hnp.arrays(
        float, k, elements=st.sampled_from([0.5, 1.0, 2.0]) | st.floats(0.1, 9, allow_subnormal=False).map(lambda x: round(x, 3))
    )
    first, second = draw(ends), draw(ends)
    return Pairs(
        n, first, second, draw(hnp.arrays(float, k, elements=VALUES)), draw(error), draw(hnp.arrays(float, n, elements=VALUES))
    )


FIELDS = ("background", "error", "component", "n_pairs", "n_rejected", "gradient", "step")


def each_once(graph):
    """The same without pairs that are there again, in either sense: parts of an overlap belong to one."""
    ends = np.sort([graph.first, graph.second], axis=0)
    kept = np.sort(np.unique(ends, axis=1, return_index=True)[1])
    return replace(graph, **{name: getattr(graph, name)[kept] for name in ("first", "second", "difference", "error")})


def parts_of(graph, seed):
    """Exposures, and differences in the parts of the overlaps, at places drawn by number; some are not measured."""
    rng = np.random.default_rng(seed)
    k = graph.first.size
    blocks = graph.difference[:, None] + rng.normal(0, 1, (k, 4)).round(3)
    blocks[rng.random((k, 4)) < 0.2] = np.nan
    return rng.integers(0, 3, graph.n), blocks, np.tile(graph.error[:, None], 4), rng.uniform(-1, 1, (k, 4, 2, 3)).round(3)


@examples(35)
@given(
    graph=graphs(),
    seed=st.integers(0, 2**32 - 1),
    robust=st.booleans(),
    plane=st.sampled_from(["none", "exposure-plane", "detector-plane"]),
)
def test_any_order_and_sense_of_the_pairs_gives_the_same_bits(graph, seed, robust, plane):
    graph = graph if plane == "none" else each_once(graph)
    rng = np.random.default_rng(seed)
    to, order, turned = rng.permutation(graph.n), rng.permutation(graph.first.size), rng.random(graph.first.size) < 0.5
    sign = np.where(turned, -1.0, 1.0)
    names = rng.permutation(graph.n)
    first, second = to[graph.first[order]], to[graph.second[order]]
    old = np.argsort(to)
    shuffled = Pairs(
        graph.n,
        np.where(turned, second, first),
        np.where(turned, first, second),
        sign * graph.difference[order],
        graph.error[order],
        graph.own[old],
    )
    shapes = None, None
    if plane != "none":
        exposure, blocks, errors, at = parts_of(graph, seed)
        there = np.where(turned[:, None, None, None], at[order][:, :, ::-1], at[order])
        shapes = (
            Shape(exposure, blocks, errors, at, plane),
            Shape(exposure[old], sign[:, None] * blocks[order], errors[order], there, plane),
        )
    a = graph.solved(robust=robust, key=names, shape=shapes[0])
    b = shuffled.solved(robust=robust, key=names[old], shape=shapes[1])
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(b, name)[to], getattr(a, name), err_msg=name)
    np.testing.assert_array_equal(b.weight, a.weight[order])
    np.testing.assert_array_equal(b.rejected, a.rejected[order])
    assert a.scale == b.scale


@examples(35)
@given(graph=graphs(), power=st.integers(-20, 20), robust=st.booleans())
def test_another_unit_gives_the_same_answer_in_that_unit(graph, power, robust):
    """Powers of two change no digit: to the bit."""
    factor = 2.0**power
    scaled = Pairs(graph.n, graph.first, graph.second, factor * graph.difference, factor * graph.error, factor * graph.own)
    a, b = graph.solved(robust=robust), scaled.solved(robust=robust, own_error=factor * 5.0)
    for name in ("background", "error"):
        np.testing.assert_array_equal(getattr(b, name), factor * getattr(a, name), err_msg=name)
    np.testing.assert_array_equal(b.weight, a.weight)
    np.testing.assert_array_equal(b.rejected, a.rejected)
    assert a.scale == b.scale


@examples(35)
@given(
    graph=graphs(),
    shift=st.floats(-1e4, 1e4, allow_subnormal=False),
    robust=st.booleans(),
    own_error=st.sampled_from([5.0, math.inf]),
)
def test_a_higher_sky_raises_all_backgrounds_and_nothing_else(graph, shift, robust, own_error):
    higher = Pairs(**{**vars(graph), "own": graph.own + shift})
    a, b = (g.solved(robust=robust, own_error=own_error) for g in (graph, higher))
    np.testing.assert_allclose(b.background, a.background + shift, atol=1e-5)
    np.testing.assert_array_equal(b.component, a.component)
    np.testing.assert_allclose(b.residual, a.residual, atol=1e-5)


@examples(35)
@given(graph=graphs(), levels=hnp.arrays(float, 9, elements=VALUES))
def test_a_level_more_in_a_detector_is_a_level_more_in_its_background(graph, levels):
    """Least squares are linear; with rejection, pairs that are just at its limit may fall to the other side by rounding."""
    more = levels[: graph.n]
    other = Pairs(
        **{**vars(graph), "difference": graph.difference + more[graph.second] - more[graph.first], "own": graph.own + more}
    )
    a, b = (g.solved(robust=False) for g in (graph, other))
    np.testing.assert_allclose(b.background, a.background + more, atol=1e-5)
    np.testing.assert_allclose(b.error, a.error, rtol=1e-4)


@examples(35)
@given(graph=graphs(), own=VALUES, robust=st.booleans(), at=st.integers(0, 9))
def test_a_detector_without_overlaps_changes_nothing(graph, own, robust, at):
    """Also where it stands among the others."""
    at = min(at, graph.n)
    kept = np.delete(np.arange(graph.n + 1), at)
    larger = Pairs(graph.n + 1, kept[graph.first], kept[graph.second], graph.difference, graph.error, np.insert(graph.own, at, own))
    a, b = graph.solved(robust=robust), larger.solved(robust=robust)
    for name in ("background", "error", "n_pairs", "n_rejected"):
        np.testing.assert_array_equal(getattr(b, name)[kept], getattr(a, name), err_msg=name)
    assert (b.background[at], b.n_pairs[at], a.scale) == (own, 0, b.scale)
    assert np.isnan(b.error[at])
    np.testing.assert_array_equal(b.weight, a.weight)


@examples(35)
@given(graph=graphs(), other=graphs())
def test_components_do_not_know_of_each_other(graph, other):
    """In least squares; what is robust shares its scale."""
    together = Pairs(
        graph.n + other.n,
        np.concatenate([graph.first, graph.n + other.first]),
        np.concatenate([graph.second, graph.n + other.second]),
        *(np.concatenate([getattr(graph, name), getattr(other, name)]) for name in ("difference", "error", "own")),
    )
    a, b, both = (g.solved(robust=False) for g in (graph, other, together))
    np.testing.assert_allclose(both.background, np.concatenate([a.background, b.background]), atol=1e-6)
    np.testing.assert_array_equal(both.n_pairs, np.concatenate([a.n_pairs, b.n_pairs]))
    np.testing.assert_array_equal(both.component[graph.n :] - both.component[: graph.n].max(), b.component)


@examples(35)
@given(graph=graphs(), robust=st.booleans(), data=st.data())
def test_pairs_that_say_nothing_change_nothing(graph, robust, data):
    bad = data.draw(
        st.lists(
            st.sampled_from(
                [(math.nan, 1.0), (math.inf, 1.0), (-math.inf, 1.0), (1.0, math.nan), (1.0, math.inf), (1.0, 0.0), (1.0, -1.0)]
            ),
            min_size=1,
        )
    )
    difference, error = np.array(bad).T
    ends = hnp.arrays(np.int64, len(bad), elements=st.integers(0, graph.n - 1))
    more = Pairs(
        graph.n,
        np.concatenate([data.draw(ends), graph.first]),
        np.concatenate([data.draw(ends), graph.second]),
        np.concatenate([difference, graph.difference]),
        np.concatenate([error, graph.error]),
        graph.own,
    )
    a, b = graph.solved(robust=robust), more.solved(robust=robust)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(b, name), getattr(a, name), err_msg=name)
    assert (b.weight[: len(bad)] == 0).all()
    assert not b.rejected[: len(bad)].any()
    np.testing.assert_array_equal(b.weight[len(bad) :], a.weight)


@examples(35)
@given(graph=graphs())
def test_the_answer_is_finite_and_its_numbers_agree(graph):
    solution = graph.solved()
    assert np.isfinite(solution.background).all()
    used = graph.first != graph.second
    counted = np.bincount(graph.first[used], minlength=graph.n) + np.bincount(graph.second[used], minlength=graph.n)
    np.testing.assert_array_equal(solution.n_pairs, counted)
    assert (solution.n_rejected <= solution.n_pairs).all()
    assert (np.isfinite(solution.error) == (counted > 0)).all()
    assert ((solution.weight >= 0) & (solution.weight <= 1 + 1e-12)).all()
    assert (solution.component[graph.first] == solution.component[graph.second]).all()
    np.testing.assert_allclose(
        solution.residual, graph.difference - solution.background[graph.second] + solution.background[graph.first], atol=1e-9
    )


# ---- bytes


@examples(100)
@given(raw=st.binary(max_size=100), a=st.integers(0, 2**32 - 1), b=st.integers(0, 2**32 - 1), c=st.integers(0, 2**32 - 1))
def test_sums_are_astropys(raw, a, b, c):
    padded = raw.ljust(-(-len(raw) // 4) * 4, b"\0")
    hdu = fits.ImageHDU()
    assert checksum.datasum(raw) == hdu._compute_checksum(np.frombuffer(padded, np.uint8))
    assert checksum.encode(a) == hdu._char_encode(0xFFFFFFFF - a)
    assert checksum.add(a, checksum.add(b, c)) == checksum.add(checksum.add(a, b), c) == checksum.add(c, checksum.add(a, b))
    half = len(raw) // 8 * 4
    assert checksum.add(checksum.datasum(raw[:half]), checksum.datasum(raw[half:])) == checksum.datasum(raw)


KEYWORDS = st.from_regex(r"[A-Z][A-Z0-9_-]{0,7}", fullmatch=True).filter(
    lambda key: (
        key
        not in ("SIMPLE", "END", "COMMENT", "HISTORY", "CONTINUE", "HIERARCH", "CHECKSUM", "DATASUM", "EXTEND", "GROUPS", "BLOCKED")
        and not key.startswith(("NAXIS", "BITPIX", "PCOUNT", "GCOUNT", "XTENSION", "RVKC", "DP", "DQ"))
    )
)
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
CARD_TEXT = st.text(PRINTABLE, max_size=200).map(str.rstrip).filter(lambda text: not text.endswith("&"))
CARD_VALUES = st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False) | CARD_TEXT


@examples(100)
@given(
    cards=st.dictionaries(KEYWORDS, st.tuples(CARD_VALUES, st.text(PRINTABLE, max_size=60)), max_size=8),
    data=st.binary(max_size=50),
)
def test_headers_and_sums_are_read_by_astropy_as_they_were_meant(cards, data):
    structure = {"SIMPLE": (True, ""), "BITPIX": (8, ""), "NAXIS": (1, ""), "NAXIS1": (len(data), "")}
    parts = hdu_bytes({**structure, **cards}, data)
    assert all(len(part) % 2880 == 0 for part in parts)
    assert checksum.datasum(b"".join(parts)) in (0, 0xFFFFFFFF)
    header = fits.Header.fromstring(parts[0].decode("ascii"))
    for key, (value, _) in cards.items():
        assert header[key] == value
        assert isinstance(header[key], type(value))
    assert int(header["DATASUM"]) == checksum.datasum(data)
    assert parts == hdu_bytes({**structure, **cards}, data)


COLUMN_FORMS = st.sampled_from(["B", "I", "J", "K", "E", "D", "3A", "2J", "12X", "PB", "PI", "QE", "PJ"])


@examples(60)
@given(forms=st.lists(COLUMN_FORMS, min_size=1, max_size=5), rows=st.integers(1, 4), seed=st.integers(0, 999))
def test_tables_are_laid_out_as_astropy_writes_them(forms, rows, seed):
    rng = np.random.default_rng(seed)
    columns = []
    for k, form in enumerate(forms):
        kind = {"B": np.uint8, "I": np.int16, "J": np.int32, "K": np.int64, "E": np.float32, "D": np.float64}.get(
            form[-1], np.uint8
        )
        if form[0] in "PQ":
            array = np.empty(rows, dtype=object)
            array[:] = [rng.integers(0, 99, rng.integers(0, 5)).astype(kind) for _ in range(rows)]
        else:
            count = int(form[:-1] or 1)
            array = rng.integers(0, 99, (rows, count) if count > 1 else rows).astype(kind)
            array = array > 50 if form[-1] == "X" else np.full(rows, "ab") if form[-1] == "A" else array
        columns.append(fits.Column(f"c{k}", f"{form}()" if form[0] in "PQ" else form, array=array))
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(stream)
    with fits.open(io.BytesIO(stream.getvalue())) as hdus:
        header, where = hdus[1].header, hdus[1].fileinfo()
        raw = stream.getvalue()[where["datLoc"] :][: header["NAXIS1"] * header["NAXIS2"] + header["PCOUNT"]]
        found = bintable.table_columns(header)
        assert list(found) == [f"C{k}" for k in range(len(forms))]
        heap_start = bintable.heap_start_of(header, raw)
        for k, form in enumerate(forms):
            column, data = found[f"C{k}"], hdus[1].data[f"c{k}"]
            if form[0] in "PQ":
                starts, lengths = bintable.tile_ranges(header, raw, column, heap_start)
                for row, start, length in zip(data, starts, lengths, strict=True):
                    assert raw[start : start + length] == row.astype(row.dtype.newbyteorder(">")).tobytes()
            elif len(form) == 1:
                np.testing.assert_array_equal(bintable.table_values(header, raw, column), data)


HEADER_VALUES = (
    st.integers(-3, 40) | st.booleans() | st.sampled_from(["1PB(9)", "1D", "99999999999999D", "PB", "", "Z", "0J", "1QB", "J"])
)


@examples(150)
@given(
    cards=st.dictionaries(
        st.sampled_from(["TFIELDS", "NAXIS1", "NAXIS2", "PCOUNT", "THEAP", "TFORM1", "TFORM2", "TTYPE1", "TTYPE2"]), HEADER_VALUES
    ),
    raw=st.binary(max_size=120),
)
def test_a_damaged_table_is_no_table_or_an_error_in_words(cards, raw):
    header = fits.Header({"NAXIS1": 16, "NAXIS2": 2, "TFIELDS": 1, "TFORM1": "1PB(9)", "TTYPE1": "X", **cards})
    for column in bintable.table_columns(header).values():
        assert 0 <= column.offset <= 40
        sizes = header["NAXIS1"], header["NAXIS2"]
        if column.code in "PQ" and all(type(size) is int and size >= 0 for size in sizes):
            ranges, message = outcome(
                lambda column=column: bintable.tile_ranges(header, raw, column, bintable.heap_start_of(header, raw)), ExposureError
            )
            if ranges is None:
                assert "damaged" in message
            else:
                starts, lengths = ranges
                assert ((starts >= 0) & (lengths >= 0) & (starts + lengths <= len(raw))).all()


@examples(60)
@given(values=hnp.arrays(np.int16, st.integers(0, 40)), cut=st.integers(0, 60), flip=st.integers(0, 500))
def test_a_packed_row_comes_back_or_is_called_damaged(values, cut, flip):
    whole = gzip.compress(values.astype(">i2").tobytes(), mtime=0)
    kind = np.dtype(">i2")
    np.testing.assert_array_equal(bintable.unpack_row(whole, 0, len(whole), 0, kind, values.size), values)
    damaged = bytearray(whole[: len(whole) - cut % len(whole)])
    damaged[flip % len(damaged)] ^= 1 << flip % 8
    found, message = outcome(lambda: bintable.unpack_row(bytes(damaged), 0, len(damaged), 6, kind, values.size), ExposureError)
    assert "row 7 is damaged" in message if found is None else found.size == values.size
    with pytest.raises(ExposureError, match="row 1 is damaged"):
        bintable.unpack_row(struct.pack(">20B", *range(20)), 0, 20, 0, kind, 3)
