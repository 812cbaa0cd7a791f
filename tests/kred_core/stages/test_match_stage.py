"""What matching does to the sky: diffuse emission stays, seams go, neighbours agree, and no detector is lost.

Simulated fields go through the stages check, summarize, tiles, match and coadd. A DN is a count28 in a native pixel of
DECam, though the simulated pixels are 16 x 16 of these.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from matched_fields import (
    BINNED,
    BINNING,
    BLOCK,
    NATIVE,
    backgrounds,
    coadd,
    configuration,
    emission_minus_truth,
    error_of,
    finish,
    match,
    measure,
    mosaic,
    recovered,
    summarize,
)

from kred_core import binned, evaluation, stages
from kred_core.config import BackgroundKind, FieldConfig
from kred_core.errors import InputError
from kred_core.products import FieldPaths
from kred_core.simulate import Simulation, simulate_field
from kred_core.sky import celestial_wcs
from kred_core.stages import matching
from kred_core.stages.match import MATCHED, link_matched, plan_matched
from kred_core.stages.prepare import Rescaling

FIELD = "LMC_c42"
TILES = ("T06", "T07")  # neighbours, 1.2 x 0.67 deg; a detector has 0.15 x 0.3
BANDS = ("N662", "N708")  # with and without nebulae
DIFFUSE, WAVELENGTH = 2.0, 0.85  # DN rms and deg of the additional emission


@dataclass(frozen=True)
class Reduced:
    """A simulated field and the options with which it was reduced."""

    config: FieldConfig
    simulated: Simulation

    def elsewhere(self, root: Path, **sections: dict) -> Reduced:
        """The same as far as the stage tiles, in another directory and with other options; binned maps may be changed there."""
        for name in ("Summary", ".kred", "DECam_BACK"):
            shutil.copytree(self.config.root / name, root / name)
        (root / "DECam_MEF").symlink_to(self.config.root / "DECam_MEF")
        return replace(self, config=configuration(root, self.config.field, self.config.tiles, **sections))


def simulated(root: Path, tiles: Iterable[str], bands: Iterable[str], field: str = FIELD, **options) -> Reduced:
    """A field, simulated and reduced as far as the stage tiles."""
    made = simulate_field(root, field=field, tiles=list(tiles), bands=list(bands), **options, **BINNED)
    config = configuration(root, field, tiles)
    summarize(config)
    return Reduced(config, made)


def rms(values: np.ndarray) -> float:
    return evaluation.low_pass_rms(values)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> dict[str, Reduced]:
    """Two neighbouring tiles, the detectors' offsets large in one band and small in the other; without and with emission."""
    made = {}
    for name, diffuse in (("plain", 0.0), ("diffuse", DIFFUSE / NATIVE)):
        options = {"exposures": 3, "dither": 300, "offsets": [40.0, 5.0], "diffuse": diffuse, "diffuse_scale": WAVELENGTH}
        made[name] = simulated(tmp_path_factory.mktemp(name), TILES, BANDS, seed=3, **options)
        match(made[name].config)
        coadd(made[name].config)
    return made


@pytest.mark.parametrize("band", BANDS)
def test_diffuse_emission_is_as_bright_in_the_matched_mosaics_as_in_the_sky(wide, band):
    """Emission of 2 DN on scales of detectors and larger."""
    part, brightness = recovered(wide["plain"].config, wide["diffuse"].config, wide["diffuse"].simulated.config, band)
    assert brightness > 1.5
    assert part == pytest.approx(1, abs=0.02)


def shared_sky(config: FieldConfig, other: FieldConfig, tiles: tuple[str, str], image: str) -> np.ndarray:
    """Difference of two mosaics where they show the same sky: block medians of the first minus the second, in DN."""
    one, header = mosaic(config, tiles[0], image)
    two, other_header = mosaic(other, tiles[1], image)
    y, x = np.indices(one.shape)
    sky = celestial_wcs(header).wcs_pix2world(np.stack([x.ravel(), y.ravel()], axis=-1), 0)
    place = np.rint(celestial_wcs(other_header).wcs_world2pix(sky, 0)).astype(int)
    seen = ((place >= 0) & (place < two.shape[::-1])).all(axis=1)
    beside = np.full(one.size, np.nan)
    beside[seen] = two[place[seen, 1], place[seen, 0]]
    found = evaluation.block_medians(one - beside.reshape(one.shape), BLOCK)
    return found[np.isfinite(found)]


@pytest.mark.parametrize("band", BANDS)
def test_neighbouring_tiles_agree_where_they_show_the_same_sky(wide, band):
    difference = shared_sky(wide["plain"].config, wide["plain"].config, TILES, band)
    assert difference.size > 100
    assert np.sqrt(np.mean(difference**2)) < 0.05


class TestBackgrounds:
    @pytest.mark.parametrize(("band", "bound"), [("N662", 0.03), ("N708", 0.006)])
    def test_are_right_within_their_errors(self, wide, band, bound):
        """After the common plane, which exposures that point almost the same way hardly tell."""
        found = backgrounds(wide["plain"].config)
        found = found[found["Image"] == band]
        truth = wide["plain"].simulated.detectors
        error = error_of(found, truth, common_plane=False)
        pulls = error / (np.asarray(found["b_err"]) / BINNING**2)
        assert rms(error) < bound
        assert 0.5 < np.sqrt(np.mean(pulls**2)) < 2
        assert np.abs(pulls).max() < 5
        assert rms(error_of(found, truth)) < 0.15  # gradients of the exposures: 1 % per degree

    def test_belong_to_the_whole_field_whatever_tiles_are_asked_for(self, wide):
        config = wide["plain"].config
        one = config.model_copy(update={"tiles": ["T06"]})
        both, one = ([p.digest(p.detectors.colnames) for p in stages.plan_matching(c)] for c in (config, one))
        assert both == one


@pytest.mark.parametrize(
    ("band", "image", "sky", "options", "times"),
    [
        ("N708", "N708", {"gradient": 0.05}, {"shape": "exposure-plane"}, 4),  # 5 % per degree, scattered between exposures
        ("N708:30", "N708_s", {"gradient": 0.0, "amplifier_steps": 4.0}, {"amplifier_steps": True}, 3),  # times the noise of a cell
    ],
)
def test_planes_of_exposures_and_steps_of_amplifiers_are_found_and_subtracted(tmp_path, band, image, sky, options, times):
    """Backgrounds and mosaics are several times nearer to the truth, after a common plane."""
    reduced, step = simulated(tmp_path, ["T07"], [band], exposures=4, dither=300, **sky), 0.5 * ("amplifier_steps" in sky)
    offsets, left = [], []
    for match_options in ({}, options):
        config = configuration(tmp_path, FIELD, ["T07"], match=match_options)
        found = match(config)
        offsets.append(rms(error_of(found, reduced.simulated.detectors, common_plane=False, step=step)))
        coadd(config)
        left.append(rms(emission_minus_truth(config, "T07", image, reduced.simulated.config, common_plane=False)))
    assert offsets[0] > times * offsets[1]
    assert left[0] > times * left[1]
    true = {(str(row["Root"]), str(row["EXTNAME"])): row["STEP_PIX"] for row in reduced.simulated.detectors}
    error = np.array([row["step"] - true[str(row["Root"]), str(row["EXTNAME"])] for row in found])
    assert rms(error) <= 0.1 * rms(np.array(list(true.values())))


def test_fields_of_one_galaxy_agree_if_solved_together_and_have_a_border_between_them_otherwise(tmp_path):
    options = {"exposures": 3, "dither": 200, "n_detectors": 9, "offsets": 40.0, "nebula": 30.0}
    root, fields = tmp_path / "alone", (("LMC_c42", "T07"), ("LMC_c03", "T10"))
    neighbours = [simulated(root, [tile], ["N662"], field, **options) for field, tile in fields]

    def across(configs: list[FieldConfig]) -> np.ndarray:
        for config in configs:
            coadd(config)
        return shared_sky(*configs, ("T07", "T10"), "N662")

    alone = [match(n.config) for n in neighbours]
    assert abs(np.median(across([n.config for n in neighbours]))) > 0.2

    neighbours[0].elsewhere(tmp_path / "joint")  # both of them
    joint = [configuration(tmp_path / "joint", field, [tile], match={"joint": True}) for field, tile in fields]
    one, other = (match(config) for config in joint)
    assert len(one) == len(other) == sum(map(len, alone))
    assert set(one["Field"]) == {"LMC_c42", "LMC_c03"}
    for column in ("file", "b", "b_err", "component", "n_pairs"):
        assert np.array_equal(one[column], other[column]), column  # to the bit
    assert one["component"].max() == 1
    assert np.sqrt(np.mean(across(joint) ** 2)) < 0.05


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Reduced:
    """Five detectors of each of three exposures."""
    reduced = simulated(tmp_path_factory.mktemp("small"), ["T07"], ["r"], exposures=3, n_detectors=5, dither=200)
    match(reduced.config)
    return reduced


MAPS = {
    "NaN": lambda s: replace(s, mean=np.full_like(s.mean, np.nan)),
    "tilted": lambda s: replace(s, mean=(s.mean + np.linspace(-200, 200, s.mean.shape[1])).astype(np.float32)),
    "not there": lambda s: None,
}


@pytest.mark.parametrize(("n", "count"), [(3, "3 detectors"), (1, "1 detector")])
def test_one_exposure_keeps_its_own_skies_and_is_finished(tmp_path, n, count):
    config = simulated(tmp_path, ["T07"], ["r"], exposures=1, n_detectors=n).config
    measure(config)
    found, paths = finish(config), FieldPaths.of(config)
    assert len(found) == n
    assert np.array_equal(found["b"], found["own"])
    assert np.isnan(found["b_err"]).all()
    assert set(found["Remark"]) == {"no overlap with another detector: own sky level kept"}
    (line,) = stages.explain_matching(config)
    assert line.startswith(f"r: {count}, 0 overlaps; ")
    assert f"{n} of {count} without an overlap, on their own sky levels" in line
    figures = [paths.matching_figure("r", kind) for kind in ("overlaps", "backgrounds", "pairs")]
    for tile in ("", "T07"):
        figures.append(paths.comparison_figure("r", tile))
        assert fits.getdata(paths.quick_look("r", tile), "COVERAGE").any()
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    with fits.open(paths.mosaic("T07", "r", BackgroundKind.MATCHED)) as hdus:
        assert len(hdus["INPUTS"].data) == n
        assert hdus["INPUTS"].data["PIXELS"].min() > 0
        assert np.isfinite(hdus[0].data).all()


class TestBinnedMaps:
    @pytest.mark.parametrize("change", MAPS)
    def test_a_bad_one_spoils_no_other_detector(self, small, tmp_path, change):
        config, right = small.elsewhere(tmp_path).config, backgrounds(small.config)
        bad = int(np.argmax(right["n_pairs"]))
        path = FieldPaths.of(config).binned_file(str(right["Root"][bad]))
        maps = [binned.read(path, name) for name in binned.boxes(path)]
        changed = [MAPS[change](s) if s.extname == right["EXTNAME"][bad] else s for s in maps]
        binned.write(path, binned.grid_of(path), [s for s in changed if s is not None])
        found = match(config)
        assert list(found["file"]) == list(right["file"])
        assert np.isfinite(found["b"]).all()
        others = np.delete(np.asarray(found["b"]) - np.asarray(right["b"]), bad) / BINNING**2
        assert np.ptp(others) < 0.05
        (line,) = stages.explain_matching(config)
        if change == "not there":
            assert found["Remark"][bad] == "no binned map could be made of it: own sky level kept"
            assert "1 of 15 detectors without a binned map, on their own sky levels" in line
        elif found["n_pairs"][bad] == 0:
            assert found["Remark"][bad] == "too few good cells in its overlaps: own sky level kept"
            assert "1 of 15 detectors with too few good cells in their overlaps, on their own sky levels" in line

    @pytest.mark.parametrize("damage", ["missing", "truncated", "overwritten"])
    def test_a_damaged_file_is_named_and_can_be_made_again(self, small, tmp_path, damage):
        config, right = small.elsewhere(tmp_path).config, backgrounds(small.config)
        path = FieldPaths.of(config).binned_file(str(right["Root"][0]))
        content = path.read_bytes()
        middle = len(content) // 2
        path.unlink()
        if damage != "missing":
            path.write_bytes(content[:middle] + (b"" if damage == "truncated" else bytes(2880) + content[middle + 2880 :]))
        with pytest.raises(InputError, match=rf"{path.name}: .*; make it again with --from summarize"):
            match(config)
        if damage == "overwritten":  # the others are noticed without decoding
            path.unlink()
        usable = [report for report in stages.check_field(config) if not report.refused]
        grid = stages.binned_grid(config, usable)
        (lost,) = stages.without_binned_maps(config, usable, grid)
        stages.restore_binned_maps(config, lost, grid)
        assert path.read_bytes() == content
        assert np.array_equal(match(config)["b"], right["b"])


def pixels(path: Path, extname: str) -> np.ndarray:
    with fits.open(path) as hdus:
        return hdus[extname].data.astype(np.float64)


def written(config: FieldConfig) -> list[Rescaling]:
    plans = plan_matched(config)
    for plan in plans:
        MATCHED.write(config, plan)
    link_matched(config, plans)
    return plans


class TestMatchedDetectors:
    @pytest.mark.parametrize("output", ["compressed", "plain"])
    def test_are_the_exposures_minus_the_backgrounds_and_go_when_others_are_wanted(self, small, tmp_path, output):
        config = small.elsewhere(tmp_path, match={"output": output}).config
        paths, found = FieldPaths.of(config), backgrounds(config)
        (scale,) = {plan.scale for plan in written(config) if plan.root == found["Root"][0]}
        for row in found[found["Root"] == found["Root"][0]]:
            copy = paths.matched_detector(row["Root"], row["EXTNAME"], output == "plain")
            raw = pixels(paths.exposure(f"{row['Root']}.fits.fz"), row["EXTNAME"])
            values = raw * scale
            assert np.allclose(pixels(copy, row["EXTNAME"]), values - row["b"], rtol=0, atol=2e-7 * np.abs(values).max())
            link = paths.prepared_tile("T07", BackgroundKind.MATCHED) / copy.name
            assert link.is_symlink()
            assert link.resolve() == copy.resolve()
        directories = paths.matched, paths.prepared_tile("T07", BackgroundKind.MATCHED)
        assert [len(list(directory.iterdir())) for directory in directories] == [len(found)] * 2
        for other, suffixes in (("plain", {".fits"}), ("compressed", {".fz"}), ("none", set())):
            written(configuration(tmp_path, FIELD, ["T07"], match={"output": other}))
            for directory in directories:
                assert {path.suffix for path in directory.iterdir()} == suffixes

    def test_of_an_exposure_that_feeds_two_images_are_called_as_these(self, tmp_path):
        (tmp_path / "images.txt").write_text("Image FILTER EXPTIME\nred r 60\nall r 60\nall N708 400\n")
        simulate_field(tmp_path, field=FIELD, tiles=["T07"], bands=["r", "N708"], exposures=[2, 1], n_detectors=2, **BINNED)
        survey = {"image_table": str(tmp_path / "images.txt")}
        config = configuration(tmp_path, FIELD, ["T07"], survey=survey, match={"output": "compressed"})
        summarize(config)
        found = match(config)
        plans = written(config)
        names = {path.name for path in FieldPaths.of(config).prepared_tile("T07", BackgroundKind.MATCHED).iterdir()}
        images = [f".{row['Image']}" if "_r_" in row["Root"] else "" for row in found]
        assert names == {f"{row['file']}{image}.fits.fz" for row, image in zip(found, images, strict=True)}
        assert sorted({plan.image for plan in plans}) == ["", "all", "red"]
        root, extname = next((row["Root"], row["EXTNAME"]) for row in found if row["Image"] == "red")
        one, other = (FieldPaths.of(config).matched_detector(root, extname, image=image) for image in ("red", "all"))
        b = {row["Image"]: row["b"] for row in found if (row["Root"], row["EXTNAME"]) == (root, extname)}
        assert np.median(pixels(one, extname) - pixels(other, extname)) == pytest.approx(b["all"] - b["red"], abs=0.01)


def test_what_was_not_measured_is_named(tmp_path):
    config = FieldConfig(field=FIELD, root=tmp_path)
    with pytest.raises(InputError, match=r"the overlaps of N662 have not been measured; run the stage 'match' again"):
        matching.read_skies(FieldPaths.of(config), "N662")
    with pytest.raises(InputError, match="field LMC_c42: none of its images could be matched"):
        stages.tabulate_matching(config, [])


def test_maps_of_two_grids_are_refused(small, tmp_path):
    config = small.elsewhere(tmp_path).config
    path, *_ = sorted(FieldPaths.of(config).binned.iterdir())
    maps, grid = [binned.read(path, name) for name in binned.boxes(path)], binned.grid_of(path)
    binned.write(path, replace(grid, cell=2 * grid.cell), maps)
    with pytest.raises(InputError, match=r"is on the grid .*need the same options of the section stamps"):
        measure(config)
    for path in FieldPaths.of(config).binned.iterdir():
        binned.write(path, grid, [])
    with pytest.raises(InputError, match="there is no binned map of any detector"):
        measure(config)
