"""The ways in which people write one WCS, and who reads them how: right, as SWarp does, or refused with the reason."""

import subprocess
from shutil import which

import numpy as np
import pytest
from astropy.io import fits

from kred_core import sky
from kred_core.errors import ExposureError
from kred_core.sky import Grid

SIZE = 200
STAR = (60, 100)  # pixel, from 0
LINEAR = {"PV1_0": 1.2e-5, "PV1_1": 1.00031, "PV1_2": -2.1e-4, "PV2_0": -3e-5, "PV2_1": 0.99987, "PV2_2": 1.7e-4}
CUBIC = LINEAR | {"PV1_4": 0.1, "PV1_7": -2.0, "PV2_4": 0.1, "PV2_7": -3.0}
UNITY = {"PV1_1": 1.0, "PV2_1": 1.0}
NO_CD = dict.fromkeys(("CD1_1", "CD1_2", "CD2_1", "CD2_2"))


def header(code, pv=None, **cards):
    """A cut-out far from its reference pixel, where a distortion shows; cards of None are left out."""
    values = {"CTYPE1": f"RA---{code}", "CTYPE2": f"DEC--{code}", "CUNIT1": "deg", "CUNIT2": "deg"}
    values |= {"CRVAL1": 81.789, "CRVAL2": -66.4538, "CRPIX1": 1229.0, "CRPIX2": 92.0, "RADESYS": "ICRS", "EQUINOX": 2000.0}
    values |= {"CD1_1": 0.0, "CD1_2": 7.287e-5, "CD2_1": -7.287e-5, "CD2_2": 0.0}
    found = fits.Header()
    for key, value in (values | (pv or {}) | cards).items():
        if value is not None:
            found[key] = value
    return found


def place(of):
    """RA and Dec of the star."""
    return sky.celestial_wcs(of).wcs_pix2world([STAR], 0)[0]


def arcsec(a, b):
    return np.degrees(np.linalg.norm(sky.unit_vectors(*a) - sky.unit_vectors(*b))) * 3600


# Each with the header that says the same in the way of the standard.
SAME = {
    "SCAMP's TAN, the identity": (header("TAN", UNITY), header("TAN")),
    "SCAMP's TAN, of degree 1": (header("TAN", LINEAR), header("TPV", LINEAR)),
    "SCAMP's TAN, of degree 3": (header("TAN", CUBIC), header("TPV", CUBIC)),
    "SCAMP's TAN, its higher terms zero": (header("TAN", UNITY | {"PV1_5": 0.0, "PV2_5": 0.0}), header("TAN")),
    "TAN with zeros": (header("TAN", {"PV1_0": 0.0, "PV1_1": 0.0, "PV2_1": 0.0}), header("TAN")),
    "TPV without PV": (header("TPV"), header("TAN")),
    "TPV with zeros": (header("TPV", {"PV1_1": 0.0, "PV2_1": 0.0}), header("TAN")),
    "TPV, texts": (header("TPV", {"PV1_1": "1.0", "PV2_1": "1.0", "PV1_4": "1E-9"}), header("TAN")),
    "TPV, turned pole": (header("TPV", LONPOLE=170.0), header("TAN", LONPOLE=170.0)),
    "older name of LONPOLE": (header("TAN", LONGPOLE=170.0), header("TAN", LONPOLE=170.0)),
    "numbers as texts": (header("TAN", CD1_2="7.287e-5", CRVAL1="81.789", CRPIX1="1229."), header("TAN")),
    "RA below zero": (header("TAN", CRVAL1=81.789 - 360), header("TAN")),
    "RA above a turn": (header("TAN", CRVAL1=81.789 + 360), header("TAN")),
    "units in words": (header("TAN", CUNIT1="DEGREES", CUNIT2=None), header("TAN")),
    "FK5 J2000, as text": (header("TAN", RADESYS="FK5", EQUINOX="2000.0"), header("TAN")),
    "ICRS has no equinox": (header("TAN", EQUINOX=2021.5), header("TAN")),
    "PC and CDELT": (
        header("TAN", **NO_CD, CDELT1=-7.287e-5, CDELT2=8e-5, PC1_1=0.0, PC1_2=-1.0, PC2_1=-0.9, PC2_2=0.1),
        header("TAN", CD1_2=7.287e-5, CD2_1=-7.2e-5, CD2_2=8e-6),
    ),
    "CD before PC, CDELT and CROTA2": (
        header("TAN", PC1_1=1.0, PC2_2=1.0, CDELT1=1e-4, CDELT2=1e-4, CROTA2=30.0),
        header("TAN"),
    ),
    "CROTA2": (
        header("TAN", **NO_CD, CDELT1=-7.287e-5, CDELT2=7.287e-5, CROTA2=90.0),
        header("TAN", CD1_2=-7.287e-5, CD2_1=-7.287e-5),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_what_says_the_same_is_read_alike(name):
    written, standard = SAME[name]
    assert arcsec(place(written), place(standard)) < 1e-6


def test_the_distortion_of_these_cases_shows():
    assert arcsec(place(header("TPV", LINEAR)), place(header("TAN"))) > 0.1
    assert arcsec(place(header("TPV", CUBIC)), place(header("TPV", LINEAR))) > 0.2


REFUSED = {
    "only PV1_1": (header("TPV", {"PV1_1": 1.0}), "it is TPV with PV1_1 and without PV2_1: the distortion is not complete"),
    "only the first axis": (header("TPV", {"PV1_0": 1e-5, "PV1_1": 1.0}), "it is TPV with PV1_0, PV1_1 and without PV2_1"),
    "only a shift": (header("TAN", {"PV1_0": 1e-3, "PV2_0": -3e-3}), "it is TAN with PV1_0, PV2_0 and without PV1_1 and PV2_1"),
    "the standard's poles of TAN": (header("TAN", {"PV1_3": 180.0, "PV1_4": -66.4538}), "what the standard means by these SWarp"),
    "the standard's reference point of TAN": (header("TAN", {"PV1_1": 0.0, "PV1_2": 90.0}), "what the standard means by these"),
    "too many terms": (header("TPV", UNITY | {"PV1_40": 1.0}), "TPV"),
    "distortion of another projection": (header("SIN", {"PV2_7": 0.1}), "it is SIN and has the distortion of TPV"),
    "tables of TNX": (header("TNX"), "its axes are RA---TNX and DEC--TNX, expected one projection of AIT, ARC"),
    "something behind TAN": (header("TAN-TPV"), "RA---TAN-TPV"),
    "two projections": (header("TAN", CTYPE2="DEC--TPV"), "its axes are RA---TAN and DEC--TPV"),
    "SIP": (header("TAN-SIP"), "SIP"),
    "SIP without its name": (header("TAN", A_ORDER=2, A_2_0=1e-6), "SIP"),
    "Dec first": (header("TAN", CTYPE1="DEC--TAN", CTYPE2="RA---TAN"), "its axes are DEC--TAN and RA---TAN"),
    "galactic": (header("TAN", CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN"), "its axes are GLON-TAN"),
    "sexagesimal": (header("TAN", CRVAL1="05:27:09.36"), "CRVAL1 is not a finite number"),
    "half a CD matrix": (header("TAN", CD1_1=None, CD2_2=None), "CD1_1 is missing"),
    "old PC matrix": (header("TAN", **NO_CD, CDELT1=-7e-5, CDELT2=7e-5, PC001001=0.0, PC001002=1.0), "it has PC001001"),
    "old projection parameters": (header("TAN", PROJP1=1.0), "it has PROJPn"),
    "FK4": (header("TAN", RADESYS="FK4", EQUINOX=1950.0), "its coordinates are FK4 1950.0"),
    "equinox by its older name": (header("TAN", RADESYS="FK5", EQUINOX=None, EPOCH=1950.0), "its coordinates are FK5 1950.0"),
    "equinox of the date": (header("TAN", RADESYS=None, EQUINOX=None, EPOCH=2015.3), "its coordinates are 2015.3"),
    "equinox in words": (header("TAN", RADESYS="FK5", EQUINOX="J2000"), "EQUINOX is not a finite number"),
    "nothing": (fits.Header(), "CTYPE1 or CTYPE2 is missing"),
    "no RA": (header("TAN", CRVAL1=None), "CRVAL1 is missing"),
    "Dec beyond the pole": (header("TAN", CRVAL2=-91.0), "CRVAL2 is -91"),
    "arcsec": (header("TAN", CUNIT1="arcsec"), "CUNIT1 is arcsec, expected deg"),
    "no scale": (header("TAN", **NO_CD), "neither a CD matrix nor CDELT1 and CDELT2"),
    "singular CD matrix": (header("TAN", CD1_1=7.287e-5, CD2_2=-7.287e-5), "its CD matrix is singular"),
    "CDELT of 0": (header("TAN", **NO_CD, CDELT1=0.0, CDELT2=1e-4), "its CDELT is singular"),
    "distortion in words": (header("TAN", {"PV1_1": "x"}), "PV1_1 is not a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_with_the_reason(name):
    written, reason = REFUSED[name]
    with pytest.raises(ExposureError, match=r"^has no usable WCS: ") as caught:
        sky.celestial_wcs(written)
    assert reason in str(caught.value)


READ_ALIKE = {name: written for name, (written, _) in SAME.items()} | {
    "TPV": header("TPV", CUBIC),
    "TPV, terms in r": header("TPV", UNITY | {"PV1_3": 0.01, "PV1_11": 0.2, "PV2_23": 5000.0}),
    "SIN": header("SIN", {"PV2_1": 0.1, "PV2_2": 0.05}),
    "ZPN": header("ZPN", {"PV2_1": 1.0, "PV2_3": 0.1}),
    **{code: header(code) for code in ("AIT", "ARC", "CAR", "CEA", "MER", "STG", "ZEA")},
    "AZP": header("AZP", {"PV2_1": 1.5}),
}


@pytest.mark.parametrize("name", READ_ALIKE)
def test_swarp_puts_the_star_where_kred_does(tmp_path, name):
    program = which("SWarp") or which("swarp")
    if not program:
        pytest.skip("SWarp is not installed")
    pixels = np.full((SIZE, SIZE), 1e-3, np.float32)
    pixels[STAR[1], STAR[0]] = 1000.0
    fits.PrimaryHDU(pixels, READ_ALIKE[name]).writeto(tmp_path / "in.fits")
    ours = place(READ_ALIKE[name])
    command = [program, "in.fits", "-CENTER_TYPE", "MANUAL", "-CENTER", f"{ours[0] % 360:.8f},{ours[1]:.8f}", "-IMAGE_SIZE", "101"]
    command += ["-PIXELSCALE_TYPE", "MANUAL", "-PIXEL_SCALE", "0.27", "-SUBTRACT_BACK", "N", "-WRITE_XML", "N", "-NTHREADS", "1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    theirs = fits.getdata(tmp_path / "coadd.fits")
    assert theirs.max() > 100
    y, x = np.unravel_index(theirs.argmax(), theirs.shape)
    grid = sky.tan_wcs(Grid(ours[0] % 360, ours[1], 0.27, 101, 101))
    assert arcsec(grid.wcs_pix2world([[x, y]], 0)[0], ours) < 0.3  # a pixel
