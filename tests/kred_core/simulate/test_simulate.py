"""Simulated fields: what their files say about the sky, against astropy and against truths computed here."""

import filecmp
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.stats import mad_std
from astropy.table import Table
from astropy.wcs import WCS, FITSFixedWarning

from kred_core.errors import ConfigError, InputError
from kred_core.fits.compress import compressed_image
from kred_core.products import FieldPaths
from kred_core.simulate import FAULTS, SimulationConfig, diffuse_brightness, simulate_field, sky_brightness
from kred_core.simulate.__main__ import main
from kred_core.simulate.exposures import offset_and_step, plan, primary_header
from kred_core.survey import field_centre

EMPTY_SKY = {"nebula": 0, "continuum": 0, "star_density": 0, "gradient": 0, "offsets": 0, "cosmic_rays": 0}
NOISELESS = {**EMPTY_SKY, "noise": False}
SMALL_FIELD = {"tiles": ["T07"], "n_detectors": 6, "bands": ["N662", "r"], "exposures": 2, "binning": 32}
ONE = {"bands": ["N662"], "exposures": 1, "n_detectors": 1, "binning": 16}


def wcs_of(header):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(header)


def pixel_areas(wcs, x, y):
    """Areas in square arcsec of the pixels at FITS coordinates x, y, from spherical positions half a pixel to each side."""
    east, west, north, south = (
        SkyCoord(*wcs.all_pix2world(x + i, y + j, 1), unit="deg") for i, j in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
    )
    a = east.cartesian.xyz - west.cartesian.xyz
    b = north.cartesian.xyz - south.cartesian.xyz
    return np.linalg.norm(np.cross(a.value.T, b.value.T), axis=1) * np.degrees(3600) ** 2


def good_pixels(path, extname):
    """Pixels of a detector, NaN where its mask says anything."""
    with fits.open(path) as hdus, fits.open(FieldPaths.mask_of(path)) as masks:
        return np.where(masks[extname].data == 0, hdus[extname].data, np.nan), hdus[extname].header


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """A small field with everything in it: two bands, two exposures each, one tile."""
    return simulate_field(tmp_path_factory.mktemp("field"), **SMALL_FIELD)


# --- files


def test_files_pass_astropys_verification_and_checksums(field):
    for path in [field.files[0], FieldPaths.mask_of(field.files[-1])]:
        with warnings.catch_warnings(), fits.open(path, checksum=True) as hdus:
            warnings.simplefilter("error")
            hdus.verify("exception")
            assert len(hdus) == 7
        with warnings.catch_warnings(), fits.open(path, checksum=True, disable_image_compression=True) as hdus:
            warnings.simplefilter("error")
            hdus.verify("exception")
            assert all("DATASUM" in hdu.header and "CHECKSUM" in hdu.header for hdu in hdus)


def test_headers_have_the_keywords_of_a_real_file(field, real_decam):
    path = real_decam / "LS_T4" / "mef" / "c4d_170316_062107_ooi_z_ls9.fits.fz"
    with fits.open(path, disable_image_compression=True) as real, fits.open(field.files[0], disable_image_compression=True) as ours:
        for number in (0, 1):
            mine, theirs = ours[number].header, real[number].header
            storage = ("Z", "TTYPE", "TFORM", "DATASUM", "CHECKSUM")
            compared = [key for key in mine if not key.startswith(storage)]
            assert [key for key in compared if key not in theirs] == []
            for key in compared:
                number_or_same = isinstance(theirs[key], float) and isinstance(mine[key], int | float)
                assert number_or_same or type(mine[key]) is type(theirs[key]), key
        primary, extension = ours[0].header, ours[1].header
    wanted = "OBJECT FILTER EXPTIME MAGZERO MAGZPT OBSID EXPNUM DATE-OBS MJD-OBS PLVER WCSCAL SKYSUB TELESCOP INSTRUME PROPID"
    assert set(wanted.split()) <= set(primary)
    wanted = "EXTNAME CCDNUM DETPOS GAINA RDNOISEB SATURATA SATURATE AVSKY AVSIG FWHM CENRA1 CENDEC1 COR4DEC1"
    assert set(wanted.split()) <= set(extension)
    assert "SEEING" not in primary
    assert "MAGZERO" not in extension
    asked = plan(SimulationConfig(**SMALL_FIELD))[0]
    assert primary_header(asked, True)["SEEING"][0] == pytest.approx(field.exposures["SEEING"][0], abs=1e-3)
    assert extension["FWHM"] * 32 * 0.262332 == pytest.approx(asked.seeing, abs=1e-3)


def test_corner_keywords_describe_the_corner_pixels_in_the_order_of_real_files(field):
    with fits.open(field.files[0]) as hdus:
        for hdu in hdus[1:]:
            ny, nx = hdu.data.shape
            x, y = np.array([[1, 1], [nx, 1], [1, ny], [nx, ny], [(nx + 1) / 2, (ny + 1) / 2]]).T
            assert hdu.header["CD1_2"] > 0 > hdu.header["CD2_1"]  # x runs south and y east
            found = SkyCoord(*wcs_of(hdu.header).all_pix2world(x, y, 1), unit="deg")
            keys = [*(f"COR{i}{{}}1" for i in (1, 2, 3, 4)), "CEN{}1"]
            stated = SkyCoord([hdu.header[k.format("RA")] for k in keys], [hdu.header[k.format("DEC")] for k in keys], unit="deg")
            assert found.separation(stated).max() < 0.2 * u.arcsec  # seven digits, as real files have


# --- sky and stars


@pytest.mark.parametrize(("binning", "diffuse"), [(1, 0), (8, 0), (8, 60)])
def test_a_detector_shows_the_brightness_of_the_sky_times_the_area_of_its_pixels(tmp_path, binning, diffuse):
    options = NOISELESS | {"nebula": 400, "continuum": 60, "sky": 0, "diffuse": diffuse}
    made = simulate_field(tmp_path, bands=["N673"], exposures=1, binning=binning, detectors=["S13"], **options)
    image, header = good_pixels(made.files[0], "S13")
    wcs = wcs_of(header)
    ny, nx = image.shape
    y, x = (axis.ravel() + 1.0 for axis in np.mgrid[0 : ny : ny // 23, 0 : nx : nx // 11])
    image = image[y.astype(int) - 1, x.astype(int) - 1]
    truth = sky_brightness(*wcs.all_pix2world(x, y, 1), "N673", made.config) * pixel_areas(wcs, x, y)
    counts28 = image * 10 ** (0.4 * (28 - fits.getheader(made.files[0])["MAGZERO"]))
    assert np.nanstd(truth) / np.nanmean(truth) > 0.1
    # A binned pixel averages over its area, the truth here is that of its centre.
    np.testing.assert_allclose(counts28[np.isfinite(image)], truth[np.isfinite(image)], rtol=1e-4)


@pytest.mark.parametrize("scale", [0.15, 0.5, 3.0])
def test_diffuse_emission_is_smooth_of_its_wavelength_and_of_the_brightness_asked_for(scale):
    config = SimulationConfig(diffuse=30, diffuse_scale=scale)
    rng = np.random.default_rng(6)
    z = rng.uniform(-1, 1, 20000)
    everywhere = diffuse_brightness(rng.uniform(0, 360, z.size), np.degrees(np.arcsin(z)), config)
    assert np.std(everywhere) == pytest.approx(30, rel=0.02)
    assert abs(everywhere.mean()) < 1
    # No wave is shorter than the scale, and most are not much longer.
    step = scale / 200
    along = diffuse_brightness(80 + step / np.cos(np.radians(66)) * np.arange(2**13), np.full(2**13, -66.0), config)
    power = np.abs(np.fft.rfft((along - along.mean()) * np.hanning(along.size))) ** 2
    frequency = np.fft.rfftfreq(along.size, step)
    assert power[frequency > 1.05 / scale].sum() < 0.01 * power.sum()
    assert power[frequency > 0.1 / scale].sum() > 0.5 * power.sum()
    assert np.abs(np.diff(along)).max() <= 2 * np.pi / 200 * 30 * np.sqrt(2 * 24)
    one, other = (diffuse_brightness(ra, [-72, -90], config) for ra in ([0.0, 0.0], [360.0, 77.0]))
    np.testing.assert_allclose(one, other)


def test_stars_are_at_their_positions_with_their_flux_in_every_exposure(tmp_path):
    options = NOISELESS | {"star_density": 2500, "sky": 100}
    made = simulate_field(tmp_path, bands=["N673"], exposures=2, binning=4, detectors=["N4"], seed=4, **options)
    stars = SkyCoord(made.stars["RA"], made.stars["Dec"])
    py, px = np.mgrid[-14:15, -14:15]
    checked = []
    for row, path in zip(made.exposures, made.files, strict=True):
        image, header = good_pixels(path, "N4")
        x, y = wcs_of(header).all_world2pix(stars.ra, stars.dec, 0)
        ny, nx = image.shape
        for i in np.flatnonzero((x > 20) & (x < nx - 22) & (y > 20) & (y < ny - 22)):
            flux = made.stars[f"FLUX_{row['FILTER']}"][i]
            cx, cy = round(x[i]), round(y[i])
            stamp = image[cy - 14 : cy + 15, cx - 14 : cx + 15] * row["XFACTOR"] - row["SKY_PIX"]
            alone = np.sum(np.hypot(x - x[i], y - y[i]) < 30) == 1
            if flux < 4e3 or not alone or np.isnan(stamp).any():
                continue
            assert stamp.sum() == pytest.approx(flux, rel=2e-3)
            core = np.hypot(px, py) < 12
            ring = np.abs(np.hypot(px + cx - x[i], py + cy - y[i]) - header["FWHM"] / 2) < 0.5
            assert np.median(stamp[ring]) == pytest.approx(stamp.max() / 2, rel=0.35)  # as wide as the header says
            centroid = [np.sum((stamp * p)[core]) / np.sum(stamp[core]) for p in (px, py)]
            assert np.hypot(cx + centroid[0] - x[i], cy + centroid[1] - y[i]) < 0.05
            checked.append((row["Root"], i))
    assert len({root for root, _ in checked}) == 2
    assert len(checked) > len({i for _, i in checked}) >= 5


@pytest.mark.parametrize("diffuse", [0, 60])
def test_the_truth_image_is_the_sky(tmp_path, diffuse):
    made = simulate_field(tmp_path, **ONE, diffuse=diffuse)
    image, header = fits.getdata(made.truth.sky("LMC_c42", "N662"), header=True)
    wcs = WCS(header)
    y, x = (axis.ravel() for axis in np.mgrid[1 : len(image) : 17, 1 : len(image) : 19])
    truth = sky_brightness(*wcs.all_pix2world(x, y, 1), "N662", made.config) * pixel_areas(wcs, x, y)
    np.testing.assert_allclose(image[y - 1, x - 1], truth, rtol=1e-5)


# --- levels, noise, defects


def test_the_level_of_a_detector_is_the_sky_plus_its_offset(tmp_path):
    made = simulate_field(tmp_path, bands=["N662", "r"], exposures=2, binning=32, n_detectors=3, **(EMPTY_SKY | {"offsets": 60}))
    level = {row["Root"]: row for row in made.exposures}
    for row in made.detectors:
        path = FieldPaths(tmp_path, "LMC_c42").mef / f"{row['Root']}.fits.fz"
        image, _ = good_pixels(path, row["EXTNAME"])
        exposure = level[row["Root"]]
        counts28 = image * exposure["XFACTOR"]
        expected = (exposure["SKY"] + row["OFFSET"]) * (0.262332 * 32) ** 2
        assert np.nanmean(counts28) == pytest.approx(expected, abs=4 * np.nanstd(counts28) / np.sqrt(np.isfinite(image).sum()))
        assert row["BACK_PIX"] == pytest.approx(expected, rel=1e-6)
    assert np.std(made.detectors["OFFSET"]) == pytest.approx(60, rel=0.6)
    assert len(set(made.exposures["MAGZERO"])) == 4


def test_the_number_of_exposures_and_the_size_of_offsets_can_differ_from_band_to_band():
    bands = ["N662", "N662:600", "r"]
    alike = SimulationConfig(bands=bands, exposures=2, offsets=20)
    each = SimulationConfig(bands=bands, exposures=[1, 2, 3], offsets=[20, 10, 0.5])
    assert [exposure.exptime for exposure in plan(alike)] == [800, 800, 600, 600, 60, 60]
    assert [exposure.exptime for exposure in plan(each)] == [800, 600, 600, 60, 60, 60]
    for exposure in plan(each):
        part = {800: 1.0, 600: 0.5, 60: 0.025}[exposure.exptime]
        for ccd in exposure.ccds[:3]:
            offset, step = offset_and_step(alike, exposure, ccd)
            assert offset_and_step(each, exposure, ccd) == (pytest.approx(part * offset), step)


def test_the_gradient_is_a_plane_on_the_sky(tmp_path):
    made = simulate_field(
        tmp_path, **(ONE | NOISELESS | {"gradient": 0.05, "n_detectors": 0, "detectors": ["N4", "S29", "N31", "S7"]})
    )
    exposure = made.exposures[0]
    for row in made.detectors:
        image, header = good_pixels(made.files[0], row["EXTNAME"])
        east, north = wcs_of(header).wcs.cd @ (np.array([20, 200]) - wcs_of(header).wcs.crpix)
        expected = exposure["SKY_ADU"] * (1 + exposure["GRAD_E"] * east + exposure["GRAD_N"] * north)
        assert image[199, 19] == pytest.approx(expected, rel=1e-5)


def test_noise_is_that_of_photons_and_reading(tmp_path):
    options = ONE | EMPTY_SKY | {"n_detectors": 2}
    noisy = simulate_field(tmp_path / "noisy", **options)
    clean = simulate_field(tmp_path / "clean", **options, noise=False)
    for extname in noisy.detectors["EXTNAME"]:
        (a, header), (b, _) = (good_pixels(made.files[0], extname) for made in (noisy, clean))
        for half, gain, read in ((slice(0, 64), "GAINA", "RDNOISEA"), (slice(64, None), "GAINB", "RDNOISEB")):
            sigma = np.sqrt(b / header[gain] + (header[read] / header[gain]) ** 2)
            pull = ((a - b) / sigma)[:, half]
            assert np.nanvar(pull) == pytest.approx(1, abs=0.04)
            assert abs(np.nanmean(pull)) < 0.03
        assert header["AVSKY"] == pytest.approx(np.nanmedian(a), rel=1e-3)
        assert header["AVSIG"] == pytest.approx(mad_std(a, ignore_nan=True), rel=0.05)


def test_amplifiers_step_in_the_middle_of_a_detector(tmp_path):
    made = simulate_field(tmp_path, **ONE, **NOISELESS, amplifier_steps=30)
    image, _ = good_pixels(made.files[0], made.detectors["EXTNAME"][0])
    assert np.nanmedian(image[:, 64:]) - np.nanmedian(image[:, :64]) == pytest.approx(made.detectors["STEP_ADU"][0], rel=1e-3)
    assert made.detectors["STEP_ADU"][0] != 0


def test_bright_stars_saturate_and_bleed_along_the_columns(tmp_path):
    made = simulate_field(tmp_path, bands=["N662"], exposures=1, binning=2, n_detectors=2, star_density=20000, cosmic_rays=0)
    with fits.open(made.files[0]) as hdus, fits.open(FieldPaths.mask_of(made.files[0])) as masks:
        saturated = 0
        for hdu in hdus[1:]:
            codes = masks[hdu.name].data
            saturated += np.sum(codes == 3)
            assert np.all(hdu.data[codes == 3] > min(hdu.header["SATURATA"], hdu.header["SATURATB"]))
            assert np.all(hdu.data[codes == 0] < 1.2 * hdu.header["SATURATE"])
            assert hdu.header["NSATPIX"] == np.sum(codes == 3)
            columns = np.unique(np.nonzero(codes == 4)[1])
            assert all(np.any(codes[:, column] == 3) for column in columns)
    assert saturated > 20


def test_bad_columns_stay_and_cosmic_rays_change(tmp_path):
    made = simulate_field(tmp_path, **(ONE | EMPTY_SKY | {"exposures": 2, "binning": 4, "cosmic_rays": 0.2}))
    name = made.detectors["EXTNAME"][0]
    first, second = (fits.getdata(FieldPaths.mask_of(path), extname=name) for path in made.files)
    np.testing.assert_array_equal(first == 1, second == 1)
    assert np.ptp(np.nonzero(first == 1)[0]) > 50
    hits = (first == 5) & (second != 5)
    assert 200 < hits.sum() < 2000  # some 160 tracks of 8 native pixels
    image = fits.getdata(made.files[0], extname=name)
    assert np.median(image[hits]) > np.median(image) + 10 * mad_std(image)


# --- plan


@pytest.mark.parametrize(
    ("where", "value"),
    [(np.s_[:], 7), (np.s_[:], np.nan), (np.s_[3, 4], np.nan), (np.s_[:], 100 + np.arange(128)), (np.s_[2, 2], 1e30)],
    ids=["constant", "nan", "one-nan", "noiseless", "huge"],
)
def test_images_that_cannot_be_quantised_are_stored_nevertheless(where, value):
    image = np.random.default_rng(5).normal(250, 8, (40, 128)).astype(np.float32)
    image[where] = value
    head, body = compressed_image({"EXTNAME": ("N1", "")}, image, 1)
    assert all(body[at.end() :][:4] == bytes(4) for at in re.finditer(rb"\x1f\x8b\x08\0", body))  # no time of packing
    with fits.HDUList.fromstring(fits.PrimaryHDU().header.tostring().encode() + head + body) as hdus:
        np.testing.assert_allclose(hdus["N1"].data, image, rtol=1e-6, atol=1.3)


def all_files(root):
    return sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())


def test_the_same_simulation_has_the_same_bytes_in_any_number_of_processes(field, tmp_path):
    again = simulate_field(tmp_path, **SMALL_FIELD, processes=2)
    assert all_files(tmp_path) == all_files(field.config.root)
    assert len(all_files(tmp_path)) == 8 + 5 + 2
    _, different, errors = filecmp.cmpfiles(field.config.root, tmp_path, all_files(tmp_path), shallow=False)
    assert (different, errors) == ([], [])
    assert again.detectors["OFFSET"].tolist() == field.detectors["OFFSET"].tolist()


def test_an_exposure_does_not_depend_on_the_others(field, tmp_path):
    alone = simulate_field(tmp_path, **(SMALL_FIELD | {"bands": ["r"], "exposures": 1}))
    assert filecmp.cmp(alone.files[0], field.files[2], shallow=False)
    other = simulate_field(tmp_path / "other", **(SMALL_FIELD | {"bands": ["r"], "exposures": 1, "n_detectors": 1}), seed=2)
    assert other.exposures["MAGZERO"][0] != alone.exposures["MAGZERO"][0]


def test_detectors_pointings_and_names_are_those_asked_for():
    whole = plan(SimulationConfig(exposures=1, bands=["r"]))[0]
    assert len({ccd.name for ccd in whole.ccds}) == 62
    assert whole.geometry(whole.ccds[0]).shape == (4094, 2046)
    assert plan(SimulationConfig(binning=4))[0].geometry(whole.ccds[0]).shape == (1024, 512)
    nearest = plan(SimulationConfig(exposures=1, bands=["r"], n_detectors=2, dither=0))[0]
    assert {ccd.name for ccd in nearest.ccds} == {"N4", "S4"}
    exposures = plan(SimulationConfig(exposures=40, bands=["N662", "N662:600"], dither=300, detectors=["N4"]))
    frame = SkyCoord(*field_centre("LMC_c42"), unit="deg").skyoffset_frame()
    offsets = SkyCoord([e.pointing.ra for e in exposures], [e.pointing.dec for e in exposures], unit="deg").transform_to(frame)
    extent = np.abs([offsets.lon.wrap_at(180 * u.deg).arcsec, offsets.lat.arcsec])
    assert extent.max() < 300.1
    assert np.all(extent.max(axis=1) > 250)
    assert len({e.file_name() for e in exposures}) == len({e.obsid for e in exposures}) == 80


@pytest.mark.parametrize(
    ("field", "centre", "dec"), [("LMC_30Dor", [], -69.08), ("SMC_c01", [], -73.50), ("pole", [120.0, -89.9], -89.9)]
)
def test_every_kind_of_field_can_be_simulated(tmp_path, field, centre, dec):
    made = simulate_field(tmp_path, field=field, centre=centre, tiles=["T07"], **(ONE | {"binning": 32}))
    assert made.files[0].parent == tmp_path / "DECam_MEF" / field / "mef"
    assert len(made.detectors) == 1
    with fits.open(made.files[0]) as hdus:
        assert hdus[0].header["OBJECT"] == field
        assert hdus[1].header["CRVAL2"] == pytest.approx(dec, abs=0.05)


def test_each_fault_has_an_exposure_of_its_own_and_leaves_the_good_ones_as_they_are(tmp_path):
    """What each fault does is seen where kred finds it, in the tests of the flow."""
    options = {"bands": ["N662"], "exposures": 1, "binning": 32, "n_detectors": 3}
    faulty = simulate_field(tmp_path / "faulty", **options, faults=["all"])
    good = simulate_field(tmp_path / "good", **options)
    assert filecmp.cmp(good.files[0], faulty.files[0], shallow=False)
    assert faulty.faults["Fault"].tolist() == list(FAULTS)
    assert len(faulty.files) == 1 + len(FAULTS)
    on_disk = Table.read(faulty.truth.table("faults"), format="ascii.ecsv")
    assert len(set(on_disk["Root"])) == len(FAULTS)
    (row,) = faulty.faults[faulty.faults["Fault"] == "duplicate"]
    with fits.open(faulty.files[0].with_name(f"{row['Root']}.fits.fz")) as a, fits.open(faulty.files[0]) as b:
        assert a.filename() != b.filename()
        assert a[0].header["OBSID"] == b[0].header["OBSID"]
        difference = a[1].data - b[1].data
        assert mad_std(difference) < 0.2 * mad_std(b[1].data)  # the same photons
        assert np.median(difference) == pytest.approx(0.05 * b[0].header["SKYSUB"], rel=0.05)


# --- use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--bands X9", "no band X9"),
        ("--bands N662:0", "exposure time"),
        ("--bands N662,N662:800", "twice"),
        ("--binning 3", "--binning: Input should be 1, 2, 4, 8, 16 or 32"),
        ("--centre 10", "two numbers"),
        ("--centre 10,-95", "-90"),
        ("--faults gremlin", "--faults: no fault gremlin"),
        ("--offsets 1,2", "offsets needs one number, or one for each of the 4 bands, not 2"),
        ("--exposures many", "--exposures"),
        ("--offsets=-1", "greater than or equal to 0"),
        ("--field LMC_c99", "LMC_c99"),
        ("--root /dev/null/data --binning 32 --n-detectors 1 --exposures 1", "cannot write"),
    ],
)
def test_mistakes_are_explained_in_one_line(arguments, message, capsys):
    assert main(arguments.split()) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1


def test_unknown_places_and_detectors_are_explained(tmp_path):
    with pytest.raises(InputError, match="T99"):
        simulate_field(tmp_path, tiles=["T99"])
    with pytest.raises(ConfigError, match="N99"):
        simulate_field(tmp_path, detectors=["N99"])
    with pytest.raises(ConfigError, match="touches T01"):
        simulate_field(tmp_path, tiles=["T01"], detectors=["N31"], dither=0)
    assert not any(tmp_path.rglob("*.fz"))


def test_the_command_line_simulates_and_shows_its_progress(tmp_path):
    arguments = "--tiles T07,T08 --bands r:30 --exposures 2 --binning 32 --no-noise --n-detectors 2".split()
    line = [sys.executable, "-m", "kred_core.simulate", "--root", str(tmp_path), *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[2/2]" in done.stdout
    assert len(list(tmp_path.rglob("*_ooi_r_*.fits.fz"))) == 2
    assert Table.read(tmp_path / "Truth" / "LMC_c42" / "exposures.ecsv")["EXPTIME"].tolist() == [30, 30]
