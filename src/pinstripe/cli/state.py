"""Command state: what of a file lies here and what in a bucket, in Lustre's words and in the form of `lfs hsm_state`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import click

from ..store import namespace
from ..store.state import FileState, set_flags, state_of
from .failure import Failures
from .output import echo, emit_json
from .words import json_option

__all__ = ["describe_state", "hsm_flags", "hsm_line", "state_command"]

_EXISTS, _DIRTY, _RELEASED, _ARCHIVED, _NORELEASE, _NOARCHIVE, _LOST = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40
_WORDS = (
    (_RELEASED, "released"),
    (_EXISTS, "exists"),
    (_DIRTY, "dirty"),
    (_ARCHIVED, "archived"),
    (_NORELEASE, "never_release"),
    (_NOARCHIVE, "never_archive"),
    (_LOST, "lost_from_hsm"),
)
_SETTABLE = {"norelease": "norelease", "noexport": "noexport", "noarchive": "noexport"}


def hsm_flags(state: FileState) -> int:
    """Return Lustre's flags. As there, a file that was changed after its export is both dirty and archived."""
    return (
        _EXISTS * state.exists
        | _DIRTY * state.dirty
        | _RELEASED * state.released
        | _ARCHIVED * (state.archived or state.dirty)
        | _NORELEASE * state.norelease
        | _NOARCHIVE * state.noexport
        | _LOST * state.lost
    )


def hsm_line(path: str, state: FileState) -> str:
    """Return the line that `lfs hsm_state` prints, and behind a semicolon the words that Lustre does not have."""
    flags = hsm_flags(state)
    words = "".join(f" {word}" for bit, word in _WORDS if flags & bit)
    archive = ", archive_id:1" if state.exists else ""
    ours = _our_words(state)
    return f"{path}: (0x{flags:08x}){words}{archive}{'; ' if ours else ''}{' '.join(ours)}"


def describe_state(path: str, state: FileState) -> dict[str, Any]:
    """Return what ``state --json`` says of one file."""
    flags = hsm_flags(state)
    base = state.base
    return {
        "path": path,
        "flags": flags,
        "words": [word for bit, word in _WORDS if flags & bit] + _our_words(state),
        "size": state.size,
        "resident_bytes": state.resident_bytes,
        "generation": state.generation,
        "url": base.remote.url if base is not None else None,
        "etag": base.remote.etag if base is not None else None,
        "version": base.remote.version or None if base is not None else None,
        "proof": base.proof if base is not None else None,
    }


class _Flags(click.ParamType[tuple[str, ...]]):
    name = "flags"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = value.split(",")
        if not set(words) <= set(_SETTABLE):
            self.fail(f"{value!r}: choose of norelease, noexport, with a comma between", param, ctx)
        return tuple(_SETTABLE[word] for word in words)


@click.command("state")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("-r", "-R", "recursive", is_flag=True, help="Of directories: all files below.")
@click.option(
    "--set", "add", type=_Flags(), default=(), metavar="FLAGS", help="Set norelease, noexport (with a comma)."
)
@click.option("--clear", "remove", type=_Flags(), default=(), metavar="FLAGS", help="Clear them.")
@json_option
def state_command(
    paths: tuple[str, ...], recursive: bool, add: tuple[str, ...], remove: tuple[str, ...], as_json: bool
) -> None:
    """Tell what of a file is here and what in the bucket, as `lfs hsm_state` does; or pin it.

    Asks no bucket. With --set or --clear it prints nothing, as `lfs hsm_set`.

    \b
    Examples:
      pinstripe state /scratch/store/in/era5.nc
      pinstripe state --set norelease -r /scratch/store/in/tables
    """
    both = set(add) & set(remove)
    if both:
        raise click.UsageError(f"{', '.join(sorted(both))} cannot be set and cleared at once")
    changes = bool(add or remove)
    failures = Failures()
    found: list[dict[str, Any]] = []
    for given in paths:
        for path in _files(given, recursive, failures):
            with failures:
                if changes:
                    set_flags(path, add, remove)
                if as_json:
                    found.append(describe_state(path, state_of(path)))
                elif not changes:
                    echo(hsm_line(path, state_of(path)))
    if as_json:
        emit_json(found)
    failures.exit()


def _files(path: str, recursive: bool, failures: Failures) -> Iterator[str]:
    if not namespace.isdir(path):
        yield path
        return
    if not recursive:
        with failures:
            raise IsADirectoryError(errno.EISDIR, "a directory has no state; -r tells that of the files in it", path)
        return

    def tell_error(error: OSError) -> None:
        failures.__exit__(type(error), error, None)

    for top, directories, names in namespace.walk(path, onerror=tell_error):
        directories.sort()
        for name in sorted(names):
            below = os.path.join(top, name)
            if not os.path.islink(below):
                yield below


def _our_words(state: FileState) -> list[str]:
    words = ("partial", "unproven", "conflict")
    return [word for word in words if getattr(state, word)]
