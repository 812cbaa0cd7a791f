"""Exceptions of kred: every failure that a person can do something about.

All derive from `KredError`, whose text is one clear message: what was expected, what was found, in which file and detector, and
what to do. The command line prints that text alone; any other exception is a defect of kred.
"""

import errno

__all__ = ["ConfigError", "ExposureError", "InputError", "KredError", "ToolError", "explain", "is_transient", "printable"]


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
    errno.ENOSPC: "the disk is full, or holds no more files; make room and run the same command again, it goes on where it was",
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


# What is in the place of a file, and not whether it can be read; of a file that comes there one can tell that it is another.
_LASTING = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO})
_SHORT = frozenset(
    getattr(errno, name)
    for name in "EIO EAGAIN EINTR EBUSY ESTALE ETIMEDOUT ECONNRESET ECONNABORTED ENETRESET ENFILE EMFILE EREMOTEIO".split()
    if hasattr(errno, name)
)


def is_transient(error: BaseException | None, soon: bool = False) -> bool:
    """Tell whether a file could not be read for a reason outside of it, so that later it may be readable.

    Parameters
    ----------
    error : BaseException
        What was raised; `OSError` or with one as its cause.
    soon : bool
        Count only what may pass by itself within seconds, as a hiccup of a file server does, and not permissions or a full disk.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:  # decoders raise it without a number for damaged data
            return error.errno in _SHORT if soon else error.errno not in _LASTING
        error = error.__cause__
    return False


def explain(error: BaseException) -> str:
    """Return what went wrong, in words for a person: the message of a `KredError`; for errors of the file system, which file and
    what to do; for anything else, which is a defect of kred, its type and text.
    """
    if isinstance(error, KredError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory; use fewer --workers or a smaller --coadd.memory, or close other programs"
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{_ADVICE.get(error.errno or 0, error.strerror or str(error))}"
    return f"unexpected {type(error).__name__}: {error}"
