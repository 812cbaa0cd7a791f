"""Where products are, and how they are written.

Nobody else joins paths below the data root, and nobody else writes a file there.
"""

from .paths import FieldPaths, service_memory
from .writing import atomic, discard, identity, link, link_all, read_record, write_record, write_text

__all__ = [
    "FieldPaths",
    "atomic",
    "discard",
    "identity",
    "link",
    "link_all",
    "read_record",
    "service_memory",
    "write_record",
    "write_text",
]
