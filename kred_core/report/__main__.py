"""``python -m kred_core.report FIELD``: make the page of a field by hand, from what is on disk."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import KredError, explain
from ..products import FieldPaths
from ..words import program
from . import write_field_page, write_fields_page

DESCRIPTION = """\
Make the page of a field for people who only want to look, DECam_SWARP/<field>/index.html, from what is on disk,
and bring the page of all fields, DECam_SWARP/index.html, up to date. Each run of a field does this at its end."""


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog=program("python -m kred_core.report"), description=DESCRIPTION)
    parser.add_argument("fields", metavar="FIELD", nargs="+", help="field whose page is made, for example LMC_c42")
    parser.add_argument("--root", metavar="DIR", type=Path, default=Path("."), help="data root (default: here)")
    chosen = parser.parse_args(arguments)
    try:
        for field in chosen.fields:
            paths = FieldPaths(chosen.root, field)
            print(write_field_page(paths)[0])
            write_fields_page(paths)
    except (KredError, OSError) as e:
        print(f"error: {explain(e)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
