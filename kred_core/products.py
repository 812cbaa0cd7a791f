"""Every file and directory below the data root, and the one way to write them.

Nobody else joins paths: a stage asks `FieldPaths` where a product is. A product
appears under its final name only when it is whole (`atomic`), so whatever has a
final name can be trusted after any crash.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .config import FieldConfig
from .errors import InputError

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

TEMPORARY = ".tmp"
_UMASK = os.umask(0o022)  # can only be read by setting it; once, at import, because threads share it
os.umask(_UMASK)


@dataclass(frozen=True)
class FieldPaths:
    """Names of the files of one field.

    Parameters
    ----------
    root : `~pathlib.Path`
        Data root: the directory that holds ``DECam_MEF``.
    field : str
        Name of the field.
    """

    root: Path
    field: str

    @classmethod
    def of(cls, config: FieldConfig) -> FieldPaths:
        """Where the files of a configuration's field are."""
        return cls(config.root, config.field)

    # input, never written to
    @staticmethod
    def input(root: Path) -> Path:
        """The directory that holds the directories of all fields."""
        return root / "DECam_MEF"

    @property
    def mef(self) -> Path:
        return self.input(self.root) / self.field / "mef"

    def exposures(self) -> list[Path]:
        """Science files of the field, sorted by name (ood masks and oow weights are not exposures)."""
        if not self.mef.is_dir():
            raise InputError(f"field {self.field}: there is no directory {self.mef}; put or link the field's *.fits.fz files there")
        try:
            found = sorted(p for p in self.mef.iterdir() if p.name.endswith((".fits.fz", ".fits")) and not p.name.startswith("."))
        except OSError as e:
            raise InputError(f"field {self.field}: {self.mef} cannot be read: {e.strerror or e}") from e
        science = [p for p in found if "_ood_" not in p.name and "_oow_" not in p.name]
        if not science:
            raise InputError(f"field {self.field}: no *.fits.fz exposure in {self.mef}")
        return science

    @staticmethod
    def root_of(exposure: Path) -> str:
        """Root of an exposure: its file name without ``.fits.fz``."""
        return exposure.name.removesuffix(".fz").removesuffix(".fits")

    @staticmethod
    def mask_of(exposure: Path) -> Path | None:
        """The data-quality (ood) file of an exposure, or None where there is none."""
        name = exposure.name.replace("_ooi_", "_ood_")
        if name == exposure.name:
            return None
        # One of the two may have been unpacked.
        names = (name, name.removesuffix(".fz") if name.endswith(".fz") else name + ".fz")
        return next((mask for mask in map(exposure.with_name, names) if mask.exists()), None)

    def exposure(self, file: str) -> Path:
        """An exposure by its file name."""
        return self.mef / file

    # tables
    def _summary(self, name: str) -> Path:
        return self.root / "Summary" / f"{self.field}_{name}.tab"

    @property
    def quality_table(self) -> Path:
        return self._summary("mef_qual")

    @property
    def exposure_table(self) -> Path:
        return self._summary("mef")

    @property
    def detector_table(self) -> Path:
        return self._summary("det")

    def tile_table(self, tile: str) -> Path:
        return self._summary(tile)

    @property
    def overlap_table(self) -> Path:
        """Overlapping pairs of detectors and how they differ."""
        return self._summary("overlaps")

    @property
    def background_table(self) -> Path:
        """The background of each detector in each image."""
        return self._summary("backgrounds")

    @property
    def matching_table(self) -> Path:
        """Numbers of the matching, one row for each image."""
        return self._summary("matching")

    @property
    def mosaic_table(self) -> Path:
        """Numbers of the mosaics: level, noise, seams."""
        return self._summary("mosaics")

    # prepared detectors
    @property
    def prepared(self) -> Path:
        return self.root / "DECam_PREP" / self.field / "data"

    def prepared_detector(self, root: str, extname: str, plain: bool = False) -> Path:
        """Prepared copy of one detector: one extension, as the input is stored or plain."""
        return self.prepared / f"{root}_{extname}.fits{'' if plain else '.fz'}"

    def prepared_tile(self, tile: str, matched: bool = False) -> Path:
        return self.root / "DECam_PREP" / self.field / _suffixed(tile, matched)

    @property
    def matched(self) -> Path:
        return self.root / "DECam_PREP" / self.field / "data_b"

    def matched_detector(self, root: str, extname: str, plain: bool = False, image: str = "") -> Path:
        """Background-matched copy of one detector; with the image's name where its exposure feeds several."""
        name = f"{root}_{extname}.{image}" if image else f"{root}_{extname}"
        return self.matched / f"{name}.fits{'' if plain else '.fz'}"

    # stamps and what is made of them
    @property
    def stamps(self) -> Path:
        return self.root / "DECam_BACK" / self.field

    def stamp_file(self, root: str) -> Path:
        """The detectors of one exposure averaged onto the survey's grid of cells."""
        return self.stamps / f"{root}.stamps.fits"

    def quick_look(self, image: str, tile: str = "") -> Path:
        """Mosaic of the stamps, before and after matching: of a tile, or of the whole field."""
        return self.root / "DECam_SWARP" / self.field / "quick" / f"{'_'.join(filter(None, (self.field, tile)))}.{image}.fits.fz"

    def pairs(self, image: str) -> Path:
        """The measured overlaps of one image, for the solution."""
        return self.memory / "match" / f"{image}.npz"

    # mosaics
    def coadds(self, tile: str, matched: bool = False) -> Path:
        return self.root / "DECam_SWARP" / self.field / _suffixed(tile, matched)

    def mosaic(self, tile: str, image: str, matched: bool = False) -> Path:
        return self.coadds(tile, matched) / f"{self.field}_{tile}.{image}.fits"

    def coverage(self, tile: str, image: str, matched: bool = False) -> Path:
        """Number of detectors in each pixel of the mosaic."""
        return self.coadds(tile, matched) / f"{self.field}_{tile}.{image}.coverage.fits.fz"

    @property
    def evaluation(self) -> Path:
        return self.root / "DECam_SWARP" / self.field / "eval"

    def mosaic_figure(self, tile: str, image: str, matched: bool = False) -> Path:
        return self.evaluation / f"{self.field}_{_suffixed(tile, matched)}.{image}.png"

    def coverage_figure(self, tile: str, image: str, matched: bool = False) -> Path:
        return self.evaluation / f"{self.field}_{_suffixed(tile, matched)}.{image}.coverage.png"

    def comparison_figure(self, image: str, tile: str = "") -> Path:
        """Before and after matching, side by side at the same stretch: a tile, or the whole field."""
        return self.evaluation / f"{'_'.join(filter(None, (self.field, tile)))}.{image}.before_after.png"

    def matching_figure(self, image: str, kind: str) -> Path:
        """How the matching of one image went: overlaps, backgrounds, pairs."""
        return self.evaluation / f"{self.field}.{image}.{kind}.png"

    @property
    def directories(self) -> dict[str, Path]:
        """The directories that hold products of this field, by name."""
        return {name: self.root / name / self.field for name in ("DECam_PREP", "DECam_BACK", "DECam_SWARP")}

    def field_figure(self, image: str, matched: bool = False) -> Path:
        """All tiles of one image where they lie on the sky."""
        return self.evaluation / f"{_suffixed(self.field, matched)}.{image}.png"

    def reduced(self, tile: str, image: str, matched: bool = False) -> Path:
        """A mosaic averaged down, from which the figure of the field is drawn."""
        return self.memory / "evaluate" / f"{_suffixed(tile, matched)}.{image}.fits"

    # for people who only want to look
    @property
    def page(self) -> Path:
        return self.root / "DECam_SWARP" / self.field / "index.html"

    @property
    def all_fields_page(self) -> Path:
        """The page that leads to those of all fields."""
        return self.root / "DECam_SWARP" / "index.html"

    @property
    def all_fields_lock(self) -> Path:
        return service_memory(self.root) / "fields.lock"

    def with_pages(self) -> list[FieldPaths]:
        """The fields of the data root that have a page, by name."""
        pages = sorted(self.all_fields_page.parent.glob("*/index.html"))
        return [FieldPaths(self.root, page.parent.name) for page in pages]

    # what was done
    @property
    def log(self) -> Path:
        return self.root / "Log" / f"{self.field}.log"

    @property
    def run_config(self) -> Path:
        """The resolved configuration of the last run."""
        return self.root / "DECam_SWARP" / self.field / "kred.toml"

    @property
    def memory(self) -> Path:
        """kred's own records of this field; whoever deletes it makes everything be done again."""
        return self.root / ".kred" / self.field

    @property
    def run_lock(self) -> Path:
        """Held by the run that works on this field."""
        return self.memory / "run.lock"

    def heavy_locks(self, n: int) -> list[Path]:
        """Places for the runs that need much memory on this machine, of all fields of the data root."""
        return [service_memory(self.root) / f"heavy.{socket.gethostname()}.{place}.lock" for place in range(1, n + 1)]

    def unfinished(self) -> list[Path]:
        """What killed runs left half written: temporary files (`atomic`) and working directories of SWarp.

        Only while `run_lock` is held can they be told from those of a run that is at work.
        """
        hidden = [path for top in (*self.directories.values(), self.memory) for path in top.rglob(".*")]
        found = [p for p in hidden if p.name.endswith(TEMPORARY) or (p.name.startswith(f".{self.field}_") and p.is_dir())]
        # The tables of all fields lie in one directory; a field's name may begin with another's.
        ours = re.compile(rf"\.{re.escape(self.field)}_(mef_qual|[^_]+)\.tab\..+{re.escape(TEMPORARY)}")
        summary = self.quality_table.parent
        return found + [p for p in (summary.iterdir() if summary.is_dir() else ()) if ours.fullmatch(p.name)]

    def record(self, stage: str, unit: str) -> Path:
        """What a stage found out about one unit (an exposure, a mosaic), for the later stages."""
        return self.memory / stage / f"{unit}.json"


def service_memory(root: Path) -> Path:
    """What concerns no field but the whole data root; no field has such a name."""
    return root / ".kred" / "_service"


def _suffixed(name: str, matched: bool) -> str:
    """Products with matched backgrounds have the names of the others and _b, as people know them."""
    return f"{name}_b" if matched else name


@contextmanager
def atomic(path: Path, keep_same: bool = False) -> Iterator[Path]:
    """Write a file so that its name appears only when it is complete.

    Yields a temporary path beside the final one. When the block ends without
    an error the data are synced to disk and renamed; otherwise they are removed.

    Parameters
    ----------
    path : `~pathlib.Path`
        Final name; its directory is made when needed.
    keep_same : bool
        Leave an existing file with the same bytes untouched, so that its time
        of modification says when the content last changed. For small files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if keep_same and path.is_file() and path.read_bytes() == temporary.read_bytes():
            temporary.unlink()
            return
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        temporary.chmod(0o666 & ~_UMASK)
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def discard(path: Path) -> None:
    """Remove a file or a directory with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small text file; an existing one with the same content keeps its time."""
    with atomic(path, keep_same=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(path: Path, record: dict) -> None:
    """Keep what a stage found out as JSON, for the later stages."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def read_record(path: Path) -> dict | None:
    """What `write_record` kept, or None where there is nothing or nothing readable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def link(path: Path, target: Path) -> None:
    """Make ``path`` a relative symbolic link to ``target``, replacing an older link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # From where the directory really is: a field's directory may itself be a link to another disk.
    _link(path, os.path.relpath(target.parent.resolve() / target.name, path.parent.resolve()))


def link_all(directory: Path, targets: Iterable[Path]) -> None:
    """Make the links to FITS files in a directory those to the targets that exist, by their names, and no others."""
    wanted = {target.name: target.parent for target in targets if target.exists()}
    for old in directory.glob("*.fits*") if directory.is_dir() else ():
        if old.name not in wanted and old.is_symlink():
            old.unlink()
    if wanted:
        directory.mkdir(parents=True, exist_ok=True)
    here = directory.resolve()
    ways = {parent: os.path.relpath(parent.resolve(), here) for parent in set(wanted.values())}
    for name, parent in wanted.items():
        _link(directory / name, os.path.join(ways[parent], name))


def _link(path: Path, goal: str) -> None:
    if path.is_symlink() and os.readlink(path) == goal:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{TEMPORARY}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(goal)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise


def identity(path: Path) -> tuple[str, int, int]:
    """What tells one version of a file from another: path, size in bytes, time of modification in ns."""
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns
