"""The floor: what no reduction can do without, by other people's programs, on the same files and machine.

Reading the bytes, decoding each detector once with fitsio (cfitsio), writing as many bytes as the products have; and SWarp
co-adding prepared images. Each runs in processes of its own, and counts as the cheapest of some repeats.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cases
import processes
from astropy.io import fits
from astropy.table import Table
from cases import PROJECT
from processes import Cost

from kred_core.exposures import rescale
from kred_core.exposures.exposure import Exposure

__all__ = ["decode", "read", "swarp", "write"]

REPEATS = 3

SWARP = {  # the survey's settings; the images are free of sky
    "IMAGEOUT_NAME": "mosaic.fits",
    "WEIGHTOUT_NAME": "weight.fits",
    "WEIGHT_TYPE": "NONE",
    "CELESTIAL_TYPE": "NATIVE",
    "PROJECTION_TYPE": "TAN",
    "CENTER_TYPE": "MANUAL",
    "PIXELSCALE_TYPE": "MANUAL",
    "RESAMPLING_TYPE": "LANCZOS3",
    "COMBINE_TYPE": "MEDIAN",
    "FSCALASTRO_TYPE": "FIXED",
    "FSCALE_KEYWORD": "NONE",
    "SUBTRACT_BACK": "N",
    "DELETE_TMPFILES": "Y",
    "WRITE_XML": "N",
    "VERBOSE_TYPE": "QUIET",
}

_READ = """
import sys
for path in sys.argv[1:]:
    with open(path, "rb", buffering=0) as f:
        while f.read(1 << 20): pass
"""

# fitsio holds the interpreter lock, so several cores need several processes; forked, they cost nothing to start
_DECODE = """
import os, sys, fitsio
workers, paths = int(sys.argv[1]), sys.argv[2:]
def decode(paths):
    for path in paths:
        with fitsio.FITS(path) as hdus:
            for hdu in hdus[1:]:
                hdu.read()
pids = []
for worker in range(1, workers):
    pid = os.fork()
    if pid == 0:
        decode(paths[worker::workers])
        os._exit(0)
    pids.append(pid)
decode(paths[::workers])
if any(os.waitpid(pid, 0)[1] for pid in pids):
    sys.exit(1)
"""

_WRITE = """
import os, sys
chunk = os.urandom(1 << 20)
for i, size in enumerate(map(int, sys.argv[2:])):
    with open(os.path.join(sys.argv[1], str(i)), "wb", buffering=0) as f:
        for first in range(0, size, len(chunk)):
            f.write(chunk[: size - first])
        os.fsync(f.fileno())
"""


def read(paths: Sequence[Path]) -> Cost:
    """Read files from the first byte to the last."""
    cost = _cheapest([sys.executable, "-c", _READ, *map(str, paths)], [sys.executable, "-c", _READ])
    return replace(cost, read=_bytes(paths))


def decode(paths: Sequence[Path], workers: int = 1) -> Cost:
    """Decode all images of compressed files with fitsio, in so many processes."""
    command = [sys.executable, "-c", _DECODE, str(workers)]
    return replace(_cheapest([*command, *map(str, paths)], command), read=_bytes(paths))


def write(sizes: Sequence[int], directory: Path) -> Cost:
    """Write files of the given sizes, each until it is on the disk, and remove them."""
    place = directory / "written"
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", _WRITE, str(place)]
    try:
        return replace(_cheapest([*command, *map(str, sizes)], command), written=sum(sizes))
    finally:
        shutil.rmtree(place)


def swarp(data: Path, directory: Path) -> list[Cost] | None:
    """Let SWarp make the mosaics that a run has made, from prepared plain images of the same detectors, one after the other.

    The mosaics in ``data``, the data root of the run, tell which detectors they were made of, and where they lie. SWarp works in
    ``directory``; what it leaves is removed. Returns the cost of each mosaic; None where SWarp is not installed.
    """
    program = shutil.which("SWarp") or shutil.which("swarp")
    if program is None:
        return None
    mosaics = [p for p in (data / "DECam_SWARP").rglob("*.fits") if p.parent.name.startswith("T")]
    place = directory / "swarp"
    costs = []
    for mosaic in sorted(mosaics):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        _prepare(mosaic, data, place)
        costs.append(_run([program, "@list", "-c", "configuration"], place))
    shutil.rmtree(place, ignore_errors=True)
    return costs


def _prepare(mosaic: Path, data: Path, place: Path) -> None:
    """Plain images of the detectors of a mosaic as the older scripts gave them to SWarp, the list and the configuration."""
    with fits.open(mosaic) as hdus:
        header, inputs = hdus[0].header, Table(hdus["INPUTS"].data)
    names = []
    for path in (p for p in cases.inputs(data) if "_ooi_" in p.name):
        exposure = Exposure.open(path)
        for detector in exposure.detectors:
            for row in inputs[(inputs["ROOT"] == exposure.root) & (inputs["EXTNAME"] == detector.extname)]:
                names.append(f"{detector.name}.fits")
                rescale.rescale_detector(exposure.primary, detector, place / names[-1], row["SCALE"], row["BACK"], plain=True)
    if len(names) != len(inputs):
        raise SystemExit(f"{mosaic} was made of {len(inputs)} detectors, {len(names)} of them are in {data}")
    (place / "list").write_text("\n".join(names) + "\n")
    settings = SWARP | {
        "CENTER": f"{header['CRVAL1']!r},{header['CRVAL2']!r}",
        "IMAGE_SIZE": f"{header['NAXIS1']},{header['NAXIS2']}",
        "PIXEL_SCALE": f"{3600 * abs(header['CD2_2']):.6f}",
        "NTHREADS": str(os.cpu_count()),
    }
    (place / "configuration").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))


def _cheapest(command: Sequence[str], empty: Sequence[str]) -> Cost:
    """The least that a command cost in some runs, without what it costs where it has nothing to do."""
    some, none = ([_run(c) for _ in range(REPEATS)] for c in (command, empty))

    def least(name: str) -> float:
        return min(getattr(cost, name) for cost in some) - min(getattr(cost, name) for cost in none)

    return Cost(least("wall"), least("cpu"), memory=max(cost.memory for cost in some))


def _bytes(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _run(command: Sequence[str], directory: Path = PROJECT) -> Cost:
    measured = processes.run(command, os.environ, directory)
    if measured.status != 0:
        raise SystemExit(f"{command[0]} failed:\n{measured.output}")
    return measured.whole
