"""The bytes of a copy: extents of a source, read ahead, written, and checked by one checksum from memory to memory."""

from __future__ import annotations

import errno
import os
import secrets
import stat as stat_module
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from ..errors import DamageError
from ..kernels import crc64, crc64_zeros
from ..store.session import Session

__all__ = ["HostSink", "HostSource", "StoreSource", "check_crc", "copy_range"]

_CHUNK_BYTES = 8 << 20
_STRIPES_LOOKED_AT = 4096


class Source(Protocol):
    """Bytes to be copied.

    Attributes
    ----------
    path : str
    size : int
        When it was opened.
    """

    path: str
    size: int

    def extents(self, begin: int, end: int) -> Iterator[tuple[int, int]]: ...
    def read_into(self, offset: int, buffer: memoryview) -> int: ...


class HostSource:
    """A file that is no store's."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._seen = os.fstat(self._fd)
        self.size = self._seen.st_size

    def extents(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield where there is data, in order; holes are left out."""
        while begin < end:
            try:
                begin = os.lseek(self._fd, begin, os.SEEK_DATA)
                hole = os.lseek(self._fd, begin, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data from here on
                    return
                hole = end  # a file system that tells no holes
            if begin < end:
                yield begin, min(hole, end)
            begin = hole

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer, or stop where the file ends now."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if not count:
                break
            done += count
        return done

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def check_unchanged(self) -> None:
        """Raise if somebody wrote the file since it was opened."""
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self._seen.st_size, self._seen.st_mtime_ns):
            raise OSError(errno.EAGAIN, "was changed while it was copied: not copied", self.path)


class StoreSource:
    """A file of a store, by a session that this object owns."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.path = session.path
        self.size = session.size

    @property
    def data_crc(self) -> int | None:
        """Checksum of the whole file; None of a stub whose bucket keeps none."""
        return self.session.base.content_crc

    def extents(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield where there is data, in order; holes are left out."""
        if self.session.base.inline is not None or self.session.base.remote is not None:
            if begin < end:
                yield begin, end
            return
        stripe_bytes = self.session.layout.stripe_bytes
        first, last = begin // stripe_bytes, -(-end // stripe_bytes)
        open_from = open_to = begin
        for start in range(first, last, _STRIPES_LOOKED_AT):
            stripes = np.arange(start, min(start + _STRIPES_LOOKED_AT, last), dtype=np.uint64)
            records = self.session.records(stripes)
            for k in np.flatnonzero(records["segment"]).tolist():
                data_from = max(begin, (start + k) * stripe_bytes)
                data_to = min(end, (start + k) * stripe_bytes + int(records[k]["raw_bytes"]))
                if data_from > open_to:
                    if open_from < open_to:
                        yield open_from, open_to
                    open_from = data_from
                open_to = max(open_to, data_to)
        if open_from < open_to:
            yield open_from, open_to

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer with verified bytes."""
        return self.session.read_into(offset, buffer)

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def check_unchanged(self) -> None:
        """A generation never changes."""


class HostSink:
    """A new file that is no store's: seen under its name whole or not at all.

    Where the destination is something else than a file (a device, a pipe), it is written directly.

    Parameters
    ----------
    path : str
        The destination; a symlink is followed.
    mode : int
        Permissions, if it is not there yet.
    draft : str
        Where it is written until it is whole; made here if empty, else there already.
    """

    def __init__(self, path: str, mode: int, draft: str = "") -> None:
        self.path = os.path.realpath(path)
        self._mode = mode
        self._made = not draft
        self.draft = draft
        if draft:
            self._fd = os.open(draft, os.O_WRONLY | os.O_CLOEXEC)
            return
        try:
            seen: os.stat_result | None = os.stat(self.path)
        except FileNotFoundError:
            seen = None
        if seen is not None and not stat_module.S_ISREG(seen.st_mode):
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            return
        directory, name = os.path.split(self.path)
        self.draft = os.path.join(directory, f".{name[:200]}.pinstripe-{secrets.token_hex(8)}")
        self._fd = os.open(self.draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if seen is not None:  # as cp: what is there already keeps its owner and mode
            self._mode = stat_module.S_IMODE(seen.st_mode)
            with suppress(PermissionError):
                os.fchown(self._fd, seen.st_uid, seen.st_gid)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of it, at its place, or in order where there are no places."""
        while data:
            count = os.pwrite(self._fd, data, offset) if self.draft else os.write(self._fd, data)
            data, offset = data[count:], offset + count

    def finish(self, size: int, *, sync: bool) -> None:
        """Give the file its size, mode and name."""
        if self.draft:
            os.ftruncate(self._fd, size)
            os.fchmod(self._fd, self._mode)
            if sync:
                os.fsync(self._fd)
            os.rename(self.draft, self.path)
            self.draft = ""
            if sync:
                _sync_directory(os.path.dirname(self.path))

    def sync(self) -> None:
        """Make what this process wrote durable."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close; what was not finished is gone."""
        os.close(self._fd)
        if self.draft and self._made:
            with suppress(FileNotFoundError):
                os.unlink(self.draft)


class Sink(Protocol):
    """Where bytes are copied to; a Session is one."""

    def write(self, offset: int, data: Any) -> Any: ...


def copy_range(
    source: Source,
    sink: Sink,
    begin: int,
    end: int,
    onprogress: Callable[[int], object],
    chunk_bytes: int = _CHUNK_BYTES,
) -> int:
    """Copy bytes [begin, end), holes left out, and return the checksum of all of them, holes counted as zeros.

    The next chunk is read while one is written. Chunks begin at multiples of their size, so that a sink of whole stripes
    gets whole stripes.

    Raises
    ------
    OSError
        The source is shorter than it was.
    """
    buffers = [memoryview(bytearray(chunk_bytes)), memoryview(bytearray(chunk_bytes))]
    chunks = _chunks(source.extents(begin, end), chunk_bytes)
    crc, position = 0, begin
    with ThreadPoolExecutor(1, "pinstripe-read") as pool:

        def read(turn: int) -> tuple[int, memoryview] | None:
            chunk = next(chunks, None)
            if chunk is None:
                return None
            offset, length = chunk
            data = buffers[turn % 2][:length]
            if source.read_into(offset, data) != length:
                raise OSError(errno.EAGAIN, "became shorter while it was copied: not copied", source.path)
            return offset, data

        turn = 0
        coming = pool.submit(read, turn)
        while (chunk := coming.result()) is not None:
            turn += 1
            coming = pool.submit(read, turn)
            offset, data = chunk
            if offset > position:
                crc = crc64_zeros(offset - position, crc)
            crc = crc64(data, crc)
            sink.write(offset, data)
            position = offset + len(data)
            onprogress(len(data))
    return crc64_zeros(end - position, crc) if end > position else crc


def check_crc(found: int, expected: int | None, path: str) -> None:
    """Compare the checksum of what was read with that of what was written; None is not known, and nothing is compared.

    Raises
    ------
    DamageError
    """
    if expected is not None and found != expected:
        raise DamageError(
            "what was copied is not what was read: its checksum differs",
            path=path,
            expected=f"{expected:016x}",
            found=f"{found:016x}",
        )


def _chunks(extents: Iterator[tuple[int, int]], chunk_bytes: int) -> Iterator[tuple[int, int]]:
    for begin, end in extents:
        while begin < end:
            stop = min(end, (begin // chunk_bytes + 1) * chunk_bytes)
            yield begin, stop - begin
            begin = stop


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
