"""A bucket in memory, for tests of stubs: counts what is fetched, and changes behind a stub's back."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

from pinstripe import StaleError
from pinstripe.format.remote import Remote
from pinstripe.kernels import crc64

__all__ = ["Bucket"]


class Bucket:
    """Objects by key. `fetched` lists each request: key, offset, length."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fetched: list[tuple[str, int, int]] = []
        self.before_fetch: Callable[[int], None] = lambda offset: None
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes, *, checksum: bool = True) -> Remote:
        self.objects[key] = data
        crc = crc64(data) if checksum else None
        return Remote("bucket", key, len(data), hashlib.md5(data).hexdigest(), crc64=crc, modified_ns=10**18)

    def open_source(self, remote: Remote, store: object) -> _Source:
        return _Source(self, remote)

    @property
    def fetched_bytes(self) -> int:
        return sum(length for _, _, length in self.fetched)


class _Source:
    def __init__(self, bucket: Bucket, remote: Remote) -> None:
        self.bucket, self.remote, self.size = bucket, remote, remote.size

    def fetch_into(self, offset: int, buffer: memoryview) -> None:
        self.bucket.before_fetch(offset)
        data = self.bucket.objects[self.remote.key]
        if hashlib.md5(data).hexdigest() != self.remote.etag:
            raise StaleError("the object has changed", path=self.remote.url)
        with self.bucket._lock:
            self.bucket.fetched.append((self.remote.key, offset, len(buffer)))
        buffer[:] = data[offset : offset + len(buffer)]
