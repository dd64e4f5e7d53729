"""A bucket in memory, for tests of stubs: counts what is fetched, and changes behind a stub's back."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

from ..errors import StaleError
from ..format.remote import Remote
from ..kernels import crc64

__all__ = ["Bucket"]


class Bucket:
    """Objects by key; put `open_source` in the place of `pinstripe.store.residency.open_source`.

    Attributes
    ----------
    objects : dict
        From key to bytes.
    fetched : list of (str, int, int)
        Each request: key, offset, length.
    before_fetch : callable
        Called with the offset of each request; may raise.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fetched: list[tuple[str, int, int]] = []
        self.before_fetch: Callable[[int], None] = lambda offset: None
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes, *, checksum: bool = True) -> Remote:
        """Put an object; say what it is."""
        self.objects[key] = data
        crc = crc64(data) if checksum else None
        return Remote("bucket", key, len(data), hashlib.md5(data).hexdigest(), crc64=crc, modified_ns=10**18)

    def open_source(self, remote: Remote, store: object) -> _Source:
        """Open the bytes of a remote."""
        return _Source(self, remote)

    @property
    def fetched_bytes(self) -> int:
        """Bytes of all requests so far."""
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
