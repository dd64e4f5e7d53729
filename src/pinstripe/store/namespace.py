"""Changing the namespace: `os`'s functions that make, move and remove names, by their names.

The namespace is a real directory tree, so each of these is the kernel's own call on the place that `locate` finds, and
one thing more: what a removed or replaced name led to is collected. The order is always the same: the name's change,
the directory's sync, the collecting; so that after a power cut no name leads to collected data.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
from collections.abc import Callable
from contextlib import suppress

from ..errors import DamageError, NamespaceError
from .attributes import (
    chmod,
    chown,
    copystat,
    getxattr,
    listxattr,
    removexattr,
    setxattr,
    utime,
)
from .collect import collect_removed
from .commit import make_durable
from .directory_layout import LAYOUT_NAME, layout_of, own_layout, set_layout
from .fresh import fsync_directory
from .inode_file import open_inode, read_any_inode, read_descriptor, read_inode
from .listing import DirEntry, exists, isdir, isfile, lexists, listdir, lstat, readlink, scandir, stat, walk
from .naming import naming
from .place import STAGED, AnyPath, Place, check_symlink, locate

__all__ = [
    "DirEntry",
    "Place",
    "chmod",
    "chown",
    "copystat",
    "exists",
    "getxattr",
    "isdir",
    "isfile",
    "layout_of",
    "lexists",
    "listdir",
    "listxattr",
    "locate",
    "lstat",
    "makedirs",
    "mkdir",
    "own_layout",
    "read_inode",
    "readlink",
    "remove",
    "removetree",
    "removexattr",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "set_layout",
    "setxattr",
    "stat",
    "symlink",
    "unlink",
    "utime",
    "walk",
]


def mkdir(path: AnyPath, mode: int = 0o777) -> None:
    """Make a directory, as `os.mkdir`; durable when it returns."""
    place = locate(path, follow=False)
    os.mkdir(place.path, mode)
    fsync_directory(place.directory)


def makedirs(name: AnyPath, mode: int = 0o777, exist_ok: bool = False) -> None:
    """Make a directory and those above it that are missing, as `os.makedirs`; durable when it returns."""
    path = os.fsdecode(name).rstrip("/") or "/"
    if exist_ok and isdir(path):  # the store's own directory, too, above which there is no store
        return
    head, tail = os.path.split(path)
    if head and tail and not exists(head):
        with suppress(FileExistsError):  # made by another meanwhile
            makedirs(head, exist_ok=True)
        if tail == ".":
            return
    try:
        mkdir(path, mode)
    except OSError:
        # As os.makedirs does: what mkdir says of an existing directory depends on the file system.
        if not exist_ok or not isdir(path):
            raise


def rename(src: AnyPath, dst: AnyPath) -> None:
    """Rename a file, directory or symlink within its store, as `os.rename`: what `dst` was is replaced, in one step.

    Atomic and durable. A file that replaces another is made durable first, whatever it was written with; the replaced
    file is collected. Whoever holds either open is not disturbed.

    Raises
    ------
    OSError
        As `os.rename`; EXDEV between two stores.
    """
    source, destination = locate(src, follow=False), locate(dst, follow=False)
    if source.store.root != destination.store.root:
        raise OSError(
            errno.EXDEV, "another store: copy with `pinstripe cp` and remove", source.path, None, destination.path
        )
    for place in (source, destination):
        if not place.name:
            raise OSError(errno.EBUSY, "this is the store's own directory", place.path)
    seen = os.lstat(source.path)
    replaced = None
    if stat_module.S_ISDIR(seen.st_mode):
        _check_holds_no_target(source)
        _check_holds_no_link(source, "moved")
    else:
        source.store.check_writable()
        replaced = read_any_inode(destination)
        if stat_module.S_ISREG(seen.st_mode) and os.path.lexists(destination.path):
            _make_file_durable(source)
    os.rename(source.path, destination.path)
    fsync_directory(destination.directory)
    if source.directory != destination.directory:
        fsync_directory(source.directory)
    if replaced is not None:
        collect_removed(destination.store, replaced.file_id)


replace = rename


def remove(path: AnyPath) -> None:
    """Remove a file or symlink, as `os.remove`, and free what the file took, at once.

    Durable when it returns. What a snapshot, or a live transaction of somebody who holds the file open, still needs,
    stays until they end; what may not be freed by this user is left to the owner's `gc`.
    """
    place = locate(path, follow=False)
    place.store.check_writable()
    removed = _unlink(place)
    fsync_directory(place.directory)
    if removed is not None:
        collect_removed(place.store, removed)


unlink = remove


def rmdir(path: AnyPath) -> None:
    """Remove an empty directory, as `os.rmdir`; one that holds only its own layout, or what a stage-in that was killed left, is empty."""
    place = locate(path, follow=False)
    if not place.name:
        raise OSError(errno.EBUSY, "this is the store's own directory: `pinstripe destroy` removes a store", place.path)
    layout = None
    is_directory = stat_module.S_ISDIR(os.lstat(place.path).st_mode)
    if is_directory:
        _check_holds_no_link(place, "removed")
        _remove_staged(place)
    if is_directory and os.listdir(place.path) == [LAYOUT_NAME]:
        layout = own_layout(place.path)
        os.unlink(os.path.join(place.path, LAYOUT_NAME))
    try:
        os.rmdir(place.path)
    except OSError:
        if layout is not None:  # somebody made a file in it meanwhile
            set_layout(place.path, layout)
        raise
    fsync_directory(place.directory)


def symlink(src: AnyPath, dst: AnyPath, target_is_directory: bool = False) -> None:
    """Make a symlink `dst` that holds `src`, as `os.symlink`; durable when it returns.

    Raises
    ------
    NamespaceError
        `src` is absolute or leaves the store.
    """
    place = locate(dst, follow=False)
    content = os.fsdecode(src)
    check_symlink(_parent(place), content)
    os.symlink(content, place.path)
    fsync_directory(place.directory)


def removetree(path: AnyPath, *, onremove: Callable[[str], object] | None = None) -> None:
    """Remove a directory with all that is in it; symlinks are removed, not followed.

    Not atomic: an error leaves what was not removed yet.

    Parameters
    ----------
    onremove : callable, optional
        Called with the path of each file or directory that is gone.
    """
    top = os.fsdecode(path)
    told = onremove or (lambda path: None)
    place = locate(top)
    place.store.check_writable()
    with scandir(top) as entries:
        names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    removed: list[bytes] = []
    try:
        for name, is_directory in names:
            below = os.path.join(top, name)
            if is_directory:
                removetree(below, onremove=onremove)
            else:
                file_id = _unlink(Place(place.store, f"{place.path}/{name}", place.path, name))
                if file_id is not None:
                    removed.append(file_id)
                told(below)
    finally:
        fsync_directory(place.path)  # once for all names of a directory
        for file_id in removed:
            collect_removed(place.store, file_id)
    rmdir(top)
    told(top)


def _unlink(place: Place) -> bytes | None:
    """Remove a name, and return the id that it led to, if it is a file of ours that can be read."""
    mode = os.lstat(place.path).st_mode
    if stat_module.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), place.path)
    inode = read_any_inode(place) if stat_module.S_ISREG(mode) else None
    os.unlink(place.path)
    return None if inode is None else inode.file_id


def _remove_staged(place: Place) -> None:
    """Remove hidden files that were being staged in, where a directory holds nothing else."""
    names = os.listdir(place.path)
    staged = [name for name in names if name.startswith(STAGED)]
    if set(names) - {LAYOUT_NAME, *staged}:
        return
    for name in staged:
        removed = _unlink(Place(place.store, f"{place.path}/{name}", place.path, name))
        if removed is not None:
            collect_removed(place.store, removed)


def _make_file_durable(place: Place) -> None:
    fd = open_inode(place)
    try:
        with naming(place.path):
            os.fsync(fd)
            inode, _ = read_descriptor(fd, place)
    except (NamespaceError, DamageError):
        return  # none of ours, or nothing that could be made durable
    finally:
        os.close(fd)
    make_durable(place.store, inode.file_id)


def _check_holds_no_link(place: Place, verb: str) -> None:
    """Refuse to take a linked directory away: to the link that would look as if all its files had been deleted."""
    for link in place.store.superblock.links:
        directory = os.path.join(place.store.root, link.directory)
        if directory == place.path or directory.startswith(place.path + os.sep):
            raise NamespaceError(
                f"{link.url} is linked to {directory}, which cannot be {verb}: `pinstripe unlink {directory}` first",
                path=place.path,
                code=errno.EBUSY,
            )


def _check_holds_no_target(place: Place) -> None:
    for path in place.store.foreign_directories:
        if path.startswith(place.path + os.sep):
            raise NamespaceError(
                f"the store's target {path} lies in this directory, and is recorded by that path",
                path=place.path,
                code=errno.EBUSY,
            )


def _parent(place: Place) -> Place:
    return Place(place.store, place.directory, os.path.dirname(place.directory), os.path.basename(place.directory))
