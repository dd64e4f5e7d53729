"""Parts: the bytes of large files, sent by all ranks. Each part is read, verified, into a buffer that is used again, and sent by another thread."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DamageError, Error
from ..kernels import crc64
from ..store.session import Session
from .events import Events
from .objects import Part, Signed
from .sending import again_if_damaged

if TYPE_CHECKING:
    from .client import Client

__all__ = ["THREADS", "PartSender", "Piece", "Target", "Trouble"]

THREADS = 4
"""Parts of one rank under way at once."""

_MEMORY_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """One part that is to be sent.

    Attributes
    ----------
    file : int
        Number of the file in the round.
    number : int
        Of the part, from 1.
    offset, length : int
        Bytes of the file.
    signed : Signed or None
        By which it is sent where there are no credentials.
    """

    file: int
    number: int
    offset: int
    length: int
    signed: Signed | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """Why a part of a file was not sent.

    Attributes
    ----------
    file : int
    error : Exception
    """

    file: int
    error: Exception


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where the parts of one file go."""

    client: Client
    bucket: str
    key: str
    upload: str
    open: Callable[[], Session]
    note: Callable[[Part], None]


class PartSender:
    """One rank's work in a round.

    Parameters
    ----------
    targets : list of Target
        Of each file of the round.
    events : Events
    """

    def __init__(self, targets: list[Target], events: Events) -> None:
        self._targets, self._events = targets, events
        self._lock = threading.Lock()
        self._bad: set[int] = set()
        self.sent: list[tuple[int, Part]] = []
        self.troubles: list[Trouble] = []

    def run(self, pieces: Iterable[Piece], part_bytes: int) -> None:
        """Send pieces, in their order; what fails is in `troubles`, and no more of that file is sent.

        Parameters
        ----------
        part_bytes : int
            Length of the longest.
        """
        threads = max(1, min(THREADS, _MEMORY_BYTES // max(1, part_bytes) - 1))
        free: queue.SimpleQueue[npt.NDArray[np.uint8]] = queue.SimpleQueue()
        for _ in range(threads + 1):
            free.put(np.empty(0, np.uint8))
        running: list[Future[None]] = []
        opened: tuple[int, Session] | None = None
        with ThreadPoolExecutor(threads, "pinstripe-send") as pool:
            try:
                for piece in pieces:
                    if piece.file in self._bad:
                        continue
                    room = free.get()
                    if len(room) < piece.length:
                        room = np.empty(max(piece.length, 1 << 16), np.uint8)
                    try:
                        if opened is None or opened[0] != piece.file:
                            if opened is not None:
                                opened[1].close()
                            opened = None
                            opened = (piece.file, self._targets[piece.file].open())
                        data = room[: piece.length]
                        with self._events.spending("targets"):
                            if opened[1].read_into(piece.offset, data) != piece.length:
                                raise DamageError("the file is shorter than its generation says", path=opened[1].path)
                    except (Error, OSError) as error:
                        self._fail(piece.file, error)
                        free.put(room)
                        continue
                    running.append(pool.submit(self._send, piece, data, room, free))
                for one in running:
                    one.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            finally:
                if opened is not None:
                    with contextlib.suppress(OSError):
                        opened[1].close()

    def _send(self, piece: Piece, data: npt.NDArray[np.uint8], room: Any, free: Any) -> None:
        target = self._targets[piece.file]
        try:
            if piece.file not in self._bad:
                crc = crc64(data)
                send = functools.partial(
                    target.client.upload_part,
                    target.bucket,
                    target.key,
                    target.upload,
                    piece.number,
                    data.data,
                    crc64=crc,
                    signed=piece.signed,
                )
                with self._events.spending("network"):
                    part = again_if_damaged(send)
                part = dataclasses.replace(part, crc64=crc, size=piece.length)
                target.note(part)
                with self._lock:
                    self.sent.append((piece.file, part))
                self._events.advance(bytes=piece.length)
        except (Error, OSError) as error:
            self._fail(piece.file, error)
        finally:
            free.put(room)

    def _fail(self, file: int, error: Exception) -> None:
        with self._lock:
            if file not in self._bad:
                self._bad.add(file)
                self.troubles.append(Trouble(file, error))
