"""The file that a name is: reading its inode, and telling a name from a copy of one."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from ..errors import DamageError, Error, NamespaceError
from ..format.inode import PREFIX, Inode
from .naming import naming
from .place import AnyPath, Place, locate

__all__ = ["INODE_BYTES_MOST", "is_named", "open_inode", "read_inode", "read_inode_at", "read_inode_of"]

INODE_BYTES_MOST = 32 << 20
"""More than any inode with its inline data is; a longer file is not read to find out that it is none of ours."""


def read_inode(path: AnyPath) -> tuple[Inode, os.stat_result]:
    """Read the inode that a path leads to, and the kernel's attributes of that very file; for who opens it: this is an access.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        As `os.open` would.
    NamespaceError
        A file that is not the store's, or a copy of one that was made behind its back.
    DamageError
        An inode that does not verify.
    """
    return read_inode_at(locate(path), is_access=True)


def read_inode_at(place: Place, *, is_access: bool = False) -> tuple[Inode, os.stat_result]:
    """Do what `read_inode` does, for a place that is already known; and no access is noted, unless it is one."""
    fd = open_inode(place, is_access=is_access)
    try:
        inode, seen = read_descriptor(fd, place)
    finally:
        os.close(fd)
    check_original(place, inode, seen)
    return inode, seen


def read_inode_of(directory: str) -> Inode:
    """Read the inode that ``files/aa/ID`` holds.

    Raises
    ------
    FileNotFoundError, DamageError
    """
    path = os.path.join(directory, "inode")
    with naming(path), open(path, "rb") as file:
        return Inode.decode(file.read(INODE_BYTES_MOST))


def open_inode(place: Place, *, is_access: bool = False) -> int:
    """Open a name for reading: never a symlink, and never waiting for the other end of a foreign pipe.

    Only an access changes the access time, by which files are released: looking at what they are does not, where that can be helped.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    if not is_access:
        with contextlib.suppress(PermissionError):  # another owner's, or not to be read at all
            return os.open(place.path, flags | os.O_NOATIME)
    return os.open(place.path, flags)


def read_descriptor(fd: int, place: Place) -> tuple[Inode, os.stat_result]:
    """Read the inode behind a descriptor of `open_inode`; errors as those of `read_inode`."""
    seen = os.fstat(fd)
    if stat.S_ISDIR(seen.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), place.path)
    if not stat.S_ISREG(seen.st_mode):
        raise NamespaceError("neither a file of this store nor a directory or symlink", path=place.path)
    start = os.pread(fd, len(PREFIX), 0)
    if start != PREFIX or seen.st_size > INODE_BYTES_MOST:
        raise NamespaceError(
            "not a file of this store: it was put here behind its back; bring it in with `pinstripe cp`",
            path=place.path,
        )
    data = bytearray()
    while part := os.pread(fd, seen.st_size + 1 - len(data), len(data)):
        data += part
    try:
        return Inode.decode(bytes(data)), seen
    except Error as error:
        if isinstance(error, OSError):
            error.filename = place.path
        raise


def check_original(place: Place, inode: Inode, seen: os.stat_result) -> None:
    """Refuse a name that is another file than its id's directory holds.

    Raises
    ------
    NamespaceError
    """
    if not is_original(place, inode, seen):
        raise NamespaceError(
            "this name is a copy of a file of the store, made behind its back; use `pinstripe cp` to copy, "
            "`pinstripe adopt` to make this one whole",
            path=place.path,
        )


def is_original(place: Place, inode: Inode, seen: os.stat_result) -> bool:
    """Tell whether a name is the file that its id's directory holds, or there is no such directory to hold one."""
    try:
        held = os.stat(os.path.join(place.store.file_directory(inode.file_id), "inode"), follow_symlinks=False)
    except FileNotFoundError:
        return True
    return (held.st_dev, held.st_ino) == (seen.st_dev, seen.st_ino)


def is_named(place: Place, seen: os.stat_result) -> bool:
    """Tell whether the place's name, looked up again, is still the file that was seen."""
    try:
        now = os.lstat(place.path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino)


def read_any_inode(place: Place) -> Inode | None:
    """Read the inode of a name about to go away, if it is one of ours and can be read."""
    try:
        fd = open_inode(place)
    except OSError:
        return None
    try:
        return read_descriptor(fd, place)[0]
    except (OSError, DamageError):
        return None
    finally:
        os.close(fd)
