"""What a person reads when something went wrong."""

import errno

from kred_core.errors import ExposureError, KredError, ToolError, explain


def test_own_errors_speak_for_themselves():
    assert explain(ExposureError("a.fits: is empty")) == "a.fits: is empty"
    assert issubclass(ToolError, KredError)


def test_errors_of_the_file_system_say_which_file_and_what_to_do():
    text = explain(OSError(errno.ENOSPC, "No space left on device", "/data/x.fits"))
    advice = "the disk is full, or holds no more files; make room and run the same command again, it goes on where it was"
    assert text == f"/data/x.fits: {advice}"
    assert explain(PermissionError(errno.EACCES, "Permission denied", "/data")) == "/data: no permission"
    assert (
        explain(IsADirectoryError(errno.EISDIR, "", "/data/x"))
        == "/data/x: is a directory, and a file is to be there; move it away"
    )
    assert explain(OSError(errno.EFBIG, "", "/data/x")) == "/data/x: files may not become that large here (ulimit -f)"
    assert explain(OSError(errno.EIO, "Input/output error")) == "Input/output error"


def test_anything_else_is_called_unexpected():
    assert explain(ZeroDivisionError("division by zero")) == "unexpected ZeroDivisionError: division by zero"


def test_memory_that_is_lacking_is_said_with_what_to_do():
    assert explain(MemoryError()).startswith("there is not enough memory; use fewer --workers")
