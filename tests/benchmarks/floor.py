"""The floor: what no reduction can do without, by other people's programs, on the same files and machine.

Reading the bytes, decoding each detector once with fitsio (cfitsio), writing as many bytes as the products have. Each runs in
processes of its own, and counts as the cheapest of some repeats.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import processes
from cases import PROJECT
from processes import Cost

REPEATS = 3

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


def _cheapest(command: Sequence[str], empty: Sequence[str]) -> Cost:
    """The least that a command cost in some runs, without what it costs where it has nothing to do."""
    some, none = ([_run(c) for _ in range(REPEATS)] for c in (command, empty))

    def least(name: str) -> float:
        return min(getattr(cost, name) for cost in some) - min(getattr(cost, name) for cost in none)

    return Cost(least("wall"), least("cpu"), memory=max(cost.memory for cost in some))


def _bytes(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _run(command: Sequence[str]) -> Cost:
    measured = processes.run(command, os.environ, PROJECT)
    if measured.status != 0:
        raise SystemExit(f"{command[0]} failed:\n{measured.output}")
    return measured.whole
