"""Co-addition by SWarp: writes its list, configuration and run file, runs it, and judges what it did.

The originals are read as they are: one entry of the list for each detector, its background (BACK_DEFAULT) and factor
(FSCALE_DEFAULT) in lists beside it. What was run here can be run by hand. The header and the coverage map are kred's own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from .. import __version__
from ..config import BackgroundKind, CoaddConfig
from ..errors import ExposureError, InputError, ToolError
from ..fits.compress import CountsHeap
from ..products import atomic, scratch, write_text
from ..sky import celestial_wcs, tan_wcs
from ..words import counted
from .combine import CLIP_AMPLITUDE
from .output import CoaddResult, MosaicFile, inputs_table, mosaic_header, write_coverage
from .plan import Box, CoaddPlan, Source, open_sources, overlapping, pixel_map, sampling_grid
from .resample import footprint

__all__ = ["coadd", "find_swarp"]

ROWS = 64  # of the mosaic that are copied at a time
MOST_PAUSE = 0.5  # s between two looks whether SWarp has ended

# Run a script that ends with this process, should that be killed: then standard input ends, and the group is killed.
WITH_ITS_PARENT = """
exec 3<&0
(cat <&3 >/dev/null; kill -KILL 0) & watch=$!
/bin/sh "$@" </dev/null 3<&-
status=$?
kill $watch
exit $status
"""
COMBINE_TYPES = {"median": "MEDIAN", "clipped": "CLIPPED", "weighted": "WEIGHTED"}
LOWEST = -1e7  # counts28; no sky minus background comes near. SWarp reads NaN in a compressed image as -2**31 quantisation steps


def coadd(
    plan: CoaddPlan,
    config: CoaddConfig,
    products: Mapping[BackgroundKind, tuple[Path, Path]],
    progress: Callable[[float], None] | None = None,
) -> CoaddResult:
    """Co-add the inputs of a plan with SWarp.

    Parameters
    ----------
    plan : `~kred_core.coadd.plan.CoaddPlan`
    config : `~kred_core.config.CoaddConfig`
    products : mapping
        As of `kred_core.coadd.native.coadd`. Beside each mosaic are written, with its name: ``.list`` (detectors), ``.back`` and
        ``.scale`` (their backgrounds in ADU and factors), ``.swarp`` (configuration), ``.run`` (a script that does it all
        again, to be called from anywhere) and ``.log``. SWarp runs once for each.
    progress : callable, optional
        Called with the finished part of the work, 0 to 1.

    Returns
    -------
    CoaddResult

    Raises
    ------
    ToolError
        SWarp is not installed, failed, took longer than ``config.swarp_timeout`` or made something that cannot be right.
    InputError, ExposureError
        The plan, or one of the files in it, cannot be used; or a background is not a constant, all that SWarp can subtract.
    OSError
        The products cannot be written.

    Notes
    -----
    SWarp does not see the ood masks: ``config.mask_codes`` is not used. Pixels that are not finite it leaves out with
    all 6x6 positions around them in an uncompressed image, but misreads in a compressed one. The coverage map
    is computed from the footprints by the rule of `kred_core.coadd.resample.footprint`, which is SWarp's.
    ``combine = "weighted"`` is its COMBINE_TYPE WEIGHTED, with the sky noise that SWarp estimates for itself; "clipped"
    its CLIPPED (Gruen, Seitz & Bernstein 2014, PASP 126, 158), which leaves a hole where two values exclude each other.
    One thread, so that several mosaics can be made at once.
    """
    find_swarp()
    sources = open_sources(plan)
    grid, n_fine = sampling_grid(plan.grid, sources)
    used = list(overlapping(sources))
    shaped = [f"{i.root}_{i.extname}" for b in plan.backgrounds for i in plan.inputs if not i.background(b).is_constant]
    if shaped:
        which = f"{counted(len(shaped), 'detector')}, {shaped[0]} the first,"
        raise InputError(
            f"{plan.field} {plan.tile} {plan.image}: the matched background of {which} has a plane or a step, and SWarp subtracts "
            "one constant from a detector; use --coadd.engine native, or run the stage match again without (--from match)"
        )
    with ExitStack() as stack:
        directory = products[plan.backgrounds[0]][0].parent
        directory.mkdir(parents=True, exist_ok=True)
        shape = plan.grid.ny, plan.grid.nx
        counts = _zeros_on_disk(stack.enter_context(scratch(directory)), shape)
        pixels = [0] * len(sources)
        fine_wcs = tan_wcs(grid)
        for number, source, box in used:
            x0, y0, x1, y1 = box
            pixels[number] = _count_covered(source, box, fine_wcs, n_fine, counts[y0:y1, x0:x1])
        heap = CountsHeap(shape[1])
        for first in range(0, shape[0], ROWS):
            heap.append(counts[first : first + ROWS])
        result = CoaddResult("swarp", tuple(pixels), int(np.count_nonzero(counts)))
        for done, background in enumerate(plan.backgrounds, 1):
            mosaic, coverage = products[background]
            files = _Files(mosaic)
            files.write(plan, background, config, [source for _, source, _ in used], n_fine)
            header = mosaic_header(plan, background, config, sources, result)
            with ExitStack() as finished:
                coverage_path, mosaic_path = (finished.enter_context(atomic(path)) for path in (coverage, mosaic))
                work = finished.enter_context(tempfile.TemporaryDirectory(prefix=f".{files.stem}.", dir=mosaic.parent))
                made = Path(work, "mosaic.fits")
                _run(files, made, config.swarp_timeout)
                output = finished.enter_context(MosaicFile(mosaic_path, header))
                _copy(_swarp_image(made, plan, files), counts, output, files)
                output.finish(header, inputs_table(background, sources, result))
                write_coverage(coverage_path, plan, background, config, heap)
            if progress is not None:
                progress(done / len(plan.backgrounds))
    return result


def _zeros_on_disk(file: BinaryIO, shape: tuple[int, int]) -> np.ndarray:
    """An array of int16 in a file that has all its blocks: in one with holes a full disk would end the process, by SIGBUS."""
    zeros, left = bytes(2 * shape[1]), 2 * shape[0] * shape[1]
    while left:
        left -= file.write(zeros[:left])
    return np.asarray(np.memmap(file, np.int16, "r+", shape=shape))


def find_swarp() -> Path:
    """SWarp's program: ``SWarp`` (Debian) or ``swarp``.

    Raises
    ------
    ToolError
        Neither is on PATH.
    """
    for name in ("SWarp", "swarp"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise ToolError(
        "SWarp is not installed: neither 'SWarp' nor 'swarp' is on PATH; install it (Debian and Ubuntu: apt install swarp; "
        "conda: astromatic-swarp), or use kred's own co-adder (--coadd.engine native)"
    )


class _Files:
    """The files beside a mosaic that SWarp works from."""

    def __init__(self, mosaic: Path):
        self.directory = mosaic.parent
        self.stem = mosaic.name.removesuffix(".fits")
        self.log = self.path("log")

    def path(self, suffix: str) -> Path:
        return self.directory / f"{self.stem}.{suffix}"

    def write(
        self, plan: CoaddPlan, background: BackgroundKind, config: CoaddConfig, sources: list[Source], oversampling: int
    ) -> None:
        links = _links(sources)
        entries = [f"{links[s.input.path]}[{_extension(links[s.input.path], s)}]" for s in sources]
        write_text(self.path("list"), "\n".join(entries) + "\n")
        backs = [s.input.background(background).b / s.input.scale for s in sources]
        write_text(self.path("back"), "".join(f"{float(back)!r}\n" for back in backs))
        write_text(self.path("scale"), "".join(f"{float(s.input.scale)!r}\n" for s in sources))
        write_text(self.path("swarp"), self._configuration(plan, config, oversampling))
        write_text(self.path("run"), self._script(links), mode=0o777)

    def _configuration(self, plan: CoaddPlan, config: CoaddConfig, oversampling: int) -> str:
        settings = {
            "IMAGEOUT_NAME": "mosaic.fits",
            "WEIGHTOUT_NAME": "weight.fits",
            "HEADER_SUFFIX": ".no-head",  # a .head file beside an original must not change the mosaic
            "WEIGHT_TYPE": "NONE",
            "CELESTIAL_TYPE": "NATIVE",
            "PROJECTION_TYPE": "TAN",
            "PROJECTION_ERR": "0.001",
            "CENTER_TYPE": "MANUAL",
            "CENTER": f"{plan.grid.ra!r},{plan.grid.dec!r}",
            "PIXELSCALE_TYPE": "MANUAL",
            "PIXEL_SCALE": repr(plan.grid.pixel_scale),
            "IMAGE_SIZE": f"{plan.grid.nx},{plan.grid.ny}",
            "RESAMPLING_TYPE": "LANCZOS3",
            "OVERSAMPLING": str(oversampling),
            "INTERPOLATE": "N",
            "FSCALASTRO_TYPE": "FIXED",
            "FSCALE_KEYWORD": "KREDFLUX",  # not in the files: the factors are those of the list
            "FSCALE_DEFAULT": f"@{self.stem}.scale",
            "GAIN_KEYWORD": "KREDGAIN",  # not in the files
            "GAIN_DEFAULT": "1e9",  # no photon noise of sources; 0, said to mean infinity, keeps CLIPPED from clipping
            "SUBTRACT_BACK": "Y",
            "BACK_TYPE": "MANUAL",
            "BACK_DEFAULT": f"@{self.stem}.back",
            "COMBINE_TYPE": COMBINE_TYPES[config.combine],
            "CLIP_SIGMA": repr(config.clip_sigma),
            "CLIP_AMPFRAC": repr(CLIP_AMPLITUDE),
            "BLANK_BADPIXELS": "Y",
            "DELETE_TMPFILES": "Y",
            "WRITE_XML": "N",
            "VERBOSE_TYPE": "LOG",
            "NTHREADS": "1",
        }
        return f"# SWarp configuration of {self.stem}, written by kred {__version__}\n" + "".join(
            f"{key:<16} {value}\n" for key, value in settings.items()
        )

    def _script(self, links: dict[Path, str]) -> str:
        stem = shlex.quote(self.stem)
        lines = [
            "#!/bin/sh",
            f"# SWarp run of {self.stem}, written by kred {__version__}. By hand, from anywhere: {self.stem}.run [OUTPUT.fits]",
            f"# Without OUTPUT.fits it makes {self.stem}.swarp.fits beside this file: kred's pixels, SWarp's header.",
            'here=$(cd "$(dirname "$0")" && pwd) || exit 1',
            f'output=${{1:-"$here"/{stem}.swarp.fits}}',
            "case $output in /*) ;; *) output=$PWD/$output ;; esac",
            "swarp=$(command -v SWarp || command -v swarp) || { echo 'Error: neither SWarp nor swarp is on PATH' >&2; exit 127; }",
            f'work=$(mktemp -d "${{KRED_WORK:-$here}}"/.{stem}.XXXXXX) || exit 1',
            "trap 'rm -rf \"$work\"' EXIT",
            "trap 'exit 1' HUP INT TERM",
            'cd "$work" || exit 1',
            'bring() { ln -s "$1" "$2" 2>/dev/null || cp "$1" "$2"; }  # some file systems have no links',
            f'for kind in list back scale swarp; do bring "$here"/{stem}.$kind {stem}.$kind || exit 1; done',
            "# SWarp cannot read names with blanks, commas or brackets",
            *(f"bring {shlex.quote(os.path.abspath(path))} {name} || exit 1" for path, name in links.items()),
            f'"$swarp" @{stem}.list -c {stem}.swarp || exit 1',
            'mv mosaic.fits "$output"',
        ]
        return "\n".join(lines) + "\n"


def _links(sources: list[Source]) -> dict[Path, str]:
    """A name that SWarp can read, different from the others, for each file."""
    links: dict[Path, str] = {}
    for path in dict.fromkeys(source.input.path for source in sources):
        name = re.sub(r"[^A-Za-z0-9_.+-]", "_", path.name).lstrip("-")
        links[path] = name if name not in links.values() else f"{len(links)}_{name}"
    return links


def _extension(name: str, source: Source) -> int:
    """SWarp counts from the first CCD = 0 where the name contains .fits.fz, compressed or not, else from the primary HDU = 0."""
    return source.detector.hdu.index - (".fits.fz" in name)


def _run(files: _Files, made: Path, timeout: float) -> None:
    """Run the script; its standard output and error make the log."""
    environment = os.environ | {"KRED_WORK": str(made.parent), "LC_ALL": "C"}
    files.log.unlink(missing_ok=True)  # it may be somebody else's
    with open(files.log, "wb") as log:
        process = subprocess.Popen(
            ["/bin/sh", "-c", WITH_ITS_PARENT, "sh", str(files.path("run")), str(made)],
            stdin=subprocess.PIPE,  # nothing is written to it; its end tells that this process is gone
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that SWarp, too, can be stopped, not only the shell
        )
        status = None
        try:
            with cast(IO[bytes], process.stdin):
                status = _wait(process, timeout)
        finally:
            if status is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status is None:
        raise ToolError(
            f"SWarp did not finish {files.stem} within {timeout:g} s and was stopped; its log is {files.log}; "
            "a larger --coadd.swarp_timeout gives it more time"
        )
    if status != 0 or not made.is_file():
        reason = f"failed (exit status {status})" if status != 0 else "made no image"
        line = _telling_line(files.log)
        full = ", perhaps because the disk is full" if "while writing" in line else ""  # SWarp itself does not say why
        raise ToolError(
            f"SWarp {reason} for {files.stem}: {line}{full}; its log is {files.log}, to repeat it run {files.path('run')}"
        )


def _wait(process: subprocess.Popen, timeout: float) -> int | None:
    """Exit status of a process; None where it takes longer. Popen itself would look twenty times a second all the time."""
    began = time.monotonic()
    while (status := process.poll()) is None:
        elapsed = time.monotonic() - began
        if elapsed >= timeout:
            return None
        time.sleep(min(MOST_PAUSE, 0.001 + elapsed / 20, timeout - elapsed))
    return status


def _telling_line(log: Path) -> str:
    """The last line of a log that speaks of an error, or the last one."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", log.read_text(encoding="utf-8", errors="replace"))
    lines = [line.strip(" >\t") for line in re.split(r"[\r\n]+", text) if line.strip(" >\t")]
    errors = [line for line in lines if re.search("error|cannot|fail|not found|no space|killed", line, re.IGNORECASE)]
    return f'"{(errors or lines)[-1]}"' if lines else "it said nothing"


def _swarp_image(path: Path, plan: CoaddPlan, files: _Files) -> np.ndarray:
    """The image that SWarp made, mapped, when it is on the grid of the plan."""
    try:
        with fits.open(path, memmap=True) as hdus:
            image, made = hdus[0].data, celestial_wcs(hdus[0].header).wcs
    except (OSError, ValueError, TypeError, IndexError, ExposureError) as e:
        raise ToolError(f"SWarp made an image of {files.stem} that cannot be read: {e}; its log is {files.log}") from e
    wanted = tan_wcs(plan.grid).wcs
    shape = (plan.grid.ny, plan.grid.nx)
    same_place = np.allclose([*made.crval, *made.crpix], [*wanted.crval, *wanted.crpix], rtol=0, atol=1e-6)
    if image is None or image.shape != shape or not same_place or not np.allclose(made.cd, wanted.cd, rtol=1e-6, atol=1e-12):
        found = "no pixels" if image is None else f"{image.shape} pixels around {made.crval}"
        raise ToolError(
            f"SWarp made an image of {files.stem} with another grid than that of the plan: expected {shape} pixels around "
            f"{wanted.crval}, found {found}; its log is {files.log}"
        )
    return image


def _copy(image: np.ndarray, counts: np.ndarray, output: MosaicFile, files: _Files) -> None:
    """Copy the pixels, and see that they can be right."""
    n_filled = 0
    for first in range(0, image.shape[0], ROWS):
        rows = np.array(image[first : first + ROWS], dtype=np.float32)
        if not np.isfinite(rows).all() or rows.min() < LOWEST:
            raise ToolError(
                f"SWarp made an image of {files.stem} with values that cannot be right (down to {rows.min():g}); perhaps one "
                f"of its inputs holds NaN, which SWarp misreads in compressed images; use --coadd.engine native (log: {files.log})"
            )
        rows[counts[first : first + ROWS] == 0] = 0.0
        n_filled += int(np.count_nonzero(rows))
        output.append(rows)
    n_covered = int(np.count_nonzero(counts))
    if n_filled < n_covered / 2:
        raise ToolError(
            f"SWarp made an image of {files.stem} with {n_filled} pixels, where the detectors cover {n_covered}; "
            f"see its log {files.log}"
        )


def _count_covered(source: Source, box: Box, grid: WCS, n: int, counts: np.ndarray) -> int:
    """Add 1 to each pixel that a detector covers, n x n of the grid making one; returns their number."""
    where = pixel_map(grid, source.wcs, (box[0] * n, box[1] * n, box[2] * n, box[3] * n))
    fine = footprint(where, source.detector.shape)
    covered = np.any(fine.reshape(fine.shape[0] // n, n, fine.shape[1] // n, n), axis=(1, 3)) if n > 1 else fine
    counts += covered
    return int(np.count_nonzero(covered))
