"""Do again only what is missing or out of date: units of work, what each depends on, and what is remembered of it.

For one unit (an exposure, a tile, a mosaic, an image) a `Step` says what the products depend on (`Work`). Doing it returns a
`Manifest` of the products, which is kept as JSON under a digest of all that; a unit is done again when no record has that
digest, or when a product is not on disk any more as its record says. Files below the data root are told by their paths from
there, so a data root that is moved, or copied with its times, stays up to date. Records may be deleted at any time, which
costs the work again and nothing else. They are data: whoever can write one can make nobody execute anything.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from ..config import FieldConfig
from ..errors import InputError, KredError
from ..products import FieldPaths, atomic, discard, identity
from ..products.locks import exclusive
from ..words import some

NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})  # a name of no file, or a link that leads to itself
REFUSED = "refused"  # among the values of a manifest: why nobody can go on with this unit
LOCK = "lock"  # in the directory of a unit; all other files there are records, or hidden ones in the making

Identity = tuple[str, int | None, int | None]  # path, size in bytes and time of modification in ns, where it exists
Unit = tuple[str, dict[str, Any]]  # name, for people, and the arguments of the step beside the configuration


@dataclass(frozen=True)
class Work:
    """What one call of a step works on, and everything its products depend on."""

    unit: str  # exposure, tile or mosaic; no two calls of a step in one field share it
    files: Iterable[Path] = ()  # one that does not exist counts too: the work is done again when it appears
    options: Iterable[BaseModel] = ()  # the sections that this step reads, and no others, without names of files
    facts: Mapping[str, Any] = field(default_factory=dict)  # other plain values that the products depend on

    def identities(self, root: Path) -> list[Identity]:
        """Return the input files as they are now, those below the data root by their paths from there."""
        return [_identity(path, root) for path in self.files]

    def digest(self, root: Path) -> str:
        """Return a hexadecimal digest of all that the products depend on."""
        options = [[type(section).__name__, section.model_dump(mode="json")] for section in self.options]
        content = [self.identities(root), options, self.facts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def _identity(path: Path, root: Path) -> Identity:
    try:
        return _from_root(path, root), *identity(path)[1:]
    except OSError as e:
        if e.errno not in NOWHERE:
            raise
        return _from_root(path, root), None, None


def _from_root(path: Path, root: Path) -> str:
    """The path of a file from the data root, where it is below it."""
    place, top = path.absolute(), root.absolute()
    return str(place.relative_to(top) if place.is_relative_to(top) else place)


class Manifest(BaseModel):
    """What a step made: its files as they were when it ended, and small facts for later stages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    products: tuple[tuple[str, int, int], ...] = ()  # path, size in bytes, time of modification in ns
    values: dict[str, JsonValue] = {}

    @classmethod
    def of(cls, paths: Iterable[Path] = (), **values: Any) -> Manifest:
        """Make the manifest of files that have just been written."""
        return cls(products=tuple(identity(path.absolute()) for path in paths), values=values)

    @classmethod
    def of_figures(cls, paths: Iterable[Path]) -> Manifest:
        """Make the manifest of files among which figures are, and give back the memory that these took."""
        gc.collect()  # a figure refers to itself in a hundred ways: tens of MB until Python looks, which it does after many of them
        return cls.of(paths)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The products' paths."""
        return tuple(Path(path) for path, _, _ in self.products)

    def matches_disk(self) -> bool:
        """Whether every product is still the file that the step wrote."""
        try:
            return all(identity(Path(path)) == (path, *rest) for path, *rest in self.products)
        except (OSError, ValueError):  # ValueError: no path at all
            return False

    def to_record(self, root: Path) -> bytes:
        """Return it as JSON, with the products' paths from the data root."""
        products = tuple((_from_root(Path(path), root), *rest) for path, *rest in self.products)
        return self.model_copy(update={"products": products}).model_dump_json().encode()


def read_manifest(record: Path, root: Path) -> Manifest | None:
    """Return the manifest in a record of a data root, or None where the file is none or cannot be read."""
    try:
        found = Manifest.model_validate_json(record.read_bytes())
    except (OSError, ValidationError):
        return None
    products = tuple((str(root.absolute() / path), *rest) for path, *rest in found.products)
    return found.model_copy(update={"products": products})


@dataclass(frozen=True)
class Step:
    """A kind of work that is done unit by unit."""

    name: str  # of its tasks and of its records
    version: int  # increase it when the step computes something else than before from the same inputs
    work: Callable[..., Work]  # called with the configuration and the arguments of a unit: what they mean
    function: Callable[..., Manifest]  # called in the same way: does the work

    def record(self, config: FieldConfig, arguments: dict[str, Any]) -> Path:
        """Return the file that remembers a unit as it would be done now, if any does: results/step/unit/version-digest."""
        work = self.work(config, **arguments)
        unit = (FieldPaths.of(config).state / "results").absolute() / self.name / work.unit
        return unit / f"{self.version}-{work.digest(config.root)}"

    def is_current(self, config: FieldConfig, arguments: dict[str, Any]) -> bool:
        """Whether a run would find a unit complete and up to date, and not do it."""
        manifest = None if config.run.redo else read_manifest(self.record(config, arguments), config.root)
        return manifest is not None and manifest.matches_disk()

    def ensure(self, config: FieldConfig, arguments: dict[str, Any]) -> tuple[Manifest, bool]:
        """Do a unit unless it is complete and up to date; return its manifest and whether there was nothing to do.

        Two runs at once share the work instead of doing it twice.
        """
        record = self.record(config, arguments)
        with exclusive(record.with_name(LOCK)):
            _forget_outdated(record, config.root)
            if not config.run.redo and (manifest := read_manifest(record, config.root)):
                return manifest, True
            manifest = self._do(config, arguments)
            with atomic(record) as temporary:
                temporary.write_bytes(manifest.to_record(config.root))
        return manifest, False

    def _do(self, config: FieldConfig, arguments: dict[str, Any]) -> Manifest:
        """Do a unit, whatever is remembered; what is made while the input changes belongs to no version, and is removed."""
        before = self.work(config, **arguments).identities(config.root)

        def require_unchanged(error: Exception | None = None) -> None:
            changed = set(before) ^ set(self.work(config, **arguments).identities(config.root))
            if changed:  # that may be why it has failed, too
                names = some({Path(path).name for path, *_ in changed})
                message = f"changed while it was being read: {names}; when it is whole, run the same command again"
                raise InputError(message) from error

        try:
            manifest = self.function(config, **arguments)
        except (KredError, OSError, MemoryError) as e:
            require_unchanged(e)
            raise
        try:
            require_unchanged()
        except InputError:
            for path in manifest.paths:
                path.unlink(missing_ok=True)
            raise
        return manifest


def _forget_outdated(wanted: Path, root: Path) -> None:
    """Remove the records of a unit that speak of other inputs, or of products that are not on disk any more."""
    unit = wanted.parent
    for path in unit.iterdir() if unit.is_dir() else ():
        if path.name == LOCK or path.name.startswith("."):
            continue
        manifest = read_manifest(path, root) if path == wanted else None
        if manifest is None or not manifest.matches_disk():
            discard(path)
