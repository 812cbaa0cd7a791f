"""The real SWarp, driven by kred; a stand-in only where SWarp should misbehave."""

import multiprocessing
import os
import re
import subprocess
import time

import numpy as np
import pytest
from astropy.io import fits
from nights import DECAM, GRID, SHAPE, Night, noise, tan_cards

from kred_core.coadd import native, swarp
from kred_core.config import CoaddConfig
from kred_core.errors import ToolError


def several(night, n=4, names=()):
    """Exposures with different backgrounds, factors and places."""
    rng = np.random.default_rng(8)
    for i in range(n):
        header = tan_cards(GRID, SHAPE, offset=tuple(rng.uniform(-20, 20, 2)), axes=DECAM, scale=0.2623, turn=3.0 * i)
        name = names[i] if i < len(names) else None
        night.expose(noise(i, level=1000.0 + 50 * i), header, scale=0.5 + 0.1 * i, back=490.0 + 130 * i, noise=3.0, name=name)
    return night


def same_pixels(one, other):
    """Compare with the other engine's mosaic as far as 32-bit arithmetic and kernel tables go."""
    np.testing.assert_array_equal(one[1], other[1])
    np.testing.assert_allclose(one[0], other[0], atol=0.02)


@pytest.mark.usefixtures("swarp_installed")
class TestSwarp:
    def test_originals_are_not_touched_and_only_the_named_files_appear(self, night):
        several(night)
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in night.mef.iterdir()}
        night.mef.joinpath(night.inputs[0].root + ".head").write_text("FLXSCALE= 7.0\nEND\n")  # a person's, for another purpose
        theirs, ours = night.coadd(swarp), night.coadd(native)
        same_pixels(theirs, ours)
        assert theirs[2].pixels == ours[2].pixels
        assert theirs[1].max() == 4
        assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
        assert sorted(os.listdir(night.mef)) == sorted([*(p.name for p in before), night.inputs[0].root + ".head"])
        stem = "LMC_c42_T07.N662"
        expected = [f"{stem}.{s}" for s in ("back", "coverage.fits.fz", "fits", "list", "log", "run", "scale", "swarp")]
        assert sorted(os.listdir(night.products)) == expected
        entries, backs, scales = (night.products.joinpath(f"{stem}.{s}").read_text().split() for s in ("list", "back", "scale"))
        assert entries == [f"c4d_16010{i}_ooi_N662_v1.fits[1]" for i in (1, 2, 3, 4)]
        assert [float(v) for v in backs] == pytest.approx([490.0 / 0.5, 620.0 / 0.6, 750.0 / 0.7, 880.0 / 0.8], rel=1e-15)  # in ADU
        assert [float(v) for v in scales] == pytest.approx([0.5, 0.6, 0.7, 0.8], rel=1e-15)

    def test_one_run_for_each_background(self, night):
        rng = np.random.default_rng(2)
        for i in range(3):
            header = tan_cards(GRID, SHAPE, offset=tuple(rng.uniform(-20, 20, 2)), axes=DECAM, scale=0.2623, turn=3.0 * i)
            night.expose(noise(i), header, scale=0.5, back=490.0, matched=(500.0 + 3 * i,))
        both = ("original", "matched")
        theirs = night.coadd(swarp, backgrounds=both)
        stem = night.matched[0].with_suffix("")
        backs = [float(v) for v in stem.with_name(stem.name + ".back").read_text().split()]
        assert backs == [1000.0, 1006.0, 1012.0]
        assert (night.products / "LMC_c42_T07.N662.back").read_text() == "980.0\n" * 3
        subprocess.run([stem.with_name(stem.name + ".run")], check=True, capture_output=True)
        np.testing.assert_array_equal(fits.getdata(stem.with_name(stem.name + ".swarp.fits")), theirs[0])
        original = fits.getdata(night.mosaic)
        same_pixels(theirs, night.coadd(native, backgrounds=both, mask_codes=[]))
        np.testing.assert_allclose(original, fits.getdata(night.mosaic), atol=0.02)
        assert np.median((original - theirs[0])[theirs[1] == 3]) > 5

    def test_extensions_are_counted_as_swarp_counts(self, night):
        names = ("a_ooi_.fits.fz", "b_ooi_.fits", "c.fits.fz")
        several(night, 3, names)
        for item, compressed in zip(night.inputs, (True, True, False), strict=True):  # compressed or not, only the name counts
            with fits.open(item.path) as hdus:
                pixels, header = hdus[1].data.astype(np.float32), hdus[1].header
            other = fits.ImageHDU(np.full((50, 50), -999, np.float32), header, name="S4")
            wanted = fits.ImageHDU(pixels, header, name="N4")
            if compressed:
                wanted = fits.CompImageHDU(pixels, tan_cards_of(header), name="N4", compression_type="GZIP_2", quantize_level=0)
            fits.HDUList([fits.PrimaryHDU(), other, wanted]).writeto(item.path, overwrite=True)
        same_pixels(night.coadd(swarp), night.coadd(native))
        entries = (night.products / "LMC_c42_T07.N662.list").read_text().split()
        assert entries == ["a_ooi_.fits.fz[1]", "b_ooi_.fits[2]", "c.fits.fz[1]"]

    def test_names_that_swarp_cannot_read(self, tmp_path):
        names = ["it's, really [2].fits", "it's_ really [2].fits", "-x $(touch oops) `y`.fits", "grün#.fits"]
        night = several(Night(tmp_path / "data root, 'new' [1]"), 4, names)
        same_pixels(night.coadd(swarp), night.coadd(native))
        assert not list(tmp_path.rglob("oops"))

    def test_run_again_by_hand_from_anywhere(self, tmp_path):
        night = several(Night(tmp_path / "data root"))
        image, _, _ = night.coadd(swarp)
        run = night.products / "LMC_c42_T07.N662.run"
        before = night.mosaic.read_bytes()
        elsewhere = tmp_path / "else where"
        elsewhere.mkdir()
        subprocess.run([run], cwd=elsewhere, check=True, capture_output=True)
        by_hand = fits.getdata(night.products / "LMC_c42_T07.N662.swarp.fits")
        np.testing.assert_array_equal(by_hand, image)
        subprocess.run([run, "mine.fits"], cwd=elsewhere, check=True, capture_output=True)
        np.testing.assert_array_equal(fits.getdata(elsewhere / "mine.fits"), image)
        assert night.mosaic.read_bytes() == before
        assert not [name for name in os.listdir(night.products) if name.startswith(".")]

    def test_nan_that_swarp_misreads_does_not_get_through(self, night):
        pixels = noise()
        pixels[40, 45] = np.nan
        night.expose(pixels)
        hdu = fits.CompImageHDU(pixels, tan_cards(GRID, SHAPE), name="N4", compression_type="RICE_1", quantize_level=4)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(night.inputs[0].path, overwrite=True)
        with pytest.raises(ToolError, match=r"values that cannot be right.*NaN.*--coadd\.engine native"):
            night.coadd(swarp)
        assert not night.mosaic.exists()
        assert not night.coverage.exists()


def tan_cards_of(header):
    """The WCS cards of a header alone."""
    keys = ("CTYPE", "CUNIT", "CRVAL", "CRPIX", "CD1_", "CD2_")
    return fits.Header([card for card in header.cards if card.keyword.startswith(keys)])


class TestWhatCanGoWrong:
    """Each failure is one message that quotes the log, and nothing is left but the files of the run."""

    @pytest.fixture
    def stand_in(self, tmp_path, monkeypatch):
        """Put a shell script in SWarp's place."""

        def put(script):
            program = tmp_path / "bin" / "SWarp"
            program.parent.mkdir()
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
            monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

        return put

    def expect(self, night, message, **options):
        several(night)
        with pytest.raises(ToolError, match=message) as caught:
            swarp.coadd(night.plan, CoaddConfig().model_copy(update=options), {"original": (night.mosaic, night.coverage)})
        left = set(os.listdir(night.products))
        assert left == {f"LMC_c42_T07.N662.{s}" for s in ("list", "back", "scale", "swarp", "run", "log")}
        assert str(night.products / "LMC_c42_T07.N662.log") in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            (
                "echo start; echo '> *Error*: Not enough memory' >&2; echo; echo '> bye'; exit 3",
                r'failed \(exit status 1\) for LMC_c42_T07.N662: "\*Error\*: Not enough memory"',
            ),
            (
                "echo '> *Error* while writing mosaic.fits'; exit 1",
                r'"\*Error\* while writing mosaic.fits", perhaps because the disk is full; its log',
            ),
            ("echo all is well", "SWarp failed"),
            ("echo nothing > mosaic.fits", "cannot be read"),
        ],
    )
    def test_swarp_makes_no_image(self, night, stand_in, script, message):
        stand_in(script)
        self.expect(night, message)

    @pytest.mark.parametrize(
        ("offset", "message"),
        [(3.0, "another grid than that of the plan"), (0.0, "with 0 pixels, where the detectors cover")],
    )
    def test_swarp_makes_another_image(self, night, stand_in, tmp_path, offset, message):
        fits.writeto(tmp_path / "x.fits", np.zeros((100, 120), np.float32), tan_cards(GRID, (100, 120), offset=(offset, 0.0)))
        stand_in(f"cp {tmp_path}/x.fits mosaic.fits")
        self.expect(night, message)

    @pytest.mark.flaky
    def test_swarp_takes_too_long(self, night, stand_in, tmp_path):
        stand_in(f"echo working hard; (echo $$ > {tmp_path}/pid; exec sleep 60)")
        started = time.monotonic()
        self.expect(night, "did not finish LMC_c42_T07.N662 within 0.7 s and was stopped", swarp_timeout=0.7)
        assert time.monotonic() - started < 50
        status = subprocess.run(["ps", "-o", "stat=", "-p", (tmp_path / "pid").read_text().strip()], capture_output=True, text=True)
        assert re.fullmatch(r"(Z.*)?", status.stdout.strip())

    @pytest.mark.flaky
    def test_swarp_ends_with_a_run_that_is_killed(self, night, stand_in, tmp_path):
        stand_in(f"echo $$ > {tmp_path}/pid; exec sleep 600")
        several(night)
        run = multiprocessing.get_context("fork").Process(target=night.coadd, args=(swarp,))
        run.start()
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.kill()
        run.join()
        state = ["ps", "-o", "stat=", "-p", (tmp_path / "pid").read_text().strip()]
        while not re.fullmatch(r"(Z.*)?", subprocess.run(state, capture_output=True, text=True, check=False).stdout.strip()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
