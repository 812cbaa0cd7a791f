"""What a person reads when something went wrong."""

import errno

from kred_core.errors import ExposureError, explain


def test_errors_of_the_file_system_say_which_file_and_what_to_do():
    text = explain(OSError(errno.ENOSPC, "No space left on device", "/data/x.fits"))
    advice = "the disk is full, or holds no more files; make room and run the same command again, it goes on where it was"
    assert text == f"/data/x.fits: {advice}"
    assert explain(PermissionError(errno.EACCES, "Permission denied", "/data")) == "/data: no permission"
    assert explain(OSError(errno.EIO, "Input/output error")) == "Input/output error"


def test_own_errors_speak_for_themselves_and_others_are_called_unexpected():
    assert explain(ExposureError("a.fits: is empty")) == "a.fits: is empty"
    assert explain(ZeroDivisionError("division by zero")) == "unexpected ZeroDivisionError: division by zero"
    assert explain(MemoryError()).startswith("there is not enough memory; use fewer --workers")
