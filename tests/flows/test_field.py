"""A field from its exposures to its figures, by real flows on a real server."""

from __future__ import annotations

import base64
import os
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from runs import done, last_log, products
from serving import reports

from flows.field import main, reduce
from kred_core import starter
from kred_core.config import BackgroundKind, FieldConfig
from kred_core.products import FieldPaths
from kred_core.simulate import FAULTS, simulate_field

pytestmark = pytest.mark.usefixtures("prefect_server")

EVERYTHING = {"check": 4, "summarize": 4, "prepare": 4, "tiles": 1, "match": 11, "figures": 2, "coadd": 2, "evaluate": 4}
ONE_OF_EACH = {"tiles": 1, "match": 1, "evaluate": 1}
ALL_OF_IT = {name: n for name, n in EVERYTHING.items() if name not in ("check", "prepare")}


def config(root: Path, *tiles: str, **sections: dict) -> FieldConfig:
    return FieldConfig(field="LMC_c42", tiles=list(tiles), root=root, **sections)


class TestFirstRun:
    def test_makes_every_product(self, reduced):
        paths = FieldPaths(reduced, "LMC_c42")
        for image in ("N662", "r"):
            assert fits.getdata(paths.mosaic("T07", image, BackgroundKind.MATCHED)).any()
            assert fits.getdata(paths.coverage("T07", image, BackgroundKind.MATCHED), 1).max() >= 2
            for figure in (
                paths.mosaic_figure("T07", image, BackgroundKind.MATCHED),
                paths.coverage_figure("T07", image, BackgroundKind.MATCHED),
            ):
                assert figure.read_bytes().startswith(b"\x89PNG")
            assert paths.field_figure(image, BackgroundKind.MATCHED).read_bytes().startswith(b"\x89PNG")
        for table in (paths.quality_table, paths.exposure_table, paths.detector_table, paths.tile_table("T07"), paths.mosaic_table):
            assert len(Table.read(table, format="ascii.ecsv")) > 0

    def test_shows_how_much_better_each_image_got(self, reduced):
        """A line for each image at the end of the log; in the Prefect UI a report with numbers and figures."""
        log = last_log(reduced)
        shown = reports(reduced)[-1]
        for image in ("N662", "r"):
            before, after = re.search(rf"matched {image}: .*differences (\S+) -> (\S+) ", log).groups()
            assert re.search(rf"^\| {image} \| 16 \| \d+ \| {before} \| {after} \| ", shown, re.MULTILINE)
            data = re.search(rf"!\[{image}, before and after\]\(data:image/jpeg;base64,([^)]*)", shown).group(1)
            picture = base64.b64decode(data)
            assert picture.startswith(b"\xff\xd8")
            assert len(picture) < 150_000

    def test_keeps_the_options_beside_the_products(self, reduced):
        text = FieldPaths(reduced, "LMC_c42").run_config.read_text()
        assert text.splitlines()[0].endswith(": LMC_c42 T07")
        assert tomllib.loads(text)["coadd"]["engine"] == "native"

    def test_prepared_links_lead_to_the_detectors_of_the_tile(self, reduced):
        paths = FieldPaths(reduced, "LMC_c42")
        table = Table.read(paths.tile_table("T07"), format="ascii.ecsv")
        links = sorted(paths.prepared_tile("T07").iterdir())
        assert [p.name for p in links] == sorted(f"{r['Root']}_{r['EXTNAME']}.fits.fz" for r in table)
        assert all(p.is_symlink() and p.resolve().parent == paths.prepared.resolve() for p in links)

    def test_does_not_touch_the_input(self, simulated, reduced):
        for path in (simulated / "DECam_MEF").rglob("*.fz"):
            assert (reduced / path.relative_to(simulated)).read_bytes() == path.read_bytes()


class TestSecondRun:
    def test_does_nothing(self, reduced):
        before = products(reduced)
        assert reduce(config(reduced, "T07")) == 0
        assert done(reduced) == {}
        assert products(reduced) == before

    @pytest.mark.parametrize(
        ("deleted", "stages_done"),
        [
            (["DECam_SWARP/*/eval/LMC_c42_T07_b.r.png", "Summary/*_backgrounds.tab", "Summary/*_T07.tab"], ONE_OF_EACH),
            (["DECam_SWARP/*/eval/LMC_c42_b.r.png", "DECam_PREP/*/data/*_N662_*S10*"], {"evaluate": 1, "prepare": 1}),
            (["DECam_SWARP/*/T07_b/LMC_c42_T07.r.fits"], {"coadd": 1, "evaluate": 1}),
            (["DECam_SWARP/*/T07_b/LMC_c42_T07.r.coverage.fits.fz"], {"coadd": 1, "evaluate": 1}),
            (["Summary/*_det.tab", "Summary/*_mosaics.tab"], {"tiles": 1}),
        ],
    )
    def test_makes_deleted_products_again_with_the_same_bytes(self, reduced, deleted, stages_done):
        before = products(reduced)
        for pattern in deleted:
            next(reduced.glob(pattern)).unlink()
        assert reduce(config(reduced, "T07")) == 0
        assert done(reduced) == stages_done
        assert products(reduced) == before

    def test_makes_deleted_binned_maps_again_without_measuring_and_only_where_they_are_kept(self, reduced):
        paths = FieldPaths(reduced, "LMC_c42")
        before = products(reduced)
        first = next(paths.binned.glob("*.stamps.fits"))
        content, records = first.read_bytes(), [path.stat().st_mtime_ns for path in (paths.state / "summarize").iterdir()]
        first.unlink()
        assert reduce(config(reduced, "T07", run={"until": "summarize"}, stamps={"keep": False})) == 0
        assert done(reduced) == {}
        assert reduce(config(reduced, "T07", run={"until": "summarize"})) == 0
        assert first.read_bytes() == content
        assert [path.stat().st_mtime_ns for path in (paths.state / "summarize").iterdir()] == records
        assert reduce(config(reduced, "T07")) == 0  # the table of the input again tells of all stages
        assert products(reduced) == before

    def test_redoes_what_depends_on_a_touched_exposure(self, reduced):
        before = products(reduced)
        exposure = next(p for p in FieldPaths(reduced, "LMC_c42").exposures() if "_r_" in p.name)
        os.utime(exposure)
        assert reduce(config(reduced, "T07")) == 0
        assert done(reduced) == {"check": 1, "summarize": 1, "prepare": 1, "match": 3, "figures": 1, "coadd": 1, "evaluate": 1}
        assert products(reduced) == before

    def test_redo_does_everything(self, reduced):
        before = products(reduced)
        assert reduce(config(reduced, "T07", run={"redo": True})) == 0
        assert done(reduced) == EVERYTHING
        assert products(reduced) == before


@pytest.mark.parametrize(
    ("sections", "stages_done"),
    [
        ({"evaluate": {"stretch": 0.2}}, {"evaluate": 2}),
        ({"coadd": {"combine": "weighted"}}, {"coadd": 2, "evaluate": 4}),
        # matched mosaics do not depend on the backgrounds of the exposures
        ({"prepare": {"background": "none"}}, {"prepare": 4, "tiles": 1, "match": 5, "figures": 2}),
        # an amplifier of a detector that all exposures have (the background of one of them changes), and one that none has
        ({"tiling": {"leave_out": ["S10.A"]}}, ALL_OF_IT | {"prepare": 1}),
        ({"tiling": {"leave_out": ["S7.A"]}}, {"tiles": 1}),
        ({"coadd": {"mask_codes": [1, 2]}}, ALL_OF_IT),
    ],
    ids=lambda value: str(value),
)
def test_a_changed_option_redoes_what_depends_on_it(reduced, sections, stages_done):
    before = products(reduced)
    assert reduce(config(reduced, "T07", **sections)) == 0
    assert done(reduced) == stages_done
    assert reduce(config(reduced, "T07")) == 0
    assert done(reduced) == stages_done
    assert products(reduced) == before


class TestMosaics:
    def test_of_both_kinds_and_again_of_one(self, reduced):
        before = products(reduced)
        paths = FieldPaths(reduced, "LMC_c42")
        assert reduce(config(reduced, "T07", coadd={"mosaics": "both"})) == 0
        assert done(reduced) == {"figures": 2, "coadd": 2, "evaluate": 4}  # the overviews of the matched ones stay as they are
        both = products(reduced)
        changed = {name for name in before if both[name] != before[name]}
        assert changed == {f"DECam_SWARP/LMC_c42/eval/LMC_c42_T07.{i}.before_after.png" for i in ("N662", "r")} | {
            "Summary/LMC_c42_mosaics.tab"
        }
        for image in ("N662", "r"):
            assert fits.getdata(paths.mosaic("T07", image)).any()
            assert paths.mosaic_figure("T07", image).is_file()
            assert paths.field_figure(image).is_file()

        assert reduce(config(reduced, "T07")) == 0
        assert "LMC_c42/T07: LMC_c42_T07.N662.fits, LMC_c42_T07.r.fits: of an earlier run" in last_log(reduced)
        for name in both.keys() - before.keys():
            (reduced / name).unlink()
        assert products(reduced) == before


class TestStages:
    def test_run_one_after_the_other_by_one_thread_make_the_same(self, root, reduced):
        """`reduced` was made by one thread for each core."""
        for name in ("check", "summarize", "prepare", "tiles", "match", "coadd", "evaluate"):
            assert reduce(config(root, "T07", run={"only": [name], "workers": 1})) == 0
            assert list(done(root)) == [name, *(["figures"] if name == "match" else [])]
        assert products(root) == products(reduced)

    def test_say_which_stage_has_to_come_before(self, root):
        assert reduce(config(root, "T07", run={"from": "coadd"})) == 1
        assert "run the stage 'tiles' first" in last_log(root)
        assert reduce(config(root, "T07", run={"only": ["summarize"]})) == 1
        assert "it has not been checked; run the stage 'check'" in last_log(root)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    """A reduced field with two good exposures and one more for each fault that the simulator can plant."""
    root = tmp_path_factory.mktemp("faulty")
    simulate_field(root, tiles=["T07"], binning=16, exposures=2, bands=["r"], n_detectors=4, faults=["all"], seed=3)
    assert reduce(config(root, "T07")) == 3
    return root


class TestFaults:
    def test_each_is_named_with_its_reason(self, faulty):
        quality = Table.read(FieldPaths(faulty, "LMC_c42").quality_table, format="ascii.ecsv")
        verdicts = {row["Root"]: (str(row["Verdict"]), str(row["Reasons"])) for row in quality}
        expected = {
            "truncated": ("refused", "truncated"),
            "flipped-byte": ("usable", "DATASUM"),
            "missing-magzero": ("refused", "MAGZERO is missing"),
            "missing-seeing": ("usable", "the seeing is unknown"),
            "missing-corners": ("usable", "no corner keywords"),
            "wrong-corners": ("usable", "wrong corner keywords"),
            "duplicate": ("refused", "duplicate: another processing of the exposure"),
            "nan-detector": ("usable", "all its pixels are NaN"),
            "constant-detector": ("usable", "the same value"),
            "unknown-filter": ("usable", "belongs to no image"),
            "wrong-shape": ("usable", "the other detectors have"),
        }
        assert set(expected) == set(FAULTS)
        planted = Table.read(faulty / "Truth" / "LMC_c42" / "faults.ecsv", format="ascii.ecsv")
        assert set(planted["Fault"]) == set(FAULTS)
        for row in planted:
            fault, root = str(row["Fault"]), str(row["Root"])
            verdict, reason = expected[fault]
            if fault == "duplicate" and verdicts[root][0] != "refused":  # of two processings either may be the better
                root = root.replace("_ls9", "_v1")
            assert verdicts[root][0] == verdict, fault
            assert reason in verdicts[root][1], fault
            if fault in ("flipped-byte", "nan-detector", "constant-detector", "wrong-shape"):
                assert f"detector {row['EXTNAME']} refused" in verdicts[root][1]

    def test_leave_the_rest_of_the_field_alone(self, faulty):
        mosaic = fits.getheader(FieldPaths(faulty, "LMC_c42").mosaic("T07", "r", BackgroundKind.MATCHED))
        assert mosaic["NEXP"] == 2 + len(FAULTS) - 4  # truncated, without MAGZERO, the duplicate, of an unknown filter
        assert "Traceback" not in last_log(faulty)


def test_real_cut_outs_become_a_z_band_mosaic(tmp_path, real_decam):
    (tmp_path / "DECam_MEF").symlink_to(real_decam)
    (tmp_path / "tiles.txt").write_text("Field Tile RA Dec Size\nLS_T4 T01 186.744 25.462 0.05\n")
    (tmp_path / "images.txt").write_text("Image FILTER EXPTIME\nz z 114\nz z 107\nz z 209\nz z 123\n")
    tables = {"tile_table": str(tmp_path / "tiles.txt"), "image_table": str(tmp_path / "images.txt")}
    assert reduce(FieldConfig(field="LS_T4", root=tmp_path, survey=tables)) == 3
    header = fits.getheader(FieldPaths(tmp_path, "LS_T4").mosaic("T01", "z", BackgroundKind.MATCHED))
    assert header["NEXP"] == 3
    assert header["NAXIS1"] == round(0.05 * 3600 / 0.27)
    log = last_log(tmp_path, "LS_T4")
    assert "c4d_150411_035242_ooi_z_ls9: MAGZERO is missing" in log
    assert "refused c4d_180212_083009_ooi_z_ls9: MAGZERO is missing" in log
    assert len(re.findall("  refused c4d_", log)) == 5
    assert "wrong corner keywords: 5 exposures" in log
    assert "LS_T4: complete, 3 of 11 detectors used (10 exposures: 5 usable, 5 refused)" in log
    quality = FieldPaths(tmp_path, "LS_T4").quality_table.read_text()
    assert "duplicate: another processing of the exposure c4d_150411_035242_ooi_z_v1" in quality


def test_the_real_field_with_the_tables_that_the_command_writes(tmp_path, real_decam, capsys):
    (tmp_path / "DECam_MEF").symlink_to(real_decam)
    assert starter.main(["LS_T4", "--root", str(tmp_path)]) == 0
    arguments = shlex.split(next(line for line in capsys.readouterr().out.splitlines() if "flows/field.py" in line))[2:]
    table = tmp_path / "LS_T4_zero_points.tab"
    lines = table.read_text().splitlines()
    wanted = [f"{line}  30.1" if len(line.split()) == 3 and "180314" not in line else line for line in lines]
    table.write_text("\n".join(wanted))
    assert main([*arguments, "--coadd.size", "0.18"]) == 3
    paths = FieldPaths(tmp_path, "LS_T4")
    for image, n in (("g", 2), ("r", 2)):
        assert fits.getheader(paths.mosaic("T01", image, BackgroundKind.MATCHED))["NEXP"] == n
    log = last_log(tmp_path, "LS_T4")
    reason = "MAGZERO is missing in the primary header, so the counts cannot be calibrated; its row in the table of"
    assert f"refused c4d_180314_055922_ooi_r_ls9: {reason} --check.zero-points is empty" in log
    assert re.search(r"LS_T4: complete, \d+ of 11 detectors used \(10 exposures: ", log)


def under_other_keys(source: Path, name: str, **keys) -> None:
    """A copy of a file beside it, with other keywords in its primary header."""
    with fits.open(source, disable_image_compression=True) as hdus:
        for key, value in keys.items():
            hdus[0].header[key.replace("_", "-")] = value
        hdus.writeto(source.with_name(name))


def test_other_files_of_the_archive_beside_the_exposures_change_no_product_and_are_named(root, reduced):
    """Sky-subtracted images, stacks, weights, a second processing by an older pipeline, and the same data under another OBSID."""
    paths = FieldPaths(root, "LMC_c42")
    exposures = paths.exposures()
    left_out = {}
    for i, path in enumerate(exposures):
        for name, keys, reason in (
            (path.name.replace("_ooi_", "_oki_"), {"PROCTYPE": "SkySub"}, "sky-subtracted (PROCTYPE SkySub)"),
            (f"0stack{i}.fits.fz", {"PROCTYPE": "Stacked"}, "stacked (PROCTYPE Stacked)"),
            (f"0wtmap{i}.fits.fz", {"PRODTYPE": "wtmap"}, "weight (PRODTYPE wtmap)"),
        ):
            under_other_keys(path, name, **keys)
            left_out[name] = f"{reason}; only InstCal images and their masks are taken"
    start = fits.getheader(exposures[0])["MJD-OBS"] + 1
    under_other_keys(exposures[0], "0again_ooi.fits.fz", OBSID="another", EXPNUM=1, MJD_OBS=start, PLVER="V4.8.1")
    under_other_keys(exposures[1], "0older_ooi.fits.fz", PLVER="V3.9")

    assert reduce(config(root, "T07")) == 3

    told = ("Summary/LMC_c42_input.tab", "Summary/LMC_c42_mef_qual.tab")
    expected, found = products(reduced), products(root)
    assert [name for name in expected | found if found.get(name) != expected.get(name) and name not in told] == []
    rows = {str(row["File"]): row for row in Table.read(paths.input_table, format="ascii.ecsv") if not row["EXTNAME"]}
    assert {name: str(row["Reason"]) for name, row in rows.items()} == left_out
    log, (first, second, *_) = last_log(root), (FieldPaths.root_of(path) for path in exposures)
    assert f"refused 0again_ooi: duplicate: the same data as in {first}" in log
    assert f"refused 0older_ooi: duplicate: another processing of the exposure {second} (OBSID" in log
    assert re.search(rf"note: left out in {paths.mef}.*weight \(PRODTYPE wtmap\): 0wtmap0\.fits\.fz, 0wtmap1\.fits\.fz", log)
    assert "LMC_c42: complete, 32 of 48 detectors used (6 exposures: 4 good, 2 refused)" in log


def test_a_field_of_sky_subtracted_images_alone_is_told_so(root, command):
    mef = FieldPaths(root, "LMC_c42").mef
    for path in mef.glob("*_ooi_*"):
        under_other_keys(path, path.name.replace("_ooi_", "_oki_"), PROCTYPE="SkySub")
        path.unlink()
    ran = command("flows/field.py", "LMC_c42", "T07", "--root", str(root))
    assert ran.returncode == 1
    assert f"no *.fits.fz exposure in {mef}; what lies there is left out: " in ran.stdout + ran.stderr
    assert "sky-subtracted (PROCTYPE SkySub): c4d_" in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_detector_that_sees_nothing_is_refused_with_the_numbers_and_the_others_used(root):
    """Read noise around zero in one detector of an exposure, of which its mask says nothing; and masks that only lower weights."""
    paths = FieldPaths(root, "LMC_c42")
    noise = np.random.default_rng(5)
    changed = {path: lambda hdu: np.full(hdu.shape, 6, "i2") for path in paths.mef.glob("*_ood_r_*")}
    changed[paths.exposures()[0]] = lambda hdu: noise.normal(0, 2, hdu.shape).astype("f4") if hdu.name == "S10" else hdu.data
    for path, pixels in changed.items():
        with fits.open(path) as hdus:
            made = [fits.PrimaryHDU(header=hdus[0].header)]
            for hdu in hdus[1:]:
                for key in ("CHECKSUM", "DATASUM"):
                    hdu.header.remove(key, ignore_missing=True)
                options = {"name": hdu.name, "compression_type": "GZIP_1", "quantize_level": 0}
                made.append(fits.CompImageHDU(pixels(hdu), hdu.header.copy(), **options))
        fits.HDUList(made).writeto(path, overwrite=True)

    assert reduce(config(root, "T07", coadd={"combine": "weighted"})) == 3

    log = last_log(root)
    assert re.search(r"S10 refused: its sky level is \S+ ADU, the median of the 8 detectors of this exposure \d+ ADU", log)
    assert "4 exposures, 32 detectors: 31 used, 1 refused" in log
    for image, n in (("N662", 16), ("r", 15)):
        with fits.open(paths.mosaic("T07", image, BackgroundKind.MATCHED)) as mosaic:
            used = mosaic["INPUTS"].data
            assert len(used) == n
            assert (used["PIXELS"] > 0).all()
