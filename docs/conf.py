"""How Sphinx builds the manual: ``make docs``. Nothing is fetched from anywhere, and a warning ends the build."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import generate  # noqa: E402 - beside this file

import kred_core  # noqa: E402

project = "kred"
author = "The kred developers"
copyright = "The kred developers; BSD 3-clause licence"
version = release = kred_core.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "matplotlib.sphinxext.mathmpl"]
exclude_patterns = ["_build", "_generated"]
default_role = "py:obj"  # `name` in docstrings
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
numpydoc_show_class_members = False  # each class is described where it stands, attributes by its own docstring
autodoc_typehints = "none"  # docstrings say types, shapes and units
autodoc_member_order = "bysource"
mathmpl_fontsize = 14.0
mathmpl_srcset = ["2x"]

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["manual.css"]
html_title = f"kred {version}"
html_copy_source = False
html_show_sphinx = False


def setup(app):
    """Write the generated parts of the reference before anything is read."""
    app.connect("builder-inited", lambda app: generate.write_all(DOCS / "_generated"))
