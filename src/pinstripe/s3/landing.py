"""Landing: the directory of a store into which names come from a bucket. What lies between is made as it is needed, and no symlink is followed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterable

from ..errors import Error, NamespaceError
from ..format.layout import Layout
from ..store import namespace
from ..store.collect import collect_removed
from ..store.directory_layout import layout_of
from ..store.filesystem import sync_filesystem
from ..store.fresh import fsync_directory, rename_noreplace
from ..store.inode_file import read_inode_at
from ..store.place import STAGED, AnyPath, Place, check_symlink, locate
from ..store.store import Store, is_store
from .metadata import Attributes, Defaults

__all__ = ["Landing", "give_attributes", "put_name"]

_NO_RENAME_FLAGS = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


class Landing:
    """A directory of a store. Thread-safe.

    Parameters
    ----------
    directory : path
        It is there.
    defaults : Defaults
        For directories that are made.

    Attributes
    ----------
    store : Store
    root : str
        Absolute path.
    """

    def __init__(self, directory: AnyPath, defaults: Defaults) -> None:
        place = locate(directory)
        if not os.path.isdir(place.path):
            code = errno.ENOTDIR if os.path.lexists(place.path) else errno.ENOENT
            raise OSError(code, os.strerror(code), place.path)
        self.store, self.root = place.store, place.path
        self._defaults = defaults
        self._lock = threading.Lock()
        self._known: dict[str, Layout] = {"": layout_of(self.root)}

    def place(self, path: str) -> Place:
        """Return the place of a path relative to the directory. Nothing need be there."""
        full = f"{self.root}/{path}" if path else self.root
        return Place(self.store, full, os.path.dirname(full), os.path.basename(full))

    def layout(self, path: str) -> Layout:
        """Return the layout of new files in a directory of which `directory` was asked."""
        return self._known[path]

    def directory(self, path: str, *, make: bool = True) -> bool:
        """See to it that there is a real directory at a relative path; return whether it is there.

        Raises
        ------
        NotADirectoryError
            Something else has the name: a file, or a symlink, which could lead anywhere.
        NamespaceError
            It is another store, or a target of this one.
        """
        if path in self._known:
            return True
        above = os.path.dirname(path)
        if not self.directory(above, make=make):
            return False
        full = f"{self.root}/{path}"
        with self._lock:
            try:
                mode = os.lstat(full).st_mode
            except FileNotFoundError:
                if not make:
                    return False
                self._make(full)
                mode = os.lstat(full).st_mode
            if not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory, and objects need one of this name", full)
            if is_store(full) or full in self.store.foreign_directories:
                raise NamespaceError("another store, or a target of this one: nothing is put into it", path=full)
            layout = namespace.own_layout(Place(self.store, full, os.path.dirname(full), os.path.basename(full)))
            self._known[path] = layout or self._known[above]
        return True

    def _make(self, full: str) -> None:
        with contextlib.suppress(FileExistsError):  # another rank was first
            os.mkdir(full, self._defaults.directory_mode & 0o777)
            if (self._defaults.uid, self._defaults.gid) != (-1, -1):
                with contextlib.suppress(PermissionError):
                    os.chown(full, self._defaults.uid, self._defaults.gid)

    def symlink(self, path: str, content: str, *, replace: bool = False) -> None:
        """Make a symlink at a relative path.

        Parameters
        ----------
        replace : bool
            Take the place of a file or symlink that has the name, in one step.

        Raises
        ------
        NamespaceError
            It could not be followed within the store; what has the name stays.
        FileExistsError
            The name is taken, and `replace` is not given.
        """
        place = self.place(path)
        check_symlink(Place(self.store, place.directory, "", ""), content)
        if not replace:
            os.symlink(content, place.path)
            return
        hidden = place.beside(f"{STAGED}{secrets.token_hex(12)}")
        os.symlink(content, hidden.path)
        try:
            put_name(hidden, place, replace=True, durable=True)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(hidden.path)
            raise

    def sync(self) -> None:
        """Make durable what this host's processes wrote into the store."""
        _sync(self.root, self.store)


def give_attributes(place: Place, attributes: Attributes, *, times: bool = True) -> None:
    """Give a name what its object states; an owner that may not be given is no error, and set-id bits go then."""
    is_link = attributes.kind == "symlink"
    mode = attributes.mode
    if (attributes.uid, attributes.gid) != (-1, -1):
        try:
            namespace.chown(place, attributes.uid, attributes.gid, follow_symlinks=False)
        except PermissionError:
            mode &= 0o1777
    if not is_link:
        seen = os.lstat(place.path)
        if stat.S_IMODE(seen.st_mode) != mode:
            namespace.chmod(place, mode)
    if times:
        ns = (attributes.atime_ns, attributes.mtime_ns)
        namespace.utime(place, ns=ns, follow_symlinks=False)


def put_name(hidden: Place, place: Place, *, replace: bool, durable: bool) -> None:
    """Give a whole file, which has a hidden name beside it, its name; in one step.

    What takes the place of something is durable before it does: a power cut leaves one of both, whole.

    Raises
    ------
    FileExistsError
        The name is taken, and `replace` is not given.
    """
    replaced = None
    if replace:
        if os.path.lexists(place.path):
            with contextlib.suppress(Error, OSError):
                replaced = read_inode_at(place)[0].file_id
            _sync(place.directory, place.store)
            durable = True
        os.rename(hidden.path, place.path)
    else:
        try:
            rename_noreplace(hidden.path, place.path)
        except OSError as error:
            if error.errno not in _NO_RENAME_FLAGS:
                raise
            os.link(hidden.path, place.path)
            os.unlink(hidden.path)
    if durable:
        fsync_directory(place.directory)
    if replaced is not None:  # its name's end is durable: what it held may go
        collect_removed(place.store, replaced)


def _sync(directory: str, store: Store) -> None:
    paths = [directory, *(target.path for target in store.targets)]
    for path in {os.stat(path).st_dev: path for path in paths}.values():
        sync_filesystem(path)


def parents(paths: Iterable[str]) -> list[str]:
    """Return all directories that lie above relative paths, each after the one that it lies in; the root itself is not among them."""
    found: set[str] = set()
    for path in paths:
        above = os.path.dirname(path)
        while above and above not in found:
            found.add(above)
            above = os.path.dirname(above)
    return sorted(found)
