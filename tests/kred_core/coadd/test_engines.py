"""The two engines on the same plan of a simulated field; the bound of memory.

Once with small detectors, once with full-size ones.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from kred_core.background import Background
from kred_core.coadd import native, swarp
from kred_core.coadd.plan import CoaddInput, CoaddPlan
from kred_core.config import CoaddConfig
from kred_core.exposures.rescale import factor
from kred_core.simulate import simulate_field
from kred_core.sky import Grid

WITHOUT_MASKS = CoaddConfig(mask_codes=[])


def simulated_plan(root, scale, n, **options):
    """A plan for a simulated field, with the true calibration and sky."""
    field = simulate_field(root, bands=["N662"], dither=60.0, seed=3, **options)
    factors = {str(row["Root"]): float(row["XFACTOR"]) for row in field.exposures}
    inputs = tuple(
        CoaddInput(
            path=next(path for path in field.files if path.name.startswith(str(row["Root"]))),
            root=str(row["Root"]),
            extname=str(row["EXTNAME"]),
            exptime=800.0,
            scale=factors[str(row["Root"])],
            back=float(row["BACK_PIX"]),
            sky_noise=1.0,
        )
        for row in field.detectors
    )
    centre = WCS(fits.getheader(field.files[0], 1)).wcs.crval
    grid = Grid(float(centre[0]), float(centre[1]), scale, n, n)
    return CoaddPlan(field.config.field, "T06", "N662", "N662", grid, inputs), field


@dataclass
class Both:
    """The mosaics and coverage maps of both engines."""

    native: np.ndarray
    swarp: np.ndarray
    native_coverage: np.ndarray
    swarp_coverage: np.ndarray
    wcs: WCS


def co_add(plan, directory) -> Both:
    (background,) = plan.backgrounds
    images, counts = [], []
    for engine in (native, swarp):
        mosaic, coverage = directory / f"{engine.__name__}.fits", directory / f"{engine.__name__}.coverage.fits.fz"
        engine.coadd(plan, WITHOUT_MASKS, {background: (mosaic, coverage)})
        images.append(fits.getdata(mosaic).astype(np.float64))
        counts.append(fits.getdata(coverage))
    return Both(*images, *counts, WCS(fits.getheader(mosaic)))


def noise(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def star_fluxes(both, stars, radius, n):
    """Sums in circles around the brightest stars that are not saturated, for each engine."""
    rows, columns = np.mgrid[: both.native.shape[0], : both.native.shape[1]]
    x, y = both.wcs.wcs_world2pix(stars["RA"], stars["Dec"], 0)
    size = both.native.shape[0]
    inside = (x > radius) & (y > radius) & (x < size - radius - 1) & (y < size - radius - 1)
    order = np.argsort(-np.array(stars["FLUX_N662"]))
    sums = []
    for i in order[inside[order]]:
        box = np.s_[int(y[i] - radius) : int(y[i] + radius) + 2, int(x[i] - radius) : int(x[i] + radius) + 2]
        circle = np.hypot(columns[box] - x[i], rows[box] - y[i]) < radius
        if both.native_coverage[box][circle].min() >= 2 and both.native[box].max() < 15000:
            sums.append([both.native[box][circle].sum(), both.swarp[box][circle].sum()])
    return np.array(sums[:n]).T


def agree(both, stars, radius):
    """METHODS, proof 11."""
    np.testing.assert_array_equal(both.native_coverage, both.swarp_coverage)
    assert np.count_nonzero((both.native != 0) != (both.swarp != 0)) < 10
    covered = (both.native != 0) & (both.swarp != 0)
    sigma = noise(both.native[covered])
    difference = (both.swarp - both.native)[covered]
    assert noise(difference) < 0.002 * sigma
    assert abs(np.median(difference)) < 0.002 * sigma
    bright = covered & (both.native > 10 * sigma)
    assert bright.sum() > 300
    assert both.swarp[bright].sum() / both.native[bright].sum() == pytest.approx(1, abs=1e-4)
    ours, theirs = star_fluxes(both, stars, radius, 50)
    assert len(ours) > 20
    assert np.abs(theirs / ours - 1).max() < 1e-3


@pytest.fixture(scope="module")
def binned(tmp_path_factory):
    """Three exposures of three detectors of large pixels; their matched backgrounds are some counts beside the true ones."""
    root = tmp_path_factory.mktemp("binned")
    options = {"binning": 8, "exposures": 3, "detectors": ["S4", "N4", "N3"], "cosmic_rays": 0.0}
    plan, field = simulated_plan(root, 2.1, 420, **options)
    errors = np.random.default_rng(4).normal(0, 3, len(plan.inputs))
    inputs = (replace(item, matched=Background(item.back + e)) for item, e in zip(plan.inputs, errors, strict=True))
    return replace(plan, inputs=tuple(inputs)), field


@pytest.mark.usefixtures("swarp_installed")
@pytest.mark.parametrize("background", ["original", "matched"])
def test_engines_agree_on_binned_detectors(binned, background, tmp_path):
    plan, field = binned
    agree(co_add(replace(plan, backgrounds=(background,)), tmp_path), field.stars, 4)


@pytest.mark.usefixtures("swarp_installed")
def test_engines_agree_on_real_exposures(real_decam, tmp_path):
    # The three z exposures of LS_T4 that have a zero point; 50 by 67 arcsec seen by three CCDs.
    names = ("c4d_150411_035242_ooi_z_v1", "c4d_170316_062107_ooi_z_ls9", "c4d_170419_042827_ooi_z_ls9")
    inputs = []
    for name, extname in zip(names, ("N3", "N2", "S1"), strict=True):
        path = real_decam / "LS_T4" / "mef" / f"{name}.fits.fz"
        scale = factor(fits.getheader(path)["MAGZERO"])
        back = float(np.median(fits.getdata(path, extname))) * scale
        inputs.append(CoaddInput(path, name, extname, fits.getheader(path)["EXPTIME"], scale, back, 20.0))
    plan = CoaddPlan("LS_T4", "T01", "z", "z", Grid(186.744, 25.462, 0.27, 280, 280), tuple(inputs))
    both = co_add(plan, tmp_path)
    covered = both.native_coverage == 3
    assert covered.sum() > 20000
    np.testing.assert_array_equal(both.native_coverage, both.swarp_coverage)
    sigma = noise(both.native[covered])
    assert noise((both.swarp - both.native)[covered]) < 0.002 * sigma
    native.coadd(plan, CoaddConfig(), {"original": (tmp_path / "masked.fits", tmp_path / "masked.coverage.fits.fz")})
    masked, counts = fits.getdata(tmp_path / "masked.fits"), fits.getdata(tmp_path / "masked.coverage.fits.fz")
    assert ((masked != 0) == (counts > 0)).all()
    changed = counts < both.native_coverage
    assert 0.001 < changed.mean() < 0.2
    assert np.median(np.abs(masked - both.native)[~changed & covered]) < 0.01 * sigma


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """Three exposures of two whole detectors, one above the other, on a grid that holds half of them."""
    root = tmp_path_factory.mktemp("full_size")
    return root, *simulated_plan(root, 0.27, 3000, exposures=3, detectors=["S4", "N4"])


@pytest.mark.long
@pytest.mark.usefixtures("swarp_installed")
def test_engines_agree_on_whole_detectors(full_size):
    root, plan, field = full_size
    agree(co_add(plan, root), field.stars, 8)


IN_ANOTHER_PROCESS = """
import json, re, sys
from pathlib import Path
from kred_core.coadd import native
from kred_core.background import Background
from kred_core.coadd.plan import CoaddInput, CoaddPlan, Grid
from kred_core.config import CoaddConfig

def peak():
    return 1024 * int(re.search("VmHWM: *([0-9]+) kB", Path("/proc/self/status").read_text().replace(chr(9), " "))[1])

small, large, memory, directory = json.loads(sys.argv[1])
for content in (small, large):
    for item in content["inputs"]:
        item |= {"path": Path(item["path"]), "matched": Background(item["back"], grad_x=0.01, step=1.0)}
    inputs = tuple(CoaddInput(**item) for item in content.pop("inputs"))
    plan = CoaddPlan(grid=Grid(**content.pop("grid")), inputs=inputs, **content)
    products = {b: (Path(directory, f"{b}.fits"), Path(directory, f"{b}.coverage.fits.fz")) for b in plan.backgrounds}
    before = peak()
    native.coadd(plan, CoaddConfig(memory=memory), products)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc/self/status")
@pytest.mark.parametrize(
    "backgrounds", [("original",), pytest.param(("original", "matched"), marks=pytest.mark.long)], ids=["one", "both"]
)
def test_memory_stays_within_its_bound(full_size, binned, backgrounds, tmp_path):
    # The standard mosaic of 8700 x 8700 pixels is 0.3 GB, six detectors, resampled for one background, are 0.19 GB, one in the
    # making 0.17 GB.
    small, large = (replace(plan, backgrounds=backgrounds) for plan in (binned[0], full_size[1]))
    large = replace(large, grid=replace(large.grid, nx=8700, ny=8700))
    arguments = json.dumps([asdict(small), asdict(large), 0.25, str(tmp_path)], default=str)
    environment = os.environ | {"PYTHONPATH": str(Path(native.__file__).parents[2])}
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert 0.1e9 < int(done.stdout) < 0.25e9
