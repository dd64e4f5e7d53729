"""Failures: which exit code an error has, and the one line that it is."""

from __future__ import annotations

import os
import sys

import click

from ..errors import ArgumentError, ConflictError, DamageError, Error

__all__ = [
    "CONFLICT",
    "FAILED",
    "INTERRUPTED",
    "RESUMABLE",
    "USAGE",
    "VERIFICATION_FAILED",
    "Failures",
    "exit_code",
    "in_one_line",
    "is_everybodys",
    "tell",
    "wants_traceback",
]

FAILED = 1
USAGE = 2
CONFLICT = 3
VERIFICATION_FAILED = 4
RESUMABLE = 75
INTERRUPTED = 130


def exit_code(error: BaseException) -> int:
    """Return the exit code that goes with an error."""
    for kind, code in ((ArgumentError, USAGE), (ConflictError, CONFLICT), (DamageError, VERIFICATION_FAILED)):
        if isinstance(error, kind):
            return code
    return FAILED


def is_everybodys(error: BaseException) -> bool:
    """Tell whether every rank of the job raised this very error, so that one need tell it."""
    return isinstance(getattr(error, "original", None), BaseException)


def in_one_line(error: BaseException) -> str:
    """Say what an error says, path first, as the system's own tools do; then, where ranks agreed on it, whose it is."""
    if is_everybodys(error):
        where = f" [rank {getattr(error, 'rank', '?')} on {getattr(error, 'host', '?')}]"
        original: BaseException = error.original  # type: ignore[attr-defined]
        return in_one_line(original) + where
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        paths = [os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, (str, bytes))]
        text = f"{' -> '.join(paths)}: {error.strerror}" if paths else error.strerror
    text = " ".join([text, *(f"({note})" for note in getattr(error, "__notes__", ()))])
    return " ".join(text.split()) or type(error).__name__


def tell(text: str) -> None:
    """Print an error's line."""
    # Names may hold bytes that are no text.
    click.echo(f"pinstripe: {text}".encode(errors="surrogateescape").decode(errors="replace"), err=True)


def wants_traceback() -> bool:
    """Tell whether PINSTRIPE_DEBUG asks for tracebacks."""
    return os.environ.get("PINSTRIPE_DEBUG", "") not in ("", "0")


class Failures:
    """What failed while the rest went on: each told at once, the gravest makes the exit code.

    Examples
    --------
    >>> failures = Failures()
    >>> for path in paths:
    ...     with failures:
    ...         remove(path)
    >>> failures.exit()
    """

    def __init__(self) -> None:
        self.code = 0
        self.count = 0

    def __enter__(self) -> Failures:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, (Error, OSError)) or isinstance(error, (BrokenPipeError, ArgumentError)):
            return False
        if wants_traceback():
            return False
        self.add(in_one_line(error), exit_code(error))
        return True

    def add(self, text: str, code: int = FAILED) -> None:
        """Tell one failure."""
        tell(text)
        self.count += 1
        self.code = max(self.code, code)

    def exit(self) -> None:
        """End the program, if anything failed."""
        if self.code:
            sys.stdout.flush()
            raise click.exceptions.Exit(self.code)
