"""Commands for what a file holds: stat, cat."""

from __future__ import annotations

import dataclasses
import os
import stat as stat_module
import sys
from typing import Any

import click

from ..store import namespace
from ..store.generation import Generation
from ..store.listing import head_of, stat_of
from ..store.opening import open_session
from ..store.place import locate
from ..store.summary import summarize
from .failure import Failures
from .names import describe_name, group_name, user_name
from .output import echo, emit_json, size_text, time_text
from .words import GENERATION, json_option

__all__ = ["cat_command", "stat_command"]

_CHUNK_BYTES = 8 << 20


@click.command("stat")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@json_option
def stat_command(paths: tuple[str, ...], as_json: bool) -> None:
    """Show all that is known of names: size, stored size, generation, checksum, stripes, codecs, layout, targets.

    \b
    Example:
      pinstripe stat --json /scratch/store/result
    """
    failures = Failures()
    found: list[dict[str, Any]] = []
    for path in paths:
        with failures:
            found.append(_describe(path))
    if as_json:
        emit_json(found[0] if len(paths) == 1 and found else found)
    else:
        for described in found:
            _print(described)
    failures.exit()


def _describe(path: str) -> dict[str, Any]:
    place = locate(path, follow=False)
    kind = os.lstat(place.path).st_mode
    if not stat_module.S_ISREG(kind):
        link = namespace.readlink(path) if stat_module.S_ISLNK(kind) else None
        described = describe_name(path, namespace.lstat(path), link)
        if stat_module.S_ISDIR(kind):
            described["layout"] = dataclasses.asdict(namespace.layout_of(path))
        return described
    inode, seen, head = head_of(place)
    try:
        return describe_name(path, stat_of(seen, head, inode), None) | _describe_generation(place.store, head)
    finally:
        head.close()


def _describe_generation(store: Any, head: Generation) -> dict[str, Any]:
    summary = summarize(store, head)
    header = head.header
    return {
        "size": head.size,
        "stored_bytes": head.stored_bytes,
        "id": head.file_id.hex(),
        "generation": head.number,
        "durable": head.durable,
        "inline": head.inline is not None,
        "crc64nvme": None if head.content_crc is None else f"{head.content_crc:016x}",
        "remote": None if head.remote is None else head.remote.url,
        "committed_ns": None if header is None else header.committed_ns,
        "stripes": summary.stripes,
        "holes": summary.holes,
        "codecs": summary.blocks,
        "layout": dataclasses.asdict(head.layout),
        "targets": [dataclasses.asdict(held) for held in summary.targets],
    }


def _print(described: dict[str, Any]) -> None:
    echo(f"  Path: {described['path']}" + (f" -> {described['link']}" if "link" in described else ""))
    kind = f"  Type: {described['type']}   Mode: {described['mode']}"
    echo(f"{kind}   Owner: {user_name(described['uid'])}   Group: {group_name(described['gid'])}")
    echo(f"Modify: {time_text(described['mtime_ns'])}")
    layout = described.get("layout")
    if described["type"] == "file":
        size, stored = described["size"], described["stored_bytes"]
        ratio = f"   Ratio: {size / stored:.2f}" if stored else ""
        echo(f"  Size: {size} ({size_text(size)})   Stored: {stored} ({size_text(stored)}){ratio}")
        durable = "" if described["durable"] else " (not durable)"
        echo(f"    Id: {described['id']}   Generation: {described['generation']}{durable}")
        echo(f"   CRC: {described['crc64nvme'] or 'unknown'} (CRC64NVME)")
        if described["remote"]:
            echo(f"  Data: in {described['remote']}; `pinstripe state` tells what of it is here")
        elif described["inline"]:
            echo("  Data: in the inode")
        else:
            blocks = ", ".join(f"{count} {name}" for name, count in described["codecs"].items() if count)
            echo(f"Stripes: {described['stripes']}, of which {described['holes']} holes   Blocks: {blocks or 'none'}")
    if layout is not None:
        count = "all" if layout["stripe_count"] == -1 else layout["stripe_count"]
        pool = f", pool {layout['pool']}" if layout["pool"] else ""
        echo(
            f"Layout: stripes of {size_text(layout['stripe_bytes'])} over {count} targets{pool}, "
            f"blocks of {size_text(layout['block_bytes'])}, codec {layout['codec']}"
        )
    for held in described.get("targets", ()):
        echo(f"  T:{held['index']} {held['path']}: {held['frames']} frames, {size_text(held['bytes'])}")


@click.command("cat")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--generation", type=GENERATION, help="An older one: its number, or 'durable'.")
def cat_command(paths: tuple[str, ...], generation: int | str | None) -> None:
    """Write files to the standard output; every byte is verified.

    \b
    Example:
      pinstripe cat /scratch/store/log | tail
    """
    failures = Failures()
    out = sys.stdout.buffer
    for path in paths:
        with failures:
            session = open_session(path, "r", generation=generation)
            try:
                buffer = bytearray(max(_CHUNK_BYTES, session.layout.stripe_bytes))
                for offset in range(0, session.size, len(buffer)):
                    count = session.read_into(offset, buffer)
                    out.write(memoryview(buffer)[:count])
            finally:
                session.close()
    out.flush()
    failures.exit()
