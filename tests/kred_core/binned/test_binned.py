"""Binned maps say what the sky is: against the simulator's truth, against every pixel's exact place, and through their files."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from kred_core import binned
from kred_core import sky as geometry
from kred_core.binned import BinnedGrid, BinnedMap, bin_detector, binned_grid
from kred_core.config import CheckConfig, FieldConfig, SummarizeConfig
from kred_core.errors import ConfigError, ExposureError, InputError
from kred_core.exposures.check import judge
from kred_core.simulate.camera import DetectorGeometry, Pointing, ccds

LMC = BinnedGrid(81.0, -68.8, 2.0)


def detector(name="S29", ra=81.789, dec=-66.454, rotation=0.02, binning=1):
    """Where the pixels of a DECam detector are; S29 is at the edge of the field, where the distortion is strongest."""
    return DetectorGeometry(ccds([name])[0], Pointing(ra, dec, rotation), binning)


def exact_cells(wcs: WCS, shape, grid: BinnedGrid):
    """Cell coordinates of each pixel, without any interpolation."""
    y, x = np.indices(shape)
    sky = wcs.wcs_pix2world(np.stack([x.ravel(), y.ravel()], axis=-1), 0)
    return grid.wcs.wcs_world2pix(sky, 0).T.reshape(2, *shape)


@pytest.fixture(scope="module")
def averaged():
    """A small part of a distorted detector with flagged and NaN pixels: its binned map, and the same by brute force in numpy."""
    random = np.random.default_rng(4)
    wcs = detector("S29", rotation=0.3).wcs.deepcopy()
    pixels = random.normal(700, 14, (301, 203)).astype(np.float32)
    bad = random.random(pixels.shape) < 0.03
    bad[100:140, 60:100] = True
    pixels[random.random(pixels.shape) < 0.02] = np.nan
    pixels[200, :50] = np.inf
    pixels[bad & (random.random(pixels.shape) < 0.5)] = 1e9
    made = bin_detector(pixels, bad, wcs, LMC, 0.3, 690.0, "c4d_1", "S29")

    u, v = exact_cells(wcs, pixels.shape, LMC)
    good = np.isfinite(pixels) & ~bad
    column, row = (np.floor(w + 0.5).astype(int) - first for w, first in ((u, made.x0), (v, made.y0)))
    ny, nx = made.mean.shape
    inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
    unsure = set()  # cells on whose edge a pixel lies to 0.001 arcsec: interpolation may put it on the other side
    for move in ((0.0005, 0), (-0.0005, 0), (0, 0.0005), (0, -0.0005)):
        moved = [np.floor(w + 0.5 + m).astype(int) - first for w, m, first in ((v, move[0], made.y0), (u, move[1], made.x0))]
        other = (moved[0] != row) | (moved[1] != column)
        unsure |= {*zip(row[other], column[other], strict=True), *zip(moved[0][other], moved[1][other], strict=True)}
    area = geometry.pixel_area_arcsec2(wcs, *np.meshgrid(np.arange(203), np.arange(301)))
    value = (pixels.astype(np.float64) * 0.3 - 690.0 * 0.3) / area
    lists = {}
    for *key, x, seen in zip(row.flat, column.flat, value.flat, good.flat, strict=True):
        if tuple(key) not in unsure:
            lists.setdefault(tuple(key), []).extend([x] if seen else [])
    return made, lists, inside | ~good, good


class TestPixelsBecomeCells:
    def test_no_good_pixel_is_lost_and_no_bad_one_counts(self, averaged):
        made, _, inside, good = averaged
        assert inside.all()
        assert made.count.sum() == good.sum()

    def test_each_cell_is_the_mean_of_its_pixels(self, averaged):
        made, lists, *_ = averaged
        compared = 0
        for (row, column), values in lists.items():
            if not (0 <= row < made.mean.shape[0] and 0 <= column < made.mean.shape[1]):
                continue
            values = np.array(values)
            assert made.count[row, column] == values.size
            if values.size:
                compared += 1
                assert made.mean[row, column] == pytest.approx(values.mean(), rel=2e-6, abs=1e-5)
                assert made.std[row, column] == pytest.approx(values.std(), rel=2e-6, abs=1e-4)
        assert compared > 0.8 * (made.count > 0).sum()

    def test_the_array_ends_with_the_last_cells_that_are_seen_and_the_others_are_nan(self, averaged):
        made = averaged[0]
        seen = made.count > 0
        assert not seen.all()
        assert all(edge.any() for edge in (seen[0], seen[-1], seen[:, 0], seen[:, -1]))
        assert np.array_equal(np.isfinite(made.mean), seen)
        assert np.array_equal(np.isfinite(made.std), seen)
        assert made.level == 690.0 * 0.3

    def test_detector_coordinates_of_cells_are_those_of_the_wcs(self):
        of_camera = detector(binning=8)
        made = bin_detector(np.ones(of_camera.shape, np.float32), None, of_camera.wcs, LMC, 1.0, 0.0, "c4d_1", "S29")
        y, x = np.argwhere(made.count > 0).T + np.array([[made.y0], [made.x0]])
        u, v = made.to_detector @ np.stack([x, y, np.ones_like(x)])
        px, py = of_camera.wcs.wcs_world2pix(LMC.wcs.wcs_pix2world(np.stack([x, y], axis=-1), 0), 0).T
        ny, nx = of_camera.shape
        assert np.abs(u - (px - (nx - 1) / 2) / (nx / 2)).max() < 0.003
        assert np.abs(v - (py - (ny - 1) / 2) / (ny / 2)).max() < 0.003
        assert 0.98 < np.abs(u).max() < 1.02


class TestOneGridForAll:
    @pytest.mark.parametrize("centre", [(0.0, -75.0), (359.9, -75.2), (12.0, 0.0), (81.8, -66.5)])
    def test_detectors_of_different_exposures_see_the_same_sky_in_the_same_cells(self, centre):
        """Brightness here is a function of the place on the sky; two fields, pointings and rotations."""
        grid = BinnedGrid(centre[0], centre[1], 12.0)
        made = []
        for name, east, rotation in (("N4", 60.0, 0.0), ("S4", -200.0, 0.4), ("N4", -100.0, -0.2)):
            ra = (centre[0] + east / 3600 / np.cos(np.radians(centre[1]))) % 360
            of_camera = detector(name, ra, centre[1] + 0.01, rotation, binning=8)
            u, v = exact_cells(of_camera.wcs, of_camera.shape, grid)
            area = geometry.pixel_area_arcsec2(of_camera.wcs, *np.meshgrid(*(np.arange(n) for n in reversed(of_camera.shape))))
            pixels = ((100 + 5 * np.sin(u / 9) + 3 * np.cos(v / 7)) * area).astype(np.float32)
            made.append(bin_detector(pixels, None, of_camera.wcs, grid, 1.0, 0.0, "c4d_1", name))
        for s in made:
            y, x = np.indices(s.mean.shape) + np.array([s.y0, s.x0])[:, None, None]
            whole = s.count > 25
            assert np.abs(s.mean - (100 + 5 * np.sin(x / 9) + 3 * np.cos(y / 7)))[whole].max() < 0.1

    def test_what_cannot_be_averaged_is_refused_with_the_reason(self):
        small, huge = detector(binning=16), detector(binning=16).wcs.deepcopy()
        huge.wcs.cd = huge.wcs.cd * 8
        ones, wcs = np.ones(small.shape, np.float32), detector().wcs
        for pixels, place, grid, words in (
            (ones, detector(ra=261.0, dec=66.0, binning=16).wcs, LMC, r"45 deg of RA 81, Dec -68.8.*--stamps.centre"),
            (ones * np.nan, small.wcs, LMC, "none of its good pixels"),
            (ones, huge, LMC, "is its WCS right"),  # such pixels would fill the memory
            (np.ones((900, 900)), wcs, BinnedGrid(81.0, -68.8, 400.0), "a cell .* holds .* make --stamps.cell-size smaller"),
            (np.full((64, 64), 3e38, np.float32), wcs, LMC, "its pixels are no counts that a detector can have"),
        ):
            with pytest.raises(ExposureError, match=words):
                bin_detector(pixels, None, place, grid, 1.0, 0.0, "c4d_1", "S29")
        with pytest.raises(ValueError, match=r"c4d_1 S29: a mask of \(2, 3\) pixels does not fit an image of \(256, 128\)"):
            bin_detector(ones, np.zeros((2, 3), bool), small.wcs, LMC, 1.0, 0.0, "c4d_1", "S29")


class TestGrid:
    @pytest.mark.parametrize(("pixel_scale", "cell"), [(0.2626, 2.0), (0.06, 0.48), (1.05, 4.2), (4.2, 17.0), (0.5, 2.0)])
    def test_cells_follow_the_pixel_scale(self, pixel_scale, cell):
        assert binned_grid(FieldConfig(field="LMC_c42"), pixel_scale).cell == cell

    def test_fields_of_a_galaxy_share_the_tangent_point_whatever_their_pixels(self):
        fields = {"LMC_c01": 0.2623, "LMC_c51": 0.27, "LMC_30Dor": 0.25}
        (grid,) = {binned_grid(FieldConfig(field=name), scale) for name, scale in fields.items()}
        assert SkyCoord(grid.ra, grid.dec, unit="deg").separation(SkyCoord("05h23m34s -69d45m22s")).deg < 3
        assert (grid.ra, grid.dec) == (round(grid.ra, 1), round(grid.dec, 1))
        assert binned_grid(FieldConfig(field="SMC_c01"), 0.2623) != grid
        # A field of one's own is in its galaxy if it is there.
        near, far = (FieldConfig(field="LMC_new", survey={"centre": place}) for place in ([80.0, -64.0], [0.0, 10.0]))
        assert binned_grid(near, 0.26) == grid
        assert binned_grid(far, 0.26) == BinnedGrid(0.0, 10.0, 2.0)

    @staticmethod
    def grids(tmp_path, *rows):
        """Tangent points of the fields of a tile table of (field, RA, Dec) of one tile each, by field."""
        table = tmp_path / "tiles.txt"
        table.write_text("Field Tile RA Dec Size\n" + "".join(f"{name} T1 {ra} {dec} 0.5\n" for name, ra, dec in rows))
        configs = {name: FieldConfig(field=name, survey={"tile_table": str(table)}) for name, *_ in rows}
        return {name: (grid.ra, grid.dec) for name, grid in ((n, binned_grid(c, 0.26)) for n, c in configs.items())}

    def test_fields_of_a_table_that_are_far_apart_have_each_a_grid_of_its_own(self, tmp_path):
        found = self.grids(tmp_path, ("M33_a", 359.0, 30.0), ("M33_b", 2.0, 31.0), ("M31_a", 10.0, 41.0))
        assert found == {"M33_a": (0.5, 30.5), "M33_b": (0.5, 30.5), "M31_a": (10, 41)}
        assert self.grids(tmp_path, ("LS_a", 10, -30), ("LS_b", 130, 40)) == {"LS_a": (10, -30), "LS_b": (130, 40)}
        found = self.grids(tmp_path, ("LS_a", 359, 0), ("LS_b", 1, 0), ("LS_c", 180, 0), ("LS_d", 182, 0))
        assert found == {"LS_a": (0, 0), "LS_b": (0, 0), "LS_c": (181, 0), "LS_d": (181, 0)}
        assert self.grids(tmp_path, ("a", 0, 90), ("b", 0, -90)) == {"a": (0, 90), "b": (0, -90)}

    def test_fields_of_a_table_share_a_grid_also_where_others_lie_between_them(self, tmp_path):
        assert set(self.grids(tmp_path, ("X_a", 0, 0), ("X_b", 24, 0), ("X_c", 12, 0)).values()) == {(12, 0)}
        around_the_pole = self.grids(tmp_path, *((f"X_{i}", 60 * i, 85) for i in range(6)))
        assert {dec for _, dec in around_the_pole.values()} == {90}
        assert len(set(around_the_pole.values())) == 1

    def test_a_chain_of_fields_too_long_for_one_plane_has_a_grid_for_each(self, tmp_path):
        strip = [(f"X_{i}", 10 * i, 0) for i in range(36)]  # around the sky: they have no middle
        assert self.grids(tmp_path, *strip) == {name: (ra, 0) for name, ra, _ in strip}

    def test_options_come_first_and_cells_that_cannot_work_are_refused(self):
        config = FieldConfig(field="LMC_c42", stamps={"cell_size": 3.5, "centre": [10.0, 20.0]})
        assert binned_grid(config, 0.26) == BinnedGrid(10.0, 20.0, 3.5)
        for size in (0.3, 100.0):
            with pytest.raises(ConfigError, match=r"stamps.cell_size is .* between 0.52 and 65"):
                binned_grid(FieldConfig(field="LMC_c42", stamps={"cell_size": size}), 0.26)
        with pytest.raises(InputError, match="give its centre"):
            binned_grid(FieldConfig(field="Orion"), 0.26)


def some_maps(n=3):
    """Small binned maps with a star, missing cells, and one that is constant."""
    random = np.random.default_rng(3)
    made = []
    for i in range(n):
        count = random.integers(50, 64, (40, 70)).astype(np.uint16)
        count[:5, :9] = 0
        mean = random.normal(0, 2, count.shape) if i else np.full(count.shape, 7.0)
        mean[20, 30] = 3e5
        std = random.normal(15, 1, count.shape) if i else np.zeros(count.shape)
        empty = count == 0
        mean[empty], std[empty] = np.nan, np.nan
        cells = mean.astype(np.float32), std.astype(np.float32), count
        made.append(BinnedMap("c4d_1_ooi_r", f"N{i + 1}", 60 * i - 30, 500, *cells, 45.1, 0.0688, random.normal(0, 1, (2, 3))))
    return made


class TestFiles:
    def test_rounding_adds_no_bias_and_hardly_any_noise_to_a_full_detector(self, tmp_path):
        random = np.random.default_rng(7)
        noise, shape = 15 / np.sqrt(58), (270, 540)
        made = replace(
            some_maps(1)[0],
            mean=random.normal(0, noise, shape).astype(np.float32),
            std=random.normal(15, 1, shape).astype(np.float32),
            count=np.full(shape, 58, np.uint16),
        )
        binned.write(tmp_path / "x.stamps.fits", LMC, [made])
        back = binned.read(tmp_path / "x.stamps.fits", "N1")
        error = (back.mean - made.mean) / noise
        assert abs(error.mean()) < 1e-3
        assert error.std() < 0.02
        assert np.abs(back.std - made.std).max() < 0.04 * 15
        assert (tmp_path / "x.stamps.fits").stat().st_size < 450_000

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "DECam_BACK" / "c4d_1_ooi_r.stamps.fits"
        binned.write(path, LMC, some_maps())
        return path

    def test_what_is_written_is_read(self, path):
        assert binned.boxes(path) == {f"N{i + 1}": (-30 + 60 * i, 500, 70, 40) for i in range(3)}
        assert binned.grid_of(path) == LMC
        for made in some_maps():
            back = binned.read(path, made.extname)
            for name in ("root", "extname", "x0", "y0", "level", "area"):
                assert getattr(back, name) == getattr(made, name)
            assert np.array_equal(back.to_detector, made.to_detector)
            assert np.array_equal(back.count, made.count)
            assert back.count.dtype == np.uint16
            for a, b, tolerance in ((back.mean, made.mean, 0.1), (back.std, made.std, 0.5)):
                assert a.dtype == np.float32
                assert np.allclose(a, b, rtol=1e-6, atol=tolerance, equal_nan=True)

    def test_other_programs_see_images_with_the_right_wcs(self, path):
        with fits.open(path, checksum=True) as f:
            f.verify("exception")
            for i in (1, 2, 3):
                back = binned.read(path, f"N{i}")
                assert np.array_equal(f[f"N{i}"].data, back.mean, equal_nan=True)
                assert np.array_equal(f[f"N{i}_STD"].data, back.std, equal_nan=True)
                assert np.array_equal(f[f"N{i}_COUNT"].data, back.count)
                wcs = WCS(f[f"N{i}"].header)
                here, there = wcs.wcs_pix2world([[12, 7]], 0), LMC.wcs.wcs_pix2world([[12 + back.x0, 7 + back.y0]], 0)
                assert np.allclose(here, there, atol=1e-9)
                assert f[f"N{i}"].header["BUNIT"] == "count arcsec-2"
        table = Table.read(path, hdu="DETECTORS")
        assert list(table["EXTNAME"]) == ["N1", "N2", "N3"]
        assert list(table["LEVEL"]) == [45.1] * 3

    def test_the_same_maps_give_the_same_bytes_and_none_a_file_that_says_so(self, path, tmp_path):
        binned.write(tmp_path / "again.fits", LMC, iter(some_maps()))
        assert (tmp_path / "again.fits").read_bytes() == path.read_bytes()
        binned.write(tmp_path / "none.stamps.fits", LMC, [])
        assert binned.boxes(tmp_path / "none.stamps.fits") == {}
        assert binned.grid_of(tmp_path / "none.stamps.fits") == LMC

    def test_missing_files_and_maps_are_named_with_what_to_do(self, path, tmp_path):
        for ask in (binned.boxes, binned.grid_of, lambda p: binned.read(p, "N1")):
            with pytest.raises(InputError, match=r"nothing.fits: the file of binned maps is missing; .*--from summarize --redo"):
                ask(tmp_path / "nothing.fits")
        with pytest.raises(InputError, match="no binned map of detector S7"):
            binned.read(path, "S7")

    def test_a_truncated_file_is_an_error_that_names_it(self, path):
        whole = path.read_bytes()
        for length in (0, 100, 2880, 2881, len(whole) // 2, len(whole) - 2880, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(InputError, match=r"c4d_1_ooi_r.stamps.fits: .*--from summarize --redo"):
                binned.read(path, "N2")
            with pytest.raises(InputError, match="--redo"):
                binned.boxes(path)

    def test_no_flipped_bit_comes_back_as_sky(self, path):
        """Whatever byte is hit: an error, or it was none of this detector's."""
        whole, before = path.read_bytes(), binned.read(path, "N2")
        found = 0
        for at in np.random.default_rng(1).integers(0, len(whole), 300):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(at) % 8
            path.write_bytes(damaged)
            try:
                after = binned.read(path, "N2")
            except InputError as e:
                found += "c4d_1_ooi_r.stamps.fits" in str(e)
            else:
                assert np.array_equal(after.mean, before.mean, equal_nan=True)
        assert found > 60


@pytest.mark.parametrize(
    ("cards", "level"),
    [({"SATURATE": 45791.0, "SATURATB": 44000.0}, 44000.0), ({"SATURATE": "NaN"}, np.inf), ({"SATURATA": 0.0}, np.inf)],
)
def test_the_lowest_saturation_of_a_header_counts(cards, level):
    assert binned.saturation(fits.Header(cards)) == level


def test_maps_of_real_exposures_agree_with_their_statistics(real_decam):
    from kred_core.exposures.summary import summarize

    path = real_decam / "LS_T4" / "mef" / "c4d_180212_083009_ooi_z_ls9.fits.fz"
    names = judge(path, CheckConfig(), {}).extnames
    place = judge(path, CheckConfig(), {}).detectors[0]
    measured, maps = summarize(path, names, SummarizeConfig(), BinnedGrid(*np.round(place.centre, 1), 2.0), 1.0)
    for d, s in zip(measured.detectors, maps, strict=True):
        assert s.count.sum() == d.n_pixels
        assert np.nansum(s.mean * s.count) / s.count.sum() * s.area == pytest.approx(d.mean - d.histogram_mode, rel=1e-3)
        assert np.nanmedian(s.std) * s.area == pytest.approx(d.noise, rel=0.1)
