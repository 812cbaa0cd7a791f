"""The manual says what is there: each option, product and column, and examples that do what they show."""

from __future__ import annotations

import importlib
import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import kred_core
from kred_core.products import FieldPaths, tables

PROJECT = Path(__file__).resolve().parents[1]
DOCS = PROJECT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if not p.relative_to(DOCS).parts[0].startswith("_"))
OTHER_PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "deployments/README.md")
ROOT_PAGES = [PROJECT / name for name in OTHER_PAGES]
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
WITH_EXAMPLES = [p for p in (*PAGES, *ROOT_PAGES) if EXAMPLE.search(p.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def generate():
    """The module that writes the generated parts of the reference."""
    sys.path.insert(0, str(DOCS))
    try:
        yield importlib.import_module("generate")
    finally:
        sys.path.remove(str(DOCS))


class TestReference:
    @pytest.mark.parametrize("command", ["kred reduce", "kred serve"])
    def test_every_option_that_a_command_knows_is_listed(self, generate, command):
        known = set(re.findall(r"--[a-z][a-z0-9.-]*", generate.help_of(command).split("\nexamples:")[0])) - {"--help"}
        cells = re.findall(r"^\| `--(\S+)`(?: \(`(\S+)`\))? \|", generate.options(), re.MULTILINE)
        listed = {name.removeprefix("no-").replace("_", "-") for cell in cells for name in cell}
        assert len(known) > 10
        assert {name.removeprefix("--").removeprefix("no-") for name in known} <= listed

    def test_an_option_has_its_default_its_bounds_and_its_meaning(self, generate):
        lines = {line.split("`")[1]: line for line in generate.options().splitlines() if line.startswith("| `")}
        assert lines["--coadd.memory"] == "| `--coadd.memory` | `1` | at least 0.25, at most 64 | " + (
            "Memory for one mosaic in the making, in GB (native engine). |"
        )
        assert " | `1,2,5` | list: whole numbers, at least 1, at most 8 | Codes" in lines["--coadd.mask-codes"]
        assert lines["--no-stamps.keep"].startswith("| `--no-stamps.keep` | yes | yes or no |")
        assert lines["--prepare.background"].startswith("| `--prepare.background` | `mode` | `mode`, `median`, `min`, `none` |")
        assert all(line.rstrip(" |").rsplit(" | ", 1)[1].strip() for line in lines.values())

    def test_every_column_of_every_table_is_listed_with_its_unit(self, generate):
        known = {id(v): n for n, v in vars(tables).items() if isinstance(v, tuple) and n.isupper() and n[0] != "_"}
        assert len(known) == 8
        assert set(known) <= {id(columns) for columns in generate.TABLES.values()}
        text = generate.table_columns()
        sections = dict(zip(generate.TABLES, re.split(r"^\([a-z-]+\)=$", text, flags=re.MULTILINE)[1:], strict=True))
        for name, columns in generate.TABLES.items():
            rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| (?:`([^`]+)`)? *\| .+ \|$", sections[name], re.MULTILINE)
            assert rows == [(c.name, c.unit) for c in columns], name

    def test_every_product_has_a_meaning_and_every_table_its_columns(self, generate):
        found = {name: (paths, meaning) for name, paths, meaning in generate.field_products()}
        assert {"mef", "mosaic", "binned_file", "page", "log", "quick_look", "matching_figure"} <= set(found)
        assert not [name for name, (_, meaning) in found.items() if not meaning]
        assert {name for name, (paths, _) in found.items() if paths[0].endswith(".tab")} == set(generate.TABLES)
        products = generate.products()
        assert not [name for name in found if f"`{name}` |" not in products]
        public = {name for name, member in vars(FieldPaths).items() if isinstance(member, property) and name[0] != "_"}
        inside = FieldPaths(Path("DATA"), "FIELD")
        below = {name for name in public if isinstance(getattr(inside, name), Path) and ".kred" not in getattr(inside, name).parts}
        assert below <= set(found)

    def test_words_that_look_like_markdown_stay_words(self, generate):
        assert generate._escaped("a * b_c | `d_e` <f>") == r"a \* b\_c \| `d_e` \<f\>"

    def test_the_functions_that_are_listed_can_be_imported(self):
        modules = re.findall(r"automodule:: (\S+)", (DOCS / "reference" / "api.md").read_text(encoding="utf-8"))
        assert len(modules) > 5
        for name in modules:
            assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_examples_in_python_do_what_they_show(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code, shown in EXAMPLE.findall(page.read_text(encoding="utf-8")):
        printed = StringIO()
        with redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), names)  # noqa: S102 - our own manual
        assert printed.getvalue() == shown


def test_there_are_examples():
    assert DOCS / "reference" / "api.md" in WITH_EXAMPLES


class TestPages:
    def test_the_readme_is_short(self):
        assert len((PROJECT / "README.md").read_text(encoding="utf-8")) <= 8000

    @pytest.mark.parametrize("page", [*PAGES, *ROOT_PAGES], ids=lambda page: page.relative_to(PROJECT).as_posix())
    def test_links_lead_to_files(self, page):
        links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        broken = [link for link in links if not re.match(r"https?:", link) and not (page.parent / link).exists()]
        assert not broken

    def test_every_page_is_in_the_table_of_contents(self):
        listed = set(re.findall(r"^[a-z-]+/[a-z-]+$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE))
        assert {p.relative_to(DOCS).with_suffix("").as_posix() for p in PAGES} == listed | {"index"}

    def test_modules_that_the_architecture_names_are_there(self):
        text = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8")
        named = set(re.findall(r"`((?:kred_core|flows|tasks|deployments|tests)/[\w./]*)`", text))
        assert len(named) > 15
        assert not [name for name in named if not (PROJECT / name).exists()]

    def test_the_citation_is_of_this_version(self):
        assert f"\nversion: {kred_core.__version__}\n" in (PROJECT / "CITATION.cff").read_text(encoding="utf-8")


def test_every_place_in_the_code_that_a_page_names_exists():
    named = re.compile(r"`((?:kred_core|flows|tasks|deployments|tests)/[\w./-]*)`")
    pages = {page: named.findall(page.read_text(encoding="utf-8")) for page in (*PAGES, *ROOT_PAGES)}
    assert sum(map(len, pages.values())) > 30
    assert {(page.name, place) for page, places in pages.items() for place in places if not (PROJECT / place).exists()} == set()
