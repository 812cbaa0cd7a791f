"""Where products are, and how they are written.

Nobody else joins paths below the data root, and nobody else writes a file there.
"""

from .paths import FieldPaths, grouped, service_memory, unfinished_looks
from .writing import atomic, discard, identity, link, link_all, read_record, scratch, write_record, write_text

__all__ = [
    "FieldPaths",
    "atomic",
    "discard",
    "grouped",
    "identity",
    "link",
    "link_all",
    "read_record",
    "scratch",
    "service_memory",
    "unfinished_looks",
    "write_record",
    "write_text",
]
