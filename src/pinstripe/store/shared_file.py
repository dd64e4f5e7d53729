"""A small file that all processes of one open file, or one job, share under a lock: where shared positions lie, or which piece of work
is next. No part of the format's data.

It stands beside the transaction (``files/aa/ID/TOKEN.KIND``); of a file that is only read, in ``files/aa``, for the reader may not
write in the file's own directory, or there is none. TOKEN is random, the same in all processes of one open. Made at first use, with
the identity of who made it, so that a collector knows when it is nobody's any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import Error, UnsupportedError
from ..format.manifest import Writer
from .fresh import is_there
from .heartbeat import heartbeat
from .writer_identity import is_alive, this_writer

if TYPE_CHECKING:
    from .store import Store

__all__ = ["SHARED_HEAD_BYTES", "SharedFile", "collect_shared", "is_shared_file"]

SHARED_HEAD_BYTES = 1024
"""Who made the file, as a transaction's header says it. Its users' bytes follow."""

_SEEN = ".seen"
_NAME = re.compile(r"(?:[0-9a-f]{32}\.)?[0-9a-f]{32}\.(?:pointer|atomic|queue)")
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTSUP)


class SharedFile:
    """One process's side of such a file. Thread-safe.

    Attributes
    ----------
    path : str
    """

    def __init__(self, store: Store, file_id: bytes, token: str, kind: str, *, beside_transaction: bool) -> None:
        self._store, self._file_id, self._kind = store, file_id, kind
        self._shard = not beside_transaction
        directory = store.file_directory(file_id)
        self.path = os.path.join(directory, f"{token}.{kind}") if beside_transaction else f"{directory}.{token}.{kind}"
        self._lock = threading.RLock()
        self._fd = -1
        self._made = False

    @property
    def used(self) -> bool:
        """Whether this process has used it."""
        return self._fd >= 0

    @contextlib.contextmanager
    def locked(self, *, alone: bool = True) -> Iterator[int]:
        """Hold the lock, and give a descriptor. Waits for the other processes; the kernel frees a dead one's lock.

        Parameters
        ----------
        alone : bool
            Whether nobody else may hold it, also not to read.

        Raises
        ------
        UnsupportedError
            The file cannot be made there, or the file system has no locks.
        """
        with self._lock:
            fd = self._open()
            if not os.fstat(fd).st_size:
                self._begin(fd)
            self._set_lock(fd, fcntl.F_WRLCK if alone else fcntl.F_RDLCK)
            try:
                yield fd
            finally:
                self._set_lock(fd, fcntl.F_UNLCK)

    def _open(self) -> int:
        if self._fd < 0:
            try:
                if self._shard:
                    self._store.make_shard(self._file_id)
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise UnsupportedError(
                    f"the ranks cannot share a {self._kind} file here ({error.strerror}): make {os.path.dirname(self.path)} "
                    "writable, or use explicit offsets",
                    path=self.path,
                    code=errno.ENOTSUP,
                ) from error
        return self._fd

    def _set_lock(self, fd: int, kind: int) -> None:
        # struct flock of fcntl(2): a lock of the open file, not of the process, so another descriptor's close keeps it.
        wanted = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, wanted)
        except OSError as error:
            if error.errno not in _CANNOT_LOCK:
                raise
            raise UnsupportedError(
                f"the file system of {os.path.dirname(self.path)} has no locks ({error.strerror}): mount it with locks "
                "(Lustre: -o flock; NFS: without nolock), or use explicit offsets",
                path=self.path,
                code=errno.ENOTSUP,
            ) from error

    def _begin(self, fd: int) -> None:
        # Not under a lock that others may hold to read: two that both wait to write would wait for ever.
        self._set_lock(fd, fcntl.F_WRLCK)
        try:
            if not os.fstat(fd).st_size:  # else another was first
                os.pwrite(fd, this_writer().encode(), 0)
                self._made = True
                heartbeat.add(self.path)
        finally:
            self._set_lock(fd, fcntl.F_UNLCK)

    def close(self, *, remove: bool) -> None:
        """Give it back. Whoever used it removes its name, when nobody will begin to use it any more."""
        with self._lock:
            if self._fd < 0:
                return
            os.close(self._fd)
            self._fd = -1
            if self._made:
                heartbeat.drop(self.path)
            if remove:
                with contextlib.suppress(OSError):  # another was first; or a collector will
                    os.unlink(self.path)


def is_shared_file(name: str) -> bool:
    """Tell whether a name in ``files/aa`` or below is such a file's, or says what a collector saw of it."""
    return _NAME.fullmatch(name.removesuffix(_SEEN)) is not None


def collect_shared(path: str) -> bool:
    """Remove such a file, if who made it is dead; return whether it went. Unsure means it stays."""
    path = path.removesuffix(_SEEN)
    writer: Writer | None = None
    try:
        with open(path, "rb") as file:
            writer = Writer.decode(file.read(SHARED_HEAD_BYTES))
    except (Error, OSError):  # gone, or it proves nothing
        pass
    if is_there(path) and is_alive(writer, path):
        return False
    for name in (path, path + _SEEN):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    return True
