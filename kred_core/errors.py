"""Exceptions of kred: every failure that a person can do something about.

All derive from `KredError`, whose text is one clear message: what was expected,
what was found, in which file and detector, and what to do. The command line
prints that text alone; any other exception is a defect of kred.
"""

__all__ = ["ConfigError", "ExposureError", "InputError", "KredError", "ToolError"]


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
