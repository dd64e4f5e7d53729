"""Destroying a store: its data, then its names, its superblock last; so an interrupted destroy can be run again."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Iterator

from ..targets.posix import IDENTITY, PosixTarget
from .fresh import fsync_directory
from .inode_file import read_any_inode
from .place import Place
from .store import RESERVED, Store

__all__ = ["Doomed", "destroy", "doomed"]


@dataclasses.dataclass(frozen=True, slots=True)
class Doomed:
    """What `destroy` would delete.

    Attributes
    ----------
    files : int
        Names of files.
    targets : list of str
        Targets whose data goes.
    spared : list of str
        Targets that keep it: those that are missing, and all of them if the store is a copy of another.
    """

    files: int
    targets: list[str]
    spared: list[str]


def doomed(store: Store) -> Doomed:
    """Say what `destroy` would delete; changes nothing."""
    targets = [] if store.is_copy else [target.path for target in store.targets]
    spared = [path for path in map(store.target_path, store.superblock.targets) if path not in targets]
    names = [os.path.basename(path) for path in _names(store, store.root)]
    return Doomed(sum(not name.startswith(RESERVED) for name in names), targets, spared)


def destroy(store: Store) -> list[str]:
    """Delete a store with all its data. What is not the store's stays, on targets too.

    Not atomic: an interrupted one is finished by another. Nobody must be using the store.

    Returns
    -------
    list of str
        What is left, because it is not the store's.
    """
    left: list[str] = []
    for target in store.targets:
        if isinstance(target, PosixTarget) and not store.is_copy:
            left += _empty_target(target)
    for path in list(_names(store, store.root)):
        os.unlink(path)
    left += _remove_directories(store, store.root)
    shutil.rmtree(os.path.join(store.meta, "files"))
    shutil.rmtree(store.meta)
    fsync_directory(store.root)
    if not os.listdir(store.root):
        with contextlib.suppress(OSError):  # a mount point, or in a directory that is not ours to change
            os.rmdir(store.root)
    return left


def _names(store: Store, directory: str) -> Iterator[str]:
    """Files and symlinks of the store, and what it hides (layouts), below a directory."""
    with os.scandir(directory) as entries:
        found = sorted((entry.name, entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_link, is_directory in found:
        path = f"{directory}/{name}"
        if path == store.meta or path in store.foreign_directories:
            continue
        if is_directory:
            yield from _names(store, path)
        else:
            ours = is_link or name.startswith(RESERVED)
            if ours or read_any_inode(Place(store, path, directory, name)) is not None:
                yield path


def _remove_directories(store: Store, directory: str) -> list[str]:
    left = []
    with os.scandir(directory) as entries:
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_directory in found:
        path = f"{directory}/{name}"
        if path == store.meta or path in store.foreign_directories:
            continue
        if not is_directory:
            left.append(path)
            continue
        below = _remove_directories(store, path)
        left += below
        if not below:
            os.rmdir(path)
    return left


def _empty_target(target: PosixTarget) -> list[str]:
    """Remove what is in a target's ``aa`` directories, then its identity; the directory itself too if nothing is left."""
    target.check()
    left = []
    for name in sorted(os.listdir(target.path)):
        path = f"{target.path}/{name}"
        if re.fullmatch("[0-9a-f]{2}", name) or name.startswith(".new-"):
            shutil.rmtree(path)
        elif name != IDENTITY:
            left.append(path)
    os.unlink(f"{target.path}/{IDENTITY}")
    fsync_directory(target.path)
    with contextlib.suppress(OSError):
        os.rmdir(target.path)
    return left
