"""Sums, cards and tables in bytes: what holds for any of them."""

from __future__ import annotations

import gzip
import io
import struct

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from properties import examples, outcome

from kred_core.errors import ExposureError
from kred_core.fits import checksum, storage
from kred_core.fits.cards import hdu_bytes


@examples(100)
@given(raw=st.binary(max_size=100), a=st.integers(0, 2**32 - 1), b=st.integers(0, 2**32 - 1), c=st.integers(0, 2**32 - 1))
def test_sums_are_astropys(raw, a, b, c):
    padded = raw.ljust(-(-len(raw) // 4) * 4, b"\0")
    hdu = fits.ImageHDU()
    assert checksum.datasum(raw) == hdu._compute_checksum(np.frombuffer(padded, np.uint8))
    assert checksum.encode(a) == hdu._char_encode(0xFFFFFFFF - a)
    assert checksum.add(a, checksum.add(b, c)) == checksum.add(checksum.add(a, b), c) == checksum.add(c, checksum.add(a, b))
    half = len(raw) // 8 * 4
    assert checksum.add(checksum.datasum(raw[:half]), checksum.datasum(raw[half:])) == checksum.datasum(raw)


KEYWORDS = st.from_regex(r"[A-Z][A-Z0-9_-]{0,7}", fullmatch=True).filter(
    lambda key: (
        key
        not in ("SIMPLE", "END", "COMMENT", "HISTORY", "CONTINUE", "HIERARCH", "CHECKSUM", "DATASUM", "EXTEND", "GROUPS", "BLOCKED")
        and not key.startswith(("NAXIS", "BITPIX", "PCOUNT", "GCOUNT", "XTENSION", "RVKC", "DP", "DQ"))
    )
)
PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
CARD_TEXT = st.text(PRINTABLE, max_size=200).map(str.rstrip).filter(lambda text: not text.endswith("&"))
CARD_VALUES = st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False) | CARD_TEXT


@examples(100)
@given(
    cards=st.dictionaries(KEYWORDS, st.tuples(CARD_VALUES, st.text(PRINTABLE, max_size=60)), max_size=8),
    data=st.binary(max_size=50),
)
def test_headers_and_sums_are_read_by_astropy_as_they_were_meant(cards, data):
    structure = {"SIMPLE": (True, ""), "BITPIX": (8, ""), "NAXIS": (1, ""), "NAXIS1": (len(data), "")}
    parts = hdu_bytes({**structure, **cards}, data)
    assert all(len(part) % 2880 == 0 for part in parts)
    assert checksum.datasum(b"".join(parts)) in (0, 0xFFFFFFFF)
    header = fits.Header.fromstring(parts[0].decode("ascii"))
    for key, (value, _) in cards.items():
        assert header[key] == value
        assert isinstance(header[key], type(value))
    assert int(header["DATASUM"]) == checksum.datasum(data)
    assert parts == hdu_bytes({**structure, **cards}, data)


COLUMN_FORMS = st.sampled_from(["B", "I", "J", "K", "E", "D", "3A", "2J", "12X", "PB", "PI", "QE", "PJ"])


@examples(60)
@given(forms=st.lists(COLUMN_FORMS, min_size=1, max_size=5), rows=st.integers(1, 4), seed=st.integers(0, 999))
def test_tables_are_laid_out_as_astropy_writes_them(forms, rows, seed):
    rng = np.random.default_rng(seed)
    columns = []
    for k, form in enumerate(forms):
        kind = {"B": np.uint8, "I": np.int16, "J": np.int32, "K": np.int64, "E": np.float32, "D": np.float64}.get(
            form[-1], np.uint8
        )
        if form[0] in "PQ":
            array = np.empty(rows, dtype=object)
            array[:] = [rng.integers(0, 99, rng.integers(0, 5)).astype(kind) for _ in range(rows)]
        else:
            count = int(form[:-1] or 1)
            array = rng.integers(0, 99, (rows, count) if count > 1 else rows).astype(kind)
            array = array > 50 if form[-1] == "X" else np.full(rows, "ab") if form[-1] == "A" else array
        columns.append(fits.Column(f"c{k}", f"{form}()" if form[0] in "PQ" else form, array=array))
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(stream)
    with fits.open(io.BytesIO(stream.getvalue())) as hdus:
        header, where = hdus[1].header, hdus[1].fileinfo()
        raw = stream.getvalue()[where["datLoc"] :][: header["NAXIS1"] * header["NAXIS2"] + header["PCOUNT"]]
        found = storage.table_columns(header)
        assert list(found) == [f"C{k}" for k in range(len(forms))]
        heap_start = storage.heap_start_of(header, raw)
        for k, form in enumerate(forms):
            column, data = found[f"C{k}"], hdus[1].data[f"c{k}"]
            if form[0] in "PQ":
                starts, lengths = storage.tile_ranges(header, raw, column, heap_start)
                for row, start, length in zip(data, starts, lengths, strict=True):
                    assert raw[start : start + length] == row.astype(row.dtype.newbyteorder(">")).tobytes()
            elif len(form) == 1:
                np.testing.assert_array_equal(storage.table_values(header, raw, column), data)


HEADER_VALUES = (
    st.integers(-3, 40) | st.booleans() | st.sampled_from(["1PB(9)", "1D", "99999999999999D", "PB", "", "Z", "0J", "1QB", "J"])
)


@examples(150)
@given(
    cards=st.dictionaries(
        st.sampled_from(["TFIELDS", "NAXIS1", "NAXIS2", "PCOUNT", "THEAP", "TFORM1", "TFORM2", "TTYPE1", "TTYPE2"]), HEADER_VALUES
    ),
    raw=st.binary(max_size=120),
)
def test_a_damaged_table_is_no_table_or_an_error_in_words(cards, raw):
    header = fits.Header({"NAXIS1": 16, "NAXIS2": 2, "TFIELDS": 1, "TFORM1": "1PB(9)", "TTYPE1": "X", **cards})
    for column in storage.table_columns(header).values():
        assert 0 <= column.offset <= 40
        sizes = header["NAXIS1"], header["NAXIS2"]
        if column.code in "PQ" and all(type(size) is int and size >= 0 for size in sizes):
            ranges, message = outcome(
                lambda column=column: storage.tile_ranges(header, raw, column, storage.heap_start_of(header, raw)), ExposureError
            )
            if ranges is None:
                assert "damaged" in message
            else:
                starts, lengths = ranges
                assert ((starts >= 0) & (lengths >= 0) & (starts + lengths <= len(raw))).all()


@examples(60)
@given(values=hnp.arrays(np.int16, st.integers(0, 40)), cut=st.integers(0, 60), flip=st.integers(0, 500))
def test_a_packed_row_comes_back_or_is_called_damaged(values, cut, flip):
    whole = gzip.compress(values.astype(">i2").tobytes(), mtime=0)
    kind = np.dtype(">i2")
    np.testing.assert_array_equal(storage.unpack_row(whole, 0, len(whole), 0, kind, values.size), values)
    damaged = bytearray(whole[: len(whole) - cut % len(whole)])
    damaged[flip % len(damaged)] ^= 1 << flip % 8
    found, message = outcome(lambda: storage.unpack_row(bytes(damaged), 0, len(damaged), 6, kind, values.size), ExposureError)
    assert "row 7 is damaged" in message if found is None else found.size == values.size
    with pytest.raises(ExposureError, match="row 1 is damaged"):
        storage.unpack_row(struct.pack(">20B", *range(20)), 0, 20, 0, kind, 3)
