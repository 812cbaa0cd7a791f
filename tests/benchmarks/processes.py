"""What a command and all processes that it starts cost: CPU, memory, bytes read and written, over its whole life.

Read from /proc (Linux) while the command runs. The kernel adds the CPU and the bytes of a process
that has ended to its parent, so that the sum over those that live forgets none.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Cost", "Measured", "run"]

INTERVAL = 0.1  # s between two looks
TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SERVER = b"server_process.py"  # in the command line of kred's Prefect server
COUNTED = ("cpu", "server", "swarp", "read", "written")  # what only grows


@dataclass(frozen=True)
class Cost:
    """What happened between two moments.

    Attributes
    ----------
    wall, cpu : float
        Seconds; CPU of all processes.
    server, swarp : float
        CPU seconds of the Prefect server and of SWarp, which ``cpu`` holds too.
    memory : int
        Bytes: largest sum of the resident sets of all processes at one moment. Pages that they share count for each.
    read, written : int
        Bytes that went through the calls read and write, whether a disk or its cache was at the other end.
    """

    wall: float
    cpu: float
    server: float = 0.0
    swarp: float = 0.0
    memory: int = 0
    read: int = 0
    written: int = 0


class _Look(NamedTuple):
    """The command at one moment: seconds since 1970; then as in `Cost`, summed up since its start."""

    time: float
    cpu: float = 0.0
    server: float = 0.0
    swarp: float = 0.0
    memory: int = 0
    read: int = 0
    written: int = 0


@dataclass(frozen=True, eq=False)
class Measured:
    """A command that has ended.

    Attributes
    ----------
    status : int
        Exit status.
    output : str
        What it printed, standard output and error together.
    looks : dict of `~numpy.ndarray`
        The fields of `Cost` (``time`` for ``wall``) at the moments at which it was looked at, from its start to its end.
    """

    status: int
    output: str
    looks: dict[str, np.ndarray]

    def between(self, start: float, end: float) -> Cost:
        """What happened between two moments, seconds since 1970."""
        times, memory = self.looks["time"], self.looks["memory"]
        during = memory[(times >= start) & (times <= end)]
        grown = {name: float(np.diff(np.interp([start, end], times, self.looks[name]))[0]) for name in COUNTED}
        return Cost(
            wall=end - start,
            cpu=grown["cpu"],
            server=grown["server"],
            swarp=grown["swarp"],
            memory=int(max([*during, *np.interp([start, end], times, memory)])),
            read=round(grown["read"]),
            written=round(grown["written"]),
        )

    @property
    def start(self) -> float:
        """Seconds since 1970."""
        return float(self.looks["time"][0])

    @property
    def end(self) -> float:
        """Seconds since 1970."""
        return float(self.looks["time"][-1])

    @property
    def whole(self) -> Cost:
        """From start to end."""
        return self.between(self.start, self.end)


def run(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> Measured:
    """Run a command to its end and measure it.

    Parameters
    ----------
    command : sequence of str
    environment : mapping
        The whole environment.
    directory : `~pathlib.Path`
        Where it runs.
    """
    looks = [_Look(time.time())]
    swarps: dict[int, float] = {}  # CPU seconds by process, also of those that have ended
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=dict(environment), cwd=directory, stdout=output, stderr=output)
        try:
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                looks.append(_look(process.pid, swarps))
                time.sleep(INTERVAL)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(ended[1])  # this has waited for it, Popen must not
        output.seek(0)
        said = output.read().decode(errors="replace")
    # Of what came after the last look only the CPU is known.
    cpu = ended[2].ru_utime + ended[2].ru_stime
    looks.append(looks[-1]._replace(time=time.time(), cpu=max(cpu, looks[-1].cpu), memory=0))
    columns = {name: np.array(column, np.float64) for name, column in zip(_Look._fields, zip(*looks, strict=True), strict=True)}
    for name in COUNTED:
        columns[name] = np.maximum.accumulate(columns[name])  # for a moment an ended process is counted nowhere
    return Measured(process.returncode, said, columns)


def _look(pid: int, swarps: dict[int, float]) -> _Look:
    """Sums over a process and all below it. Parents are read before their children, so that none is counted twice."""
    total = _Look(time.time())
    generation = [pid]
    children = _children()
    while generation:
        for one in generation:
            with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
                total = _add(total, one, swarps)
        generation = [child for one in generation for child in children.get(one, ())]
    return total._replace(swarp=sum(swarps.values()))


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError, ValueError, IndexError):
            found.setdefault(int(_status(int(name))[1]), []).append(int(name))
    return found


def _status(pid: int) -> list[bytes]:
    """Fields of /proc/PID/stat from the third on; the second, a name in brackets, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def _add(total: _Look, pid: int, swarps: dict[int, float]) -> _Look:
    process = Path("/proc", str(pid))
    status = _status(pid)
    cpu = sum(map(int, status[11:15])) * TICK  # its own and that of ended children, each in programs and in the kernel
    moved = dict(line.split(b": ") for line in (process / "io").read_bytes().splitlines())
    command = (process / "cmdline").read_bytes()
    if Path(os.fsdecode(command.partition(b"\0")[0])).name.lower() == "swarp":
        swarps[pid] = cpu
    return total._replace(
        cpu=total.cpu + cpu,
        server=total.server + (cpu if SERVER in command else 0),
        memory=total.memory + int(status[21]) * PAGE,
        read=total.read + int(moved[b"rchar"]),
        written=total.written + int(moved[b"wchar"]),
    )
