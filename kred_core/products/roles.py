"""Judge what each file of a field's directory is: an InstCal image, its mask, or something that kred leaves out, and why; and
which mask belongs to which image.

Archives hand out much more than kred takes, and under any name: sky-subtracted and resampled images, stacks, weights,
calibrations, masks whose headers call them images. Four things are judged together, because each of them is wrong or missing
in some real file: PROCTYPE, PRODTYPE (and OBSTYPE), the archive's name code (``ooi`` in c4d_150411_035242_ooi_z_v1: what was
observed, how far it was reduced, what the file holds), and whether pixels are integers. Where they contradict one another:

* How far a file is reduced: what PROCTYPE says, then the name. An image whose PROCTYPE is InstCal under a name that says
  otherwise is taken where its pixels still hold the sky.
* A weight is what PRODTYPE or the name calls one.
* A mask is what has integer pixels and is called a mask by PRODTYPE or the name (real masks say PRODTYPE image). Integers
  that nobody calls a mask, and floats that somebody does: a mask where most pixels have one value, otherwise an image.
* Without any of these, floats are an image: files of one's own and simulations. So is what cannot be read, for its name, so
  that check refuses it with the reason.

A mask belongs to the exposure whose OBSID and EXPNUM it carries (MJD-OBS, then DATE-OBS where it has neither); the name
decides where keys do not. Of several the one of the image's version of the pipeline (PLVER) counts.

Stages ask again and again, of thousands of files: headers are remembered, and a directory is not looked at again for the mask
of one exposure where no file has come or gone.

References: archive names and PROCTYPE, PRODTYPE: NOIRLab Astro Data Archive; F. Valdes, DECam Community Pipeline, PL206.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from ..constants import NORMAL_MAD
from ..errors import ExposureError, is_transient
from ..fits.hdu import Hdu, number, scan, text, walk

__all__ = ["Inventory", "Keys", "Role", "inventory", "is_fits", "mask_of", "named_kind", "role_of"]

ARCHIVE_NAME = re.compile(r"[a-z0-9]{2,4}_\d{6}_\d{6}_([a-z])([a-z])([a-z])[_.]", re.IGNORECASE)
OBJECT_CODE = re.compile(r"_(o)([okps])([a-z])[_.]", re.IGNORECASE)  # of an object, in names that are otherwise a user's own
READ = re.compile(rb"(PROCTYPE|PRODTYPE|OBSTYPE|OBSID|EXPNUM|MJD-OBS|DATE-OBS|PLVER|Z?BITPIX|BSCALE) *=")
LEVELS = {"skysub": "sky-subtracted", "resampled": "resampled", "stacked": "stacked", "mastercal": "calibration", "raw": "raw"}
NAMED_LEVELS = {"o": "instcal", "k": "skysub", "p": "resampled", "s": "stacked", "c": "mastercal", "r": "raw"}
CALIBRATION = re.compile(r"zero|bias|dark|flat|fringe|illum|comp|focus")  # in OBSTYPE
Kind = Literal["image", "mask", "weight", "other"]
KINDS: dict[str, Kind] = {"image": "image", "dqmask": "mask", "wtmap": "weight"}  # PRODTYPE; with a number where there are several
NAMED_KINDS: dict[str, Kind] = {"d": "mask", "w": "weight"}
NOTHING = frozenset({"", "none", "null", "nan", "na", "unknown", "undefined"})  # what stands in place of a value that is not known
SKY_SIGMAS = 3.0  # a median that is less from zero is no sky; the sky of InstCal images is 20 sigma and more
RACY = 2.0  # s; a directory that changed just now may change again without a new time of modification
REMEMBERED = 4  # directories


@dataclass(frozen=True)
class Keys:
    """What tells one exposure from another, and one processing of it from another; empty or None: not known."""

    obsid: str = ""
    expnum: str = ""
    mjd: float | None = None
    date: str = ""
    version: str = ""

    @classmethod
    def of(cls, *headers) -> Keys:
        """The keys of the headers of a file, the first that has a value."""

        def first(key: str) -> str:
            return next((value for h in headers if (value := text(h, key)) and _plain(value) not in NOTHING), "")

        expnum, date = first("EXPNUM"), first("DATE-OBS")
        with_time = re.search(r"T.*[1-9]", date)  # all exposures of a night share the date
        return cls(
            first("OBSID"),
            "" if re.fullmatch(r"[-+]?0*(\.0*)?|-.*", expnum) else re.sub(r"\.0*$", "", expnum),
            next((value for h in headers if (value := number(h, "MJD-OBS")) is not None), None),
            date if with_time else "",
            first("PLVER"),
        )

    def agree(self, other: Keys) -> bool | None:
        """Whether two files are of one exposure; None where the keys do not tell."""
        pairs = [(a, b) for a, b in ((self.obsid, other.obsid), (self.expnum, other.expnum)) if a and b]
        if pairs:
            return all(a == b for a, b in pairs)
        if self.mjd is not None and other.mjd is not None:
            return self.mjd == other.mjd
        return self.date == other.date if self.date and other.date else None

    def same_version(self, other: Keys) -> bool:
        """Whether two files are not known to be of different versions of the pipeline."""
        return not (self.version and other.version) or self.version == other.version

    def entries(self) -> Iterator[tuple[str, object]]:
        """The keys by which files that may belong to one exposure are found."""
        yield from (("OBSID", self.obsid), ("EXPNUM", self.expnum), ("MJD-OBS", self.mjd), ("DATE-OBS", self.date))


@dataclass(frozen=True)
class Role:
    """What a file is."""

    kind: Kind  # image and mask: of an InstCal exposure
    reason: str = ""  # why it is not an InstCal image, for people
    keys: Keys = field(default_factory=Keys)


@dataclass(frozen=True)
class _Facts:
    """What the headers say: PROCTYPE, PRODTYPE and OBSTYPE as they are, and whether pixels are integers (None: not known)."""

    proctype: str = ""
    prodtype: str = ""
    obstype: str = ""
    integers: bool | None = None
    keys: Keys = field(default_factory=Keys)
    image: Hdu | None = None


def is_fits(name: str) -> bool:
    """Whether a file has the name of one that may be looked at."""
    return name.endswith((".fits.fz", ".fits")) and not name.startswith(".")


def named_kind(name: str) -> Kind | None:
    """What a file's name alone says that it is; None where it says nothing."""
    code = _code(name)
    kind: Kind = NAMED_KINDS.get(code[2:], "image" if code[1:] == "oi" else "other")
    return kind if code else None


def _code(name: str) -> str:
    """The archive's three letters in a name, or ''."""
    found = ARCHIVE_NAME.match(name) or OBJECT_CODE.search(name)
    return "".join(found.groups()).lower() if found else ""


def _plain(value: str) -> str:
    return re.sub(r"[^a-z0-9]", "", value.lower())


def role_of(path: Path) -> Role:
    """Return what a file is, from its name and its first headers; where it cannot be read, what its name says."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError
        return _role(str(path), status.st_size, status.st_mtime_ns)
    except (OSError, ExposureError):
        return _judge(path.name, _Facts())


@lru_cache(maxsize=1 << 16)
def _role(path: str, size: int, modified: int) -> Role:
    return _judge(os.path.basename(path), _read(Path(path)))


def _read(path: Path) -> _Facts:
    """Look at the primary header and that of the first image; of a damaged file as far as it can be understood.

    Where the file cannot be read for now, that is an ExposureError: what is found then must not be remembered.
    """
    headers, image = [], None
    try:
        for hdu in walk(path):
            if not hdu.index or (hdu.is_image and hdu.shape):
                headers.append(hdu.cards(READ))
            if hdu.shape:
                image = hdu
                break
    except ExposureError as e:
        if is_transient(e):
            raise

    def first(key: str) -> str:
        return next((value for header in headers if (value := text(header, key))), "")

    return _Facts(
        first("PROCTYPE"),
        first("PRODTYPE"),
        first("OBSTYPE"),
        None if image is None else _integers(image, headers[-1]),
        Keys.of(*headers),
        image,
    )


def _integers(image: Hdu, header) -> bool | None:
    """Whether pixels are integers as they are, and not floats that were scaled to integers."""
    bits = number(header, "ZBITPIX" if image.compressed else "BITPIX")
    return None if bits is None else bits > 0 and number(header, "BSCALE") in (None, 1.0)


def _judge(name: str, facts: _Facts) -> Role:
    code = _code(name)
    other_level = _other_level(code, facts)
    return Role(*(("other", other_level) if other_level else _kind(code, facts)), facts.keys)


def _other_level(code: str, facts: _Facts) -> str:
    """Why a file is not on the level of InstCal images; empty where it is."""
    stated, named = _plain(facts.proctype), NAMED_LEVELS.get(code[1:2], code[1:2] and "unknown")
    if stated not in NOTHING and stated != "instcal":
        return f"{LEVELS.get(stated, 'another product')} (PROCTYPE {facts.proctype})"
    if CALIBRATION.search(facts.obstype.lower()):
        return f"calibration (OBSTYPE {facts.obstype})"
    if code and code[0] not in "opu" and (stated, _plain(facts.obstype)) != ("instcal", "object"):
        return f"calibration (name code {code})"
    if named in ("", "instcal"):
        return ""
    if stated == "instcal" and code[2] == "i" and _has_sky(facts):
        return ""
    return f"{LEVELS.get(named, 'another product')} (name code {code})"


def _kind(code: str, facts: _Facts) -> tuple[Kind, str]:
    """What a file holds, and why it is no image."""
    stated = re.sub(r"\d+$", "", _plain(facts.prodtype))
    known, named = KINDS.get(stated), NAMED_KINDS.get(code[2:])
    if stated not in NOTHING and not known:
        return "other", f"another product (PRODTYPE {facts.prodtype})"
    if not known and code[2:] not in "ijdw":
        return "other", f"another product (name code {code})"
    if known == "weight" or (named == "weight" and known != "mask"):
        return "weight", f"weight ({f'PRODTYPE {facts.prodtype}' if known == 'weight' else f'name code {code}'})"
    called = "mask" in (known, named)
    if called if facts.integers in (called, None) else _has_one_value(facts, called):
        why = f"PRODTYPE {facts.prodtype}" if known == "mask" else f"name code {code}" if called else "integer pixels"
        return "mask", f"mask ({why})"
    return "image", ""


def _has_one_value(facts: _Facts, otherwise: bool) -> bool:
    """Whether most pixels of the first image have one value, as those of a mask."""
    pixels = _pixels(facts)
    return otherwise if pixels is None else bool(np.mean(pixels == np.median(pixels)) > 0.5)


def _has_sky(facts: _Facts) -> bool:
    """Whether the pixels of the first image are above zero by more than their scatter: the sky is still in them."""
    pixels = _pixels(facts)
    if pixels is None:
        return False
    sky = np.median(pixels)
    return bool(sky > SKY_SIGMAS * NORMAL_MAD * np.median(np.abs(pixels - sky)))


def _pixels(facts: _Facts) -> np.ndarray | None:
    """The finite pixels of the first image, or None; only where names and headers contradict one another."""
    from ..fits.pixels import read_pixels  # here, because numba takes half a second to import, and most runs need it not here

    try:
        pixels = read_pixels(facts.image, np.float64) if facts.image else np.array([])
    except ExposureError as e:
        if is_transient(e):
            raise
        return None
    pixels = pixels[np.isfinite(pixels)]
    return pixels if pixels.size else None


@dataclass(frozen=True, eq=False)
class Inventory:
    """The files of one directory."""

    directory: Path
    roles: dict[str, Role]  # by name, sorted by name, of the files that may be looked at
    others: tuple[str, ...]  # names of the other files
    _masks: dict[tuple[str, object], list[str]] = field(default_factory=dict)

    def __post_init__(self):
        for name, role in self.roles.items():
            if role.kind == "mask":
                for entry in role.keys.entries():
                    self._masks.setdefault(entry, []).append(name)

    @property
    def images(self) -> list[Path]:
        """The InstCal images."""
        return [self.directory / name for name, role in self.roles.items() if role.kind == "image"]

    @property
    def has_masks(self) -> bool:
        """Whether any file is a mask of an InstCal image."""
        return bool(self._masks)

    def masks_with(self, keys: Keys) -> list[str]:
        """Names of the masks whose keys are those of an exposure."""
        near = {name for key, value in keys.entries() if value for name in self._masks.get((key, value), ())}
        return sorted(name for name in near if keys.agree(self.roles[name].keys))

    def left_out(self) -> list[tuple[str, str]]:
        """Name and reason of each file that is neither an image nor the mask of one."""
        used = {mask.name for image in self.images if (mask := mask_of(image)[0])}
        found = [(name, "no *.fits.fz or *.fits") for name in self.others]
        for name, role in self.roles.items():
            if role.kind == "mask" and name not in used:
                found.append((name, f"{role.reason} of no InstCal image that is here"))
            elif role.kind in ("weight", "other"):
                found.append((name, role.reason))
        return sorted(found)


_known: dict[Path, tuple[int, Inventory]] = {}  # need not be made again until the directory has another time of modification


def inventory(directory: Path) -> Inventory:
    """Look at all files of a directory; raise an OSError where it cannot be read."""
    began, modified = time.time(), directory.stat().st_mtime_ns
    files = sorted(directory.iterdir())
    others = tuple(path.name for path in files if not is_fits(path.name))
    found = Inventory(directory, {path.name: role_of(path) for path in files if is_fits(path.name)}, others)
    _known.pop(directory, None)
    if modified / 1e9 < began - RACY:
        _known[directory] = modified, found
        for oldest in list(_known)[:-REMEMBERED]:
            _known.pop(oldest, None)
    return found


def _inventory(directory: Path) -> Inventory:
    """The inventory of a directory, which is not looked at again where no file has come or gone."""
    modified, found = _known.get(directory, (None, None))
    return found if found and directory.stat().st_mtime_ns == modified else inventory(directory)


def mask_of(image: Path) -> tuple[Path | None, str]:
    """Return the mask of an image, and a remark.

    Returns
    -------
    mask : `~pathlib.Path` or None
    remark : str
        What a user should know of it: where there is none and other exposures have one, where that by the image's name is of
        another exposure, where there is only one of another version of the pipeline. That one is used if its detectors are
        as large, because it tells of the same photons.
    """
    keys, twin = role_of(image).keys, _twin(image)
    of_twin = role_of(twin).keys if twin else Keys()
    its_own = keys.agree(of_twin)
    if twin and its_own is not False and keys.same_version(of_twin):
        return twin, ""
    try:
        found = _inventory(image.parent)
    except OSError:  # it has vanished, or cannot be listed
        return None, ""
    names = set(found.masks_with(keys)) | ({twin.name} if twin and its_own is not False else set())
    known = [(path := image.with_name(name), role_of(path)) for name in names]
    ranked = sorted((not keys.same_version(role.keys), path != twin, path.name) for path, role in known if role.kind == "mask")
    remarks = [f"{twin.name} is the mask of another exposure: not used"] if twin and its_own is False else []
    if not ranked:
        return None, "; ".join([*remarks, "no mask: bad pixels and cosmic rays stay in it"] if found.has_masks else remarks)
    other_version, _, name = ranked[0]
    mask = image.with_name(name)
    if other_version:
        versions = f"{name} is of {role_of(mask).keys.version}, the image of {keys.version}"
        if not _sizes_agree(image, mask):
            return None, "; ".join([*remarks, f"no mask: {versions}, and its detectors have other sizes"])
        remarks.append(f"mask of another version of the pipeline: {versions}")
    elif remarks:
        remarks.append(f"its mask is {name}")
    return mask, "; ".join(remarks)


def _twin(image: Path) -> Path | None:
    """The mask that has the name of an image."""
    name = image.name.replace("_ooi_", "_ood_")
    # One of the two may have been unpacked.
    names = (name, name.removesuffix(".fz") if name.endswith(".fz") else name + ".fz") if name != image.name else ()
    return next((path for path in map(image.with_name, names) if path.exists() and role_of(path).kind == "mask"), None)


def _sizes_agree(image: Path, mask: Path) -> bool:
    """Whether the detectors that two files share, at least one, have the same sizes."""
    try:
        first, second = ({h.extname: h.shape for h in scan(path)[1:] if h.is_image} for path in (image, mask))
    except ExposureError:
        return False
    common = first.keys() & second.keys()
    return bool(common) and all(first[name] == second[name] for name in common)
