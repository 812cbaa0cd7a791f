"""Whatever a file is called, and whatever one of its keywords says, an InstCal image is one and nothing else is."""

import os

import numpy as np
import pytest
from astropy.io import fits
from mefs import SHAPE, detector_hdu, sky_pixels, write_mef

from kred_core.products.roles import role_of

MASK = np.where(np.random.default_rng(3).random(SHAPE) < 0.03, 5, 0)
IMAGE = sky_pixels()
WEIGHT = (MASK == 0) / np.float32(64)
KEYS = {"PROCTYPE": None, "PRODTYPE": None}


def made(path, pixels, storage="RICE_1", **keys):
    """A file with these pixels, and these keywords in its primary header."""
    pixels = np.asarray(pixels, np.float32) if np.asarray(pixels).dtype.kind == "f" else np.asarray(pixels, np.int16)
    return write_mef(path, [detector_hdu("N1", pixels=pixels, storage=storage)], **KEYS | keys)


INSTCAL = {"PROCTYPE": "InstCal", "PRODTYPE": "image"}


@pytest.mark.parametrize("name", [
    "c4d_150411_035242_ooi_z_v1.fits.fz",
    "tu1234567.fits.fz",
    "c4d_150411_035242_ood_z_v1.fits.fz",
    "c4d_150411_035242_oki_z_v1.fits.fz",
])  # fmt: skip
def test_an_instcal_image_is_one_whatever_it_is_called(name, tmp_path):
    assert role_of(made(tmp_path / name, IMAGE, **INSTCAL)).kind == "image"


@pytest.mark.parametrize("values", [
    {},
    {"PROCTYPE": " instcal ", "PRODTYPE": "'image'"},
    {"PROCTYPE": "InstCal", "PRODTYPE": "image1"},
    {"PROCTYPE": "", "PRODTYPE": "unknown"},
    {"PRODTYPE": "image", "OBSTYPE": "object"},
])  # fmt: skip
@pytest.mark.parametrize("name", ["mine.fits", "c4d_150411_035242_ooi_z_v1.fits.fz"])
def test_the_headers_of_an_instcal_image_may_be_written_in_other_ways_or_say_nothing(name, values, tmp_path):
    assert role_of(made(tmp_path / name, IMAGE, **values)).kind == "image"


@pytest.mark.parametrize(("name", "values", "reason"), [
    ("a_ooi_r.fits.fz", {"PROCTYPE": "SkySub", "PRODTYPE": "image"}, "sky-subtracted (PROCTYPE SkySub)"),
    ("c4d_150411_035242_oki_z_v1.fits.fz", {"PRODTYPE": "image"}, "sky-subtracted (name code oki)"),
    ("c4d_150411_035242_OKI_z_v1.fits.fz", {}, "sky-subtracted (name code oki)"),
    ("x.fits.fz", {"PROCTYPE": "Resampled", "PRODTYPE": "image"}, "resampled (PROCTYPE Resampled)"),
    ("c4d_150411_035242_opi_z_v1.fits.fz", {}, "resampled (name code opi)"),
    ("c4d_150411_035242_osi_z_v1.fits.fz", {}, "stacked (name code osi)"),
    ("c4d_150411_035242_ori.fits.fz", {}, "raw (name code ori)"),
    ("c4d_150411_035242_zci_v1.fits.fz", {}, "calibration (name code zci)"),
    ("c4d_150411_035242_fci_z_v1.fits.fz", {"PROCTYPE": "InstCal"}, "calibration (name code fci)"),
    ("x.fits.fz", {"PROCTYPE": "InstCal", "OBSTYPE": "dome flat"}, "calibration (OBSTYPE dome flat)"),
    ("x_ooi_r.fits.fz", {"PROCTYPE": "raw"}, "raw (PROCTYPE raw)"),
    ("x_ooi_r.fits.fz", {"PROCTYPE": "Tiled"}, "another product (PROCTYPE Tiled)"),
    ("x_ooi_r.fits.fz", {"PROCTYPE": "InstCal", "PRODTYPE": "expmap"}, "another product (PRODTYPE expmap)"),
    ("c4d_150411_035242_ooe_z_v1.fits.fz", {}, "another product (name code ooe)"),
])  # fmt: skip
def test_other_products_are_named_for_what_they_are(name, values, reason, tmp_path):
    role = role_of(made(tmp_path / name, IMAGE, **values))
    assert (role.kind, role.reason) == ("other", reason)


def test_what_a_keyword_calls_instcal_and_the_name_sky_subtracted_is_judged_by_its_sky(tmp_path):
    name = "c4d_150411_035242_oki_z_v1.fits.fz"
    assert role_of(made(tmp_path / "a" / name, IMAGE - 1000, **INSTCAL)).reason == "sky-subtracted (name code oki)"
    assert role_of(made(tmp_path / "b" / name, IMAGE, **INSTCAL)).kind == "image"


@pytest.mark.parametrize("storage", ["RICE_1", "PLIO_1", None])
@pytest.mark.parametrize(("name", "values"), [
    ("c4d_150411_035242_ood_z_v1.fits.fz", INSTCAL),  # as real ones
    ("c4d_150411_035242_ood_z_v1.fits.fz", {}),
    ("x.fits", {"PRODTYPE": " DQMASK1"}),
    ("c4d_150411_035242_ooi_z_v1.fits.fz", INSTCAL),
    ("mine.fits.fz", {}),
])  # fmt: skip
def test_a_mask_is_one_whatever_it_is_called(name, values, storage, tmp_path):
    assert role_of(made(tmp_path / name, MASK, storage, **values)).kind == "mask"


def test_unsigned_integers_and_floats_can_be_a_mask(tmp_path):
    hdu = fits.CompImageHDU(MASK.astype(np.uint16), compression_type="GZIP_1", name="N1")
    assert role_of(write_mef(tmp_path / "a_ood_r.fits.fz", [hdu], **INSTCAL)).kind == "mask"
    assert role_of(made(tmp_path / "b_ood_r.fits.fz", MASK.astype(np.float32), None, **INSTCAL)).kind == "mask"
    assert role_of(made(tmp_path / "c.fits.fz", MASK.astype(np.float32), None, PRODTYPE="dqmask")).kind == "mask"


def test_integers_can_be_an_image(tmp_path):
    assert role_of(made(tmp_path / "a.fits.fz", IMAGE.astype(np.int16))).kind == "image"
    assert role_of(made(tmp_path / "b_ooi_r.fits.fz", IMAGE.astype(np.int16), **INSTCAL)).kind == "image"
    path = write_mef(tmp_path / "c.fits", [fits.ImageHDU(MASK.astype(np.int16), name="N1")], checksum=False)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        hdus[1].header["BSCALE"] = 0.25  # integers in the file alone
    assert role_of(path).kind == "image"


@pytest.mark.parametrize("pixels", [WEIGHT, IMAGE])
@pytest.mark.parametrize(("name", "values"), [
    ("c4d_150411_035242_oow_z_v1.fits.fz", {}),
    ("c4d_150411_035242_oow_z_v1.fits.fz", INSTCAL),
    ("wtmap0229388.fits.fz", {"PROCTYPE": "InstCal", "PRODTYPE": "wtmap"}),
    ("a_ooi_r.fits.fz", {"PROCTYPE": "InstCal", "PRODTYPE": "WTMAP"}),
])  # fmt: skip
def test_a_weight_is_no_exposure(name, values, pixels, tmp_path):
    assert role_of(made(tmp_path / name, pixels, **values)).kind == "weight"
    assert role_of(made(tmp_path / "c4d_150411_035242_okw_z_v1.fits.fz", WEIGHT)).kind == "other"


def test_keywords_may_stand_in_the_first_extension(tmp_path):
    hdu = detector_hdu("N1", PROCTYPE="SkySub")
    assert role_of(write_mef(tmp_path / "x.fits.fz", [hdu])).reason == "sky-subtracted (PROCTYPE SkySub)"


def test_tables_and_empty_extensions_before_the_first_image_do_not_hide_it(tmp_path):
    table = fits.BinTableHDU(np.zeros(3, [("a", int)]), name="CATALOG")
    mask = fits.CompImageHDU(MASK.astype(np.int32), compression_type="GZIP_1", name="N1")
    assert role_of(write_mef(tmp_path / "x.fits.fz", [table, fits.ImageHDU(name="EMPTY"), mask])).kind == "mask"


@pytest.mark.parametrize(("name", "kind"), [
    ("c4d_150411_035242_oki_z_v1.fits.fz", "other"),
    ("c4d_150411_035242_ood_z_v1.fits.fz", "mask"),
    ("c4d_150411_035242_oow_z_v1.fits.fz", "weight"),
    ("c4d_150411_035242_ooi_z_v1.fits.fz", "image"),
    ("mine.fits", "image"),
])  # fmt: skip
def test_what_cannot_be_read_is_what_its_name_says(name, kind, tmp_path):
    path = tmp_path / name
    assert role_of(path).kind == kind  # vanished
    for content in (b"", b"no FITS", 6000 * b" "):
        path.write_bytes(content)
        assert role_of(path).kind == kind
    path.unlink()
    os.mkfifo(path)
    assert role_of(path).kind == kind
    path.unlink()
    path.mkdir()
    assert role_of(path).kind == kind


def test_of_a_truncated_file_the_primary_header_is_enough(tmp_path):
    path = made(tmp_path / "x.fits.fz", IMAGE, PROCTYPE="SkySub")
    with open(path, "r+b") as f:
        f.truncate(2880 * 3)
    assert role_of(path).reason == "sky-subtracted (PROCTYPE SkySub)"


def test_the_real_files_are_what_their_names_say(real_decam):
    found = {path.name: role_of(path).kind for path in real_decam.glob("*/mef/*")}
    assert len(found) == 43
    assert found == {name: "mask" if "_ood_" in name else "image" for name in found}
