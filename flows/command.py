"""What every command of kred does first and last.

Needs nothing but Python, and not even the Python that kred needs: it says what is missing.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import re
import sys
import traceback
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import TextIOWrapper
    from typing import NoReturn

__all__ = ["begin", "run"]

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "PREFECT_API_SSL_CERT_FILE")
ADVICE = {
    "numba": ". Set NUMBA_CACHE_DIR to a directory that can be written to",
    "prefect": ". Prefect is set by variables PREFECT_..., by its profiles (prefect config view) and, in the current directory, by "
    "prefect.toml, pyproject.toml and .env",
}
REMEDY = (
    "in kred's directory, run `make demo` once (it needs Python 3.11 or newer), then `source .venv/bin/activate` in each "
    "new terminal"
)


def begin() -> None:
    """Prepare this process for a command, and have whatever keeps packages from being imported said in one sentence."""
    _open_standard_streams()
    if sys.version_info < (3, 11):  # noqa: UP036 - a person may take another
        sys.exit(f"error: kred needs Python 3.11 or newer, and this is {sys.version.split()[0]} ({sys.executable}); {REMEDY}")
    _prefer_own_modules()
    os.environ["MPLBACKEND"] = "agg"  # figures become files; matplotlib cannot be imported with one that it does not know
    for name in CERTIFICATES:
        if os.environ.get(name) and not os.path.exists(os.environ[name]):
            sys.exit(f"error: {name} in the environment names a file that does not exist: {os.environ[name]}; correct or unset it")
    sys.excepthook = _explain
    atexit.register(_flush)  # for --help, which ends by itself
    logging.getLogger("prefect").addHandler(logging.NullHandler())  # it would say at length what keeps it from being imported
    warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")  # said where it is needed


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a command, and end this process with the exit status that it returns."""
    sys.excepthook = sys.__excepthook__
    status = main(sys.argv[1:])
    sys.exit(_flush() or status)


def _flush() -> int:
    """Print what waits; a reader that has gone changes nothing, a disk that is full is told and gives an exit status."""
    try:
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # as of `... | head`, which has seen enough
        status = 0
    except OSError as e:
        print(f"error: standard output: {e.strerror}", file=sys.stderr)
        status = 1
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try once more, and say so at length
    return status


def _open_standard_streams() -> None:
    """Let no file be opened as one of the standard descriptors that somebody has closed, and print also what cannot be encoded."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        cast("TextIOWrapper", stream).reconfigure(errors="backslashreplace")


def _prefer_own_modules() -> None:
    """Take kred's own modules, here and in processes that are started, whatever else on the path is called flows or tasks."""
    script = os.path.dirname(os.path.realpath(sys.argv[0]))
    sys.path[:] = [PROJECT, *(place for place in sys.path if place not in (PROJECT, script))]
    os.environ["PYTHONSAFEPATH"] = "1"  # not those of the directory in which a run works
    if os.path.basename(PROJECT) not in ("site-packages", "dist-packages"):
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, (PROJECT, *given))))


def _explain(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Say in one sentence why a command cannot begin; Ctrl-C, and what is a defect of kred, Python shows itself."""
    packages = [
        frame.filename.split("-packages" + os.sep)[1].split(os.sep)[0]
        for frame in traceback.extract_tb(where)
        if "-packages" + os.sep in frame.filename
    ]
    said = " ".join(re.sub(r"\[type=.*?\]|For further information visit \S+", "", str(error)).split()).rstrip(".")
    if kind.__module__ == "kred_core.errors":
        words = said
    elif not isinstance(error, Exception) or not (isinstance(error, ImportError) or packages):
        sys.__excepthook__(kind, error, where)
        return
    elif strangers := _strangers():
        words = f"{said}. {strangers[0]} has the name of a module that kred needs: move it away, or take it off PYTHONPATH"
    elif isinstance(error, ModuleNotFoundError):
        words = f"{error.name} is not installed in this Python ({sys.executable}, {sys.version.split()[0]}): {REMEDY}"
    else:
        culprit = packages[0] if packages else "a package that it needs"
        words = f"kred cannot begin, because {culprit} does not: {kind.__name__}: {said}{ADVICE.get(culprit, '')}"
    print(f"error: {words}", file=sys.stderr)


def _strangers() -> list[str]:
    """Files of modules that are not kred's and come before Python's own on the path, the last that was imported first."""
    own = ("kred_core", "flows", "tasks", "deployments")
    first = itertools.takewhile(lambda place: not place.endswith(".zip"), sys.path)
    places = [os.path.abspath(place) for place in first]
    found = {name: getattr(module, "__file__", None) for name, module in reversed(list(sys.modules.items())) if name not in own}
    return [
        file
        for name, file in found.items()
        if file and file in (os.path.join(place, *part) for place in places for part in ((f"{name}.py",), (name, "__init__.py")))
    ]
