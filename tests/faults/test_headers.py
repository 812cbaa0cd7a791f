"""Every keyword that kred reads, with every kind of value that it can wrongly have: a verdict in words, or the right number."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from damage import Answer, Survivors, answer, require_answer, with_cards
from mefs import PRIMARY, detector_hdu, write_mef
from tally import tried

from kred_core import survey
from kred_core.config import SurveyConfig
from kred_core.exposures import check, ledger, summary
from kred_core.exposures.check import ExposureReport
from kred_core.exposures.summary import ExposureSummary
from kred_core.fits import hdu
from kred_core.fits.hdu import BLOCK, scan
from kred_core.fits.storage import STORAGE
from kred_core.products import tables

NAN = math.nan
LONG = "long " * 12 + "text " * 10 + "end"


@dataclass(frozen=True)
class Fault:
    """What a header says of a keyword; ``number`` and ``text`` are what a person reads there, NaN and '' where it is nothing."""

    cards: tuple[str, ...]  # {key} stands for the keyword in eight columns, {good} for its right value
    number: float = NAN
    text: str = ""
    right: bool = False  # the right value is there, too, and comes first


FAULTS = {
    "missing": Fault(()),
    "no value": Fault(("{key}=",)),
    "no equals sign": Fault(("{key}  30.0",), 30.0, "30.0"),
    "words": Fault(("{key}= 'abc def '",), text="abc def"),
    "empty": Fault(("{key}= ''",)),
    "blank": Fault(("{key}= '        '",)),
    "a number as text": Fault(("{key}= '12.5    '",), 12.5, "12.5"),
    "'NaN'": Fault(("{key}= 'NaN     '",), text="NaN"),
    "'inf'": Fault(("{key}= 'inf     '",), text="inf"),
    "NaN": Fault(("{key}=                  NaN",)),
    "INF": Fault(("{key}=                  INF",)),
    "1e308": Fault(("{key}=               1.E+308",), 1e308, "1e+308"),
    "-1e308": Fault(("{key}=              -1.E+308",), -1e308, "-1e+308"),
    "beyond doubles": Fault(("{key}=               1.E+999",), text="inf"),
    "negative": Fault(("{key}=                   -1",), -1.0, "-1"),
    "zero": Fault(("{key}=                    0",), 0.0, "0"),
    "tiny": Fault(("{key}=             1.0E-300",), 1e-300, "1e-300"),
    "a whole number": Fault(("{key}=                   17",), 17.0, "17"),
    "exponent with D": Fault(("{key}=              1.25D+01",), 12.5, "12.5"),
    "30 digits": Fault(("{key}= 111111111111111111111111111111",), float("1" * 30), "1" * 30),
    "true": Fault(("{key}=                    T",), text="True"),
    "complex": Fault(("{key}= (1.0, 2.0)",)),
    "two dots": Fault(("{key}= 3..4",)),
    "no closing quote": Fault(("{key}= 'open",)),
    "control characters": Fault(("{key}= 'a\x00b\x07c\nd\x1b[31m'",)),
    "control characters before the value": Fault(("{key}=\x00\n\x1b12.5",), text="=???12.5"),
    "tab": Fault(("{key}= 'a\tb'",)),
    "not ASCII": Fault(("{key}= '\xe9t\xe9 \xff'",)),
    "not ASCII, no quotes": Fault(("{key}= \xb2\xb3",)),
    "quotes and commas": Fault(("{key}= 'O''Neill \", # {{}}'",), text='O\'Neill ", # {}'),
    "a path": Fault(("{key}= '../../etc/passwd'",), text="../../etc/passwd"),
    "continued": Fault(("{key}= '" + "long " * 12 + "&'", "CONTINUE  '" + "text " * 10 + "end'"), text=LONG),
    "twice": Fault(("{key}= {good}", "{key}= 'second  '"), right=True),
    "HIERARCH": Fault(("HIERARCH {key}= {good}",), right=True),
    "lower case": Fault(("{lower}= {good}",), right=True),
}  # fmt: skip
PRIMARY_KEYS = [*PRIMARY, "EXPNUM", "DATE-OBS", "NEXTEND", "TELESCOP", "INSTRUME", "MAGZPT", "BUNIT", "CHECKSUM", "DATASUM"]
PRIMARY_KEYS += ["PROCTYPE", "PRODTYPE", "OBSTYPE"]
GAINS = ["GAIN", "GAINA", "GAINB", "ARAWGAIN", "RDNOISE", "RDNOISEA", "RDNOISEB"]
LEVELS = ["SATURAT", "SATURATE", "SATURATA", "SATURATB", "AVSKY", "AVSIG", "SKYADU", "SKYBRITE", "SKYSIGMA"]
MATRIX = ["CD1_1", "CD1_2", "CD2_1", "CD2_2", "PC1_1", "PC1_2", "PC2_1", "PC2_2", "CDELT1", "CDELT2", "CROTA2"]
SYSTEM = ["CTYPE1", "CTYPE2", "CUNIT1", "CUNIT2", "RADESYS", "RADECSYS", "EQUINOX", "EPOCH", "LONPOLE", "LATPOLE", "LONGPOLE"]
DISTORTION = ["A_ORDER", "B_ORDER", "CPDIS1", "CPDIS2", "CQDIS1", "CQDIS2", "D2IMDIS1", "D2IMDIS2"]
WCS_KEYS = [*SYSTEM, "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", *MATRIX, "PV1_0", "PV1_1", "PV1_7", "PV2_1", "PV2_39", *DISTORTION]
WCS_OF_ALL = [*SYSTEM[:4], "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"]
CD_MATRIX = dict.fromkeys(("PC1_1", "PC1_2", "PC2_1", "PC2_2", "CDELT1", "CDELT2", "CROTA2"))  # None: not there
PC_MATRIX = dict.fromkeys(("CD1_1", "CD1_2", "CD2_1", "CD2_2", "CROTA2"))
PC_MATRIX |= {"PC1_1": 0.0, "PC1_2": 1.0, "PC2_1": 1.0, "PC2_2": 0.0, "CDELT1": 7.2e-5, "CDELT2": -7.2e-5}
CORNERS = [f"COR{i}{axis}1" for i in (1, 2, 3, 4) for axis in ("RA", "DEC")]
DETECTOR_KEYS = ["EXTNAME", "FWHM", "BUNIT", "MAGZERO", "MAGZPT", "CHECKSUM", "DATASUM", *CORNERS, *GAINS, *LEVELS]
OF_COPIES = ["XFACTOR", "SUB_BACK"]  # which only the tests read
STORAGE_KEYS = ["THEAP", "BSCALE", "BZERO", "BLANK", "ZBLANK", "ZSCALE", "ZZERO", "TNULL1", "TSCAL1", "TZERO3", "ZNAME1", "ZVAL1"]


def cards_of(fault: Fault, key: str, good: str) -> list[bytes]:
    words = {"key": f"{key:8}", "lower": f"{key.lower():8}", "good": good}
    return [card.format(**words).encode("latin-1") for card in fault.cards]


def stored_value(raw: bytes, key: str, start: int) -> str:
    """What a header says of a keyword, as it is written there; 1 where it says nothing."""
    end = raw.index(b"END".ljust(80), start)
    at = raw.find(f"{key:8}=".encode(), start, end)
    return raw[at + 10 : at + 80].split(b" /")[0].decode().strip() if at >= 0 else "1"


def faulty(raw: bytes, key: str, fault: Fault, start: int) -> bytes:
    return with_cards(raw, key, cards_of(fault, key, stored_value(raw, key, start)), start)


class Case:
    """An exposure of two detectors, written at a path, and the faults of keywords in the header of HDU ``number``."""

    NAME = "a_ooi_N662.fits.fz"

    def __init__(self, path: Path, number: int, **storage):
        facts = {"GAINA": 4.0, "GAINB": 4.1, "SATURATA": 40000.0, "SATURATB": 41000.0, "AVSKY": 1000.0}
        corners = dict.fromkeys(CORNERS, 0.0)
        detectors = [detector_hdu(name, i, **storage, **facts, **corners) for i, name in enumerate(("N1", "N2"))]
        self.raw = write_mef(path / self.NAME, detectors, False, NEXTEND=2, EXPNUM=405).read_bytes()
        self.start = scan(path / self.NAME)[number].header_start
        self.directory = path

    def call(self, key: str, fault: Fault, until: str) -> dict:
        """Options of `answer`."""
        return {"directory": self.directory, "files": {self.NAME: faulty(self.raw, key, fault, self.start)}, "until": until}

    def whole(self, until: str) -> dict:
        return {"directory": self.directory, "files": {self.NAME: self.raw}, "until": until}

    def header(self, key: str, fault: Fault) -> fits.Header:
        """The header with the fault, as astropy understands it, without the cards that it cannot."""
        raw = faulty(self.raw, key, fault, self.start)
        end = raw.index(b"END".ljust(80), self.start)
        header = fits.Header.fromstring(raw[self.start : end].decode("latin-1"))
        for name in list(header):
            try:
                unknown = header[name] is None
            except fits.VerifyError:
                unknown = True
            if unknown:
                del header[name]
        return header


def each(survivors: Survivors, case: Case, keys: list[str], until: str, every: int = 1) -> Iterator[tuple[str, str, Fault, Answer]]:
    """Every fault of every keyword, or each so many of them, other ones for each keyword, and what kred makes of it."""
    pairs = [(k, n) for i, k in enumerate(keys) for j, n in enumerate(FAULTS) if (i + j) % every == 0]
    calls = [case.call(key, FAULTS[name], until) for key, name in pairs]
    for (key, name), found in zip(pairs, survivors.map(calls), strict=True):
        yield key, name, FAULTS[name], require_answer(found, f"{key}: {name}")


def right_fact(key: str, fault: Fault, whole: ExposureReport) -> tuple[str, object]:
    """Name of what the report makes of a keyword, and what that is: its value, or the one for a keyword that is not there."""
    if fault.right:
        return "verdict", whole.verdict
    seen, positive = fault.number, fault.number if fault.number > 0 else NAN
    text = fault.text.strip()
    facts = {
        "EXPTIME": ("exptime", seen),
        "MAGZERO": ("magzero", seen),
        "SEEING": ("seeing", positive if positive < 60 else pytest.approx(4.0 * 0.262, abs=1e-3)),  # from FWHM
        "MJD-OBS": ("mjd", NAN),  # none of the numbers is one of our time
        "FILTER": ("filter", (text.split() or [""])[0]),
        "OBSID": ("obsid", "405" if text in ("", "NaN") else text),  # EXPNUM
        "OBJECT": ("target", text),
        "PLVER": ("version", text),
    }
    return facts.get(key, ("extnames", whole.extnames))


def must_refuse(key: str, fault: Fault) -> bool:
    if fault.right or key not in ("EXPTIME", "MAGZERO", "FILTER"):
        return False
    if key == "FILTER":
        return not fault.text.strip()
    return not (0 < fault.number < (60 if key == "MAGZERO" else math.inf))


def test_a_keyword_of_the_exposure_is_a_right_number_or_a_reason_to_refuse_it(ask, tmp_path):
    case = Case(tmp_path, 0)
    whole = require_answer(ask(**case.whole("check")), "whole").report
    reports, n = [whole], 0
    for key, name, fault, found in each(ask, case, PRIMARY_KEYS, "check"):
        report, where = found.report, f"{key}: {name}"
        fact, expected = right_fact(key, fault, whole)
        assert getattr(report, fact) == expected or (expected != expected and math.isnan(getattr(report, fact))), where
        assert any(reason.startswith(key) for reason in report.refused) == must_refuse(key, fault), where
        assert len(report.refused) == must_refuse(key, fault), where
        assert report.lost == (), where
        reports.append(replace(report, root=f"{key}_{n}", file=f"{key}_{n}.fits.fz", obsid=f"{report.obsid}{n}"))
        n += 1
    require_tables(reports, {}, tmp_path)
    tried("keyword of an exposure missing, of another type, absurd, or with signs that are no text", n)


def require_tables(reports: list[ExposureReport], measured: dict[str, ExposureSummary], directory: Path) -> None:
    """What the headers say can be written into the tables of a field, and comes back from them as it was."""
    images = survey.images("LMC_c42", SurveyConfig())
    found = ledger.account([r.file for r in reports], reports)
    assert found.faults == ()
    rows = [
        (tables.QUALITY, check.quality_rows(reports)),
        (tables.INPUT, ledger.input_rows(found)),
        (tables.EXPOSURES, summary.exposure_rows(reports, images, "LMC_c42")),
    ]
    if measured:
        usable = [r for r in reports if r.root in measured]
        rows.append((tables.DETECTORS, summary.detector_rows(usable, measured, "LMC_c42")))
    for i, (columns, expected) in enumerate(rows):
        path = directory / f"{i}.tab"
        with np.errstate(over="ignore"):
            table = tables.make(expected, columns)
        tables.write(table, path, "faults")
        again = tables.read(path, columns, "check")
        assert len(again) == len(expected) > 0
        for column in columns:
            values = [column.type(row[column.name]) for row in expected]
            if column.type is str:
                assert [str(v) for v in again[column.name]] == values, column.name
            else:
                np.testing.assert_array_equal(np.asarray(again[column.name]), np.array(values, column.type), column.name)


def corners_of(report: ExposureReport, name: str) -> np.ndarray:
    return np.array(next(d.corners for d in report.detectors if d.extname == name))


@pytest.mark.parametrize("form", [CD_MATRIX, PC_MATRIX], ids=["CD matrix", "PC matrix"])
def test_a_wcs_is_the_one_that_astropy_reads_or_its_detector_is_lost(form, ask, tmp_path):
    case = Case(tmp_path, 1, storage="RICE_1" if form is CD_MATRIX else None, **form)
    whole = require_answer(ask(**case.whole("check")), "whole").report
    np.testing.assert_allclose(corners_of(whole, "N1"), astropys_corners(case.header("OBJECT", FAULTS["missing"])), atol=1e-7)
    n = 0
    for key, name, fault, found in each(ask, case, [k for k in WCS_KEYS if form.get(k, 0.0) is not None], "check", every=4):
        report, where = found.report, f"{key}: {name}"
        assert report.extnames[-1] == "N2", where
        np.testing.assert_array_equal(corners_of(report, "N2"), corners_of(whole, "N2"))
        n += 1
        if report.lost:
            assert report.lost[0][0] == "N1", where
            assert "WCS" in report.lost[0][1], where
            assert not (fault.right and key in WCS_OF_ALL), where
            continue
        try:
            expected = astropys_corners(case.header(key, fault))
        except (ValueError, TypeError, KeyError):  # astropy refuses what kred takes for missing
            expected = corners_of(whole, "N1")
        np.testing.assert_allclose(corners_of(report, "N1"), expected, atol=1e-7, err_msg=where)
    tried("keyword of a WCS missing, of another type, or absurd", n)


def astropys_corners(header: fits.Header) -> np.ndarray:
    """Of 48 x 64 pixels, by nothing but the cards of the WCS; numbers written as texts are numbers, and zeros no distortion."""
    cards = {key: header[key] for key in WCS_KEYS if key in header}
    if "LONGPOLE" in cards:  # which astropy does not know
        cards.setdefault("LONPOLE", cards.pop("LONGPOLE"))
    for key in [key for key in cards if key not in SYSTEM[:6]]:
        with contextlib.suppress(TypeError, ValueError):
            if math.isfinite(number := float(cards[key])):
                cards[key] = number
        if key.startswith("PV") and cards[key] == 0:
            del cards[key]
    wcs = WCS(fits.Header(list(cards.items())), naxis=2)
    corners = wcs.all_pix2world([[1, 1], [48, 1], [1, 64], [48, 64]], 1)
    return np.stack([corners[:, 0] % 360, corners[:, 1]], axis=1)


def test_any_other_keyword_of_a_detector_touches_no_pixel(ask, tmp_path):
    case = Case(tmp_path, 1)
    whole = require_answer(ask(**case.whole("coadd")), "whole")
    n = 0
    for key, name, fault, found in each(ask, case, DETECTOR_KEYS, "coadd", every=8):
        report, where = found.report, f"{key}: {name}"
        named = {"EXTNAME": fault.text.strip()}.get(key, "N1") if not fault.right else "N1"
        assert found.mosaic == "", where
        assert report.extnames in (("N2",), (named, "N2")), where
        assert (len(report.extnames) == 2) or key in ("EXTNAME", "CHECKSUM", "DATASUM"), where
        for pixels, expected in zip(reversed(found.pixels.values()), reversed(whole.pixels.values()), strict=False):
            np.testing.assert_array_equal(pixels, expected, where)
        n += 1
    tried("keyword of a detector missing, of another type, absurd, or with signs that are no text", n)


def test_a_keyword_of_the_storage_loses_its_detector_or_changes_nothing(ask, tmp_path):
    n = 0
    for storage in ("RICE_1", None):
        case = Case(tmp_path, 1, storage=storage)
        for key, name, found, whole in storage_faults(ask, case, "prepare", every=12):
            require_same_or_lost(found, whole, f"{key}: {name}")
            n += 1
    tried("keyword of the storage missing, of another type, or absurd", n)


def storage_faults(survivors: Survivors, case: Case, until: str, every: int) -> Iterator[tuple[str, str, Answer, Answer]]:
    whole = require_answer(survivors(**case.whole(until)), "whole")
    header = fits.Header.fromstring(case.raw[case.start :][: BLOCK * 8].decode("latin-1"))
    keys = [key for key in dict.fromkeys(header) if STORAGE.match(key)]
    keys += [key for key in STORAGE_KEYS if key not in keys]
    for key, name, _, found in each(survivors, case, keys, until, every):
        yield key, name, found, whole


def require_same_or_lost(found: Answer, whole: Answer, where: str) -> None:
    """The pixels as they were or none; BSCALE and its kin mean others, which both detectors' neighbours do not feel."""
    if found.report.refused:
        assert found.report.detectors == (), where
        return
    assert found.report.extnames[-1] == "N2", where
    np.testing.assert_array_equal(found.pixels["N2"], whole.pixels["N2"], where)
    if "N1" in found.pixels and not where.startswith(("BSCALE", "BZERO", "BLANK", "ZBLANK", "ZSCALE", "TSCAL", "TZERO", "TNULL")):
        np.testing.assert_array_equal(found.pixels["N1"], whole.pixels["N1"], where)


def test_every_keyword_that_is_read_is_tried(tmp_path, monkeypatch):
    """Whatever check, summarize, prepare and the co-adder ask a header of the input for, is in one of the lists above."""
    asked = set()

    class Recording(fits.Header):
        def __getitem__(self, key):
            asked.add(key)
            return super().__getitem__(key)

        def __contains__(self, key):
            asked.add(key)
            return super().__contains__(key)

    monkeypatch.setattr(hdu, "_parse", lambda raw: Recording.fromstring(raw.decode("latin-1")))
    case = Case(tmp_path, 0)
    masks = [fits.CompImageHDU(np.zeros((64, 48), np.int16), name=name, compression_type="GZIP_1") for name in ("N1", "N2")]
    files = {case.NAME: case.raw, "a_ood_N662.fits.fz": write_mef(tmp_path / "mask.fits.fz", masks).read_bytes()}
    found = require_answer(answer(tmp_path / "here", files), "whole")
    assert found.report.extnames == ("N1", "N2")
    names = {key for key in asked if isinstance(key, str)}
    assert {"EXPTIME", "CRVAL1", "SATURATA", "ZCMPTYPE"} < names
    known = {*PRIMARY_KEYS, *WCS_KEYS, *DETECTOR_KEYS, *STORAGE_KEYS, *OF_COPIES}
    assert {key for key in names if key not in known and not STORAGE.match(key)} == set()


@pytest.mark.long
def test_every_keyword_with_every_fault_in_everything_that_reads_it(tmp_path):
    with Survivors(answer, 2) as survivors:
        n = 0
        for key, name, found, whole in storage_faults(survivors, Case(tmp_path, 1), "prepare", every=4):
            require_same_or_lost(found, whole, f"{key}: {name}")
            n += 1
        tried("keyword of the storage missing, of another type, or absurd", n)
        reports, measured = [], {}
        for number, keys in ((0, PRIMARY_KEYS), (1, WCS_KEYS), (1, DETECTOR_KEYS)):
            for key, name, _, found in each(survivors, Case(tmp_path, number), keys, "coadd", every=5):
                root = f"{number}_{key}_{len(reports)}"
                assert found.mosaic == "" or found.report.refused, f"{key}: {name}"
                reports.append(replace(found.report, root=root, file=f"{root}.fits.fz", obsid=root))
                if not found.report.refused:
                    measured[root] = replace(found.measured, root=root)
        require_tables(reports, measured, tmp_path)
