"""Trees: a store and the rest of the file system behind one set of words, so that a copy knows only source and destination."""

from __future__ import annotations

import os
from typing import Protocol

from ..errors import NoStoreError
from ..store import namespace
from ..store.place import locate
from ..store.store import Store

__all__ = ["HOST", "STORE", "Tree", "tree_of"]


class Tree(Protocol):
    """What a copy needs of either side; each method is `os`'s of that name.

    Attributes
    ----------
    is_store : bool
        Whether files are a store's.
    """

    is_store: bool

    def real(self, path: str) -> str: ...
    def lstat(self, path: str) -> os.stat_result: ...
    def stat(self, path: str) -> os.stat_result: ...
    def isdir(self, path: str) -> bool: ...
    def lexists(self, path: str) -> bool: ...
    def listdir(self, path: str) -> list[str]: ...
    def readlink(self, path: str) -> str: ...
    def mkdir(self, path: str) -> None: ...
    def symlink(self, content: str, path: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def chmod(self, path: str, mode: int) -> None: ...
    def chown(self, path: str, uid: int, gid: int) -> None: ...
    def utime(self, path: str, ns: tuple[int, int]) -> None: ...
    def xattrs(self, path: str) -> dict[str, bytes]: ...
    def setxattr(self, path: str, name: str, value: bytes) -> None: ...


class _Host:
    """Files that are no store's. Symlinks as the last component are not followed when attributes are set."""

    is_store = False

    def real(self, path: str) -> str:
        return os.path.realpath(path)

    def lstat(self, path: str) -> os.stat_result:
        return os.lstat(path)

    def stat(self, path: str) -> os.stat_result:
        return os.stat(path)

    def isdir(self, path: str) -> bool:
        return os.path.isdir(path)

    def lexists(self, path: str) -> bool:
        return os.path.lexists(path)

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def mkdir(self, path: str) -> None:
        os.mkdir(path, 0o700)

    def symlink(self, content: str, path: str) -> None:
        os.symlink(content, path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(path, uid, gid, follow_symlinks=False)

    def utime(self, path: str, ns: tuple[int, int]) -> None:
        os.utime(path, ns=ns, follow_symlinks=False)

    def xattrs(self, path: str) -> dict[str, bytes]:
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError:  # a file system that knows none
            names = []
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(path, name, value, follow_symlinks=False)


class _Store:
    """Names of a store."""

    is_store = True

    def real(self, path: str) -> str:
        return locate(path).path

    def lstat(self, path: str) -> os.stat_result:
        return namespace.lstat(path)

    def stat(self, path: str) -> os.stat_result:
        return namespace.stat(path)

    def isdir(self, path: str) -> bool:
        return namespace.isdir(path)

    def lexists(self, path: str) -> bool:
        return namespace.lexists(path)

    def listdir(self, path: str) -> list[str]:
        return namespace.listdir(path)

    def readlink(self, path: str) -> str:
        return namespace.readlink(path)

    def mkdir(self, path: str) -> None:
        namespace.mkdir(path, 0o700)

    def symlink(self, content: str, path: str) -> None:
        namespace.symlink(content, path)

    def unlink(self, path: str) -> None:
        namespace.unlink(path)

    def chmod(self, path: str, mode: int) -> None:
        namespace.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        namespace.chown(path, uid, gid, follow_symlinks=False)

    def utime(self, path: str, ns: tuple[int, int]) -> None:
        namespace.utime(path, ns=ns, follow_symlinks=False)

    def xattrs(self, path: str) -> dict[str, bytes]:
        try:
            names = namespace.listxattr(path, follow_symlinks=False)
        except OSError:
            names = []
        return {name: namespace.getxattr(path, name, follow_symlinks=False) for name in names}

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        namespace.setxattr(path, name, value, follow_symlinks=False)


HOST: Tree = _Host()
STORE: Tree = _Store()


def tree_of(path: str) -> Tree:
    """Tell which side a path is of; it need not exist."""
    try:
        locate(path)
    except NoStoreError:
        return HOST
    return STORE


def store_of(path: str) -> Store:
    """Return the store of a path on that side."""
    return locate(path).store
