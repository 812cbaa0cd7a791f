"""The pages as HTML: the words on them that need computing, and the templates ``*.html`` beside this module.

A page holds all it needs, so that it can be looked at from a disk, without a network, and be sent to somebody. Names of
files and values from headers come from elsewhere and may hold anything: jinja2 escapes all of them.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import numpy as np
from astropy.coordinates import Angle
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..config import STAGES, BackgroundKind
from ..figures.drawing import MINUS, UNIT, short
from ..products import FieldPaths
from ..sky import Grid, mean_position, tan_wcs
from ..survey import Tile
from ..words import NAMED, counted, human_size
from .contents import Contents, ImageContents
from .pictures import Place, Sky, card_picture

FEW_EXPOSURES = 24  # good exposures that are shown without being asked for
VERDICTS = {"refused": "refused", "usable": "usable, with remarks", "good": "good"}
SOURCES = {  # what the picture of a tile is
    BackgroundKind.MATCHED: "mosaic with matched backgrounds",
    BackgroundKind.ORIGINAL: "mosaic with the exposures' backgrounds",
    "quick look": "quick look with matched backgrounds",
}
SMALLEST_PART = 0.35  # of the side of a tile: tiles whose centres are nearer than that are drawn over one another
BETWEEN = 0.955  # part of the distance of neighbouring tiles that is picture
NAME_PLACE = 0.012, 0.034  # of a tile's name from its upper left corner, in the side of the picture


def field_page(contents: Contents) -> str:
    """Return the page of a field as HTML; the same contents give the same text."""
    return _render(
        "field.html",
        contents.paths.page,
        script=_environment().get_template("page.js").render(),
        contents=contents,
        state=_state(contents),
        summary=_summary(contents),
        stages=_stages(contents),
        reasons=_reasons(contents),
    )


def fields_page(page: Path, cards: Sequence[tuple[FieldPaths, dict[str, Any]]]) -> str:
    """Return the page of all fields as HTML: those that have a page, with their `card`; one that has been lost may be empty."""
    states = [card.get("state", ["unknown"])[0] for _, card in cards]
    return _render("fields.html", page, cards=cards, states=states)


def card(contents: Contents) -> dict[str, Any]:
    """Return what the page of all fields says of one, as plain values."""
    pictures = [image.pictures["after"] for image in contents.images if image.sky]
    pictures += [t.picture for image in contents.images for t in image.shown if t.picture]
    return {
        "field": contents.paths.field,
        "state": _state(contents),
        "summary": _summary(contents),
        "ended": contents.run.get("ended", ""),
        "picture": card_picture(pictures[0]).address if pictures else "",
    }


@cache
def _environment() -> Environment:
    loader = PackageLoader("kred_core", "report")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.globals |= {"FEW_EXPOSURES": FEW_EXPOSURES, "SOURCES": SOURCES, "UNIT": UNIT, "VERDICTS": VERDICTS}
    environment.globals |= {"counted": counted, "human_size": human_size}
    environment.filters |= {
        "about": _about,
        "fields": lambda place: vars(place).items(),
        "layout": _layout,
        "number": _number,
        "outlines": _outlines,
        "where": _where,
    }
    return environment


def _render(template: str, page: Path, script: str = "", **context: object) -> str:
    """A page; ``link(path)`` is a file as a relative link from it, which holds after the whole data root has been moved."""

    def link(path: Path) -> str:
        return quote(os.fsencode(os.path.relpath(path, page.parent)))

    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = _environment().get_template(template).render(link=link, script=script, digest=digest, **context)
    return text.encode("utf-8", "replace").decode("utf-8")  # file names that are not UTF-8 hold half characters, which no page can


def _state(contents: Contents) -> tuple[str, str]:
    """How far the field is: one of "complete", "incomplete", "waiting", "unknown", and the same in words."""
    if contents.run and not contents.run.get("complete"):
        return "incomplete", "not complete"
    if not any(image.sky or image.shown for image in contents.images):
        return "waiting", "no pictures yet"
    return ("complete", "complete") if contents.run else ("unknown", "no record of a run")


def _summary(contents: Contents) -> list[str]:
    """How much there is of the field: exposures, tiles, images."""
    verdicts = [row["Verdict"] for row in contents.verdicts]
    parts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in reversed(VERDICTS) if verdict in verdicts)
    words = [f"{counted(len(verdicts), 'exposure')}: {parts}"] if verdicts else ["no exposures checked yet"]
    tiles = [t for image in contents.images for t in image.tiles]
    coadded = {t.tile.name for t in tiles if any(name.startswith("FITS") for name in t.files)}
    seen = {t.tile.name for t in tiles if t.picture}
    if coadded or seen:
        how = "co-added" if coadded else "in the quick look"
        words.append(f"{len(coadded or seen)} of {counted(len(contents.tiles), 'tile')} {how}")
        words.append(", ".join(image.name for image in contents.images if image.shown or image.sky))
    return words


def _stages(contents: Contents) -> list[tuple[str, dict[str, Any]]]:
    """What the last run did, in the order of the stages."""
    order = {name: i for i, name in enumerate(STAGES)}
    return sorted(contents.run.get("stages", {}).items(), key=lambda item: order.get(item[0], len(order)))


def _reasons(contents: Contents) -> list[str]:
    """Why the last run is not complete."""
    run = contents.run
    reasons = [f"The run stopped: {run['stopped']}"] if run.get("stopped") else []
    for name, stage in _stages(contents):
        reasons += [f"{name} {unit} failed: {reason}" for unit, reason in stage.get("failed", {}).items()]
    missing = run.get("missing", [])
    reasons += [f"missing: {path}" for path in missing[:NAMED]]
    return reasons + ([f"… and {counted(len(missing) - NAMED, 'other product')}"] if len(missing) > NAMED else [])


# what the templates need of one image


def _number(value: float | str | None, decimals: int | None = None) -> str:
    """A number to three digits, or so many decimals; a dash where it is not known."""
    number = math.nan if value is None else float(value)
    return short(number) if decimals is None or not math.isfinite(number) else f"{number:.{decimals}f}"


def _about(image: ImageContents) -> str:
    """The exposures of an image."""
    exposed = sum(row["EXPTIME"] for row in image.exposures)
    filters = ", ".join(dict.fromkeys(f"{row['FILTER']} {short(row['EXPTIME'])} s" for row in image.exposures))
    return f"{counted(len(image.exposures), 'exposure')} ({filters}), {exposed:.0f} s in all" if image.exposures else ""


def _where(place: Place) -> str:
    """Middle and size of a picture on the sky."""
    square = tan_wcs(Grid(place.ra, place.dec, 1.0, 1, 1))
    middle = [[(0.5 - place.left) * place.width, (place.top - 0.5) * place.height]]
    ra, dec = (Angle(degrees, "deg") for degrees in square.wcs_pix2world(middle, 0)[0])
    ra = ra.to_string("hourangle", sep=("ʰ", "ᵐ", "ˢ"), precision=0)
    dec = dec.to_string(sep=("°", "′", "″"), precision=0, alwayssign=True).replace("-", MINUS)
    size = " × ".join(f"{side / 3600:.2f}°" if side > 3600 else f"{side / 60:.1f}′" for side in (place.width, place.height))
    return f"Middle: RA {ra}, Dec {dec} (ICRS); {size}."


def _outlines(image: ImageContents) -> Iterator[tuple[str, str, list[float] | None]]:
    """The tiles that have a picture, on the sky: corners as in SVG, name, and where that stands; None where there is no room."""
    shown, sky = image.pictures["after"], cast(Sky, image.sky)  # which has made the picture
    for name in (t.tile.name for t in image.shown):
        corners = sky.outlines[name]
        seen = np.clip([corners.min(axis=0), corners.max(axis=0)], 0, [shown.width, shown.height])
        has_room = (np.ptp(seen, axis=0) > 0.3 * np.ptp(corners, axis=0)).all()
        place = seen[0] + max(shown.width, shown.height) * np.array(NAME_PLACE)
        yield " ".join(f"{x:.1f},{y:.1f}" for x, y in corners), name, place.tolist() if has_room else None


def _layout(image: ImageContents) -> dict[str, Any]:
    """Where the pictures of the tiles stand, see `tile_places`, and at most how wide they are together, in pixels."""
    places, side, shape = tile_places([t.tile for t in image.tiles])
    widest = max(1, round(1 / side)) * (max((t.picture.width for t in image.shown if t.picture), default=220) + 4)
    return {"places": places, "side": side, "shape": shape, "widest": widest}


def tile_places(tiles: Sequence[Tile]) -> tuple[list[tuple[float, float]], float, tuple[float, float]]:
    """Return where the pictures of tiles stand, so that they lie as on the sky: north is up, east left.

    The result is the left and top of each picture, as parts of the width and height of the whole; its side, as part of the width:
    less than a tile, so that neighbours, which overlap, do not hide one another; and width and height of the whole in degrees.
    """
    ra, dec = (np.array([getattr(t, name) for t in tiles]) for name in ("ra", "dec"))
    middle = tan_wcs(Grid(*mean_position(ra, dec), 3600.0, 1, 1))  # degrees, west and north
    x, y = np.array(middle.wcs_world2pix(np.stack([ra, dec], axis=1), 0)).T
    size = min(t.size for t in tiles)
    distances = [max(abs(x[i] - x[j]), abs(y[i] - y[j])) for i in range(len(tiles)) for j in range(i)]
    side = BETWEEN * max(min([size, *distances]), SMALLEST_PART * size)
    width, height = np.ptp(x) + side, np.ptp(y) + side
    lefts, tops = (x - x.min()) / width, (y.max() - y) / height
    return list(zip(lefts.tolist(), tops.tolist(), strict=True)), float(side / width), (float(width), float(height))
