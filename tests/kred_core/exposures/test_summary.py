"""Detectors are measured once; what only pixels can show is found then."""

import numpy as np
import pytest
from astropy.io import fits
from mefs import CENTRE, detector_hdu

from kred_core.binned import BinnedGrid
from kred_core.config import CheckConfig, SummarizeConfig
from kred_core.exposures import check, summary
from kred_core.exposures.masks import PixelRule
from kred_core.survey import ImageTable

GRID = BinnedGrid(*CENTRE, 2.0)
NO_MASKS = PixelRule(())
SKY = np.random.default_rng(5).normal(300.0, 7.0, (64, 96)).astype(np.float32)


def write(path, images, mask=None, **cards):
    """A MEF with these images by EXTNAME, and an ood file where there is a mask; cards are added to each header."""
    hdus = [fits.PrimaryHDU(header=fits.Header({"FILTER": "r DECam", "EXPTIME": 60.0, "MAGZERO": 30.0, "OBSID": "o1"}))]
    for name, pixels in images.items():
        hdus.append(detector_hdu(name, pixels=pixels, storage=None, **cards))
    fits.HDUList(hdus).writeto(path)
    if mask is not None:
        masks = [fits.PrimaryHDU(), *(fits.CompImageHDU(mask, name=name, compression_type="GZIP_1") for name in images)]
        fits.HDUList(masks).writeto(path.with_name(path.name.replace("_ooi_", "_ood_")))
    return path


def measure(path, extnames, rule=summary.DEFAULT_RULE, **options):
    """What is measured, without the binned maps."""
    return summary.summarize(path, extnames, SummarizeConfig(**options), GRID, 1.0, rule)[0]


def test_statistics_are_those_of_the_unmasked_pixels(tmp_path):
    pixels, mask = SKY.copy(), np.zeros(SKY.shape, np.int16)
    pixels[10:20], mask[10:20] = 5000.0, 3
    path = write(tmp_path / "c4d_ooi_r.fits.fz", {"N1": pixels}, mask)
    measured = measure(path, ["N1"]).detectors[0]
    good = pixels[mask == 0].astype(np.float64)
    assert measured.n_pixels == good.size
    assert measured.mean == pytest.approx(good.mean(), rel=1e-7)
    assert measured.median == np.float32(np.median(good))
    assert measured.std == pytest.approx(good.std(), rel=1e-6)
    assert measured.noise == pytest.approx(7.0, rel=0.1)
    _, (binned_map,) = summary.summarize(path, ["N1"], SummarizeConfig(), GRID, 0.5)
    assert binned_map.count.sum() == measured.n_pixels
    assert binned_map.level == 0.5 * measured.histogram_mode
    mean = np.nansum(binned_map.mean * binned_map.count) / binned_map.count.sum() * binned_map.area
    assert abs(mean) < 0.5  # 300 ADU of sky are taken out
    whole, (bare,) = summary.summarize(path, ["N1"], SummarizeConfig(), GRID, 0.5, NO_MASKS)
    assert whole.detectors[0].n_pixels == bare.count.sum() == SKY.size
    assert whole.detectors[0].mean > measured.mean + 500


def test_clipping_leaves_the_mode_alone_and_saturated_pixels_are_in_no_map(tmp_path):
    pixels = SKY.copy()
    pixels[:4] = 4000.0
    path = write(tmp_path / "x.fits", {"N1": pixels}, SATURATA=3500.0, SATURATB=4600.0)
    measured, (binned_map,) = summary.summarize(path, ["N1"], SummarizeConfig(), GRID, 1.0)
    plain, clipped = measured.detectors[0], measure(path, ["N1"], clipped=True).detectors[0]
    assert plain.mean > 400
    assert clipped.mean == pytest.approx(300, abs=1)
    assert clipped.mode == plain.mode
    assert plain.n_pixels == binned_map.count.sum() + 4 * 96 == SKY.size
    assert np.nanmax(binned_map.mean) < 1000


def test_pixels_that_say_nothing_refuse_their_detector_only(tmp_path):
    few = np.full(SKY.shape, np.nan, np.float32)
    few[0, :50] = 1.0
    images = {"N1": SKY, "N2": SKY * np.nan, "N3": np.full_like(SKY, 7.0), "N4": few}
    result = measure(write(tmp_path / "x.fits", images), [*images, "S7"])
    assert [d.extname for d in result.detectors] == ["N1"]
    assert "all its pixels are NaN" in result.refused["N2"]
    assert "the same value 7" in result.refused["N3"]
    assert "only 50 of its" in result.refused["N4"]
    assert result.refused["S7"] == "it is no longer in the file; run check again"
    path = write(tmp_path / "c4d_ooi_r.fits.fz", {"N1": SKY}, np.full(SKY.shape, 3, np.int16))
    assert measure(path, ["N1"]).refused["N1"].endswith(f"; its mask: {SKY.size} saturated")


@pytest.mark.parametrize("code", [6, 7, 8])
def test_a_detector_whose_pixels_all_have_a_code_that_mosaics_use_is_measured(code, tmp_path):
    path = write(tmp_path / "c4d_ooi_r.fits.fz", {"N1": SKY}, np.full(SKY.shape, code, np.int16))
    measured, maps = summary.summarize(path, ["N1"], SummarizeConfig(), GRID, 1.0)
    assert measured.detectors[0].n_pixels == maps[0].count.sum() == SKY.size
    refused = measure(path, ["N1"], PixelRule((1, 2, 5, code))).refused["N1"]
    assert refused.startswith(f"only 0 of its {SKY.size} pixels are good (not NaN, not masked); its mask: {SKY.size} ")


def dead_pixels(kind):
    rng = np.random.default_rng(6)
    if kind == "read noise":
        return rng.normal(0, 2, SKY.shape).astype(np.float32)
    return np.where(rng.random(SKY.shape) < 0.01, rng.uniform(10, 5000, SKY.shape), 0).astype(np.float32)


@pytest.mark.parametrize("kind", ["read noise", "zeros and hot pixels"])
def test_a_detector_that_sees_nothing_beside_others_is_refused_and_has_no_map(kind, tmp_path):
    images = {"N1": SKY, "N2": SKY * 1.05, "N3": SKY[::-1] * 0.97, "S10": dead_pixels(kind)}
    path = write(tmp_path / "x.fits", images)
    measured, maps = summary.summarize(path, list(images), SummarizeConfig(), GRID, 1.0)
    assert [d.extname for d in measured.detectors] == [s.extname for s in maps] == ["N1", "N2", "N3"]
    assert list(measured.refused) == ["S10"]
    assert "ADU" in measured.refused["S10"]
    assert summary.bin_exposure(path, measured, GRID, 1.0)[-1].extname == "N3"


def test_two_detectors_that_cannot_both_be_right_stay_with_a_remark(tmp_path):
    path = write(tmp_path / "x.fits", {"N1": SKY, "S10": dead_pixels("read noise"), "N2": SKY * np.nan})
    measured = measure(path, ["N1", "S10", "N2"])
    assert list(measured.refused) == ["N2"]
    assert [d.extname for d in measured.detectors] == ["N1", "S10"]
    assert "one of the two is wrong" in measured.remarks[0]
    report = summary.combine(check.judge(path, CheckConfig(), {}), measured)
    assert measured.remarks[0] in report.remarks
    assert summary.ExposureSummary.from_record(measured.to_record()) == measured


def test_rows_hold_usable_detectors_and_the_factor_to_counts28(tmp_path):
    path = write(tmp_path / "x.fits", {"N1": SKY, "N2": SKY * np.nan})
    report = check.judge(path, CheckConfig(), {})
    measured = measure(path, report.extnames)
    reports = [summary.combine(report, measured), report.refuse("a test")]
    assert report.extnames == ("N1", "N2")
    assert reports[0].extnames == ("N1",)
    assert reports[0].remarks[-1].startswith("detector N2 refused: all its pixels are NaN")
    nothing = summary.combine(report, summary.ExposureSummary(report.root, (), {"N1": "dark", "N2": "dark"}))
    assert nothing.verdict == "refused"
    exposures = summary.exposure_rows(reports, ImageTable((("deep", "r", 60.0),)), "F")
    assert [(r["Root"], r["Image"], r["N_det"], r["Field"]) for r in exposures] == [("x", "deep", 1, "F")]
    assert exposures[0]["XFACTOR"] == pytest.approx(10**-0.8)
    detectors = summary.detector_rows(reports, {report.root: measured}, "F")
    assert [(r["EXTNAME"], r["NAXIS1"], r["NAXIS2"]) for r in detectors] == [("N1", 96, 64)]
    assert detectors[0]["Mode"] == measured.detectors[0].mode


def test_a_detector_without_a_map_is_measured_all_the_same(tmp_path, caplog):
    far = BinnedGrid((CENTRE[0] + 180) % 360, -CENTRE[1], 2.0)
    measured, maps = summary.summarize(write(tmp_path / "x.fits", {"N1": SKY}), ["N1"], SummarizeConfig(), far, 1.0)
    assert [d.extname for d in measured.detectors] == ["N1"]
    assert maps == []
    assert "x: detector N1 has no binned map and cannot be matched: it does not lie within 45 deg" in caplog.text
