"""Looking at the namespace: `os`'s functions that read directories and attributes, by their names."""

from __future__ import annotations

import errno
import os
import stat as stat_module
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from ..errors import NamespaceError
from ..format.inode import Inode
from .generation import Generation
from .inode_file import is_named, read_inode_at
from .place import AnyPath, Place, locate
from .store import RESERVED

__all__ = [
    "DirEntry",
    "exists",
    "isdir",
    "isfile",
    "lexists",
    "listdir",
    "lstat",
    "readlink",
    "scandir",
    "stat",
    "walk",
]

_TRIES = 16


def listdir(path: AnyPath = ".") -> list[str]:
    """List the names in a directory, as `os.listdir`; pinstripe's own names are not among them."""
    place = locate(path)
    return [name for name in os.listdir(place.path) if _is_shown(place, name)]


class DirEntry:
    """What `scandir` yields, as `os.DirEntry`.

    Attributes
    ----------
    name : str
    path : str
        The path that was given to `scandir`, joined with `name`.
    """

    __slots__ = ("_entry", "_place", "name", "path")

    def __init__(self, entry: os.DirEntry[str], path: str, place: Place) -> None:
        self.name = entry.name
        self.path = path
        self._entry = entry
        self._place = place

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"

    def inode(self) -> int:
        """Return the kernel's inode number of the name."""
        return self._entry.inode()

    def is_symlink(self) -> bool:
        """Tell whether the name is a symlink."""
        return self._entry.is_symlink()

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether the name is a directory, or a followed symlink to one; a link that is refused is none."""
        if follow_symlinks and self._entry.is_symlink():
            return isdir(self._entry.path)
        return self._entry.is_dir(follow_symlinks=False)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether the name is a file, or a followed symlink to one; a link that is refused is none."""
        if follow_symlinks and self._entry.is_symlink():
            return isfile(self._entry.path)
        return self._entry.is_file(follow_symlinks=False)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return what `stat` or `lstat` does; not kept, unlike `os.DirEntry.stat`."""
        if follow_symlinks and self._entry.is_symlink():
            return stat(self._entry.path)
        return _stat_at(Place(self._place.store, self._entry.path, self._place.path, self.name))


class ScandirIterator:
    """Iterator and context manager over the entries of a directory."""

    def __init__(self, path: str, place: Place) -> None:
        self._path = path
        self._place = place
        self._entries = os.scandir(place.path)

    def __iter__(self) -> ScandirIterator:
        return self

    def __next__(self) -> DirEntry:
        for entry in self._entries:
            if _is_shown(self._place, entry.name):
                return DirEntry(entry, os.path.join(self._path, entry.name), self._place)
        raise StopIteration

    def __enter__(self) -> ScandirIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory back before its end."""
        self._entries.close()


def scandir(path: AnyPath = ".") -> ScandirIterator:
    """Iterate over the entries of a directory, as `os.scandir`; pinstripe's own names are not among them."""
    return ScandirIterator(os.fsdecode(path), locate(path))


def walk(
    top: AnyPath,
    topdown: bool = True,
    onerror: Callable[[OSError], object] | None = None,
    followlinks: bool = False,
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a tree, as `os.walk`; symlinks to directories are in the second list, which the caller may change."""
    top = os.fsdecode(top)
    directories: list[str] = []
    files: list[str] = []
    links: set[str] = set()
    try:
        with scandir(top) as entries:
            for entry in entries:
                (directories if entry.is_dir() else files).append(entry.name)
                if entry.is_symlink():
                    links.add(entry.name)
    except OSError as error:
        if onerror is not None:
            onerror(error)
        return
    if topdown:
        yield top, directories, files
    for name in directories:
        if followlinks or name not in links:
            yield from walk(os.path.join(top, name), topdown, onerror, followlinks)
    if not topdown:
        yield top, directories, files


def stat(path: AnyPath, *, follow_symlinks: bool = True) -> os.stat_result:
    """Return the attributes of a name, as `os.stat`.

    Of a file, ``st_size`` is its logical size and ``st_blocks`` what is stored, in units of 512 bytes, both of the
    newest generation; ``st_nlink`` is 1 and ``st_blksize`` the stripe. All else is the kernel's.

    Raises
    ------
    FileNotFoundError, PermissionError
        As `os.stat`; also the latter for a file that may not be read, for its size is in it.
    NamespaceError, DamageError
        As `read_inode`.
    """
    return _stat_at(locate(path, follow=follow_symlinks))


def lstat(path: AnyPath) -> os.stat_result:
    """Return the attributes of a name without following a symlink, as `os.lstat`."""
    return stat(path, follow_symlinks=False)


def exists(path: AnyPath) -> bool:
    """Tell whether a path leads to something in a store; a link that is refused does not."""
    return _mode(path, follow=True) is not None


def lexists(path: AnyPath) -> bool:
    """Tell whether there is such a name, be it a symlink that leads nowhere."""
    return _mode(path, follow=False) is not None


def isdir(path: AnyPath) -> bool:
    """Tell whether a path leads to a directory."""
    mode = _mode(path, follow=True)
    return mode is not None and stat_module.S_ISDIR(mode)


def isfile(path: AnyPath) -> bool:
    """Tell whether a path leads to a file; its inode is not looked into."""
    mode = _mode(path, follow=True)
    return mode is not None and stat_module.S_ISREG(mode)


def readlink(path: AnyPath) -> str:
    """Return what a symlink holds, as `os.readlink`."""
    return os.readlink(locate(path, follow=False).path)


def head_of(place: Place) -> tuple[Inode, os.stat_result, Generation]:
    """Read a file's inode and open its newest generation; the caller closes it. A file replaced meanwhile is read anew.

    Raises
    ------
    FileNotFoundError
        There is no such name.
    """
    for _ in range(_TRIES):
        inode, seen = read_inode_at(place)
        try:
            head = Generation.head(place.store, inode, place.path, named=lambda seen=seen: is_named(place, seen))
        except FileNotFoundError:
            continue  # removed or replaced since it was read; the next look tells which
        return inode, seen, head
    raise NamespaceError("this name is replaced faster than it can be looked at", path=place.path, code=errno.EAGAIN)


def _stat_at(place: Place) -> os.stat_result:
    seen = os.lstat(place.path)
    if stat_module.S_ISDIR(seen.st_mode) or stat_module.S_ISLNK(seen.st_mode):
        return seen
    inode, seen, head = head_of(place)
    try:
        return stat_of(seen, head, inode)
    finally:
        head.close()


def stat_of(seen: os.stat_result, head: Generation, inode: Inode) -> os.stat_result:
    """Make the attributes that `stat` returns out of the kernel's and a generation."""
    values: list[Any] = list(seen)
    values[3], values[6] = 1, head.size  # st_nlink, st_size
    named = {name: getattr(seen, name) for name in dir(seen) if name.startswith("st_")}
    named |= {"st_nlink": 1, "st_size": head.size}
    named |= {"st_blocks": -(-head.stored_bytes // 512), "st_blksize": inode.layout.stripe_bytes}
    return os.stat_result(values, named)


def _mode(path: AnyPath, *, follow: bool) -> int | None:
    try:
        return os.lstat(locate(path, follow=follow).path).st_mode
    except (OSError, ValueError):
        return None


def _is_shown(place: Place, name: str) -> bool:
    return not name.startswith(RESERVED) and f"{place.path}/{name}" not in place.store.foreign_directories
