"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from .output import size_text

__all__ = ["Progress"]

_LINE_EVERY_S = 10.0


class Progress:
    """Tells on the standard error how far the work is.

    Parameters
    ----------
    verb : str
        What is done to the bytes, such as ``copied``.
    total : int or None
        Bytes to do, if known.
    enabled : bool
        Whether anything is told at all.
    """

    def __init__(self, verb: str, total: int | None, *, enabled: bool = True) -> None:
        self.verb, self.total, self.done = verb, total, 0
        self._enabled = enabled
        self._said = time.monotonic()
        self._bar: Bar | None = None
        if enabled and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
            console = Console(stderr=True)
            self._bar = Bar(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True)
            self._task = self._bar.add_task(verb, total=total)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, total: int) -> None:
        """Say how many bytes there are, once that is known."""
        self.total = total
        if self._bar is not None:
            self._bar.update(self._task, total=total)

    def advance(self, count: int) -> None:
        """Count bytes that are done."""
        self.done += count
        if self._bar is not None:
            self._bar.advance(self._task, count)
        elif self._enabled and time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            of = f" of {size_text(self.total)}" if self.total else ""
            click.echo(f"{self.verb} {size_text(self.done)}{of}", err=True)
