"""The grid of cells that all fields of a galaxy share: its tangent point and the size of its cells.

Neither depends on the data of a field, but for the pixel scale of its
detectors, so that fields which are reduced years apart fit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from astropy.wcs import WCS

from .. import sky, survey
from ..config import FieldConfig, SurveyConfig
from ..errors import ConfigError, InputError

__all__ = ["BinnedGrid", "binned_grid", "usual_cell"]

CELL = 2.0  # arcsec: seeing and sampling of stars no longer matter, diffuse emission still does
SMALLEST_CELL, LARGEST_CELL = 4, 8  # pixels along a side, unless the configuration says otherwise
PIXELS_ALONG_CELL = (2, 250)  # that can be asked for; counts have 16 bits


@dataclass(frozen=True)
class BinnedGrid:
    """The common grid: a tangent plane (TAN), north up, east to the left.

    Attributes
    ----------
    ra, dec : float
        Tangent point in degrees (ICRS); cell (0, 0) is centred on it.
    cell : float
        Side of a cell in arcsec.
    """

    ra: float
    dec: float
    cell: float

    @cached_property
    def wcs(self) -> WCS:
        """World coordinates; pixel coordinates that count from 0 are cell indices x, y (which may be negative)."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crval = [self.ra, self.dec]
        wcs.wcs.crpix = [1.0, 1.0]
        wcs.wcs.cd = np.array([[-1.0, 0.0], [0.0, 1.0]]) * self.cell / 3600
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.set()
        return wcs


def binned_grid(config: FieldConfig, pixel_scale: float) -> BinnedGrid:
    """The grid of a field's galaxy.

    Parameters
    ----------
    config : `~kred_core.config.FieldConfig`
    pixel_scale : float
        Of the field's detectors, in arcsec.

    Returns
    -------
    BinnedGrid

    Raises
    ------
    ConfigError
        A cell would hold fewer than 2 x 2 or more than 250 x 250 pixels.
    InputError
        Nothing says where the field is, or its tile table cannot be used.

    Notes
    -----
    Cells have 2 arcsec, but at least 4 and at most 8 pixels, rounded to two digits: 2 arcsec for DECam. The tangent
    point is the mean position, rounded to 0.1 deg, of all fields of the survey with the same prefix (the name up to
    the first ``_``). A field elsewhere on the sky takes that of the tiles in its tile table of the fields with the same
    prefix that are not far away (`kred_core.survey.galaxy`), rounded too, or its own centre. Both can be set in
    ``config.stamps``.
    """
    cell = config.stamps.cell_size or usual_cell(pixel_scale)
    least, most = PIXELS_ALONG_CELL
    if not least * pixel_scale <= cell <= most * pixel_scale:
        raise ConfigError(
            f"stamps.cell_size is {cell:g} arcsec; with pixels of {pixel_scale:.3g} arcsec it must be between "
            f"{least * pixel_scale:.3g} and {most * pixel_scale:.3g}"
        )
    return BinnedGrid(*_tangent_point(config), cell)


def usual_cell(pixel_scale: float) -> float:
    """Side of a cell for pixels of some size, both in arcsec: 2 arcsec, but at least 4 and at most 8 pixels, in two digits."""
    return float(f"{min(max(CELL, SMALLEST_CELL * pixel_scale), LARGEST_CELL * pixel_scale):.1e}")


def _tangent_point(config: FieldConfig) -> tuple[float, float]:
    if config.stamps.centre:
        return config.stamps.centre[0], config.stamps.centre[1]
    of_survey = _mean(survey.galaxy(config.field, SurveyConfig()))
    elsewhere = bool(config.survey.centre or config.survey.tile_table)
    own = _mean(survey.galaxy(config.field, config.survey)) if elsewhere else None
    if own is None and of_survey is None:
        raise InputError(
            f"field {config.field} is not in the survey and nothing says where it is; give its centre "
            "(option survey.centre: RA,Dec in degrees), a tile table (survey.tile_table) or stamps.centre"
        )
    if own is None or (of_survey is not None and sky.separation(own, of_survey) < survey.tables.NEAR):
        return _tenths(of_survey)
    return (config.survey.centre[0], config.survey.centre[1]) if config.survey.centre else _tenths(own)


def _mean(positions: list[tuple[float, float]]) -> tuple[float, float] | None:
    return sky.mean_position(*np.array(positions).T) if positions else None


def _tenths(position: tuple[float, float]) -> tuple[float, float]:
    return round(position[0], 1) % 360.0, round(position[1], 1)
