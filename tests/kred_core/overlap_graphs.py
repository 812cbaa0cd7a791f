"""Simulated overlap graphs with known truth: the differences of a dithered field without a single pixel.

Pointings and footprints are those of DECam, so that the graphs have the real number of neighbours, corners and gaps; the
differences are drawn from a noise model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kred_core.match import N_BLOCKS, find_pairs
from kred_core.simulate.camera import NATIVE_SCALE, DetectorGeometry, Pointing, ccds
from kred_core.sky import unit_vectors
from kred_core.sky.sphere import local_frame, mean_position, position
from kred_core.survey import field_centre

NX, NY = 2046, 4094
SAMPLES = 16  # points along each side of the box around an overlap
TOGETHER = 4096  # pairs whose points are in memory at once
ROTATION = np.radians(0.05)  # scatter of the camera's position angle
BROKEN = ("N30", "S30")  # detectors that most real exposures lack


@dataclass(frozen=True)
class GraphConfig:
    """What is simulated. Surface brightnesses are in any one unit, here called DN."""

    centres: tuple[tuple[float, float], ...] = ((81.789, -66.454),)  # of fields, RA and Dec in degrees
    exposures: int = 10  # at each centre
    dither: float = 300.0  # largest offset of a pointing from the centre, in each axis, in arcsec
    detectors: int = 62  # at most this many of each exposure, in the order of CCDNUM
    offset: float = 15.0  # rms of the backgrounds, in equal parts from exposures and from detectors
    white: float = 120.0  # noise of a difference of one cell; that of n cells is less by sqrt(n)
    floor: float = 2.0  # noise that a part of an overlap has beyond that, however large it is
    outliers: float = 0.0  # fraction of pairs that a star, a ghost or a satellite spoils
    spoiled: float = 30.0  # mean error of these: exponentially distributed, of either sign
    one_sided: bool = False  # spoiled pairs err upwards only
    slope: float = 0.0  # rms of the slopes of exposures,
    detector_slope: float = 0.0  # of those that detectors have in addition,
    step: float = 0.0  # and of amplifier steps
    cell: float = 2.0  # side of a cell in arcsec
    min_cells: int = 100  # least overlap that becomes a pair
    seed: int = 1


# Cases that methods are compared on: a few exposures as of one tile's image, a whole field, a galaxy of 10^4 images.
_GALAXY = tuple(field_centre(f"LMC_c{number}") for number in (36, 37, 39, 35, 41, 42, 45, 47, 48))
GRAPHS = {
    "tile 60": GraphConfig(dither=60.0),
    "tile 300": GraphConfig(),
    "field 900": GraphConfig(exposures=26, dither=900.0),
    "field 300": GraphConfig(exposures=26),
    "galaxy": GraphConfig(centres=_GALAXY, exposures=19, dither=600.0),
}


@dataclass(frozen=True, eq=False)
class Graph:
    """A simulated graph of n detectors and K pairs, and the truth."""

    n: int
    first: np.ndarray  # (K,) int64
    second: np.ndarray
    difference: np.ndarray  # (K,)
    error: np.ndarray
    n_cells: np.ndarray  # (K,) int64
    blocks: np.ndarray  # (K, 4), as in `kred_core.match.Pairs`
    block_errors: np.ndarray
    block_places: np.ndarray  # (K, 4, 2, 3)
    spoiled: np.ndarray  # (K,) bool: the pairs that err
    background: np.ndarray  # (n,): true background at the centre of each detector; of mean 0
    gradient: np.ndarray  # (n, 2): true slopes, along NAXIS1 and NAXIS2, per half detector
    step: np.ndarray  # (n,)
    exposure: np.ndarray  # (n,) int64
    name: np.ndarray  # (n,) str
    corners: np.ndarray  # (n, 4, 2): RA and Dec of the corner pixels, in the order of COR1..COR4
    place: np.ndarray  # (n, 2): east and north of the middle of the first exposure, degrees

    def with_background(self, added: np.ndarray) -> Graph:
        """The same noise with other backgrounds: these added to the true ones."""
        change = added[self.second] - added[self.first]
        return replace(
            self,
            background=self.background + added,
            difference=self.difference + change,
            blocks=self.blocks + change[:, None],
        )


def simulate_graph(config: GraphConfig) -> Graph:
    """Draw a graph, the same for the same configuration. Pairs are sorted."""
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, 11]))
    corners, exposure, name = _footprints(config, rng)
    n, n_exposures = len(name), int(exposure.max()) + 1
    first, second = find_pairs(corners, np.full(n, NX), np.full(n, NY), exposure)

    vectors = unit_vectors(corners[..., 0], corners[..., 1])
    counts, places = _shared(vectors, first, second)
    detector_cells = NX * NY * (NATIVE_SCALE / config.cell) ** 2
    cells = np.round(counts * detector_cells)
    kept = cells.sum(axis=1) >= config.min_cells
    first, second, cells, places = first[kept], second[kept], cells[kept], places[kept]

    background = config.offset * np.sqrt(0.5) * (rng.standard_normal(n_exposures)[exposure] + rng.standard_normal(n))
    background -= background.mean()
    gradient = config.slope * rng.standard_normal((n_exposures, 2))[exposure] + config.detector_slope * rng.standard_normal((n, 2))
    step = config.step * rng.standard_normal(n)
    terms = np.concatenate([gradient, step[:, None] / 2], axis=1)
    level_first = background[first, None] + np.einsum("kbt,kt->kb", places[:, :, 0], terms[first])
    level_second = background[second, None] + np.einsum("kbt,kt->kb", places[:, :, 1], terms[second])

    measured = cells >= config.min_cells / N_BLOCKS
    variance = np.divide(config.white**2, cells, out=np.zeros_like(cells), where=cells > 0) + config.floor**2
    noise = np.sqrt(variance) * rng.standard_normal(cells.shape)
    spoiled = rng.random(first.size) < config.outliers
    sign = np.where(config.one_sided | (rng.random(first.size) < 0.5), 1.0, -1.0)
    wrong = np.where(spoiled, sign * rng.exponential(config.spoiled, first.size), 0.0)
    blocks = level_second - level_first + noise + wrong[:, None]
    share = cells / cells.sum(axis=1, keepdims=True)
    middle = mean_position(*np.moveaxis(corners[exposure == 0], -1, 0))
    local = vectors.mean(axis=1) @ np.array(local_frame(*middle)).T
    return Graph(
        n=n,
        first=first,
        second=second,
        difference=(share * np.where(cells > 0, blocks, 0.0)).sum(axis=1),
        error=np.sqrt((share**2 * variance).sum(axis=1)),
        n_cells=cells.sum(axis=1).astype(np.int64),
        blocks=np.where(measured, blocks, np.nan),
        block_errors=np.where(measured, np.sqrt(variance), np.nan),
        block_places=np.where(measured[..., None, None], places, np.nan),
        spoiled=spoiled,
        background=background,
        gradient=gradient,
        step=step,
        exposure=exposure,
        name=name,
        corners=corners,
        place=np.degrees(local[:, 1:] / local[:, :1]),
    )


def _footprints(config: GraphConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners (n, 4, 2), number of the exposure and name of every detector."""
    chips = [chip for chip in ccds([]) if chip.name not in BROKEN][: config.detectors]
    # In the frame of a pointing at RA 0, Dec 0 the unit vectors are (depth, east, north): to point elsewhere is to turn them.
    local = np.array(
        [unit_vectors(*np.transpose(DetectorGeometry(chip, Pointing(0.0, 0.0), 1).corners((NY, NX))[1:])) for chip in chips]
    )
    corners, names = [], []
    for field, (ra, dec) in enumerate(config.centres):
        for number in range(config.exposures):
            east, north = np.radians(rng.uniform(-1, 1, 2) * config.dither / 3600)
            pointing = position(np.array([1.0, east, north]) @ local_frame(ra, dec))
            angle = ROTATION * rng.standard_normal()
            turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
            corners.append(np.stack(position(local @ turn @ np.array(local_frame(*pointing))), axis=-1))
            names += [f"f{field}e{number:03d}_{chip.name}" for chip in chips]
    exposure = np.repeat(np.arange(len(corners)), len(chips))
    return np.concatenate(corners), exposure, np.array(names)


def _shared(vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps in quarters: fraction of a detector's area (K, 4), and mean u, v and sign(u) on both (K, 4, 2, 3).

    Points on a grid in the box, in (u, v) of the first detector, that holds the overlap; its quarters are the parts.
    """
    lower_left, lower_right, upper_left, upper_right = np.moveaxis(vectors, 1, 0)
    middle = vectors.mean(axis=1)
    sides = (
        np.stack([lower_right + upper_right - lower_left - upper_left, upper_left + upper_right - lower_left - lower_right], 1) / 4
    )

    def to(i, j):
        """Affine maps, (k, 2, 3), from (u, v, 1) on detectors j to (u, v) on detectors i."""
        basis = sides[i]
        seen = np.concatenate([sides[j], (middle[j] - middle[i])[:, None]], axis=1)
        return np.linalg.solve(basis @ basis.swapaxes(1, 2), basis @ seen.swapaxes(1, 2))

    fraction, places = np.zeros((first.size, 4)), np.zeros((first.size, 4, 2, 3))
    steps = (np.arange(SAMPLES) + 0.5) / SAMPLES
    for start in range(0, first.size, TOGETHER):
        part = slice(start, start + TOGETHER)
        back, there = to(first[part], second[part]), to(second[part], first[part])
        reach = np.abs(back[:, :, :2]).sum(axis=2)
        low, high = np.maximum(back[:, :, 2] - reach, -1.0), np.minimum(back[:, :, 2] + reach, 1.0)
        size = np.maximum(high - low, 0.0)
        points = low[:, :, None] + size[:, :, None] * steps
        here = np.stack(np.broadcast_arrays(points[:, 0, :, None], points[:, 1, None, :]))
        other = np.einsum("kab,bkij->akij", there[:, :, :2], here) + there[:, :, 2].T[:, :, None, None]
        inside = (np.abs(other) <= 1).all(axis=0)
        weight = inside * (size.prod(axis=1) / 4 / SAMPLES**2)[:, None, None]
        half = (-1, 2, SAMPLES // 2, 2, SAMPLES // 2)
        area = weight.reshape(half).sum(axis=(2, 4)).reshape(-1, 4)
        fraction[part] = area
        for side, (x, y) in enumerate((here, other)):
            for term, values in enumerate((x, y, np.sign(x))):
                total = (weight * values).reshape(half).sum(axis=(2, 4)).reshape(-1, 4)
                np.divide(total, area, out=places[part, :, side, term], where=area > 0)
    return fraction, places
