"""What stages remember of their work: plain data, which can be read where others can write.

Prefect keeps the result of a task as a record that itself says how it is to be read, by pickle for instance, or with any
function that it names. The records of kred lie in the data root, where colleagues may write, and whoever can write a record could
so make the next run execute what he likes. So these hold a `Manifest` as JSON and nothing else, and
whatever says otherwise is no record. They are written as all products are: whole or not at all, and never through a link.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect.filesystems import LocalFileSystem
from prefect.serializers import Serializer
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from kred_core.errors import explain
from kred_core.products import atomic, identity

__all__ = ["Manifest", "ManifestSerializer", "RecordStorage", "read_manifest"]


class Manifest(BaseModel):
    """What a stage made: its files as they were when it ended, and small facts for later stages.

    Attributes
    ----------
    products : tuple of (path, size in bytes, time of modification in ns)
    values : dict
        Plain JSON values only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    products: tuple[tuple[str, int, int], ...] = ()
    values: dict[str, JsonValue] = {}

    @classmethod
    def of(cls, paths: Iterable[Path] = (), **values: JsonValue) -> Manifest:
        """Manifest of files that have just been written."""
        return cls(products=tuple(identity(path.absolute()) for path in paths), values=values)

    @classmethod
    def of_figures(cls, paths: Iterable[Path]) -> Manifest:
        """Manifest of files among which figures are; the memory that these took is free again."""
        gc.collect()  # a figure refers to itself in a hundred ways: tens of MB until Python looks, which it does after many of them
        return cls.of(paths)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The products' paths."""
        return tuple(Path(path) for path, _, _ in self.products)

    def matches_disk(self) -> bool:
        """Whether every product is still the file that the stage wrote."""
        return all(_is_still(*product) for product in self.products)


def _is_still(path: str, size: int, time_ns: int) -> bool:
    try:
        return identity(Path(path)) == (path, size, time_ns)
    except (OSError, ValueError):  # ValueError: no path at all
        return False


class ManifestSerializer(Serializer):
    """A `Manifest` as JSON; of the exception of a task that failed, which Prefect wants to keep too, the message."""

    type: str = Field(default="kred-manifest", frozen=True)

    def dumps(self, obj: Any) -> bytes:
        """The bytes of a manifest."""
        if isinstance(obj, Manifest):
            return obj.model_dump_json().encode()
        if isinstance(obj, BaseException):
            return json.dumps({"error": explain(obj)}).encode()
        raise TypeError(f"a stage remembers a Manifest, not {type(obj).__name__}")

    def loads(self, blob: bytes) -> Manifest:
        """The manifest, if that is what the bytes are."""
        return Manifest.model_validate_json(blob)


_OURS = json.loads(ManifestSerializer().model_dump_json())


def _is_record(content: bytes) -> bool:
    """Whether a record wants to be read in no other way than ours."""
    try:
        record = json.loads(content)
        return (
            set(record) == {"metadata", "result"}
            and isinstance(record["result"], str)
            and record["metadata"]["serializer"] == _OURS
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def read_manifest(path: Path) -> Manifest | None:
    """The manifest in a record, or None where the file is none or cannot be read."""
    try:
        content = path.read_bytes()
        return ManifestSerializer().loads(json.loads(content)["result"]) if _is_record(content) else None
    except (OSError, ValidationError):
        return None


class RecordStorage(LocalFileSystem):
    """Where Prefect finds and keeps the records below a directory."""

    _block_type_name = "kred records"

    def _place(self, path: str) -> Path:
        base = Path(self.basepath)
        place = base / path  # as it is: neither `~` nor links lead anywhere else
        if ".." in place.parts or not place.is_relative_to(base):
            raise ValueError(f"{path} is no name of a record")
        return place

    def read_path(self, path: str, _sync: bool = True) -> bytes:
        """The bytes of a record; anything else is an error, which to Prefect means that there is none."""
        content = self._place(path).read_bytes()
        if not _is_record(content):
            raise ValueError(f"{path} is no record of kred")
        return content

    def write_path(self, path: str, content: bytes, _sync: bool = True) -> str:
        """Keep a record; returns where."""
        place = self._place(path)
        with atomic(place) as temporary:
            temporary.write_bytes(content)
        return str(place)

    # Prefect asks for these only for asynchronous tasks, which no stage is.
    async def aread_path(self, path: str) -> bytes:
        return await asyncio.to_thread(self.read_path, path)

    async def awrite_path(self, path: str, content: bytes) -> str:
        return await asyncio.to_thread(self.write_path, path, content)
