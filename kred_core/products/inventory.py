"""Which files of a field's directory are exposures, which mask belongs to which of them, and what is left out.

A mask belongs to the exposure whose OBSID and EXPNUM it carries (MJD-OBS, then DATE-OBS where it has neither); the name
decides where keys do not. Of several the one of the image's version of the pipeline (PLVER) counts.

Stages ask again and again, of thousands of files: `roles` remembers headers, and a directory is not looked at again for the
mask of one exposure where no file has come or gone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ExposureError
from ..fits.hdu import scan
from .roles import Keys, Role, is_fits, role_of

__all__ = ["Inventory", "inventory", "mask_of"]

RACY = 2.0  # s; a directory that changed just now may change again without a new time of modification
REMEMBERED = 4  # directories


@dataclass(frozen=True, eq=False)
class Inventory:
    """The files of one directory.

    Attributes
    ----------
    directory : `~pathlib.Path`
    roles : dict
        Role by name, sorted by name, of the files that may be looked at.
    others : tuple of str
        Names of the other files.
    """

    directory: Path
    roles: dict[str, Role]
    others: tuple[str, ...]
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
    """Look at all files of a directory; headers that were read already are not read again.

    Raises
    ------
    OSError
        The directory cannot be read.
    """
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
    """The mask of an image.

    Parameters
    ----------
    image : `~pathlib.Path`

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
