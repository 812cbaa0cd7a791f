"""Exceptions of kred: every failure that a person can do something about.

All derive from `KredError`, whose text is one clear message: what was expected,
what was found, in which file and detector, and what to do. The command line
prints that text alone; any other exception is a defect of kred.
"""

import errno

__all__ = ["ConfigError", "ExposureError", "InputError", "KredError", "ToolError", "explain"]


class KredError(Exception):
    """Base class of all errors that kred explains."""


class ConfigError(KredError):
    """An option, or a combination of options, that cannot be used."""


class InputError(KredError):
    """A directory, table, field or tile that is missing or unusable."""


class ExposureError(KredError):
    """One exposure, or one of its detectors, cannot be read or used."""


class ToolError(KredError):
    """An external program (SWarp) is missing or has failed."""


_ADVICE = {
    errno.ENOSPC: "the disk is full; make room and run the same command again, it goes on where it was",
    errno.EDQUOT: "the disk quota is used up; make room and run the same command again, it goes on where it was",
    errno.EFBIG: "files may not become that large here (ulimit -f)",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system cannot be written to",
    errno.ENOENT: "the file has vanished",
    errno.EISDIR: "is a directory, and a file is to be there; move it away",
    errno.EEXIST: "is a file, and a directory is to be there; move it away",
    errno.ENOTDIR: "a directory on the way to it is a file; move that away",
    errno.EMFILE: "too many open files; use fewer --workers",
}


def explain(error: BaseException) -> str:
    """What went wrong, in words for a person.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    str
        The message of a `KredError`; for errors of the file system, which file and what to do; what to do where memory
        is lacking; for anything else, which is a defect of kred, its type and text.
    """
    if isinstance(error, KredError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory; use fewer --workers or a smaller --coadd.memory, or close other programs"
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{_ADVICE.get(error.errno, error.strerror or str(error))}"
    return f"unexpected {type(error).__name__}: {error}"
