"""Target and Segment: what the store asks of a place where data lies."""

from __future__ import annotations

import abc
import dataclasses
import errno
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol, Self

__all__ = ["Access", "Batch", "Content", "FileContent", "Segment", "Space", "Target"]

_PIECE_BYTES = 1 << 20


class Batch(Protocol):
    """The part of `pinstripe.kernels.FrameBatch` that a segment needs."""

    def placed_bytes(self, first: int, last: int, start: int) -> int:
        """Return the bytes that frames [first, last) take from `start` on, gaps counted."""

    def write(self, fd: int, start: int, first: int, last: int) -> None:
        """Write frames [first, last) to a descriptor at `start`; whole or OSError."""

    def tobytes(self, start: int, first: int, last: int) -> bytes:
        """Return the bytes that `write` would write."""


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Who may use a file's data on a target: the file's own permissions, made those of its directory.

    Attributes
    ----------
    mode : int
        Permission bits of the file, as `stat` gives them; only rwx of user, group and others count.
    uid, gid : int or None
        The file's owner and group; None leaves what the file system gives.
    """

    mode: int
    uid: int | None = None
    gid: int | None = None

    @property
    def directory_mode(self) -> int:
        """Permission bits of the directory: r gives rx, w gives wx, the owner always has wx."""
        mode = 0o300
        for shift in (0, 3, 6):
            if self.mode >> shift & 0o4:
                mode |= 0o5 << shift
            if self.mode >> shift & 0o2:
                mode |= 0o3 << shift
        return mode


@dataclasses.dataclass(frozen=True, slots=True)
class FileContent:
    """The first bytes of an open file, read piece by piece: what is large is never in memory whole."""

    fd: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __bytes__(self) -> bytes:
        return b"".join(map(bytes, self))

    def __iter__(self) -> Iterator[memoryview]:
        """Give piece after piece; each is good until the next one is asked for."""
        room = memoryview(bytearray(min(self.length, _PIECE_BYTES)))
        offset = 0
        while offset < self.length:
            count = os.preadv(self.fd, [room[: self.length - offset]], offset)
            if not count:
                raise OSError(errno.EIO, "the file ends too early")
            yield room[:count]
            offset += count


Content = bytes | FileContent


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """Bytes of a target: in total, and free for whoever asks."""

    total: int
    free: int


class Segment(abc.ABC):
    """An open segment: for writing, from its creation to its close; or for reading.

    Different ranges may be written and read by several threads at once. A segment that is removed while it is open
    stays readable through this object. Every method may raise OSError.
    """

    @abc.abstractmethod
    def fileno(self) -> int | None:
        """Return the descriptor that kernels may use directly; None: every byte goes through this object."""

    def append(self, batch: Batch, start: int, first: int, last: int) -> None:
        """Write frames [first, last) of a batch at `start`: whole, or OSError, and then their place holds anything."""
        fd = self.fileno()
        if fd is None:
            self.write_at(batch.tobytes(start, first, last), start)
        else:
            batch.write(fd, start, first, last)

    @abc.abstractmethod
    def write_at(self, data: Any, offset: int) -> None:
        """Write all of a buffer, or raise."""

    @abc.abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes; fewer only where the segment ends."""

    @abc.abstractmethod
    def size(self) -> int:
        """Return the segment's length in bytes."""

    @abc.abstractmethod
    def sync(self) -> None:
        """Make what was written durable (its name: `Target.sync_directory`). An error is final: never call it again."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close; raises what the file system says only now. Closing again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Target(abc.ABC):
    """A place where segments lie, by file id and name.

    Thread-safe. Every method may raise OSError; TargetError, which is one, where the target itself is not there (its
    identity is missing or another's), so that an unmounted disk is never taken for an empty one.

    Attributes
    ----------
    id : bytes
        16 bytes.
    path : str
        Where it is, for people.
    scope : str
        ``shared`` or ``node``.
    pool : str or None
        Name of its pool.
    """

    id: bytes
    path: str
    scope: str
    pool: str | None

    @abc.abstractmethod
    def check(self) -> None:
        """Check that the target is there and is this store's.

        Raises
        ------
        TargetError
            It is missing, another's, or does not answer; the text names it and the remedy.
        """

    @abc.abstractmethod
    def create_segment(self, file_id: bytes, name: str, access: Access) -> Segment:
        """Make a segment, empty, for writing (and reading back); its directories too, where they are missing.

        Raises
        ------
        FileExistsError
            There is one of this name.
        TargetError
            The file's directory there belongs to somebody who may not own it.
        """

    @abc.abstractmethod
    def open_segment(self, file_id: bytes, name: str) -> Segment:
        """Open a segment for reading.

        Raises
        ------
        FileNotFoundError
            It is not on this target.
        """

    @abc.abstractmethod
    def list_segments(self, file_id: bytes) -> list[str]:
        """Return every name in the file's directory, sorted: segments, manifest copies, what else lies there."""

    @abc.abstractmethod
    def list_files(self) -> Iterator[bytes]:
        """Yield the id of each file that has a directory here. May need to be the store's owner."""

    @abc.abstractmethod
    def remove_segment(self, file_id: bytes, name: str) -> None:
        """Remove a name from the file's directory; one that is missing is as good as removed."""

    @abc.abstractmethod
    def remove_directory(self, file_id: bytes) -> None:
        """Remove the file's directory if it is empty; else do nothing."""

    @abc.abstractmethod
    def sync_directory(self, file_id: bytes) -> None:
        """Make durable which names are in the file's directory, and the directories above it."""

    @abc.abstractmethod
    def write_manifest_copy(
        self, file_id: bytes, tx: bytes, data: Content, access: Access, *, durable: bool = True
    ) -> None:
        """Write the copy of a manifest, seen whole or not at all; if `durable`, synced with its directory."""

    @abc.abstractmethod
    def read_manifest_copy(self, file_id: bytes, tx: bytes) -> bytes:
        """Return the copy of a manifest.

        Raises
        ------
        FileNotFoundError
            There is none.
        """

    @abc.abstractmethod
    def space(self) -> Space:
        """Return how large the target is and what is free."""
