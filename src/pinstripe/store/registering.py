"""Registering on a file that has a name: the transaction first, then the look whether the name still leads there, then the base."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import DamageError, Error
from ..format.inode import Inode
from .generation import Generation, list_numbers, read_header
from .newfile import MovedError, give_directory
from .transaction import Transaction
from .writer_identity import is_alive

if TYPE_CHECKING:
    from .store import Store

__all__ = ["base_of", "refuse_others", "register"]


def register(store: Store, inode: Inode, path: str, seen: os.stat_result, ranks: int) -> Transaction:
    """Register a transaction on a file that has a name; then check that ``inode`` is still this inode and is named."""
    tx = Transaction(store, inode.file_id, inode.layout, ranks=ranks)
    give_directory(store, inode, path, seen)
    try:
        tx.register()
    except FileNotFoundError:
        raise DamageError(f"the file's directory {tx.directory} is missing", path=path) from None
    try:
        kept = os.stat(os.path.join(tx.directory, "inode"))
        if (kept.st_dev, kept.st_ino) != (seen.st_dev, seen.st_ino) or kept.st_nlink < 2:
            raise MovedError(errno.ENOENT, "the file was removed or replaced while it was opened", path)
    except BaseException:
        tx.discard()
        raise
    return tx


def base_of(store: Store, inode: Inode, path: str, still_named: Callable[[], bool]) -> tuple[Generation, int]:
    """The head, and the highest number listed beside it."""
    base = Generation.head(store, inode, path, named=still_named)
    numbers = list_numbers(store.file_directory(inode.file_id))
    highest = max([n for n in numbers if n <= base.number] or [base.number])
    above = [n for n in numbers if n > base.number]
    for number in sorted(
        above
    ):  # another committed meanwhile: then it is simply first; a number that is none is stepped over
        try:
            if read_header(os.path.join(store.file_directory(inode.file_id), str(number))).number == number:
                break
        except (Error, OSError):
            break
        highest = number
    return base, highest


def refuse_others(tx: Transaction, path: str) -> None:
    """Refuse to go on beside a live writer.

    Raises
    ------
    BlockingIOError
        EBUSY.
    """
    for name in os.listdir(tx.directory):
        if name.endswith(".tx") and name != os.path.basename(tx.path):
            other = os.path.join(tx.directory, name)
            try:
                header = read_header(other)
            except (Error, OSError):
                continue
            writer = header.writer
            if not header.kept and is_alive(writer, other):
                raise BlockingIOError(
                    errno.EBUSY, f"process {writer.pid} on {writer.host} has the file open for writing", path
                )
