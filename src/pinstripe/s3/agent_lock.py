"""The agent's lock: who looks after the links of a store. One process at a time, taken over from a dead one.

``STORE/.pinstripe/s3/agent`` holds the writer's identity, as the first 1024 bytes of a transaction do, and a random token; its time is the
heartbeat. ``agent.lock`` is held while the file is made or replaced, where the file system has locks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator

from ..errors import ConflictError, Error
from ..format.manifest import Writer
from ..store.heartbeat import heartbeat
from ..store.store import Store, make_shard
from ..store.writer_identity import is_alive, this_writer

__all__ = ["SILENCE_S", "AgentLock", "s3_directory"]

SILENCE_S = 600.0
"""An agent on another host is dead when its heartbeat stood still this long by the observer's own clock."""

_WRITER_BYTES = 1024
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTSUP)


def s3_directory(store: Store) -> str:
    """Return the directory for what this layer writes down beside a store; it is made if it is missing."""
    path = os.path.join(store.meta, "s3")
    make_shard(path, store.shard_mode)
    return path


class AgentLock:
    """The lock of one store. Not thread-safe.

    Parameters
    ----------
    store : Store

    Attributes
    ----------
    path : str
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.path = os.path.join(store.meta, "s3", "agent")
        self._token = b""

    def holder(self) -> Writer | None:
        """Return who holds it and may be alive; None: nobody."""
        writer: Writer | None = None
        try:
            with open(self.path, "rb") as file:
                writer = Writer.decode(file.read(_WRITER_BYTES))
        except FileNotFoundError:
            return None
        except (Error, OSError):  # torn: it proves nothing
            pass
        if not is_alive(writer, self.path, silence_s=SILENCE_S):
            return None
        return writer or Writer("?", 0, 0, "", "", "", 1)

    def take(self) -> None:
        """Take it, also from a dead process.

        Raises
        ------
        ConflictError
            Another process holds it; the text says which.
        OSError
            It cannot be written.
        """
        self._store.check_writable()
        directory = s3_directory(self._store)
        token = secrets.token_bytes(16)
        draft = os.path.join(directory, f"agent-{secrets.token_hex(8)}")
        with self._alone(directory):
            self._refuse()
            try:
                with open(draft, "xb") as file:
                    file.write(this_writer().encode() + token)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path)  # a dead one's
                os.link(draft, self.path)  # refuses, where locks do not work and another was first
                self._token = token
            except FileExistsError:
                self._refuse()
                raise ConflictError("another agent was first", path=self.path) from None
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.path}.seen")
        heartbeat.add(self.path)

    def _refuse(self) -> None:
        other = self.holder()
        if other is None:
            return
        where = f"process {other.pid} on {other.host}" if other.pid else "a process that its lock does not name"
        job = f", job {other.job}" if other.job else ""
        raise ConflictError(
            f"this store is looked after already, by {where}{job}: end that one first "
            f"(if its host is gone for good, it is taken over after {SILENCE_S / 60:.0f} minutes of silence)",
            path=self.path,
        )

    @contextlib.contextmanager
    def _alone(self, directory: str) -> Iterator[None]:
        path = os.path.join(directory, "agent.lock")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(PermissionError):  # another's
                os.fchmod(fd, self._store.shard_mode & 0o666)
        try:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _CANNOT_LOCK:
                    raise
            yield
        finally:
            os.close(fd)

    def check(self) -> None:
        """See to it that it is still this process's.

        Raises
        ------
        ConflictError
            Another took it over.
        """
        found = b""
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
            file.seek(_WRITER_BYTES)
            found = file.read(len(self._token))
        if not self._token or found != self._token:
            raise ConflictError("another agent took this store over", path=self.path)

    def leave(self) -> None:
        """Give it back, if it is this process's."""
        if not self._token:
            return
        heartbeat.drop(self.path)
        with contextlib.suppress(OSError, ConflictError):
            self.check()
            os.unlink(self.path)
        self._token = b""

    def __enter__(self) -> AgentLock:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
