"""A target around another: forwards everything; subclasses change one thing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .contract import Access, Batch, Content, Segment, Space, Target

__all__ = ["WrapperSegment", "WrapperTarget"]


class WrapperSegment(Segment):
    """Forwards to another segment.

    Parameters
    ----------
    inner : Segment
        The segment within.
    direct : bool
        Whether kernels may use the inner descriptor; else every byte passes `write_at` and `read_at` here.
    """

    def __init__(self, inner: Segment, *, direct: bool = False) -> None:
        self.inner, self.direct = inner, direct

    def fileno(self) -> int | None:
        return self.inner.fileno() if self.direct else None

    def append(self, batch: Batch, start: int, first: int, last: int) -> None:
        if self.direct:
            self.inner.append(batch, start, first, last)
        else:
            super().append(batch, start, first, last)

    def write_at(self, data: Any, offset: int) -> None:
        self.inner.write_at(data, offset)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.inner.read_at(offset, length)

    def size(self) -> int:
        return self.inner.size()

    def sync(self) -> None:
        self.inner.sync()

    def close(self) -> None:
        self.inner.close()


class WrapperTarget(Target):
    """Forwards to another target, and is taken for it: same id, path, scope and pool.

    Parameters
    ----------
    inner : Target
        The target within.
    direct : bool
        Whether kernels may use the inner descriptors.
    """

    def __init__(self, inner: Target, *, direct: bool = False) -> None:
        self.inner, self.direct = inner, direct
        self.id, self.path, self.scope, self.pool = inner.id, inner.path, inner.scope, inner.pool

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"

    def wrap_segment(self, segment: Segment, file_id: bytes, name: str) -> Segment:
        """Return what goes round a segment that was just created or opened."""
        return WrapperSegment(segment, direct=self.direct)

    def check(self) -> None:
        self.inner.check()

    def create_segment(self, file_id: bytes, name: str, access: Access) -> Segment:
        return self.wrap_segment(self.inner.create_segment(file_id, name, access), file_id, name)

    def open_segment(self, file_id: bytes, name: str) -> Segment:
        return self.wrap_segment(self.inner.open_segment(file_id, name), file_id, name)

    def list_segments(self, file_id: bytes) -> list[str]:
        return self.inner.list_segments(file_id)

    def list_files(self) -> Iterator[bytes]:
        return self.inner.list_files()

    def remove_segment(self, file_id: bytes, name: str) -> None:
        self.inner.remove_segment(file_id, name)

    def remove_directory(self, file_id: bytes) -> None:
        self.inner.remove_directory(file_id)

    def sync_directory(self, file_id: bytes) -> None:
        self.inner.sync_directory(file_id)

    def write_manifest_copy(
        self, file_id: bytes, tx: bytes, data: Content, access: Access, *, durable: bool = True
    ) -> None:
        self.inner.write_manifest_copy(file_id, tx, data, access, durable=durable)

    def read_manifest_copy(self, file_id: bytes, tx: bytes) -> bytes:
        return self.inner.read_manifest_copy(file_id, tx)

    def space(self) -> Space:
        return self.inner.space()
