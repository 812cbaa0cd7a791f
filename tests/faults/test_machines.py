"""Machines of strangers, with their file systems, proxies, settings and modules: kred works, or says the way out."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from fields import FIELD, PROJECT, config, copy_of, made
from serving import Service
from tally import tried

from flows import local_server
from flows.field import reduce
from kred_core.errors import ToolError

OWN_SERVER = {"PREFECT_API_URL": ""}
PROXIES = {
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "all_proxy": "socks5h://127.0.0.1:9",
    "HTTP_PROXY": "no proxy://at all",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "::1/128,10.0.0.0/8",
    "no_proxy": "::1/128",
}
MATPLOTLIBRC = "text.usetex: True\nfigure.dpi: 33\nfont.size: 20\naxes.facecolor: red\npath.sketch: 1, 100, 2\nno.such: key\n"


@pytest.fixture(scope="module")
def undisturbed(simulated, prefect_server, tmp_path_factory) -> dict[str, bytes]:
    """What a run leaves where nothing is unusual."""
    root = copy_of(simulated, tmp_path_factory.mktemp("undisturbed"))
    assert reduce(config(root)) == 0
    return made(root)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """A directory with modules of somebody else that are called as kred's, and a matplotlibrc."""
    directory = tmp_path_factory.mktemp("foreign")
    for name in ("flows", "tasks", "kred_core", "deployments"):
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text("raise RuntimeError('not a module of kred')")
    (directory / "matplotlibrc").write_text(MATPLOTLIBRC)
    return directory


def field(
    root: Path, *options: str, before: tuple[str, ...] = (), cwd: Path = PROJECT, **environment: str
) -> subprocess.CompletedProcess:
    """A run from the command line, with few pixels of figures as `fields.config` has."""
    command = [sys.executable, str(PROJECT / "flows/field.py"), FIELD, "T07", "--root", str(root)]
    command += ["--evaluate.figure-pixels", "200", *options]
    given = os.environ | environment
    return subprocess.run([*before, *command], cwd=cwd, env=given, capture_output=True, text=True, check=False, timeout=300)


def without_links(products: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in products.items() if not re.search("/T07(_b)?/.*[.]fz$", name)}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory) -> Path:
    """The library that makes a file system refuse."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a C compiler and Linux are needed to make a file system refuse requests")
    library = tmp_path_factory.mktemp("refusing") / "refusing.so"
    source = Path(__file__).with_name("refusing.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def test_a_file_system_without_links_locks_modes_and_synced_directories(simulated, undisturbed, refusing, prefect_server, tmp_path):
    root = copy_of(simulated, tmp_path / "root")
    refused = {"LD_PRELOAD": str(refusing), "REFUSING": str(root), "PREFECT_API_URL": prefect_server}
    leftover = root / f"DECam_SWARP/{FIELD}/.x.tmp"
    leftover.parent.mkdir(parents=True)
    leftover.touch()  # of another run that may be at work
    run = field(root, **refused)
    assert run.returncode == 0, run.stderr
    assert without_links(made(root)) == without_links(undisturbed)
    assert without_links(undisturbed).keys() < undisturbed.keys()
    assert f"{root}: this file system has no locks; see to it that no other run works on this field" in run.stderr
    assert f"{root}/DECam_PREP/{FIELD}/T07: no links to the detectors, because this file system refuses them" in run.stderr
    assert "no locks" in (root / f"Log/{FIELD}.log").read_text()
    assert leftover.exists()
    if shutil.which("SWarp") or shutil.which("swarp"):
        run = field(root, "--only", "coadd", "--coadd.mosaics", "original", "--coadd.engine", "swarp", **refused)
        assert run.returncode == 0, run.stderr
    tried("file system that refuses links, locks, chmod and fsync of a directory")


def test_proxies_closed_descriptors_a_matplotlibrc_and_modules_of_the_same_names(simulated, undisturbed, foreign, tmp_path):
    root = copy_of(simulated, tmp_path / "root")
    paths = {"PYTHONPATH": os.pathsep.join([str(foreign), "", os.environ.get("PYTHONPATH", "")]), "MPLBACKEND": "nonsense"}
    closed = ("/bin/sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh")
    run = field(root, before=closed, cwd=foreign, **OWN_SERVER, **PROXIES, **paths)
    log = root / f"Log/{FIELD}.log"
    assert run.returncode == 0, log.read_text() if log.exists() else "no log"
    assert made(root) == undisturbed
    assert f"{FIELD}: complete" in log.read_text()
    tried("proxies, closed descriptors, a matplotlibrc, modules of the same names")


@pytest.mark.parametrize("which", ["0<&-", "2>&-", "0<&- 2>&-"])
def test_a_standard_descriptor_that_is_closed_is_not_given_to_a_file(which):
    """Otherwise what is printed would go into the file that was opened next."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom flows import command\ncommand.begin()\n"
        "with open('/dev/null') as file:\n    print(file.fileno() > 2, sys.stdin.read(), file=sys.stdout)\n"
        "print('x', file=sys.stderr)"
    )
    run = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {which}', "sh", sys.executable, "-c", script, str(PROJECT)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout.strip()) == (0, "True")
    assert run.stderr == ("" if "2>" in which else "x\n")


class TestNobodyReads:
    def test_a_run_whose_reader_has_gone_goes_on(self, simulated, prefect_server, tmp_path):
        root = copy_of(simulated, tmp_path / "root")
        script = '{ "$@" 2>&1; echo $? >"$STATUS"; } | head -n 1'
        status = tmp_path / "status"
        field(root, "--only", "check", before=("/bin/sh", "-c", script, "sh"), PREFECT_API_URL=prefect_server, STATUS=str(status))
        assert status.read_text() == "0\n"
        assert f"{FIELD}: complete" in (root / f"Log/{FIELD}.log").read_text()

    @pytest.mark.parametrize(
        ("to", "status", "said"), [(">/dev/full", 1, "error: standard output: No space left on device\n"), ("| true", 0, "")]
    )
    def test_a_plan_that_nobody_takes(self, simulated, tmp_path, to, status, said):
        script = f'{{ "$@"; echo $? >"$STATUS"; }} {to}'
        run = field(
            simulated, "--dry-run", before=("/bin/sh", "-c", script, "sh"), STATUS=str(tmp_path / "status"), PYTHONUNBUFFERED=""
        )
        assert (run.stderr, (tmp_path / "status").read_text()) == (said, f"{status}\n")


def test_a_server_elsewhere_behind_a_proxy_that_cannot_be_used(simulated):
    elsewhere = {"PREFECT_API_URL": "http://kred.invalid:4200/api"}
    nothing = dict.fromkeys(PROXIES, "")
    for names in (("ALL_PROXY", "all_proxy"), ("NO_PROXY", "no_proxy")):
        run = field(simulated, **elsewhere | nothing | {name: PROXIES[name] for name in names})
        assert run.returncode == 1
        assert run.stderr.startswith("error: the way to the Prefect server http://kred.invalid:4200/api leads through a proxy that")
        assert run.stderr.count("\n") == 1
    script = [sys.executable, "deployments/register.py", "--root", str(simulated)]
    run = subprocess.run(script, cwd=PROJECT, env=os.environ | elsewhere | PROXIES, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "leads through a proxy that cannot be used" in run.stderr
    assert run.stderr.count("\n") == 1


CANNOT_BEGIN = [
    ({"PYTHONPATH": "{0}"}, "{0}/prefect.py has the name of a module that kred needs: move it away, or take it off PYTHONPATH"),
    ({"PREFECT_LOGGING_LEVEL": "LOUD"}, "because prefect does not: ValidationError: 2 validation errors for LoggingSettings level"),
    ({"SSL_CERT_FILE": "{0}/none"}, "SSL_CERT_FILE in the environment names a file that does not exist: {0}/none"),
    ({}, "Failed to load Prefect settings from prefect.toml"),  # in the current directory
]


@pytest.mark.parametrize(("environment", "words"), CANNOT_BEGIN, ids=["stray module", "level", "certificates", "prefect.toml"])
def test_what_keeps_packages_from_being_imported_is_said(simulated, tmp_path, environment, words):
    (tmp_path / "prefect.py").touch()
    if not environment:
        (tmp_path / "prefect.toml").write_text("[")
    given = {name: value.format(tmp_path) for name, value in environment.items()}
    run = field(simulated, cwd=tmp_path, **OWN_SERVER, **given)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert words.format(tmp_path) in last
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("kind", ["newer", "of another program", "not a database", "no directory"])
def test_a_database_that_prefect_cannot_use(tmp_path, monkeypatch, kind):
    home, words = tmp_path / "prefect", "cannot be used"
    if kind == "no directory":
        home.touch()
    else:
        home.mkdir()
        if kind == "not a database":
            (home / "prefect.db").write_text("some text. " * 100)
        else:
            with sqlite3.connect(home / "prefect.db") as database:
                if kind == "newer":
                    words = "was made by another version of Prefect"
                    database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
                    database.execute("INSERT INTO alembic_version VALUES ('fffffffffff0')")
                else:
                    database.execute("CREATE TABLE flow (id INTEGER)")
            database.close()
    monkeypatch.setenv("PREFECT_HOME", str(home))
    with pytest.raises(ToolError) as told, local_server.own_server(wanted=True):
        pass
    assert f"its database {home}/prefect.db {words} (" in str(told.value)
    assert str(told.value).endswith("; set PREFECT_HOME to another directory that can be written to")
    tried("database that Prefect cannot use")


@pytest.mark.long
def test_a_service_among_proxies_and_modules_of_the_same_names(simulated, foreign, tmp_path):
    root = copy_of(simulated, tmp_path / "root")
    shutil.copytree(foreign, root, dirs_exist_ok=True)  # runs work in the data root
    service = Service(root, PYTHONPATH=str(foreign), **PROXIES)
    try:
        ended = service.end_of(service.start(tiles=["T07"], run={"until": "tiles"}))
    finally:
        service.stop()
    assert ended.is_completed(), (ended.message, (root / ".kred/_service/worker.log").read_text())
    tried("service among proxies and modules of the same names")
