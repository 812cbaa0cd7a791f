"""World coordinates: from header cards to sky positions, pixel areas and control grids; and the pixel grid of a mosaic.

The WCS of a detector is read from the few cards that define it, so that nothing else in a real header can disturb it. Arrays
of pixel coordinates count from 0 at the centre of the first pixel, as numpy does; FITS keywords count from 1.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import ArrayLike

from ..errors import ExposureError
from ..fits.hdu import number, text
from .sphere import LARGEST_RADIUS, unit_vectors

ARCSEC = math.radians(1 / 3600)
INVERSE_TOLERANCE = 1e-3  # pixel, of the way back from the sky
PROJECTIONS = ("AIT", "ARC", "AZP", "CAR", "CEA", "MER", "SIN", "STG", "TAN", "TPV", "ZEA", "ZPN")  # which SWarp reads alike
LAST_OF_PROJECTION = 4  # PVi_m with a larger m are the distortion's, but for projections that no camera has
_DISTORTION_CARDS = ("A_ORDER", "B_ORDER", "CPDIS1", "CPDIS2", "CQDIS1", "CQDIS2", "D2IMDIS1", "D2IMDIS2")


@dataclass(frozen=True)
class Grid:
    """A TAN grid: north up, east left, the centre of the image at (ra, dec).

    Attributes
    ----------
    ra, dec : float
        Position of the centre in degrees; FITS CRPIX = (nx + 1)/2, (ny + 1)/2.
    pixel_scale : float
        Arcsec per pixel.
    nx, ny : int
        Size in pixels.
    """

    ra: float
    dec: float
    pixel_scale: float
    nx: int
    ny: int


def celestial_wcs(header: fits.Header) -> WCS:
    """Return the WCS of an image, or of the binary table that holds a compressed one, from nothing but the cards that define it.

    It is set up, and used by nobody else. Its ``wcs_pix2world`` and ``wcs_world2pix`` contain the TPV distortion (wcslib inverts it
    to 1e-8 pixel).

    Raises
    ------
    ExposureError
        The WCS is missing, singular, not finite or of a kind that is not understood. The message is a predicate ("has no
        usable WCS: ..."), to which the caller adds the subject.

    Notes
    -----
    Calabretta & Greisen 2002, A&A 395, 1077; TPV: https://fits.gsfc.nasa.gov/registry/tpvwcs.html.
    Reading the cards here, not by ``WCS(header)``, takes 0.9 ms, not 14 ms, and other cards of real files, which may be odd,
    cannot disturb it. SWarp reads the same headers: one that it would read in another way is unusable, so that no mosaic
    depends on who made it.
    """
    kinds = [text(header, "CTYPE1"), text(header, "CTYPE2")]
    if not all(kinds):
        raise _unusable("CTYPE1 or CTYPE2 is missing")
    if kinds[0][:5] != "RA---" or kinds[1][:5] != "DEC--":
        raise _unusable(f"its axes are {kinds[0]} and {kinds[1]}, expected RA---xxx and DEC--xxx")
    if kinds[0].endswith("-SIP") or any(key in header for key in _DISTORTION_CARDS):
        raise _unusable("it has a SIP or table distortion; only projections and TPV are understood")
    code = kinds[0][5:]
    if code not in PROJECTIONS or kinds[1][5:] != code:  # wcslib ignores what stands behind a known code, and TNX's tables
        raise _unusable(f"its axes are {kinds[0]} and {kinds[1]}, expected one projection of {', '.join(PROJECTIONS)}")
    for key in ("CUNIT1", "CUNIT2"):
        if text(header, key).lower() not in ("", "deg", "degree", "degrees"):
            raise _unusable(f"{key} is {text(header, key)}, expected deg")
    system = (text(header, "RADESYS") or text(header, "RADECSYS")).upper()
    equinox = "EQUINOX" if "EQUINOX" in header else "EPOCH"  # its older name
    if system != "ICRS" and (system not in ("", "FK5") or _value(header, equinox, 2000.0) != 2000.0):
        found = " ".join(filter(None, (system, text(header, equinox))))
        raise _unusable(f"its coordinates are {found}, expected ICRS or FK5 J2000")

    wcs = WCS(naxis=2)
    core = wcs.wcs
    code, parameters = _as_swarp_reads(code, _projection_parameters(header))
    core.ctype = [f"RA---{code}", f"DEC--{code}"]
    core.cunit = ["deg", "deg"]
    core.crval = [_value(header, "CRVAL1"), _value(header, "CRVAL2")]
    core.crpix = [_value(header, "CRPIX1"), _value(header, "CRPIX2")]
    if not -90 <= core.crval[1] <= 90:
        raise _unusable(f"CRVAL2 is {core.crval[1]:g}, expected -90 to 90 degrees")
    name, matrix = _linear_part(header)
    extent = np.abs(matrix).max()
    (a, b), (c, d) = (matrix / (extent or 1.0)).tolist()
    if abs(a * d - b * c) < 1e-9:
        raise _unusable(f"its {name} is singular")
    core.cd = matrix
    core.set_pv(parameters)
    core.lonpole = _value(header, "LONPOLE" if "LONPOLE" in header else "LONGPOLE", math.nan)
    core.latpole = _value(header, "LATPOLE", math.nan)
    core.radesys = system or "ICRS"
    try:
        core.set()
    except ValueError as e:  # all of wcslib's errors
        raise _unusable(str(e).strip().splitlines()[-1]) from e
    return wcs


def _unusable(reason: str) -> ExposureError:
    return ExposureError(f"has no usable WCS: {reason}")


def _value(header: fits.Header, key: str, default: float | None = None) -> float:
    value = number(header, key)
    if value is None:
        if key in header:
            raise _unusable(f"{key} is not a finite number")
        if default is None:
            raise _unusable(f"{key} is missing")
        return default
    return value


def _linear_part(header: fits.Header) -> tuple[str, np.ndarray]:
    """Name and values of the matrix from pixels to degrees: CD, or PC x CDELT, or CDELT turned by CROTA2."""
    indices = ((1, 1), (1, 2), (2, 1), (2, 2))
    if any(f"CD{i}_{j}" in header for i, j in indices):
        # One of the diagonal that is left out is 0 in the standard, and 1 degree for SWarp.
        return "CD matrix", np.reshape([_value(header, f"CD{i}_{j}", None if i == j else 0.0) for i, j in indices], (2, 2))
    if any(f"PC00{i}00{j}" in header for i, j in indices):
        raise _unusable("it has PC001001 and the like; expected a CD matrix or PC1_1 and the like")
    if "CDELT1" not in header or "CDELT2" not in header:
        raise _unusable("it has neither a CD matrix nor CDELT1 and CDELT2")
    steps = np.array([_value(header, "CDELT1"), _value(header, "CDELT2")])
    if any(f"PC{i}_{j}" in header for i, j in indices):
        turned = np.reshape([_value(header, f"PC{i}_{j}", float(i == j)) for i, j in indices], (2, 2))
        return "PC matrix times CDELT", steps[:, None] * turned
    angle = math.radians(_value(header, "CROTA2", 0.0))
    # The old keywords turn after scaling: Calabretta & Greisen 2002, section 6.1.
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return "CDELT", turn * steps[None, :]


def _as_swarp_reads(code: str, parameters: list[tuple[int, int, float]]) -> tuple[str, list[tuple[int, int, float]]]:
    """Projection and its parameters (axis, m, PVi_m), where TAN and TPV are told apart by the parameters and not by name.

    SCAMP used to call its distortion TAN, and files without any distortion may be called TPV. What the standard defines for TAN
    (PV1_1 to PV1_4: native reference point and poles; Calabretta & Greisen 2002, section 2.5) never comes with a PV2_1.
    """
    if code not in ("TAN", "TPV"):
        if any(m > LAST_OF_PROJECTION for _, m, _ in parameters):
            raise _unusable(f"it is {code} and has the distortion of TPV (PVi_m)")  # which wcslib would ignore
        return code, parameters
    given = {f"PV{axis}_{m}" for axis, m, value in parameters if value != 0.0}
    if not given:
        return "TAN", []
    lacking = [name for name in ("PV1_1", "PV2_1") if name not in given]
    if lacking:
        standard = code == "TAN" and given <= {"PV1_1", "PV1_2", "PV1_3", "PV1_4"}
        why = "what the standard means by these SWarp takes for distortion" if standard else "the distortion is not complete"
        raise _unusable(f"it is {code} with {', '.join(sorted(given))} and without {' and '.join(lacking)}: {why}")
    return "TPV", parameters


def _projection_parameters(header: fits.Header) -> list[tuple[int, int, float]]:
    if any(re.fullmatch(r"PROJP\d+", key) for key in header):
        raise _unusable("it has PROJPn, the old form of PVi_m, which is not understood")
    keys = dict.fromkeys(k for k in header if k[:4] in ("PV1_", "PV2_") and k[4:].isdigit())
    return [(int(key[2]), int(key[4:]), _value(header, key)) for key in keys]


def _sky(wcs: WCS, x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """RA and Dec in degrees, shape (..., 2), of pixel coordinates."""
    x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    return to_sky(wcs, np.stack([x.ravel(), y.ravel()], axis=-1)).reshape(*x.shape, 2)


def to_sky(wcs: WCS, pixels: ArrayLike) -> np.ndarray:
    """RA and Dec in degrees, shape (n, 2), of pixel coordinates from 0; with SIP and tables, which `celestial_wcs` refuses."""
    return (wcs.all_pix2world if wcs.has_distortion else wcs.wcs_pix2world)(pixels, 0)


def _to_pixels(wcs: WCS, sky: np.ndarray) -> np.ndarray:
    return wcs.all_world2pix(sky, 0, quiet=True) if wcs.has_distortion else wcs.wcs_world2pix(sky, 0)


def _vectors(wcs: WCS, x: ArrayLike, y: ArrayLike) -> np.ndarray:
    sky = _sky(wcs, x, y)
    return unit_vectors(sky[..., 0], sky[..., 1])


def corners(wcs: WCS, shape: tuple[int, int]) -> np.ndarray:
    """Return the positions of the corner pixels' centres of an image of shape (NAXIS2, NAXIS1), in the order COR1RA1..COR4DEC1.

    Returns
    -------
    `~numpy.ndarray`
        Shape (4, 2), RA in [0, 360) and Dec in degrees of the pixels (1,1), (NAXIS1,1), (1,NAXIS2), (NAXIS1,NAXIS2). Not
        cyclic: around the detector it is 1, 2, 4, 3.

    Raises
    ------
    ExposureError
        The WCS gives no position there, or spreads the image over an absurd part of the sky.
    """
    ny, nx = shape
    sky = _sky(wcs, [0, nx - 1, 0, nx - 1], [0, 0, ny - 1, ny - 1])
    if not np.isfinite(sky).all():
        raise _unusable("it gives no position for some of the corner pixels")
    vectors = unit_vectors(sky[:, 0], sky[:, 1])
    if np.linalg.norm(vectors - vectors.mean(axis=0), axis=-1).max() >= math.radians(LARGEST_RADIUS):
        raise _unusable(f"the image would be larger than {LARGEST_RADIUS:.0f} deg")
    return np.stack([sky[:, 0] % 360.0, sky[:, 1]], axis=-1)


def centre(wcs: WCS, shape: tuple[int, int]) -> tuple[float, float]:
    """Return RA in [0, 360) and Dec, in degrees, of the middle of an image of shape (NAXIS2, NAXIS1)."""
    ra, dec = _sky(wcs, (shape[1] - 1) / 2, (shape[0] - 1) / 2)
    if not (math.isfinite(ra) and math.isfinite(dec)):
        raise _unusable("it gives no position for the central pixel")
    return float(ra % 360.0), float(dec)


def pixel_area_arcsec2(wcs: WCS, x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Return the solid angle, in square arcsec, of pixels at coordinates from 0, which are broadcast against each other.

    It is the parallelogram spanned by the lines that join the middles of opposite sides of the pixel, right to 1e-7 of itself for
    any smooth WCS.
    """
    x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    along_x = _vectors(wcs, x + 0.5, y) - _vectors(wcs, x - 0.5, y)
    along_y = _vectors(wcs, x, y + 0.5) - _vectors(wcs, x, y - 0.5)
    return np.linalg.norm(np.cross(along_x, along_y), axis=-1) / ARCSEC**2


def pixel_scale(wcs: WCS, shape: tuple[int, int]) -> float:
    """Return the side in arcsec of a square of the same area as the central pixel of an image of shape (NAXIS2, NAXIS1)."""
    return float(np.sqrt(pixel_area_arcsec2(wcs, (shape[1] - 1) / 2, (shape[0] - 1) / 2)))


def tan_header(grid: Grid) -> fits.Header:
    """Return the WCS cards of a grid, the same as SWarp writes and reads: TAN, ICRS, a CD matrix, CRPIX in the middle."""
    step = grid.pixel_scale / 3600
    header = fits.Header()
    header["EQUINOX"] = (2000.0, "Mean equinox")
    header["RADESYS"] = ("ICRS", "Astrometric system")
    for axis, (kind, value, n) in enumerate((("RA---TAN", grid.ra, grid.nx), ("DEC--TAN", grid.dec, grid.ny)), 1):
        header[f"CTYPE{axis}"] = (kind, "Projection")
        header[f"CUNIT{axis}"] = ("deg", "Unit of CRVAL and CD")
        header[f"CRVAL{axis}"] = (value, "[deg] Position of the reference pixel")
        header[f"CRPIX{axis}"] = ((n + 1) / 2, "[pix] Reference pixel, the centre of the image")
        header[f"CD{axis}_1"] = (-step if axis == 1 else 0.0, "[deg/pix] Linear part")
        header[f"CD{axis}_2"] = (step if axis == 2 else 0.0, "[deg/pix] Linear part")
    return header


def tan_wcs(grid: Grid) -> WCS:
    """Return the WCS of a grid; see `tan_header`."""
    return celestial_wcs(tan_header(grid))


def control_grid(wcs_from: WCS, wcs_to: WCS, x0: float, y0: float, nx: int, ny: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where a region of one image lies in another, at points so close that bilinear interpolation does the rest.

    The region begins at the pixel x0, y0 (from 0) of ``wcs_from`` and has nx x ny pixels; the points are ``step`` pixels apart.

    Returns
    -------
    u, v : `~numpy.ndarray`
        Pixel coordinates in ``wcs_to``, from 0, of the points (x0 + i*step, y0 + j*step), each of shape ((ny - 1)//step + 2,
        (nx - 1)//step + 2): every pixel of the region has a point on both sides. NaN where a position has no pixel coordinates
        (the far side of the sky, or beyond where the distortion can be inverted), and at their neighbours.

    Notes
    -----
    For DECam's TPV and a TAN grid, the largest error of the interpolation over a CCD is 5e-5 arcsec for a step of 32 pixels
    and 2e-4 arcsec for 64.
    """
    x = x0 + step * np.arange((nx - 1) // step + 2, dtype=np.float64)
    y = y0 + step * np.arange((ny - 1) // step + 2, dtype=np.float64)
    sky = _sky(wcs_from, *np.meshgrid(x, y)).reshape(-1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = _to_pixels(wcs_to, sky)
        back = to_sky(wcs_to, pixels)
    away = np.linalg.norm(unit_vectors(back[:, 0], back[:, 1]) - unit_vectors(sky[:, 0], sky[:, 1]), axis=-1)
    pixel = math.radians(math.sqrt(abs(np.linalg.det(wcs_to.pixel_scale_matrix))))
    pixels[~(away <= INVERSE_TOLERANCE * pixel)] = np.nan
    u, v = pixels.T.reshape(2, y.size, x.size)
    # Far outside an image its polynomial can fold over; a place found behind the fold is mirrored, or alone.
    (u_y, u_x), (v_y, v_x) = np.gradient(u), np.gradient(v)
    same = np.linalg.det(wcs_from.pixel_scale_matrix) * np.linalg.det(wcs_to.pixel_scale_matrix)
    upright = (u_x * v_y - u_y * v_x) * same > 0
    return np.where(upright, u, np.nan), np.where(upright, v, np.nan)
