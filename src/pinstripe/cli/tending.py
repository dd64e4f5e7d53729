"""Commands that keep links in step and targets from filling up: release, sync, agent."""

from __future__ import annotations

import json
import os

import click

from ..s3.agent import Agent, Round
from ..s3.events import Failure, Summary
from ..s3.links import link_of
from ..s3.releasing import release
from ..s3.reports import Line, report
from ..s3.syncing import sync
from ..store.place import locate
from ..store.store import Store
from .failure import RESUMABLE, tell
from .output import size_text
from .s3_progress import TellingEvents, make_events, tell_summary
from .words import DURATION, json_option

__all__ = ["agent_command", "release_command", "sync_command"]

_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")


@click.command("release")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--older-than", type=DURATION, default=0.0, help="Leave what was accessed since: 7d, 12h, 30m, seconds.")
@click.option("--report", "report_path", type=click.Path(dir_okay=False), help="Write each file, as FSx's reports.")
@_dry_run
@json_option
def release_command(
    paths: tuple[str, ...], older_than: float, report_path: str | None, dry_run: bool, as_json: bool
) -> None:
    """Free the bytes here of files that a bucket holds, and of those in directories.

    Only what is archived, unchanged, proven and not pinned (`pinstripe state --set norelease`); the rest is told and stays. Reading
    fetches the bytes again.

    \b
    Examples:
      pinstripe release /scratch/store/out --older-than 7d
      pinstripe release /scratch/store/in/era5.nc --dry-run
    """
    events = make_events(as_json)
    lines: list[Line] = []
    try:
        summary = release(paths, older_than_s=older_than, dry_run=dry_run, events=events, report=lines.append)
    except KeyboardInterrupt:
        tell("interrupted: run it again for the rest")
        raise click.exceptions.Exit(RESUMABLE) from None
    finally:
        if report_path is not None and lines:
            with open(report_path, "wb") as file:
                file.write(report(_relative(lines, paths)))
    _end(summary, as_json, "looked at" if dry_run else "released")


def _relative(lines: list[Line], paths: tuple[str, ...]) -> list[Line]:
    """Write paths relative to the linked directory, if all lie in one, else to the store's."""
    places = [locate(path) for path in paths]
    found = {place.path: link_of(place.store, place.path) for place in places}
    roots = {link.directory if link is not None else "" for link in found.values()}
    root = roots.pop() if len(roots) == 1 else ""
    root = root or os.path.commonpath([place.store.root for place in places])
    return [
        Line(line.path.removeprefix(f"{root}/"), line.status, line.code)
        for line in sorted(lines, key=lambda line: line.path)
    ]


@click.command("sync")
@click.argument("path", type=click.Path(), default=".")
@_dry_run
@json_option
def sync_command(path: str, dry_run: bool, as_json: bool) -> None:
    """Bring links and buckets in step once, both ways, as each link's policy says.

    PATH: a store for all its links, or a directory for those in it, or the one that it lies in. Names that changed on both sides stay as
    they are on both and are marked: exit code 3.

    \b
    Examples:
      pinstripe sync /scratch/store
      pinstripe sync /scratch/store/out --dry-run
    """
    try:
        summary = sync(path, dry_run=dry_run, events=make_events(as_json))
    except KeyboardInterrupt:
        tell("interrupted: run it again for the rest")
        raise click.exceptions.Exit(RESUMABLE) from None
    _end(summary, as_json, "looked at" if dry_run else "brought in step")


@click.command("agent")
@click.argument("path", metavar="STORE", type=click.Path(), default=".")
@click.option("--interval", type=DURATION, help="Look at all so often, buckets too (as the links say: --poll).")
@click.option("--once", is_flag=True, help="End after one round.")
@json_option
def agent_command(path: str, interval: float | None, once: bool, as_json: bool) -> None:
    """Keep all links of a store in step, until it is told to end (Ctrl-C, SIGTERM).

    One a store; a dead one's place is taken over. Files go up when they have rested (link --quiet); a line a round in which something was
    done.

    \b
    Examples:
      pinstripe agent /scratch/store
      pinstripe agent /scratch/store --interval 10m --json
    """
    told: set[tuple[str, str]] = set()
    store = Store.find(path)
    if not as_json:
        click.echo(f"looking after {store.root}; Ctrl-C ends it", err=True)
    agent = Agent(
        path,
        interval_s=interval,
        make_events=lambda: make_events(True) if as_json else _RoundEvents(told),
        on_round=_tell_json if as_json else _tell_round,
    )
    summary = agent.run(once=once)
    if once and summary.exit_code:
        raise click.exceptions.Exit(summary.exit_code)


class _RoundEvents(TellingEvents):
    """Events of a round: what fails, and what is to be said, is told once, not at each round again."""

    def __init__(self, told: set[tuple[str, str]]) -> None:
        super().__init__()
        self._told = told

    def on_phase_end(self) -> None:
        """Say nothing: there is a line for the round."""

    def on_advance(self) -> None:
        """Say nothing."""

    def on_failed(self, failure: Failure) -> None:
        """Say what failed, if that was not said yet."""
        if self._is_new(failure.path, failure.text):
            super().on_failed(failure)

    def on_note(self, text: str) -> None:
        """Say it, if it was not said yet."""
        if self._is_new("", text):
            super().on_note(text)

    def _is_new(self, path: str, text: str) -> bool:
        is_new = (path, text) not in self._told
        self._told.add((path, text))
        return is_new


def _tell_round(done: Round) -> None:
    step = done.step
    if not step.did_something and done.number > 1:
        return
    counts = (
        (step.imported, "imported", ""),
        (step.exported, "exported", size_text(step.exported_bytes)),
        (step.deleted, "deleted there", ""),
        (step.released, "released", size_text(step.released_bytes)),
        (step.dirty_files, "waiting", size_text(step.dirty_bytes)),
        (step.conflicts, "in conflict", ""),
        (step.failed, "failed", ""),
    )
    parts = [f"{count} {word}{f' ({size})' if size else ''}" for count, word, size in counts if count]
    click.echo(f"round {done.number}: {', '.join(parts) or 'all in step'} in {done.summary.seconds:.1f} s")


def _tell_json(done: Round) -> None:
    click.echo(json.dumps({"event": "round"} | done.to_values()))


def _end(summary: Summary, as_json: bool, verb: str) -> None:
    tell_summary(summary, as_json, verb)
    if summary.exit_code:
        raise click.exceptions.Exit(summary.exit_code)
