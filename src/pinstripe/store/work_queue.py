"""WorkQueue: numbers of pieces of work, each given to one rank, to whoever asks first; so that a slow rank gets fewer.

A counter in a small file that all ranks lock, on whatever host they run. Where a file system has no locks, each rank gets every n-th
number instead: then nothing is stolen, but nothing is done twice either.
"""

from __future__ import annotations

import os
import secrets
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from ..errors import UnsupportedError
from .shared_file import SHARED_HEAD_BYTES, SharedFile
from .team import Team

if TYPE_CHECKING:
    from .store import Store

__all__ = ["WorkQueue", "work_through"]

_COUNT = struct.Struct("<q")


class WorkQueue:
    """Collective to make and to close; `next` is independent and thread-safe. Iterating gives numbers below `count`.

    Parameters
    ----------
    store : Store or None
        Whose directory all ranks see; None: nothing is stolen.
    team : Team
    count : int
        Pieces of work, the same on all ranks.

    Attributes
    ----------
    steals : bool
        Whether the numbers go to who asks first.

    Examples
    --------
    >>> with WorkQueue(store, team, len(pieces)) as queue:
    ...     for number in queue:
    ...         work(pieces[number])
    """

    def __init__(self, store: Store | None, team: Team, count: int) -> None:
        self.count = count
        self._team = team
        self._lock = threading.Lock()
        self._next = team.rank
        self._file: SharedFile | None = None
        self.steals = store is not None or team.size == 1
        if team.size == 1 or store is None:
            return
        named = team.broadcast(secrets.token_bytes(32) if team.rank == 0 else None)
        file = SharedFile(store, named[:16], named[16:].hex(), "queue", beside_transaction=False)
        can = True
        error: BaseException | None = None
        try:
            with file.locked():
                pass
        except UnsupportedError:
            can = False
        except BaseException as raised:  # an interrupt too: the others wait in agree
            error = raised
        team.agree(error)
        self.steals = bool(np.concatenate(team.allgather(np.array([can], np.bool_))).all())
        if self.steals:
            self._file = file
        else:
            file.close(remove=True)

    def next(self) -> int:
        """Return the next number; those from `count` on mean that nothing is left."""
        with self._lock:
            if self._file is None:
                number, self._next = self._next, self._next + self._team.size
                return number
            with self._file.locked() as fd:
                data = os.pread(fd, _COUNT.size, SHARED_HEAD_BYTES)
                number = _COUNT.unpack(data)[0] if data else 0
                if number < self.count:
                    os.pwrite(fd, _COUNT.pack(number + 1), SHARED_HEAD_BYTES)
            return int(number)

    def __iter__(self) -> Iterator[int]:
        while (number := self.next()) < self.count:
            yield number

    def close(self, error: BaseException | None = None) -> None:
        """Collective. End it when no rank will ask any more; an error of any rank is raised on all."""
        try:
            self._team.agree(error)
        finally:
            if self._file is not None:
                self._file.close(remove=True)
                self._file = None
                self._next = self.count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)


def work_through(queue: WorkQueue, work: Callable[[int], object], threads: int) -> None:
    """Independent. Do the work of each number that this rank gets, in several threads; the first error ends all of them and is raised.

    An interrupt lets each thread end the piece that it is at.
    """
    if threads <= 1:
        for number in queue:
            work(number)
        return
    stop = threading.Event()

    def run() -> None:
        try:
            for number in queue:
                work(number)
                if stop.is_set():
                    return
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(threads, thread_name_prefix="pinstripe-work") as pool:
        running = [pool.submit(run) for _ in range(threads)]
        try:
            for one in running:
                one.result()
        finally:
            stop.set()
