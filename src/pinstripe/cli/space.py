"""Commands for space: df, du, target list, target prepare."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import click

from ..errors import Error
from ..format.superblock import TargetEntry
from ..store import namespace
from ..store.filesystem import filesystem_type, is_volatile
from ..store.prepare import prepare
from ..store.store import Store
from .failure import Failures
from .group import RankedGroup
from .output import echo, emit_json, print_table, size_text
from .words import human_option, json_option

__all__ = ["df_command", "du_command", "target_group"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """One target as df shows it.

    Attributes
    ----------
    state : str
        Letters as `lfs df` has them: N takes no new frames, R read-only, S out of space, I out of inodes, V volatile; the
        last is ours.
    """

    index: int
    id: str
    path: str
    scope: str
    pool: str | None
    state: str
    total: int = 0
    free: int = 0
    available: int = 0
    inodes: int = 0
    inodes_free: int = 0
    device: int = -1
    missing: str = ""


def _row(store: Store, index: int, entry: TargetEntry) -> _Row:
    path = store.target_path(entry)
    known = (index, entry.id.hex(), path, entry.scope, entry.pool)
    try:
        store.target(entry.id)
        seen = os.statvfs(path)
        device = os.stat(path).st_dev
    except (Error, OSError) as error:
        return _Row(*known, state="", missing=(error.strerror if isinstance(error, OSError) else None) or str(error))
    state = "N" * (entry.state == "drain") + "R" * bool(seen.f_flag & os.ST_RDONLY)
    state += "S" * (seen.f_bavail == 0) + "I" * (seen.f_files > 0 and seen.f_favail == 0) + "V" * is_volatile(path)
    sizes = (seen.f_blocks * seen.f_frsize, seen.f_bfree * seen.f_frsize, seen.f_bavail * seen.f_frsize)
    return _Row(*known, state, *sizes, seen.f_files, seen.f_favail, device)


def _rows(path: str, pool: str | None = None) -> tuple[Store, list[_Row]]:
    store = Store.find(path)
    rows = [_row(store, index, entry) for index, entry in enumerate(store.superblock.targets)]
    return store, [row for row in rows if pool is None or row.pool == pool]


@click.command("df")
@click.argument("path", type=click.Path(), default=".")
@human_option
@click.option("-i", "inodes", is_flag=True, help="Inodes instead of bytes.")
@click.option("-p", "--pool", help="Only the targets of this pool.")
@json_option
def df_command(path: str, human: bool, inodes: bool, pool: str | None, as_json: bool) -> None:
    """Show how full the targets are, as `lfs df` does.

    Letters behind a target: N takes no new data, R read-only, S out of space, I out of inodes, V in memory (gone after a
    power cut). A file system that several targets share is counted once in the summary.

    \b
    Example:
      pinstripe df -h /scratch/store
    """
    store, rows = _rows(path, pool)
    if as_json:
        emit_json({"store": store.root, "targets": [_as_json(row) for row in rows]})
        return
    name = os.path.basename(store.root)[:24]
    unit = "Inodes" if inodes else "bytes" if human else "1K-blocks"
    heads = ["UUID", unit, "IUsed" if inodes else "Used", "IFree" if inodes else "Available"]
    table = [[*heads, "IUse%" if inodes else "Use%", "Mounted on"]]
    missing = []
    summed: dict[int, _Row] = {}
    for row in rows:
        uuid = f"{name}-T{row.index:04d}"
        if row.missing:
            missing.append(f"{uuid:<21}: inactive target ({row.path}: {row.missing})")
            continue
        summed[row.device] = row
        table.append(
            [uuid, *_numbers([row], inodes, human), f"{row.path}[T:{row.index}]{' ' * bool(row.state)}{row.state}"]
        )
    table.append(["filesystem_summary:", *_numbers(list(summed.values()), inodes, human), store.root])
    summary = table.pop()
    print_table([*table, [""] * 6, summary], "lrrrr")
    for line in missing:
        echo(line)


def _numbers(rows: list[_Row], inodes: bool, human: bool) -> list[str]:
    def add(number: Callable[[_Row], int]) -> int:
        return sum(number(row) for row in rows)

    if inodes:
        total, available = add(lambda row: row.inodes), add(lambda row: row.inodes_free)
        used = total - available
        texts = [str(total), str(used), str(available)]
    else:
        total, available = add(lambda row: row.total), add(lambda row: row.available)
        used = total - add(lambda row: row.free)
        texts = [size_text(size) if human else str(size // 1024) for size in (total, used, available)]
    percent = -(-100 * used // (used + available)) if used + available else 0
    return [*texts, f"{percent}%"]


def _as_json(row: _Row) -> dict[str, Any]:
    values = dataclasses.asdict(row)
    del values["device"]
    values["used"] = row.total - row.free
    values["filesystem"] = "" if row.missing else filesystem_type(row.path)
    values["missing"] = row.missing or None
    return values


@click.command("du")
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("-s", "summary", is_flag=True, help="Only the sum of each argument.")
@human_option
@json_option
def du_command(paths: tuple[str, ...], summary: bool, human: bool, as_json: bool) -> None:
    """Sum up what files take: stored bytes, bytes as a reader sees them, ratio.

    \b
    Example:
      pinstripe du -sh /scratch/store
    """
    failures = Failures()
    rows: list[tuple[int, int, int, str]] = []
    for path in paths or (".",):
        with failures:
            _sum(path, rows, failures, summary, 0)
    if as_json:
        emit_json([{"path": path, "stored_bytes": s, "size": n, "files": f} for s, n, f, path in rows])
    else:
        table = [
            [size_text(s, human), size_text(n, human), f"{n / s:.2f}" if s else "-", path] for s, n, _, path in rows
        ]
        print_table([["STORED", "SIZE", "RATIO", "PATH"], *table], "rrrl")
    failures.exit()


def _sum(
    path: str, rows: list[tuple[int, int, int, str]], failures: Failures, summary: bool, depth: int
) -> tuple[int, int, int]:
    stored = size = files = 0
    if namespace.isdir(path):
        with namespace.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            with failures:
                if entry.is_dir(follow_symlinks=False):
                    below = _sum(entry.path, rows, failures, summary, depth + 1)
                    stored, size, files = stored + below[0], size + below[1], files + below[2]
                elif not entry.is_symlink():
                    seen = entry.stat()
                    stored, size, files = stored + seen.st_blocks * 512, size + seen.st_size, files + 1
    else:
        seen = namespace.stat(path)
        stored, size, files = seen.st_blocks * 512, seen.st_size, 1
    if depth == 0 or not summary:
        rows.append((stored, size, files, path))
    return stored, size, files


class _Targets(RankedGroup):
    parallel = frozenset({"prepare"})


@click.group("target", cls=_Targets)
def target_group() -> None:
    """Targets: the directories where data lies."""


@target_group.command("list")
@click.argument("path", type=click.Path(), default=".")
@human_option
@json_option
def list_command(path: str, human: bool, as_json: bool) -> None:
    """List the targets of a store.

    \b
    Example:
      pinstripe target list /scratch/store
    """
    store, rows = _rows(path)
    if as_json:
        emit_json([_as_json(row) for row in rows])
        return
    table = [["T", "ID", "SCOPE", "POOL", "STATE", "FREE", "PATH"]]
    for row in rows:
        entry = store.superblock.targets[row.index]
        state = "missing" if row.missing else entry.state
        free = "-" if row.missing else size_text(row.available, human)
        table.append([str(row.index), row.id[:12], row.scope, row.pool or "-", state, free, row.path])
    print_table(table, "rllllr")
    for row in rows:
        if row.missing:
            echo(f"{row.path}: {row.missing}")


@target_group.command("prepare")
@click.argument("path", type=click.Path(), default=".")
def prepare_command(path: str) -> None:
    """Make this node's directories of the targets of scope node, where they are missing. Run it once on each node.

    \b
    Example:
      srun --ntasks-per-node=1 pinstripe target prepare /scratch/store
    """
    for made in prepare(Store.find(path)):
        echo(f"{os.uname().nodename}: made {made}")
