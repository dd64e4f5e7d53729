"""A directory as a target. Each step below it is relative to a descriptor and follows no symlink.

No descriptor is kept between calls: a target does not hold its file system mounted. Instead each call first looks
whether the identity file is the one that was checked, and checks it again if not.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import ArgumentError, TargetError
from ..format.segment import manifest_copy_name
from ..format.superblock import FORMAT, SCOPES, TargetEntry
from .contract import Access, Content, Segment, Space, Target

__all__ = ["IDENTITY", "PosixSegment", "PosixTarget", "create_target", "open_target"]

IDENTITY = "pinstripe-target"
"""Name of the file that makes a directory a target."""

COPY_BYTES_MOST = 64 << 20
"""Longer manifests are not copied."""
_IDENTITY_BYTES_MOST = 4096
_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECTORY_FLAGS = _READ_FLAGS | os.O_DIRECTORY
_TRIES = 256
_WRITE_BYTES_MOST = 1 << 30  # Linux cuts a write at 2 GiB
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")

_syncfs: Any = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


class PosixSegment(Segment):
    """A segment behind a descriptor, which this object owns."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        if self._fd < 0:
            raise OSError(errno.EBADF, "the segment is closed")
        return self._fd

    def write_at(self, data: Any, offset: int) -> None:
        view = memoryview(data).cast("B")
        while view:
            written = os.pwrite(self.fileno(), view[:_WRITE_BYTES_MOST], offset)
            if not written:  # no error and no progress: not to be repeated for ever
                raise OSError(errno.EIO, "a write that writes nothing")
            view = view[written:]
            offset += written

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self.fileno(), length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]
        while length := length - len(data):
            offset += len(data)
            data = os.pread(self.fileno(), length, offset)
            if not data:
                break
            pieces.append(data)
        return b"".join(pieces)

    def size(self) -> int:
        return os.fstat(self.fileno()).st_size

    def sync(self) -> None:
        os.fsync(self.fileno())

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):
            self.close()


class PosixTarget(Target):
    """A directory with an identity file, on any file system.

    Parameters
    ----------
    path : str
        Absolute path of the directory.
    target_id, store_id : bytes
        What its identity file must say.
    """

    def __init__(
        self, path: str, target_id: bytes, store_id: bytes, *, scope: str = "shared", pool: str | None = None
    ) -> None:
        self.path, self.id, self.store_id, self.scope, self.pool = path, target_id, store_id, scope, pool
        self._checked: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"PosixTarget({self.path!r})"

    def check(self) -> None:
        self._checked = ()
        try:
            with self._root():
                pass
        except TargetError:
            raise
        except OSError as error:
            raise TargetError(
                f"the target does not answer: {error.strerror}", path=self.path, code=error.errno, target=self.path
            ) from error

    def create_segment(self, file_id: bytes, name: str, access: Access) -> Segment:
        return PosixSegment(self._create(file_id, name, access))

    def open_segment(self, file_id: bytes, name: str) -> Segment:
        _check_name(name)
        with self._file_directory(file_id) as directory:
            fd = os.open(name, _READ_FLAGS | os.O_NONBLOCK, dir_fd=directory)  # not to wait for the writer of a FIFO
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a plain file", f"{self._place(file_id)}/{name}")
        except BaseException:
            os.close(fd)
            raise
        return PosixSegment(fd)

    def list_segments(self, file_id: bytes) -> list[str]:
        with suppress(FileNotFoundError), self._file_directory(file_id, _DIRECTORY_FLAGS) as directory:
            return sorted(os.listdir(directory))
        return []

    def list_files(self) -> Iterator[bytes]:
        with self._root(_DIRECTORY_FLAGS) as root:
            shards = sorted(name for name in os.listdir(root) if re.fullmatch("[0-9a-f]{2}", name))
            for shard in shards:
                with _opened(shard, _DIRECTORY_FLAGS, root) as directory:
                    names = sorted(os.listdir(directory))
                for name in names:
                    if name.startswith(shard) and re.fullmatch("[0-9a-f]{32}", name):
                        yield bytes.fromhex(name)

    def remove_segment(self, file_id: bytes, name: str) -> None:
        _check_name(name)
        with suppress(FileNotFoundError), self._file_directory(file_id) as directory:
            os.unlink(name, dir_fd=directory)

    def remove_directory(self, file_id: bytes) -> None:
        name = file_id.hex()
        with self._root() as root, suppress(FileNotFoundError), _opened(name[:2], _PATH_FLAGS, root) as shard:
            try:
                os.rmdir(name, dir_fd=shard)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def sync_directory(self, file_id: bytes) -> None:
        # All three, always: who made a directory may have been another process, which did not sync.
        name = file_id.hex()
        try:
            with self._root() as root:
                with suppress(FileNotFoundError), _opened(name[:2], _PATH_FLAGS, root) as shard:
                    _sync_below(name, shard)
                    _sync_below(".", shard)
                _sync_below(".", root)
        except PermissionError:  # an `aa` directory that another user owns
            self._sync_file_system()

    def write_manifest_copy(
        self, file_id: bytes, tx: bytes, data: Content, access: Access, *, durable: bool = True
    ) -> None:
        name = manifest_copy_name(tx)
        aside = f"{name}.new"
        self.remove_segment(file_id, aside)
        with PosixSegment(self._create(file_id, aside, access)) as copy:
            offset = 0
            for piece in [data] if isinstance(data, bytes) else data:
                copy.write_at(piece, offset)
                offset += len(piece)
            if durable:
                copy.sync()
        with self._file_directory(file_id) as directory:
            os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)
        if durable:
            self.sync_directory(file_id)

    def read_manifest_copy(self, file_id: bytes, tx: bytes) -> bytes:
        with self.open_segment(file_id, manifest_copy_name(tx)) as copy:
            if copy.size() > COPY_BYTES_MOST:
                raise OSError(errno.EFBIG, "a copy of a manifest that is far too long", self._place(file_id))
            return copy.read_at(0, copy.size())

    def space(self) -> Space:
        with self._root() as root:
            seen = os.statvfs(root)
        return Space(seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize)

    # --- the way down ------------------------------------------------------------------------------------------------

    def _place(self, file_id: bytes) -> str:
        name = file_id.hex()
        return f"{self.path}/{name[:2]}/{name}"

    @contextmanager
    def _root(self, flags: int = _PATH_FLAGS) -> Iterator[int]:
        try:
            root = os.open(self.path, flags & ~os.O_NOFOLLOW)  # how the target itself is reached is its owner's choice
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing() from error
        try:
            with _naming(self.path):
                self._check_identity(root)
                yield root
        finally:
            os.close(root)

    def _check_identity(self, root: int) -> None:
        try:
            seen = os.stat(IDENTITY, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError as error:
            raise self._missing() from error
        stamp = (seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size)
        if stamp == self._checked:
            return
        store_id, target_id = _read_identity(root, self.path)
        if store_id != self.store_id:
            raise self._foreign(f"belongs to the store {store_id.hex()}, not to {self.store_id.hex()}")
        if target_id != self.id:
            raise self._foreign(f"is the target {target_id.hex()}, not {self.id.hex()}")
        self._checked = stamp

    def _missing(self) -> TargetError:
        # Not ENOENT: that a target is missing says nothing of what is on it.
        return TargetError(
            f"the target is missing (it has no {IDENTITY}): mount it, or take it out with `pinstripe target remove`",
            path=self.path,
            code=errno.ENODEV,
            target=self.path,
        )

    def _foreign(self, what: str) -> TargetError:
        return TargetError(
            f"this directory {what}: mount the right one here, or name the right path",
            path=self.path,
            code=errno.ENODEV,
            target=self.path,
        )

    @contextmanager
    def _file_directory(self, file_id: bytes, flags: int = _PATH_FLAGS) -> Iterator[int]:
        name = file_id.hex()
        with (
            self._root() as root,
            _opened(name[:2], _PATH_FLAGS, root) as shard,
            _opened(name, flags, shard) as found,
            _naming(self._place(file_id)),
        ):
            yield found

    # --- making ------------------------------------------------------------------------------------------------------

    def _create(self, file_id: bytes, name: str, access: Access) -> int:
        """Make a plain file 0444 in the file's directory and return its descriptor, open for reading and writing."""
        _check_name(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        for attempt in range(_TRIES):
            try:
                with self._made_directory(file_id, access) as directory:
                    fd = os.open(name, flags, 0o600, dir_fd=directory)
            except OSError as error:
                # The directory went between our look and our step: collected as empty, or made by two at once.
                if error.errno not in (errno.ENOENT, errno.ESTALE) or attempt == _TRIES - 1:
                    raise
                continue
            try:
                os.fchmod(fd, 0o444)
            except BaseException:
                os.close(fd)
                raise
            return fd
        raise AssertionError("unreachable")

    @contextmanager
    def _made_directory(self, file_id: bytes, access: Access) -> Iterator[int]:
        name = file_id.hex()
        with (
            self._root() as root,
            _opened_or_made(name[:2], root, lambda fd: _widen(fd, root)) as shard,
            _opened_or_made(name, shard, lambda fd: _give(fd, access)) as directory,
        ):
            self._check_owner(os.fstat(directory), file_id, access)
            yield directory

    def _check_owner(self, seen: os.stat_result, file_id: bytes, access: Access) -> None:
        """Refuse a directory that somebody made first in order to read along."""
        if access.uid is None or seen.st_uid in (access.uid, 0):
            return
        if access.mode & 0o006 == 0o006:
            return  # everybody may read and write the file
        bits = stat.S_IMODE(seen.st_mode) & 0o777
        shared = access.mode & 0o020 and access.gid == seen.st_gid
        if not (shared and bits == access.directory_mode):
            raise TargetError(
                f"the file's directory on this target belongs to user {seen.st_uid}, with mode {bits:o}, not to the "
                f"file's owner {access.uid}: if user {seen.st_uid} is trusted, chown it, else remove it",
                path=self._place(file_id),
                code=errno.EACCES,
                target=self.path,
            )

    def _sync_file_system(self) -> None:
        """Sync all of the target's file system: what is left where a directory cannot be opened."""
        with self._root() as root, _opened(IDENTITY, _READ_FLAGS, root) as fd:
            if _syncfs is None:
                os.sync()
            elif _syncfs(fd) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), self.path)


def create_target(
    path: str | os.PathLike[str],
    store_id: bytes,
    *,
    scope: str = "shared",
    pool: str | None = None,
    target_id: bytes | None = None,
) -> PosixTarget:
    """Make a directory a target of a store: durable when it returns.

    Parameters
    ----------
    path : path
        The directory; made if its parent exists. It must be empty.
    store_id : bytes
        The store.
    scope, pool
        As in the superblock.
    target_id : bytes, optional
        Its id, where the same target of scope ``node`` is made on another node; else a new random one.

    Raises
    ------
    ArgumentError
        The directory is not empty, or is a target already; or an argument that cannot be meant.
    TargetError
        Its parent is missing, or it cannot be written.
    """
    path = os.path.abspath(path)
    if scope not in SCOPES:
        raise ArgumentError(f"target scope={scope!r}: choose one of {', '.join(SCOPES)}")
    target_id = secrets.token_bytes(16) if target_id is None else target_id
    target = PosixTarget(path, target_id, store_id, scope=scope, pool=pool)
    try:
        made = _make_root(path)
        try:
            with _opened(path, _DIRECTORY_FLAGS & ~os.O_NOFOLLOW, None) as root:
                _refuse_occupied(root, path, store_id)
                _write_identity(root, path, store_id, target_id)
                os.fsync(root)
        except BaseException:
            if made:
                with suppress(OSError):
                    os.rmdir(path)
            raise
    except (ArgumentError, TargetError):
        raise
    except OSError as error:
        raise TargetError(
            f"the target cannot be made: {error.strerror}", path=path, code=error.errno, target=path
        ) from error
    return target


def open_target(entry: TargetEntry, store_root: str, store_id: bytes) -> PosixTarget:
    """Return the target that a superblock's entry names; nothing is looked at before the first call of a method."""
    path = os.path.normpath(os.path.join(store_root, entry.path))
    return PosixTarget(path, entry.id, store_id, scope=entry.scope, pool=entry.pool)


def _make_root(path: str) -> bool:
    parent = os.path.dirname(path)
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    except FileNotFoundError as error:
        raise TargetError(
            f"the parent directory {parent} does not exist: make it, or mount it",
            path=path,
            code=errno.ENOENT,
            target=path,
        ) from error
    with _opened(parent, _DIRECTORY_FLAGS & ~os.O_NOFOLLOW, None) as fd:
        os.fsync(fd)
    return True


def _refuse_occupied(root: int, path: str, store_id: bytes) -> None:
    names = sorted(os.listdir(root))
    if IDENTITY in names:
        found, _ = _read_identity(root, path)
        whose = "this store" if found == store_id else f"the store {found.hex()}"
        raise ArgumentError(
            f"{path} is a target of {whose} already: choose another directory, "
            f"or remove its {IDENTITY} if that store is gone"
        )
    if names:
        raise ArgumentError(f"{path} is not empty (it holds {names[0]}): choose an empty directory, or a new one in it")


def _write_identity(root: int, path: str, store_id: bytes, target_id: bytes) -> None:
    values = {"format": FORMAT, "store": store_id.hex(), "target": target_id.hex()}
    text = json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    aside = f".{IDENTITY}-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with PosixSegment(os.open(aside, flags, 0o600, dir_fd=root)) as file:
        try:
            file.write_at(text, 0)
            os.fchmod(file.fileno(), 0o444)
            file.sync()
            try:
                os.link(aside, IDENTITY, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=False)
            except FileExistsError:
                raise ArgumentError(
                    f"{path} is being made a target by somebody else: choose another directory"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                _write_exclusively(root, text)  # a target needs no hard links otherwise
        finally:
            os.unlink(aside, dir_fd=root)


def _write_exclusively(root: int, text: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with PosixSegment(os.open(IDENTITY, flags, 0o444, dir_fd=root)) as file:
        file.write_at(text, 0)
        file.sync()


def _read_identity(root: int, path: str) -> tuple[bytes, bytes]:
    """Return (store id, target id)."""
    with _opened(IDENTITY, _READ_FLAGS | os.O_NONBLOCK, root) as fd:
        data = os.pread(fd, _IDENTITY_BYTES_MOST, 0)
    try:
        values = json.loads(data)
        version, store_id, target_id = values["format"], *(bytes.fromhex(values[key]) for key in ("store", "target"))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TargetError(
            f"its {IDENTITY} is damaged ({error}): restore the file, or take it out with `pinstripe target remove`",
            path=path,
            target=path,
        ) from None
    if version != FORMAT:
        raise TargetError(
            f"its {IDENTITY} has format {version!r}, this pinstripe reads format {FORMAT}: use a newer one",
            path=path,
            code=errno.ENOTSUP,
            target=path,
        )
    return store_id, target_id


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Within, calls are relative to a descriptor of `place`: their errors say so."""
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str) and error.errno is not None:
            error.filename = place
        elif isinstance(error.filename, str) and not os.path.isabs(error.filename):
            error.filename = os.path.join(place, error.filename)
        raise


@contextmanager
def _opened(name: str, flags: int, directory: int | None) -> Iterator[int]:
    fd = os.open(name, flags, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _opened_or_made(name: str, parent: int, prepare: Callable[[int], None]) -> Iterator[int]:
    """Open a directory, made by `_make_directory` where it is missing."""
    try:
        fd = os.open(name, _PATH_FLAGS, dir_fd=parent)
    except FileNotFoundError:
        _make_directory(name, parent, prepare)
        fd = os.open(name, _PATH_FLAGS, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _sync_below(name: str, parent: int) -> None:
    with suppress(FileNotFoundError), _opened(name, _DIRECTORY_FLAGS, parent) as fd:
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the file system has nothing to sync for a directory
                raise


def _make_directory(name: str, parent: int, prepare: Callable[[int], None]) -> None:
    """Make a directory aside, `prepare` it, rename it into place; so it is never seen half set.

    A rename replaces an empty directory that another process made meanwhile; that process finds its own gone, and
    starts over.
    """
    aside = f".new-{secrets.token_hex(8)}"
    os.mkdir(aside, 0o700, dir_fd=parent)
    try:
        with _opened(aside, _DIRECTORY_FLAGS, parent) as fd:
            prepare(fd)
        os.rename(aside, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError as error:
        with suppress(OSError):
            os.rmdir(aside, dir_fd=parent)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EPERM, errno.EACCES) or not _exists(name, parent):
            raise


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _widen(fd: int, root: int) -> None:
    """Give an ``aa`` directory the target's own width, but without reading: ids are not to be listed."""
    os.fchmod(fd, stat.S_IMODE(os.fstat(root).st_mode) & ~0o044 | 0o700)


def _give(fd: int, access: Access) -> None:
    """Give a file's directory to those who may use the file; where its group cannot be set, to no group."""
    mode = access.directory_mode
    for acl in _ACLS:  # inherited from the target: would let in who may not use the file
        with suppress(OSError):
            os.removexattr(fd, acl)
    seen = os.fstat(fd)
    if access.gid is not None and seen.st_gid != access.gid:
        try:
            os.fchown(fd, -1, access.gid)
        except OSError:
            mode &= ~0o070
    os.fchmod(fd, mode)
    if access.uid is not None and seen.st_uid != access.uid:
        with suppress(PermissionError):
            os.fchown(fd, access.uid, -1)


def _check_name(name: str) -> None:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ArgumentError(f"segment name {name!r}: must be the name of one file")
