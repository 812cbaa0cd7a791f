"""From the tables of a field to its mosaics, figures and numbers, with the backgrounds that were asked for."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from kred_core import stages, survey
from kred_core.config import BackgroundKind, FieldConfig, SurveyConfig
from kred_core.errors import InputError
from kred_core.exposures import check, summary
from kred_core.products import FieldPaths, read_record, tables, write_record
from kred_core.simulate import simulate_field
from kred_core.stages import table as table_of_stages
from kred_core.stages.plan import plan_run
from kred_core.stages.tiles import wanted_tiles
from kred_core.survey import tiling

SKY = 700.0  # counts28 per pixel that every exposure has on average


@dataclass
class Tiled:
    """A field whose tile T07 has a table and no mosaics yet."""

    root: object
    detectors: Table

    @property
    def paths(self):
        return FieldPaths(self.root, "LMC_c42")

    def config(self, mosaics="matched", *tiles, only=(), **coadd):
        sections = {"run": {"only": only}, "coadd": {"mosaics": mosaics} | coadd, "evaluate": {"figure_pixels": 200}}
        return FieldConfig(field="LMC_c42", tiles=list(tiles), root=self.root, **sections)

    def match(self, rows=slice(None), **shape):
        """Write the table of backgrounds: b of the detectors in turn 100, 101, ... in this image, 1000 more in another one."""
        written = []
        for k, row in enumerate(self.detectors):
            for image, b in ((str(row["Image"]), 100.0 + k), ("other", 1100.0 + k)):
                values = {c.name: 0 if c.type is not str else "" for c in tables.BACKGROUNDS} | {"b": b, "Image": image} | shape
                names = {name: str(row[name]) for name in ("Field", "Root", "EXTNAME")}
                written.append(values | names | {"file": f"{row['Root']}_{row['EXTNAME']}"})
        tables.write(tables.make(written[rows], tables.BACKGROUNDS), self.paths.background_table, "Backgrounds")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Two exposures of three small detectors, and the rows of their tile table."""
    root = tmp_path_factory.mktemp("field")
    options = {"binning": 16, "exposures": 2, "bands": ["N662"], "n_detectors": 3, "cosmic_rays": 0.0}
    simulate_field(root, field="LMC_c42", tiles=["T07"], **options)
    config = FieldConfig(field="LMC_c42", tiles=["T07"], root=root)
    paths = FieldPaths.of(config)
    reports = [check.judge(path, config.check, {}) for path in paths.exposures()]
    images = survey.images(config.field, config.survey)
    exposures = {row["Root"]: row for row in summary.exposure_rows(reports, images, "LMC_c42")}
    places = summary.place_rows(reports, "LMC_c42")
    rows = [{**exposures[place["Root"]], **place, "SUB_BACK": SKY, "Noise": 5.0} for place in places]
    detectors = tables.make(rows, [c for c in tables.TILE if c.name != "Image"])
    (tile,) = survey.tiles("LMC_c42", config.survey, ["T07"])
    selected = tiling.select(detectors, tile, images, config.tiling).detectors[[c.name for c in tables.TILE]]
    assert len(selected) == 6
    return root, selected


def tiled(simulated, root):
    data, detectors = simulated
    (root / "DECam_MEF").symlink_to(data / "DECam_MEF")
    field = Tiled(root, detectors)
    tables.write(detectors, field.paths.tile_table("T07"), "Detectors")
    return field


@pytest.fixture
def field(simulated, tmp_path):
    return tiled(simulated, tmp_path)


class TestPlans:
    def test_original_mosaics_need_no_matching(self, field):
        (plan,) = stages.plan_coadds(field.config("original"))
        assert (plan.tile, plan.image, plan.backgrounds) == ("T07", "N662", ("original",))
        assert {item.back for item in plan.inputs} == {SKY}
        assert {item.matched for item in plan.inputs} == {None}

    @pytest.mark.parametrize("mosaics", ["matched", "both"])
    def test_matched_mosaics_have_the_background_of_each_detector_in_their_image(self, field, mosaics):
        field.match(grad_x=0.01, grad_y=-0.02, step=3.0)
        (plan,) = stages.plan_coadds(field.config(mosaics))
        assert [item.matched.b for item in plan.inputs] == [100.0 + k for k in range(6)]
        assert {(item.matched.grad_x, item.matched.grad_y, item.matched.step) for item in plan.inputs} == {(0.01, -0.02, 3.0)}

    def test_without_the_table_of_backgrounds_the_stage_to_run_is_named(self, field):
        with pytest.raises(InputError, match=r"LMC_c42_backgrounds\.tab is missing; run the stage 'match' first \(--from match\)"):
            stages.plan_coadds(field.config("both"))

    def test_detectors_without_a_background_are_named(self, field):
        field.match(slice(2, None))
        with pytest.raises(InputError, match=r"of 1 of the 6 detectors of T07 N662: c4d\S+_\w+; it is out of date: run the stage"):
            stages.plan_coadds(field.config())
        field.match(slice(1, None, 2))  # those of another image do not count
        with pytest.raises(InputError, match=r"of 6 of the 6 detectors of T07 N662: (c4d\S+, ){4}c4d\S+ and 1 more; it is"):
            stages.plan_coadds(field.config())

    def test_tiles_without_a_table_are_left_out_unless_they_were_asked_for(self, field):
        assert stages.tile_names(field.config()) == ["T07"]
        assert stages.tile_names(field.config("matched", "T08")) == ["T08"]
        with pytest.raises(InputError, match=r"LMC_c42_T08\.tab is missing; run the stage 'tiles' first"):
            stages.mosaic_names(field.config("matched", "T08"))
        field.paths.tile_table("T07").unlink()
        with pytest.raises(InputError, match=r"no tile table in .*; run the stage 'tiles' first"):
            stages.tile_names(field.config())


@pytest.mark.parametrize(("mosaics", "n", "sets"), [("original", 1, 1), ("matched", 1, 1), ("both", 1, 2), ("none", 0, 0)])
def test_a_dry_run_foresees_the_mosaics_before_any_background_is_known(field, mosaics, n, sets):
    config = field.config(mosaics, "T07")
    (coadd,), (evaluate,) = (plan_run(config).planned[name] for name in ("coadd", "evaluate"))
    assert (coadd.units, coadd.to_do) == (n, n)
    assert evaluate.units == n + sets  # a figure of the field for each kind of mosaics too
    side = round(0.6525 * 3600 / 4.23)
    assert coadd.cost.disk == pytest.approx(sets * side**2 * 4, rel=0.1)


@pytest.mark.parametrize(("size", "side"), [(0.0, 0.05), (0.1, 0.1), (0.02, 0.02)])
def test_a_mosaic_of_a_tile_of_ones_own_is_as_large_as_the_table_or_the_option_says(field, size, side):
    (tile,) = survey.tiles("LMC_c42", field.config().survey, ["T07"])
    table = field.root / "tiles.txt"
    table.write_text(f"Field Tile RA Dec Size\nLMC_c42 T07 {tile.ra} {tile.dec} 0.05\n")
    config = field.config("original", size=size).model_copy(update={"survey": SurveyConfig(tile_table=str(table))})
    (plan,) = stages.plan_coadds(config)
    planned = plan_run(config)
    (foreseen,) = planned.mosaics
    assert plan.grid.nx == plan.grid.ny == foreseen.grid.nx == foreseen.grid.ny == (n := round(side * 3600 / plan.grid.pixel_scale))
    assert table_of_stages()["coadd"].cost(config, planned.usable).disk == pytest.approx(n**2 * 4, rel=0.1)
    (wanted,) = wanted_tiles(config)
    assert wanted.size == max(side, 0.05)


def made(config):
    """Co-add and evaluate everything; the table of mosaics."""
    for plan in stages.plan_coadds(config):
        assert all(path.is_file() for path in stages.coadd_mosaic(config, plan).paths)
    for tile, image in stages.mosaic_names(config):
        assert all(path.is_file() for path in stages.evaluate_mosaic(config, tile, image).paths)
    for (image, background), tiles in stages.evaluated_tiles(config).items():
        assert stages.draw_field(config, image, background, tiles).matches_disk()
    return Table.read(stages.tabulate_mosaics(config), format="ascii.ecsv")


ALL = ("coadd", "evaluate")


def test_a_plane_that_swarp_cannot_subtract_is_refused(field):
    field.match(grad_x=0.01)
    config = field.config(engine="swarp")
    (plan,) = stages.plan_coadds(config)
    with pytest.raises(InputError, match=r"of 6 detectors, .* the first, has a plane or a step"):
        stages.coadd_mosaic(config, plan)


@pytest.fixture(scope="module")
def both(simulated, tmp_path_factory):
    """A field with both mosaics, and the products that were missing before."""
    field = tiled(simulated, tmp_path_factory.mktemp("both"))
    missing = stages.missing_products(field.config("both", only=ALL))
    field.match()
    made(field.config("both"))
    return field, missing


class TestBoth:
    def test_the_manual_explains_every_keyword_and_every_column_of_a_mosaic(self, both):
        page = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "fits-files.md").read_text(encoding="utf-8")
        explained = set(re.findall(r"[A-Z][A-Z0-9-]*", page))
        standard = r"SIMPLE|BITPIX|NAXIS.?|EXTEND|(CTYPE|CUNIT|CRVAL|CRPIX)\d|CD._.|RADESYS|EQUINOX|(CHECK|DATA)SUM|COR\d(RA|DEC)1"
        with fits.open(both[0].paths.mosaic("T07", "N662", BackgroundKind.MATCHED)) as mosaic:
            found = {*mosaic[0].header, *mosaic["INPUTS"].columns.names} - {""}
        assert len(found) > 40
        missing = {name for name in found if not re.fullmatch(standard, name)} - explained
        assert not missing

    def test_every_product_is_missed_before_and_there_afterwards(self, both):
        field, missing = both
        assert len(missing) == 2 * 2 + 3 * 2 + 1
        assert all(path.is_file() for path in missing)
        assert field.paths.comparison_figure("N662", "T07") in missing
        for mosaics in ("original", "matched", "both"):
            assert stages.missing_products(field.config(mosaics, only=ALL)) == []

    def test_the_table_has_the_numbers_of_both(self, both):
        table = Table.read(both[0].paths.mosaic_table, format="ascii.ecsv")
        level = {str(row["Background"]): row["Level"] for row in table}
        assert list(level) == ["matched", "original"]
        assert level["matched"] - level["original"] == pytest.approx(SKY - 102.5, abs=4)  # b is 100 to 105
        for mosaics, rows in (("original", ["original"]), ("both", ["matched", "original"])):
            table = Table.read(stages.tabulate_mosaics(both[0].config(mosaics)), format="ascii.ecsv")
            assert list(table["Background"]) == rows

    def test_numbers_of_another_version_are_left_out_of_the_table_and_named(self, both, caplog):
        field, _ = both
        record = field.paths.record("evaluate", "T07.N662")
        now = read_record(record)
        try:
            write_record(record, {key: value for key, value in now.items() if key != "block_jump"} | {"seams": 1.0})
            table = Table.read(stages.tabulate_mosaics(field.config("both")), format="ascii.ecsv")
            assert list(table["Background"]) == ["matched"]
            assert "T07 N662: its numbers are those of another version of kred; evaluate it again" in caplog.text
        finally:
            write_record(record, now)

    def test_a_pixel_that_one_detector_covers_lacks_the_background_of_that_detector(self, both):
        original, matched = (fits.getdata(both[0].paths.mosaic("T07", "N662", kind)).astype(float) for kind in BackgroundKind)
        coverage = fits.getdata(both[0].paths.coverage("T07", "N662", BackgroundKind.MATCHED), 1)
        inputs = fits.getdata(both[0].paths.mosaic("T07", "N662", BackgroundKind.MATCHED), "INPUTS")
        expected = (SKY - inputs["BACK"]) * inputs["FLXSCALE"]
        nearest = np.abs((matched - original)[coverage == 1][:, None] - expected)
        assert nearest.min(axis=1).max() < 0.01  # of values up to 60000, in 32 bits
        assert set(nearest.argmin(axis=1)) == set(range(6))
