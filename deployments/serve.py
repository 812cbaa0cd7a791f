"""kred as a service on this machine, in one command: ``make serve ROOT=DIR``, or ``python deployments/serve.py --root DIR``.

Starts a Prefect server that answers on this machine only, registers the flows, starts a worker, and keeps both running until
Ctrl-C; then stops everything, runs included. Nothing stays behind, even when this process is killed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before all else that is called flows
    from flows import command

    command.begin()

from kred_core.config import settings

if __name__ == "__main__":  # --help and wrong options are answered before Prefect is imported, which takes seconds
    settings.answer(settings.service_config, sys.argv[1:])

import flows  # noqa: F401 - before Prefect, which would report home at its first start

# isort: split
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_HOME, PREFECT_SERVER_API_AUTH_STRING

from flows import messages, server
from flows.local_server import DATABASE, HOST, LocalServer, stop
from kred_core.config import ServiceConfig
from kred_core.errors import ConfigError, InputError, KredError, ToolError
from kred_core.products import FieldPaths, service_state
from kred_core.products.locks import held
from kred_core.service import PLACE, SERVED_ROOT

__all__ = ["main", "serve"]

log = logging.getLogger("kred_core.service")

HERE = Path(__file__).resolve().parent
POOL = "kred"
WORKER_STOP = 40  # s; Prefect grants a run 30 s to end, kred's need fewer than 20
PAUSE = 1  # s


def main(arguments: list[str]) -> int:
    """The command line; returns the exit status."""
    logging.getLogger("kred_core").setLevel(logging.INFO)
    messages.kred_only()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell lets what it starts in the background ignore the first
        signal.signal(number, _stop)
    try:
        service, options = settings.service_config(arguments)
        serve(service, options.root.absolute(), arguments)
    except KredError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2 if isinstance(e, ConfigError) else 1
    except KeyboardInterrupt:
        log.info("stopped")
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def serve(service: ServiceConfig, root: Path, arguments: list[str]) -> None:
    """Serve a data root until `KeyboardInterrupt`.

    Parameters
    ----------
    service : `~kred_core.config.ServiceConfig`
    root : `~pathlib.Path`
        Data root.
    arguments : list of str
        The command line, for the registration.

    Raises
    ------
    InputError
        The data root cannot be used, or is served already.
    ToolError
        The port is taken, or Prefect does not start.
    """
    if not root.is_dir():
        raise InputError(f"the data root {root} is no directory; give the one that holds DECam_MEF: make serve ROOT=DIR")
    if not os.access(root, os.W_OK | os.X_OK):
        raise InputError(f"the data root {root} cannot be written to; products go below it")
    FieldPaths.input(root).mkdir(exist_ok=True)
    with held([service_state(root) / "serve.lock"], "kred as a service", _refuse):
        ours = _environment(root, service.port)
        worker = _Worker(ours, service_state(root) / "worker.log")
        while True:
            _serve_until_the_server_ends(service, root, arguments, ours, worker)


def _serve_until_the_server_ends(
    service: ServiceConfig, root: Path, arguments: list[str], ours: dict[str, str], worker: _Worker
) -> None:
    logs = service_state(root)
    # Notices that the server sends, as to a chat, may have to go through the proxies that a person has set.
    excepted = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST]))
    its = ours | {"NO_PROXY": excepted, "no_proxy": excepted}
    with open(logs / "server.log", "w+b") as output, LocalServer(service.port, its, output) as server:
        try:
            if not worker.started:
                log.info("registering the flows")
                command = [sys.executable, str(HERE / "register.py"), *arguments]
                if subprocess.run(command, env=ours, stdin=subprocess.DEVNULL, start_new_session=True, check=False).returncode:
                    raise ToolError("the flows could not be registered")
                here = f"http://{HOST}:{service.port}"
                log.info("Prefect: %s   data: %s", here, root)
                log.info("pages of the fields, once there are some: %s%sDECam_SWARP/index.html", here, PLACE)
                every = "every minute" if service.every == 1 else f"every {service.every} minutes"
                log.info("a look for new fields now and %s; logs in %s; Ctrl-C stops everything", every, logs)
            while server.process.poll() is None:
                worker.keep()
                time.sleep(PAUSE)
        except BaseException:
            worker.stop()  # while there is a server that can be told how its runs ended
            raise
        log.warning("the server has ended (status %d), see %s; starting another", server.process.returncode, logs / "server.log")


def _refuse(holder: str) -> None:
    raise InputError(f"the data root is served already, by {holder}")


def _environment(root: Path, port: int) -> dict[str, str]:
    """That of server, worker and runs: kred.env, what a person has set, and what must be."""
    lines = (HERE / "kred.env").read_text(encoding="utf-8").splitlines()
    given = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    digest = hashlib.sha256(str(root).encode()).hexdigest()[:8]
    database = PREFECT_HOME.value() / f"kred-{root.name}-{digest}.db"  # on this machine: SQLite and network disks do not agree
    defaults = {"PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(service_state(root) / "results")}
    if not set(DATABASE) & set(os.environ):
        defaults["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{database}"
        log.info("history of the runs: %s", database)
    # What the server wants to hear from worker, runs and people, where somebody has set that.
    wanted, said = PREFECT_SERVER_API_AUTH_STRING.value(), PREFECT_API_AUTH_STRING.value()
    if wanted and said and wanted != said:
        raise ConfigError(
            "PREFECT_API_AUTH_STRING is not what PREFECT_SERVER_API_AUTH_STRING says: the server would refuse its own worker. "
            "Set both alike, or the second alone"
        )
    if wanted:
        defaults["PREFECT_API_AUTH_STRING"] = wanted
    ours = server.address(f"http://{HOST}:{port}/api") | {SERVED_ROOT: str(root), "PYTHONUNBUFFERED": "1"}
    return given | defaults | os.environ | ours


class _Worker:
    """A worker that is started again should it end by itself."""

    def __init__(self, environment: Mapping[str, str], output: Path) -> None:
        self._environment, self._output = environment, output
        self._process: subprocess.Popen | None = None

    @property
    def started(self) -> bool:
        return self._process is not None

    def keep(self) -> None:
        """Start the worker unless it is running."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            log.warning("the worker has ended (status %d), see %s; starting another", self._process.returncode, self._output)
        with open(self._output, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, HERE / "worker.py", POOL],
                env=self._environment,
                stdin=subprocess.PIPE,  # nothing is written to it; its end tells the worker to stop
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is for this process, which then stops one after the other
            )

    def stop(self) -> None:
        """Stop the worker and its runs."""
        if self._process is None or self._process.poll() is not None:
            return
        log.info("stopping")
        stop(self._process, WORKER_STOP)


if __name__ == "__main__":
    command.run(main)
