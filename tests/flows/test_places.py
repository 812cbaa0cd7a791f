"""Fields anywhere on the sky, several in one tile table, tiles and fields of any name: whole runs, and where stars end up."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from flows.field import reduce
from kred_core import sky, stages, survey
from kred_core.binned import grid_of
from kred_core.config import BackgroundKind, FieldConfig, SurveyConfig
from kred_core.errors import InputError
from kred_core.products import FieldPaths
from kred_core.simulate import simulate_field

pytestmark = pytest.mark.usefixtures("prefect_server")

BINNING = 16
INNER = ("T06", "T07", "T10", "T11")  # the four tiles around the middle of a field


def simulate(root: Path, field: str, ra: float, dec: float):
    return simulate_field(
        root,
        field=field,
        centre=[ra, dec],
        tiles=["T06", "T07"],
        binning=BINNING,
        bands=["N662"],
        exposures=2,
        n_detectors=12,
        offsets=[20.0],
        cosmic_rays=0.0,
        star_density=1000.0,
    )


def distances(field, mosaic: Path) -> list[int]:
    """By how many pixels the ten brightest stars within a mosaic are away from where they are on the sky."""
    with fits.open(mosaic) as hdus:
        image, wcs = hdus[0].data, sky.celestial_wcs(hdus[0].header)
    places = np.rint(wcs.wcs_world2pix(np.stack([field.stars["RA"], field.stars["Dec"]], axis=-1), 0)).astype(int)
    found = []
    for x, y in places[np.argsort(-np.array(field.stars["FLUX_N662"]))]:
        near = image[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5]
        if near.shape == (9, 9) and (near != 0).all():
            found.append(max(abs(k - 4) for k in divmod(int(near.argmax()), 9)))
    return found[:10]


def require_right(field, paths: FieldPaths, tiles: tuple[str, ...]) -> None:
    """Backgrounds agree, and stars are where they are on the sky."""
    (row,) = Table.read(paths.matching_table, format="ascii.ecsv")
    assert row["Before"] > 50
    assert row["After"] < row["Before"] / 20
    away = [n for tile in tiles for n in distances(field, paths.mosaic(tile, "N662", BackgroundKind.MATCHED))]
    assert len(away) == 10 * len(tiles)
    assert np.mean(np.array(away) <= 1) > 0.8  # a brighter neighbour may be as near


@pytest.mark.parametrize(("ra", "dec"), [(359.98, 0.0), (123.0, -90.0), (200.0, 89.6)])
def test_a_field_anywhere_on_the_sky_is_reduced(tmp_path, ra, dec):
    field = simulate(tmp_path, "X", ra, dec)
    config = FieldConfig(field="X", root=tmp_path, survey={"centre": [ra, dec]}, tiles=["T06", "T07"])
    assert reduce(config) == 0
    require_right(field, FieldPaths.of(config), ("T06", "T07"))


TILES = {"X_a": ("T06", "07", "a.b"), "X_b": ("T06", "x+y", "c4_T-1")}
CENTRES = {"X_a": (10.0, -30.0), "X_b": (130.0, 40.0)}


@pytest.fixture(scope="module")
def two_fields(tmp_path_factory, prefect_server):
    """A data root with two fields 120 deg apart, reduced with one tile table: its path, and the simulations."""
    root = tmp_path_factory.mktemp("two")
    fields = {name: simulate(root, name, *centre) for name, centre in CENTRES.items()}
    rows = ["Field Tile RA Dec Size"]
    for name, centre in CENTRES.items():
        places = {t.name: t for t in survey.tiles(name, SurveyConfig(centre=list(centre)))}
        rows += [f"{name} {tile} {places[at].ra} {places[at].dec} 0.6" for tile, at in zip(TILES[name], INNER, strict=False)]
    table = root / "tiles.txt"
    table.write_text("\n".join(rows) + "\n")
    for name in CENTRES:
        assert reduce(joint(name, table)) == 0
    return table, fields


def joint(field: str, table: Path) -> FieldConfig:
    return FieldConfig(field=field, root=table.parent, survey={"tile_table": str(table)}, match={"joint": True})


@pytest.mark.parametrize("name", CENTRES)
def test_fields_far_apart_in_one_tile_table_are_reduced_each_on_its_own_grid(two_fields, name):
    table, fields = two_fields
    paths = FieldPaths(table.parent, name)
    require_right(fields[name], paths, TILES[name][:2])
    grid = grid_of(next(paths.binned.glob("*.stamps.fits")))
    assert (grid.ra, grid.dec) == pytest.approx(CENTRES[name], abs=1.5)


def test_a_field_of_that_table_is_the_same_reduced_alone(two_fields, tmp_path):
    """What other fields there are changes nothing: neither their rows in the table nor their products."""
    table, _ = two_fields
    alone = tmp_path / "tiles.txt"
    alone.write_text("".join(line for line in table.open() if not line.startswith("X_b")))
    shutil.copytree(FieldPaths(table.parent, "X_a").mef, FieldPaths(tmp_path, "X_a").mef)
    assert reduce(joint("X_a", alone)) == 0
    ours = FieldPaths(tmp_path, "X_a")
    for path in (ours.background_table, *(ours.mosaic(tile, "N662", BackgroundKind.MATCHED) for tile in ("07", "a.b"))):
        assert path.read_bytes() == (table.parent / path.relative_to(tmp_path)).read_bytes()


class TestNamesThatMeet:
    """Files named <field>_<tile> of two fields in one data root."""

    @staticmethod
    def config(root: Path, field: str, *tiles: str, **survey) -> FieldConfig:
        path = FieldPaths(root, field).mef / "a_ooi_r_v1.fits.fz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if tiles:
            table = root / f"{field}.txt"
            table.write_text("Field Tile RA Dec Size\n" + "".join(f"{field} {tile} 80 -66 0.6\n" for tile in tiles))
            survey["tile_table"] = str(table)
        return FieldConfig(field=field, root=root, survey=survey)

    def test_a_tile_named_like_a_tile_of_another_field_is_refused(self, tmp_path):
        mine = self.config(tmp_path, "LMC", "c42_T01")
        stages.preflight(mine)  # there is no other field
        self.config(tmp_path, "LMC_c42")
        with pytest.raises(
            InputError, match=r"LMC_c42_T01.tab is a table of field LMC_c42 too; give the tile c42_T01 another name"
        ):
            stages.preflight(mine)

    def test_whichever_of_the_two_was_first(self, tmp_path):
        FieldPaths(tmp_path, "LMC").coadds("c42_T01", BackgroundKind.MATCHED).mkdir(parents=True)
        theirs = self.config(tmp_path, "LMC_c42")
        stages.preflight(theirs)  # what is left of a field that is no more
        self.config(tmp_path, "LMC", "c42_T01")
        with pytest.raises(InputError, match=r"LMC_c42_T01.tab is a table of field LMC too"):
            stages.preflight(theirs)

    def test_a_field_named_like_the_page_of_all_fields_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="is the page of all fields; give the field another name"):
            stages.preflight(self.config(tmp_path, "Index.html", centre=[80.0, -66.0]))

    def test_images_whose_files_meet_are_refused(self, tmp_path):
        images = tmp_path / "images.txt"
        images.write_text("Image FILTER EXPTIME\nHa N662 600\nHA N662 30\n")
        with pytest.raises(InputError, match=r"image HA of field A cannot have this name: .* would be that of image Ha too"):
            stages.preflight(self.config(tmp_path, "A", centre=[80.0, -66.0], image_table=str(images)))

    def test_fields_whose_names_begin_alike_are_no_clash(self, tmp_path):
        for field in ("LMC", "LMC_c42", "LMC_c42_b"):
            self.config(tmp_path, field)
        for field in ("LMC_c42", "LMC_c42_b"):
            stages.preflight(self.config(tmp_path, field, centre=[80.0, -66.0]))


def test_a_tile_named_input_ends_the_run_and_nothing_is_made(tmp_path, caplog):
    config = TestNamesThatMeet.config(tmp_path, "A", "input")
    assert reduce(config) == 1
    assert "found 'input', expected another name" in caplog.text
    assert not (tmp_path / "Summary").exists()
