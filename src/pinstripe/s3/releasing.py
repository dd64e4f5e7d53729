"""Releasing: freeing the bytes here of files that a bucket holds; by hand, by age, or by how full the targets are.

Only what is archived, unchanged and proven; and each object is looked at once more before the bytes here go.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import stat as stat_module
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from ..errors import ArgumentError, Error, RemoteError, UnsupportedError
from ..format.remote import Remote
from ..store import namespace, stub
from ..store.inode_file import read_inode_at
from ..store.place import AnyPath, Place, locate
from ..store.state import FileState, state_of
from ..store.store import Store, is_store
from .client import Client
from .events import Events, Summary
from .links import Link, endpoint_for
from .reports import Line, code_of

__all__ = ["Evicted", "Space", "evict", "last_access_ns", "release", "space_of"]

_THREADS = 8
_FAILURES_MOST = 5  # of an eviction: a bucket that does not answer for some will not for the others


def release(
    paths: Iterable[AnyPath],
    *,
    older_than_s: float = 0.0,
    dry_run: bool = False,
    events: Events | None = None,
    report: Callable[[Line], object] | None = None,
    grace_s: float | None = None,
) -> Summary:
    """Free the bytes here of files, and of those in directories, whose bytes a bucket holds; they are stubs then.

    A file is released only if it is archived, unchanged since, proven, not pinned, and its object is still that version. Others are told and
    stay; that is a failure only of a path that was given itself. What has no bytes here is skipped.

    Parameters
    ----------
    paths : iterable of path
    older_than_s : float
        Leave alone what was accessed more recently; the last access is the latest of the three times of a file, as for FSx.
    dry_run : bool
        Tell what would be released.
    report : callable, optional
        Is given what became of each file, its path absolute. Not of files that were accessed too recently.
    grace_s : float, optional
        How long readers of the bytes here may go on; else as for any generation that is replaced.

    Returns
    -------
    Summary
        `bytes` = stored bytes that are freed, now or after the grace time.

    Raises
    ------
    ArgumentError
        A negative age.
    FileNotFoundError, NoStoreError, OSError
        A given path is not there, or in no store; nothing was done.
    """
    if older_than_s < 0:
        raise ArgumentError(f"older_than_s={older_than_s!r}: must be at least 0")
    events = events or Events()
    found: list[_Found] = []
    for path in paths:
        place = locate(path)
        if stat_module.S_ISDIR(os.lstat(place.path).st_mode):
            found.extend(_files(place.store, place.path))
        else:
            found.append(_Found(place, os.lstat(place.path), is_named=True))
    limit = time.time_ns() - int(older_than_s * 1e9)
    chosen = [one for one in found if not older_than_s or one.last_access_ns <= limit]
    for one in found:
        if older_than_s and one.last_access_ns > limit:
            events.skipped(one.place.path, "accessed more recently")
    events.phase("release", len(chosen))
    releaser = _Releaser(events, dry_run=dry_run, report=report, grace_s=grace_s)
    with ThreadPoolExecutor(_THREADS, "pinstripe-release") as pool:
        try:
            list(pool.map(releaser.release, chosen))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            events.interrupted()
            raise
    return events.finish()


def last_access_ns(seen: os.stat_result) -> int:
    """Return when a file was last accessed, as FSx has it: the latest of its three times; nanoseconds since 1970."""
    return max(seen.st_atime_ns, seen.st_mtime_ns, seen.st_ctime_ns)


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """How full the targets are.

    Attributes
    ----------
    total, used : int
        Bytes, over all file systems that the targets lie on; each counts once. What only root may use is left out of the total, as in df.
    """

    total: int
    used: int

    @property
    def per_cent(self) -> float:
        """How much of it is used."""
        return 100.0 * self.used / self.total if self.total else 0.0


def space_of(store: Store) -> Space:
    """Look how full the targets of a store are; those that do not answer are left out."""
    total = used = 0
    for path in {os.stat(target.path).st_dev: target.path for target in store.targets}.values():
        seen = os.statvfs(path)
        taken = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
        used += taken
        total += taken + seen.f_bavail * seen.f_frsize
    return Space(total, used)


@dataclasses.dataclass(frozen=True, slots=True)
class Evicted:
    """What an eviction released.

    Attributes
    ----------
    files, freed_bytes : int
    file_ids : tuple of bytes
        Whose replaced generations a collector frees after the grace time.
    """

    files: int = 0
    freed_bytes: int = 0
    file_ids: tuple[bytes, ...] = ()


def evict(
    store: Store,
    link: Link | None,
    *,
    high: float,
    low: float,
    pending_bytes: int = 0,
    dry_run: bool = False,
    events: Events | None = None,
    grace_s: float | None = None,
) -> Evicted:
    """If the targets are fuller than `high`, release files, the one that was accessed longest ago first, until they are not above `low`.

    Parameters
    ----------
    link : Link or None
        Only files of this link; None: all of the store.
    high, low : float
        Per cent.
    pending_bytes : int
        What earlier evictions released, and whose grace time is not over: counts as free.

    Returns
    -------
    Evicted
        Fewer than wanted where not enough may be released, which is told.
    """
    if not 0 <= low <= high <= 100:
        raise ArgumentError(f"high={high}, low={low}: choose per cents, the low one not above the high one")
    events = events or Events()
    space = space_of(store)
    used = space.used - pending_bytes
    if not space.total or 100.0 * used / space.total <= high:
        return Evicted()
    wanted = used - int(space.total * low / 100.0)
    events.phase("evict")
    releaser = _Releaser(events, dry_run=dry_run, report=None, grace_s=grace_s)
    before = len(events.failures)
    files = freed = 0
    ids: list[bytes] = []
    top = link.directory if link is not None else store.root
    for one in sorted(_files(store, top), key=lambda one: one.last_access_ns):
        if freed >= wanted or len(events.failures) - before >= _FAILURES_MOST:
            break
        count = releaser.release(one)
        if count:
            files, freed = files + 1, freed + count
            ids.append(one.file_id)
    if freed < wanted:
        events.note(
            f"the targets are {space.per_cent:.0f} % full, above {high:g} %, and too little may be released in {top}: "
            "export more, or unpin files"
        )
    return Evicted(files, freed, tuple(one for one in ids if one))


@dataclasses.dataclass(slots=True)
class _Found:
    """A file that may be released."""

    place: Place
    seen: os.stat_result
    is_named: bool = False
    file_id: bytes = b""

    @property
    def last_access_ns(self) -> int:
        return last_access_ns(self.seen)


def _files(store: Store, top: str) -> Iterator[_Found]:
    """Yield the files of a tree; those of stores that lie in it are left out."""
    for directory, directories, names in namespace.walk(top):
        directories[:] = [name for name in directories if not is_store(os.path.join(directory, name))]
        for name in names:
            path = os.path.join(directory, name)
            try:
                seen = os.lstat(path)
            except FileNotFoundError:
                continue
            if stat_module.S_ISREG(seen.st_mode):
                yield _Found(Place(store, path, directory, name), seen)


class _Releaser:
    """Releases files, one by one. Thread-safe."""

    def __init__(
        self, events: Events, *, dry_run: bool, report: Callable[[Line], object] | None, grace_s: float | None
    ) -> None:
        self._events, self._dry_run, self._report, self._grace_s = events, dry_run, report, grace_s

    def release(self, one: _Found) -> int:
        """Release a file if it may be; tell what became of it; return the bytes that are freed."""
        path = one.place.path
        try:
            return self._release(one)
        except FileNotFoundError as error:
            if one.is_named:
                self._failed(path, error)
        except (Error, OSError) as error:
            if one.is_named or not isinstance(error, (UnsupportedError, BlockingIOError)):
                self._failed(path, error)
            else:
                self._events.skipped(path, error.strerror or str(error))
                self._line(path, "failed", code_of(error))
        return 0

    def _release(self, one: _Found) -> int:
        path = one.place.path
        state = state_of(one.place)
        if state.is_stub and not state.resident_bytes:  # it was done already
            self._events.skipped(path)
            self._line(path, "succeeded")
            return 0
        if state.why_not_released:
            raise UnsupportedError(f"not released: {state.why_not_released}", path=path, code=errno.EBUSY)
        assert state.base is not None
        self._check(one.place.store, state.base.remote)
        if self._dry_run:
            size = self._stored(one.place, state)
            self._events.planned("release", path, size)
            return size
        one.file_id = read_inode_at(one.place)[0].file_id
        freed = stub.release(one.place, grace_s=self._grace_s)
        self._line(path, "succeeded")
        if not freed:
            self._events.skipped(path, "its bytes lie with its name: there is nothing to free")
            return 0
        self._events.advance(files=1, bytes=freed)
        return freed

    @staticmethod
    def _stored(place: Place, state: FileState) -> int:
        return state.resident_bytes if state.is_stub else namespace.stat(place).st_blocks * 512

    @staticmethod
    def _check(store: Store, remote: Remote) -> None:
        """See to it that the object is still there, and still that version."""
        why = ""
        try:
            found = Client.of(endpoint_for(store, remote)).head(remote.bucket, remote.key, version=remote.version)
            if found.etag != remote.etag or found.size != remote.size:
                why = f"{remote.url} is another version now (ETag {found.etag}, it was {remote.etag})"
        except RemoteError as error:
            if error.status != 404:
                raise
            why = f"{remote.url} is gone"
        if why:
            raise UnsupportedError(f"not released: {why}; bring both in step first", path=remote.url, code=errno.EBUSY)

    def _failed(self, path: str, error: BaseException) -> None:
        self._events.failed(path, error)
        self._line(path, "failed", code_of(error))

    def _line(self, path: str, status: str, code: str = "") -> None:
        if self._report is not None:
            self._report(Line(path, status, code))
