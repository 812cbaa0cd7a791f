"""Exposures open in every form that files have, and damage is an `ExposureError`, never anything else."""

import numpy as np
import pytest
from astropy.io import fits
from mefs import SHAPE, detector_hdu, sky_pixels, write_mef

from kred_core.errors import ExposureError
from kred_core.exposures.exposure import Exposure
from kred_core.fits.hdu import BLOCK, RECORD, number, scan, text
from kred_core.fits.storage import require_sound


def as_astropy_reads(path, name):
    with fits.open(path) as f:
        return np.array(f[name].data, dtype=np.float32)


def damaged(path, raw):
    """What opening and reading everything says of these bytes: the pixels, or the message of an `ExposureError`."""
    path.write_bytes(raw)
    try:
        return [d.pixels() for d in Exposure.open(path).detectors]
    except ExposureError as e:
        return str(e)


# forms of storage


@pytest.mark.parametrize("storage", [None, "RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"])
def test_float_pixels_are_read_as_astropy_reads_them(storage, mef):
    path = mef("x.fits.fz", [detector_hdu("N1", storage=storage), detector_hdu("S7", 1, storage=storage)])
    exposure = Exposure.open(path)
    assert [(d.extname, d.shape, d.name) for d in exposure.detectors] == [("N1", SHAPE, "x_N1"), ("S7", SHAPE, "x_S7")]
    for place, detector in enumerate(exposure.detectors):
        pixels = detector.pixels()
        assert (pixels.dtype, pixels.shape, pixels.flags.writeable) == (np.dtype("=f4"), SHAPE, True)
        np.testing.assert_array_equal(pixels, as_astropy_reads(path, detector.extname))
        assert np.abs(pixels - sky_pixels(place)).max() < 3  # half a step of the quantisation at most, noise / 4


def test_scaled_integers_and_their_blank_pixels_are_understood(mef):
    hdu = fits.ImageHDU(np.arange(300, dtype=np.int16).reshape(20, 15))
    hdu.header["EXTNAME"], hdu.header["BLANK"] = "N1", 7
    path = mef("x.fits.fz", [hdu])
    raw = path.read_bytes()
    # astropy would scale them while writing
    path.write_bytes(raw.replace(b"BLANK   =                    7".ljust(80), b"BSCALE  =                  0.5".ljust(80), 1))
    np.testing.assert_array_equal(Exposure.open(path).detectors[0].pixels(), np.arange(300).reshape(20, 15) * 0.5)
    path.write_bytes(raw)
    found = Exposure.open(path).detectors[0].pixels()
    assert np.argwhere(np.isnan(found)).tolist() == [[0, 7]]


# headers


def test_the_filter_is_the_first_word_of_its_sentence(mef):
    for stored, short in [("z DECam SDSS c0004 9260.0 1520.0", "z"), ("  N673 DECam ", "N673"), ("", ""), (None, "")]:
        assert Exposure.open(mef("x.fits.fz", ["N1"], FILTER=stored)).filter == short


def test_long_odd_headers_are_read_whole(mef):
    many = {f"KEY{i}": i for i in range(500)}  # 14 blocks
    path = mef("x.fits.fz", [detector_hdu("N1", **many, COMMENT="x", HISTORY="None"), "S7"], OBJECT="x" * 200)
    exposure = Exposure.open(path)
    assert number(exposure.detectors[0].header, "KEY499") == 499
    assert text(exposure.primary, "OBJECT") == "x" * 200
    assert exposure.detectors[1].extname == "S7"


# what is no exposure


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "x.fits.fz: is empty"),
        (b"S", "is not a FITS file"),
        (b"SIMPLE  =                    T".ljust(2880), "the header has no END"),
        (b"SIMPLE  =                    T" + b" " * 50 + b"END", "the header has no END"),
        (b"XTENSION= 'IMAGE   '".ljust(2880), "is not a FITS file"),
    ],
)
def test_what_is_not_fits_is_said_so(raw, message, tmp_path):
    path = tmp_path / "x.fits.fz"
    assert message in damaged(path, raw)


def test_a_primary_hdu_alone_holds_no_detector(tmp_path):
    fits.PrimaryHDU(sky_pixels()).writeto(tmp_path / "x.fits")
    with pytest.raises(ExposureError, match="no extension holds an image"):
        Exposure.open(tmp_path / "x.fits")


# damage


def test_the_first_detector_that_a_truncated_file_lacks_is_named(mef):
    path = mef("x.fits.fz", ["N1", "S7"])
    raw, last = path.read_bytes(), scan(path)[2]
    message = damaged(path, raw[: last.data_start + last.data_length - 1])
    end = last.data_start + last.data_length
    assert message == f"x.fits.fz[2] S7: the file is truncated: its data end at byte {end}, the file at {end - 1}"


def test_padding_after_the_last_extension_or_none_is_no_damage_but_junk_is(mef):
    path = mef("x.fits.fz", ["N1"])
    raw, last = path.read_bytes(), scan(path)[1]
    end = last.data_start + last.data_length
    assert end < last.end
    np.testing.assert_array_equal(damaged(path, raw[:end])[0], damaged(path, raw)[0])
    for padding in (b" " * BLOCK, b"\0" * 100, b"\0" * RECORD):
        assert len(damaged(path, raw + padding)) == 1
    for junk in (b"junk", b"junk" * 2000, b"\0" * BLOCK + b"junk", raw):
        message = damaged(path, raw + junk)
        assert message == f"x.fits.fz[2]: the {len(junk)} bytes after extension 1 are no FITS header; the file is damaged"


def test_a_download_that_left_zeros_at_the_end_does_not_lose_detectors_unnoticed(mef):
    path = mef("x.fits.fz", [detector_hdu(f"N{i}", i, storage=None) for i in range(1, 6)])
    raw, hdus = path.read_bytes(), scan(path)
    assert len(raw) - hdus[3].end > RECORD
    for arrived in (hdus[1].end, hdus[1].end + 100, hdus[2].data_start + 5000, hdus[3].end):
        assert isinstance(damaged(path, raw[:arrived].ljust(len(raw), b"\0")), str)


# masks


def with_mask(tmp_path, *extensions, mask="a_ood_r.fits.fz"):
    write_mef(tmp_path / mask, extensions)
    return Exposure.open(write_mef(tmp_path / "a_ooi_r.fits.fz", ["N1", "S7"]))


def test_codes_beyond_a_byte_still_flag_a_pixel(tmp_path):
    codes = np.zeros(SHAPE, np.int32)
    codes[0, :4] = 255, 257, 65537, -1
    exposure = with_mask(tmp_path, detector_hdu("N1", pixels=codes, storage=None))
    assert exposure.detectors[0].mask_codes()[0, :4].tolist() == [1, 1, 1, 0]


# real files


def test_every_real_cut_out_opens_and_is_read_as_astropy_reads_it(real_decam):
    files = sorted(real_decam.glob("*/mef/*_ooi_*"))
    assert len(files) == 24
    for path in files:
        for detector in Exposure.open(path).detectors:
            pixels = detector.pixels()
            np.testing.assert_array_equal(pixels, as_astropy_reads(path, detector.extname))
            assert np.isfinite(pixels).all()
            codes = detector.mask_codes()
            assert codes is None or (codes.shape == detector.shape and codes.max() <= 7)


@pytest.mark.parametrize(
    ("storage", "key", "value", "words"),
    [
        (None, "GCOUNT", 2, "GCOUNT is 2, expected 1"),
        (None, "PCOUNT", 8, "PCOUNT is 8, expected 0"),
        ("RICE_1", "TFORM1", "1J", "its column COMPRESSED_DATA is no list of bytes"),
    ],
)
def test_keywords_of_the_storage_that_say_something_else_are_damage(mef, storage, key, value, words):
    hdu = scan(mef("x.fits.fz", [detector_hdu("N1", storage=storage)]))[1]
    require_sound(hdu)
    hdu.header[key] = value
    with pytest.raises(ExposureError, match=words):
        require_sound(hdu)
