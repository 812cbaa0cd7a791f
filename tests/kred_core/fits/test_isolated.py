"""Images are decoded apart as astropy decodes them, whatever becomes of the process; and what it would misread is refused."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from astropy.io import fits
from mefs import sky_pixels

from kred_core.errors import ExposureError
from kred_core.fits import isolated
from kred_core.fits.hdu import scan
from kred_core.fits.pixels import read_pixels

MASK = (np.arange(64 * 48).reshape(64, 48) % 251).astype(np.int16)


@pytest.fixture(autouse=True)
def _processes_of_its_own():
    end_idle()  # of modules that were run before
    yield
    end_idle()


def stored(path, data=MASK, storage="PLIO_1", **options):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, name="N1", compression_type=storage, **options)]).writeto(path)
    return scan(path)[1]


def end_idle():
    while not isolated._idle.empty():
        isolated._end(isolated._idle.get())


def processes():
    return [process.pid for process in list(isolated._idle.queue)]


def test_one_process_serves_one_image_after_the_other_and_many_at_once(tmp_path):
    images = {n: MASK + np.int16(n) for n in range(12)}
    hdus = {n: stored(tmp_path / f"{n}.fits.fz", image) for n, image in images.items()}
    for n in images:
        np.testing.assert_array_equal(read_pixels(hdus[n], np.int16), images[n])
    assert len(processes()) == 1
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(hdus, pool.map(lambda hdu: read_pixels(hdu, np.int16), hdus.values()), strict=True))
    for n, image in images.items():
        np.testing.assert_array_equal(found[n], image)
    assert len(processes()) <= 4


def crashing(tmp_path, body):
    """A process of ours in which decoding is something else."""
    script = tmp_path / "process.py"
    source = isolated._PROCESS.read_text()
    at = source.index("def _decode_in_fork")
    script.write_text(f"{source[:at]}def _decode(hdu):\n    {body}\n\n\n{source[at:]}")
    return script


def test_a_crash_of_the_decoder_is_said_and_touches_no_other_image(tmp_path, monkeypatch):
    hdu = stored(tmp_path / "x.fits.fz")
    with monkeypatch.context() as patched:
        patched.setattr(isolated, "_PROCESS", crashing(tmp_path, "os.abort()"))
        for _ in range(2):  # by the same process
            with pytest.raises(ExposureError, match=r"x\.fits\.fz\[1\] N1: its compressed bytes make the decoder crash"):
                read_pixels(hdu)
        assert len(processes()) == 1
        isolated._end(isolated._idle.get())
    np.testing.assert_array_equal(read_pixels(hdu, np.int16), MASK)


def test_a_process_that_was_ended_between_two_images_is_replaced(tmp_path):
    hdu = stored(tmp_path / "x.fits.fz")
    read_pixels(hdu)
    (before,) = processes()
    os.kill(before, signal.SIGKILL)
    np.testing.assert_array_equal(read_pixels(hdu, np.int16), MASK)
    assert processes() != [before]


def test_a_process_that_is_ended_again_and_again_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(isolated, "_PROCESS", crashing(tmp_path, "os.kill(os.getppid(), 9)"))
    with pytest.raises(ExposureError, match="was ended from outside, twice"):
        read_pixels(stored(tmp_path / "x.fits.fz"))
    assert processes() == []


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(tmp_path, monkeypatch):
    """As when a run is cancelled: an exception is raised in the thread that waits."""
    one, other = stored(tmp_path / "1.fits.fz"), stored(tmp_path / "2.fits.fz", MASK + np.int16(1))
    read_pixels(one)

    class Stopped(BaseException):
        pass

    def stop(process):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(isolated._idle, "put", stop)
        with pytest.raises(Stopped):
            read_pixels(one)
    np.testing.assert_array_equal(read_pixels(other, np.int16), MASK + 1)


def test_a_fork_has_processes_of_its_own(tmp_path):
    hdu = stored(tmp_path / "x.fits.fz")
    read_pixels(hdu)
    pid = os.fork()
    if pid == 0:
        os._exit(len(processes()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(processes()) == 1


def test_it_ends_with_the_program_that_asked(tmp_path):
    hdu = stored(tmp_path / "x.fits.fz")
    read_pixels(hdu)
    process = isolated._idle.get()
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()


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
