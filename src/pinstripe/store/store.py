"""Store: one directory of names with its targets, found from any path in it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import (
    DamageError,
    NamespaceError,
    NoStoreError,
    OutcomeUnknownError,
    TargetError,
    UnsupportedError,
)
from ..format.superblock import Superblock, TargetEntry
from ..targets.contract import Target
from ..targets.posix import open_target
from .fresh import fsync_directory
from .naming import naming

__all__ = [
    "META",
    "RESERVED",
    "Store",
    "is_store",
    "make_shard",
    "publish_place",
    "publish_superblock",
    "read_superblock",
    "stands_here",
]

_SUPERBLOCK_BYTES_MOST = 16 << 20
META = ".pinstripe"
RESERVED = ".pinstripe"  # names that begin so are ours: hidden from listings and refused in paths
_REVISE_TRIES = 64
_PLACE = "place"
_LOOK_AGAIN_S = 1.0

_opened: dict[str, Store] = {}
_opened_lock = threading.Lock()


class Store:
    """A store, opened: its superblock read, its targets' identities checked.

    Cheap to make: one listing, one read, one identity read for each target. Opening creates nothing and works on a
    read-only mount; a target that does not answer is listed in `missing` and is an error only to whom needs it.
    Thread-safe: `reload` replaces what was read as one; a caller that needs two attributes to agree takes them from
    one `superblock`.

    Parameters
    ----------
    root : str or path
        The store's own directory, not one below it; see `find`.

    Attributes
    ----------
    root : str
        Real path of the store's directory.
    meta : str
        ``root/.pinstripe``.
    id : bytes
        The store's id, 16 bytes.
    superblock : Superblock
        The highest revision, as of the last `reload`.
    layout : Layout
        What new files get where no directory says otherwise.
    targets : tuple of Target
        Those whose identity answered, in the superblock's order.
    missing : tuple of TargetEntry
        Those that did not; `missing_error` says why.

    Raises
    ------
    NoStoreError
        `root` is not a store's directory.
    UnsupportedError
        The store is of a newer format, or needs a feature that this version does not know.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.realpath(root)
        self.meta = os.path.join(self.root, META)
        self._lock = threading.Lock()
        self.reload()

    @classmethod
    def find(cls, path: str | os.PathLike[str]) -> Store:
        """Open the store that `path` lies in: its own directory or the nearest one above it that is a store's.

        `path` need not exist. Stores are kept for the life of the process; one whose superblock changed on disk is
        read again, one whose directory was replaced is opened anew.

        Raises
        ------
        NoStoreError
            Neither the path nor anything above it is a store.
        """
        start = os.path.realpath(path)
        root = start
        while not is_store(root):
            parent = os.path.dirname(root)
            if parent == root:
                raise NoStoreError(
                    "this path lies in no store: make one with `pinstripe create DIRECTORY --target DIRECTORY`",
                    path=start,
                )
            root = parent
        return cls.at(root)

    @classmethod
    def at(cls, root: str) -> Store:
        """Return the store whose own directory is `root` (a real path), opened once for each process."""
        with _opened_lock:
            store = _opened.get(root)
        if store is not None:
            if store._signature == store._sign():
                if store.missing and time.monotonic() - store._looked > _LOOK_AGAIN_S:
                    store.reload()  # a disk that was mounted meanwhile
                return store
            # Revised by somebody, or another store in its place: an inode number is no proof, it may be used again.
            if read_superblock(store.meta).store_id == store.id:
                store.reload()
                return store
        store = cls(root)
        with _opened_lock:
            _opened[root] = store
        return store

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def reload(self) -> None:
        """Read the superblock again and ask every target again. Other threads see the old state or the new, whole."""
        signature = self._sign()
        superblock = read_superblock(self.meta)
        targets: list[Target] = []
        missing: list[TargetEntry] = []
        errors: dict[bytes, TargetError] = {}
        for entry in superblock.targets:
            try:
                target = open_target(entry, self.root, superblock.store_id)
                target.check()
            except TargetError as error:
                missing.append(entry)
                errors[entry.id] = error
            else:
                targets.append(target)
        below = self.root + os.sep
        paths = (self.target_path(entry) for entry in superblock.targets)
        with self._lock:
            self._signature, self._looked = signature, time.monotonic()
            self.superblock = superblock
            self.id = superblock.store_id
            self.layout = superblock.layout
            self.targets = tuple(targets)
            self.missing = tuple(missing)
            self._missing_errors = errors
            self._by_id = {target.id: target for target in targets}
            # Targets may lie below the store: then they are no part of the namespace.
            self.foreign_directories = frozenset(path for path in paths if path.startswith(below))

    def target(self, target_id: bytes) -> Target:
        """Return the target with this id.

        Raises
        ------
        TargetError
            It is missing (the text names its path, why, and what would help), or the superblock knows no such target.
        """
        with self._lock:
            target = self._by_id.get(target_id)
            error = self._missing_errors.get(target_id)
        if target is not None:
            return target
        if error is not None:
            # A fresh one each time: an exception that several threads raise would gather all their tracebacks.
            raise TargetError(error.strerror or str(error), path=error.filename, code=error.errno, target=error.target)
        raise TargetError(
            f"the store {self.root} has no target {target_id.hex()}: it was removed", target=target_id.hex()
        )

    def missing_error(self, entry: TargetEntry) -> TargetError:
        """Return why this target is missing."""
        with self._lock:
            return self._missing_errors[entry.id]

    def target_path(self, entry: TargetEntry) -> str:
        """Return the absolute path of a target; relative ones count from the store's directory."""
        return os.path.normpath(os.path.join(self.root, entry.path))

    def file_directory(self, file_id: bytes) -> str:
        """Return where a file's generations lie: ``meta/files/aa/ID``. It need not exist."""
        name = file_id.hex()
        return f"{self.meta}/files/{name[:2]}/{name}"

    @property
    def shard_mode(self) -> int:
        """Mode of the ``aa`` directories: as wide as the store, but only the owner lists them, so ids stay secret."""
        return self.superblock.mode & ~0o044

    def make_shard(self, file_id: bytes) -> str:
        """Make the ``aa`` directory that this file's directory goes into, if it is not there; return its path."""
        path = os.path.dirname(self.file_directory(file_id))
        make_shard(path, self.shard_mode)
        return path

    @property
    def is_copy(self) -> bool:
        """Whether this store was copied or restored from elsewhere: the original may still own the targets."""
        return not stands_here(self.meta)

    @property
    def is_read_only(self) -> bool:
        """Whether nothing of this store may be written or collected here; `check_writable` says why."""
        return bool(self.superblock.not_writable_here) or self.is_copy

    def check_writable(self) -> None:
        """Refuse to change a store that is a copy: it would commit to, and collect from, the original's targets.

        Raises
        ------
        NamespaceError
            With EROFS.
        UnsupportedError
            With EROFS: it uses a feature that this version may read, but not write.
        """
        unknown = self.superblock.not_writable_here
        if unknown:
            raise UnsupportedError(
                f"the store uses {', '.join(unknown)}, which this pinstripe can only read: use a newer one to write",
                path=self.root,
                code=errno.EROFS,
            )
        if self.is_copy:
            raise NamespaceError(
                "this store was copied or restored from elsewhere: it is read-only until `pinstripe adopt STORE`",
                path=self.root,
                code=errno.EROFS,
            )

    def revise(self, change: Callable[[Superblock], Superblock]) -> Superblock:
        """Publish the next revision of the superblock: ``change`` of the present one.

        Atomic and durable: made aside, synced, then linked as N + 1. Who finds N + 1 taken reads it and calls
        `change` again, so `change` must be a pure function of its argument.

        Returns
        -------
        Superblock
            The revision that was published.

        Raises
        ------
        OutcomeUnknownError
            Too many others revised at the same time.
        """
        for _ in range(_REVISE_TRIES):
            present = read_superblock(self.meta)
            wanted = change(present)
            if wanted == present:
                return present
            try:
                made = publish_superblock(self.meta, wanted, present.revision + 1)
            except FileExistsError:
                continue
            self.reload()
            return made
        raise OutcomeUnknownError("the superblock is being revised by others all the time: try again", path=self.meta)

    def _sign(self) -> tuple[int, int, int]:
        try:
            seen = os.stat(os.path.join(self.meta, "superblock"))
        except (FileNotFoundError, NotADirectoryError):
            raise NoStoreError(
                "not a store: make one with `pinstripe create DIRECTORY --target DIRECTORY`", path=self.root
            ) from None
        return seen.st_dev, seen.st_ino, seen.st_mtime_ns


def is_store(directory: str) -> bool:
    """Tell whether this directory is a store's own."""
    try:
        return stat.S_ISDIR(os.lstat(f"{directory}/{META}/superblock").st_mode)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False


def read_superblock(meta: str) -> Superblock:
    """Read the highest revision whose checksum holds.

    Raises
    ------
    NoStoreError
        There is none at all.
    UnsupportedError
        The highest is of a newer format or needs an unknown feature: an older revision is then no substitute.
    DamageError
        There are revisions, and none of them holds.
    """
    directory = os.path.join(meta, "superblock")
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        names = []
    revisions = sorted((int(name) for name in names if name.isascii() and name.isdigit()), reverse=True)
    damage: DamageError | None = None
    for revision in revisions:
        path = os.path.join(directory, str(revision))
        with naming(path), open(path, "rb") as file:
            data = file.read(_SUPERBLOCK_BYTES_MOST)
        try:
            return Superblock.decode(data, revision)
        except DamageError as error:
            error.filename = path
            damage = damage or error
    if damage is not None:
        raise damage
    raise NoStoreError("not a store: it has no superblock", path=os.path.dirname(meta))


def publish_superblock(meta: str, superblock: Superblock, revision: int) -> Superblock:
    """Write `superblock` as this revision, durably, by an exclusive link; FileExistsError if another was first."""
    made = dataclasses.replace(superblock, revision=revision)
    directory = os.path.join(meta, "superblock")
    aside = os.path.join(directory, f"new-{secrets.token_hex(8)}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_all(fd, made.encode())
            os.fchmod(fd, 0o444)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.link(aside, os.path.join(directory, str(revision)))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(aside)
    fsync_directory(directory)
    return made


def make_shard(path: str, mode: int) -> None:
    """Make one ``aa`` directory with exactly this mode, whatever the umask; it may be there already."""
    with suppress(FileExistsError):
        os.mkdir(path, mode)
        os.chmod(path, mode)


def publish_place(meta: str) -> None:
    """Write down, durably, that the store stands here: a file that holds its own inode number, which no copy keeps."""
    aside = os.path.join(meta, f"new-{secrets.token_hex(8)}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_all(fd, json.dumps({"inode": os.fstat(fd).st_ino}).encode() + b"\n")
            os.fchmod(fd, 0o444)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(aside, os.path.join(meta, _PLACE))
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    fsync_directory(meta)


def stands_here(meta: str) -> bool:
    """Tell whether the store is where `publish_place` last found it."""
    try:
        path = os.path.join(meta, _PLACE)
        with naming(path), open(path, "rb") as file:
            values = json.loads(file.read(4096))
            return isinstance(values, dict) and values.get("inode") == os.fstat(file.fileno()).st_ino
    except (FileNotFoundError, ValueError):
        return False


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
