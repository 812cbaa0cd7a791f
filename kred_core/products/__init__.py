"""Where products are, and how they are written.

Nobody else joins paths below the data root, and nobody else writes a file there.
"""

from .paths import Clash, FieldPaths, find_clash, grouped, same_file, service_state, table_names, unfinished_discovery
from .writing import atomic, discard, identity, link_all, read_record, scratch, write_record, write_text

__all__ = [
    "Clash",
    "FieldPaths",
    "atomic",
    "discard",
    "find_clash",
    "grouped",
    "identity",
    "link_all",
    "read_record",
    "same_file",
    "scratch",
    "service_state",
    "table_names",
    "unfinished_discovery",
    "write_record",
    "write_text",
]
