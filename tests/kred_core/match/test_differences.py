"""Overlapping detectors: who overlaps whom, what can be compared, by how much they differ and how well that is known."""

import time
import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import stats

from kred_core import binned, statistics
from kred_core import sky as geometry
from kred_core.binned import BinnedGrid, BinnedMap
from kred_core.config import MatchConfig
from kred_core.errors import InputError
from kred_core.exposures import rescale
from kred_core.exposures.exposure import Exposure
from kred_core.match import N_BLOCKS, Pairs, find_pairs, good_cells, measure

NX, NY = 2046, 4094
CONFIG = MatchConfig()
NOISE = 4.0  # counts28 per square arcsec and cell, as of a 2 arcsec cell under a dark sky
PIXELS = 8  # along a cell


def robust(values):
    return 1.4826 * np.median(np.abs(values))


# ---- who overlaps whom


def detectors(ra, dec, angle=0.0, width=0.149, height=0.298):
    """Corner pixels, (n, 4, 2), of detectors around positions in degrees, turned by an angle in radians."""
    ra, dec, angle = np.broadcast_arrays(*map(np.atleast_1d, (ra, dec, angle)))
    middle = geometry.unit_vectors(ra, dec)
    a, d = np.radians(ra), np.radians(dec)
    east = np.stack([-np.sin(a), np.cos(a), 0 * a], axis=-1)
    north = np.stack([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)], axis=-1)
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    along_x, along_y = c * east + s * north, c * north - s * east
    half_x, half_y = np.radians(width / 2) * (NX - 1) / NX, np.radians(height / 2) * (NY - 1) / NY
    vectors = [middle + i * half_x * along_x + j * half_y * along_y for i, j in ((-1, -1), (1, -1), (-1, 1), (1, 1))]
    return np.stack([np.stack(geometry.position(v), axis=-1) for v in vectors], axis=1)


def pairs(corners, exposure=None):
    n = len(corners)
    first, second = find_pairs(corners, np.full(n, NX), np.full(n, NY), exposure)
    return list(zip(first.tolist(), second.tolist(), strict=True))


def scattered(n, ra, dec, size, seed=1):
    """Detectors at random places within a square of so many degrees, in any position angle."""
    rng = np.random.default_rng(seed)
    x, y = np.radians(rng.uniform(-size / 2, size / 2, (2, n)))
    a, d = np.radians([ra, dec])
    middle = np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    east = np.array([-np.sin(a), np.cos(a), 0.0])
    north = np.cross(middle, east)
    places = geometry.position(middle + x[:, None] * east + y[:, None] * north)
    return detectors(*places, rng.uniform(0, 2 * np.pi, n))


@pytest.mark.parametrize("place", [(81.8, -66.5), (0.0, -30.0), (0.0, 0.0), (359.9, -75.0), (120.0, -90.0), (10.0, 90.0)])
def test_pairs_are_those_whose_outlines_touch_anywhere_on_the_sky(place):
    corners = scattered(300, *place, 2.0)
    shapes = geometry.outlines(corners, np.full(300, NX), np.full(300, NY))
    expected = []
    for i in range(300):
        touching = geometry.touching(geometry.SkyPolygon(shapes[i]), shapes[i + 1 :])
        expected += [(i, int(j) + i + 1) for j in np.flatnonzero(touching)]
    assert 1500 < len(expected) < 6000
    assert pairs(corners) == expected


@pytest.mark.parametrize(("distance", "expected"), [(1 - 1e-6, [(0, 1)]), (1 + 1e-6, [])])
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_detectors_that_touch_with_a_corner_only(distance, expected, angle):
    size = 0.1
    c, s = np.cos(angle), np.sin(angle)
    east, north = distance * size * (c - s), distance * size * (s + c)
    corners = detectors([0.0, np.degrees(np.arctan(np.radians(east)))], 0.0, angle, size, size)
    assert pairs(corners[:1]) == []
    shift = geometry.unit_vectors(corners[0, :, 0], corners[0, :, 1]) + np.array([0.0, np.radians(east), np.radians(north)])
    corners[1] = np.stack(geometry.position(shift), axis=-1)
    assert pairs(corners) == expected


def test_detectors_of_one_exposure_are_never_paired():
    corners = np.repeat(detectors(10.0, -60.0), 4, axis=0)
    assert pairs(corners, [7, 3, 7, 3]) == [(0, 1), (0, 3), (1, 2), (2, 3)]


def test_a_detector_without_positions_is_in_no_pair():
    corners = np.repeat(detectors(10.0, -60.0), 4, axis=0)
    corners[1, 2, 0] = np.nan
    assert pairs(corners) == [(0, 2), (0, 3), (2, 3)]
    assert pairs(corners[:0]) == []
    assert pairs(corners[:1]) == []
    assert pairs(detectors([10.0, 200.0], [-60.0, 20.0])) == []


def test_a_detector_as_large_as_a_constellation_is_refused():
    corners = detectors([10.0, 10.1], [-60.0, -60.0])
    corners[1, 0] = (200.0, 10.0)
    with pytest.raises(InputError, match="1 detectors have a radius of more than 25 deg"):
        pairs(corners)


def test_ten_thousand_detectors_take_a_second():
    corners = scattered(10000, 80.0, -69.0, 5.6)
    pairs(corners[:2])
    start = time.process_time()
    first, second = find_pairs(corners, np.full(10000, NX), np.full(10000, NY))
    assert time.process_time() - start < 5
    assert 2.5e5 < first.size < 5e5
    assert (first < second).all()
    assert (np.diff(first * 10000 + second) > 0).all()


# ---- what can be compared


def map_of(mean, x0=0, y0=0, std=None, count=None):
    """A binned map with given cells; without stars unless a scatter is given."""
    ny, nx = mean.shape
    if std is None:
        std = NOISE * PIXELS * (1 + 0.09 * np.random.default_rng(ny * nx).normal(size=mean.shape))
    count = np.full(mean.shape, PIXELS**2) if count is None else count
    to_detector = np.array([[2 / nx, 0, -(2 * x0 + nx - 1) / nx], [0, 2 / ny, -(2 * y0 + ny - 1) / ny]])
    mean, std = (a.astype(np.float32) for a in (np.where(count > 0, mean, np.nan), std))
    return BinnedMap("exposure", "N1", x0, y0, mean, std, count.astype(np.uint16), 40.0, 0.069, to_detector)


def test_maps_without_noise_or_without_cells():
    flat = map_of(np.full((40, 50), 3.0), std=np.zeros((40, 50)))
    assert good_cells(flat).all()
    spiked = flat.std.copy()
    spiked[20, 25] = 1.0
    assert np.count_nonzero(~good_cells(replace(flat, std=spiked))) == 9
    empty = map_of(np.full((4, 5), np.nan), count=np.zeros((4, 5)))
    assert good_cells(empty).sum() == 0
    assert good_cells(empty).shape == (4, 5)


# ---- by how much they differ


def compared(maps, first=None, second=None, config=CONFIG, load=None):
    if first is None:
        first, second = np.triu_indices(len(maps), 1)
    boxes = [(s.x0, s.y0, s.mean.shape[1], s.mean.shape[0]) for s in maps]
    centres = [(10.0 + 0.1 * k, 0.0) for k in range(len(maps))]
    return measure(first, second, load or maps.__getitem__, boxes, centres, config)


def field_of(rng, n=70, ny=150, nx=80, size=340, flat=0.0, patch=16, slope=0.0, spoilt=0.0, noise=NOISE):
    """n detectors at random places of a nebula, in cells; their true levels. ``flat`` is the scatter of flat-field patches."""
    y, x = np.ogrid[: size + ny, : size + nx]
    nebula = 20 * np.sin(x / 60) * np.cos(y / 45)
    maps, levels = [], rng.normal(0, 30, n)
    for level in levels:
        x0, y0 = (int(rng.integers(0, size - length)) for length in (nx, ny))
        cells = nebula[y0 : y0 + ny, x0 : x0 + nx] + level + rng.normal(0, noise, (ny, nx))
        flaws = np.kron(rng.normal(0, 1, (ny // patch + 2, nx // patch + 2)), np.ones((patch, patch)))
        oy, ox = rng.integers(0, patch, 2)
        cells += flat * flaws[oy : oy + ny, ox : ox + nx]
        gx, gy = slope * rng.normal(0, 1, 2)
        cells += gx * (np.arange(nx) - (nx - 1) / 2) + gy * (np.arange(ny) - (ny - 1) / 2)[:, None]
        if rng.random() < spoilt:
            cells[: ny // 3] += rng.normal(0, 10 * NOISE)
        maps.append(map_of(cells, x0, y0))
    return maps, levels


def test_one_pair_is_measured_as_numpy_and_scipy_do():
    rng = np.random.default_rng(6)
    y, x = np.ogrid[:120, :200]
    sky = 50.0 * np.sin(x / 30 + 1) * np.cos(y / 30)  # a nebula
    one = map_of(sky[:, :150] + rng.normal(0, NOISE, (120, 150)), 0, 0)
    cells = sky[20:, 50:] + 12.5 + rng.normal(0, NOISE, (100, 150))
    cells[:20, :20] += rng.exponential(30, (20, 20))
    other = map_of(cells, 50, 20)
    found = compared([one, other])
    good = good_cells(one)[20:, 50:] & good_cells(other)[:, :100]
    values = (other.mean[:, :100].astype(float) - one.mean[20:, 50:])[good]
    assert found.n_cells.tolist() == [good.sum()]
    assert found.difference[0] == pytest.approx(statistics.histogram_mode(values)[0], abs=1e-5)
    assert found.difference[0] == pytest.approx(12.5, abs=0.2)
    assert found.mode[0] == pytest.approx(statistics.half_sample_mode(values), abs=1e-5)
    assert found.mean[0] == pytest.approx(values.mean(), abs=1e-6)
    assert found.median[0] == pytest.approx(np.median(values), abs=1e-6)
    assert found.std[0] == pytest.approx(values.std(), rel=1e-6)
    assert found.skew[0] == pytest.approx(stats.skew(values), rel=1e-5)
    assert found.kurtosis[0] == pytest.approx(stats.kurtosis(values), rel=1e-5)
    clipped = [float(v[0]) for v in (found.clipped_mean, found.clipped_median, found.clipped_std)]
    kept = statistics.statistics(values, clipped=True)
    assert clipped == pytest.approx([kept.mean, kept.median, kept.std], abs=1e-5)
    assert found.separation[0] == pytest.approx(360.0, rel=1e-9)


def test_differences_without_noise_are_exact_and_can_be_weighted():
    rng = np.random.default_rng(9)
    levels = rng.normal(0, 15, 12).astype(np.float32).astype(float)
    maps = [map_of(np.full((40, 30), level), 5 * k, 3 * k, std=np.zeros((40, 30))) for k, level in enumerate(levels)]
    found = compared(maps)
    expected = levels[found.second] - levels[found.first]
    assert len(found) > 10
    for name in ("difference", "mode", "mean", "median", "clipped_mean", "clipped_median"):
        assert np.abs(getattr(found, name) - expected).max() < 1e-12 * np.std(levels), name
    assert np.nanmax(np.abs(found.blocks - expected[:, None])) < 1e-12 * np.std(levels)
    assert found.error.min() > 0
    assert found.error.max() < 1e-5 * np.std(levels)
    assert all(np.isfinite(getattr(found, f.name)).all() for f in fields(Pairs) if "block" not in f.name)
    assert (np.stack([found.skew, found.kurtosis]) == 0).all()
    nothing = compared([map_of(np.zeros((40, 30)), std=np.zeros((40, 30))) for _ in range(2)])
    assert nothing.difference[0] == 0
    assert 0 < nothing.error[0] < 1e-30


def test_pairs_with_too_little_in_common_are_listed():
    rng = np.random.default_rng(10)
    noise = [rng.normal(0, NOISE, (40, 40)) for _ in range(5)]
    even = np.full((40, 40), NOISE)
    maps = [
        map_of(noise[0], std=even),
        map_of(noise[1], 31, 0, even),  # 9 x 40 cells in common with the first
        map_of(noise[2], 38, 0, even),  # 2 x 40 with the first, 33 x 40 with the second
        map_of(np.full((40, 40), np.nan), count=np.zeros((40, 40))),
        map_of(noise[4], 500, 500, even),
    ]
    found = compared(maps)
    assert list(zip(found.first, found.second, found.n_cells, strict=True)) == [(0, 1, 360), (1, 2, 1320)]
    assert found.small_first.size == 8
    assert (0, 2) in list(zip(found.small_first, found.small_second, strict=True))
    assert (np.diff(found.small_first * 5 + found.small_second) > 0).all()
    few = compared(maps, config=MatchConfig(min_cells=10))
    assert list(zip(few.first, few.second, few.n_cells, strict=True)) == [(0, 1, 360), (0, 2, 80), (1, 2, 1320)]
    assert np.isfinite(few.error).all()
    none = compared(maps, [], [])
    assert (len(none), none.small_first.size, none.floor) == (0, 0, 0.0)
    assert none.blocks.shape == (0, N_BLOCKS)


# ---- the parts of an overlap


def test_parts_show_an_amplifier_step_and_a_spoilt_quarter():
    rng = np.random.default_rng(15)
    cells = rng.normal(0, NOISE, (4, 120, 160))
    cells[1, :, 80:] += 6.0  # amplifier B
    cells[2, 60:, :80] -= 40.0
    found = compared([map_of(c) for c in cells], [0, 0, 0], [1, 2, 3])
    expected = np.array([[0, 0, 6, 6], [0, -40, 0, 0], [0, 0, 0, 0]])
    assert np.abs(found.blocks - expected).max() < 5 * 2.15 * NOISE * np.sqrt(2 / 4800)
    assert found.block_places[0, :, 1, 2] == pytest.approx([-1, -1, 1, 1], abs=0.05)


# ---- how well it is known


@pytest.mark.parametrize(
    "flaws",
    [{}, {"flat": 0.5}, {"flat": 0.5, "patch": 30}, {"slope": 0.02}, {"slope": 0.02, "flat": 0.5}, {"spoilt": 0.1}],
    ids=str,
)
def test_stated_errors_are_those_that_are_made(flaws):
    maps, levels = field_of(np.random.default_rng(17), **flaws)
    found = compared(maps)
    assert len(found) > 800
    assert found.n_cells.min() < 200
    assert found.n_cells.max() > 5000
    pull = (found.difference - (levels[found.second] - levels[found.first])) / found.error
    assert 0.85 < robust(pull) < 1.15
    if not flaws:
        assert 0.9 < np.sqrt((pull**2).mean()) < 1.1
        assert found.floor < 0.35 * np.median(found.error)
    for half in np.array_split(np.argsort(found.n_cells), 2):  # the small ones, and the large ones
        assert 0.75 < robust(pull[half]) < 1.25


# ---- the order of work


def test_same_bytes_in_any_order_of_the_pairs():
    maps, _ = field_of(np.random.default_rng(20), n=20, flat=0.5)
    first, second = np.triu_indices(20, 1)
    expected = compared(maps, first, second)
    order = np.random.default_rng(0).permutation(first.size)
    found = compared(maps, first[order], second[order])
    for field in fields(Pairs):
        assert np.asarray(getattr(found, field.name)).tobytes() == np.asarray(getattr(expected, field.name)).tobytes(), field.name


def test_each_map_is_loaded_once_and_dropped_when_it_is_done():
    n, side, loads = 200, 120, []

    def load(k):
        loads.append(k)
        return map_of(np.random.default_rng(k).normal(k, NOISE, (side, side)), 0, 60 * k)

    boxes = [(0, 60 * k, side, side) for k in range(n)]
    first, second = np.triu_indices(n, 1)
    near = second - first <= 3  # of which the third does not overlap
    shuffled = np.random.default_rng(1).permutation(np.flatnonzero(near))
    measure(first[:1], second[:1], load, boxes, np.zeros((n, 2)), CONFIG)
    loads.clear()
    tracemalloc.start()
    found = measure(first[shuffled], second[shuffled], load, boxes, np.zeros((n, 2)), CONFIG)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loads == list(range(n))
    assert len(found) == n - 1
    assert found.difference == pytest.approx(1.0, abs=1.0)
    assert peak < 40 * side * side * 4  # bytes; the cells of all binned maps would be 200


# ---- on disk


def test_pairs_come_back_from_disk(tmp_path):
    expected = compared(field_of(np.random.default_rng(23), n=15)[0])
    path = tmp_path / "match" / "N662.npz"
    expected.write(path)
    before = path.stat().st_mtime_ns, path.read_bytes()
    found = Pairs.read(path)
    for field in fields(Pairs):
        a, b = (np.asarray(getattr(p, field.name)) for p in (expected, found))
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), field.name
    assert isinstance(found.floor, float)
    found.write(path)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_damaged_pairs_are_explained(tmp_path):
    path = tmp_path / "r.npz"
    with pytest.raises(InputError, match=r"r\.npz is missing; run the stage 'match' again"):
        Pairs.read(path)
    compared(field_of(np.random.default_rng(24), n=5)[0]).write(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:1000], whole[: len(whole) // 2] + b"x" + whole[len(whole) // 2 + 1 :], b"text"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"r\.npz cannot be read .* delete it and run the stage 'match' again"):
            Pairs.read(path)


# ---- real data


def test_real_exposures_differ_as_was_found_before_and_close_around_the_triangle(real_decam):
    names = ["c4d_150411_035242_ooi_z_v1", "c4d_170316_062107_ooi_z_ls9", "c4d_170419_042827_ooi_z_ls9"]
    known = {(0, 1): -62.40, (0, 2): -286.58, (1, 2): -224.09}  # counts28 per native pixel
    grid = BinnedGrid(186.7, 25.5, 2.0)
    maps, corners, shapes, centres = [], [], [], []
    for name in names:
        exposure = Exposure.open(real_decam / "LS_T4" / "mef" / f"{name}.fits.fz")
        detector = exposure.detectors[0]
        pixels, bad = detector.pixels(), detector.mask_codes() != 0
        wcs = geometry.celestial_wcs(detector.header)
        scale, level = rescale.factor(exposure.primary["MAGZERO"]), statistics.statistics(pixels, bad).histogram_mode
        maps.append(binned.bin_detector(pixels, bad, wcs, grid, scale, level, name, detector.extname))
        corners.append(geometry.corners(wcs, detector.shape))
        centres.append(geometry.centre(wcs, detector.shape))
        shapes.append(detector.shape)
    first, second = find_pairs(corners, [s[1] for s in shapes], [s[0] for s in shapes], [0, 1, 2])
    boxes = [(s.x0, s.y0, s.mean.shape[1], s.mean.shape[0]) for s in maps]
    found = measure(first, second, maps.__getitem__, boxes, centres, CONFIG)
    level, area = (np.array([getattr(s, name) for s in maps]) for name in ("level", "area"))
    pixel = (area[first] + area[second]) / 2
    difference, error = found.difference * pixel + level[second] - level[first], found.error * pixel
    assert list(zip(found.first, found.second, strict=True)) == list(known)
    assert np.abs((difference - list(known.values())) / error).max() < 2
    assert 0.05 < error.min()
    assert error.max() < 0.2
    one, whole, other = difference
    assert abs(one + other - whole) < np.sqrt((error**2).sum())
