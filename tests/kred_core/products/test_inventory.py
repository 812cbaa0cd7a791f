"""Each exposure gets the mask that carries its keys, and what else lies beside the exposures is named."""

import numpy as np
import pytest
from mefs import SHAPE, detector_hdu, sky_pixels, write_mef

from kred_core.config import CheckConfig
from kred_core.errors import InputError
from kred_core.exposures.check import judge
from kred_core.products import FieldPaths, roles
from kred_core.products.roles import mask_of

FLAGS = np.where(np.random.default_rng(3).random(SHAPE) < 0.03, 5, 0).astype(np.int16)
FIRST = {"OBSID": "ct4m20160101t010101", "EXPNUM": 1001, "MJD-OBS": 57388.05}
SECOND = {"OBSID": "ct4m20160101t020202", "EXPNUM": 1002, "MJD-OBS": 57388.09}
NO_MASK = "no mask: bad pixels and cosmic rays stay in it"


@pytest.fixture
def field(tmp_path):
    """A field's directory, and files in it: image("a_ooi_r.fits.fz", FIRST), mask("a_ood_r.fits.fz", FIRST)."""
    paths = FieldPaths(tmp_path, "LMC_c42")

    class Field:
        mef = paths.mef
        exposures, left_out = paths.exposures, paths.left_out

        @staticmethod
        def mask(name, keys, pixels=FLAGS, extnames=("N1",), **changes):
            hdus = [detector_hdu(extname, pixels=pixels) for extname in extnames]
            return write_mef(paths.mef / name, hdus, **{"PROCTYPE": "InstCal", "PRODTYPE": "image"} | keys | changes)

        @classmethod
        def image(cls, name, keys, **changes):
            return cls.mask(name, keys, sky_pixels(int(keys.get("EXPNUM") or 0)), **changes)

    return Field


# which mask


def test_masks_are_found_by_their_keys_where_names_say_nothing(field):
    images = [field.image(f"instcal000000{i}.fits.fz", keys) for i, keys in enumerate((FIRST, SECOND))]
    masks = [field.mask(f"dqmask000000{7 - i}.fits.fz", keys, PRODTYPE="dqmask") for i, keys in enumerate((FIRST, SECOND))]
    weight = field.image("wtmap0000004.fits.fz", FIRST, PRODTYPE="wtmap")
    assert [mask_of(image) for image in images] == [(mask, "") for mask in masks]
    assert field.exposures() == images
    assert field.left_out() == [(weight.name, "weight (PRODTYPE wtmap)")]


@pytest.mark.parametrize("known", [["OBSID"], ["EXPNUM"], ["MJD-OBS"], ["DATE-OBS"]])
def test_one_key_is_enough(known, field):
    dates = ({"DATE-OBS": "2016-01-01T01:01:01.5"}, {"DATE-OBS": "2016-01-01T02:02:02.5"})
    first, second = (
        {key: value if key in known else None for key, value in (keys | date).items()}
        for keys, date in zip((FIRST, SECOND), dates, strict=True)
    )
    images = [field.image(f"{name}.fits", keys) for name, keys in (("a", first), ("b", second))]
    masks = [field.mask(f"{name}.fits", keys) for name, keys in (("y", first), ("x", second))]
    assert [mask_of(image)[0] for image in images] == masks


def test_a_number_in_another_form_is_the_same_number(field):
    image, mask = (make(name, dict.fromkeys(FIRST) | {"EXPNUM": number}) for make, name, number in (
        (field.image, "a.fits", "1001"), (field.mask, "b.fits", 1001.0)
    ))  # fmt: skip
    assert mask_of(image) == (mask, "")


@pytest.mark.parametrize("nothing", [{}, {"OBSID": "unknown", "EXPNUM": 0, "MJD-OBS": "NaN", "DATE-OBS": "2016-01-01"}])
def test_the_name_decides_where_keys_do_not(nothing, field):
    keys = dict.fromkeys((*FIRST, "DATE-OBS")) | nothing
    images = [field.image(f"{name}_ooi_r.fits.fz", keys) for name in "ab"]
    masks = [field.mask(f"{name}_ood_r.fits.fz", keys) for name in "ab"]
    assert [mask_of(image) for image in images] == [(mask, "") for mask in masks]
    assert mask_of(field.image("c.fits.fz", keys)) == (None, NO_MASK)


def test_a_mask_without_keys_belongs_to_the_image_of_its_name(field):
    mask = field.mask("a_ood_r.fits.fz", dict.fromkeys(FIRST))
    assert mask_of(field.image("a_ooi_r.fits.fz", FIRST)) == (mask, "")


@pytest.mark.parametrize("key", ["OBSID", "EXPNUM"])
def test_the_mask_of_another_exposure_is_not_used_and_that_is_said(key, field):
    image = field.image("a_ooi_r.fits.fz", FIRST)
    field.mask("a_ood_r.fits.fz", FIRST | {key: SECOND[key]})
    assert mask_of(image) == (None, f"a_ood_r.fits.fz is the mask of another exposure: not used; {NO_MASK}")
    assert field.left_out() == [("a_ood_r.fits.fz", "mask (name code ood) of no InstCal image that is here")]
    report = judge(image, CheckConfig(), {})
    assert (report.verdict, report.remarks[-1]) == ("usable", mask_of(image)[1])


def test_masks_whose_names_were_exchanged_are_used_by_their_keys(field):
    first, second = field.image("a_ooi_r.fits.fz", FIRST), field.image("b_ooi_r.fits.fz", SECOND)
    of_second, of_first = field.mask("a_ood_r.fits.fz", SECOND), field.mask("b_ood_r.fits.fz", FIRST)
    assert mask_of(first) == (of_first, "a_ood_r.fits.fz is the mask of another exposure: not used; its mask is b_ood_r.fits.fz")
    assert mask_of(second)[0] == of_second


def test_an_exposure_without_a_mask_is_told_of_where_others_have_one(field):
    bare, whole = field.image("a_ooi_r.fits.fz", FIRST), field.image("b_ooi_r.fits.fz", SECOND)
    assert mask_of(bare) == (None, "")
    field.mask("b_ood_r.fits.fz", SECOND)
    assert mask_of(bare) == (None, NO_MASK)
    assert mask_of(whole)[1] == ""
    assert judge(bare, CheckConfig(), {}).verdict == "usable"


def test_the_mask_of_the_same_version_comes_before_that_of_the_same_name(field):
    image = field.image("a_ooi_r.fits.fz", FIRST, PLVER="V5.5")
    old = field.mask("a_ood_r.fits.fz", FIRST, PLVER="V3.6.1")
    assert mask_of(image) == (old, "mask of another version of the pipeline: a_ood_r.fits.fz is of V3.6.1, the image of V5.5")
    own = field.mask("z.fits.fz", FIRST, PLVER="V5.5")
    assert mask_of(image) == (own, "")


@pytest.mark.parametrize("changes", [{"pixels": FLAGS[:-4]}, {"extnames": ("N2",)}])
def test_the_mask_of_another_version_with_other_detectors_is_not_used(changes, field):
    image = field.image("a_ooi_r.fits.fz", FIRST, PLVER="V5.5")
    field.mask("a_ood_r.fits.fz", FIRST, PLVER="V3.6.1", **changes)
    found, remark = mask_of(image)
    assert found is None
    assert remark == "no mask: a_ood_r.fits.fz is of V3.6.1, the image of V5.5, and its detectors have other sizes"
    assert judge(image, CheckConfig(), {}).extnames == ("N1",)


def test_an_image_under_a_masks_name_is_no_mask(field):
    a, b = field.image("a_ooi_r.fits.fz", FIRST), field.image("a_ood_r.fits.fz", SECOND)
    mask = field.mask("c.fits.fz", FIRST)
    assert field.exposures() == [b, a]
    assert mask_of(a) == (mask, "")


# what is left out


def test_a_field_of_other_products_alone_is_told_what_they_are(field):
    for i in range(7):
        field.image(f"c4d_15041{i}_035242_ooi_z_v1.fits.fz", FIRST, PROCTYPE="SkySub")
    field.image("s.fits", FIRST, PROCTYPE="Stacked")
    field.mask("m.fits", FIRST)
    with pytest.raises(InputError) as error:
        field.exposures()
    message = str(error.value)
    assert message.startswith(f"field LMC_c42: no *.fits.fz exposure in {field.mef}; what lies there is left out: ")
    assert "sky-subtracted (PROCTYPE SkySub): c4d_150410_035242_ooi_z_v1.fits.fz, " in message
    assert "c4d_150414_035242_ooi_z_v1.fits.fz and 2 more" in message
    assert "stacked (PROCTYPE Stacked): s.fits" in message
    assert message.endswith("; only InstCal images (ooi) are taken")


def test_sky_subtracted_files_beside_instcal_ones_are_left_out_and_their_common_mask_is_not(field):
    image, mask = field.image("a_ooi_r.fits.fz", FIRST), field.mask("a_ood_r.fits.fz", FIRST)
    other = field.image("a_oki_r.fits.fz", FIRST, PROCTYPE="SkySub")
    (field.mef / "notes.txt").touch()
    assert field.exposures() == [image]
    assert mask_of(image) == (mask, "")
    assert field.left_out() == [(other.name, "sky-subtracted (PROCTYPE SkySub)"), ("notes.txt", "no *.fits.fz or *.fits")]


# how often files are looked at


def test_the_mask_of_the_same_name_is_found_without_a_look_at_the_other_files(field, monkeypatch):
    image, mask = field.image("a_ooi_r.fits.fz", FIRST), field.mask("a_ood_r.fits.fz", FIRST)
    monkeypatch.setattr(roles, "inventory", None)
    assert mask_of(image) == (mask, "")


# real files


def test_the_real_exposures_have_the_masks_that_lie_beside_them(real_decam):
    fields = [FieldPaths(real_decam.parent, name) for name in ("LS_T3", "LS_T4", "LS_T12")]
    found = {image.name: mask_of(image) for field in fields for image in field.exposures()}
    assert all(mask for mask, _ in found.values())
    remarked = {name: (mask.name, remark) for name, (mask, remark) in found.items() if remark}
    assert set(remarked) == {
        "c4d_140818_232043_ooi_z_v2.fits.fz",
        "c4d_150329_083320_ooi_r_v1.fits.fz",
        "c4d_150329_083505_ooi_g_v1.fits.fz",
        "c4d_150412_073257_ooi_z_v1.fits.fz",
    }
    assert remarked["c4d_140818_232043_ooi_z_v2.fits.fz"] == (
        "c4d_140818_232043_ood_z_ls9.fits.fz",
        "mask of another version of the pipeline: c4d_140818_232043_ood_z_ls9.fits.fz is of V4.8.2a, the image of V3.3.0",
    )
