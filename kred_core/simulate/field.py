"""Simulate a field: plan its exposures, make their files, write down the truth.

An exposure is the unit of work. Its files depend on the configuration and on the
exposure's own generators only, so they have the same bytes in any order of work
and in any number of processes.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from ..fits.cards import hdu_bytes
from ..fits.compress import compressed_image, compressed_mask
from ..products import FieldPaths, atomic
from . import faults
from .bands import band_and_exptime
from .config import SimulationConfig
from .exposures import ExposurePlan, centre_of, generator, plan
from .headers import image_header, mask_header, primary_header
from .pixels import render, stars_near
from .sky import Sky, Stars
from .truth import TruthPaths, detector_table, exposure_table, fault_table, star_table, write_truth

__all__ = ["Simulation", "simulate", "simulate_field"]

log = logging.getLogger(__name__)

FIELD_RADIUS = 1.25  # deg from the pointing to the corner of the outermost detector, with a margin for large stars


@dataclass(frozen=True)
class Simulation:
    """A simulated field.

    Attributes
    ----------
    config : `SimulationConfig`
    files : tuple of `~pathlib.Path`
        Science files, in the order of ``exposures``.
    truth : `~kred_core.simulate.truth.TruthPaths`
        Where the truth is on disk.
    exposures, detectors, stars, faults : `~astropy.table.Table`
        The truth, as on disk.
    """

    config: SimulationConfig
    files: tuple[Path, ...]
    truth: TruthPaths
    exposures: Table
    detectors: Table
    stars: Table
    faults: Table


@cache
def _stars(sky: Sky, ra: float, dec: float, radius: float) -> Stars:
    return sky.stars(ra, dec, radius)


def _stars_of(config: SimulationConfig) -> Stars:
    """All stars that the field can see; kept, because each process needs them for each of its exposures."""
    return _stars(Sky.of(config), *centre_of(config), FIELD_RADIUS + 2 * config.dither / 3600)


def _make_exposure(config: SimulationConfig, exposure: ExposurePlan) -> np.ndarray:
    """Write the science file and the mask of one exposure; returns the indices of the stars on its detectors."""
    directory = FieldPaths(config.root, config.field).mef
    stars = _stars_of(config)
    seen = [np.empty(0, int)]
    data: dict[str, tuple[int, int]] = {}
    path = directory / exposure.file_name()
    with atomic(path) as science, atomic(directory / exposure.file_name("ood")) as masks:
        with open(science, "wb") as science_file, open(masks, "wb") as mask_file:
            header = primary_header(exposure, config.seeing_keyword)
            faults.damage_primary(exposure, header)
            primary, _ = hdu_bytes(header)
            science_file.write(primary)
            mask_file.write(primary)
            for ccd in exposure.ccds:
                geometry = exposure.geometry(ccd)
                image, mask = render(config, exposure, geometry, stars)
                image, mask = faults.damage_pixels(exposure, ccd.name, image, mask)
                header = image_header(exposure, geometry, image, mask)
                faults.damage_header(exposure, header)
                dither = int(generator(config.seed, exposure, ccd, 3).integers(1, 10001))
                head, body = compressed_image(header, image, dither)
                data[ccd.name] = (science_file.tell() + len(head), len(body))
                science_file.write(head + body)
                mask_file.write(b"".join(compressed_mask(mask_header(exposure, geometry), mask)))
                near, x, y = stars_near(geometry, stars)
                ny, nx = geometry.shape
                seen.append(near[(x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)])
        faults.damage_file(exposure, science, data)
    return np.unique(np.concatenate(seen))


def _results(config: SimulationConfig, exposures: tuple[ExposurePlan, ...]) -> Iterator[np.ndarray]:
    processes = min(config.processes or os.cpu_count() or 1, len(exposures))
    if processes == 1:
        for exposure in exposures:
            yield _make_exposure(config, exposure)
        return
    # Spawned, because a fork of a process that has threads can hang.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_make_exposure, [config] * len(exposures), exposures)


def simulate(config: SimulationConfig) -> Simulation:
    """Simulate a field in the form in which real data arrive.

    Parameters
    ----------
    config : `SimulationConfig`

    Returns
    -------
    `Simulation`

    Raises
    ------
    ConfigError
        Unknown detector, or no detector on the tiles.
    InputError
        Unknown field or tile.

    Notes
    -----
    An existing simulation of the same field is overwritten, file by file; files of another
    configuration with other names stay.
    With several processes, a script that calls this needs the usual ``if __name__ == "__main__":``.
    """
    good = plan(config)
    exposures = (*good, *faults.faulty_exposures(config, good))
    n_detectors = sum(len(e.ccds) for e in exposures)
    log.info("field %s: %d exposures with %d detectors to simulate", config.field, len(exposures), n_detectors)
    seen = []
    for i, (exposure, found) in enumerate(zip(exposures, _results(config, exposures), strict=True), 1):
        seen.append(found)
        fault = f", fault: {exposure.fault}" if exposure.fault else ""
        log.info("[%d/%d] %s: %d detectors%s", i, len(exposures), exposure.file_name(), len(exposure.ccds), fault)
    names = dict.fromkeys(band_and_exptime(text)[0].name for text in config.bands)
    tables = {
        "exposures": exposure_table(exposures),
        "detectors": detector_table(config, exposures),
        "stars": star_table(_stars_of(config), np.unique(np.concatenate(seen)), names),
        "faults": fault_table(exposures),
    }
    truth = write_truth(config, tables)
    log.info("field %s: the truth is in %s", config.field, truth.directory)
    directory = FieldPaths(config.root, config.field).mef
    return Simulation(config, tuple(directory / e.file_name() for e in exposures), truth, **tables)


def simulate_field(root: Path | str, **options: Any) -> Simulation:
    """Simulate a field; options as in `SimulationConfig`.

    Examples
    --------
    >>> simulate_field("data", field="LMC_c42", tiles=["T07"], binning=16, exposures=2, bands=["N662", "r"])  # doctest: +SKIP
    """
    return simulate(SimulationConfig(root=Path(root), **options))
