"""The part of a field's page that shows one image: the sky before and after matching, the tiles, how the matching went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.coordinates import Angle

from ..config import BackgroundKind
from ..figures.drawing import MINUS, UNIT, short
from ..sky import Grid, mean_position, tan_wcs
from ..survey import Tile
from ..words import counted
from .contents import Contents, ImageContents, TileContents
from .document import folded, links, number, picture, table
from .markup import Content, Markup, address, element, joined
from .pictures import Greys, Picture, Place

__all__ = ["image_panel", "tile_places"]

SMALLEST_PART = 0.35  # of the side of a tile: tiles whose centres are nearer than that are drawn over one another
BETWEEN = 0.955  # part of the distance of neighbouring tiles that is picture
NAME_PLACE = 0.012, 0.034  # of a tile's name from its upper left corner, in the side of the picture
STAND_IN = "quick look"


def image_panel(contents: Contents, image: ImageContents, place: int) -> Content:
    """Everything that there is of one image, as HTML; ``place`` is its number among the images of the page."""
    exposed = sum(row["EXPTIME"] for row in image.exposures)
    filters = ", ".join(dict.fromkeys(f"{row['FILTER']} {short(row['EXPTIME'])} s" for row in image.exposures))
    about = f"{counted(len(image.exposures), 'exposure')} ({filters}), {exposed:.0f} s in all" if image.exposures else ""
    return (
        element("h2", image.title, " ", element("small", about)),
        element(
            "div",
            _sky(contents, image, place),
            _matching(contents, image),
            class_="field" if image.sky else "field without-sky",
        ),
        _tiles(contents, image),
        _figures(contents, image),
        _pairs(image),
        _mosaics(contents, image),
    )


def _sky(contents: Contents, image: ImageContents, place: int) -> Markup | None:
    """The field before and after matching: one of the two, or parts of both."""
    if not image.sky:
        return None
    before, after = image.sky["before"], image.sky["after"]
    choices = [
        (
            element(
                "input",
                type="radio",
                name=f"version-{place}",
                id=f"{version}-{place}",
                class_=f"choice show-{version}",
                checked=version == "after",
                autocomplete="off",
            ),
            element("label", words, for_=f"{version}-{place}"),
        )
        for version, words in (("before", "Before matching"), ("after", "After"))
    ]
    what = f"{contents.paths.field} in {image.name}, north up, east left"
    window = element(
        "div",
        picture(after, f"{what}, matched backgrounds subtracted"),
        picture(before, f"{what}, one background subtracted from each exposure", class_="before"),
        _outlines(image, after),
        element("span", class_="line", aria_hidden="true"),
        element(
            "input",
            type="range",
            min=0,
            max=100,
            step=1,
            value=50,
            class_="slider",
            autocomplete="off",
            aria_label="How much of the picture, from the left, is before matching, in percent",
        ),
        class_="window",
        **{f"data_{name}": f"{value:.8g}" for name, value in vars(image.place).items()},
        style=f"aspect-ratio:{after.width}/{after.height};max-width:calc({after.width / after.height:.4f}*92vh)",
    )
    shift = f"{number(abs(image.greys.shift))} {UNIT} {'more' if image.greys.shift >= 0 else 'less'}"
    caption = element(
        "figcaption",
        element("span", "Drag across the picture to compare. ", class_="scripted"),
        f"The whole field from its quick look; the same greys are {shift} before matching. North is up, east left. ",
        element("span", _where(image.place)),
    )
    position = element("output", "Point at the picture for RA and Dec.", class_="position")
    comparison = element("div", choices, window, position, _bar(image.greys), class_="comparison")
    return element("figure", comparison, caption, class_="sky")


def _bar(greys: Greys) -> Markup | None:
    """The greys of the pictures of the field with values."""
    if not greys.values:
        return None
    values = [element("span", number(value), style=f"left:{100 * place:.2f}%") for value, place in greys.values]
    label = f"Greys from {number(greys.values[0][0])} to {number(greys.values[-1][0])} {UNIT}"
    greys_bar = element("div", values, class_="greys", role="img", aria_label=label)
    return element("div", greys_bar, element("small", UNIT), class_="bar")


def _where(place: Place) -> str:
    """Middle and size of a picture on the sky."""
    square = tan_wcs(Grid(place.ra, place.dec, 1.0, 1, 1))
    middle = [[(0.5 - place.left) * place.width, (place.top - 0.5) * place.height]]
    ra, dec = (Angle(degrees, "deg") for degrees in square.wcs_pix2world(middle, 0)[0])
    words = (
        ra.to_string("hourangle", sep=("ʰ", "ᵐ", "ˢ"), precision=0),
        dec.to_string(sep=("°", "′", "″"), precision=0, alwayssign=True),
    )
    size = " × ".join(f"{side / 3600:.2f}°" if side > 3600 else f"{side / 60:.1f}′" for side in (place.width, place.height))
    return f"Middle: RA {words[0]}, Dec {words[1].replace('-', MINUS)} (ICRS); {size}."


def _outlines(image: ImageContents, picture: Picture) -> Markup:
    """The tiles that have a picture, on the sky."""
    size = max(picture.width, picture.height)
    shapes = []
    for name in (t.tile.name for t in image.shown):
        corners = image.outlines[name]
        shapes.append(element("polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)))
        seen = np.clip([corners.min(axis=0), corners.max(axis=0)], 0, [picture.width, picture.height])
        if (np.ptp(seen, axis=0) > 0.3 * np.ptp(corners, axis=0)).all():  # names of the others would be on one another
            x, y = seen[0] + size * np.array(NAME_PLACE)
            shapes.append(element("text", name, x=f"{x:.1f}", y=f"{y:.1f}"))
    return element(
        "svg",
        shapes,
        viewBox=f"0 0 {picture.width} {picture.height}",
        aria_hidden="true",
        style=f"font-size:{0.024 * size:.1f}px;stroke-width:{size / 900:.2f}",
    )


def _matching(contents: Contents, image: ImageContents) -> Markup | None:
    """How much better matching made the image."""
    row = image.matching
    if image.failed:
        return element(
            "div", element("h3", "Backgrounds"), element("p", f"failed: {image.failed}", class_="box bad"), class_="side"
        )
    if not row:
        return element("div", element("h3", "Backgrounds"), element("p", "not matched yet", class_="empty"), class_="side")
    alone = f", {row['N_alone']} without any overlap" if row["N_alone"] else ""
    fixed = f", {row['N_fixed']} given" if row["N_fixed"] else ""
    facts = [
        ("differences of overlapping detectors", _change(row["Before"], row["After"]), UNIT),
        ("their rms", _change(row["rms_bef"], row["rms_aft"]), UNIT),
        ("seams removed", number(row["Seam_off"]), UNIT),
        ("standard error of a background", number(row["b_err"]), UNIT),
        ("detectors", f"{row['N_det']} in {counted(row['N_comp'], 'connected group')}{alone}{fixed}", ""),
        ("overlaps", f"{row['N_pairs']}, {row['N_reject'] or 'none'} of them rejected", ""),
        ("residuals / standard errors", number(row["Scale"]), "near 1 where the errors are right"),
    ]
    return element(
        "div",
        element("h3", "Backgrounds, before → after matching"),
        element("dl", [(element("dt", name), element("dd", value, " ", element("small", unit))) for name, value, unit in facts]),
        element("p", row["Remark"]) if row["Remark"] else None,
        links(image.overviews, contents.paths.page),
        class_="side",
    )


def _change(before: float, after: float) -> Markup:
    return joined((number(before), " → ", element("b", number(after))))


def _tiles(contents: Contents, image: ImageContents) -> Markup | None:
    """The tiles where they are on the sky, each leading to its figure."""
    if not image.shown and not any(t.failed for t in image.tiles):
        return None
    places, side, shape = tile_places([t.tile for t in image.tiles])
    pictures = []
    for t, (left, top) in zip(image.tiles, places, strict=True):
        style = f"left:{100 * left:.3f}%;top:{100 * top:.3f}%;width:{100 * side:.3f}%"
        kind = "failed" if t.failed else "empty" if not t.picture else "stands-in" if t.source == STAND_IN else ""
        word = {"failed": "failed", "empty": "no data", "stands-in": STAND_IN}.get(kind)
        alt = f"{contents.paths.field} {t.tile.name} in {image.name}, {_source(t)}"
        content = (
            picture(t.picture, alt) if t.picture else None,
            element("span", t.tile.name, element("em", word) if word else None),
        )
        target = next(iter(t.files.values()), None)
        if t.picture and target:
            link = address(target, contents.paths.page)
            pictures.append(element("a", content, href=link, class_=f"tile {kind}", style=style, title=t.failed or None))
        else:
            pictures.append(element("div", content, class_=f"tile {kind}", style=style, title=t.failed or None))
    stand_ins = sum(t.source == STAND_IN for t in image.shown)
    words = f"{counted(len(image.shown), 'tile')} on the sky; a mosaic leads to its figure at full size."
    if stand_ins:
        words += f" The quick look stands in for {counted(stand_ins, 'mosaic')}."
    columns = max(1, round(1 / side))
    widest = columns * (max((t.picture.width for t in image.shown), default=220) + 4)
    return joined(
        (
            element("h3", "Tiles"),
            element("p", words, class_="hint"),
            element("div", pictures, class_="tiles", style=f"aspect-ratio:{shape[0]:.4f}/{shape[1]:.4f};max-width:{widest}px"),
        )
    )


def _source(t: TileContents) -> str:
    words = {
        BackgroundKind.MATCHED: "mosaic with matched backgrounds",
        BackgroundKind.ORIGINAL: "mosaic with the exposures' backgrounds",
        STAND_IN: "quick look with matched backgrounds",
    }
    return words.get(t.source, "no picture")


def tile_places(tiles: Sequence[Tile]) -> tuple[list[tuple[float, float]], float, tuple[float, float]]:
    """Where the pictures of tiles stand, so that they lie as on the sky: north is up, east left.

    Parameters
    ----------
    tiles : sequence of `~kred_core.survey.Tile`

    Returns
    -------
    places : list of (float, float)
        Left and top of each picture, as parts of the width and height of the whole.
    side : float
        Of each picture, as part of the width. Pictures are smaller than their tiles, so that neighbours, which overlap on the
        sky, do not hide one another.
    shape : (float, float)
        Width and height of the whole in degrees.
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


def _figures(contents: Contents, image: ImageContents) -> Markup | None:
    if not image.figures:
        return None
    shown = [
        element(
            "figure",
            element("a", picture(small, f"{image.name}: {words}"), href=address(path, contents.paths.page)),
            element("figcaption", words),
        )
        for words, path, small in image.figures
    ]
    return joined((element("h3", "How the backgrounds were matched"), element("div", shown, class_="figures")))


def _pairs(image: ImageContents) -> Markup | None:
    if not image.worst:
        return None
    head = ("first", "second", f"difference left, {UNIT}", "standard errors", "cells", "")
    rows = [
        (
            pair["File1"],
            pair["File2"],
            f"{number(float(pair['After']))} ± {number(float(pair['e_Delta']))}",
            f"{pair['errors']:.1f}",
            pair["Ncells"],
            "rejected" if pair["Rejected"] == "True" else "",
        )
        for pair in image.worst
    ]
    title = f"The {len(rows)} pairs of detectors that agree least" if len(rows) > 1 else "The pair of detectors that agrees least"
    return folded(title, table(head, rows, numeric={2, 3, 4}))


def _mosaics(contents: Contents, image: ImageContents) -> Markup | None:
    rows = []
    for t in image.tiles:
        if not (t.numbers or t.files or t.failed):
            continue
        problem = element("span", f"failed: {t.failed}", class_="refused") if t.failed else None
        files = joined((problem, links(t.files, contents.paths.page, "inline")))
        rows.append((t.tile.name, *(_numbers(t) if t.numbers else [""] * 6), files))
    if not rows:
        return None
    head = ("tile", "covered", "depth", "level", "noise", "block jump", "low-pass rms", "files")
    words = (
        "Depth: median number of detectors in a pixel. Block jump: the step between neighbouring blocks of pixels that 1 % exceed, "
        f"at seams and in nebulae. The last four in {UNIT}."
    )
    hint = element("p", words, class_="hint")
    numbers = table(head, rows, numeric=set(range(1, 7)))
    return folded(f"Numbers and files of {counted(len(rows), 'tile')}", joined((hint, numbers)))


def _numbers(t: TileContents) -> list[str]:
    values = [number(t.numbers[name]) for name in ("Cov_med", "Level", "Noise", "BlockJump", "LowPass")]
    return [f"{100 * t.numbers['Covered']:.0f} %", *values]
