"""Attributes of names: mode, owner, times and extended attributes, `os`'s functions by their names.

They live in the kernel's inode only. What else a file has, ``files/aa/ID`` and ``TARGET/aa/ID``, follows its mode,
owner and ACL, so that a user who may not read the name cannot read the data either.
"""

from __future__ import annotations

import os
import stat as stat_module
from collections.abc import Callable
from contextlib import suppress

from ..errors import TargetError
from ..targets.contract import Access
from ..targets.posix import PosixTarget
from .access import ACL, get_acl, masked_acl, set_access
from .inode_file import read_inode_at
from .place import AnyPath, Place, locate

__all__ = ["chmod", "chown", "copystat", "getxattr", "listxattr", "removexattr", "setxattr", "utime"]


def chmod(path: AnyPath, mode: int, *, follow_symlinks: bool = True) -> None:
    """Change the mode of a name, as `os.chmod`, and of what holds its data: targets first, the name last.

    So data is never wider open than its name says when modes are narrowed. If a target is missing, all else is changed,
    then TargetError is raised; the same call repeated later sees to it.
    """
    place = locate(path, follow=follow_symlinks)
    _change(place, lambda: os.chmod(place.path, mode), mode=mode)


def chown(path: AnyPath, uid: int, gid: int, *, follow_symlinks: bool = True) -> None:
    """Change owner and group of a name, as `os.chown` (-1 leaves one as it is), and of what holds its data."""
    place = locate(path, follow=follow_symlinks)
    _change(place, lambda: os.chown(place.path, uid, gid, follow_symlinks=False), uid=uid, gid=gid)


def utime(
    path: AnyPath,
    times: tuple[float, float] | None = None,
    *,
    ns: tuple[int, int] | None = None,
    follow_symlinks: bool = True,
) -> None:
    """Set access and modification time of a name, as `os.utime`. The next commit sets the latter to its own time."""
    place = locate(path, follow=follow_symlinks)
    if ns is not None:
        os.utime(place.path, times, ns=ns, follow_symlinks=False)
    else:
        os.utime(place.path, times, follow_symlinks=False)


def getxattr(path: AnyPath, attribute: str, *, follow_symlinks: bool = True) -> bytes:
    """Return an extended attribute of a name, as `os.getxattr`."""
    return os.getxattr(locate(path, follow=follow_symlinks).path, attribute, follow_symlinks=False)


def setxattr(path: AnyPath, attribute: str, value: bytes, flags: int = 0, *, follow_symlinks: bool = True) -> None:
    """Set an extended attribute of a name, as `os.setxattr`; an ACL is followed by what holds the data."""
    place = locate(path, follow=follow_symlinks)
    os.setxattr(place.path, attribute, value, flags, follow_symlinks=False)
    if attribute == ACL:
        _change(place, lambda: None)


def listxattr(path: AnyPath = ".", *, follow_symlinks: bool = True) -> list[str]:
    """List the names of the extended attributes of a name, as `os.listxattr`."""
    return os.listxattr(locate(path, follow=follow_symlinks).path, follow_symlinks=False)


def removexattr(path: AnyPath, attribute: str, *, follow_symlinks: bool = True) -> None:
    """Remove an extended attribute of a name, as `os.removexattr`."""
    place = locate(path, follow=follow_symlinks)
    os.removexattr(place.path, attribute, follow_symlinks=False)
    if attribute == ACL:
        _change(place, lambda: None)


def copystat(src: AnyPath, dst: AnyPath, *, follow_symlinks: bool = True) -> None:
    """Copy mode, times and user extended attributes from one name of a store to another, as `shutil.copystat`."""
    source = locate(src, follow=follow_symlinks)
    seen = os.lstat(source.path)
    attributes: list[str] = []
    with suppress(OSError):  # a file system that knows none
        attributes = os.listxattr(source.path, follow_symlinks=False)
    for attribute in attributes:
        if attribute.startswith("user."):
            with suppress(OSError):
                setxattr(dst, attribute, os.getxattr(source.path, attribute, follow_symlinks=False))
    if not stat_module.S_ISLNK(seen.st_mode):
        chmod(dst, stat_module.S_IMODE(seen.st_mode), follow_symlinks=follow_symlinks)
    utime(dst, ns=(seen.st_atime_ns, seen.st_mtime_ns), follow_symlinks=follow_symlinks)


def _change(place: Place, change: Callable[[], None], *, mode: int | None = None, uid: int = -1, gid: int = -1) -> None:
    """Give what holds a file's data its access to be, targets first; then change the name."""
    seen = os.lstat(place.path)
    if not stat_module.S_ISREG(seen.st_mode):
        change()
        return
    file_id = _file_id(place, seen)
    access = Access(
        stat_module.S_IMODE(seen.st_mode) if mode is None else mode,
        seen.st_uid if uid == -1 else uid,
        seen.st_gid if gid == -1 else gid,
    )
    acl = get_acl(place.path)
    if acl is not None and mode is not None:
        acl = masked_acl(acl, mode)
    for target in place.store.targets:
        if isinstance(target, PosixTarget):
            set_access(f"{target.path}/{file_id.hex()[:2]}/{file_id.hex()}", access, acl)
    set_access(place.store.file_directory(file_id), access, acl)
    change()
    if place.store.missing:
        paths = ", ".join(place.store.target_path(entry) for entry in place.store.missing)
        raise TargetError(
            f"the name is changed, but not what a missing target may hold of it ({paths}): repeat this when it is back",
            path=place.path,
            target=paths,
        )


def _file_id(place: Place, seen: os.stat_result) -> bytes:
    try:
        return read_inode_at(place)[0].file_id
    except PermissionError:
        mode = stat_module.S_IMODE(seen.st_mode)
        if seen.st_uid != os.geteuid() or mode & 0o400:
            raise
    # The owner took the right to read from himself, and wants to change that.
    os.chmod(place.path, mode | 0o400)
    try:
        return read_inode_at(place)[0].file_id
    finally:
        os.chmod(place.path, mode)
