"""Masks mean the same whatever version of the pipeline wrote them, and in whatever form they are stored."""

import shutil
import subprocess

import numpy as np
import pytest
from astropy.io import fits
from mefs import SHAPE, detector_hdu, write_mef

from kred_core.config import CheckConfig, CoaddConfig, FieldConfig, TilingConfig
from kred_core.exposures import check, masks
from kred_core.exposures.exposure import Exposure
from kred_core.exposures.masks import PixelRule
from kred_core.fits.hdu import scan
from kred_core.fits.pixels import read_pixels


def with_mask(directory, values, mask_version="V4.8.2", version="V4.8.2", storage="GZIP_1"):
    """An exposure with a mask for each detector; versions are those of their primary headers, None for none."""
    extensions = [detector_hdu(name, pixels=pixels, storage=storage) for name, pixels in values.items()]
    write_mef(directory / "a_ood_r.fits.fz", extensions, PLVER=mask_version)
    path = write_mef(directory / "a_ooi_r.fits.fz", [detector_hdu(name, i) for i, name in enumerate(values)], PLVER=version)
    return Exposure.open(path)


def a_mask(*values, dtype=np.int16):
    """A mask whose first pixels have these values."""
    mask = np.zeros(SHAPE, dtype)
    mask[0, : len(values)] = values
    return mask


def codes(exposure, n, which=0):
    return exposure.detectors[which].mask_codes()[0, :n].tolist()


@pytest.mark.parametrize(
    ("version", "answer"),
    [
        ("V3.4.9", False), ("3.3", False), ("V1", False), ("DES 2.0+1", False), ("V3.5", True), ("V3.10.0", True), ("V4", True),
        ("V5.5rc1", True), (" v5.5 ", True), ("", None), ("unknown", None),
    ],
)  # fmt: skip
def test_versions_write_codes_from_3_5_0_on(version, answer):
    assert masks.has_codes(version) is answer


@pytest.mark.parametrize(
    ("bits", "code"),
    [
        (0, 0),
        (4, 6),
        (128, 7),
        (1 + 2, 1),
        (2 + 4, 3),
        (2 + 64, 3),
        (64 + 16, 4),
        (16 + 4, 5),
        (16 + 128, 5),
        (4 + 128, 7),
        (8, 6),
        (1024, 6),
        (256 + 16, 5),
        (65535, 1),
    ],
)
def test_of_several_bits_the_first_counts(bits, code):
    """Bad before saturated, bleed, cosmic ray, difference, interpolated; those that no guide explains are of low weight."""
    assert masks.codes_of(np.array([bits]), bits=True).tolist() == [code]


@pytest.mark.parametrize(
    ("mask_version", "version", "expected"),
    [
        ("V3.3.0", "V4.8.2", [1, 3, 6, 5, 4]),  # the mask's own header first
        ("V4.8.2a", "V3.3.0", [1, 2, 4, 5, 4]),
        (None, "V3.3.0", [1, 3, 6, 5, 4]),
        ("unknown", "V2.0.0", [1, 3, 6, 5, 4]),
        (3.3, "V4.8.2", [1, 3, 6, 5, 4]),
        (None, "V5.5", [1, 2, 4, 5, 4]),
        (None, None, [1, 3, 6, 5, 4]),  # 16 and 64 can only be bits
    ],
)
def test_the_version_decides_what_a_mask_means(mask_version, version, expected, tmp_path):
    assert codes(with_mask(tmp_path, {"N1": a_mask(1, 2, 4, 16, 64)}, mask_version, version), 5) == expected


def test_without_a_version_the_values_of_the_whole_file_decide(tmp_path):
    exposure = with_mask(tmp_path, {"N1": a_mask(1, 2, 4), "N2": a_mask(1, 64)}, None, None)
    assert codes(exposure, 3) == [1, 3, 6]
    assert codes(exposure, 2, which=1) == [1, 4]
    assert codes(with_mask(tmp_path, {"N1": a_mask(1, 2, 4), "N2": a_mask(1, 8)}, None, None), 3) == [1, 2, 4]


def test_a_missing_version_is_said(tmp_path):
    exposure = with_mask(tmp_path, {"N1": a_mask(1, 64)}, None, None)
    words = "neither a_ood_r.fits.fz nor the exposure has a PLVER: whether the mask is bits is decided from its values"
    assert words in check.judge(exposure.path, CheckConfig(), {}).remarks
    for versions in (("V4.8.2", None), (None, "V3.3.0")):
        exposure = with_mask(tmp_path, {"N1": a_mask(1, 64)}, *versions)
        assert words not in check.judge(exposure.path, CheckConfig(), {}).remarks


# storage


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4"])
@pytest.mark.parametrize("storage", [None, "RICE_1", "GZIP_1", "GZIP_2"])
def test_signed_and_unsigned_masks_hold_the_same_codes(dtype, storage, tmp_path):
    assert codes(with_mask(tmp_path, {"N1": a_mask(0, 1, 5, 7, dtype=dtype)}, storage=storage), 5) == [0, 1, 5, 7, 0]


def test_an_unsigned_plio_mask_is_what_cfitsio_reads(tmp_path):
    """As cfitsio stores unsigned integers by PLIO: the numbers as they are, and in the header an offset that they lack."""
    path, values = tmp_path / "m.fits.fz", a_mask(0, 1, 5, 7, 300)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(values, compression_type="PLIO_1", name="N1")]).writeto(path)
    with fits.open(path, disable_image_compression=True, mode="update") as hdus:
        hdus[1].header["BSCALE"], hdus[1].header["BZERO"] = 1, 32768
    assert fits.getdata(path, 1).min() == 32768  # as astropy reads it, every pixel would be flagged
    np.testing.assert_array_equal(read_pixels(scan(path)[1], np.uint16), values)


@pytest.mark.parametrize("options", [["-p"], ["-p", "-w"], ["-r"], ["-g1"], ["-h"]], ids=" ".join)
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4"])
def test_masks_that_fpack_makes(options, dtype, tmp_path):
    if shutil.which("fpack") is None:
        pytest.skip("fpack is not installed")
    path, values = tmp_path / "m.fits", a_mask(0, 1, 5, 7, dtype=dtype)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(values, name="N1")]).writeto(path)
    subprocess.run(["fpack", *options, str(path)], check=True, capture_output=True)
    np.testing.assert_array_equal(read_pixels(scan(tmp_path / "m.fits.fz")[1], np.uint8), values)


def test_a_mask_that_was_quantised_holds_the_nearest_codes(tmp_path):
    values = a_mask(*[1, 5, 7, 3] * 10).astype(np.float32)
    quantised = fits.CompImageHDU(values, compression_type="RICE_1", name="N1", quantize_level=4, quantize_method=-1)
    fits.HDUList([fits.PrimaryHDU(), quantised]).writeto(tmp_path / "m.fits.fz")
    stored = fits.getdata(tmp_path / "m.fits.fz", 1)
    assert (stored.astype(int) != values).any()  # 4.98 is 5, not 4
    np.testing.assert_array_equal(read_pixels(scan(tmp_path / "m.fits.fz")[1], np.uint8), values)


# which pixels are left out


def test_mosaics_leave_out_the_codes_and_sky_what_is_no_sky_too(tmp_path):
    (n1,) = with_mask(tmp_path, {"N1": a_mask(*range(9))}).detectors
    rule = PixelRule.of(FieldConfig(field="F"))
    assert np.flatnonzero(n1.bad_pixels(rule)[0, :9]).tolist() == [1, 2, 5]
    assert np.flatnonzero(n1.bad_pixels(rule.of_sky)[0, :9]).tolist() == [1, 2, 3, 4, 5]
    none = PixelRule.of(FieldConfig(field="F", coadd=CoaddConfig(mask_codes=[])))
    assert n1.bad_pixels(none) is n1.bad_pixels(none.of_sky) is None


def test_an_amplifier_is_left_out_with_a_mask_and_without(tmp_path):
    exposure = with_mask(tmp_path, {"N1": a_mask(0, 5), "S7": a_mask(0, 5)})
    rule = PixelRule.of(FieldConfig(field="F", tiling=TilingConfig(leave_out=["s7.a", "N1.A"])))
    n1, s7 = (d.bad_pixels(rule) for d in exposure.detectors)
    assert n1[:, :24].all()
    assert not n1[:, 24:].any()
    assert s7[:, 24:].all()
    assert np.argwhere(s7[:, :24]).tolist() == [[0, 1]]
    exposure.detectors[0].mask.path.unlink()
    bare = Exposure.open(exposure.path).detectors[1].bad_pixels(rule)
    assert bare[:, 24:].all()
    assert not bare[:, :24].any()
