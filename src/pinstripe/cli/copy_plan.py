"""What a copy is to do: directories, symlinks and files, found by walking the sources. Copies nothing."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat as stat_module
from collections.abc import Sequence

from ..errors import ArgumentError
from ..store.store import is_store
from .failure import Failures
from .trees import STORE, Tree, tree_of

__all__ = ["Item", "Plan", "plan_copy"]


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One name to be copied.

    Attributes
    ----------
    source, destination : str
    from_store, to_store : bool
        Which side each is of.
    size : int
        Bytes of a file, when the plan was made.
    mode, uid, gid, atime_ns, mtime_ns : int
        The source's attributes.
    link : str
        What a symlink holds.
    is_new : bool
        The destination was not there.
    """

    source: str
    destination: str
    from_store: bool
    to_store: bool
    size: int
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    link: str
    is_new: bool


@dataclasses.dataclass(slots=True)
class Plan:
    """All that a copy is to do, in the order in which it must be done.

    Attributes
    ----------
    directories : list of Item
        Each after the one that it lies in.
    links, files : list of Item
    """

    directories: list[Item] = dataclasses.field(default_factory=list)
    links: list[Item] = dataclasses.field(default_factory=list)
    files: list[Item] = dataclasses.field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(item.size for item in self.files)


def plan_copy(sources: Sequence[str], destination: str, recursive: bool, failures: Failures) -> Plan:
    """Walk the sources; what cannot be copied is a failure, and the rest is planned.

    Raises
    ------
    ArgumentError
        Several sources, and the destination is no directory; or no side is a store's.
    """
    plan = Plan()
    side = tree_of(destination)
    into = side.isdir(destination)
    if len(sources) > 1 and not into:
        raise ArgumentError(f"{destination} is no directory, and there are {len(sources)} sources")
    for source in sources:
        with failures:
            tree = tree_of(source)
            if not (tree.is_store or side.is_store):
                raise ArgumentError(f"neither {source} nor {destination} lies in a store: use cp")
            name = os.path.basename(tree.real(source) if source.rstrip("/.") == "" else source.rstrip("/"))
            to = os.path.join(destination, name) if into else destination
            seen = tree.lstat(source) if recursive else tree.stat(source)
            if stat_module.S_ISDIR(seen.st_mode):
                if not recursive:
                    raise IsADirectoryError(errno.EISDIR, "is a directory: -r copies it with all that is in it", source)
                _check_not_into_itself(tree, source, side, to)
            _add(plan, tree, source, side, to, seen, failures)
    return plan


def _check_not_into_itself(tree: Tree, source: str, side: Tree, to: str) -> None:
    above = os.path.dirname(to.rstrip("/")) or "."
    inner = side.real(to) if side.isdir(to) else os.path.join(side.real(above), os.path.basename(to))
    outer = tree.real(source)
    if inner == outer or inner.startswith(outer + os.sep):
        raise OSError(errno.EINVAL, "a directory cannot be copied into itself", source)


def _add(plan: Plan, tree: Tree, source: str, side: Tree, to: str, seen: os.stat_result, failures: Failures) -> None:
    kind = stat_module.S_IFMT(seen.st_mode)
    item = Item(
        source=source,
        destination=to,
        from_store=tree.is_store,
        to_store=side.is_store,
        size=seen.st_size if kind == stat_module.S_IFREG else 0,
        mode=stat_module.S_IMODE(seen.st_mode),
        uid=seen.st_uid,
        gid=seen.st_gid,
        atime_ns=seen.st_atime_ns,
        mtime_ns=seen.st_mtime_ns,
        link=tree.readlink(source) if kind == stat_module.S_IFLNK else "",
        is_new=not side.lexists(to),
    )
    if kind == stat_module.S_IFLNK:
        plan.links.append(item)
    elif kind == stat_module.S_IFREG:
        if not item.is_new and tree.is_store == side.is_store and tree.real(source) == side.real(to):
            raise OSError(errno.EINVAL, "is the same file as its destination", source)
        plan.files.append(item)
    elif kind == stat_module.S_IFDIR:
        if not item.is_new and not side.isdir(to):
            raise NotADirectoryError(errno.ENOTDIR, "a directory cannot replace what is no directory", to)
        plan.directories.append(item)
        if is_store(source):
            tree = STORE
        for name in sorted(tree.listdir(source)):
            below = os.path.join(source, name)
            with failures:
                _add(plan, tree, below, side, os.path.join(to, name), tree.lstat(below), failures)
    else:
        raise OSError(errno.EINVAL, "neither a file, a directory nor a symlink: not copied", source)
