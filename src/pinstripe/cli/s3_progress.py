"""Progress of work with a bucket: one live line a phase on a terminal, lines now and then elsewhere, or JSON, a line an event."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from ..s3.events import Events, Failure, Summary
from .failure import tell
from .output import echo, size_text

__all__ = ["TellingEvents", "make_events", "phase_text", "summary_text", "tell_summary"]

_LINE_EVERY_S = 10.0
_JSON_EVERY_S = 1.0
_LIMITS = {
    "network": "the network, or the bucket's answers",
    "throttling": "the service asked to slow down",
    "listing": "lists of keys",
    "cpu": "this host's processors (checksums, compression, TLS)",
    "targets": "the store's targets",
}


def make_events(as_json: bool, *, rank: int = 0) -> Events:
    """Return events that are told as suits where they go: JSON on the standard output, else text on the standard error.

    Parameters
    ----------
    as_json : bool
    rank : int
        Ranks but the first tell what failed and nothing else.
    """
    if as_json:
        return _JsonEvents(rank)
    if rank == 0 and sys.stderr.isatty():
        return _LiveEvents()
    return TellingEvents(rank)


def tell_summary(summary: Summary, as_json: bool, verb: str = "done") -> None:
    """Print what was done, on the standard output."""
    if as_json:
        _emit("summary", **summary.to_values())
    else:
        echo(summary_text(summary, verb))


def phase_text(events: Events, seconds: float) -> str:
    """Say how far the phase under way is: files, bytes, rate, time left, retries, verified.

    Parameters
    ----------
    events : Events
    seconds : float
        Since the phase began.
    """
    files, size = events.phase_files, events.phase_bytes
    # What a rank is to do is a guess: others may leave it more, or less.
    all_files, all_bytes = events.expected_files or 0, events.expected_bytes or 0
    parts = [f"{files}{f' of {all_files}' if all_files >= max(files, 1) else ''} files"]
    if size or all_bytes:
        of = f" of {size_text(all_bytes)}" if all_bytes >= max(size, 1) else ""
        parts.append(f"{size_text(size)}{of}")
        if seconds > 0:
            parts.append(f"{size / seconds / 1e9:.2f} GB/s")
    left = _seconds_left(events, seconds)
    if left is not None:
        parts.append(f"{_duration(left)} left")
    summary = events.summary
    for count, word in ((summary.retries, "retries"), (summary.verified, "verified"), (summary.skipped, "skipped")):
        if count:
            parts.append(f"{count} {word}")
    bad = summary.failed + summary.conflicts + summary.damaged
    if bad:
        parts.append(f"{bad} FAILED")
    return f"{events.phase_name}: {', '.join(parts)}"


def summary_text(summary: Summary, verb: str) -> str:
    """Say what was done, in a line or two."""
    files = f"{summary.files} file{'s' * (summary.files != 1)}"
    rate = f", {summary.bytes / summary.seconds / 1e9:.2f} GB/s" if summary.seconds > 0 and summary.bytes else ""
    if summary.seconds > 0 and summary.files > 1:
        rate += f", {summary.files / summary.seconds:.0f} files/s"
    counts = (
        (summary.verified, "verified"),
        (summary.skipped, "skipped"),
        (summary.retries, "retries"),
        (summary.failed, "failed"),
        (summary.conflicts, "in conflict"),
        (summary.damaged, "not verified"),
    )
    rest = "".join(f", {count} {word}" for count, word in counts if count)
    size = f", {size_text(summary.bytes)}" if summary.bytes else ""
    lines = [f"{verb} {files}{size} in {summary.seconds:.1f} s{rate}{rest}"]
    if summary.limiting:
        lines.append(f"limited by {_LIMITS[summary.limiting]}")
    if summary.incomplete:
        lines.append("incomplete, but whole so far: run it again for the rest")
    return "\n".join(lines)


class TellingEvents(Events):
    """Events as lines on the standard error: one for each failure, one for a phase's end, one now and then between."""

    def __init__(self, rank: int = 0) -> None:
        super().__init__()
        self._rank = rank
        self._phase_begun = self._said = time.monotonic()

    def on_phase(self) -> None:
        """Begin to count the phase's time."""
        self._phase_begun = self._said = time.monotonic()

    def on_phase_end(self) -> None:
        """Say what the phase did, if it counted anything."""
        if self._rank == 0 and (self.phase_files or self.phase_bytes or self.expected_files):
            self._say()

    def on_advance(self) -> None:
        """Say how far it is, if that was not said for a while."""
        if self._rank == 0 and time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            self._say()

    def on_failed(self, failure: Failure) -> None:
        """Say what failed."""
        tell(f"{failure.path}: {failure.text}")

    def on_planned(self, verb: str, path: str, size: int, reason: str) -> None:
        """Say, on the standard output, what would be done."""
        echo(f"would {verb} {path} ({size_text(size)}{f'; {reason}' if reason else ''})")

    def on_note(self, text: str) -> None:
        """Say it."""
        if self._rank == 0:
            click.echo(f"note: {text}", err=True)

    def _say(self) -> None:
        click.echo(phase_text(self, time.monotonic() - self._phase_begun), err=True)


class _LiveEvents(TellingEvents):
    """Events as one live line for each phase, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Bar | None = None
        self._console = Console(stderr=True)

    def on_phase(self) -> None:
        super().on_phase()
        text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        self._bar = Bar(BarColumn(bar_width=20), text, console=self._console)
        self._task = self._bar.add_task("", total=None)
        self._bar.start()
        self.on_advance()

    def on_phase_end(self) -> None:
        self.on_advance()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_advance(self) -> None:
        if self._bar is None:
            return
        by_bytes = bool(self.expected_bytes)
        total = self.expected_bytes if by_bytes else self.expected_files
        done = self.phase_bytes if by_bytes else self.phase_files
        text = phase_text(self, time.monotonic() - self._phase_begun)
        self._bar.update(self._task, total=total, completed=done, description=text)

    def on_failed(self, failure: Failure) -> None:
        self._above(f"pinstripe: {failure.path}: {failure.text}")

    def on_note(self, text: str) -> None:
        self._above(f"note: {text}")

    def _above(self, text: str) -> None:
        readable = " ".join(text.encode(errors="surrogateescape").decode(errors="replace").split())
        self._console.print(readable, markup=False, highlight=False, soft_wrap=True)


class _JsonEvents(Events):
    """Events as lines of JSON on the standard output."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank
        self._said = 0.0
        self._phase_begun = time.monotonic()

    def on_phase(self) -> None:
        self._phase_begun = time.monotonic()
        self._progress("phase")

    def on_phase_end(self) -> None:
        self._progress("phase-end")

    def on_advance(self) -> None:
        if time.monotonic() - self._said >= _JSON_EVERY_S:
            self._progress("progress")

    def on_skipped(self, path: str, reason: str) -> None:
        if reason:
            _emit("skipped", path=path, reason=reason)

    def on_failed(self, failure: Failure) -> None:
        _emit(
            "failed",
            path=failure.path,
            error=failure.text,
            exit_code=failure.code,
            error_code=failure.error_code,
            rank=self._rank,
        )

    def on_planned(self, verb: str, path: str, size: int, reason: str) -> None:
        _emit("planned", action=verb, path=path, size=size, reason=reason)

    def on_note(self, text: str) -> None:
        if self._rank == 0:
            _emit("note", text=text)

    def _progress(self, event: str) -> None:
        if self._rank:
            return
        self._said = time.monotonic()
        _emit(
            event,
            phase=self.phase_name,
            files=self.phase_files,
            bytes=self.phase_bytes,
            expected_files=self.expected_files,
            expected_bytes=self.expected_bytes,
            seconds=round(self._said - self._phase_begun, 3),
            retries=self.summary.retries,
            verified=self.summary.verified,
        )


def _emit(event: str, **values: Any) -> None:
    click.echo(json.dumps({"event": event} | values))


def _seconds_left(events: Events, seconds: float) -> float | None:
    for done, total in (
        (events.phase_bytes, events.expected_bytes),
        (events.phase_files, events.expected_files),
    ):
        if total and done:
            return seconds * (total - done) / done if done < total else None
    return None


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
