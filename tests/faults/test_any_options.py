"""Options: any text, argument or variable gives a configuration, or an error in words."""

from __future__ import annotations

import contextlib
import io
import math
import os

import pytest
import tomli_w
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import examples, outcome
from pydantic import BaseModel, ValidationError

from kred_core.config import NAME, FieldConfig, RunConfig, Section
from kred_core.config.settings import field_config, service_config, survey_configs, to_toml
from kred_core.errors import ConfigError


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
