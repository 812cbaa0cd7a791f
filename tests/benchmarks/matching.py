"""How well and how cheaply backgrounds are matched, on full-size detectors with known truth.

    python tests/benchmarks/matching.py --root /tmp/case            # about 10 minutes the first time, 10 GB of disk
    python tests/benchmarks/matching.py --root /tmp/case --gradient 0.01 --shape exposure-plane

Simulates one tile in three bands, twice: with and without additional diffuse emission. Reduces
both to mosaics with one background for each exposure and with matched ones, and compares backgrounds and mosaics with the
truth. Everything is done in this process by the functions that the tasks call, so CPU seconds are those of the work alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from report import table
from scipy.ndimage import map_coordinates

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kred_core"))

import matched_fields
from matched_fields import without_plane

from kred_core import evaluation, stages
from kred_core.background import Background
from kred_core.coadd import native
from kred_core.config import BackgroundKind, FieldConfig
from kred_core.match import Pairs
from kred_core.match.solve import solve_svd
from kred_core.products import FieldPaths, tables
from kred_core.simulate import SimulationConfig, diffuse_brightness, simulate, sky_brightness
from kred_core.sky import celestial_wcs
from kred_core.stages.matching import read_skies

FIELD, TILE = "LMC_c42", "T07"
PIXEL = 0.0688  # square arcsec of a native pixel
CASE = {
    "field": FIELD,
    "tiles": [TILE],
    "bands": ["N662", "N673", "r"],
    "exposures": [4, 3, 3],
    "n_detectors": 7,
    "dither": 120,
    "offsets": [5.3 / PIXEL, 3.5 / PIXEL, 0.7 / PIXEL],
    "processes": 0,
}
DIFFUSE = 2.0  # counts28 per native pixel, rms
STEP = 8  # pixels of the mosaic between the points at which the true sky is evaluated; its finest structures have 110

# Of the older scripts, on their own simulated case of 70 detectors: rms error of the offsets after the common plane; low-pass rms
# and 99 % jump of neighbouring blocks of 64 pixels of mosaic minus truth; counts28 per pixel. CPU seconds of their matching.
SCRIPTS = {
    "N662": (0.025, 0.081, 0.087),
    "N673": (0.042, 0.079, 0.163),
    "r": (0.039, 0.056, 0.122),
}
SCRIPTS_CPU = 367.0
MOFFAT_BETA, FAINT_WING = 3.0, 0.1  # shape of the simulated stars; counts28 per pixel of the mosaic at which they are cut off


class Clock:
    """CPU seconds of this process by part of the work."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def measure(self, part: str, function: Callable, *arguments):
        start = time.process_time()
        result = function(*arguments)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - start
        return result


def configuration(root: Path, shape: str) -> FieldConfig:
    options = {"prepare": {"output": "none"}, "coadd": {"mosaics": "both"}, "match": {"output": "none", "shape": shape}}
    return FieldConfig(field=FIELD, tiles=[TILE], root=root, **options)


def reduce(config: FieldConfig, clock: Clock) -> None:
    """The whole chain."""
    clock.measure("statistics and binned maps", matched_fields.summarize, config)
    clock.measure("pairs", matched_fields.measure, config)
    clock.measure("solution", matched_fields.solve, config)
    clock.measure("co-adds", matched_fields.coadd, config)


def offset_errors(config: FieldConfig, truth) -> dict[str, dict]:
    """Solved minus true backgrounds of each image after the common plane, counts28 per native pixel."""
    found = tables.read(FieldPaths.of(config).background_table, tables.BACKGROUNDS, "match")
    true = {(str(row["Root"]), str(row["EXTNAME"])): row for row in truth}
    result = {}
    for image in dict.fromkeys(map(str, found["Image"])):
        rows = found[found["Image"] == image]
        facts = [true[str(row["Root"]), str(row["EXTNAME"])] for row in rows]
        ra, dec = (np.array([fact[axis] for fact in facts]) for axis in ("RA", "Dec"))
        error = np.asarray(rows["b"]) - np.array([f["BACK_PIX"] for f in facts])
        left = without_plane(ra, dec, error)
        pulls = (error - error.mean()) / np.asarray(rows["b_err"])
        result[image] = {
            "detectors": len(rows),
            "solved": int(np.count_nonzero(rows["n_pairs"] > 0)),
            "rms": float(np.sqrt(np.mean(left**2))),
            "rms with plane": float(np.std(error)),
            "pulls": float(np.sqrt(np.nanmean(pulls**2))),
            "injected": float(np.std([f["OFFSET_PIX"] for f in facts])),
        }
    return result


def _on_mosaic(header: fits.Header, shape: tuple[int, int], brightness: Callable) -> np.ndarray:
    """Surface brightness at the pixels of a mosaic, counts28 per pixel."""
    wcs = celestial_wcs(header)
    rows, columns = (np.arange(0, n + STEP, STEP) for n in shape)
    x, y = np.meshgrid(columns, rows)
    sky = wcs.wcs_pix2world(np.stack([x.ravel(), y.ravel()], axis=-1), 0)
    coarse = brightness(sky[:, 0], sky[:, 1]).reshape(x.shape) * abs(header["CD1_1"] * header["CD2_2"]) * 3600**2
    fine = np.empty(shape, np.float32)
    for first in range(0, shape[0], 512):
        at = np.mgrid[first : min(first + 512, shape[0]), : shape[1]] / STEP
        fine[first : first + 512] = map_coordinates(coarse, at, order=3, mode="nearest")
    return fine


def _mosaic(config: FieldConfig, image: str, background: BackgroundKind) -> tuple[np.ndarray, fits.Header]:
    paths = FieldPaths.of(config)
    return _read(paths.mosaic(TILE, image, background), paths.coverage(TILE, image, background))


def _read(mosaic: Path, coverage: Path) -> tuple[np.ndarray, fits.Header]:
    with fits.open(mosaic, memmap=False) as f:
        values, header = f[0].data.astype(np.float32), f[0].header
    values[fits.getdata(coverage) == 0] = np.nan
    return values, header


def _without_stars(values: np.ndarray, header: fits.Header, stars, image: str) -> None:
    """Take out the pixels that stars reach: the truth that is compared has none."""
    seeing, scale = header["SEEINGHI"], abs(header["CD2_2"]) * 3600
    width = seeing / scale / (2 * np.sqrt(2 ** (1 / MOFFAT_BETA) - 1))
    central = np.asarray(stars[f"FLUX_{image}"]) * (MOFFAT_BETA - 1) / (np.pi * width**2)
    reach = width * np.sqrt(np.maximum((central / FAINT_WING) ** (1 / MOFFAT_BETA) - 1, 0))
    places = celestial_wcs(header).wcs_world2pix(np.stack([stars["RA"], stars["Dec"]], axis=-1), 0)
    for (x, y), radius in zip(places, reach, strict=True):
        low = np.maximum(np.floor([y - radius, x - radius]), 0).astype(int)
        high = np.minimum(np.ceil([y + radius, x + radius]) + 1, values.shape).astype(int)
        if (low < high).all():
            rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
            part = values[low[0] : high[0], low[1] : high[1]]
            part[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = np.nan


def _other_mosaic(config: FieldConfig, image: str, backgrounds: dict[tuple[str, str], float], name: str) -> np.ndarray:
    """The mosaic with other backgrounds, by Root and EXTNAME."""
    plan = next(p for p in stages.plan_coadds(config) if p.image == image)
    inputs = tuple(replace(i, matched=Background(backgrounds[i.root, i.extname])) for i in plan.inputs)
    products = config.root / f"{name}.fits", config.root / f"{name}.coverage.fits.fz"
    plan = replace(plan, inputs=inputs, backgrounds=(BackgroundKind.MATCHED,))
    native.coadd(plan, config.coadd, {BackgroundKind.MATCHED: products})
    return _read(*products)[0]


def _scripts_backgrounds(config: FieldConfig, image: str) -> dict[tuple[str, str], float]:
    """What the older scripts' solution makes of the same binned maps: half-sample mode of each overlap, singular values."""
    paths = FieldPaths.of(config)
    pairs, skies = Pairs.read(paths.pairs(image)), read_skies(paths, image)
    beta = solve_svd(skies.level.size, pairs.first, pairs.second, pairs.mode, pairs.n_cells, np.zeros(skies.level.size))
    plan = next(p for p in stages.plan_matching(config) if p.image == image)
    names = ((str(row["Root"]), str(row["EXTNAME"])) for row in plan.detectors)
    return dict(zip(names, skies.level + beta * skies.area, strict=True))


def mosaic_errors(config: FieldConfig, simulated: SimulationConfig, image: str, truth, stars) -> dict[str, float]:
    """Mosaic minus true sky, stars left out: low-pass rms and 99 % jump of neighbouring blocks."""
    true = {(str(row["Root"]), str(row["EXTNAME"])): float(row["BACK_PIX"]) for row in truth}
    matched, header = _mosaic(config, image, BackgroundKind.MATCHED)
    sky = _on_mosaic(header, matched.shape, lambda ra, dec: sky_brightness(ra, dec, image, simulated))
    floor = _other_mosaic(config, image, true, "floor")
    mosaics = {
        "before": _mosaic(config, image, BackgroundKind.ORIGINAL)[0],
        "solution of the scripts": _other_mosaic(config, image, _scripts_backgrounds(config, image), "scripts"),
        "matched": matched,
        "true backgrounds": floor,
    }
    side = evaluation.block_side(matched.shape)
    result = {}
    for name, values in mosaics.items():
        alone = evaluation.block_medians(values - floor, side)
        seen = values - sky
        _without_stars(seen, header, stars, image)
        for key, medians in ((name, evaluation.block_medians(seen, side)), (f"{name}, alone", alone)):
            result[f"low-pass rms, {key}"] = evaluation.low_pass_rms(medians)
            result[f"99 % jump, {key}"] = evaluation.block_jump(medians)
    return result


def recovered(plain: FieldConfig, diffuse: FieldConfig, simulated: SimulationConfig, image: str) -> float:
    """Which part of the additional diffuse emission is in the matched mosaic: slope of block medians against the truth."""
    one, header = _mosaic(plain, image, BackgroundKind.MATCHED)
    two, _ = _mosaic(diffuse, image, BackgroundKind.MATCHED)
    truth = _on_mosaic(header, one.shape, lambda ra, dec: diffuse_brightness(ra, dec, simulated))
    two -= one
    side = evaluation.block_side(one.shape)
    truth[~np.isfinite(two)] = np.nan
    seen, true = evaluation.block_medians(two, side), evaluation.block_medians(truth, side)
    good = np.isfinite(seen) & np.isfinite(true)
    return float(np.polyfit(true[good], seen[good], 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="directory for the simulated data, kept for the next time")
    parser.add_argument("--gradient", type=float, default=0.0, help="relative sky gradient of exposures per degree (default 0)")
    parser.add_argument("--shape", default="constant", help="option match.shape (default constant)")
    parser.add_argument("--json", type=Path, help="write all numbers here too")
    arguments = parser.parse_args()
    logging.getLogger("kred_core").setLevel(logging.ERROR)
    simulated, reduced = {}, {}
    clock = Clock()
    for name, diffuse in (("plain", 0.0), ("diffuse", DIFFUSE / PIXEL)):
        root = arguments.root / f"{name}-{arguments.gradient:g}"
        case = SimulationConfig(root=root, gradient=arguments.gradient, diffuse=diffuse, **CASE)
        simulated[name] = case
        reduced[name] = configuration(root, arguments.shape)
        marker = root / "simulated.json"
        content = case.model_dump_json(exclude={"root", "processes"})
        if not marker.exists() or marker.read_text() != content:
            print(f"simulating {root}", flush=True)
            simulate(case)
            marker.write_text(content)
        print(f"reducing {root}", flush=True)
        reduce(reduced[name], clock if name == "plain" else Clock())

    config = reduced["plain"]
    known = config.root / "Truth" / FIELD
    truth, stars = (Table.read(known / f"{name}.ecsv", format="ascii.ecsv") for name in ("detectors", "stars"))
    images = [p.image for p in stages.plan_matching(config)]
    offsets = offset_errors(config, truth)
    numbers = {i: offsets[i] | mosaic_errors(config, simulated["plain"], i, truth, stars) for i in images}
    for i in images:
        numbers[i]["recovered"] = recovered(reduced["plain"], reduced["diffuse"], simulated["diffuse"], i)
    print(_accuracy(numbers))
    print(_cost(clock.seconds, sum(n["detectors"] for n in numbers.values())))
    for line in stages.explain_matching(config):
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps({"images": numbers, "CPU s": clock.seconds}, indent=1) + "\n")


def _accuracy(numbers: dict[str, dict]) -> str:
    rows: list[list[str]] = []

    def row(words: str, value: Callable[[str], str]) -> None:
        rows.append([words, *map(value, numbers)])

    row("detectors solved", lambda i: f"{numbers[i]['solved']} of {numbers[i]['detectors']}")
    row("injected offsets, rms", lambda i: f"{numbers[i]['injected']:.2f}")
    row("offset error after a common plane, rms", lambda i: f"{numbers[i]['rms']:.4f} (scripts {SCRIPTS[i][0]})")
    row("the same without taking out the plane", lambda i: f"{numbers[i]['rms with plane']:.4f}")
    row("error / stated error, rms", lambda i: f"{numbers[i]['pulls']:.2f}")
    for k, what in enumerate(("low-pass rms", "99 % jump"), 1):
        for name in ("before", "solution of the scripts", "matched", "true backgrounds"):
            row(f"mosaic minus truth, {what}, {name}", lambda i, key=f"{what}, {name}": f"{numbers[i][key]:.3f}")
        row(f"{what} that the scripts reach on their own case", lambda i, k=k: f"{SCRIPTS[i][k]}")
        for name in ("solution of the scripts", "matched"):
            key = f"{what}, {name}, alone"
            row(f"{what} that wrong backgrounds alone add, {name}", lambda i, key=key: f"{numbers[i][key]:.4f}")
    row("diffuse emission recovered", lambda i: f"{100 * numbers[i]['recovered']:.2f} %")
    return table(["", *numbers], rows)


def _cost(seconds: dict[str, float], n: int) -> str:
    rows = [[part, f"{value:.1f}"] for part, value in seconds.items()]
    rows.append(
        [f"all but co-adds ({n} detectors)", f"{sum(seconds.values()) - seconds['co-adds']:.1f} (scripts {SCRIPTS_CPU:.0f})"]
    )
    return table(["part of the work", "CPU s"], rows)


if __name__ == "__main__":
    main()
