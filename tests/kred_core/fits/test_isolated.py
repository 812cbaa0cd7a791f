"""Images are decoded apart as astropy decodes them, whatever becomes of the process; and what it would misread is refused."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from astropy.io import fits
from mefs import sky_pixels

from kred_core.errors import ExposureError
from kred_core.fits import isolated
from kred_core.fits.hdu import scan
from kred_core.fits.pixels import read_pixels

MASK = (np.arange(64 * 48).reshape(64, 48) % 251).astype(np.int16)


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left():
    yield
    while isolated._idle:
        isolated._idle.pop().end()


def stored(path, data=MASK, storage="PLIO_1", **options):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, name="N1", compression_type=storage, **options)]).writeto(path)
    return scan(path)[1]


def process():
    """The process that waits for the next image."""
    (worker,) = isolated._idle
    return worker.process.pid


def abort(hdu, longest):
    os.abort()


def be_ended(hdu, longest):
    os.kill(os.getpid(), signal.SIGKILL)


def hang(hdu, longest):
    signal.alarm(1)
    while True:
        pass


def fail(hdu, longest):
    raise ExposureError("damaged")


def test_one_process_serves_all_threads(tmp_path):
    images = {n: MASK + np.int16(n) for n in range(12)}
    hdus = {n: stored(tmp_path / f"{n}.fits.fz", image) for n, image in images.items()}
    read_pixels(hdus[0])
    before = process()
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(hdus, pool.map(lambda hdu: read_pixels(hdu, np.int16), hdus.values()), strict=True))
    for n, image in images.items():
        np.testing.assert_array_equal(found[n], image)
    assert process() == before


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (abort, r"x\.fits\.fz\[1\] N1: its compressed bytes make the decoder crash"),
        (be_ended, "was ended from outside, twice"),
        (hang, "decoding it takes more than"),
        (fail, "damaged"),
    ],
)
def test_what_happens_to_the_process_is_said_and_touches_no_other_image(tmp_path, monkeypatch, happens, said):
    hdu = stored(tmp_path / "x.fits.fz")
    read_pixels(hdu)
    before = process()
    with monkeypatch.context() as patched:
        patched.setattr(isolated, "_decode", happens)
        with pytest.raises(ExposureError, match=said):
            read_pixels(hdu)
    np.testing.assert_array_equal(read_pixels(hdu, np.int16), MASK)
    assert process() != before


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(tmp_path, monkeypatch):
    """As when a run is cancelled: an exception is raised in the thread that waits."""
    one, other = stored(tmp_path / "1.fits.fz"), stored(tmp_path / "2.fits.fz", MASK + np.int16(1))
    read_pixels(one)

    class Stopped(BaseException):
        pass

    def stop(self):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr("concurrent.futures.Future.result", stop)
        with pytest.raises(Stopped):
            read_pixels(one)
    np.testing.assert_array_equal(read_pixels(other, np.int16), MASK + 1)


def test_a_fork_has_a_process_of_its_own(tmp_path):
    hdu = stored(tmp_path / "x.fits.fz")
    read_pixels(hdu)
    pid = os.fork()
    if pid == 0:
        os._exit(len(isolated._idle))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    np.testing.assert_array_equal(read_pixels(hdu, np.int16), MASK)


@pytest.mark.parametrize("ending", ["", "atexit.register(os._exit, 0)", "atexit.register(os.kill, os.getpid(), 9)"])
def test_a_script_without_a_guard_runs_once_and_leaves_no_process(tmp_path, ending):
    stored(tmp_path / "x.fits.fz")
    script = tmp_path / "script.py"
    script.write_text(
        f"import atexit, os\nfrom pathlib import Path\n{ending}\nfrom kred_core.fits import isolated, pixels, hdu\n"
        "pixels.read_pixels(hdu.scan(Path('x.fits.fz'))[1])\nprint(isolated._idle[0].process.pid)\n"
        "import sys; sys.stdout.flush()\n"
    )
    ended = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ended.returncode == (-9 if "kill" in ending else 0)
    assert ended.stderr == ""
    (process,) = ended.stdout.split()
    until = time.monotonic() + 20
    while os.path.exists(f"/proc/{process}") and time.monotonic() < until:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{process}")


def in_a_daemon(path, answers):
    answers.put(int(read_pixels(scan(path)[1], np.int16).sum()))


def test_a_worker_that_may_have_no_children_decodes_too(tmp_path):
    """As those of Dask."""
    context = get_context("spawn")
    answers = context.Queue()
    path = stored(tmp_path / "x.fits.fz").path
    worker = context.Process(target=in_a_daemon, args=(path, answers), daemon=True)
    worker.start()
    assert answers.get(timeout=60) == MASK.sum()
    worker.join()


def without_column(hdu, name):
    """The same file with a column that no reader knows in the place of this one."""
    raw = hdu.path.read_bytes()
    hdu.path.write_bytes(raw.replace(f"'{name}".encode(), f"'{name[:-1]}X".encode()))
    return scan(hdu.path)[1]


@pytest.mark.parametrize("storage", ["GZIP_2", "HCOMPRESS_1"])
@pytest.mark.parametrize("name", ["ZSCALE", "ZZERO"])
def test_steps_without_their_size_are_no_pixels(tmp_path, storage, name):
    hdu = stored(tmp_path / "x.fits.fz", sky_pixels(), storage, quantize_level=4)
    with pytest.raises(ExposureError, match="its header is damaged: its columns are"):
        read_pixels(without_column(hdu, name))


@pytest.mark.parametrize("change", [1, -1])
@pytest.mark.parametrize("storage", ["PLIO_1", "HCOMPRESS_1"])
def test_tiles_that_do_not_follow_one_another_are_damage(tmp_path, storage, change):
    hdu = stored(tmp_path / "x.fits.fz", storage=storage)
    raw = bytearray(hdu.path.read_bytes())
    raw[hdu.data_start + 3] += change  # the length of the first tile
    hdu.path.write_bytes(raw)
    with pytest.raises(ExposureError, match=r"do not follow one another|cannot be decoded"):
        read_pixels(scan(hdu.path)[1])
