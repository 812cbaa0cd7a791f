"""Tile-compressed images in the storage form of the Community Pipeline, written faster than astropy can.

Images: RICE_1, one row a tile, 32-pixel blocks, floats quantised in given steps or, as CCD images are, to a quarter of each
row's noise. Masks: GZIP_1 rows. The FITS standard 4.0, section 10 and appendix I, defines both. CCD images that cannot be
quantised (no noise, NaN) are left to astropy's compressor.
"""

from __future__ import annotations

import gzip
import io
import math
import re

import numba as nb
import numpy as np
from astropy.io import fits

from .checksum import Cards, hdu_bytes
from .rice import BLOCK, RANDOM, RANDOM_LENGTH

__all__ = ["CountsHeap", "compressed_image", "compressed_mask", "quantised_image"]

QUANTIZE = 4.0  # quantisation steps per standard deviation of the noise
FS_BITS, FS_RAW = 5, 25  # width of a block's code; number of low bits from which blocks are stored as they are
LARGEST_LEVEL = 2.0**30


@nb.njit(nogil=True, cache=True)
def _row_noise(row, work):
    """Noise from third-order differences: 1.4826 MAD of (2 b - a - c) / sqrt(6), pixels two apart (Stoehr et al. 2007)."""
    n = row.size - 4
    for i in range(n):
        work[i] = abs(2 * row[i + 2] - row[i] - row[i + 4])
    return 1.482602 / math.sqrt(6.0) * np.median(work[:n])


@nb.njit(nogil=True, cache=True)
def _rice(levels, heap, p):
    """Append the Rice code of one row of int32 at byte p of the heap; returns the byte after it."""
    for shift in (24, 16, 8, 0):
        heap[p] = (levels[0] >> shift) & 255
        p += 1
    pending, n_pending = np.uint64(0), 0  # bits not yet written, right-aligned; never more than 7 between calls
    code = np.empty(BLOCK, np.int64)
    for start in range(0, levels.size, BLOCK):
        n = min(BLOCK, levels.size - start)
        difference = np.int64(levels[start]) - np.int64(levels[max(start - 1, 0)])  # of the very first value: 0
        code[0] = (difference << 1) ^ (difference >> 63)
        for i in range(1, n):  # no value waits for the one before, so that vector units can be used
            difference = np.int64(levels[start + i]) - np.int64(levels[start + i - 1])
            code[i] = (difference << 1) ^ (difference >> 63)
        total = code[:n].sum()
        fs = 0
        while fs < FS_RAW and (n << (fs + 1)) <= total:
            fs += 1
        marker = 0 if total == 0 else (fs + 1)
        pending = (pending << np.uint64(FS_BITS)) | np.uint64(marker)
        n_pending += FS_BITS
        while n_pending >= 8:
            n_pending -= 8
            heap[p] = np.uint8((pending >> np.uint64(n_pending)) & np.uint64(255))
            p += 1
        for i in range(n if total > 0 else 0):
            if fs < FS_RAW:
                zeros = code[i] >> fs
                while zeros > 0:
                    step = min(zeros, 32)
                    pending <<= np.uint64(step)
                    n_pending += step
                    zeros -= step
                    while n_pending >= 8:
                        n_pending -= 8
                        heap[p] = np.uint8((pending >> np.uint64(n_pending)) & np.uint64(255))
                        p += 1
                pending = (pending << np.uint64(1 + fs)) | np.uint64((1 << fs) | (code[i] & ((1 << fs) - 1)))
                n_pending += 1 + fs
            else:
                pending = (pending << np.uint64(32)) | np.uint64(code[i])
                n_pending += 32
            while n_pending >= 8:
                n_pending -= 8
                heap[p] = np.uint8((pending >> np.uint64(n_pending)) & np.uint64(255))
                p += 1
    if n_pending > 0:
        heap[p] = np.uint8((pending << np.uint64(8 - n_pending)) & np.uint64(255))
        p += 1
    return p


@nb.njit(nogil=True, cache=True)
def _compress(image, dither, random, quantize, heap, ends, scale, zero):
    """Quantise and code all rows; returns False where a row has no noise, a value that is not finite, or too large a range."""
    ny, nx = image.shape
    levels = np.empty(nx, np.int32)
    work = np.empty(nx, np.float64)
    row = np.empty(nx, np.float64)
    p = 0
    for y in range(ny):
        low, high = np.inf, -np.inf
        for x in range(nx):
            row[x] = image[y, x]
            if not math.isfinite(row[x]):
                return False
            low, high = min(low, row[x]), max(high, row[x])
        step = _row_noise(row, work) / quantize
        if not step > 0 or (high - low) / step > LARGEST_LEVEL:
            return False
        seed = (y + dither - 1) % RANDOM_LENGTH
        following = int(random[seed] * 500)
        for x in range(nx):
            levels[x] = np.int32(math.floor((row[x] - low) / step + random[following]))
            following += 1
            if following == RANDOM_LENGTH:
                seed = (seed + 1) % RANDOM_LENGTH
                following = int(random[seed] * 500)
        p = _rice(levels, heap, p)
        ends[y], scale[y], zero[y] = p, step, low
    return True


@nb.njit(nogil=True, cache=True)
def _quantise(image, step, null, dither, random, heap, ends):
    """Quantise in steps from zero and code all rows; what is not finite becomes null. Dither 0: none."""
    ny, nx = image.shape
    levels = np.empty(nx, np.int32)
    p = 0
    for y in range(ny):
        seed = (y + dither - 1) % RANDOM_LENGTH
        following = int(random[seed] * 500)
        for x in range(nx):
            noise = np.float64(random[following]) if dither > 0 else 0.5
            value = np.float64(image[y, x])
            levels[x] = np.int32(math.floor(value / step + noise)) if math.isfinite(value) else null
            following += 1
            if following == RANDOM_LENGTH:
                seed = (seed + 1) % RANDOM_LENGTH
                following = int(random[seed] * 500)
        p = _rice(levels, heap, p)
        ends[y] = p
    return p


def _hdu(cards: Cards, shape: tuple[int, int], codec: str, lengths: np.ndarray, heap: bytes, columns=None, tile_rows=1):
    """Return a compressed image: a binary table of descriptors, and of other columns of doubles, and its heap.

    Reference: FITS standard 4.0, section 10.1. Lengths are those of the tiles in bytes.
    """
    columns = columns or {}
    table = np.empty(len(lengths), [(name, ">i4") for name in ("length", "start")] + [(name, ">f8") for name in columns])
    table["length"], table["start"] = lengths, np.cumsum(lengths) - lengths
    for name, values in columns.items():
        table[name] = values
    ny, nx = shape
    storage: Cards = {
        "XTENSION": ("BINTABLE", "binary table extension"),
        "BITPIX": (8, "array data type"),
        "NAXIS": (2, "number of array dimensions"),
        "NAXIS1": (table.itemsize, "width of table in bytes"),
        "NAXIS2": (len(table), "number of rows in table"),
        "PCOUNT": (len(heap), "number of group parameters"),
        "GCOUNT": (1, "number of groups"),
        "TFIELDS": (1 + len(columns), "number of fields in each row"),
    }
    for i, name in enumerate(("COMPRESSED_DATA", *columns), 1):
        storage |= {f"TTYPE{i}": (name, ""), f"TFORM{i}": (f"1PB({lengths.max()})" if i == 1 else "1D", "")}
    storage |= {
        "ZIMAGE": (True, "extension contains compressed image"),
        "ZTENSION": ("IMAGE", "Image extension"),
        "ZBITPIX": (-32 if columns else 16, "array data type"),
        "ZNAXIS": (2, "number of array dimensions"),
        "ZNAXIS1": (nx, ""),
        "ZNAXIS2": (ny, ""),
        "ZPCOUNT": (0, ""),
        "ZGCOUNT": (1, ""),
        "ZTILE1": (nx, "size of tiles to be compressed"),
        "ZTILE2": (tile_rows, "size of tiles to be compressed"),
        "ZCMPTYPE": (codec, "compression algorithm"),
    }
    if codec == "RICE_1":
        storage |= {
            "ZNAME1": ("BLOCKSIZE", "compression block size"),
            "ZVAL1": (BLOCK, "pixels per block"),
            "ZNAME2": ("BYTEPIX", "bytes per pixel (1, 2, 4, or 8)"),
            "ZVAL2": (4, "bytes per pixel (1, 2, 4, or 8)"),
        }
    return hdu_bytes({**storage, **cards}, table.tobytes() + heap)


def compressed_image(cards: Cards, image: np.ndarray, dither: int) -> tuple[bytes, bytes]:
    """Return a science image, float32, as one compressed HDU, header and data: see `quantised_image`."""
    ny, nx = image.shape
    heap = np.empty(ny * (4 * nx + nx // 4 + 64), np.uint8)
    ends, scale, zero = np.empty(ny, np.int64), np.empty(ny), np.empty(ny)
    if not _compress(image, dither, RANDOM, QUANTIZE, heap, ends, scale, zero):
        return _by_astropy(cards, image, dither)
    quantisation: Cards = {
        "ZQUANTIZ": ("SUBTRACTIVE_DITHER_1", "Pixel Quantization Algorithm"),
        "ZDITHER0": (dither, "dithering offset when quantizing floats"),
    }
    columns = {"ZSCALE": scale, "ZZERO": zero}
    return _hdu({**cards, **quantisation}, image.shape, "RICE_1", np.diff(ends, prepend=0), heap[: ends[-1]].tobytes(), columns)


def quantised_image(cards: Cards, image: np.ndarray, step: float, dither: int = 0) -> tuple[bytes, bytes]:
    """Return an image of floats, quantised in steps of one size, as one compressed HDU: header and data, with checksums.

    Parameters
    ----------
    cards : dict
        Image keywords, without those of the storage.
    image : `numpy.ndarray`
        float32, shape (NAXIS2, NAXIS1). What is not finite is read back as NaN.
    step : float
        Size of the steps. It is made larger where the values would be more than 2**29 steps from zero.
    dither : int
        ZDITHER0, 1 to 10000, of SUBTRACTIVE_DITHER_1; 0: no dithering, so that whole numbers of steps are exact.
    """
    ny, nx = image.shape
    finite = image[np.isfinite(image)]
    lowest, highest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    step = max(step, max(-lowest, highest) / LARGEST_LEVEL * 2)
    null = math.floor(lowest / step) - 2  # just below the others, so that differences to it are short
    heap = np.empty(ny * (4 * nx + nx // 4 + 64), np.uint8)
    ends = np.empty(ny, np.int64)
    length = _quantise(image, step, null, dither, RANDOM, heap, ends)
    quantisation: Cards = {"ZBLANK": (null, "quantised value of NaN")}
    quantisation["ZQUANTIZ"] = ("SUBTRACTIVE_DITHER_1" if dither else "NO_DITHER", "Pixel Quantization Algorithm")
    if dither:
        quantisation["ZDITHER0"] = (dither, "dithering offset when quantizing floats")
    columns = {"ZSCALE": step, "ZZERO": 0.0}  # also where all are the same: astropy looks nowhere else
    return _hdu({**cards, **quantisation}, image.shape, "RICE_1", np.diff(ends, prepend=0), heap[:length].tobytes(), columns)


class CountsHeap:
    """Rows of an image of counts, compressed as they come: RICE_1, 64 rows a tile, lossless.

    Parameters
    ----------
    columns : int
    """

    TILE_ROWS = 64

    def __init__(self, columns: int):
        self._levels = np.empty((self.TILE_ROWS, columns), np.int32)
        self._room = np.empty(self._levels.nbytes + self._levels.nbytes // 8 + 64, np.uint8)
        self._filled = 0  # rows of the tile in the making
        self._rows = 0
        self._parts: list[bytes] = []

    def append(self, rows: np.ndarray) -> None:
        """Add the next rows: integers, shape (n, columns), of at most 16 bits."""
        while len(rows):
            n = min(len(rows), self.TILE_ROWS - self._filled)
            self._levels[self._filled : self._filled + n] = rows[:n]
            self._filled += n
            self._rows += n
            if self._filled == self.TILE_ROWS:
                self._end_tile()
            rows = rows[n:]

    def _end_tile(self) -> None:
        length = _rice(self._levels[: self._filled].ravel(), self._room, 0)
        self._parts.append(self._room[:length].tobytes())
        self._filled = 0

    def hdu(self, cards: Cards) -> tuple[bytes, bytes]:
        """Return all rows so far as one compressed HDU of int16, header and data; ends a tile."""
        if self._filled:
            self._end_tile()
        lengths = np.array([len(part) for part in self._parts])
        shape, tile_rows = (self._rows, self._levels.shape[1]), min(self.TILE_ROWS, self._rows)
        return _hdu(cards, shape, "RICE_1", lengths, b"".join(self._parts), tile_rows=tile_rows)


def _by_astropy(cards: Cards, image: np.ndarray, dither: int) -> tuple[bytes, bytes]:
    header, _ = hdu_bytes({"XTENSION": ("IMAGE", ""), **cards})
    how = {"compression_type": "RICE_1", "quantize_level": QUANTIZE, "quantize_method": 1, "dither_seed": dither}
    if np.isfinite(image).all() and np.ptp(image) > 0:
        # Without noise, a row with one odd pixel would get steps as large as that pixel is odd.
        how = {"compression_type": "GZIP_2", "quantize_level": 0}
    hdu = fits.CompImageHDU(image, fits.Header.fromstring(header), tile_shape=(1, image.shape[1]), **how)
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)
    with fits.open(io.BytesIO(stream.getvalue()), disable_image_compression=True) as hdus:
        where = hdus[1].fileinfo()
        table: Cards = {card.keyword: (card.value, card.comment) for card in hdus[1].header.cards}
    raw = stream.getvalue()[where["datLoc"] : where["datLoc"] + where["datSpan"]]
    # Rows of gzip say when they were packed; the same image shall have the same bytes at any time.
    return hdu_bytes(table, re.sub(rb"(\x1f\x8b\x08\0).{4}(?=\x02\xff)", rb"\1\0\0\0\0", raw, flags=re.DOTALL))


def compressed_mask(cards: Cards, mask: np.ndarray) -> tuple[bytes, bytes]:
    """Return a mask of int16 codes as one compressed HDU, header and data."""
    rows = mask.astype(">i2")
    known: dict[bytes, bytes] = {}  # most rows have the same few bad columns and nothing else
    parts = []
    for row in rows:
        plain = row.tobytes()
        if plain not in known:
            known[plain] = gzip.compress(plain, compresslevel=1, mtime=0)
        parts.append(known[plain])
    return _hdu(cards, mask.shape, "GZIP_1", np.array([len(part) for part in parts]), b"".join(parts))
