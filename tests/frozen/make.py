"""Make the frozen files of the format's present version: ``python -m tests.frozen.make OUT.tar.xz``.

Run once for each version of the format, when it is frozen. What it made is kept, read by the tests for ever, and never
made again: this program may go on with the format.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

import pinstripe
from pinstripe.errors import ConflictError
from pinstripe.format.layout import Layout
from pinstripe.format.manifest import Writer
from pinstripe.kernels import Encoder
from pinstripe.store.directory_layout import set_layout
from pinstripe.store.file import RawFile

from .contents import (
    BASE,
    BLOCK,
    CHANGED,
    FILES,
    LOG,
    MODES,
    PART,
    PART_EXTENTS,
    PART_STRIPE,
    SPARSE,
    STRIPE,
    SYMLINKS,
)

WRITER = Writer("frozen", 42, 4711, "00000000-0000-0000-0000-000000000000", "pid:[1]", "job", 1)
WHEN = 1_780_000_000  # every file's time in the archive


def write(path: str, data: bytes, mode: str = "xb") -> None:
    with pinstripe.open(path, mode) as file:
        file.write(data)


def change(path: str, offset: int, data: bytes) -> None:
    with pinstripe.open(path, "r+b", 0, grace_s=1e9) as file:
        file.pwrite(data, offset)


def write_in_turn(path: str, first: Callable[[RawFile], object], second: Callable[[RawFile], object]) -> str:
    """Two writers who change the same bytes; the id of the transaction that is kept."""
    with pinstripe.open(path, "r+b", 0, grace_s=1e9) as winner:
        loser = pinstripe.open(path, "r+b", 0, grace_s=1e9)
        first(winner)
    second(loser)
    try:
        loser.close()
    except ConflictError as conflict:
        return str(conflict.transaction)
    raise AssertionError("there was no conflict")


def die_while_writing(path: str, mode: str) -> None:
    child = os.fork()
    if not child:
        try:
            file = pinstripe.open(path, mode, 0, batch_bytes=1 << 20)
            for stripe in range(40):
                file.pwrite(b"never committed!" * (STRIPE // 16), stripe * STRIPE)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def make_part(top: Path) -> None:
    """A part of a stripe, which only live transactions hold: the frame alone, and what its writer knows of it."""
    file_id, tx = bytes(range(16)), bytes(range(16, 32))
    extents = np.array(PART_EXTENTS, np.uint32)
    batch = Encoder(file_id, tx, BLOCK).encode_part(PART, PART_STRIPE, extents)
    (top / "part.frame").write_bytes(batch.tobytes(0, 0, 1))


def make(top: Path) -> None:
    root = f"{top}/store"
    targets = [f"{top}/target0", f"{top}/target1,pool=wide", f"{top}/target2,pool=wide"]
    pinstripe.create(root, targets, stripe_bytes=STRIPE, block_bytes=BLOCK, mode=0o755)
    for directory in ("numbers", "layout/wide"):
        pinstripe.makedirs(f"{root}/{directory}")
    set_layout(f"{root}/layout/wide", Layout(2 * STRIPE, 2, BLOCK, "raw", "wide"))
    for name, data in FILES.items():
        if name not in ("changed", "cut", "kept", "unfinished"):
            write(f"{root}/{name}", data)
    with pinstripe.open(f"{root}/sparse", "xb") as file:
        for offset, piece in SPARSE.items():
            file.seek(offset)
            file.write(piece)
    write(f"{root}/changed", LOG)
    for begin, end in ((70_000, 80_000), (200_000, 205_000)):
        change(f"{root}/changed", begin, CHANGED[begin:end])
    for name in ("cut", "kept", "unfinished"):
        write(f"{root}/{name}", BASE)
    with pinstripe.open(f"{root}/cut", "r+b", 0) as file:
        file.truncate(len(FILES["cut"]))
    kept = write_in_turn(
        f"{root}/kept",
        lambda winner: winner.pwrite(b"the first writer", 100),
        lambda loser: loser.pwrite(b"the other writer", 100),
    )
    die_while_writing(f"{root}/unfinished", "r+b")
    die_while_writing(f"{root}/unborn", "xb")
    for name, content in SYMLINKS.items():
        pinstripe.symlink(content, f"{root}/{name}")
    for name, mode in MODES.items():
        pinstripe.chmod(f"{root}/{name}", mode)
    make_part(top)
    (top / "kept.json").write_text(json.dumps({"transaction": kept}) + "\n")


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's, from no time in particular."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = WHEN
    return member


def main() -> None:
    (out,) = sys.argv[1:]
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory, "frozen")
        top.mkdir()
        with mock.patch("pinstripe.store.transaction.this_writer", return_value=WRITER):
            make(top)
        with tarfile.open(out, "x:xz", preset=9) as archive:
            archive.add(top, ".", filter=plain)


if __name__ == "__main__":
    main()
