"""Errors that say which file: calls on descriptors raise OSError without a name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["naming"]


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Within, an OSError that names no file leaves with `path` as its file name."""
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str) and error.errno is not None:
            error.filename = path
        raise
