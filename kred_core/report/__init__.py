"""The page for people who only want to look: one static file for each field, and one that leads to all of them.

Made from what is on disk, whoever made that and when; no run is needed for it (``python -m kred_core.report FIELD``).
The same files give the same bytes: the times on it are those that the runs recorded.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..products import FieldPaths, discard, read_record, write_record, write_text
from ..products.locks import held

__all__ = ["inputs", "write_field_page", "write_fields_page"]


def inputs(paths: FieldPaths) -> list[Path]:
    """Return the files that the page of a field depends on, as far as they exist: tables, records, everything beside the page."""
    below = paths.page.parent
    directories = sorted(path for path in below.iterdir() if path.is_dir()) if below.is_dir() else []
    directories.append(paths.reduced("", "").parent)
    found = [path for directory in directories if directory.is_dir() for path in sorted(directory.glob("[!.]*"))]
    tables = [paths.quality_table, paths.exposure_table, paths.matching_table, paths.overlap_table, paths.mosaic_table]
    return [paths.run_config, paths.record("run", "last"), *tables, *found]


def write_field_page(paths: FieldPaths) -> list[Path]:
    """Make the page of a field from what is on disk; returns it, and the record of what the page of all fields says of it.

    Raises
    ------
    InputError
        There is nothing of this field, or nobody knows where it is.
    """
    from .contents import gather
    from .page import card, field_page

    if not paths.mef.is_dir() and not paths.page.parent.is_dir():
        raise InputError(f"there is nothing of a field {paths.field} in {paths.root}: neither {paths.mef} nor {paths.page.parent}")
    contents = gather(paths)
    write_text(paths.page, field_page(contents))
    record = paths.record("report", "card")
    write_record(record, card(contents))
    return [paths.page, record]


def write_fields_page(paths: FieldPaths) -> None:
    """Make the page of all fields from the cards that the fields keep of themselves; one that has not changed keeps its time.

    Under a lock, so that two fields which end at the same moment are both on it, whoever writes last.
    """
    from .page import fields_page

    target = paths.all_fields_page
    with held([paths.all_fields_lock], paths.field, lambda holder: None):
        for leftover in target.parent.glob(f".{target.name}.*"):  # of a run that was killed: this one holds the lock
            discard(leftover)
        cards = [(other, read_record(other.record("report", "card")) or {}) for other in paths.with_pages()]
        write_text(target, fields_page(target, cards))
