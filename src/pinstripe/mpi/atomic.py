"""AtomicLog: atomic mode. One rank at a time writes, and every rank first learns what the others wrote.

A writer takes the lock, reads what is new in the log into its index, writes, partial stripes too, and appends what it changed. A reader takes
the lock with other readers, reads what is new, then the file. Each entry carries the sequence of its write, so that at the commit, too, the
later one wins. The log is a file beside the transaction; a publication empties it.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from ..errors import DamageError
from ..store.filesystem import filesystem_type
from ..store.index import TOLD
from ..store.session import Session
from ..store.shared_file import SHARED_HEAD_BYTES
from ..store.writing import usable_targets

__all__ = ["AtomicLog", "why_not_atomic"]

_T = TypeVar("_T")
_ENTRY = struct.Struct("<QQQ")  # bytes of changes that follow; size of the file; sequence
_NETWORK = ("nfs", "nfs4", "cifs", "smb3")


class AtomicLog:
    """One rank's side of the log of one open file. Not thread-safe."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._file = session.shared_file("atomic")
        self._known = SHARED_HEAD_BYTES  # how much of the log this rank has read

    def catch_up(self) -> None:
        """Independent. Learn what is new."""
        with self._file.locked(alone=False) as fd:
            self._read(fd)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Independent. Within, nobody writes, and this rank knows all that was written."""
        with self._file.locked(alone=False) as fd:
            self._read(fd)
            yield

    def write(self, work: Callable[[], _T]) -> _T:
        """Independent. Do a write, alone, on top of all that was written before; then tell it."""
        with self._file.locked() as fd:
            self._read(fd)
            self._session.sequence += 1
            result = work()
            told = self._session.tell()
            entry = _ENTRY.pack(told.nbytes, self._session.size, self._session.sequence) + told.tobytes()
            try:
                done = 0
                while done < len(entry):
                    done += os.pwrite(fd, entry[done : done + (1 << 30)], self._known + done)
            except BaseException:
                os.ftruncate(fd, self._known)
                raise
            self._known += len(entry)
            return result

    def _read(self, fd: int) -> None:
        end = os.fstat(fd).st_size
        while self._known < end:
            head = os.pread(fd, _ENTRY.size, self._known)
            if len(head) < _ENTRY.size:
                raise DamageError("the log of atomic writes ends within an entry", path=self._file.path)
            nbytes, size, sequence = _ENTRY.unpack(head)
            body = os.pread(fd, nbytes, self._known + _ENTRY.size)
            if len(body) < nbytes:
                raise DamageError("the log of atomic writes ends within an entry", path=self._file.path)
            self._session.learn(np.frombuffer(body, TOLD))
            self._session.size = max(self._session.size, size)
            self._session.sequence = max(self._session.sequence, sequence)
            self._known += _ENTRY.size + nbytes

    def empty(self, *, first: bool) -> None:
        """Independent, but on all ranks, when all have read it and none will write before all are done; the first rank does it."""
        self._known = SHARED_HEAD_BYTES
        if first:
            with self._file.locked() as fd:
                os.ftruncate(fd, SHARED_HEAD_BYTES)

    def close(self, *, remove: bool) -> None:
        """Independent. Give the file back; `remove` it when no rank will begin to use it."""
        self._file.close(remove=remove)


def why_not_atomic(session: Session, hosts: list[str]) -> str:
    """Say why atomic mode cannot be on a file's targets; empty = it can."""
    for target in usable_targets(session.store, session.layout):
        if target.scope != "shared":
            return f"atomic mode needs targets that every rank reaches: {target.path} has scope={target.scope}"
        if len(set(hosts)) > 1 and filesystem_type(target.path) in _NETWORK:
            return f"atomic mode over several hosts needs coherent caches: {target.path} is on {filesystem_type(target.path)}"
    return ""
