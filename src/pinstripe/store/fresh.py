"""System calls that Python 3.11 has no name for: a forced look at a directory, a rename that refuses to replace."""

from __future__ import annotations

import ctypes
import errno
import os

from .filesystem import sync_filesystem
from .naming import naming

__all__ = ["force_fresh", "fsync_directory", "is_there", "link_descriptor", "rename_noreplace"]

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_AT_STATX_FORCE_SYNC = 0x2000
_STATX_MTIME = 0x40
_RENAME_NOREPLACE = 1
_statx = getattr(_libc, "statx", None)
_renameat2 = getattr(_libc, "renameat2", None)
_statx_answer = 256  # struct statx


def force_fresh(path: str) -> None:
    """Make a network file system look at the server before the next listing of `path`; nothing where that is unknown."""
    if _statx is not None:
        _statx(
            _AT_FDCWD, os.fsencode(path), _AT_STATX_FORCE_SYNC, _STATX_MTIME, ctypes.create_string_buffer(_statx_answer)
        )


def is_there(path: str) -> bool:
    """Tell whether there is such a name. What cannot be seen raises: it must not be taken for gone, as `os.path.exists` does."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def rename_noreplace(source: str, destination: str) -> None:
    """Rename, in one step, and refuse to replace.

    Raises
    ------
    FileExistsError
        There is something at `destination`.
    OSError
        With EINVAL, ENOSYS or ENOTSUP where the file system cannot (NFS).
    """
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), destination)
    if _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), _RENAME_NOREPLACE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), destination)


def link_descriptor(fd: int, destination: str) -> None:
    """Give an open file a name, whatever happened to its old ones (linkat on /proc/self/fd, AT_SYMLINK_FOLLOW).

    Raises
    ------
    FileNotFoundError
        The file has no name any more.
    """
    directory = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(str(fd), destination, src_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(directory)


def fsync_directory(path: str) -> None:
    """Make the entries of a directory durable; of one that may only be searched (another user's ``aa``), by a sync of its file system."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        sync_filesystem(os.path.dirname(path))
        return
    try:
        with naming(path):
            os.fsync(fd)
    finally:
        os.close(fd)
