"""What kred as a service knows beside Prefect: which fields are complete and new, and which files of a data root it shows.

Nothing tells when a copy is complete, least of all on a network file system. So a field is looked at again and again: it
is complete when none of its files has changed for a while and all can be read. What was seen and what was started is kept
in the field's own records, so that each content is reduced once. Knows nothing of Prefect: who starts runs passes two functions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from .config import NAME, DiscoverConfig
from .errors import ExposureError, InputError
from .fits import hdu
from .products import FieldPaths, read_record, write_record
from .products.roles import is_fits, named_kind
from .words import counted

__all__ = [
    "PLACE",
    "SERVED_ROOT",
    "Content",
    "DiscoveryRecord",
    "Finding",
    "RunState",
    "clock",
    "examine",
    "fields",
    "reduce_once",
    "served_address",
    "served_file",
]

log = logging.getLogger(__name__)

RunState = Literal["running", "done", "failed", "stopped"]
State = Literal["no exposures", "changing", "damaged", "complete", "started", "running", "done", "given up", "stopped"]


@dataclass(frozen=True)
class Content:
    """The files of a field as they are at one moment."""

    # Name, size in bytes, mtime in ns of all files, also of those that are not exposures: a copy in progress has such.
    files: tuple[tuple[str, int, int], ...]
    # When one of them last changed, came or went, by the clock of the file system, in ns since 1970; mtime a copy may take over.
    changed: int

    @classmethod
    def of(cls, paths: FieldPaths) -> Content:
        """Look at a field's directory."""
        found, changed = [], paths.mef.stat().st_mtime_ns
        for path in sorted(paths.mef.iterdir()):
            try:
                status = path.stat()
            except OSError:  # a link that leads nowhere, or a file that was renamed just now
                found.append((path.name, -1, -1))
            else:
                found.append((path.name, status.st_size, status.st_mtime_ns))
                changed = max(changed, status.st_ctime_ns)
        return cls(tuple(found), changed)

    @property
    def snapshot(self) -> str:
        """Digest of everything in the directory."""
        return _digest(self.files)

    @property
    def fingerprint(self) -> str:
        """Digest of what a reduction reads: exposures and masks."""
        return _digest(file for file in self.files if _is_read(file[0]))


def _is_read(name: str) -> bool:
    return is_fits(name) and named_kind(name) != "weight"  # another weight changes nothing


def _digest(files: Iterable[tuple]) -> str:
    return hashlib.sha256(json.dumps(list(files)).encode()).hexdigest()[:20]


class DiscoveryRecord(BaseModel):
    """What is remembered of a field from one look to the next."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    snapshot: str = ""  # of the directory at the last look
    since: float = 0.0  # when it was first seen like this, in s since 1970 by the clock of the file system
    is_new: bool = False  # it has been like this ever since the field was seen for the first time
    scanned: str = ""  # the snapshot whose files have been read
    damaged: tuple[str, ...] = ()  # what was wrong with them
    fingerprint: str = ""  # the content for which runs were started
    runs: tuple[str, ...] = ()  # these runs, the first try first
    outcome: Literal["", "done", "stopped", "given up"] = ""  # of the last one, where nothing more is to be done

    @classmethod
    def of(cls, paths: FieldPaths) -> DiscoveryRecord:
        """What is remembered of a field; empty where there is nothing that can be read."""
        try:
            return cls.model_validate(read_record(paths.discovery_record) or {})
        except ValidationError:
            return cls()

    def but(self, paths: FieldPaths, **changes) -> DiscoveryRecord:
        """The same with some things changed, and written down."""
        changed = self.model_copy(update=changes)
        write_record(paths.discovery_record, changed.model_dump(mode="json"))
        return changed


@dataclass(frozen=True)
class Finding:
    """What a look at a field has found, and what became of it."""

    field: str
    state: State
    reason: str = ""  # for people
    fingerprint: str = ""  # of the field's exposures and masks
    changed: int = 0  # when they last changed (`Content`)
    run: str = ""  # the one that was started last for this content
    waits: float = 0.0  # min until another look can tell more, if nothing changes meanwhile; 0 where time alone tells nothing

    def key(self, attempt: int) -> str:
        """What tells this try to reduce this content from all others; the same for all who look at the same disk."""
        return "-".join([self.field, self.fingerprint, str(self.changed), str(attempt)])


def fields(root: Path, wanted: Iterable[str] = ()) -> list[str]:
    """Return the fields below DECam_MEF, sorted; only the wanted ones where some are named."""
    top = FieldPaths.input(root)
    try:
        found = sorted(path.name for path in top.iterdir() if (path / "mef").is_dir())
    except OSError as e:
        raise InputError(f"new fields are looked for in {top}, which cannot be read: {e.strerror or e}") from e
    wanted = set(wanted)
    return [name for name in found if re.fullmatch(NAME, name) and (not wanted or name in wanted)]


def clock(directory: Path) -> float:
    """The time by the clock that dates the files in a directory, which may be a file server's; s since 1970."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".clock.") as file:
        return Path(file.name).stat().st_mtime


def examine(paths: FieldPaths, config: DiscoverConfig, now: float) -> Finding:
    """Look at a field once, at the time of `clock`; what was seen is remembered for the next look.

    A field is complete where nothing in the directory has changed for ``settle`` minutes, neither by the times of the files nor
    from look to look, and all exposures and masks can be read; or where those that cannot have been like this for ``patience``
    minutes.
    """
    try:
        content = Content.of(paths)
        exposures = paths.exposures()
    except (OSError, InputError) as e:
        return Finding(paths.field, "no exposures", str(e))
    found = Finding(paths.field, "complete", counted(len(exposures), "exposure"), content.fingerprint, content.changed)
    known = DiscoveryRecord.of(paths)
    if content.snapshot != known.snapshot or known.since > now:
        known = known.but(paths, snapshot=content.snapshot, since=now, is_new=not known.snapshot)
    changed = content.changed / 1e9
    quiet = (now - max(known.since, changed if changed <= now else 0.0)) / 60  # min; a clock that was wrong tells nothing
    if quiet < config.settle:
        what = "seen for the first time" if known.is_new else "changed"
        reason = f"{what} less than {config.settle:g} min ago, perhaps still being copied"
        return replace(found, state="changing", reason=reason, waits=config.settle - quiet)
    if known.scanned != content.snapshot:
        known = known.but(paths, scanned=content.snapshot, damaged=_damaged(paths, content))
    if not known.damaged:
        return found
    damage = "; ".join(known.damaged)
    if quiet < config.patience:
        reason = f"{damage}. Waits {config.patience:g} min for another copy"
        return replace(found, state="damaged", reason=reason, waits=config.patience - quiet)
    return replace(found, reason=f"{found.reason}, not all of them whole: {damage}")


def _damaged(paths: FieldPaths, content: Content) -> tuple[str, ...]:
    damaged, left_out = [], {name for name, _ in paths.left_out()}
    for name, _, _ in content.files:
        if _is_read(name) and name not in left_out:
            try:
                hdu.scan(paths.exposure(name))
            except ExposureError as e:
                damaged.append(str(e))
    return tuple(damaged)


def reduce_once(
    paths: FieldPaths, found: Finding, tries: int, state_of: Callable[[str], RunState], start: Callable[[int], str]
) -> Finding:
    """Start the reduction of a complete field, unless this content is being reduced, has been, or has failed too often.

    Parameters
    ----------
    paths, found
        A complete field.
    tries : int
        How often one content is tried.
    state_of : callable
        Takes a run, returns its state; "stopped" is a person's doing.
    start : callable
        Takes the number of the try, from 1, and returns the run. It must be the same run, and start only once, for the
        same field, content and try, whoever calls it.
    """
    known = DiscoveryRecord.of(paths)
    if known.fingerprint != found.fingerprint:
        known = known.but(paths, fingerprint=found.fingerprint, runs=(), outcome="")
    if not known.outcome and known.runs:
        state = state_of(known.runs[-1])
        if state == "running":
            return replace(found, state="running", run=known.runs[-1])
        if state != "failed":
            known = known.but(paths, outcome=state)
        elif len(known.runs) >= tries:
            known = known.but(paths, outcome="given up")
            log.warning("%s: given up, %s", paths.field, _given_up(known))
    if known.outcome:
        reason = {"given up": _given_up(known), "stopped": "by a person; starts again when its files change"}
        return replace(found, state=known.outcome, reason=reason.get(known.outcome, found.reason), run=known.runs[-1])
    again = f"try {len(known.runs) + 1} of {tries}: " if known.runs else ""
    known = known.but(paths, runs=(*known.runs, start(len(known.runs) + 1)))
    return replace(found, state="started", reason=again + found.reason, run=known.runs[-1])


def _given_up(known: DiscoveryRecord) -> str:
    return f"failed {len(known.runs)} times; starts again when its files change, or by hand"


# What a browser is shown: what the pages lead to, products, and never the input, what kred remembers, or hidden files.

SERVED_ROOT = "PAGES_OF_KRED"  # the environment variable that names the data root; KRED_... would be an option
PLACE = "/pages/"  # on the Prefect server

TEXT = "text/plain; charset=utf-8"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".tab": TEXT,
    ".log": TEXT,
    ".toml": TEXT,
    ".fits": "application/fits",
    ".fz": "application/fits",
}
DIRECTORIES = ("DECam_SWARP", "Summary", "Log")


def served_file(root: Path, place: str) -> tuple[Path, str] | None:
    """Find the file that belongs to what follows `PLACE` in an address, decoded.

    Returns
    -------
    tuple of (`~pathlib.Path`, str) or None
        The file, without links, and its type for browsers. None where there is none that may be shown: links below the data root
        that lead out of it are not followed.
    """
    parts = PurePosixPath(place).parts
    kind = TYPES.get(PurePosixPath(place).suffix)
    if kind is None or parts[0] not in DIRECTORIES or "\0" in place or any(part.startswith(".") for part in parts):
        return None
    try:
        file = root.joinpath(*parts).resolve(strict=True)
        own = file.relative_to(root.resolve())
    except (OSError, ValueError):  # it does not exist, or lies elsewhere
        return None
    inside = own.parts[0].startswith("DECam_") or own.parts[0] in DIRECTORIES
    return (file, kind) if file.is_file() and inside and own.parts[0] != "DECam_MEF" else None


def served_address(root: Path, file: Path) -> str | None:
    """Address of a file on the server that shows the data root, without that server's name; None where it is not shown."""
    try:
        place = file.absolute().relative_to(root.absolute()).as_posix()
    except ValueError:
        return None
    return PLACE + quote(place) if served_file(root, place) else None
