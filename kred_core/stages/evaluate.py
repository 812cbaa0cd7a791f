"""The stage evaluate: a figure, a coverage figure and numbers for each mosaic, one figure of the field for each image."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from .. import evaluation, figures, survey
from ..config import BackgroundKind, FieldConfig
from ..errors import InputError
from ..exposures.check import ExposureReport
from ..products import FieldPaths, read_record, tables, write_record
from .coadd import mosaic_files, mosaic_names, mosaic_unit, most_mosaics
from .executor import UnitRunner
from .stage import Cost, Plan, Planned, Stage
from .tiles import images_of
from .work import Manifest, Step, Unit, Work

log = logging.getLogger(__name__)

SECONDS_PER_FIGURE, SECONDS_PER_MPIX = 0.7, 0.01  # CPU
FIELD_FIGURE_TILE_PIXELS = 400
IN_WORDS = {
    BackgroundKind.ORIGINAL: "exposures' backgrounds subtracted",
    BackgroundKind.MATCHED: "matched backgrounds subtracted",
}


def evaluate_mosaic(config: FieldConfig, tile: str, image: str) -> Manifest:
    """Measure the mosaics of one image of a tile and draw them; where both were made, side by side too."""
    paths, products, shown, measured = FieldPaths.of(config), [], [], []
    subject = f"{config.field} {tile} {survey.images(config.field, config.survey).title(image)}"
    for background in config.coadd.backgrounds:
        record = _numbers(paths, tile, image, background)
        record.unlink(missing_ok=True)
        numbers, reduced = evaluation.measure_mosaic(*mosaic_files(paths, tile, image, background), config.evaluate.figure_pixels)
        title = f"{subject}, {IN_WORDS[background]}"
        figure, coverage_figure = paths.mosaic_figure(tile, image, background), paths.coverage_figure(tile, image, background)
        figures.mosaic_figure(reduced, numbers, title, config.evaluate.stretch, figure)
        figures.coverage_figure(reduced, numbers, title, coverage_figure)
        kept = paths.reduced(tile, image, background)
        reduced.shrink(math.ceil(max(reduced.image.shape) / FIELD_FIGURE_TILE_PIXELS)).write(kept)
        write_record(record, asdict(numbers))
        products += [figure, coverage_figure, record, kept]
        shown.append(reduced)
        measured.append(numbers)
    if len(shown) == 2:
        products.append(paths.comparison_figure(image, tile))
        block = max(1, round(measured[0].block / shown[0].factor))
        removed = evaluation.block_jump(evaluation.block_medians(shown[0].image - shown[1].image, block))
        jumps = measured[0].block_jump, measured[1].block_jump, removed
        figures.comparison_figure(shown[0], shown[1], jumps, subject, products[-1])
    return Manifest.of_figures(products)


def _numbers(paths: FieldPaths, tile: str, image: str, background: BackgroundKind) -> Path:
    """The record of the numbers of one mosaic."""
    return paths.record("evaluate", mosaic_unit(tile, image, [background]))


def evaluated_tiles(config: FieldConfig) -> dict[tuple[str, BackgroundKind], list[str]]:
    """Return tiles by image and background: the mosaics of the whole field that there are numbers of."""
    paths = FieldPaths.of(config)
    found: dict[tuple[str, BackgroundKind], list[str]] = {}
    for tile, image in mosaic_names(config.model_copy(update={"tiles": []})):
        for background in config.coadd.backgrounds:
            files = mosaic_files(paths, tile, image, background)[0], _numbers(paths, tile, image, background)
            if all(path.exists() for path in files):
                found.setdefault((image, background), []).append(tile)
    return found


def draw_field(config: FieldConfig, image: str, background: BackgroundKind, tiles: list[str]) -> Manifest:
    """Draw the tiles of one image where they lie on the sky."""
    paths = FieldPaths.of(config)
    reduced = [(tile, evaluation.ReducedImage.read(paths.reduced(tile, image, background))) for tile in tiles]
    title = f"{config.field} {survey.images(config.field, config.survey).title(image)}, {IN_WORDS[background]}"
    figures.field_figure(reduced, title, paths.field_figure(image, background))
    return Manifest.of_figures([paths.field_figure(image, background)])


def tabulate_mosaics(config: FieldConfig) -> Path:
    """Collect the numbers of all mosaics of the field; returns the table."""
    paths = FieldPaths.of(config)
    rows = []
    for (image, background), tiles in evaluated_tiles(config).items():
        for tile in tiles:
            record = read_record(_numbers(paths, tile, image, background))
            if record is None:
                mosaic = mosaic_files(paths, tile, image, background)[0]
                raise InputError(f"the numbers of {mosaic} cannot be read; run the stage 'evaluate' with --redo")
            if record.keys() != {f.name for f in fields(evaluation.MosaicNumbers)}:
                log.warning("%s %s: its numbers are those of another version of kred; evaluate it again", tile, image)
                continue
            rows.append((tile, image, background, evaluation.MosaicNumbers(**record)))
    tables.write(evaluation.mosaic_table(config.field, rows), paths.mosaic_table, f"Numbers of the mosaics of {config.field}")
    return paths.mosaic_table


def _work(config: FieldConfig, tile: str, image: str) -> Work:
    backgrounds = config.coadd.backgrounds
    files = [file for background in backgrounds for file in mosaic_files(FieldPaths.of(config), tile, image, background)]
    return Work(mosaic_unit(tile, image, backgrounds), files=files, options=[config.evaluate])


def _field_work(config: FieldConfig, image: str, background: BackgroundKind, tiles: list[str]) -> Work:
    paths = FieldPaths.of(config)
    files = [paths.reduced(tile, image, background) for tile in tiles]
    return Work(paths.field_figure(image, background).stem, files=files, facts={"tiles": tiles})


EVALUATE = Step("evaluate", 3, _work, evaluate_mosaic)
DRAW_FIELD = Step("draw", 3, _field_work, draw_field)


def _field_figures(config: FieldConfig) -> list[Unit]:
    return [
        (f"{image}, {background}", {"image": image, "background": background, "tiles": tiles})
        for (image, background), tiles in evaluated_tiles(config).items()
    ]


def _run(run: UnitRunner) -> None:
    backgrounds = run.config.coadd.backgrounds
    if not backgrounds:
        return  # no mosaics were asked for
    names = mosaic_names(run.config)
    run.each(EVALUATE, [(mosaic_unit(t, i, backgrounds), {"tile": t, "image": i}) for t, i in names])
    run.each(DRAW_FIELD, _field_figures(run.config))
    run.once(tabulate_mosaics)


def _plan(plan: Plan) -> Sequence[Planned]:
    config = plan.config
    drawn = [p for p in plan.made if EVALUATE.is_current(config, {"tile": p.tile, "image": p.image})]
    to_do = [p for p in plan.mosaics if p not in drawn]
    images = {p.image for p in plan.mosaics}
    complete = images - {p.image for p in to_do}
    shown = _field_figures(config) if complete else []
    current = sum(DRAW_FIELD.is_current(config, a) for _, a in shown if a["image"] in complete)
    of_field = len(images) * len(config.coadd.backgrounds)
    cost = _cost_of(sum(len(p.backgrounds) for p in to_do) + of_field - current, sum(p.n_pixels for p in to_do))
    return [Planned("evaluate", "figures", len(plan.mosaics) + of_field, len(to_do) + of_field - current, cost)]


def _cost_of(n_figures: int, pixels: float) -> Cost:
    return Cost(n_figures * SECONDS_PER_FIGURE + pixels / 1e6 * SECONDS_PER_MPIX)


def _cost(config: FieldConfig, usable: Sequence[ExposureReport]) -> Cost:
    n, pixels = most_mosaics(config, usable)
    return _cost_of(n + len(images_of(config, usable)), pixels)


def _products(config: FieldConfig) -> Iterator[Path]:
    """The figures that the present tables call for."""
    paths = FieldPaths.of(config)
    for tile, image in mosaic_names(config):
        for background in config.coadd.backgrounds:
            yield paths.mosaic_figure(tile, image, background)
            yield paths.coverage_figure(tile, image, background)
            yield paths.field_figure(image, background)
        if config.coadd.mosaics == "both":
            yield paths.comparison_figure(image, tile)


STAGE = Stage("evaluate", run=_run, plan=_plan, products=_products, cost=_cost)
