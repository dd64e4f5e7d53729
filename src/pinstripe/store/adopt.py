"""Adopt: make names whole that were copied, or restored without their hard links.

A name of the store is the same inode as ``files/aa/ID/inode``. Copying a tree with other tools breaks that, and then a
collector would take the id for removed. What can be proved, is made whole; what cannot, is copied or refused:

============================================  =================================================================
``files/aa/ID``                               the name becomes
============================================  =================================================================
is not there, the inode is inline             itself: it is whole
is not there, the inode has generations       damage: its data is not in this store
has no ``inode``                              its ``inode``, by a hard link
has one of the same bytes that has no name    that one: it is linked to the name, with the name's own attributes
has one that another name leads to            a new file with the same content
============================================  =================================================================
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat as stat_module
from collections.abc import Callable, Iterator
from contextlib import suppress

from ..errors import DamageError, NamespaceError
from ..format.inode import Inode
from ..options import Options
from .attributes import chmod, chown, utime
from .fresh import fsync_directory, link_descriptor
from .inode_file import is_original, open_inode, read_descriptor
from .listing import walk
from .namespace import replace
from .opening import open_session
from .place import AnyPath, Place, locate
from .store import Store, publish_place

__all__ = ["adopt", "adopt_store"]

_COPY_BYTES = 8 << 20


def adopt(path: AnyPath) -> str:
    """Make one name whole. Atomic: the name is what it was or whole.

    Returns
    -------
    str
        What was done: ``whole`` (nothing), ``linked`` or ``copied``.

    Raises
    ------
    DamageError
        The file's generations are not in this store, or ``files/aa/ID`` holds another file's inode.
    NamespaceError
        Not a file of a store at all.
    """
    place = locate(path)
    fd = open_inode(place)
    try:
        inode, seen = read_descriptor(fd, place)
        directory = place.store.file_directory(inode.file_id)
        held = os.path.join(directory, "inode")
        if not os.path.isdir(directory):
            if inode.kind != "generations":
                return "whole"
            raise DamageError(
                "the file's generations are not in this store: copy it from where they are", path=place.path
            )
        if not os.path.lexists(held):
            link_descriptor(fd, held)
            fsync_directory(directory)
            return "linked"
        if is_original(place, inode, seen):
            return "whole"
        with open(held, "rb") as file:
            if file.read() != inode.encode():
                raise DamageError("the file's directory holds the inode of another file", path=place.path)
            only = os.fstat(file.fileno()).st_nlink == 1
    finally:
        os.close(fd)
    if only:
        _link(place, inode, held, seen)
        return "linked"
    _copy(place, held, seen)
    return "copied"


def adopt_store(store: Store, *, onerror: Callable[[OSError], object] | None = None) -> Iterator[tuple[str, str]]:
    """Declare that a copied or restored store stands here now, and make its names whole.

    The store it was copied from must not be used any more: both would collect from the same targets. The names come first,
    so that no collector takes them for removed ones; if one cannot be made whole, the declaration is withheld.

    Yields
    ------
    path, what : str
        Each name that was not whole, and what `adopt` did to it.

    Raises
    ------
    OSError
        What went wrong with a name, unless `onerror` takes it.
    """
    names = [path for path in _files(store.root) if not is_whole(path)]
    later = []
    failed = False
    for path in names:
        try:
            yield path, adopt(path)
        except OSError as error:
            if store.is_copy and error.errno == errno.EROFS:
                later.append(path)  # it is to be copied, which only a store that may be written can
                continue
            failed = True
            if onerror is None:
                raise
            onerror(error)
    if failed:
        return
    if store.is_copy:
        publish_place(store.meta)
    for path in later:
        yield path, adopt(path)


def _files(top: str) -> Iterator[str]:
    for directory, _, files in walk(top):
        for name in sorted(files):
            yield os.path.join(directory, name)


def _link(place: Place, inode: Inode, held: str, seen: os.stat_result) -> None:
    """Put the inode that the id's directory holds in the name's place, with the name's mode, owner and times."""
    aside = os.path.join(place.directory, f".pinstripe-{secrets.token_hex(16)}")
    os.link(held, aside)
    try:
        os.chmod(aside, stat_module.S_IMODE(seen.st_mode))
        with suppress(PermissionError):
            os.chown(aside, seen.st_uid, seen.st_gid)
        shutil.copystat(place.path, aside, follow_symlinks=False)
        os.rename(aside, place.path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    fsync_directory(place.directory)
    chmod(place.path, stat_module.S_IMODE(seen.st_mode))  # so that what holds the data follows


def _copy(place: Place, held: str, seen: os.stat_result) -> None:
    """Copy the file into a new one. The original may have any name, so it gets one more for the time being."""
    name = f"{place.name[:200]}.adopt-{secrets.token_hex(8)}"
    original, made = (os.path.join(place.directory, f"{name}.{word}") for word in ("from", "to"))
    os.link(held, original)
    try:
        try:
            copy_content(original, made)
            chmod(made, stat_module.S_IMODE(seen.st_mode))
            with suppress(PermissionError):
                chown(made, seen.st_uid, seen.st_gid)
            utime(made, ns=(seen.st_atime_ns, seen.st_mtime_ns))
            replace(made, place.path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(made)
    finally:
        os.unlink(original)


def copy_content(source: AnyPath, destination: AnyPath) -> None:
    """Copy a file of the store into a new one that has its layout."""
    read = open_session(source, "r")
    try:
        layout = {name: getattr(read.layout, name) for name in ("stripe_bytes", "stripe_count", "block_bytes", "codec")}
        layout["pool"] = read.layout.pool or ""
        write = open_session(destination, "x", options=Options.make(), layout=layout)
        try:
            buffer = bytearray(max(_COPY_BYTES, read.layout.stripe_bytes))
            for offset in range(0, read.size, len(buffer)):
                count = read.read_into(offset, buffer)
                write.write(offset, memoryview(buffer)[:count])
            write.publish(final=True)
        except BaseException:
            write.discard()
            raise
        finally:
            write.close()
    finally:
        read.close()


def is_whole(path: AnyPath) -> bool:
    """Tell whether a name needs no adoption."""
    place = locate(path)
    try:
        fd = open_inode(place)
    except OSError:
        return True
    try:
        inode, seen = read_descriptor(fd, place)
    except NamespaceError:
        return True
    finally:
        os.close(fd)
    return is_original(place, inode, seen)
