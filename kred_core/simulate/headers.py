"""Headers of simulated files: the keywords of real Community Pipeline files, with simulated values.

Which keywords real files have, where, and in which notation was read off 40
real files; keywords of the telescope's housekeeping that nobody uses are left out.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
from astropy.time import Time

from ..fits.cards import Cards
from .camera import DetectorGeometry
from .exposures import DEPARTURE, ExposurePlan

__all__ = ["image_header", "mask_header", "primary_header"]

EPOCH = dt.datetime(2012, 11, 1)  # EXPNUM counts from DECam's first light


def _sexagesimal(ra: float, dec: float) -> tuple[str, str]:
    def text(value: float, decimals: int) -> str:
        units = round(value * 3600 * 10**decimals)
        seconds, fraction = divmod(units, 10**decimals)
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{fraction:0{decimals}d}"

    return text(ra / 15, 2), ("-" if dec < 0 else "") + text(abs(dec), 1)


def primary_header(exposure: ExposurePlan, seeing_keyword: bool) -> Cards:
    """Header of the primary HDU, which holds no data."""
    start, band = exposure.start, exposure.band
    end = start + dt.timedelta(seconds=exposure.exptime)
    readout = start + dt.timedelta(seconds=exposure.exptime + DEPARTURE)
    processed = start + dt.timedelta(days=2)
    ra, dec = _sexagesimal(exposure.pointing.ra, exposure.pointing.dec)
    name = exposure.file_name()
    per_second = exposure.magzero - 2.5 * np.log10(exposure.exptime)
    cards: Cards = {
        "SIMPLE": (True, "file does conform to FITS standard"),
        "BITPIX": (8, "number of bits per data pixel"),
        "NAXIS": (0, "number of data axes"),
        "EXTEND": (True, "FITS dataset may contain extensions"),
        "DATE": (f"{processed:%Y-%m-%dT%H:%M:%S}", "Date FITS file was generated"),
        "OBJECT": (exposure.field, "Name of the object observed"),
        "PROCTYPE": ("InstCal", "Data processing level"),
        "PRODTYPE": ("image", "Product type"),
        "PIXSCAL1": (round(0.27 * exposure.binning, 2), "[arcsec/pixel] Pixel scale, axis 1"),
        "PIXSCAL2": (round(0.27 * exposure.binning, 2), "[arcsec/pixel] Pixel scale, axis 2"),
        "TELESCOP": ("CTIO 4.0-m telescope", "Telescope name"),
        "OBSERVAT": ("CTIO", "Observatory name"),
        "INSTRUME": ("DECam", "Instrument used to obtain these data"),
        "EXPREQ": (exposure.exptime, "[s] Requested exposure duration"),
        "EXPTIME": (exposure.exptime, "[s] Exposure duration"),
        "EXPDUR": (exposure.exptime, "[s] Exposure duration"),
        "DARKTIME": (exposure.exptime + 1.1, "[s] Dark time"),
        "OBSID": (exposure.obsid, "Unique Observation ID"),
        "DATE-OBS": (f"{start:%Y-%m-%dT%H:%M:%S}.000000", "UTC epoch"),
        "TIME-OBS": (f"{start:%H:%M:%S}.000000", "Time of observation start (UTC)"),
        "MJD-OBS": (round(float(Time(start).mjd), 8), "MJD of observation start"),
        "MJD-END": (round(float(Time(end).mjd), 9), "Exposure end"),
        "TIMESYS": ("UTC", "Time system"),
        "EXPNUM": (int((start - EPOCH).total_seconds() // 60), "DECam exposure number"),
        "OBSTYPE": ("object", "Type of observation"),
        "PROGRAM": ("Simulated exposures of kred", "Observing program"),
        "OBSERVER": ("kred_core.simulate", "Observer name(s)"),
        "PROPOSER": ("none", "Proposal Principal Investigator"),
        "PROPID": ("0000A-0000", "Proposal ID"),
        "FILTER": (band.filter, "Unique filter identifier"),
        "TELRA": (ra, "[HH:MM:SS] Telescope RA"),
        "TELDEC": (dec, "[DD:MM:SS] Telescope DEC"),
        "AIRMASS": (1.3, "Airmass"),
        "DIMMSEE": ("NaN", "[arcsec] DIMM Seeing"),  # a text, as in real files
        "LSKYVAR": ("NaN", "RASICAM local sky standard deviation"),
        "DTSITE": ("ct", "observatory location"),
        "DTTELESC": ("ct4m", "telescope identifier"),
        "DTINSTRU": ("decam", "instrument identifier"),
        "DTUTC": (f"{readout:%Y-%m-%dT%H:%M:%S}", "post exposure UTC epoch from DTS"),
        "DTCALDAT": (f"{start - dt.timedelta(hours=16):%Y-%m-%d}", "calendar date from observing schedule"),
        "DTNSANAM": (name, "file name in archive"),
        "RADESYS": ("FK5", "World coordinate reference frame"),
        "EQUINOX": (2000.0, "Mean equinox"),
        "BAND": (band.name, ""),
        "NITE": (f"{start - dt.timedelta(hours=16):%Y%m%d}", ""),
        "RADECSYS": ("ICRS", "Astrometric system"),
        "SCAMPFLG": (0, "WCS successful"),
        "PHOTREF": ("SIM", "Photometric ref. catalog"),
        "MAGZERO": (exposure.magzero, "[mag] Magnitude zero point"),
        "MAGZPT": (round(float(per_second), 3), "[mag] Magnitude zero point per sec"),
        "SKYSUB": (round(exposure.sky_adu, 4), ""),
        "RA": (ra, "[h] RA exposure center"),
        "DEC": (dec, "[deg] DEC exposure center"),
        "CENTRA": (float(f"{exposure.pointing.ra:.7g}"), "[deg] RA exposure center"),
        "CENTDEC": (float(f"{exposure.pointing.dec:.7g}"), "[deg] DEC exposure center"),
        "NEXTEND": (len(exposure.ccds), ""),
        "PLVER": ("V4.8.2" if exposure.version == "v1" else "V4.8.2a", ""),
        "WCSCAL": ("Successful", "Astrometric calibration"),
    }
    if seeing_keyword:
        cards["SEEING"] = (round(exposure.seeing, 3), "[arcsec] FWHM of stars")
    return cards


def mask_header(exposure: ExposurePlan, geometry: DetectorGeometry) -> Cards:
    """Header of a mask extension: what the science extension has too, without the keywords that describe its pixels."""
    ccd, n = geometry.ccd, geometry.binning
    return {
        "EXTNAME": (ccd.name, "name of this binary table extension"),
        "INHERIT": (True, "Inherits global header"),
        "DATE": (f"{exposure.start + dt.timedelta(days=2):%Y-%m-%dT%H:%M:%S}", "Date FITS file was generated"),
        "CCDNUM": (ccd.number, "CCD number"),
        "DETPOS": (ccd.name, "detector position ID"),
        "GAINA": (ccd.gain[0], "[electrons/adu] Gain for amp A"),
        "RDNOISEA": (n * ccd.read_noise[0], "[electrons] Read noise for amp A"),
        "SATURATA": (n**2 * ccd.saturation[0], "[adu] Saturation for amp A"),
        "GAINB": (ccd.gain[1], "[electrons/adu] Gain for amp B"),
        "RDNOISEB": (n * ccd.read_noise[1], "[electrons] Read noise for amp B"),
        "SATURATB": (n**2 * ccd.saturation[1], "[adu] Saturation for amp B"),
        **geometry.wcs_cards(),
    }


def _corner_cards(geometry: DetectorGeometry, shape: tuple[int, int]) -> Cards:
    # Real files give seven digits.
    centre, *corners = [(float(f"{ra:.7g}"), float(f"{dec:.7g}")) for ra, dec in geometry.corners(shape)]
    ra, dec = _sexagesimal(*centre)
    cards: Cards = {"RA1": (ra, "[h] RA CCD center"), "DEC1": (dec, "[deg] DEC CCD center")}
    cards |= {"CENRA1": (centre[0], "[deg] RA CCD center"), "CENDEC1": (centre[1], "[deg] DEC CCD center")}
    for i, corner in enumerate(corners, 1):
        cards |= {f"COR{i}RA1": (corner[0], "[deg] RA CCD corner"), f"COR{i}DEC1": (corner[1], "[deg] DEC CCD corner")}
    return cards


def image_header(exposure: ExposurePlan, geometry: DetectorGeometry, image: np.ndarray, mask: np.ndarray) -> Cards:
    """Header of a science extension, without the keywords that describe its storage."""
    ccd = geometry.ccd
    sky = float(np.median(image[::4, ::4]))
    sky = sky if np.isfinite(sky) else exposure.sky_adu  # a header holds no NaN
    read = geometry.binning * float(np.mean(ccd.read_noise)) / float(np.mean(ccd.gain))
    return {
        **mask_header(exposure, geometry),
        "FZALGOR": ("RICE_1", ""),
        "FZQVALUE": (4, ""),
        "FZQMETHD": ("SUBTRACTIVE_DITHER_1", ""),
        "NSATPIX": (int(np.count_nonzero(mask == 3)), "Number of saturated pixels"),
        "NBLEED": (int(np.count_nonzero(mask == 4)), "Number of bleed trail pixels."),
        "SATURATE": (geometry.binning**2 * max(ccd.saturation), ""),
        "FWHM": (round(exposure.fwhm, 6), "Median FWHM in pixels"),
        "ELLIPTIC": (0.0, "Median ELLIPTICITY"),
        "AVSKY": (round(sky, 4), ""),
        "AVSIG": (round(float(np.sqrt(max(sky, 0) / np.mean(ccd.gain) + read**2)), 5), ""),
        "ARAWGAIN": (round(float(np.mean(ccd.gain)) * 1.1, 2), "[e/adu] Average raw gain"),
        **_corner_cards(geometry, (image.shape[0], image.shape[1])),
    }
