"""Exceptions of kred: every failure that a person can do something about.

All derive from `KredError`, whose text is one clear message: what was expected,
what was found, in which file and detector, and what to do. The command line
prints that text alone; any other exception is a defect of kred.
"""

import errno

__all__ = ["ConfigError", "ExposureError", "InputError", "KredError", "ToolError", "explain", "printable"]


def printable(text: str) -> str:
    """A text with a question mark for each character that would break the line of a log or a table."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


class KredError(Exception):
    """Base class of all errors that kred explains."""


class ConfigError(KredError):
    """An option, or a combination of options, that cannot be used."""


class InputError(KredError):
    """A directory, table, field or tile that is missing or unusable."""


class ExposureError(KredError):
    """One exposure, or one of its detectors, cannot be read or used. The text is one line, whatever of a damaged file it quotes."""

    def __init__(self, message: str):
        super().__init__(printable(message))


class ToolError(KredError):
    """An external program (SWarp) is missing or has failed."""


_ADVICE = {
    errno.ENOSPC: "the disk is full; make room and run the same command again, it goes on where it was",
    errno.EDQUOT: "the disk quota is used up; make room and run the same command again, it goes on where it was",
    errno.EACCES: "no permission",
    errno.EROFS: "the file system cannot be written to",
    errno.ENOENT: "the file has vanished",
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
        The message of a `KredError`; for errors of the file system, which file and what to do; for
        anything else, which is a defect of kred, its type and text.
    """
    if isinstance(error, KredError):
        return str(error)
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{_ADVICE.get(error.errno, error.strerror or str(error))}"
    return f"unexpected {type(error).__name__}: {error}"
