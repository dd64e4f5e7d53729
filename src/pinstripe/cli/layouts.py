"""Commands for layouts, with the options that Lustre's users know: getstripe, setstripe."""

from __future__ import annotations

import dataclasses
import errno
from typing import Any

import click

from ..format.layout import Layout
from ..format.superblock import TargetEntry
from ..store import namespace
from ..store.directory_layout import check_pool_exists
from ..store.listing import head_of
from ..store.opening import open_session
from ..store.place import locate
from ..store.summary import summarize
from .failure import Failures
from .output import echo, emit_json
from .words import SIZE, count_or_default, json_option

__all__ = ["getstripe_command", "setstripe_command"]


@click.command("setstripe")
@click.argument("path", type=click.Path())
@click.option("-S", "--stripe-size", "stripe_bytes", type=SIZE, help="Bytes of a stripe.")
@click.option("-c", "--stripe-count", "stripe_count", type=int, help="Number of targets; -1 = all, 0 = the default.")
@click.option("-p", "--pool", help="Pool; none = all targets.")
@click.option("--block-size", "block_bytes", type=SIZE, help="Unit of compression and of small reads.")
@click.option("--codec", type=click.Choice(["auto", "lz4", "raw"]), help="auto: the data decides.")
@click.option("-d", "--delete", is_flag=True, help="Let the directory inherit again.")
def setstripe_command(
    path: str,
    stripe_bytes: int | None,
    stripe_count: int | None,
    pool: str | None,
    block_bytes: int | None,
    codec: str | None,
    delete: bool,
) -> None:
    """Set the layout that new files of a directory inherit, or make a new empty file with a layout.

    A file's layout is fixed when it is made: to change it, copy the file.

    \b
    Examples:
      pinstripe setstripe -S 4M -c 2 /scratch/store/run-1
      pinstripe setstripe -p ssd /scratch/store/run-1/checkpoint
    """
    given = {
        "stripe_bytes": stripe_bytes,
        "stripe_count": count_or_default(stripe_count),
        "pool": "" if pool == "none" else pool,
        "block_bytes": block_bytes,
        "codec": codec,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if delete and changes:
        raise click.UsageError("--delete takes a layout away: it goes with no other option")
    if namespace.isdir(path):
        namespace.set_layout(path, None if delete else Layout.make(namespace.layout_of(path), **changes))
        return
    place = locate(path)
    if namespace.lexists(path):
        raise FileExistsError(
            errno.EEXIST, "a file's layout is fixed when it is made: copy the file to change it", place.path
        )
    if delete:
        raise click.UsageError(f"{path} is no directory")
    check_pool_exists(place.store, Layout.make(namespace.layout_of(place.directory), **changes))
    session = open_session(path, "x", layout=changes)
    try:
        session.publish(final=True)
    except BaseException:
        session.discard()
        raise
    finally:
        session.close()


@click.command("getstripe")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("-c", "--stripe-count", "wanted", flag_value="stripe_count", help="Only the stripe count.")
@click.option("-S", "--stripe-size", "wanted", flag_value="stripe_size", help="Only the stripe size.")
@click.option("-i", "--stripe-index", "wanted", flag_value="stripe_offset", help="Only the first target's number.")
@click.option("-p", "--pool", "wanted", flag_value="pool", help="Only the pool.")
@click.option("-d", "--directory", "as_names", is_flag=True, help="Of directories only what new files inherit.")
@click.option("-r", "--recursive", is_flag=True, help="Directories below, too.")
@json_option
def getstripe_command(
    paths: tuple[str, ...], wanted: str | None, as_names: bool, recursive: bool, as_json: bool
) -> None:
    """Show the layout of files, and what new files of directories inherit.

    \b
    Example:
      pinstripe getstripe /scratch/store/run-1/checkpoint
    """
    failures = Failures()
    found: list[dict[str, Any]] = []
    for path in paths:
        with failures:
            _collect(path, as_names, recursive, 0, found, failures)
    if as_json:
        emit_json(found)
    else:
        for described in found:
            _print(described, wanted, len(found) > 1)
    failures.exit()


def _collect(
    path: str, as_names: bool, recursive: bool, depth: int, found: list[dict[str, Any]], failures: Failures
) -> None:
    if not namespace.isdir(path):
        found.append(_of_file(path))
        return
    found.append(_of_directory(path))
    if as_names or (depth and not recursive):
        return
    with namespace.scandir(path) as entries:
        names = sorted((entry.path, entry.is_symlink()) for entry in entries)
    for below, is_link in names:
        if not is_link:
            with failures:
                _collect(below, as_names, recursive, depth + 1, found, failures)


def _of_directory(path: str) -> dict[str, Any]:
    layout = namespace.layout_of(path)
    return {
        "path": path,
        "type": "directory",
        "own": namespace.own_layout(path) is not None,
        "stripe_count": layout.stripe_count,
        "stripe_size": layout.stripe_bytes,
        "pattern": _pattern(layout),
        "stripe_offset": -1,
        "pool": layout.pool,
        "block_size": layout.block_bytes,
        "codec": layout.codec,
    }


def _of_file(path: str) -> dict[str, Any]:
    place = locate(path)
    _, _, head = head_of(place)
    try:
        summary = summarize(place.store, head)
        return {
            "path": path,
            "type": "file",
            "stripe_count": _count(head.layout, place.store.superblock.targets),
            "stripe_size": head.layout.stripe_bytes,
            "pattern": "inline" if head.inline is not None else _pattern(head.layout),
            "layout_gen": head.number,
            "stripe_offset": summary.first,
            "pool": head.layout.pool,
            "block_size": head.layout.block_bytes,
            "codec": head.layout.codec,
            "targets": [dataclasses.asdict(held) for held in summary.targets],
        }
    finally:
        head.close()


def _count(layout: Layout, targets: tuple[TargetEntry, ...]) -> int:
    usable = len([entry for entry in targets if layout.pool is None or entry.pool == layout.pool])
    return usable if layout.stripe_count == -1 else min(layout.stripe_count, usable)


def _pattern(layout: Layout) -> str:
    return "raid0" if layout.codec == "raw" else "raid0,compress"


def _print(described: dict[str, Any], wanted: str | None, titled: bool) -> None:
    if wanted is not None:
        value = described[wanted]
        echo(f"{described['path']}: {value}" if titled else str("" if value is None else value))
        return
    echo(described["path"])
    if described["type"] == "directory":
        line = "stripe_count:  {stripe_count} stripe_size:   {stripe_size} pattern:       {pattern} stripe_offset: -1"
        echo(line.format(**described) + (f" pool:          {described['pool']}" if described["pool"] else ""))
        echo("")
        return
    for name in ("stripe_count", "stripe_size", "pattern", "layout_gen", "stripe_offset", "pool"):
        if described[name] is not None:
            echo(f"{'lmm_' + name + ':':<19}{described[name]}")
    if described["targets"]:
        echo(f"\t{'obdidx':>6}\t{'segments':>10}\t{'frames':>10}\t{'bytes':>14}\t target")
    for held in described["targets"]:
        path = held["path"] or held["id"]
        echo(f"\t{held['index']:>6}\t{held['segments']:>10}\t{held['frames']:>10}\t{held['bytes']:>14}\t {path}")
    echo("")
