"""What runs apart: reads HDUs of compressed images from its input, and answers with their pixels, until the input ends.

Each image is decoded in a fork: whatever its bytes do to the memory of the process ends with it, and cannot reach the pixels
of the next one. Nothing of kred is imported, so that it does not matter where kred is installed, and forking is quick.
"""

from __future__ import annotations

import io
import os
import sys
import textwrap
import warnings
from typing import BinaryIO

import numpy as np
from astropy.io import fits

_PRIMARY = fits.PrimaryHDU().header.tostring().encode("ascii")


def _decode(hdu: bytes) -> bytes:
    """The pixels as a file of numpy's, or ! and what is wrong."""
    try:
        with fits.open(io.BytesIO(_PRIMARY + hdu)) as f:
            pixels, answer = f[1].data, io.BytesIO()
            np.save(answer, np.zeros(0) if pixels is None else pixels, allow_pickle=False)
            return answer.getvalue()
    except Exception as e:  # astropy's decoders raise whatever the damage leads to
        return b"!" + textwrap.shorten(f"{type(e).__name__}: {e}", 200).encode()


def _decode_in_fork(hdu: bytes) -> bytes:
    """The answer to one question; nothing where the decoder crashed."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            with open(write_end, "wb") as f:
                f.write(_decode(hdu))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write_end)
    with open(read_end, "rb") as f:
        answer = f.read()
    _, status = os.waitpid(pid, 0)
    return answer if status == 0 else b""


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer each question: length (8 bytes, big-endian), then so many bytes; questions are HDUs, answers as of `_decode`."""
    while len(length := questions.read(8)) == 8:
        answer = _decode_in_fork(questions.read(int.from_bytes(length, "big")))
        answers.write(len(answer).to_bytes(8, "big") + answer)
        answers.flush()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve(sys.stdin.buffer, sys.stdout.buffer)
