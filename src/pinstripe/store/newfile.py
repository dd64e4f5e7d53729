"""New files: the name comes last.

Order (the names are NAMED's in tests/model): the id's directory, TX.tx, ``inode``, TX.name; after generation 1 is linked, TX.name is *renamed* to the
name, which is one step by name. A collector removes TX.name first, so exactly one of the two gets it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
import stat
from collections.abc import Callable

from ..errors import NamespaceError, OutcomeUnknownError, UnsupportedError
from ..format.inode import Inode
from ..targets.contract import Access
from .access import set_access
from .fresh import fsync_directory, is_there, link_descriptor, rename_noreplace
from .store import Store
from .transaction import Transaction

__all__ = [
    "MovedError",
    "NewFile",
    "access_of",
    "give_directory",
    "is_private",
    "link_opened_inode",
    "make_directory",
    "write_inode",
]

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOTSUP)
_NO_RENAME_FLAGS = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def access_of(seen: os.stat_result) -> Access:
    """Derive the permissions of ``files/aa/ID`` and ``TARGET/aa/ID`` from the file's own."""
    return Access(stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid)


def is_private(mode: int) -> bool:
    """Whether only the owner may write a file of this mode: only such a file may be inline."""
    return not mode & (stat.S_IWGRP | stat.S_IWOTH)


def make_directory(store: Store, file_id: bytes, access: Access) -> str:
    """Make ``files/aa/ID``, aside and renamed, so that it is never seen half set; one that is there already is taken if it may be trusted.

    Raises
    ------
    NamespaceError
        Somebody else made it, to read along.
    """
    directory = store.file_directory(file_id)
    store.make_shard(file_id)
    aside = f"{os.path.dirname(directory)}/.new-{secrets.token_hex(8)}"
    os.mkdir(aside, 0o700)
    try:
        set_access(aside, access, None)
        os.rename(aside, directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.rmdir(aside)
        taken = (errno.EEXIST, errno.ENOTEMPTY, errno.EPERM, errno.EACCES)  # the last two where ``aa`` is sticky
        if error.errno not in taken or not is_there(directory):
            raise
        _trust(directory, access)
    return directory


def _trust(directory: str, access: Access) -> None:
    seen = os.stat(directory)
    owner = seen.st_uid in (0, access.uid if access.uid is not None else os.geteuid())
    shared = (
        bool(access.mode & stat.S_IWGRP)
        and seen.st_gid == access.gid
        and stat.S_IMODE(seen.st_mode) == access.directory_mode
    )
    if not (owner or shared):
        raise NamespaceError(
            f"the file's directory was made by user {seen.st_uid}, who owns neither the file nor the store: not used",
            path=directory,
            code=errno.EPERM,
        )


def _unnamed_inode(directory: str, data: bytes) -> int:
    """Make an inode without a name in `directory`, so that setgid groups and default ACLs hold; return its descriptor."""
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        _write_whole(fd, data)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_whole(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _hidden_inode(directory: str, data: bytes, tx: bytes) -> tuple[int, str]:
    """The same with a reserved hidden name, where the file system has no unnamed files."""
    path = os.path.join(directory, f".pinstripe-{tx.hex()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _write_whole(fd, data)
    except BaseException:
        os.close(fd)
        os.unlink(path)
        raise
    return fd, path


def _make_inode(directory: str, data: bytes, tx: bytes) -> tuple[int, str]:
    try:
        return _unnamed_inode(directory, data), ""
    except OSError as error:
        if error.errno not in _NO_TMPFILE or not os.path.isdir(directory):
            raise
        return _hidden_inode(directory, data, tx)


@dataclasses.dataclass(slots=True)
class NewFile:
    """A file that has an id, an inode and a transaction, and no name yet.

    Attributes
    ----------
    path : str
        The name to be.
    refuse_existing : bool
        Mode x: naming it fails when the name is taken.
    """

    store: Store
    inode: Inode
    path: str
    refuse_existing: bool
    pending: str = ""  # path of TX.name
    access: Access = dataclasses.field(default_factory=lambda: Access(0o600, None, None))

    def make(self, transaction: Transaction) -> None:
        """Make directory, TX.tx, inode and TX.name, in this order."""
        parent = os.path.dirname(self.path)
        fd, hidden = _make_inode(parent, self.inode.encode(), transaction.id)
        try:
            self.access = access_of(os.fstat(fd))
            directory = make_directory(self.store, self.inode.file_id, self.access)
            transaction.register()
            transaction.record_base(0, 0)
            destination = os.path.join(directory, "inode")
            if hidden:
                os.rename(hidden, destination)
                hidden = ""
            else:
                link_descriptor(fd, destination)
            self.pending = transaction.path.removesuffix(".tx") + ".name"
            os.link(destination, self.pending)
        finally:
            if hidden:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(hidden)
            os.close(fd)

    def put_name(self, *, sync: bool) -> None:
        """Rename TX.name to the name.

        Raises
        ------
        FileExistsError
            Mode x, and the name is taken.
        OutcomeUnknownError
            TX.name and TX.tx are gone: collected by somebody who took this writer for dead, or named and replaced; or the name
            is there, and its directory could not be synced.
        """
        try:
            if not self.refuse_existing:
                os.rename(self.pending, self.path)
            else:
                self._rename_or_refuse()
        except FileExistsError:
            raise
        except FileNotFoundError:
            self._look_after_enoent()
        except OSError:
            if not self._is_named_all_the_same():
                raise
        self.pending = ""
        if sync:
            _sync_name(self.path)

    def _rename_or_refuse(self) -> None:
        try:
            rename_noreplace(self.pending, self.path)
        except OSError as error:
            if error.errno not in _NO_RENAME_FLAGS:
                raise
            self._link_name()

    def _look_after_enoent(self) -> None:
        """TX.name was not there: an answer was lost (NFS) and the name is ours, or it is fenced; told by looking (TOLD in tests/model)."""
        directory = os.path.dirname(self.pending)
        with contextlib.suppress(OSError):
            if os.path.samefile(self.path, os.path.join(directory, "inode")):
                return
        if os.path.exists(self.pending.removesuffix(".name") + ".tx"):
            return  # committed, and replaced by somebody since: collectors remove TX.name only after TX.tx
        raise OutcomeUnknownError(
            "the new file's name may have been made and replaced: look before you repeat it", path=self.path
        )

    def _is_named_all_the_same(self) -> bool:
        """The rename failed: it may be done, or still under way. Without TX.name it cannot be done any more; then the name tells (TOLD)."""
        inode = os.path.join(os.path.dirname(self.pending), "inode")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.pending)
            return os.path.samestat(os.lstat(self.path), os.lstat(inode))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise OutcomeUnknownError(
                f"whether the new file got its name cannot be told ({error.strerror}): look before you repeat it",
                path=self.path,
            ) from error

    def _link_name(self) -> None:
        """Without a rename that refuses to replace (NFS): link, then unlink TX.name; only who unlinked it has named the file."""
        try:
            os.link(self.pending, self.path)
        except FileExistsError:
            if not os.path.samefile(self.pending, self.path):
                raise
        try:
            os.unlink(self.pending)
        except FileNotFoundError:
            os.unlink(self.path)
            raise

    def unmake(self) -> None:
        """Give the name-to-be up; the rest is the collector's."""
        if self.pending:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.pending)
            self.pending = ""


def link_opened_inode(store: Store, file_id: bytes, path: str, fd: int) -> None:
    """Give an inline file its directory ``files/aa/ID`` with ``inode`` in it, through the opened inode and never through the name.

    Raises
    ------
    FileNotFoundError
        The file was removed.
    """
    while True:
        directory = make_directory(store, file_id, access_of(os.fstat(fd)))
        try:
            return link_descriptor(fd, os.path.join(directory, "inode"))
        except FileExistsError:
            if os.stat(os.path.join(directory, "inode")).st_ino != os.fstat(fd).st_ino:
                raise NamespaceError(
                    "the name is not the inode that its id belongs to: it was copied behind the store's back; use `pinstripe cp`",
                    path=path,
                ) from None
            return None
        except FileNotFoundError:
            if os.fstat(fd).st_nlink:  # another put its directory, as empty, in the place of ours in this moment
                continue
            with contextlib.suppress(OSError):
                os.rmdir(directory)
            raise


class MovedError(FileNotFoundError):
    """The name led to another file, or to none, before the transaction stood; who opens looks again."""


def give_directory(store: Store, inode: Inode, path: str, seen: os.stat_result) -> None:
    """Give a file whose inode holds all that it is its directory ``files/aa/ID``, if it has none.

    Parameters
    ----------
    seen : os.stat_result
        Of the very inode that was read.

    Raises
    ------
    MovedError
        The name leads to another file by now.
    """
    held = os.path.join(store.file_directory(inode.file_id), "inode")
    if inode.kind == "generations" or os.path.lexists(held):  # a crash may leave the directory empty
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if not os.path.samestat(os.fstat(fd), seen):
            raise MovedError(errno.ENOENT, "the file was replaced while it was opened", path)
        link_opened_inode(store, inode.file_id, path, fd)
    finally:
        os.close(fd)


def write_inode(
    store: Store,
    inode: Inode,
    path: str,
    *,
    refuse_existing: bool,
    sync: bool,
    prepare: Callable[[int], None] | None = None,
) -> bool:
    """Make a file in one step: an inode that holds all that it is, linked to its name.

    Parameters
    ----------
    prepare : callable, optional
        Is given the inode's descriptor before it has a name: sets mode, owner, times.

    Returns
    -------
    bool
        False when others could write an inline file: nothing was made.

    Raises
    ------
    FileExistsError
        Mode x, and the name is taken.
    UnsupportedError
        The file system can neither make unnamed files nor link.
    """
    parent = os.path.dirname(path)
    fd, hidden = _make_inode(parent, inode.encode(), inode.file_id)
    try:
        if prepare is not None:
            prepare(fd)
        if inode.kind == "inline" and not is_private(os.fstat(fd).st_mode):
            return False
        if sync:
            os.fsync(fd)
        if hidden and refuse_existing:
            os.link(hidden, path)
        elif hidden:
            os.rename(hidden, path)
        else:
            try:
                link_descriptor(fd, path)
            except FileExistsError:
                if refuse_existing:
                    raise
                hidden = os.path.join(parent, f".pinstripe-{inode.file_id.hex()}")
                link_descriptor(fd, hidden)
                os.rename(hidden, path)
    except OSError as error:
        if not _is_at(path, fd):
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP):
                raise UnsupportedError("this directory's file system cannot link files", path=parent) from error
            raise
    finally:
        if hidden:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(hidden)
        failed = _close(fd)
    if failed is not None:
        raise OutcomeUnknownError(
            f"the file has its name, but closing it failed ({failed.strerror}): look before you repeat it", path=path
        ) from failed
    if sync:
        _sync_name(path)
    return True


def _close(fd: int) -> OSError | None:
    try:
        os.close(fd)
    except OSError as error:
        return error
    return None


def _is_at(path: str, fd: int) -> bool:
    """Whether a name is the opened inode: then what failed to make it so made it so, and an answer was lost (TOLD)."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _sync_name(path: str) -> None:
    try:
        fsync_directory(os.path.dirname(path))
    except OSError as error:
        raise OutcomeUnknownError(
            f"the file has its name, but the directory could not be synced ({error.strerror}): a power cut may undo it",
            path=path,
        ) from error
