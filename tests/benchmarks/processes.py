"""What a command and all processes that it starts cost: CPU, memory, bytes read and written, over its whole life.

Looked at while the command runs. The kernel adds the CPU and the bytes of a process that has ended to its parent, so that the
sum over those that live forgets none.
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

import numpy as np
import psutil

INTERVAL = 0.1  # s between two looks
SERVER = "server_process.py"  # in the command line of kred's Prefect server
COUNTED = ("cpu", "server", "swarp", "read", "written")  # what only grows
COLUMNS = ("time", "memory", *COUNTED)


@dataclass(frozen=True)
class Cost:
    """What happened between two moments."""

    wall: float  # s
    cpu: float  # s, of all processes
    server: float = 0.0  # CPU seconds of the Prefect server, which ``cpu`` holds too
    swarp: float = 0.0  # and of SWarp
    memory: int = 0  # bytes: largest sum of the resident sets of all processes at one moment; shared pages count for each
    read: int = 0  # bytes that went through the call, whether a disk or its cache was at the other end
    written: int = 0


@dataclass(frozen=True, eq=False)
class Measured:
    """A command that has ended."""

    status: int  # exit status
    output: str  # what it printed, standard output and error together
    looks: dict[str, np.ndarray]  # `COLUMNS` at the moments at which it was looked at, from its start to its end

    def between(self, start: float, end: float) -> Cost:
        """What happened between two moments, seconds since 1970."""
        times, memory = self.looks["time"], self.looks["memory"]
        during = memory[(times >= start) & (times <= end)]
        grown = {name: float(np.diff(np.interp([start, end], times, self.looks[name]))[0]) for name in COUNTED}
        grown |= {name: round(grown[name]) for name in ("read", "written")}
        return Cost(wall=end - start, memory=int(max([*during, *np.interp([start, end], times, memory)])), **grown)

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
    """Run a command to its end in a directory, with this whole environment, and measure it."""
    looks = [dict.fromkeys(COLUMNS, 0.0) | {"time": time.time()}]
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
    looks.append(looks[-1] | {"time": time.time(), "cpu": max(cpu, looks[-1]["cpu"]), "memory": 0})
    columns = {name: np.array([look[name] for look in looks], np.float64) for name in COLUMNS}
    for name in COUNTED:
        columns[name] = np.maximum.accumulate(columns[name])  # for a moment an ended process is counted nowhere
    return Measured(process.returncode, said, columns)


def _look(pid: int, swarps: dict[int, float]) -> dict[str, float]:
    """Sums over a process and all below it. Parents are read before their children, so that none is counted twice."""
    total = dict.fromkeys(COLUMNS, 0.0) | {"time": time.time()}
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.Error):  # it has ended meanwhile
                cpu = sum(process.cpu_times()[:4])  # its own and that of ended children, each in programs and in the kernel
                moved, memory, command = process.io_counters(), process.memory_info().rss, process.cmdline()
                total["cpu"] += cpu
                total["server"] += cpu if any(SERVER in word for word in command) else 0
                total["memory"] += memory
                total["read"] += moved.read_chars
                total["written"] += moved.write_chars
                if command and Path(command[0]).name.lower() == "swarp":
                    swarps[process.pid] = cpu
    total["swarp"] = sum(swarps.values())
    return total
