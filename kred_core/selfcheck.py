"""Says whether this installation of kred works: ``python -m kred_core.selfcheck [--root DIR]``.

It is what to run first on a new machine, and when something does not work, so it
must itself run where half of the packages are missing: everything that is not in
Python's own library is imported inside the check that needs it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from . import __version__, kernel_cache
from .errors import KredError, ToolError
from .words import counted, program

OK, WARNING, PROBLEM = "ok", "warning", "problem"
GB = 1e9
FIELD_DISK = 30 * GB  # 16 tiles with 5 images of 0.3 GB, and prepared detectors
LEAST_DISK = 1 * GB
COMFORTABLE_MEMORY = 4 * GB  # two mosaics in the making at 1 GB each, and the rest
SLOW_REDUCTION = 120.0  # s
AGREEMENT = 0.05  # rms of mosaic minus simulated sky, in units of the rms of the sky; found: 0.011, without matching 0.36


class Finding(NamedTuple):
    """What one check found."""

    level: str  # ok, warning (kred works, within limits that the text states) or problem (it does not)
    text: str  # what was found, and what to do about it


def check_installation(root: Path) -> Iterator[Finding]:
    """Check one thing after the other, the longest last, with the data root that is going to be used."""
    for check in (_python, _packages, _machine, lambda: _data_root(root), _swarp, _compiler, lambda: _reduction(root)):
        yield from _explained(check)


def _explained(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that cannot be made is a finding too."""
    try:
        yield from check()
    except KredError as e:
        yield Finding(PROBLEM, str(e))
    except ImportError as e:
        yield Finding(PROBLEM, f"{e}; install kred with its dependencies: pip install . in its directory")
    except Exception as e:  # a broken installation fails in ways that nobody foresees; the person wants to know, not to debug
        yield Finding(PROBLEM, f"{type(e).__name__}: {e}")


def _python() -> Iterator[Finding]:
    enough = sys.version_info >= (3, 11)
    yield Finding(OK if enough else PROBLEM, f"Python {platform.python_version()} (>=3.11) in {sys.prefix}")


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        wanted = importlib.metadata.requires("kred") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(WARNING, f"kred {__version__} is not installed, so it is not known which versions it needs; pip install .")
        return
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue  # of an extra, or for another system
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(PROBLEM, f"{requirement.name} is missing; pip install '{requirement}'")
            continue
        wants = ",".join(sorted(map(str, requirement.specifier), reverse=True))
        if requirement.specifier.contains(found, prereleases=True):
            yield Finding(OK, f"{requirement.name} {found} ({wants})" if wants else f"{requirement.name} {found}")
        else:
            unmet = f"{requirement.name} {found}, but kred {importlib.metadata.version('kred')} needs {wants}"
            yield Finding(PROBLEM, f"{unmet}; pip install '{requirement}'")


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text, little = f"{counted(cores, 'core')}, {memory / GB:.0f} GB of memory", memory < COMFORTABLE_MEMORY
    advice = ": a mosaic in the making takes 1 GB for each worker; use --workers 1"
    yield Finding(WARNING, text + advice) if little else Finding(OK, text)


def _data_root(root: Path) -> Iterator[Finding]:
    if not root.is_dir():
        yield Finding(PROBLEM, f"the data root {root} is not a directory; make it, or give another one with --root")
        return
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=".kred-selfcheck-") as directory:
            Path(directory, "file").write_bytes(bytes(1 << 20))
    except OSError as e:
        yield Finding(PROBLEM, f"the data root {root}: cannot write a file there: {e.strerror or e}")
        return
    yield Finding(OK, f"the data root {root.resolve()} can be written to")
    free = shutil.disk_usage(root).free
    text = f"{free / GB:.1f} GB of disk free there"
    if free < LEAST_DISK:
        yield Finding(PROBLEM, f"{text}: not enough for anything; free some, or give another data root with --root")
    elif free < FIELD_DISK:
        yield Finding(WARNING, f"{text}: a mosaic of the survey takes 0.3 GB, a whole field {FIELD_DISK / GB:.0f} GB")
    else:
        yield Finding(OK, text)
    fields = sorted(p.parent.name for p in root.glob("DECam_MEF/*/mef") if p.is_dir())
    if fields:
        yield Finding(OK, f"{counted(len(fields), 'field')} in DECam_MEF, {fields[0]} the first")
    else:
        yield Finding(WARNING, "no field in the data root yet: exposures go to DECam_MEF/<field>/mef/*.fits.fz")


def _swarp() -> Iterator[Finding]:
    from .coadd.swarp import find_swarp

    try:
        program = find_swarp()
        run = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=20, check=True)
    except ToolError:
        yield Finding(OK, "SWarp is not installed: kred's own co-adder works without; only --coadd.engine swarp needs it")
    except (OSError, subprocess.SubprocessError) as e:
        yield Finding(WARNING, f"SWarp is {program} but does not run ({e}); only --coadd.engine swarp needs it")
    else:
        yield Finding(OK, f"{(run.stdout + run.stderr).strip()} in {program}")


def _compiler() -> Iterator[Finding]:
    """numba compiles kred's inner loops when they are first used, and keeps the result if it can."""
    import numba
    import numpy as np

    from .statistics import kernels

    start = time.monotonic()
    median = kernels.median(np.arange(64, dtype=np.float32))
    text = f"numba compiles ({time.monotonic() - start:.1f} s for one loop) and"
    if median != 31.5:
        yield Finding(PROBLEM, f"numba {numba.__version__} computes wrongly: the median of 0..63 is 31.5, not {median}")
    elif kernel_cache.is_temporary():
        yield Finding(WARNING, f"{text} cannot keep the result; set NUMBA_CACHE_DIR to a directory that can be written to")
    else:
        yield Finding(OK, f"{text} keeps the result in {kernels.median.stats.cache_path}")


def _reduction(root: Path) -> Iterator[Finding]:
    """Simulate a small field without stars, reduce it, and compare its mosaic with the sky that was simulated."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=root if root.is_dir() else None, prefix=".kred-selfcheck-") as directory:
        difference = _reduce(Path(directory))
    seconds = time.monotonic() - start
    text = f"a simulated field was reduced in {seconds:.0f} s; its mosaic agrees with the simulated sky to {100 * difference:.1f} %"
    if not difference < AGREEMENT:
        yield Finding(PROBLEM, f"{text}, which should be {100 * AGREEMENT:.0f} % or less")
    elif seconds > SLOW_REDUCTION:
        yield Finding(WARNING, f"{text}; 10 s are usual: is the disk slow, or the machine busy?")
    else:
        yield Finding(OK, text)


def _reduce(root: Path) -> float:
    """Run all stages on a simulated field; rms of mosaic minus simulated sky over the rms of that sky."""
    import numpy as np

    from .config import BackgroundKind, CoaddConfig, FieldConfig
    from .evaluation import measure_mosaic
    from .products import FieldPaths
    from .simulate import simulate_field, sky_brightness
    from .sky import pixel_area_arcsec2
    from .stages import reduce

    simulation = simulate_field(
        root, tiles=["T07"], binning=16, exposures=4, dither=300.0, bands=["N662"], gradient=0.0, star_density=0.0, cosmic_rays=0.0
    )
    field = simulation.config.field
    outcome = reduce(FieldConfig(field=field, tiles=["T07"], root=root, coadd=CoaddConfig(memory=0.25)))
    if not outcome.complete:
        raise KredError(f"a simulated field cannot be reduced: {outcome.headline()}")

    paths = FieldPaths(root, field)
    mosaic, coverage = paths.mosaic("T07", "N662", BackgroundKind.MATCHED), paths.coverage("T07", "N662", BackgroundKind.MATCHED)
    _, reduced = measure_mosaic(mosaic, coverage, 10_000)  # every pixel
    y, x = np.nonzero(np.isfinite(reduced.image))
    area = pixel_area_arcsec2(reduced.wcs, x, y) / reduced.factor**2
    ra, dec = reduced.wcs.wcs_pix2world(x, y, 0)
    truth = sky_brightness(ra, dec, "N662", simulation.config) * area
    return float(np.std(reduced.image[y, x].astype(np.float64) - truth) / np.std(truth))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the check-list; returns the exit status, 1 where there is a problem."""
    parser = argparse.ArgumentParser(
        prog=program("python -m kred_core.selfcheck"),
        description="Say whether this installation of kred works. Exit status 1 if it does not.",
        allow_abbrev=False,
    )
    parser.add_argument("--root", type=Path, default=Path("."), metavar="DIR", help="data root to be used (default: here)")
    root = parser.parse_args(arguments).root
    logging.getLogger("kred_core").addHandler(logging.NullHandler())
    print(f"kred {__version__}: does this installation work?\n")
    levels = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters becomes a finding
            for finding in check_installation(root):
                levels.append(finding.level)
                print(f"  {finding.level:<9}{finding.text}", flush=True)
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    problems, warned = (counted(n, kind) if (n := levels.count(kind)) else f"no {kind}s" for kind in (PROBLEM, WARNING))
    print(f"\n{problems}, {warned}: kred {'does not work' if PROBLEM in levels else 'works'} here")
    return 1 if PROBLEM in levels else 0


if __name__ == "__main__":
    sys.exit(main())
