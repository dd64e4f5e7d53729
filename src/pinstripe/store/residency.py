"""Residency: which stripes of a stub are here, and fetching those that are not.

Residency is not content: no generation is made. Each fetcher owns one ``TX.resident`` file, an append-only list of records, and the segments
that they name::

    head: magic, identity of the remote, fetcher's id, stripe size, checksum      64 bytes
    then blocks: count, checksum of what follows, `count` of TOLD

A torn tail is ignored; the union of all counts; duplicates are harmless. Nothing here is synced: what a power cut takes is fetched again. A
collector frees what is of another remote than the head's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DamageError, NamespaceError, TargetError
from ..format.inode import Inode
from ..format.layout import Layout
from ..format.manifest import SEGMENT_ENTRY
from ..format.remote import Remote
from ..kernels import crc64
from ..options import Options
from .index import TOLD, segment_keys
from .newfile import MovedError, access_of, give_directory
from .place import locate
from .source import Source, open_source
from .writer import FrameWriter
from .writing import open_writer

if TYPE_CHECKING:
    from .store import Store

__all__ = ["SUFFIX", "Residency", "drop_resident", "is_resident_of", "trusted_tails"]

logger = logging.getLogger("pinstripe")
Array = npt.NDArray[Any]
Stripes = npt.NDArray[np.uint64]

SUFFIX = ".resident"
RANGE_BYTES = 16 << 20
"""Most bytes of one request."""
RANGES_AT_ONCE = 4
AHEAD_BYTES = 64 << 20
"""Most bytes that sequential reading fetches ahead."""

_MAGIC = b"PSRESID1"
_HEAD = struct.Struct("<8sQ16sI20xQ")
_BLOCK = struct.Struct("<QQ")
_LOCK = "fetching"


class Residency:
    """Which stripes of one stub are here. Thread-safe: loads of one object follow each other, each with several requests at once.

    Parameters
    ----------
    seen : os.stat_result
        Of the inode: who owns the file, and may write it.
    ranks, rank : int
        Of the job that reads together; its ranks spread over the targets.
    opener : callable, optional
        Opens the source instead of `open_source`: where it is reached in another way.

    Attributes
    ----------
    keeps : bool
        Whether what is fetched stays. Not where this process may not write what holds the file's data.
    fetched_bytes, resident_bytes : int
        What this object fetched; what is here of the file, by anybody.
    """

    def __init__(
        self,
        store: Store,
        inode: Inode,
        path: str,
        remote: Remote,
        layout: Layout,
        seen: os.stat_result,
        *,
        options: Options | None = None,
        rank: int = 0,
        ranks: int = 1,
        threads: int = 1,
        opener: Callable[[Remote, Store], Source] | None = None,
    ) -> None:
        self.store, self.inode, self.path, self.remote, self.layout = store, inode, path, remote, layout
        self.options = options or Options.make()
        self.directory = store.file_directory(inode.file_id)
        self.fetched_bytes = 0
        self._seen, self._rank, self._ranks, self._threads = seen, rank, ranks, threads
        self._here = np.zeros(layout.stripes(remote.size), np.bool_)
        self._news: list[Array] = []  # TOLD that nobody took yet
        self._tails = _Tails(self.directory, remote.identity, layout.stripe_bytes, seen.st_uid)
        self._lock = threading.RLock()
        self._source: Source | None = None
        self._opener = opener
        self._writer: FrameWriter | None = None
        self._fd = -1
        self._next, self._ahead = -1, 0
        may_write = os.geteuid() in (0, seen.st_uid) or os.access(
            self.directory, os.W_OK
        )  # which need not be there yet
        self.keeps = not store.is_read_only and may_write
        self.refresh()

    @classmethod
    def of(cls, path: str | os.PathLike[str], **more: Any) -> Residency:
        """Open the residency of the stub that a path leads to.

        Raises
        ------
        NamespaceError
            The file is no stub.
        """
        from .generation import Generation
        from .inode_file import read_inode_at

        place = locate(path)
        inode, seen = read_inode_at(place)
        with contextlib.closing(Generation.head(place.store, inode, place.path)) as head:
            if head.remote is None:
                raise NamespaceError("the file is no stub: all of it is here", path=place.path)
            return cls(place.store, inode, place.path, head.remote, head.layout, seen, **more)

    def __enter__(self) -> Residency:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what is here --------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.remote.size

    @property
    def stripes(self) -> int:
        """Stripes of the file."""
        return len(self._here)

    @property
    def resident_bytes(self) -> int:
        """Bytes of the file that are here."""
        bytes_here = int(np.count_nonzero(self._here)) * self.layout.stripe_bytes
        return bytes_here - self._lacks() if self._here.size and self._here[-1] else bytes_here

    def _lacks(self) -> int:
        """What the last stripe is shorter than a whole one."""
        return self.stripes * self.layout.stripe_bytes - self.size

    @property
    def complete(self) -> bool:
        """Whether all of it is here."""
        return bool(self._here.all())

    def missing(self, first: int = 0, last: int | None = None) -> Stripes:
        """Return which of the stripes [first, last) are not here, rising."""
        with self._lock:
            stop = self.stripes if last is None else min(last, self.stripes)
            return (np.flatnonzero(~self._here[first:stop]) + first).astype(np.uint64)

    def refresh(self) -> None:
        """Look at what other fetchers kept since."""
        with self._lock:
            for told in self._tails.read():
                self._learn(told)

    def _learn(self, told: Array) -> None:
        stripes = told["change"]["stripe"]
        told = told[stripes < np.uint64(self.stripes)]
        self._here[told["change"]["stripe"].astype(np.int64)] = True
        self._news.append(told)

    def take_news(self) -> Array:
        """Return the records that became known since this was called last (TOLD)."""
        with self._lock:
            news, self._news = self._news, []
        return np.concatenate(news) if news else np.zeros(0, TOLD)

    def forget(self) -> None:
        """Take nothing for here any more: a frame did not verify. Rare, and what was good is fetched again, too."""
        with self._lock:
            drop_resident(self.directory, self.remote)
            self._here[:] = False
            self._news = []
            self._end_list()

    # --- fetching ------------------------------------------------------------------------------------------------------

    def load(self, stripes: Stripes) -> bool:
        """Have these stripes here; fetch those that are not.

        Returns
        -------
        bool
            False: nothing can be kept here; use `fetch_into`.

        Raises
        ------
        StaleError
            The object has changed.
        RemoteError
        """
        with self._lock:
            wanted = self._lacking(stripes)
            if len(wanted):  # what others brought meanwhile is not waited for
                self.refresh()
                wanted = self._lacking(stripes)
            if len(wanted) and self.keeps:
                with self._locked(wanted):
                    self.refresh()
                    self._fetch(self._lacking(stripes))
            return self.keeps or not len(wanted)

    def keep(self, first: int, data: npt.NDArray[np.uint8]) -> bool:
        """Keep bytes of the object that came some other way, whole stripes from stripe `first` on; as `load`."""
        stripes = np.arange(first, first + self.layout.stripes(len(data)), dtype=np.uint64)
        with self._lock:
            if len(stripes) and self.keeps:
                with self._locked(stripes):
                    self._keep((first, first + len(stripes)), data)
            return self.keeps

    def load_for_read(self, first: int, last: int) -> bool:
        """Have stripes [first, last] here, and more of them where reading is sequential; see `load`."""
        with self._lock:
            begin = first
            if first in (self._next - 1, self._next) and self._next > 0:
                if last >= self._next:
                    self._ahead = min(max(2 * self._ahead, 4 * self.layout.stripe_bytes), AHEAD_BYTES)
            else:
                self._ahead = 0
            self._next = last + 1
            if not self.missing(first, last + 1).size:  # fetched ahead, or here before
                return True
            last = min(self.stripes - 1, last + self._ahead // self.layout.stripe_bytes)
            return self.load(np.arange(begin, last + 1, dtype=np.uint64))

    def fetch_into(self, offset: int, buffer: memoryview) -> None:
        """Fetch bytes past the store, keeping nothing."""
        with self._lock:
            source = self._open_source()
        source.fetch_into(offset, buffer)
        self.fetched_bytes += len(buffer)

    def _lacking(self, stripes: Stripes) -> Stripes:
        return stripes[~self._here[stripes.astype(np.int64)]]

    def _open_source(self) -> Source:
        if self._source is None:
            self._source = (self._opener or open_source)(self.remote, self.store)
        return self._source

    @contextlib.contextmanager
    def _locked(self, stripes: Stripes) -> Iterator[None]:
        """Hold stripes against other fetchers of this host, as far as the file system can; in rising order, so that nobody waits in a circle."""
        fd = -1
        try:
            try:
                self._give_directory()
                fd = os.open(os.path.join(self.directory, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                for first, count in _runs(stripes):
                    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
                    fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, request)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and fd < 0:
                    self.keeps = False
                logger.info("%s: stripes are fetched without a lock: %s", self.path, error)
            yield
        finally:
            if fd >= 0:
                with contextlib.suppress(OSError):  # said, not left to close: a forked child holds the description, too
                    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
                os.close(fd)

    def _give_directory(self) -> None:
        for _ in range(100):
            try:
                return give_directory(self.store, self.inode, self.path, self._seen)
            except MovedError:
                continue
        return None

    def _fetch(self, stripes: Stripes) -> None:
        if not len(stripes) or not self.keeps:
            return
        source, sb = self._open_source(), self.layout.stripe_bytes
        ranges = [
            (begin, min(begin + RANGE_BYTES // sb, first + count))
            for first, count in _runs(stripes)
            for begin in range(first, first + count, max(1, RANGE_BYTES // sb))
        ]

        def fetch(part: tuple[int, int]) -> tuple[tuple[int, int], npt.NDArray[np.uint8]]:
            begin, end = part[0] * sb, min(part[1] * sb, self.size)
            buffer = np.empty(end - begin, np.uint8)
            source.fetch_into(begin, buffer.data)
            return part, buffer

        if len(ranges) == 1:
            self._keep(*fetch(ranges[0]))
            return
        with ThreadPoolExecutor(min(RANGES_AT_ONCE, len(ranges)), thread_name_prefix="pinstripe-fetch") as pool:
            # No more than twice as many as are under way: what waits to be encoded is memory.
            waiting = [pool.submit(fetch, part) for part in ranges[: 2 * RANGES_AT_ONCE]]
            try:
                for following in range(len(waiting), len(ranges) + len(waiting)):
                    self._keep(*waiting.pop(0).result())
                    if following < len(ranges):
                        waiting.append(pool.submit(fetch, ranges[following]))
            finally:
                for each in waiting:
                    each.cancel()

    def _keep(self, part: tuple[int, int], buffer: npt.NDArray[np.uint8]) -> None:
        """Encode what was fetched, write it, and only then say that it is here."""
        self.fetched_bytes += len(buffer)
        if not self.keeps:
            return
        stripes = np.arange(*part, dtype=np.uint64)
        offsets = (np.arange(len(stripes)) * self.layout.stripe_bytes).astype(np.int64)
        raw = np.minimum(len(buffer) - offsets, self.layout.stripe_bytes)
        try:
            writer = self._open_writer()
            records = writer.write(stripes, buffer, offsets, raw)
            told = np.zeros(len(stripes), TOLD)
            told["change"]["stripe"], told["change"]["record"] = stripes, records
            told["segment"] = writer.segments[records["segment"].astype(np.int64) - 1]
            block = told.tobytes()
            _write_whole(self._fd, _BLOCK.pack(len(told), crc64(block)) + block)
        except (TargetError, OSError) as error:  # a full target must not fail a read
            logger.warning("%s: what is fetched is not kept: %s", self.path, error)
            self.keeps = False
            return
        self._learn(told)

    def _open_writer(self) -> FrameWriter:
        if self._writer is None:
            tx = secrets.token_bytes(16)
            path = os.path.join(self.directory, tx.hex() + SUFFIX)
            head = _HEAD.pack(_MAGIC, self.remote.identity, tx, self.layout.stripe_bytes, 0)[:-8]
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                os.fchmod(fd, 0o644)
                _write_whole(fd, head + crc64(head).to_bytes(8, "little"))
            except BaseException:
                os.close(fd)
                raise
            self._fd = fd
            self._tails.skip(path)
            self._writer = open_writer(
                self.store,
                self.inode.file_id,
                tx,
                self._rank,
                self.layout,
                access_of(self._seen),
                self.options,
                rank=self._rank,
                ranks=self._ranks,
                threads=self._threads,
            )
        return self._writer

    # --- ending --------------------------------------------------------------------------------------------------------

    def sync(self) -> Array:
        """Make what this object kept durable; return its segments' entries (SEGMENT_ENTRY), which say so.

        Raises
        ------
        OSError
            A target could not sync: what lies there is fetched again.
        """
        with self._lock:
            if self._writer is None:
                return np.zeros(0, SEGMENT_ENTRY)
            self._writer.sync(_refetch)
            return self._writer.segments.copy()

    def close(self) -> None:
        """Give descriptors back; what was kept stays."""
        with self._lock:
            self._end_list()
            self.keeps = False

    def _end_list(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):  # what is lost is fetched again
                self._writer.close()
            self._writer = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _refetch(slot: int) -> None:
    raise DamageError("what was fetched could not be synced: it is fetched again", code=errno.EIO)


def _runs(stripes: Stripes) -> Iterator[tuple[int, int]]:
    """Runs of consecutive stripes: first, count."""
    numbers = stripes.astype(np.int64)
    edges = np.flatnonzero(np.diff(numbers) != 1) + 1
    for run in np.split(numbers, edges):
        if len(run):
            yield int(run[0]), len(run)


def _write_whole(fd: int, data: bytes) -> None:
    """One write, so that other fetchers' readers see all of it or a torn tail."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class _Tails:
    """The ``TX.resident`` files of one id, each read as far as it is whole."""

    def __init__(self, directory: str, identity: int, stripe_bytes: int, owner: int) -> None:
        self._directory, self._identity, self._stripe_bytes = directory, identity, stripe_bytes
        self._trusted = {owner, 0, os.geteuid()}
        self._read: dict[str, int] = {}  # path -> bytes taken; -1 = not ours to read

    def skip(self, path: str) -> None:
        """Do not read this one: it is our own."""
        self._read[path] = -1

    def read(self) -> Iterator[Array]:
        """Give what was appended since (TOLD)."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return
        for name in sorted(names):
            path = os.path.join(self._directory, name)
            if name.endswith(SUFFIX) and self._read.get(path, 0) >= 0:
                with contextlib.suppress(OSError):
                    yield from self._read_one(path)

    def _read_one(self, path: str) -> Iterator[Array]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            seen = os.fstat(fd)
            done = self._read.get(path, 0)
            if not stat.S_ISREG(seen.st_mode) or seen.st_uid not in self._trusted:
                self._read[path] = -1
                return
            if not done:
                found = _decode_head(os.pread(fd, _HEAD.size, 0))
                if found is None:
                    return  # being made
                if found[:1] + found[2:] != (self._identity, self._stripe_bytes):
                    self._read[path] = -1
                    return
                done = _HEAD.size
            while (block := _read_block(fd, done)) is not None:
                done += _BLOCK.size + block.nbytes
                self._read[path] = done
                yield block
        finally:
            os.close(fd)


def _decode_head(data: bytes) -> tuple[int, bytes, int] | None:
    """Identity of the remote, fetcher's id, stripe size; None = no whole head."""
    if len(data) < _HEAD.size or crc64(data[:-8]) != int.from_bytes(data[-8:], "little"):
        return None
    magic, identity, tx, stripe_bytes, _ = _HEAD.unpack(data)
    return (identity, tx, stripe_bytes) if magic == _MAGIC else None


def _read_block(fd: int, offset: int) -> Array | None:
    head = os.pread(fd, _BLOCK.size, offset)
    if len(head) < _BLOCK.size:
        return None
    count, checksum = _BLOCK.unpack(head)
    if count > 1 << 20:
        return None
    data = os.pread(fd, count * TOLD.itemsize, offset + _BLOCK.size)
    if len(data) < count * TOLD.itemsize or crc64(data) != checksum:
        return None
    return np.frombuffer(data, TOLD)


def is_resident_of(path: str) -> tuple[int, bytes] | None:
    """Read whose resident stripes a ``TX.resident`` file lists: identity of the remote, fetcher's id; None where it does not say."""
    try:
        with open(path, "rb") as file:
            found = _decode_head(file.read(_HEAD.size))
    except OSError:
        return None
    return found[:2] if found is not None else None


def trusted_tails(directory: str, remote: Remote, stripe_bytes: int, owner: int) -> tuple[Array, Array]:
    """Everything that is resident of a stub: changes sorted by stripe without repeats, and the segments that they name, counted from 1.

    Returns
    -------
    changes : numpy array of CHANGE
    segments : numpy array of SEGMENT_ENTRY
    """
    blocks = list(_Tails(directory, remote.identity, stripe_bytes, owner).read())
    told = np.concatenate(blocks) if blocks else np.zeros(0, TOLD)
    _, last = np.unique(told["change"]["stripe"][::-1], return_index=True)
    told = told[::-1][last]
    # Of a segment that several blocks name, the longest entry holds all of their frames.
    order = np.argsort(told["segment"]["length"], kind="stable")[::-1]
    keys, first, which = np.unique(segment_keys(told["segment"][order]), return_index=True, return_inverse=True)
    changes = told["change"].copy()
    numbers = np.zeros(len(told), np.uint32)
    numbers[order] = which + 1
    changes["record"]["segment"] = numbers
    changes["sequence"] = 0
    return changes, told["segment"][order][first][: len(keys)].copy()


def drop_resident(directory: str, remote: Remote) -> None:
    """Forget what is resident of a remote; a collector frees the segments."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if name.endswith(SUFFIX) and (is_resident_of(path) or (None,))[0] == remote.identity:
                with contextlib.suppress(OSError):  # another user's: the collector of the file's owner takes it
                    os.unlink(path)
