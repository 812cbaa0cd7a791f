"""End a run whose worker is gone: nobody could watch, cancel or count it any more.

A worker that is killed leaves the processes of its runs behind. Where Prefect started the run in
this process for a worker, this watches for that and then ends the run as if it were cancelled; the
record says Crashed, and another run goes on where it was.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

__all__ = ["end_with_worker"]

log = logging.getLogger("kred_core.run")

PAUSE = 1.0  # s
_watching = threading.Lock()


def end_with_worker() -> None:
    """Terminate this process when the worker that started it is gone; does nothing in other processes. May be called again."""
    if "PREFECT__FLOW_RUN_ID" in os.environ and _watching.acquire(blocking=False):
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(worker: int) -> None:
    while os.getppid() == worker:
        time.sleep(PAUSE)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # the worker read them; writing to them would now be an error
        os.dup2(nowhere, stream)
    log.error("the worker of this run is gone, so the run ends; the next one goes on where it was")
    os.kill(os.getpid(), signal.SIGTERM)
