"""Which detectors feed a tile: every dithered CCD of a focal plane against its own pixels, anywhere on the sky."""

import numpy as np
import pytest
from astropy.io import fits

from kred_core import sky, survey
from kred_core.config import SurveyConfig, TilingConfig
from kred_core.errors import ExposureError
from kred_core.products import tables
from kred_core.sky import Grid
from kred_core.survey import ImageTable, Tile, tiling

NX, NY = 2046, 4094
IMAGES = survey.images("LMC_c42", SurveyConfig())
EVERYWHERE = [(81.789, -66.454), (0.02, -30.0), (359.99, 0.0), (33.0, -89.0), (200.0, -90.0), (10.0, 89.8)]


def detector_wcs(ra, dec, crpix1, crpix2):
    header = fits.Header({"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "CRVAL1": ra, "CRVAL2": dec})
    header.update(CRPIX1=crpix1, CRPIX2=crpix2, CD1_1=0.0, CD1_2=7.287e-5, CD2_1=-7.287e-5, CD2_2=0.0)
    header.update(PV1_1=1.0, PV1_7=1e-3, PV2_1=1.0, PV2_7=1e-3)
    return sky.celestial_wcs(header)


def detector_row(wcs, root, extname, **values):
    row = {c.name: c.type() for c in tables.TILE if c.name != "Image"}
    ra, dec = sky.centre(wcs, (NY, NX))
    row |= {"CENRA1": ra, "CENDEC1": dec, "NAXIS1": NX, "NAXIS2": NY}
    for i, (ra, dec) in enumerate(sky.corners(wcs, (NY, NX)), 1):
        row |= {f"COR{i}RA1": ra, f"COR{i}DEC1": dec}
    row |= {"Field": "LMC_c42", "Root": root, "File": f"{root}.fits.fz", "EXTNAME": extname, "OBSID": f"obs {root}"}
    return row | {"FILTER": "N662", "EXPTIME": 800.0, "SEEING": 1.0} | values


def table_of(rows):
    return tables.make(rows, [c for c in tables.TILE if c.name != "Image"])


def exposure(ra, dec, root="a", **values):
    """All 62 detectors of an exposure, and their WCS by name."""
    wcs = {str(c["EXTNAME"]): detector_wcs(ra, dec, c["CRPIX1"], c["CRPIX2"]) for c in survey.focal_plane()}
    return [detector_row(w, root, name, **values) for name, w in wcs.items()], wcs


def names(selection):
    return [(str(r["Image"]), str(r["Root"]), str(r["EXTNAME"])) for r in selection.detectors]


def one_row(tile, root="a", extname="N4", **values):
    """A detector in the middle of a tile."""
    return detector_row(detector_wcs(tile.ra, tile.dec, 1023.5, 2047.5), root, extname, **values)


TILE = Tile("LMC_c42", "T07", 81.0, -66.2, 0.67)


@pytest.mark.parametrize("pointing", EVERYWHERE)
def test_the_selected_detectors_are_those_with_pixels_on_the_tile(pointing):
    rows, wcs = exposure(*pointing)
    tiles = survey.tiles("X", SurveyConfig(centre=list(pointing)))
    x, y = np.meshgrid(np.linspace(0, NX - 1, 40), np.linspace(0, NY - 1, 80))
    total = 0
    for tile in (tiles[0], tiles[6]):
        selected = {name for _, _, name in names(tiling.select(table_of(rows), tile, IMAGES, TilingConfig()))}
        # The tile as an image of 0.01 deg pixels: what has a pixel in it must be selected, what has none within
        # the distance of the sampled pixels (15 arcsec) must not.
        grid = sky.tan_wcs(Grid(tile.ra, tile.dec, 36.0, 67, 67))
        for name, w in wcs.items():
            pixels = grid.wcs_world2pix(w.wcs_pix2world(np.stack([x.ravel(), y.ravel()], -1), 0), 0)
            outside = np.maximum(np.abs(pixels - 33).max(axis=-1) - 33.5, 0)  # in units of 0.01 deg
            outside[np.isnan(outside)] = np.inf
            if name in selected:
                assert outside.min() < 0.4, name
            else:
                assert outside.min() > 0, name
        total += len(selected)
    assert total > 10


def test_a_detector_that_only_spans_ra_0h_is_not_on_the_other_side_of_the_sky():
    rows, _ = exposure(0.0, -30.0)
    selection = tiling.select(table_of(rows), Tile("X", "T01", 180.0, -30.0, 0.67), IMAGES, TilingConfig())
    assert (len(selection.detectors), selection.n_on_tile, selection.n_elsewhere) == (0, 0, 62)
    assert selection.explain() == "none of 62 detectors lies on it"


def test_half_a_pixel_decides():
    # The southern edge of pixel x = NX - 1: the CCD's x runs south.
    wcs = detector_wcs(81.0, -66.2, 1023.5, 2047.5)
    row = detector_row(wcs, "a", "N4")
    pixel = 7.287e-5
    for distance, expected in ((NX / 2 - 0.45, 1), (NX / 2 + 0.05, 0)):
        middle = -66.2 - distance * pixel - 0.05
        assert len(tiling.select(table_of([row]), Tile("F", "T", 81.0, middle, 0.1), IMAGES, TilingConfig()).detectors) == expected


def test_rows_come_sorted_by_image_root_and_detector_whatever_the_order_of_the_input():
    rows = [one_row(TILE, root, name, **values) for root, values in (
        ("b", {"FILTER": "r", "EXPTIME": 30.0}), ("c", {}), ("a", {"EXPTIME": 600.0}), ("d", {"FILTER": "N673", "EXPTIME": 400.4}),
    ) for name in ("S1", "N2", "N10")]  # fmt: skip
    found = tiling.select(table_of(rows), TILE, IMAGES, TilingConfig())
    expected = [(i, r, n) for i, r in (("N662", "a"), ("N662", "c"), ("N673", "d"), ("r", "b")) for n in ("N10", "N2", "S1")]
    assert names(found) == expected
    assert found.explain() == "12 detectors on it; used: N662 6, N673 3, r 3"
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    again = tiling.select(table_of(shuffled), TILE, IMAGES, TilingConfig())
    assert all((again.detectors[c] == found.detectors[c]).all() for c in found.detectors.colnames)
    assert set(tables.TILE) == {c for c in tables.TILE if c.name in found.detectors.colnames}


def test_a_detector_can_feed_several_images():
    images = ImageTable((("deep", "N662", 800.0), ("all", "N662", 800.0), ("all", "N662", 30.0)))
    rows = [one_row(TILE, "a"), one_row(TILE, "b", EXPTIME=30.0)]
    found = tiling.select(table_of(rows), TILE, images, TilingConfig())
    assert names(found) == [("all", "a", "N4"), ("all", "b", "N4"), ("deep", "a", "N4")]
    assert found.n_on_tile == 2


def test_each_detector_that_is_left_out_is_counted_with_its_reason():
    rows = [
        one_row(TILE, "good", "S7x"),
        one_row(TILE, "good", "S7"),
        one_row(TILE, "good", "S2"),
        one_row(TILE, "good", "N30", SEEING=9.0),
        one_row(TILE, "blurred", "N4", SEEING=1.51),
        one_row(TILE, "sharp", "N4", SEEING=1.5),
        one_row(TILE, "who knows", "N4", SEEING=np.nan),
        one_row(TILE, "odd", "N4", FILTER="g", EXPTIME=77.0),
        one_row(TILE, "odder", "N5", FILTER="g", EXPTIME=77.0),
        detector_row(detector_wcs(11.0, -66.2, 1023.5, 2047.5), "elsewhere", "N4"),
    ]
    config = TilingConfig(leave_out=["S7", "n30.a", "N30.B", "S2.A"], max_seeing=1.5)
    found = tiling.select(table_of(rows), TILE, IMAGES, config)
    assert [(root, name) for _, root, name in names(found)] == [
        ("good", "S2"),
        ("good", "S7x"),
        ("sharp", "N4"),
        ("who knows", "N4"),
    ]
    assert {key[1:]: reason for key, reason in found.left_out.items()} == {
        ("good", "N30"): "detector N30",
        ("good", "S7"): "detector S7",
        ("odd", "N4"): "g 77 s belongs to no image",
        ("odder", "N5"): "g 77 s belongs to no image",
        ("blurred", "N4"): "seeing above 1.5 arcsec",
    }
    assert (found.n_on_tile, found.n_elsewhere, found.n_unknown_seeing) == (9, 1, 1)
    assert found.explain() == (
        "9 detectors on it; used: N662 4; left out: 1 (detector N30), 1 (detector S7), 2 (g 77 s belongs to no image), "
        "1 (seeing above 1.5 arcsec); used without known seeing: 1"
    )


def test_nothing_left_is_explained():
    found = tiling.select(table_of([one_row(TILE)]), TILE, IMAGES, TilingConfig(leave_out=["N4"]))
    assert len(found.detectors) == 0
    assert "Image" in found.detectors.colnames
    assert found.explain() == "1 detector on it; used: none; left out: 1 (detector N4)"
    assert len(tiling.select(table_of([]), TILE, IMAGES, TilingConfig()).detectors) == 0


def test_an_exposure_that_several_fields_have_is_used_once_from_the_own_field():
    own = table_of([one_row(TILE, "a", Field="LMC_c42"), one_row(TILE, "x", Field="LMC_c42", OBSID="")])
    first = table_of([one_row(TILE, "a_v2", Field="LMC_c03", OBSID="obs a"), one_row(TILE, "c", Field="LMC_c03")])
    other = table_of(
        [one_row(TILE, "c", Field="LMC_c99"), one_row(TILE, "x", Field="LMC_c99", OBSID=""), one_row(TILE, "d", Field="LMC_c99")]
    )
    for parts in ([own, first, other], [other, first, own]):
        found = tiling.select(tiling.stack(parts), TILE, IMAGES, TilingConfig())
        used = [(str(r["Field"]), str(r["Root"])) for r in found.detectors]
        assert used == [("LMC_c42", "a"), ("LMC_c03", "c"), ("LMC_c99", "d"), ("LMC_c42", "x")]
        assert list(found.left_out.values()) == ["observation that is there twice"] * 3
    # What is left out for another reason does not displace the copy that can be used.
    blurred = table_of([one_row(TILE, "a", SEEING=3.0)])
    found = tiling.select(tiling.stack([blurred, first]), TILE, IMAGES, TilingConfig(max_seeing=2.0))
    assert [r for _, r, _ in names(found)] == ["a_v2", "c"]


def test_centre_of_the_mosaics():
    tile = Tile("F", "T01", 0.05, -89.5, 0.67)
    rows = []
    for i, (ra, dec) in enumerate([(359.9, -89.5), (0.3, -89.5), (0.1, -89.4), (0.1, -89.6)]):
        rows.append(detector_row(detector_wcs(ra, dec, 1023.5, 2047.5), f"r{i}", "N4"))
    twice = ImageTable((("a", "N662", 800.0), ("b", "N662", 800.0)))
    rows.append({**rows[0], "Root": "r4", "OBSID": "r4", "EXPTIME": 30.0})  # goes into no image
    selected = tiling.select(table_of(rows), tile, twice, TilingConfig()).detectors
    assert len(selected) == 8
    assert tiling.mosaic_centre(tile, selected, TilingConfig(centre="table")) == (0.05, -89.5)
    ra, dec = tiling.mosaic_centre(tile, selected, TilingConfig(centre="mean"))
    assert (ra, dec) == pytest.approx((0.1, -89.5), abs=3e-3)
    assert tiling.mosaic_centre(tile, selected[::-1], TilingConfig(centre="mean")) == (ra, dec)


@pytest.mark.parametrize(("offset", "images"), [(0.0, ["N662", "r"]), (0.3345, ["N662"]), (0.32, ["N662", "r"])])
def test_an_image_that_only_the_rim_of_the_tile_has_gets_no_mosaic(offset, images):
    """A mosaic of 0.6525 deg reaches 0.32625 deg from the middle, its tile 0.335 deg."""
    half_ccd = 4094 / 2 * 0.2623 / 3600  # deg; the long side of a CCD lies east-west
    north = Tile(TILE.field, TILE.name, TILE.ra, TILE.dec + offset + half_ccd / 2, TILE.size)
    beside = one_row(north, "b", "S4", FILTER="r", EXPTIME=30.0, PixScale=0.2623)
    if offset:  # only its lower edge is on the tile
        beside = detector_row(detector_wcs(TILE.ra, TILE.dec + offset, NX + 0.5, 2047.5), "b", "S4", FILTER="r", EXPTIME=30.0)
    found = tiling.select(table_of([one_row(TILE, PixScale=0.2623), beside]), TILE, IMAGES, TilingConfig())
    present = sorted({str(row["FILTER"]) for row in found.detectors})
    assert present == images
    if "r" not in images:
        assert found.left_out == {("LMC_c42", "b", "S4"): "on the rim of the tile, outside the mosaic"}
        assert "1 (on the rim of the tile, outside the mosaic)" in found.explain()


LOWER, UPPER = slice(0, 1023), slice(1023, 2046)


@pytest.mark.parametrize(
    ("extname", "amplifier", "half"), [("N4", "A", LOWER), ("N4", "B", UPPER), ("S7", "A", UPPER), ("s31", "B", LOWER)]
)
def test_amplifier_a_reads_lower_columns_of_n_and_upper_ones_of_s_detectors(extname, amplifier, half):
    """As DATASECA of DES images says; S7.A is what the Legacy Surveys cut off, columns above 1023."""
    assert tiling.amplifier_columns(fits.Header(), extname, 2046, amplifier) == half


def test_the_header_decides_where_it_says_something():
    header = fits.Header({"DATASECA": "[1025:2048,1:4096]", "DATASECB": "[1:1024,1:4096]"})
    assert tiling.amplifier_columns(header, "N4", 2046, "A") == tiling.amplifier_columns(header, "CCD1", 2046, "A") == UPPER
    header["DATASECB"] = header["DATASECA"]
    assert tiling.amplifier_columns(header, "N4", 2046, "A") == LOWER


def test_an_unknown_detector_without_sections_is_refused():
    with pytest.raises(ExposureError, match="which columns its amplifier A reads is not known"):
        tiling.amplifier_columns(fits.Header(), "CCD1", 2046, "A")


def test_both_amplifiers_are_the_whole_detector():
    assert tiling.left_out(["S7.A", "n30", "N4.a", "N4.B", "S2", "S2.B"]) == ({"N30", "N4", "S2"}, {"S7": "A"})
    assert tiling.left_out([]) == (set(), {})
