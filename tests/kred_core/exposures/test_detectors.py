"""A CCD that lies where the camera cannot have it, or does not see what the others see, is noticed; one that may be right not."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from astropy.io import fits

from kred_core.config import CheckConfig
from kred_core.exposures import detectors
from kred_core.exposures.check import judge
from kred_core.simulate import simulate_field

BINNING = 16
ARCSEC = 1 / (0.2623 * BINNING)  # pixels


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """One exposure of eight CCDs, of all parts of the focal plane, the camera somewhat turned by the seed."""
    names = ["S29", "S31", "S13", "S4", "N4", "N7", "N14", "N30"]
    root = tmp_path_factory.mktemp("plane")
    return simulate_field(root, bands=["N662"], exposures=[1], binning=BINNING, detectors=names, seed=5).files[0]


@pytest.fixture
def copy(simulated, tmp_path):
    """A copy whose extensions can be changed: ``copy(S13=change)`` calls change with the header of S13."""

    def make(only=None, primary=None, **changes):
        path = Path(shutil.copy(simulated, tmp_path))
        with fits.open(path, disable_image_compression=True) as hdus:
            if primary:
                primary(hdus[0].header)
            for hdu in hdus[1:]:
                for name in ("all", hdu.name):
                    changes.get(name, lambda header: None)(hdu.header)
            kept = fits.HDUList([hdus[0], *(h for h in hdus[1:] if only is None or h.name in only)])
            kept.writeto(path, overwrite=True)
        return path

    return make


def judged(path):
    """Detectors that can be used, the reasons of those that cannot, and what is said of places."""
    report = judge(path, CheckConfig(verify_checksums=False), {})
    assert not report.refused
    return set(report.extnames), dict(report.lost), [r for r in report.remarks if "focal plane" in r]


def moved(**by):
    def change(header):
        for key, value in by.items():
            header[key] += value

    return change


@pytest.mark.parametrize(("name", "key"), [("S29", "CRPIX1"), ("N4", "CRPIX2"), ("N30", "CRVAL2")])
def test_a_ccd_34_arcsec_off_is_named_and_no_other(copy, name, key):
    by = 34 * ARCSEC if key.startswith("CRPIX") else -34 / 3600
    names, lost, said = judged(copy(**{name: moved(**{key: by})}))
    assert name in names
    assert lost == {}
    assert said == [f"detector {name} lies 34 arcsec from where the focal plane has it; its WCS may be wrong"]
    if name == "N4":
        assert judged(copy(only=["S4", "N4"], N4=moved(CRPIX2=by)))[2] == said


def test_a_ccd_that_is_far_away_or_on_the_other_side_of_the_sky_is_refused(copy):
    def opposite(header):
        header["CRVAL1"], header["CRVAL2"] = (header["CRVAL1"] + 180) % 360, -header["CRVAL2"]

    names, lost, said = judged(copy(S13=moved(CRPIX2=400 * ARCSEC), N14=opposite))
    assert set(lost) == {"S13", "N14"}
    assert lost["S13"] == "its WCS puts it 400 arcsec from where the focal plane has it"
    assert len(names) == 6
    assert [s for s in said if "refused" not in s] == []


def around_its_centre(header):
    """Say the same with a reference point of the CCD's own, as programs write that solve each CCD by itself."""
    ra, dec = header["CENRA1"], header["CENDEC1"]
    nx, ny = header["ZNAXIS1"], header["ZNAXIS2"]
    for key in [k for k in header if k.startswith("PV")]:
        del header[key]
    header["CRVAL1"], header["CRVAL2"], header["CRPIX1"], header["CRPIX2"] = ra, dec, (nx + 1) / 2, (ny + 1) / 2
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"


FAULTLESS = {
    "as it is": {},
    "pointing offset of 10 arcmin": {"all": moved(CRVAL2=10 / 60)},
    "pointing that the reference points do not say": {"all": moved(CRPIX1=300 * ARCSEC, CRPIX2=-200 * ARCSEC)},
    "each with a reference point of its own": {"all": around_its_centre},
}


@pytest.mark.parametrize("name", FAULTLESS)
def test_nothing_is_said_of_an_exposure_without_fault(copy, name):
    names, lost, said = judged(copy(**FAULTLESS[name]))
    assert (len(names), lost, said) == (8, {}, [])


def test_a_ccd_of_another_camera_or_with_another_number_is_not_judged(copy):
    off = {"S13": moved(CRPIX1=34 * ARCSEC)}
    assert judged(copy(primary=lambda header: header.set("INSTRUME", "Mosaic3"), **off))[2] == []
    assert judged(copy(S13=lambda header: (header.set("CCDNUM", 99), off["S13"](header))))[2] == []
    assert len(judged(copy(**off))[2]) == 1
    assert judged(copy(only=["S13"], **off)) == ({"S13"}, {}, [])  # of one CCD alone nothing is known


def cut(x0, y0, nx, ny):
    """Cut an image that is stored without compression."""

    def change(hdu):
        data = hdu.data[y0 : y0 + ny, x0 : x0 + nx].copy()
        header = hdu.header.copy()
        header["CRPIX1"] -= x0
        header["CRPIX2"] -= y0
        return fits.ImageHDU(data, header, name=hdu.name)

    return change


@pytest.mark.parametrize("off", [0.0, 34.0])
def test_cut_outs_may_lie_anywhere_within_their_ccd(simulated, tmp_path, off):
    with fits.open(simulated) as hdus:
        cuts = [cut(3 * i, 20 * i, 40, 60)(hdu) for i, hdu in enumerate(hdus[1:])]
        cuts[0].header["CRPIX1"] += off * ARCSEC  # cut at column 0: now it sticks out
        fits.HDUList([hdus[0].copy(), *cuts]).writeto(tmp_path / "a_ooi_N662_v1.fits")
    names, lost, said = judged(tmp_path / "a_ooi_N662_v1.fits")
    assert (len(names), lost) == (8, {})
    assert len(said) == (off > 0)


def test_nothing_is_said_of_real_cut_outs(real_decam):
    paths = sorted(real_decam.glob("*/mef/*_ooi_*"))
    assert len(paths) > 20
    for path in paths:
        remarks = judge(path, CheckConfig(verify_checksums=False), {}).remarks
        assert not [r for r in remarks if "focal plane" in r], path.name


# beside the others


@dataclass
class Seen:
    extname: str
    histogram_mode: float
    noise: float


def compared(*odd, n=5, level=3000.0, noise=30.0):
    """What is said of detectors (level, noise), D1 and on, beside n - len(odd) ordinary ones."""
    ordinary = [Seen(f"N{i}", level * (1 + 0.01 * i), noise * (1 + 0.005 * i)) for i in range(n - len(odd))]
    return detectors.judge_levels([*ordinary, *(Seen(f"D{i}", *numbers) for i, numbers in enumerate(odd, 1))])


@pytest.mark.parametrize("n", [3, 60])
def test_a_detector_far_from_the_others_is_refused(n):
    for level, noise in (
        (0.01, 2.0),  # read noise around 0
        (30.0, 3.0),  # a hundredth of the light
        (-500.0, 30.0),
        (3000.0, 3.0),  # the right level, a tenth of the noise
        (3000.0, 300.0),
        (60000.0, 5.0),  # stuck, and quiet
        (400000.0, 600.0),
    ):
        refused, remarks = compared((level, noise), n=n)
        assert list(refused) == ["D1"]
        assert f"{level:.5g}" in refused["D1"]
        assert f"of the {n} detectors of this exposure" in refused["D1"]
        assert remarks == []
    assert sorted(compared((0.0, 2.0), (0.3, 2.1))[0]) == ["D1", "D2"]


@pytest.mark.parametrize(("level", "noise"), [(90000.0, 164.0), (400.0, 11.0), (3000.0, 60.0)])
def test_nebulae_vignetting_and_crowds_are_no_faults(level, noise):
    assert compared((level, noise)) == ({}, [])
    assert compared((3000.0, 30.0), (3100.0, 31.0), level=20000.0, noise=78.0) == ({}, [])  # the dark rest beside a large nebula


def test_where_the_sky_is_near_zero_levels_have_no_ratio():
    for level in (-20.0, 0.0, 80.0):
        assert compared((level, 31.0), level=1.0) == ({}, [])
    assert list(compared((3.0, 0.4), level=6.0, noise=3.0)[0]) == ["D1"]  # its noise has


def test_of_two_detectors_nobody_can_tell_which_is_wrong():
    refused, remarks = detectors.judge_levels([Seen("N4", 3000.0, 30.0), Seen("S10", 0.01, 2.0)])
    assert refused == {}
    (remark,) = remarks
    assert all(word in remark for word in ("N4", "S10", "3000", "one of the two is wrong"))
    assert detectors.judge_levels([Seen("N4", 3000.0, 30.0), Seen("S10", 9000.0, 52.0)]) == ({}, [])
    assert detectors.judge_levels([]) == detectors.judge_levels([Seen("N4", 0.01, 2.0)]) == ({}, [])  # nobody to compare with


def test_a_detector_without_noise_sees_nothing_however_many_there_are():
    for others in ([], [Seen("N4", 3000.0, 30.0)], [Seen("N4", 3000.0, 30.0), Seen("N5", 3000.0, 30.0)]):
        refused, remarks = detectors.judge_levels([*others, Seen("S10", 0.0, 0.0)])
        assert refused == {"S10": "its pixels do not differ from their neighbours: it sees no sky (its level is 0 ADU)"}
        assert remarks == []
    assert "its noise is not known" in detectors.judge_levels([Seen("S10", 5.0, float("nan"))])[0]["S10"]
