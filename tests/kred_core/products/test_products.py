"""Products lie where people look for them, and a final name never holds half a product."""

import errno
import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from kred_core.config import BackgroundKind, FieldConfig
from kred_core.errors import InputError
from kred_core.products import (
    FieldPaths,
    atomic,
    discard,
    find_clash,
    link_all,
    read_record,
    service_state,
    table_names,
    unfinished_discovery,
    write_text,
)

MATCHED = BackgroundKind.MATCHED


@pytest.fixture
def paths(tmp_path):
    return FieldPaths(tmp_path, "LMC_c42")


def exposures(paths, *names):
    paths.mef.mkdir(parents=True)
    for name in names:
        (paths.mef / name).touch()
    return [p.name for p in paths.exposures()]


def files_below(directory):
    return sorted(p.name for p in directory.rglob("*") if not p.is_dir())


# names


def test_every_product_has_the_name_that_users_know():
    p = FieldPaths(Path("R"), "LMC_c42")
    exposure = "c4d_160101_010101_ooi_N662_v1"
    assert {str(path) for path in (
        p.mef, p.quality_table, p.exposure_table, p.detector_table, p.tile_table("T07"), p.prepared, p.prepared_tile("T07"),
        p.coadds("T07"), p.evaluation, p.log, p.mosaic("T07", "N662"), p.prepared_detector(exposure, "S7"),
        p.prepared_detector(exposure, "S7", plain=True), p.exposure(exposure + ".fits.fz"), p.overlap_table, p.background_table,
        p.prepared_tile("T07", MATCHED), p.coadds("T07", MATCHED), p.mosaic("T07", "N662", MATCHED),
        p.coverage("T07", "N662", MATCHED), p.binned,
    )} == {
        "R/DECam_MEF/LMC_c42/mef",
        "R/Summary/LMC_c42_mef_qual.tab",
        "R/Summary/LMC_c42_mef.tab",
        "R/Summary/LMC_c42_det.tab",
        "R/Summary/LMC_c42_T07.tab",
        "R/DECam_PREP/LMC_c42/data",
        "R/DECam_PREP/LMC_c42/T07",
        "R/DECam_SWARP/LMC_c42/T07",
        "R/DECam_SWARP/LMC_c42/eval",
        "R/Log/LMC_c42.log",
        "R/DECam_SWARP/LMC_c42/T07/LMC_c42_T07.N662.fits",
        f"R/DECam_PREP/LMC_c42/data/{exposure}_S7.fits.fz",
        f"R/DECam_PREP/LMC_c42/data/{exposure}_S7.fits",
        f"R/DECam_MEF/LMC_c42/mef/{exposure}.fits.fz",
        "R/Summary/LMC_c42_overlaps.tab",
        "R/Summary/LMC_c42_backgrounds.tab",
        "R/DECam_PREP/LMC_c42/T07_b",
        "R/DECam_SWARP/LMC_c42/T07_b",
        "R/DECam_SWARP/LMC_c42/T07_b/LMC_c42_T07.N662.fits",
        "R/DECam_SWARP/LMC_c42/T07_b/LMC_c42_T07.N662.coverage.fits.fz",
        "R/DECam_BACK/LMC_c42",
    }  # fmt: skip
    assert FieldPaths.of(FieldConfig(field="LMC_c42", root="R")) == p
    assert FieldPaths.root_of(Path("a/v1.2.fits.fz")) == FieldPaths.root_of(Path("v1.2.fits")) == "v1.2"
    assert FieldPaths.mask_of(p.mef / "x.fits.fz") is None
    assert all(socket.gethostname() in lock.name for lock in p.heavy_locks(2))  # places for memory are those of one machine


def test_a_tile_with_the_name_of_any_product_of_its_field_is_found():
    """Of every table and directory that `FieldPaths` has, so that none can be forgotten."""
    p = FieldPaths(Path("R"), "A")
    values = {name: getattr(p, name) for name, member in vars(FieldPaths).items() if isinstance(member, property)}
    fixed = [path for path in values.values() if isinstance(path, Path)] + [
        p.quick_look("r"),
        p.field_figure("r", MATCHED),
    ]
    taken = {path.name for path in fixed if path.parent in (p.coadds("x").parent, p.prepared_tile("x").parent)}
    taken |= {path.parent.name for path in fixed if path.parent.parent == p.coadds("x").parent}
    taken |= {path.stem.removeprefix("A_") for path in fixed if path.parent == p.tile_table("x").parent}
    assert {"input", "mef_qual", "mosaics", "data", "eval", "quick", "index.html"} <= taken
    for name in [*taken, *(name.upper() for name in taken)]:
        assert find_clash("A", (name,)) is not None, name
    assert taken >= table_names()


def test_names_that_make_one_file_of_two_products_are_found_and_those_that_people_give_are_no_clash():
    for tiles in (("T1", "t1"), ("T1_B", "T1"), ("b",)):
        assert find_clash("A", tiles, ("r",)) is not None
    for images in (("r", "R"), ("r", "r.coverage"), ("r.before_after", "r"), ("r", "r.pairs")):
        assert find_clash("A", ("T1",), images) is not None
    assert find_clash("A", ("T1.x", "T1"), ("r", "x.r")) is not None
    tiles = (*(f"T{i:02d}" for i in range(1, 17)), "07", "a.b", "a", "T01b", "C", "x_y", "c4_T01")
    assert find_clash("A", tiles, ("N662", "N662_s", "r", "r_s", "deep.v2", "b", "eval")) is None


# input


def test_exposures_are_the_science_files_sorted_by_name(paths):
    found = exposures(
        paths,
        "c4d_2_ooi_r_v1.fits.fz",
        "c4d_1_ooi_r_v1.fits",
        "c4d_1_ood_r_v1.fits.fz",
        "c4d_1_oow_r_v1.fits.fz",
        "notes.txt",
        "c4d_3_ooi_r_v1.fits.fz.part",
        ".c4d_4_ooi_r_v1.fits.fz.x1.tmp",
        "._c4d_1_ooi_r_v1.fits.fz",
    )
    assert found == ["c4d_1_ooi_r_v1.fits", "c4d_2_ooi_r_v1.fits.fz"]


def test_a_field_without_a_directory_or_without_exposures_is_told_what_to_do(paths):
    with pytest.raises(InputError, match=r"field LMC_c42: there is no directory .*/DECam_MEF/LMC_c42/mef; put or link"):
        paths.exposures()
    with pytest.raises(InputError, match=r"field LMC_c42: no \*\.fits\.fz exposure in "):
        exposures(paths, "c4d_1_ood_r_v1.fits.fz", "readme")
    write_text(FieldPaths(paths.root, "LMC_c43").mef, "")
    with pytest.raises(InputError, match="there is no directory"):
        FieldPaths(paths.root, "LMC_c43").exposures()


# atomic writing


@pytest.mark.parametrize("keep_same", [False, True])
@pytest.mark.parametrize("before", [None, "old"])
def test_an_interrupted_write_leaves_what_was_there(before, keep_same, tmp_path):
    path = tmp_path / "product"
    if before is not None:
        path.write_text(before)

    def interrupted():
        with atomic(path, keep_same) as temporary:
            temporary.write_text("half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files_below(tmp_path) == ([] if before is None else ["product"])
    assert before is None or path.read_text() == before


def test_the_same_content_keeps_its_time_only_where_that_was_asked(tmp_path):
    path = tmp_path / "table"
    write_text(path, "a")
    os.utime(path, ns=(10**18, 10**18))
    write_text(path, "a")
    assert path.stat().st_mtime_ns == 10**18
    with atomic(path) as temporary:
        temporary.write_text("a")
    assert path.stat().st_mtime_ns > 10**18
    os.utime(path, ns=(10**18, 10**18))
    write_text(path, "b")
    assert (path.read_text(), path.stat().st_mtime_ns > 10**18) == ("b", True)
    assert files_below(tmp_path) == ["table"]


def test_others_may_read_a_product_as_the_umask_says(tmp_path):
    write_text(tmp_path / "x", "x")
    (tmp_path / "y").write_text("y")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)
    write_text(tmp_path / "x.run", "#!/bin/sh\n", mode=0o777)
    assert os.access(tmp_path / "x.run", os.X_OK)
    (tmp_path / "x.run").chmod(0o500)
    write_text(tmp_path / "x.run", "#!/bin/sh\n", mode=0o777)
    assert stat.S_IMODE((tmp_path / "x.run").stat().st_mode) == 0o500  # what has not changed is left alone: it may be another's


def test_an_error_names_the_product_and_not_its_temporary_file_and_leaves_what_was_there(tmp_path):
    (tmp_path / "product").mkdir()
    for keep_same in (False, True):
        with pytest.raises(IsADirectoryError) as caught, atomic(tmp_path / "product", keep_same):
            pass
        assert caught.value.filename == str(tmp_path / "product")
    (tmp_path / "links" / "product").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught:
        link_all(tmp_path / "links", [tmp_path / "product"])
    assert caught.value.filename == str(tmp_path / "links" / "product")
    assert [p.name for p in (tmp_path / "links").iterdir()] == ["product"]
    with pytest.raises(OSError, match="No space left") as caught, atomic(tmp_path / "x"), open("/dev/full", "wb", 0) as full:
        full.write(b"x")
    assert caught.value.filename == str(tmp_path / "x")
    (tmp_path / "Summary").touch()
    with pytest.raises(OSError, match="Summary"):
        write_text(tmp_path / "Summary" / "table", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Summary", "links", "product"]
    with pytest.raises(OSError, match="Input/output") as caught, atomic(tmp_path / "x"):
        raise OSError(errno.EIO, "Input/output error")  # it may come from what is read meanwhile
    assert caught.value.filename is None


# records


@pytest.mark.parametrize("raw", [b"", b'{"a": 1', b"\xff\xfe", b"\0" * 100])
def test_a_record_that_cannot_be_read_is_as_none(raw, tmp_path):
    assert read_record(tmp_path / "x.json") is None
    (tmp_path / "x.json").write_bytes(raw)
    assert read_record(tmp_path / "x.json") is None
    (tmp_path / "directory.json").mkdir()
    assert read_record(tmp_path / "directory.json") is None


# links


def test_a_link_leads_to_its_target_where_a_field_itself_is_a_link_to_another_disk(tmp_path):
    disk, root = tmp_path / "disk" / "big" / "LMC_c42", tmp_path / "root"
    disk.mkdir(parents=True)
    (root / "DECam_PREP").mkdir(parents=True)
    (root / "DECam_PREP" / "LMC_c42").symlink_to(disk)
    ours, theirs = FieldPaths(root, "LMC_c42"), FieldPaths(root, "LMC_c41")
    targets = ours.prepared / "ours.fits", theirs.prepared / "theirs.fits"
    for target in targets:
        write_text(target, target.name)
    link_all(ours.prepared_tile("T07"), targets)
    assert all((ours.prepared_tile("T07") / target.name).read_text() == target.name for target in targets)


@pytest.mark.parametrize(("reason", "is_refusal"), [("EINVAL", True), ("EIO", False)])
def test_a_file_system_may_refuse_to_sync_and_not_fail_to(tmp_path, monkeypatch, reason, is_refusal):
    def fsync(_):
        raise OSError(getattr(errno, reason), reason)

    monkeypatch.setattr(os, "fsync", fsync)
    with nullcontext() if is_refusal else pytest.raises(OSError, match=reason):
        write_text(tmp_path / "x", "x")
    assert files_below(tmp_path) == (["x"] if is_refusal else [])


def test_threads_may_make_the_same_link_at_once(tmp_path):
    targets = [tmp_path / name / "x.fits" for name in "ab"]
    for target in targets:
        write_text(target, "pixels")

    def make(_):
        for i in range(200):
            link_all(tmp_path / "tile", [targets[i % 2]])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, range(2)))
    assert [p.name for p in (tmp_path / "tile").iterdir()] == ["x.fits"]


# what killed runs leave behind


def test_what_a_killed_run_left_half_written_is_found_and_nothing_else(paths):
    left = [
        paths.mosaic("T07", "N662").with_name(".LMC_c42_T07.N662.fits.a1b2c3d4.tmp"),
        paths.prepared / ".x_S7.fits.fz.77.88.tmp",
        paths.record("check", "x").with_name(".x.json.q.tmp"),
        paths.quality_table.with_name(".LMC_c42_mef_qual.tab.q.tmp"),
        paths.tile_table("T07").with_name(".LMC_c42_T07.tab.q.tmp"),
    ]
    kept = [
        paths.mosaic("T07", "N662"),
        paths.coadds("T07") / ".hidden",
        paths.quality_table.with_name(".LMC_c42_x_mef.tab.q.tmp"),  # of the field LMC_c42_x
        paths.quality_table.with_name(".LMC_c41_mef.tab.q.tmp"),
        paths.mef / ".x.tmp",
        paths.run_lock,
    ]
    for path in left + kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    work = paths.coadds("T07") / ".LMC_c42_T07.N662.abc"  # SWarp's
    (work / "deep").mkdir(parents=True)
    assert sorted(paths.unfinished()) == sorted([*left, work])
    for path in paths.unfinished():
        discard(path)
    assert paths.unfinished() == []
    assert all(path.exists() for path in kept)
    looks = [paths.discovery_record.with_name(".memory.json.q.tmp"), service_state(paths.root) / ".findings.json.q.tmp"]
    for path in [*looks, paths.discovery_record]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sorted(unfinished_discovery(paths.root)) == sorted(looks)  # of a killed look for new fields
    assert paths.unfinished() == []


def test_a_directory_has_the_links_that_are_wanted_and_no_others(paths):
    prepared, tile = paths.prepared, paths.prepared_tile("T07")
    prepared.mkdir(parents=True)
    for name in ("a_N1.fits.fz", "b_N1.fits.fz"):
        (prepared / name).touch()
    tile.mkdir(parents=True)
    (tile / "old_N1.fits.fz").symlink_to("../data/old_N1.fits.fz")
    (tile / "b_N1.fits.fz").symlink_to("../elsewhere/b_N1.fits.fz")
    (tile / "by_hand.fits").write_text("a file of the user's")
    (tile / ".b_N1.fits.fz.1.2.tmp").symlink_to("../data/b_N1.fits.fz")  # in the making, by another
    link_all(tile, [prepared / name for name in ("a_N1.fits.fz", "b_N1.fits.fz", "never_made.fits.fz")])
    assert sorted(p.name for p in tile.iterdir()) == [".b_N1.fits.fz.1.2.tmp", "a_N1.fits.fz", "b_N1.fits.fz", "by_hand.fits"]
    assert os.readlink(tile / "b_N1.fits.fz") == "../data/b_N1.fits.fz"
    before = (tile / "a_N1.fits.fz").lstat().st_ino
    link_all(tile, [prepared / "a_N1.fits.fz"])
    assert (tile / "a_N1.fits.fz").lstat().st_ino == before
    assert not (tile / "b_N1.fits.fz").is_symlink()
