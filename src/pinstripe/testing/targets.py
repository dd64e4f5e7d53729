"""Targets that fail, tear, hang, forget, fill up or are slow: wrappers around real ones.

``wrap(store, {...})`` puts them into a store whose target list names ordinary directories. Nothing in production reads
anything here: a program under test calls `wrap` itself, on each rank.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal, get_args

from ..targets.contract import Access, Batch, Content, Segment, Space, Target
from ..targets.wrapper import WrapperSegment, WrapperTarget

__all__ = [
    "DroppingTarget",
    "FailingTarget",
    "HangingTarget",
    "LimitedTarget",
    "ObservedTarget",
    "Operation",
    "SlowTarget",
    "TearingTarget",
    "wrap",
]

Operation = Literal[
    "check",
    "create_segment",
    "open_segment",
    "list_segments",
    "list_files",
    "remove_segment",
    "remove_directory",
    "sync_directory",
    "write_manifest_copy",
    "read_manifest_copy",
    "space",
    "write",
    "read",
    "size",
    "sync",
    "close",
]
"""A call that a faulty target can spoil: a method of the target or of a segment (`append` counts as ``write``)."""


class ObservedTarget(WrapperTarget):
    """Calls `called` before each operation, of itself and of its segments; counts them in `calls`."""

    def __init__(self, inner: Target, *, direct: bool = False) -> None:
        super().__init__(inner, direct=direct)
        self.calls: Counter[str] = Counter()
        self._count_lock = threading.Lock()

    def called(self, operation: Operation) -> None:
        """See an operation before it happens; what this raises is what the operation raises."""

    def observe(self, operation: Operation) -> None:
        """Count and announce an operation."""
        with self._count_lock:
            self.calls[operation] += 1
        self.called(operation)

    def wrap_segment(self, segment: Segment, file_id: bytes, name: str) -> Segment:
        return _ObservedSegment(segment, self)

    def check(self) -> None:
        self.observe("check")
        super().check()

    def create_segment(self, file_id: bytes, name: str, access: Access) -> Segment:
        self.observe("create_segment")
        return super().create_segment(file_id, name, access)

    def open_segment(self, file_id: bytes, name: str) -> Segment:
        self.observe("open_segment")
        return super().open_segment(file_id, name)

    def list_segments(self, file_id: bytes) -> list[str]:
        self.observe("list_segments")
        return super().list_segments(file_id)

    def list_files(self) -> Iterator[bytes]:
        self.observe("list_files")
        return super().list_files()

    def remove_segment(self, file_id: bytes, name: str) -> None:
        self.observe("remove_segment")
        super().remove_segment(file_id, name)

    def remove_directory(self, file_id: bytes) -> None:
        self.observe("remove_directory")
        super().remove_directory(file_id)

    def sync_directory(self, file_id: bytes) -> None:
        self.observe("sync_directory")
        super().sync_directory(file_id)

    def write_manifest_copy(
        self, file_id: bytes, tx: bytes, data: Content, access: Access, *, durable: bool = True
    ) -> None:
        self.observe("write_manifest_copy")
        super().write_manifest_copy(file_id, tx, data, access, durable=durable)

    def read_manifest_copy(self, file_id: bytes, tx: bytes) -> bytes:
        self.observe("read_manifest_copy")
        return super().read_manifest_copy(file_id, tx)

    def space(self) -> Space:
        self.observe("space")
        return super().space()


class _ObservedSegment(WrapperSegment):
    def __init__(self, inner: Segment, target: ObservedTarget) -> None:
        super().__init__(inner, direct=target.direct)
        self.target = target

    def append(self, batch: Batch, start: int, first: int, last: int) -> None:
        if self.direct:
            self.target.observe("write")
        super().append(batch, start, first, last)

    def write_at(self, data: Any, offset: int) -> None:
        self.target.observe("write")
        super().write_at(data, offset)

    def read_at(self, offset: int, length: int) -> bytes:
        self.target.observe("read")
        return super().read_at(offset, length)

    def size(self) -> int:
        self.target.observe("size")
        return super().size()

    def sync(self) -> None:
        self.target.observe("sync")
        super().sync()

    def close(self) -> None:
        try:
            self.target.observe("close")
        finally:
            super().close()  # a close that fails has closed


class FailingTarget(ObservedTarget):
    """Raises OSError at the n-th call of an operation.

    Parameters
    ----------
    operation : str
        Which (see `Operation`), or ``any``.
    nth : int
        From 1, counted from now.
    error : int
        The errno.
    persistent : bool
        Whether every later call of it fails too.

    Attributes
    ----------
    failures : int
        How often it has failed.
    """

    def __init__(
        self,
        inner: Target,
        operation: Operation | Literal["any"],
        nth: int = 1,
        *,
        error: int = errno.EIO,
        persistent: bool = False,
        direct: bool = False,
    ) -> None:
        super().__init__(inner, direct=direct)
        if operation not in (*get_args(Operation), "any"):
            raise ValueError(f"{operation!r} is no operation: choose one of {', '.join(get_args(Operation))} or any")
        self.operation, self.error, self.persistent = operation, error, persistent
        self.failures = 0
        self._left = nth

    def called(self, operation: Operation) -> None:
        if self.operation not in (operation, "any"):
            return
        with self._count_lock:
            self._left -= 1
            fails = self._left == 0 or (self.persistent and self._left < 0)
            self.failures += fails
        if fails:
            raise OSError(self.error, f"{os.strerror(self.error)} (made to fail at {operation})", self.path)


class TearingTarget(WrapperTarget):
    """Writes half of the n-th write, then raises; or says nothing.

    Parameters
    ----------
    nth : int
        Which write, from 1.
    lie : bool
        Whether it returns as if all had been written.
    error : int
        The errno, unless it lies.
    """

    def __init__(self, inner: Target, nth: int = 1, *, lie: bool = False, error: int = errno.EIO) -> None:
        super().__init__(inner)
        self.lie, self.error = lie, error
        self._left = nth
        self._count_lock = threading.Lock()

    def wrap_segment(self, segment: Segment, file_id: bytes, name: str) -> Segment:
        return _TearingSegment(segment, self)

    def is_torn(self) -> bool:
        """Count a write; tell whether it is the one."""
        with self._count_lock:
            self._left -= 1
            return self._left == 0


class _TearingSegment(WrapperSegment):
    def __init__(self, inner: Segment, target: TearingTarget) -> None:
        super().__init__(inner)
        self.target = target

    def write_at(self, data: Any, offset: int) -> None:
        if not self.target.is_torn():
            super().write_at(data, offset)
            return
        view = memoryview(data).cast("B")
        super().write_at(view[: len(view) // 2], offset)
        if not self.target.lie:
            raise OSError(self.target.error, f"{os.strerror(self.target.error)} (made to tear)", self.target.path)


class HangingTarget(ObservedTarget):
    """Blocks at an operation until released, as a dead network file system does.

    Attributes
    ----------
    entered, released : threading.Event
        Set by the first call that blocks; to be set by the test.
    """

    def __init__(self, inner: Target, operation: Operation, *, direct: bool = False) -> None:
        super().__init__(inner, direct=direct)
        self.operation = operation
        self.entered, self.released = threading.Event(), threading.Event()

    def called(self, operation: Operation) -> None:
        if operation == self.operation:
            self.entered.set()
            self.released.wait()


class DroppingTarget(WrapperTarget):
    """Loses at `power_cut` what was not synced: writes without `sync`, names without `sync_directory`.

    Removals that were not synced come back. Only for what is written through this object, in this process; it keeps
    what is durable in memory.
    """

    def __init__(self, inner: Target) -> None:
        super().__init__(inner)
        self._lock = threading.RLock()
        self._epoch = 0
        self._contents: dict[tuple[bytes, str], _Content] = {}  # of every name that is there, made here
        self._removed: dict[tuple[bytes, str], _Content] = {}  # durable names whose removal is not

    def create_segment(self, file_id: bytes, name: str, access: Access) -> Segment:
        with self._lock:
            segment = self.inner.create_segment(file_id, name, access)
            content = self._contents[file_id, name] = _Content(access)
            return _DroppingSegment(segment, self, content, self._epoch)

    def open_segment(self, file_id: bytes, name: str) -> Segment:
        segment = self.inner.open_segment(file_id, name)
        return _DroppingSegment(segment, self, self._contents.get((file_id, name)), self._epoch)

    def remove_segment(self, file_id: bytes, name: str) -> None:
        with self._lock:
            self.inner.remove_segment(file_id, name)
            content = self._contents.pop((file_id, name), None)
            if content is not None and content.named:
                self._removed[file_id, name] = content

    def sync_directory(self, file_id: bytes) -> None:
        with self._lock:
            self.inner.sync_directory(file_id)
            for (owner, _), content in self._contents.items():
                content.named |= owner == file_id
            for key in [key for key in self._removed if key[0] == file_id]:
                del self._removed[key]

    def write_manifest_copy(
        self, file_id: bytes, tx: bytes, data: Content, access: Access, *, durable: bool = True
    ) -> None:
        # As the contract allows at worst: a copy that was not synced is as if it had never been written.
        with self._lock:
            before = set(self.inner.list_segments(file_id))
            self.inner.write_manifest_copy(file_id, tx, data, access, durable=durable)
            for name in set(self.inner.list_segments(file_id)) - before:
                content = self._contents[file_id, name] = _Content(access)
                content.pending.append((0, bytes(data)))
                if durable:
                    content.apply()
            if durable:
                self.sync_directory(file_id)

    def power_cut(self, keep: Callable[[], bool] | None = None) -> None:
        """Lose what was not synced. Every segment that is open is dead: its methods raise EIO.

        Parameters
        ----------
        keep : callable, optional
            Asked for each unsynced write, name and removal, in order, whether the kernel had written it by itself;
            by default it had not.
        """
        keep = keep or (lambda: False)
        with self._lock:
            self._epoch += 1
            for key, content in list(self._contents.items()):
                lost = [piece for piece in content.pending if not keep()]
                gone = not content.named and not keep()
                if gone:
                    self.inner.remove_segment(*key)
                    del self._contents[key]
                elif lost:
                    content.pending = [piece for piece in content.pending if piece not in lost]
                    self._rewrite(key, content)
                if not gone:
                    content.apply()
                    content.named = True
            for key, content in self._removed.items():
                if not keep():
                    self._contents[key] = content
                    self._rewrite(key, content)
            self._removed.clear()

    def _rewrite(self, key: tuple[bytes, str], content: _Content) -> None:
        content.apply()
        self.inner.remove_segment(*key)
        with self.inner.create_segment(*key, content.access) as segment:
            segment.write_at(content.durable, 0)

    def check_alive(self, epoch: int) -> None:
        """Raise for a segment that was open at a power cut."""
        if epoch != self._epoch:
            raise OSError(errno.EIO, "the power was cut while this segment was open", self.path)


class _Content:
    """What a segment holds: the durable bytes, and the writes since."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.named = False
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes]] = []

    def apply(self) -> None:
        for offset, data in self.pending:
            self.durable.extend(bytes(max(0, offset - len(self.durable))))
            self.durable[offset : offset + len(data)] = data
        self.pending.clear()


class _DroppingSegment(WrapperSegment):
    def __init__(self, inner: Segment, target: DroppingTarget, content: _Content | None, epoch: int) -> None:
        super().__init__(inner)
        self.target, self.content, self.epoch = target, content, epoch

    def write_at(self, data: Any, offset: int) -> None:
        with self.target._lock:
            self.target.check_alive(self.epoch)
            super().write_at(data, offset)
            if self.content is not None:
                self.content.pending.append((offset, bytes(data)))

    def read_at(self, offset: int, length: int) -> bytes:
        self.target.check_alive(self.epoch)
        return super().read_at(offset, length)

    def sync(self) -> None:
        with self.target._lock:
            self.target.check_alive(self.epoch)
            super().sync()
            if self.content is not None:
                self.content.apply()


class LimitedTarget(WrapperTarget):
    """Holds at most so many bytes, over all processes that wrap the same directory with the same limit.

    What is used is counted from what is there (file sizes), under a lock of the directory, so removing frees, whoever
    removes. A write that does not fit is written as far as it fits and raises ENOSPC, as a disk does.
    """

    def __init__(self, inner: Target, limit_bytes: int, *, error: int = errno.ENOSPC) -> None:
        super().__init__(inner)
        self.limit_bytes, self.error = limit_bytes, error
        self._thread_lock = threading.RLock()

    def wrap_segment(self, segment: Segment, file_id: bytes, name: str) -> Segment:
        return _LimitedSegment(segment, self)

    def write_manifest_copy(
        self, file_id: bytes, tx: bytes, data: Content, access: Access, *, durable: bool = True
    ) -> None:
        with self.counted() as free:
            if len(data) > free:
                raise self.full()
            super().write_manifest_copy(file_id, tx, data, access, durable=durable)

    def space(self) -> Space:
        with self.counted() as free:
            return Space(self.limit_bytes, free)

    def full(self) -> OSError:
        """Return the error of a full target."""
        return OSError(self.error, f"{os.strerror(self.error)} (limited to {self.limit_bytes} bytes)", self.path)

    @contextmanager
    def counted(self) -> Iterator[int]:
        """Give the free bytes, and let nobody else change them meanwhile."""
        with self._thread_lock:
            if not os.path.isdir(self.path):
                yield max(0, self.limit_bytes - self._count_segments())
                return
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield max(0, self.limit_bytes - _tree_bytes(self.path))
            finally:
                os.close(fd)

    def _count_segments(self) -> int:
        total = 0
        for file_id in self.inner.list_files():
            for name in self.inner.list_segments(file_id):
                with suppress(FileNotFoundError), self.inner.open_segment(file_id, name) as segment:
                    total += segment.size()
        return total


class _LimitedSegment(WrapperSegment):
    def __init__(self, inner: Segment, target: LimitedTarget) -> None:
        super().__init__(inner)
        self.target = target

    def write_at(self, data: Any, offset: int) -> None:
        view = memoryview(data).cast("B")
        with self.target.counted() as free:
            fits = max(0, self.inner.size() + free - offset)
            if view and fits:
                super().write_at(view[:fits], offset)
        if fits < len(view):
            raise self.target.full()


def _tree_bytes(path: str) -> int:
    """Sizes of all files in the directories of a directory; what goes meanwhile does not count."""
    total = 0
    for directory, _, names in os.walk(path):
        if directory == path:
            continue
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(f"{directory}/{name}").st_size
    return total


class SlowTarget(WrapperTarget):
    """Reads and writes at most so many bytes a second, all processes together that wrap the same directory.

    The time at which the target is free again stands in a small file in its directory (beside the identity), locked
    while it is changed. An inner target without a directory is slow for this object alone.
    """

    STATE = "pinstripe-test-slow"

    def __init__(self, inner: Target, bytes_per_s: float) -> None:
        super().__init__(inner)
        self.bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._thread_lock = threading.Lock()

    def wrap_segment(self, segment: Segment, file_id: bytes, name: str) -> Segment:
        return _SlowSegment(segment, self)

    def write_manifest_copy(
        self, file_id: bytes, tx: bytes, data: Content, access: Access, *, durable: bool = True
    ) -> None:
        with self.taking(len(data)):
            super().write_manifest_copy(file_id, tx, data, access, durable=durable)

    def read_manifest_copy(self, file_id: bytes, tx: bytes) -> bytes:
        data = super().read_manifest_copy(file_id, tx)
        with self.taking(len(data)):
            return data

    @contextmanager
    def taking(self, count: int) -> Iterator[None]:
        """Do the work within, then wait until a target of this rate had done it."""
        done_at = self._reserve(count / self.bytes_per_s)
        yield
        while (left := done_at - time.monotonic()) > 0:
            time.sleep(left)

    def _reserve(self, seconds: float) -> float:
        with self._thread_lock:
            if not os.path.isdir(self.path):
                self._free_at = max(self._free_at, time.monotonic()) + seconds
                return self._free_at
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(os.path.join(self.path, self.STATE), flags, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                # The boot id: after a reboot the clock begins anew.
                state = struct.Struct("<36sd")
                stored = os.pread(fd, state.size, 0)
                boot, free_at = state.unpack(stored) if len(stored) == state.size else (b"", 0.0)
                now = time.monotonic()
                free_at = max(free_at if boot == _boot_id() else now, now) + seconds
                os.pwrite(fd, state.pack(_boot_id(), free_at), 0)
                return free_at
            finally:
                os.close(fd)


class _SlowSegment(WrapperSegment):
    def __init__(self, inner: Segment, target: SlowTarget) -> None:
        super().__init__(inner)
        self.target = target

    def append(self, batch: Batch, start: int, first: int, last: int) -> None:
        with self.target.taking(batch.placed_bytes(first, last, start)):
            self.inner.append(batch, start, first, last)

    def write_at(self, data: Any, offset: int) -> None:
        with self.target.taking(memoryview(data).nbytes):
            super().write_at(data, offset)

    def read_at(self, offset: int, length: int) -> bytes:
        with self.target.taking(length):
            return super().read_at(offset, length)


def _boot_id() -> bytes:
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read(36)


Rule = Callable[[Target], Target] | Mapping[str, Any]


def wrap(store: Any, rules: Mapping[int | str, Rule]) -> dict[int | str, Target]:
    """Put wrappers around targets of an open store, in this process; they stay through `Store.reload`.

    Parameters
    ----------
    store : Store
        Its `targets` are replaced; `target` finds the wrappers.
    rules : mapping
        From a target's index in `store.targets`, or its path, to what makes the wrapper: a callable, or a mapping with
        ``limit_bytes`` (`LimitedTarget`), ``bytes_per_s`` (`SlowTarget`) or both.

    Returns
    -------
    dict
        The wrapper of each rule.

    Raises
    ------
    KeyError
        A rule names no target.

    Examples
    --------
    >>> wrap(store, {0: lambda inner: FailingTarget(inner, "write", 3), "/data/b": {"limit_bytes": 1 << 20}})
    """
    by_id: dict[bytes, Target] = {}
    made: dict[int | str, Target] = {}
    for key, rule in rules.items():
        inner = _chosen(store.targets, key)
        made[key] = by_id[inner.id] = _apply(rule, by_id.get(inner.id, inner))
    reload = store.reload

    def put() -> None:
        store.targets = type(store.targets)(by_id.get(target.id, target) for target in store.targets)
        store._by_id = {target.id: target for target in store.targets}

    def reload_and_put() -> None:
        reload()
        put()

    store.reload = reload_and_put
    put()
    return made


def _chosen(targets: Any, key: int | str) -> Target:
    if isinstance(key, int):
        chosen: Target = targets[key]
        return chosen
    path = os.path.realpath(key)
    for target in targets:
        if os.path.realpath(target.path) == path:
            found: Target = target
            return found
    raise KeyError(f"{key}: no target of this store; they are {', '.join(target.path for target in targets)}")


def _apply(rule: Rule, inner: Target) -> Target:
    if not isinstance(rule, Mapping):
        return rule(inner)
    unknown = set(rule) - {"limit_bytes", "bytes_per_s"}
    if unknown or not rule:
        raise KeyError(f"{sorted(unknown)}: a rule has limit_bytes, bytes_per_s or both")
    if "limit_bytes" in rule:
        inner = LimitedTarget(inner, int(rule["limit_bytes"]))
    if "bytes_per_s" in rule:
        inner = SlowTarget(inner, float(rule["bytes_per_s"]))
    return inner
