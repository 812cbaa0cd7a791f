"""Every file and directory below the data root: a stage asks `FieldPaths` where a product is, and nobody else joins paths."""

from __future__ import annotations

import difflib
import inspect
import itertools
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_type_hints

from ..config import BackgroundKind, FieldConfig
from ..errors import InputError
from ..words import some
from . import roles
from .writing import TEMPORARY

__all__ = ["Clash", "FieldPaths", "find_clash", "grouped", "same_file", "service_state", "table_names", "unfinished_discovery"]

ANY_IMAGE = "image"  # where only the names of tiles are judged

MatchingFigure = Literal["overlaps", "backgrounds", "pairs"]


def _place(pattern: str, meaning: str) -> property:
    """Return a path below the data root that needs no more than the name of the field."""
    return property(lambda self: self.root / pattern.format(field=self.field), doc=meaning)


@dataclass(frozen=True)
class FieldPaths:
    """Names of the files of one field."""

    root: Path  # data root: the directory that holds DECam_MEF
    field: str

    @classmethod
    def of(cls, config: FieldConfig) -> FieldPaths:
        """Where the files of a configuration's field are."""
        return cls(config.root, config.field)

    mef = _place("DECam_MEF/{field}/mef", "The exposures of the field and their masks, as they come from the archive.")
    quality_table = _place("Summary/{field}_mef_qual.tab", "Verdict on each exposure, with reasons.")
    input_table = _place("Summary/{field}_input.tab", "What became of each detector of the input.")
    exposure_table = _place("Summary/{field}_mef.tab", "The exposures that can be used.")
    detector_table = _place(
        "Summary/{field}_det.tab", "The detectors that can be used: where they lie on the sky, and statistics of their pixels."
    )
    overlap_table = _place("Summary/{field}_overlaps.tab", "Overlapping pairs of detectors and how they differ.")
    background_table = _place("Summary/{field}_backgrounds.tab", "The background of each detector in each image.")
    matching_table = _place("Summary/{field}_matching.tab", "Numbers of the matching, one row for each image.")
    mosaic_table = _place("Summary/{field}_mosaics.tab", "Numbers of the mosaics: level, noise, block jump.")
    prepared = _place("DECam_PREP/{field}/data", "The prepared detectors of the field.")
    matched = _place("DECam_PREP/{field}/data_b", "The background-matched detectors of the field.")
    binned = _place("DECam_BACK/{field}", "The binned maps of the field.")
    evaluation = _place("DECam_SWARP/{field}/eval", "The figures of the field.")
    page = _place(
        "DECam_SWARP/{field}/index.html", "The page of the field: sky, verdicts and numbers, in any browser and without network."
    )
    all_fields_page = _place("DECam_SWARP/index.html", "The page that leads to those of all fields.")
    log = _place("Log/{field}.log", "What was done, when, and by which version.")
    run_config = _place("DECam_SWARP/{field}/kred.toml", "The resolved configuration of the last run.")
    state = _place(".kred/{field}", "kred's own records of this field; whoever deletes it makes everything be done again.")
    discovery_record = _place(".kred/{field}/discover/memory.json", "What those remember who look for new fields.")
    run_lock = _place(".kred/_service/{field}.run.lock", "Held by the run that works on this field; who deletes `state` leaves it.")
    all_fields_lock = _place(".kred/_service/fields.lock", "Held by who writes the page of all fields.")

    # input, never written to
    @staticmethod
    def input(root: Path) -> Path:
        """The directory that holds the directories of all fields."""
        return root / "DECam_MEF"

    def exposures(self) -> list[Path]:
        """InstCal images of the field, sorted by name."""
        found = self._inventory()
        if not found.images:
            there = grouped(found.left_out())
            others = f"; what lies there is left out: {'; '.join(there)}; only InstCal images (ooi) are taken" if there else ""
            raise InputError(f"field {self.field}: no *.fits.fz exposure in {self.mef}{others}")
        return found.images

    def left_out(self) -> list[tuple[str, str]]:
        """Name and reason of each file beside the exposures that is neither one of them nor the mask of one."""
        return self._inventory().left_out()

    def lacks_masks(self) -> bool:
        """Return whether there are exposures and none of them has a mask."""
        images = self._inventory().images
        return bool(images) and not any(map(self.mask_of, images))

    def _inventory(self) -> roles.Inventory:
        if not self.mef.is_dir():
            fields = {path.parent.name.lower(): path.parent.name for path in self.input(self.root).glob("*/mef")}
            close = difflib.get_close_matches(self.field.lower(), fields, 1)
            hint = f"did you mean {fields[close[0]]}?" if close else "put or link the field's *.fits.fz files there"
            raise InputError(f"field {self.field}: there is no directory {self.mef}; {hint}")
        try:
            return roles.inventory(self.mef)
        except OSError as e:
            raise InputError(f"field {self.field}: {self.mef} cannot be read: {e.strerror or e}") from e

    @staticmethod
    def has_plain_name(exposure: Path) -> bool:
        """Whether tables and FITS headers can hold the name of a file: printable ASCII."""
        return exposure.name.isascii() and exposure.name.isprintable()

    @staticmethod
    def shown(exposure: Path) -> str:
        """The name of a file with all that is not plain escaped."""
        return exposure.name if FieldPaths.has_plain_name(exposure) else ascii(exposure.name)[1:-1]

    @staticmethod
    def root_of(exposure: Path) -> str:
        """Root of an exposure: its file name without ``.fits.fz``."""
        return exposure.name.removesuffix(".fz").removesuffix(".fits")

    @staticmethod
    def mask_of(exposure: Path) -> Path | None:
        """The mask (ood) of an exposure, or None where there is none: see `kred_core.products.roles`."""
        return roles.mask_of(exposure)[0]

    def exposure(self, file: str) -> Path:
        """An exposure by its file name."""
        return self.mef / file

    # tables
    def tile_table(self, tile: str) -> Path:
        """The detectors that feed a tile, with the image that each goes into."""
        return self.root / "Summary" / f"{self.field}_{tile}.tab"

    # prepared detectors
    def prepared_detector(self, root: str, extname: str, plain: bool = False) -> Path:
        """Prepared copy of one detector: one extension, as the input is stored or plain."""
        return self.prepared / f"{root}_{extname}.fits{'' if plain else '.fz'}"

    def prepared_tile(self, tile: str, background: BackgroundKind = BackgroundKind.ORIGINAL) -> Path:
        """Links to the prepared, or matched, detectors that feed a tile."""
        return self.root / "DECam_PREP" / self.field / f"{tile}{background.suffix}"

    def matched_detector(self, root: str, extname: str, plain: bool = False, image: str = "") -> Path:
        """Background-matched copy of one detector; with the image's name where its exposure feeds several."""
        name = f"{root}_{extname}.{image}" if image else f"{root}_{extname}"
        return self.matched / f"{name}.fits{'' if plain else '.fz'}"

    # binned maps and what is made of them
    def binned_file(self, root: str) -> Path:
        """The detectors of one exposure averaged onto the survey's grid of cells."""
        return self.binned / f"{root}.stamps.fits"

    def quick_look(self, image: str, tile: str = "") -> Path:
        """Mosaic of the binned maps, before and after matching: of a tile, or of the whole field."""
        return self.root / "DECam_SWARP" / self.field / "quick" / f"{'_'.join(filter(None, (self.field, tile)))}.{image}.fits.fz"

    def pairs(self, image: str) -> Path:
        """The measured overlaps of one image, for the solution."""
        return self.state / "match" / f"{image}.npz"

    # mosaics
    def coadds(self, tile: str, background: BackgroundKind = BackgroundKind.ORIGINAL) -> Path:
        """The mosaics of a tile: with one background for each exposure, or with matched backgrounds (_b)."""
        return self.root / "DECam_SWARP" / self.field / f"{tile}{background.suffix}"

    def mosaic(self, tile: str, image: str, background: BackgroundKind = BackgroundKind.ORIGINAL) -> Path:
        """Co-added image of a tile, in counts28."""
        return self.coadds(tile, background) / f"{self.field}_{tile}.{image}.fits"

    def coverage(self, tile: str, image: str, background: BackgroundKind = BackgroundKind.ORIGINAL) -> Path:
        """Number of detectors in each pixel of the mosaic."""
        return self.coadds(tile, background) / f"{self.field}_{tile}.{image}.coverage.fits.fz"

    def mosaic_figure(self, tile: str, image: str, background: BackgroundKind = BackgroundKind.ORIGINAL) -> Path:
        """Figure of a mosaic: the sky, and beside it its flaws."""
        return self.evaluation / f"{self.field}_{tile}{background.suffix}.{image}.png"

    def coverage_figure(self, tile: str, image: str, background: BackgroundKind = BackgroundKind.ORIGINAL) -> Path:
        """Figure of a coverage map."""
        return self.evaluation / f"{self.field}_{tile}{background.suffix}.{image}.coverage.png"

    def comparison_figure(self, image: str, tile: str = "") -> Path:
        """Before and after matching, side by side at the same stretch, and the difference: a tile, or the whole field."""
        return self.evaluation / f"{'_'.join(filter(None, (self.field, tile)))}.{image}.before_after.png"

    def matching_figure(self, image: str, kind: MatchingFigure) -> Path:
        """How the matching of one image went."""
        return self.evaluation / f"{self.field}.{image}.{kind}.png"

    @property
    def directories(self) -> dict[str, Path]:
        """The directories that hold products of this field, by name."""
        return {name: self.root / name / self.field for name in ("DECam_PREP", "DECam_BACK", "DECam_SWARP")}

    def field_figure(self, image: str, background: BackgroundKind = BackgroundKind.ORIGINAL) -> Path:
        """All tiles of one image where they lie on the sky."""
        return self.evaluation / f"{self.field}{background.suffix}.{image}.png"

    def reduced(self, tile: str, image: str, background: BackgroundKind = BackgroundKind.ORIGINAL) -> Path:
        """A mosaic averaged down, from which the figure of the field is drawn."""
        return self.state / "evaluate" / f"{tile}{background.suffix}.{image}.fits"

    def with_pages(self) -> list[FieldPaths]:
        """The fields of the data root that have a page, by name."""
        pages = sorted(self.all_fields_page.parent.glob("[!.]*/index.html"))
        return [FieldPaths(self.root, page.parent.name) for page in pages]

    def heavy_locks(self, n: int) -> list[Path]:
        """Places for the runs that need much memory on this machine, of all fields of the data root."""
        return [service_state(self.root) / f"heavy.{socket.gethostname()}.{place}.lock" for place in range(1, n + 1)]

    def ways_out(self) -> list[tuple[Path, Path]]:
        """Links among the directories and logs of this field's products that lead out of the data root, and where to."""
        tops = [self.quality_table.parent, self.log.parent, self.state.parent, *(d.parent for d in self.directories.values())]
        links = [p for p in (*tops, *self.directories.values(), self.log, self.state, service_state(self.root)) if p.is_symlink()]
        for top in (*self.directories.values(), self.state):
            for directory, directories, _ in os.walk(top):
                links += [p for p in (Path(directory, name) for name in directories) if p.is_symlink()]
                if Path(directory) == self.directories["DECam_PREP"]:
                    directories.clear()  # in these are thousands of links to detectors, which are replaced and never followed
        root = self.root.resolve()
        return [(p, target) for p in links if not (target := p.resolve()).is_relative_to(root)]

    def unfinished(self) -> list[Path]:
        """What killed runs left half written: temporary files (`atomic`) and working directories of SWarp.

        Only while `run_lock` is held can they be told from those of a run that is at work.
        """
        looks = self.discovery_record.parent  # written by those who look for new fields, who do not hold this lock
        hidden = [p for top in (*self.directories.values(), self.state) for p in top.rglob(".*") if p.parent != looks]
        found = [p for p in hidden if p.name.endswith(TEMPORARY) or (p.name.startswith(f".{self.field}_") and p.is_dir())]
        # The tables of all fields lie in one directory; a field's name may begin with another's.
        ours = re.compile(rf"\.{re.escape(self.field)}_(mef_qual|[^_]+)\.tab\..+{re.escape(TEMPORARY)}")
        summary = self.quality_table.parent
        return found + [p for p in (summary.iterdir() if summary.is_dir() else ()) if ours.fullmatch(p.name)]

    def record(self, stage: str, unit: str) -> Path:
        """What a stage found out about one unit (an exposure, a mosaic), for the later stages."""
        return self.state / stage / f"{unit}.json"

    def verdict(self, file: str) -> Path:
        """The record of what the headers of an exposure say, by its file name."""
        return self.record("check", file)

    def measurements(self, root: str) -> Path:
        """The record of what was measured in the pixels of an exposure."""
        return self.record("summarize", root)


def grouped(left_out: Iterable[tuple[str, str]]) -> list[str]:
    """What was left out for one reason each: how many files, of which a few are named."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out:
        by_reason.setdefault(reason, []).append(name)
    return [f"{reason}: {some(names)}" for reason, names in by_reason.items()]


def service_state(root: Path) -> Path:
    """What concerns no field but the whole data root; no field has such a name."""
    return root / ".kred" / "_service"


def unfinished_discovery(root: Path) -> list[Path]:
    """What looks for new fields that were killed left half written; only one of them is at work at a time."""
    return [*service_state(root).glob(".*"), *service_state(root).parent.glob("*/discover/.*")]


class Clash(NamedTuple):
    """A product that has the name of another one."""

    tile: str  # what it is a product of; empty where of none
    image: str
    other: str  # whose name it has, in words
    path: Path


def same_file(path: Path | str) -> str:
    """The same for all names of one file where capitals are not told from small letters."""
    return str(path).casefold()


@lru_cache(maxsize=64)
def find_clash(field: str, tiles: Sequence[str], images: Sequence[str] = (ANY_IMAGE,)) -> Clash | None:
    """Return the first product of a field's tiles and images that has the name of another one, or of a directory of kred.

    Products are found from `FieldPaths` itself, so that one that is added there counts at once.
    """
    owners: dict[str, str] = {}
    for tile, image, path in sorted(_products(FieldPaths(Path(), field), tiles, images), key=lambda p: bool(p[0])):
        if not tile:
            owners |= dict.fromkeys(map(same_file, path.parents), "kred itself")
        owner = " of ".join(filter(None, (image and f"image {image}", tile and f"tile {tile}"))) or "kred itself"
        if (tile or image) and same_file(path) in owners:
            return Clash(tile, image, owners[same_file(path)], path)
        owners[same_file(path)] = owner
    return None


@cache
def table_names() -> frozenset[str]:
    """What follows ``<field>_`` in the names of kred's tables of a whole field."""
    paths = FieldPaths(Path(), "field")
    found = [path for _, _, path in _products(paths, (), ()) if path.parent == paths.quality_table.parent]
    return frozenset(path.stem.removeprefix("field_") for path in found)


def _products(paths: FieldPaths, tiles: Sequence[str], images: Sequence[str]) -> Iterator[tuple[str, str, Path]]:
    """Tile, image and path of each product whose name needs no more than these: not those of exposures."""
    choices = {bool: (False, True), BackgroundKind: tuple(BackgroundKind)}
    for name, member in vars(FieldPaths).items():
        if isinstance(member, property):
            if isinstance(path := getattr(paths, name), Path):
                yield "", "", path
        elif inspect.isfunction(member) and not name.startswith("_"):
            hints, parameters = get_type_hints(member), dict(inspect.signature(member).parameters)
            del parameters["self"]
            values = {p: choices.get(hints[p], get_args(hints[p])) for p in parameters}
            given = {"tile": tiles, "image": images}
            values |= {p: (*given[p], *([""] if parameters[p].default == "" else [])) for p in given.keys() & parameters}
            if given.keys() & parameters:
                for chosen in itertools.product(*values.values()):
                    named = dict(zip(values, chosen, strict=True))
                    yield named.get("tile", ""), named.get("image", ""), member(paths, **named)
