"""Files that are damaged, cut short, stored in every form there is, or no exposures at all."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from damage import Answer, Survivors, answer, as_cfitsio_reads, flipped, require_answer
from fields import FIELD, config, small_field
from mefs import detector_hdu, sky_pixels, write_mef
from runs import last_log
from tally import tried

from flows.field import reduce
from kred_core.fits.hdu import BLOCK, scan
from kred_core.products import FieldPaths

NAME = "a_ooi_N662.fits.fz"


# cut short


def test_a_file_cut_anywhere_is_refused_or_loses_only_what_it_lacks(ask, tmp_path):
    path = write_mef(tmp_path / NAME, ["N1", "N2", "N3"], NEXTEND=3)
    raw, hdus = path.read_bytes(), scan(path)
    whole = require_answer(ask(tmp_path, {NAME: raw}), "whole")
    assert whole.report.verdict == "good" or "corner keywords" in " ".join(whole.report.remarks)
    second = hdus[2]
    heap = second.data_start + second.header["NAXIS1"] * second.header["NAXIS2"]
    end = heap + second.header["PCOUNT"]
    places = [0, 1, 79, 80, BLOCK - 1, BLOCK, BLOCK + 1, hdus[1].header_start + 800, hdus[1].data_start - 1, hdus[1].data_start]
    places += [second.header_start, second.header_start + 80, second.data_start, second.data_start + 9, heap, heap + 1, end - 1]
    places += [hdus[3].header_start, hdus[3].data_start + 100, len(raw) - BLOCK, len(raw) - 1]
    assert len(set(places)) == len(places) >= 20
    for at in places:
        where = f"cut at byte {at} of {len(raw)}"
        found = require_answer(ask(tmp_path, {NAME: raw[:at]}), where)
        report = found.report
        if at == len(raw) - 1:  # of the padding
            assert report.extnames == ("N1", "N2", "N3"), where
        elif report.refused:
            assert report.detectors == (), where
        else:  # between two extensions
            assert at in {hdu.header_start for hdu in hdus[1:]}, where
            assert any(f"NEXTEND promises 3 extensions, the file has {len(report.extnames)}" in r for r in report.remarks), where
        for name, pixels in found.pixels.items():
            np.testing.assert_array_equal(pixels, whole.pixels[name], where)
    tried("file cut short", len(places))


# flipped bits


def flips(raw: bytes, path: Path, n: int, seed: int) -> list[tuple[str, int, int]]:
    """Part, byte and bit of so many in the header, the table and the heap of the first extension."""
    chance, hdu = random.Random(seed), scan(path)[1]
    table = hdu.header["NAXIS1"] * hdu.header["NAXIS2"] if "ZCMPTYPE" in hdu.raw_header.decode("latin-1") else 0
    parts = {"header": range(hdu.header_start, hdu.header_start + len(hdu.raw_header))}
    if table:
        parts["table"] = range(hdu.data_start, hdu.data_start + table)
    parts["heap" if table else "data"] = range(hdu.data_start + table, hdu.data_start + hdu.data_length)
    return [(part, chance.choice(parts[part]), chance.randrange(8)) for part in parts for _ in range(n // len(parts))]


STORAGES = {
    "RICE_1": {"storage": "RICE_1"},
    "GZIP_1": {"storage": "GZIP_1"},
    "GZIP_2": {"storage": "GZIP_2"},
    "HCOMPRESS_1": {"storage": "HCOMPRESS_1"},
    "PLIO_1": {"storage": "PLIO_1", "pixels": sky_pixels(0).astype(np.int16)},
    "not compressed": {"storage": None},
}


def require_flips(directory: Path, storage: str, n: int, seed: int, workers: int = 1) -> None:
    """Flip bits of one detector, and compare what becomes of it with what cfitsio reads, where it reads something."""
    hdus = [detector_hdu("N1", **STORAGES[storage]), detector_hdu("N2", 1)]
    path = write_mef(directory / NAME, hdus, checksum=False)
    raw = path.read_bytes()
    where = flips(raw, path, n, seed)
    calls = [{"directory": directory / "kred", "files": {NAME: flipped(raw, at, bit)}, "until": "prepare"} for _, at, bit in where]
    (directory / "cfitsio").mkdir()
    theirs = [{"directory": directory / "cfitsio", "raw": flipped(raw, at, bit)} for _, at, bit in where]
    kinds: dict[str, int] = {}
    with Survivors(answer, workers) as survivors, Survivors(as_cfitsio_reads, workers, 5.0) as others:
        whole = require_answer(survivors(**calls[0] | {"files": {NAME: raw}}), "whole")
        for (part, at, bit), found, other in zip(where, survivors.map(calls), others.map(theirs), strict=True):
            fault = f"{storage}: bit {bit} of byte {at} in the {part}"
            require_pixels(require_answer(found, fault), whole, other, fault)
            kinds[part] = kinds.get(part, 0) + 1
    for part, count in kinds.items():
        tried(f"bit flipped in the {part} of a detector", count)


def require_pixels(found: Answer, whole: Answer, other: np.ndarray | str, fault: str) -> None:
    if found.report.refused:
        return
    if "N2" in found.pixels:  # else the structure of the file is damaged, and that is said
        np.testing.assert_array_equal(found.pixels["N2"], whole.pixels["N2"], fault)
    first = next((pixels for name, pixels in found.pixels.items() if name != "N2"), None)
    if first is None:
        assert found.report.lost or (len(found.report.extnames) < 2 and found.report.remarks), fault
    elif isinstance(other, str):  # cfitsio reads nothing; then kred may have read past the damage, and nothing else
        np.testing.assert_array_equal(first, whole.pixels["N1"], fault)
    else:
        np.testing.assert_array_equal(first, other, fault)


def test_a_flipped_bit_is_a_verdict_or_the_pixels_that_cfitsio_reads(tmp_path):
    require_flips(tmp_path, "RICE_1", 90, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("storage", STORAGES)
def test_a_thousand_flipped_bits(storage, tmp_path):
    require_flips(tmp_path, storage, 420 if storage == "RICE_1" else 120, seed=2, workers=2)


def test_where_there_are_checksums_no_flipped_bit_of_the_data_is_used(ask, tmp_path):
    path = write_mef(tmp_path / NAME, ["N1", "N2"])
    raw = path.read_bytes()
    where = [flip for flip in flips(raw, path, 120, seed=3) if flip[0] != "header"]
    for part, at, bit in where:
        fault = f"bit {bit} of byte {at} in the {part}"
        report = require_answer(ask(tmp_path, {NAME: flipped(raw, at, bit)}, "check"), fault).report
        assert report.extnames == ("N2",), fault
        assert report.lost[0][0] == "N1", fault
        assert "damaged" in report.lost[0][1], fault
    tried("bit flipped in data with a checksum", len(where))


# forms of storage

INTEGERS = np.random.default_rng(5).integers(0, 4000, (64, 48))
FORMS = {
    f"{storage}, {kind.__name__}": fits.CompImageHDU(INTEGERS.astype(kind), compression_type=storage)
    for storage in ("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1", "NOCOMPRESS")
    for kind in (np.int16, np.int32, np.uint8)
    if (storage, kind) != ("HCOMPRESS_1", np.uint8)  # which cfitsio cannot read back
}
FORMS |= {
    f"{storage}, floats, {dither}": fits.CompImageHDU(
        sky_pixels(3), compression_type=storage, quantize_level=4.0, quantize_method=method, dither_seed=7
    )
    for storage in ("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1")
    for dither, method in (("no dither", -1), ("dither 1", 1), ("dither 2", 2))
}
FORMS |= {
    f"{storage}, floats, lossless": fits.CompImageHDU(sky_pixels(3).astype(kind), compression_type=storage, quantize_level=0.0)
    for storage in ("GZIP_1", "GZIP_2")
    for kind in (np.float32, np.float64)
}
FORMS |= {
    f"not compressed, {np.dtype(kind).name}": fits.ImageHDU(sky_pixels(3).astype(kind))
    for kind in (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64)
}


def test_every_form_of_storage_is_read_as_cfitsio_reads_it_and_copied_rightly(ask, tmp_path):
    (tmp_path / "cfitsio").mkdir()
    with Survivors(as_cfitsio_reads) as cfitsio:
        for form, hdu in FORMS.items():
            detector = hdu.copy()
            detector.header.update({k: v for k, v in detector_hdu("N1").header.items() if k[:2] in ("CT", "CR", "CD", "CU", "FW")})
            detector.name = "N1"
            path = write_mef(tmp_path / NAME, [detector])
            found = require_answer(ask(tmp_path / "kred", {NAME: path.read_bytes()}), form)
            assert found.report.extnames == ("N1",), form
            assert found.mosaic == "", form
            np.testing.assert_array_equal(found.pixels["N1"], cfitsio(tmp_path / "cfitsio", path.read_bytes()), form)
    tried("form of storage", len(FORMS))


# extensions and their names


@pytest.mark.parametrize(
    ("names", "used", "n_lost"),
    [
        (["N1"], ("N1",), 0),
        ([f"D{i:03}" for i in range(100)], tuple(f"D{i:03}" for i in range(100)), 0),
        (["N1", "N2", "N1"], ("N2",), 2),
        (["N1", "n1", "N2"], None, None),  # one and the same name on some disks, and in FITS
        (["N1", None, "N2"], ("N1", "N2"), 1),
        ([None, None], (), 2),
    ],
    ids=["one", "a hundred", "one name twice", "names that differ in case", "one without a name", "none with a name"],
)
def test_numbers_and_names_of_extensions(names, used, n_lost, ask, tmp_path):
    hdus = [detector_hdu(name, i % 20, storage=None) for i, name in enumerate(names)]
    path = write_mef(tmp_path / NAME, hdus, checksum=False)
    raw = path.read_bytes()
    if "n1" in names:  # astropy writes capitals
        at = raw.index(b"EXTNAME = 'N1      '", raw.index(b"EXTNAME = 'N1      '") + 1)
        raw = raw[:at] + b"EXTNAME = 'n1      '" + raw[at + 20 :]
    found = require_answer(ask(tmp_path / "kred", {NAME: raw}), str(names))
    assert found.report.n_detectors == len(names)
    if used is None:
        assert found.report.extnames in (("N2",), ("N1", "n1", "N2"))
    else:
        assert found.report.extnames == used
        assert len(found.report.lost) == n_lost
    tried("unusual number or name of extensions")


# what is no exposure


def test_what_is_no_exposure_is_named_and_the_field_reduced_without_it(prefect_server, tmp_path):
    root = small_field(tmp_path / "root")
    paths = FieldPaths(root, FIELD)
    good = sorted(path.name for path in paths.mef.iterdir() if "_ooi_" in path.name)
    whole = (paths.mef / good[0]).read_bytes()
    contents = {
        "empty": b"",
        "text": b"not FITS at all\n" * 400,
        "page": b"<html><body>404 Not Found</body></html>",
        "zeros": bytes(5 * BLOCK),
        "packed": gzip.compress(whole),
        "half": whole[: len(whole) // 2],
        "primary": whole[: scan(paths.mef / good[0])[1].header_start],
    }
    for name, content in contents.items():
        (paths.mef / f"{name}_ooi_r_v1.fits.fz").write_bytes(content)
    (paths.mef / "directory_ooi_r_v1.fits.fz").mkdir()
    (paths.mef / "nowhere_ooi_r_v1.fits.fz").symlink_to(tmp_path / "nowhere")
    (paths.mef / "circle_ooi_r_v1.fits.fz").symlink_to(paths.mef / "circle_ooi_r_v1.fits.fz")
    os.mkfifo(paths.mef / "pipe_ooi_r_v1.fits.fz")
    strange = {*contents, "directory", "nowhere", "circle", "pipe"}
    assert reduce(config(root)) == 3
    rows = Table.read(paths.input_table, format="ascii.ecsv")
    refused = {str(row["File"]).split("_")[0]: str(row["Reason"]) for row in rows if row["Fate"] == "refused"}
    assert set(refused) == strange
    assert all(len(reason.split()) > 2 for reason in refused.values())
    assert {str(row["File"]) for row in rows if row["Fate"] == "used"} == set(good)
    log = last_log(root)
    assert "Traceback" not in log
    for name in strange:
        assert f"{name}_ooi_r_v1" in log
    tried("file that is no exposure among the exposures", len(strange))
