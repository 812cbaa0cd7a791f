"""The file that holds the stamps of one exposure."""

from __future__ import annotations

__all__ = ["boxes", "grid_of", "read", "write"]


def write(path, grid, stamps):
    raise NotImplementedError


def grid_of(path):
    raise NotImplementedError


def boxes(path):
    raise NotImplementedError


def read(path, extname):
    raise NotImplementedError
