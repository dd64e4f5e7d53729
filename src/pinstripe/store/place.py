"""Place: where a path leads. Resolved component by component, so that no symlink leads out of the store."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat

from ..errors import NamespaceError, NoStoreError
from .store import RESERVED, Store, is_store

__all__ = ["STAGED", "AnyPath", "Place", "check_symlink", "locate"]

AnyPath = str | os.PathLike[str]
STAGED = f"{RESERVED}-stage-"
"""What hidden names begin with, of files that are being staged in."""
_LINKS_MOST = 40  # as the kernel's own limit


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A name in a store, which may or may not be there. Itself a path: `locate` takes it as it is, which is how our own code reaches
    the names that are refused to users.

    Attributes
    ----------
    store : Store
        The innermost store that the path lies in.
    path : str
        Real absolute path: no symlink in it but perhaps the last component.
    directory, name : str
        ``path``, cut; `name` is empty for the store's own directory.
    """

    store: Store
    path: str
    directory: str
    name: str

    def __fspath__(self) -> str:
        return self.path

    def beside(self, name: str) -> Place:
        """Return the place of another name in the same directory."""
        return Place(self.store, os.path.join(self.directory, name), self.directory, name)


def locate(path: AnyPath, *, follow: bool = True) -> Place:
    """Find the place that a path leads to, as the kernel would walk it.

    Outside the store symlinks are the file system's own. Inside, relative ones that stay inside are followed. The last
    component need not exist. Nothing is read but directory entries.

    Parameters
    ----------
    path : str or path
        Absolute, or relative to the working directory; a `Place` is returned as it is.
    follow : bool
        Whether a symlink as the last component is followed.

    Raises
    ------
    NoStoreError
        The path lies in no store.
    NamespaceError
        A symlink in the store is absolute or leaves it, or a component is a name of pinstripe's own.
    FileNotFoundError, NotADirectoryError, PermissionError, OSError
        As the kernel gives them for what lies between; ELOOP for too many symlinks.
    """
    if isinstance(path, Place):
        return path
    text = os.fsdecode(path)
    if not text:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
    walk = _Walk(text, follow)
    return walk.run()


def check_symlink(directory: Place, content: str) -> None:
    """Refuse a symlink in `directory` that could not be followed: absolute, leaving the store, or to a name of ours.

    Raises
    ------
    NamespaceError
    """
    if content.startswith("/"):
        raise NamespaceError(
            "an absolute symlink would break when the store moves: give it relative to its own directory", path=content
        )
    depth = len(_parts(directory.path)) - len(_parts(directory.store.root))
    for part in _parts(content):
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise NamespaceError("this symlink would leave the store", path=content)
        _check_name(part, content)


class _Walk:
    """One resolution: what is still to be walked, and where the walk is."""

    def __init__(self, text: str, follow: bool) -> None:
        self.text = text
        self.follow = follow
        start = text if text.startswith("/") else f"{os.getcwd()}/{text}"
        # Components yet to come, last first; None ends the content of a symlink of the store.
        self.pending: list[str | None] = [*reversed(_parts(start))]
        self.wants_directory = text.endswith(("/", "/.", "/..")) or text in (".", "..")
        self.current = "/"
        self.root: str | None = "/" if is_store("/") else None
        self.store: Store | None = None
        self.inside = 0  # how many symlinks of the store the walk is in
        self.links = 0

    def run(self) -> Place:
        while self.pending:
            part = self.pending.pop()
            if part is None:
                self.inside -= 1
            elif part == "..":
                self._up()
            elif (missing := self._down(part)) is not None:
                return missing
        if self.root is None:
            raise self._no_store()
        store = self._store()
        if self.current == store.root:
            return Place(store, self.current, self.current, "")
        return Place(store, self.current, os.path.dirname(self.current), os.path.basename(self.current))

    def _up(self) -> None:
        if self.current == self.root:
            if self.inside:
                raise self._leaves()
            self.current = os.path.dirname(self.current)
            self._enter(_root_above(self.current))
        else:
            self.current = os.path.dirname(self.current)

    def _down(self, part: str) -> Place | None:
        """Go into `part`; a place is the end of the walk."""
        path = f"{self.current.rstrip('/')}/{part}"
        last = not any(self.pending)
        if self.root is not None:
            _check_name(part, path)
            if path in self._store().foreign_directories:
                raise NamespaceError("this is a target of the store: what lies in it has no names", path=path)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            if not last or self.root is None:
                if self.root is None:
                    raise self._no_store() from None
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.text) from None
            return Place(self._store(), path, self.current, part)
        if stat.S_ISLNK(mode) and (not last or self.follow or self.wants_directory):
            self._follow(path)
            return None
        if stat.S_ISDIR(mode):
            self.current = path
            if is_store(path):
                if self.inside:
                    raise self._leaves()
                self._enter(path)
            return None
        if self.root is None:
            raise self._no_store()
        if not last or (self.wants_directory and not stat.S_ISLNK(mode)):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self.text)
        return Place(self._store(), path, self.current, part)

    def _follow(self, path: str) -> None:
        self.links += 1
        if self.links > _LINKS_MOST:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.text)
        content = os.readlink(path)
        if self.root is not None:
            if content.startswith("/"):
                raise NamespaceError(
                    f"the symlink to {content} is absolute: only relative ones within the store are followed", path=path
                )
            self.inside += 1
            self.pending.append(None)
        elif content.startswith("/"):
            self.current = "/"
        self.pending.extend(reversed(_parts(content)))

    def _enter(self, root: str | None) -> None:
        self.root = root
        self.store = None

    def _store(self) -> Store:
        if self.store is None:
            assert self.root is not None
            self.store = Store.at(self.root)
        return self.store

    def _leaves(self) -> NamespaceError:
        return NamespaceError("a symlink leaves the store: only those within it are followed", path=self.text)

    def _no_store(self) -> NoStoreError:
        return NoStoreError(
            "this path lies in no store: make one with `pinstripe create DIRECTORY --target DIRECTORY`", path=self.text
        )


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _check_name(part: str, path: str) -> None:
    if part.startswith(RESERVED):
        raise NamespaceError(f"names that begin with {RESERVED} are pinstripe's own", path=path)


def _root_above(directory: str) -> str | None:
    while not is_store(directory):
        if directory == "/":
            return None
        directory = os.path.dirname(directory)
    return directory
