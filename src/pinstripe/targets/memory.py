"""A target in this process's memory: for tests, and as scratch that ends with the process."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterator
from typing import Any

from ..format.segment import manifest_copy_name
from .contract import Access, Content, Segment, Space, Target

__all__ = ["MemorySegment", "MemoryTarget"]


class MemorySegment(Segment):
    """A segment that is a bytearray."""

    def __init__(self, content: bytearray, lock: threading.RLock, *, writable: bool) -> None:
        self._content, self._lock, self._writable = content, lock, writable
        self._closed = False

    def fileno(self) -> None:
        return None

    def write_at(self, data: Any, offset: int) -> None:
        self._check_open()
        if not self._writable:
            raise OSError(errno.EBADF, "the segment is open for reading only")
        view = memoryview(data).cast("B")
        if not view:
            return
        with self._lock:
            gap = offset - len(self._content)
            if gap > 0:
                self._content.extend(bytes(gap))
            self._content[offset : offset + len(view)] = view

    def read_at(self, offset: int, length: int) -> bytes:
        self._check_open()
        with self._lock:
            return bytes(self._content[offset : offset + length])

    def size(self) -> int:
        self._check_open()
        return len(self._content)

    def sync(self) -> None:
        self._check_open()

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the segment is closed")


class MemoryTarget(Target):
    """A target that lives and ends with this process. Permissions do not apply: nobody else sees it.

    Parameters
    ----------
    total_bytes : int
        What `space` says; writing is not limited by it.
    """

    def __init__(
        self,
        target_id: bytes | None = None,
        *,
        path: str = "memory",
        scope: str = "node",
        pool: str | None = None,
        total_bytes: int = 1 << 40,
    ) -> None:
        self.id = secrets.token_bytes(16) if target_id is None else target_id
        self.path, self.scope, self.pool, self.total_bytes = path, scope, pool, total_bytes
        self._lock = threading.RLock()
        self._files: dict[bytes, dict[str, bytearray]] = {}

    def __repr__(self) -> str:
        return f"MemoryTarget({self.path!r})"

    def check(self) -> None:
        return None

    def create_segment(self, file_id: bytes, name: str, access: Access) -> Segment:
        with self._lock:
            names = self._files.setdefault(file_id, {})
            if name in names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self._place(file_id, name))
            content = names[name] = bytearray()
        return MemorySegment(content, self._lock, writable=True)

    def open_segment(self, file_id: bytes, name: str) -> Segment:
        with self._lock:
            content = self._files.get(file_id, {}).get(name)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._place(file_id, name))
        return MemorySegment(content, self._lock, writable=False)

    def list_segments(self, file_id: bytes) -> list[str]:
        with self._lock:
            return sorted(self._files.get(file_id, ()))

    def list_files(self) -> Iterator[bytes]:
        with self._lock:
            return iter(sorted(self._files))

    def remove_segment(self, file_id: bytes, name: str) -> None:
        with self._lock:
            self._files.get(file_id, {}).pop(name, None)

    def remove_directory(self, file_id: bytes) -> None:
        with self._lock:
            if not self._files.get(file_id, {}):
                self._files.pop(file_id, None)

    def sync_directory(self, file_id: bytes) -> None:
        return None

    def write_manifest_copy(
        self, file_id: bytes, tx: bytes, data: Content, access: Access, *, durable: bool = True
    ) -> None:
        with self._lock:
            self._files.setdefault(file_id, {})[manifest_copy_name(tx)] = bytearray(bytes(data))

    def read_manifest_copy(self, file_id: bytes, tx: bytes) -> bytes:
        with self.open_segment(file_id, manifest_copy_name(tx)) as copy:
            return copy.read_at(0, copy.size())

    def space(self) -> Space:
        with self._lock:
            used = sum(len(content) for names in self._files.values() for content in names.values())
        return Space(self.total_bytes, max(0, self.total_bytes - used))

    def _place(self, file_id: bytes, name: str) -> str:
        return f"{self.path}/{file_id.hex()}/{name}"
