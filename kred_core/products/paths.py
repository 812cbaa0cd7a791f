"""Every file and directory below the data root: a stage asks `FieldPaths` where a product is, and nobody else joins paths."""

from __future__ import annotations

import difflib
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config import BackgroundKind, FieldConfig
from ..errors import InputError
from ..words import some
from . import inventory
from .writing import TEMPORARY

__all__ = ["FieldPaths", "grouped", "service_memory", "unfinished_looks"]


MatchingFigure = Literal["overlaps", "backgrounds", "pairs"]


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
        """The exposures of the field and their masks, as they come from the archive."""
        return self.input(self.root) / self.field / "mef"

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

    def _inventory(self) -> inventory.Inventory:
        if not self.mef.is_dir():
            fields = {path.parent.name.lower(): path.parent.name for path in self.input(self.root).glob("*/mef")}
            close = difflib.get_close_matches(self.field.lower(), fields, 1)
            hint = f"did you mean {fields[close[0]]}?" if close else "put or link the field's *.fits.fz files there"
            raise InputError(f"field {self.field}: there is no directory {self.mef}; {hint}")
        try:
            return inventory.inventory(self.mef)
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
        """The mask (ood) of an exposure, or None where there is none: see `kred_core.products.inventory`."""
        return inventory.mask_of(exposure)[0]

    def exposure(self, file: str) -> Path:
        """An exposure by its file name."""
        return self.mef / file

    # tables
    def _summary(self, name: str) -> Path:
        return self.root / "Summary" / f"{self.field}_{name}.tab"

    @property
    def quality_table(self) -> Path:
        """Verdict on each exposure, with reasons."""
        return self._summary("mef_qual")

    @property
    def input_table(self) -> Path:
        """What became of each detector of the input."""
        return self._summary("input")

    @property
    def exposure_table(self) -> Path:
        """The exposures that can be used."""
        return self._summary("mef")

    @property
    def detector_table(self) -> Path:
        """The detectors that can be used: where they lie on the sky, and statistics of their pixels."""
        return self._summary("det")

    def tile_table(self, tile: str) -> Path:
        """The detectors that feed a tile, with the image that each goes into."""
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
        """Numbers of the mosaics: level, noise, block jump."""
        return self._summary("mosaics")

    # prepared detectors
    @property
    def prepared(self) -> Path:
        """The prepared detectors of the field."""
        return self.root / "DECam_PREP" / self.field / "data"

    def prepared_detector(self, root: str, extname: str, plain: bool = False) -> Path:
        """Prepared copy of one detector: one extension, as the input is stored or plain."""
        return self.prepared / f"{root}_{extname}.fits{'' if plain else '.fz'}"

    def prepared_tile(self, tile: str, background: BackgroundKind = BackgroundKind.ORIGINAL) -> Path:
        """Links to the prepared, or matched, detectors that feed a tile."""
        return self.root / "DECam_PREP" / self.field / f"{tile}{background.suffix}"

    @property
    def matched(self) -> Path:
        """The background-matched detectors of the field."""
        return self.root / "DECam_PREP" / self.field / "data_b"

    def matched_detector(self, root: str, extname: str, plain: bool = False, image: str = "") -> Path:
        """Background-matched copy of one detector; with the image's name where its exposure feeds several."""
        name = f"{root}_{extname}.{image}" if image else f"{root}_{extname}"
        return self.matched / f"{name}.fits{'' if plain else '.fz'}"

    # binned maps and what is made of them
    @property
    def binned(self) -> Path:
        """The binned maps of the field."""
        return self.root / "DECam_BACK" / self.field

    def binned_file(self, root: str) -> Path:
        """The detectors of one exposure averaged onto the survey's grid of cells."""
        return self.binned / f"{root}.stamps.fits"

    def quick_look(self, image: str, tile: str = "") -> Path:
        """Mosaic of the binned maps, before and after matching: of a tile, or of the whole field."""
        return self.root / "DECam_SWARP" / self.field / "quick" / f"{'_'.join(filter(None, (self.field, tile)))}.{image}.fits.fz"

    def pairs(self, image: str) -> Path:
        """The measured overlaps of one image, for the solution."""
        return self.memory / "match" / f"{image}.npz"

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

    @property
    def evaluation(self) -> Path:
        """The figures of the field."""
        return self.root / "DECam_SWARP" / self.field / "eval"

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
        return self.memory / "evaluate" / f"{tile}{background.suffix}.{image}.fits"

    # for people who only want to look
    @property
    def page(self) -> Path:
        """The page of the field: sky, verdicts and numbers, in any browser and without network."""
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
        pages = sorted(self.all_fields_page.parent.glob("[!.]*/index.html"))
        return [FieldPaths(self.root, page.parent.name) for page in pages]

    # what was done
    @property
    def log(self) -> Path:
        """What was done, when, and by which version."""
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
    def look_memory(self) -> Path:
        """What those remember who look for new fields."""
        return self.record("discover", "memory")

    @property
    def run_lock(self) -> Path:
        """Held by the run that works on this field."""
        return service_memory(self.root) / f"{self.field}.run.lock"  # whoever deletes `memory` leaves it

    def heavy_locks(self, n: int) -> list[Path]:
        """Places for the runs that need much memory on this machine, of all fields of the data root."""
        return [service_memory(self.root) / f"heavy.{socket.gethostname()}.{place}.lock" for place in range(1, n + 1)]

    def ways_out(self) -> list[tuple[Path, Path]]:
        """Links among the directories and logs of this field's products that lead out of the data root, and where to."""
        tops = [self._summary("").parent, self.log.parent, self.memory.parent, *(d.parent for d in self.directories.values())]
        links = [p for p in (*tops, *self.directories.values(), self.log, self.memory, service_memory(self.root)) if p.is_symlink()]
        for top in (*self.directories.values(), self.memory):
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
        looks = self.look_memory.parent  # written by those who look for new fields, who do not hold this lock
        hidden = [p for top in (*self.directories.values(), self.memory) for p in top.rglob(".*") if p.parent != looks]
        found = [p for p in hidden if p.name.endswith(TEMPORARY) or (p.name.startswith(f".{self.field}_") and p.is_dir())]
        # The tables of all fields lie in one directory; a field's name may begin with another's.
        ours = re.compile(rf"\.{re.escape(self.field)}_(mef_qual|[^_]+)\.tab\..+{re.escape(TEMPORARY)}")
        summary = self.quality_table.parent
        return found + [p for p in (summary.iterdir() if summary.is_dir() else ()) if ours.fullmatch(p.name)]

    def record(self, stage: str, unit: str) -> Path:
        """What a stage found out about one unit (an exposure, a mosaic), for the later stages."""
        return self.memory / stage / f"{unit}.json"


def grouped(left_out: Iterable[tuple[str, str]]) -> list[str]:
    """What was left out for one reason each: how many files, of which a few are named."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out:
        by_reason.setdefault(reason, []).append(name)
    return [f"{reason}: {some(names)}" for reason, names in by_reason.items()]


def service_memory(root: Path) -> Path:
    """What concerns no field but the whole data root; no field has such a name."""
    return root / ".kred" / "_service"


def unfinished_looks(root: Path) -> list[Path]:
    """What looks for new fields that were killed left half written; only one of them is at work at a time."""
    return [*service_memory(root).glob(".*"), *service_memory(root).parent.glob("*/discover/.*")]
