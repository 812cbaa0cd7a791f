"""kred's own co-adder: every detector is decoded and resampled once, rows are combined as soon as they can be.

A detector is opened when the first row that it covers is due and forgotten after its last one; its resampled image waits in
memory, or beyond a bound in a file without a name, in raw counts, so that mosaics with other backgrounds can be made of it at the
same time. Nothing here runs in parallel, but kernels and decoders release the interpreter lock, so threads can make several tiles.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from astropy.wcs import WCS

from ..config import BackgroundKind, CoaddConfig
from ..errors import InputError
from ..exposures.masks import PixelRule
from ..fits.compress import CountsHeap
from ..products import atomic, scratch
from ..sky import tan_wcs
from .combine import Combiner
from .output import CoaddResult, MosaicFile, inputs_table, mosaic_header, write_coverage
from .plan import Box, CoaddPlan, Source, open_sources, overlapping, pixel_map, sampling_grid
from .resample import block_mean, fill_masked, resample

__all__ = ["coadd", "strips"]

STRIP_BYTES = 8_000_000  # rows that are combined at a time, and again their values in the layers, which may be read from a file
STRIP_BYTES_PER_PIXEL = 16  # image, its copy in the order of the file, coverage, and what is left of the rows before
BYTES_PER_PIXEL = 20  # of a detector being decoded, masked and resampled; measured, see the tests
RESERVE = 30_000_000  # bytes for headers, tables and the decoder's own


def coadd(
    plan: CoaddPlan,
    config: CoaddConfig,
    products: Mapping[BackgroundKind, tuple[Path, Path]],
    progress: Callable[[float], None] | None = None,
) -> CoaddResult:
    """Co-add the inputs of a plan.

    Parameters
    ----------
    plan : `~kred_core.coadd.plan.CoaddPlan`
    config : `~kred_core.config.CoaddConfig`
    products : mapping
        For each of ``plan.backgrounds`` where to write the mosaic (float32 FITS, counts28 per pixel of the mosaic, 0 where there
        is no data; extension INPUTS lists what went in) and the number of detectors in each pixel (int16, compressed). All
        appear only when they are whole.
    progress : callable, optional
        Called with the finished part of the rows, 0 to 1.

    Returns
    -------
    CoaddResult

    Raises
    ------
    InputError, ExposureError
        The plan, or one of the files in it, cannot be used.
    OSError
        The products cannot be written.

    Notes
    -----
    Each detector's pixels become (raw * scale - background) * f at the pixels of the mosaic, f being the
    ratio of the pixel areas: flux is conserved. The constant of the background is subtracted from the interpolated values, the
    plane and the step of a matched one from the pixels. For the interpolation see
    `~kred_core.coadd.resample.resample`, for the combination `~kred_core.coadd.combine.Combiner`. Pixels whose code in the ood
    mask is in ``config.mask_codes``, pixels of an amplifier that is left out, and pixels that are not finite are left out; before
    the interpolation they are replaced by the mean of their good neighbours, so that they neither spread nor ring.

    Memory: at most ``config.memory`` GB beyond what Python and its libraries take (some 0.2 GB), as long as that is enough
    for one detector: 20 bytes per pixel (0.17 GB for a CCD of DECam) and 46 MB. Within the bound, resampled
    detectors wait in memory (32 MB for a CCD of DECam at 0.27 arcsec), beyond it in an unnamed file in the directory of
    the mosaic, which the system removes however the run ends. The result does not depend on the bound.

    With two backgrounds the detectors are decoded and resampled once, those with a plane or a step resampled twice. A mosaic
    has the same bytes whether the other one is made with it or not.
    """
    sources = open_sources(plan)
    shape = (plan.grid.ny, plan.grid.nx)
    pixels = [0] * len(sources)
    covered = 0
    with ExitStack() as stack:
        outputs = {}
        for background in plan.backgrounds:
            coverage, mosaic = (stack.enter_context(atomic(path)) for path in reversed(products[background]))
            draft = mosaic_header(plan, background, config, sources, CoaddResult("native", (1,) * len(sources), 1))
            outputs[background] = stack.enter_context(MosaicFile(mosaic, draft)), coverage
        counts = CountsHeap(shape[1])
        for last, images, count in strips(plan, config, sources, mosaic.parent, pixels):
            for background, image in images.items():
                outputs[background][0].append(image)
            counts.append(count)
            covered += int(np.count_nonzero(count))
            if progress is not None:
                progress(last / shape[0])
        result = CoaddResult("native", tuple(pixels), covered)
        for background, (output, coverage) in outputs.items():
            header = mosaic_header(plan, background, config, sources, result)
            output.finish(header, inputs_table(background, sources, result))
            write_coverage(coverage, plan, background, config, counts)
    return result


def strips(
    plan: CoaddPlan, config: CoaddConfig, sources: list[Source], directory: Path, pixels: list[int]
) -> Iterator[tuple[int, dict[BackgroundKind, np.ndarray], np.ndarray]]:
    """Make the mosaics of a plan, some rows at a time, from the first row to the last.

    The sources may be images of which there is no file. Detectors for which there is no memory wait in ``directory``. How many
    pixels each source contributes is written into ``pixels``. Yields the row after those that follow, by background the images
    (float32, 0 where there is no data), and the number of detectors in each pixel (int16), the same for all backgrounds.
    """
    grid, n_fine = sampling_grid(plan.grid, sources)
    shape = (plan.grid.ny, plan.grid.nx)
    flux_scale = np.array([source.flux_scale for source in sources])
    scale, noise = (np.array([getattr(i, name) for i in plan.inputs]) * flux_scale for name in ("scale", "sky_noise"))
    if config.combine != "median":
        _refuse_unknown_noise(plan)
    combiners = {}
    for background in plan.backgrounds:
        back = np.array([item.background(background).b for item in plan.inputs]) * flux_scale
        combiners[background] = Combiner(config.combine, config.clip_sigma, scale, back, noise)
    fine_wcs = tan_wcs(grid)
    waiting = sorted(overlapping(sources), key=lambda entry: entry[2][1])
    # Needed whatever waits: one detector in the making, some rows of the mosaic.
    largest = max(source.detector.shape[0] * source.detector.shape[1] for source in sources)
    working = BYTES_PER_PIXEL * largest + 2 * STRIP_BYTES + RESERVE
    with _Layers(config.memory * 1e9 - working, directory) as layers:
        for first, last in _strips(shape, [box for _, _, box in waiting]):
            while waiting and waiting[0][2][1] < last:
                number, source, box = waiting.pop(0)
                for backgrounds, image, n_good in _resampled(source, box, fine_wcs, n_fine, config, plan.backgrounds):
                    layers.add(number, backgrounds, box, image)
                    pixels[number] = n_good
            images = {}
            for background, combiner in combiners.items():
                rows = layers.rows(first, last, background)
                images[background], count = combiner.rows((last - first, shape[1]), rows)
            yield last, images, count
            layers.forget(last)


def _refuse_unknown_noise(plan: CoaddPlan) -> None:
    for item in plan.inputs:
        if not (np.isfinite(item.sky_noise) and item.sky_noise > 0):
            raise InputError(
                f"{item.root}_{item.extname}: its sky noise is {item.sky_noise}, so that it has no weight; "
                "use --coadd.combine median or leave it out"
            )


def _strips(shape: tuple[int, int], boxes: list[Box]) -> Iterator[tuple[int, int]]:
    """Rows to combine at a time, from the first to the last; a detector begins with a strip, never within one."""
    starts, ends = np.sort([box[1] for box in boxes]), np.sort([box[3] for box in boxes])
    first = 0
    while first < shape[0]:
        begun = int(np.searchsorted(starts, first, side="right"))
        depth = begun - int(np.searchsorted(ends, first, side="right"))
        next_start = int(starts[begun]) if begun < len(starts) else shape[0]
        most = STRIP_BYTES // (shape[1] * max(STRIP_BYTES_PER_PIXEL, 4 * depth))
        last = min(first + max(1, most), next_start)
        yield first, last
        first = last


def _resampled(
    source: Source, box: Box, grid: WCS, n: int, config: CoaddConfig, backgrounds: tuple[BackgroundKind, ...]
) -> Iterator[tuple[tuple[BackgroundKind, ...], np.ndarray, int]]:
    """One detector on the pixels of its box in raw counts, NaN without data, and the number of pixels with data.

    Once for all backgrounds that are constants; again, its plane and step subtracted, for one that is not.
    """
    amplifiers = {source.input.extname.upper(): source.input.amplifier} if source.input.amplifier else {}
    bad = source.detector.bad_pixels(PixelRule(tuple(config.mask_codes), amplifiers))
    image = source.detector.pixels()
    finite = np.isfinite(image)
    if not finite.all():
        bad = ~finite if bad is None else bad | ~finite
    del finite
    near = None if bad is None else fill_masked(image, bad, source.input.back / source.input.scale)
    where = pixel_map(grid, source.wcs, (box[0] * n, box[1] * n, box[2] * n, box[3] * n))
    shaped = tuple(b for b in backgrounds if not source.input.background(b).is_constant)
    constant = tuple(b for b in backgrounds if b not in shaped)
    for which in filter(None, (constant, shaped)):
        if which == shaped:  # of matched backgrounds only, so the pixels are not needed again
            (source.input.background(BackgroundKind.MATCHED) / source.input.scale).subtract_variation(image)
        layer, n_good = resample(image, where, bad, near)
        if n > 1:
            layer = block_mean(layer, n)
            n_good = int(np.count_nonzero(np.isfinite(layer)))
        yield which, layer, n_good


class _Layers:
    """Resampled detectors that wait for their rows, within a bound of memory; beyond it, in a file."""

    def __init__(self, bound: float, directory: Path):
        self._left = bound
        self._directory = directory
        self._file: BinaryIO | None = None
        self._end = 0
        self._entries: dict[tuple[int, tuple[BackgroundKind, ...]], tuple[Box, np.ndarray | int]] = {}

    def __enter__(self) -> _Layers:
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, number: int, backgrounds: tuple[BackgroundKind, ...], box: Box, image: np.ndarray) -> None:
        key = number, backgrounds
        if image.nbytes <= self._left:
            self._left -= image.nbytes
            self._entries[key] = box, image
            return
        if self._file is None:
            self._file = scratch(self._directory)
        self._entries[key] = box, self._end
        self._file.seek(self._end)
        view = image.data.cast("B")
        while view:
            view = view[self._file.write(view) :]
        self._end += image.nbytes

    def rows(self, first: int, last: int, background: BackgroundKind) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """What the layers have in some rows of a mosaic, in the order of the plan: number, row, column, values."""
        for number, backgrounds in sorted(self._entries):
            (x0, y0, x1, y1), image = self._entries[number, backgrounds]
            low, high = max(first, y0), min(last, y1)
            if background in backgrounds and low < high:
                if isinstance(image, int):
                    values = self._read(image, low - y0, high - y0, x1 - x0)
                else:
                    values = image[low - y0 : high - y0]
                yield number, low - first, x0, values

    def _read(self, start: int, low: int, high: int, width: int) -> np.ndarray:
        values = np.empty((high - low, width), np.float32)
        view = values.data.cast("B")
        at = start + 4 * low * width
        while view:
            n = os.preadv(cast(BinaryIO, self._file).fileno(), [view], at)
            if n == 0:
                raise OSError("a temporary file of resampled detectors is shorter than what was written to it")
            view, at = view[n:], at + n
        return values

    def forget(self, row: int) -> None:
        """Drop the layers that end before a row."""
        for key in [k for k, (box, _) in self._entries.items() if box[3] <= row]:
            _, image = self._entries.pop(key)
            if not isinstance(image, int):
                self._left += image.nbytes
