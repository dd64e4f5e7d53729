"""Making a store: everything is checked first, then made; after an error nothing half-made is left.

The order, so that a crash in between leaves what a second try can tell from a store:

1. directories and target identities,
2. ``.pinstripe`` under another name, with superblock revision 1 in it, all synced,
3. its rename to ``.pinstripe``: from here on there is a store.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import ArgumentError, NamespaceError, TargetError, UnsupportedError
from ..format.layout import Layout
from ..format.superblock import Superblock, TargetEntry
from ..targets.posix import IDENTITY, create_target
from .fresh import fsync_directory
from .store import META, Store, is_store, make_shard, publish_place, publish_superblock
from .target_spec import TargetSpec

__all__ = ["create"]


def create(
    path: str | os.PathLike[str],
    targets: Iterable[str | os.PathLike[str] | Mapping[str, Any]],
    *,
    stripe_bytes: int | str | None = None,
    stripe_count: int | None = None,
    block_bytes: int | str | None = None,
    codec: str | None = None,
    pool: str | None = None,
    mode: int | None = None,
) -> Store:
    """Make a store at `path`, with its data on `targets`.

    All or nothing: after an error, what this call made is gone again; a store exists from one rename on, and is durable
    when this returns. Independent: one process makes a store.

    Parameters
    ----------
    path : str or path
        Directory of the names; made if it is not there, its parent must be. What it holds already stays as it is.
    targets : iterable of str or mapping
        ``DIR[,scope=node][,pool=ssd]``, or mappings with ``path``, ``scope``, ``pool``. A directory is made if its
        parent exists, else it must be empty. One that lies beside or below the store is recorded relative to it.
    stripe_bytes, stripe_count, block_bytes, codec, pool
        The layout of files whose directory has none of its own.
    mode : int, optional
        Permission bits of the store, and of its targets: ``0o2775`` for a group, ``0o1777`` for all. If not given, those of
        the directory that is there, else ``0o755``. What a group may write belongs to the directory's group.

    Raises
    ------
    ArgumentError
        No target, the same twice, an option that cannot be meant, or a pool without a target.
    NamespaceError
        There is a store already, at `path` or above it; or `path` lies in a target.
    TargetError
        A target belongs to a store, is not empty, or cannot be made.
    UnsupportedError
        The directory's file system has no hard links across directories.
    """
    layout = Layout.make(
        stripe_bytes=stripe_bytes, stripe_count=stripe_count, block_bytes=block_bytes, codec=codec, pool=pool
    )
    specs = [TargetSpec.parse(given) for given in targets]
    if mode is not None and (mode & ~0o7777 or mode & 0o700 != 0o700):
        raise ArgumentError(f"mode {mode:o}: the owner needs rwx, and there are only permission bits")
    root = os.path.realpath(path)
    _check_specs(root, specs, layout)
    _check_root(root)
    for spec in specs:
        _check_target(spec)

    with contextlib.ExitStack() as undo:
        mode = _make_root(root, mode, undo)
        _check_hard_links(root)
        store_id = secrets.token_bytes(16)
        entries = [_make_target(spec, root, store_id, mode, undo) for spec in specs]
        superblock = Superblock(store_id=store_id, revision=1, mode=mode, layout=layout, targets=tuple(entries))
        _make_meta(root, superblock, undo)
        undo.pop_all()
    return Store(root)


def recorded_path(path: str, root: str) -> str:
    """Give a target's path as the superblock has it: relative where it lies beside or below the store."""
    parent = os.path.dirname(root)
    if parent != os.sep and os.path.commonpath([path, parent]) == parent:
        return os.path.relpath(path, root)
    return path


def _check_specs(root: str, specs: list[TargetSpec], layout: Layout) -> None:
    if not specs:
        raise ArgumentError("a store needs at least one target: --target DIRECTORY")
    seen: list[str] = []
    for spec in specs:
        for other in seen:
            if _contains(other, spec.path) or _contains(spec.path, other):
                raise ArgumentError(f"target {spec.path}: is the same as, or lies in, target {other}")
        seen.append(spec.path)
        if _contains(spec.path, root):
            raise NamespaceError(f"the store would lie in its target {spec.path}: choose another directory", path=root)
        if _contains(os.path.join(root, META), spec.path):
            raise ArgumentError(f"target {spec.path}: {META} is the store's own directory")
    if layout.pool is not None and layout.pool not in {spec.pool for spec in specs}:
        raise ArgumentError(f"pool={layout.pool!r}: no target is in that pool")


def _check_root(root: str) -> None:
    if os.path.lexists(os.path.join(root, META)):
        what = (
            "is a store already"
            if is_store(root)
            else f"has a {META} that is not a store's (left by a crash?): remove it"
        )
        raise NamespaceError(f"this directory {what}", path=root, code=errno.EEXIST)
    if os.path.lexists(root) and not os.path.isdir(root):
        raise NamespaceError("this is no directory", path=root, code=errno.ENOTDIR)
    for above in _upwards(root):
        if is_store(above) and above != root:
            raise NamespaceError(f"lies in the store {above}: stores do not nest", path=root, code=errno.EEXIST)
        if os.path.lexists(os.path.join(above, IDENTITY)):
            raise NamespaceError(f"lies in {above}, which is a target: names and data do not mix", path=root)
    if not os.path.isdir(os.path.dirname(root)):
        raise NamespaceError("its parent directory does not exist", path=root, code=errno.ENOENT)


def _check_target(spec: TargetSpec) -> None:
    for above in _upwards(spec.path):
        if os.path.lexists(os.path.join(above, IDENTITY)):
            which = "belongs to a store already" if above == spec.path else f"lies in the target {above}"
            raise TargetError(
                f"{which}: a target is one store's alone", path=spec.path, code=errno.EEXIST, target=spec.path
            )
    try:
        with os.scandir(spec.path) as entries:
            first = next(iter(entries), None)
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(spec.path)):
            raise TargetError(
                "its parent directory does not exist (is the disk mounted?)",
                path=spec.path,
                code=errno.ENOENT,
                target=spec.path,
            ) from None
    except OSError as error:
        raise TargetError(
            f"cannot be used: {error.strerror}", path=spec.path, code=error.errno, target=spec.path
        ) from None
    else:
        if first is not None:
            raise TargetError(
                f"is not empty ({first.name}): a target needs a directory of its own",
                path=spec.path,
                code=errno.ENOTEMPTY,
                target=spec.path,
            )


def _check_hard_links(root: str) -> None:
    """Link a file from one directory into another: some file systems cannot, and then no file could be made later."""
    trial = os.path.join(root, f"{META}-trial-{secrets.token_hex(8)}")
    try:
        os.mkdir(trial, 0o700)
        for name in ("a", "b"):
            os.mkdir(os.path.join(trial, name), 0o700)
        source, link = os.path.join(trial, "a", "file"), os.path.join(trial, "b", "file")
        with open(source, "xb"):
            pass
        try:
            os.link(source, link)
        except OSError as error:
            raise UnsupportedError(
                f"the file system here has no hard links across directories ({error.strerror}): keep the store's "
                "directory on a POSIX file system; targets may lie anywhere",
                path=root,
            ) from None
        if os.stat(link).st_nlink != 2:
            raise UnsupportedError("the file system here does not count hard links", path=root)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _make_directory(path: str, mode: int, undo: contextlib.ExitStack) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    undo.callback(_quietly, os.rmdir, path)
    os.chmod(path, mode)
    fsync_directory(os.path.dirname(path))


def _make_root(root: str, mode: int | None, undo: contextlib.ExitStack) -> int:
    """Make the store's directory, or take the one that is there; return the store's mode."""
    _make_directory(root, 0o755 if mode is None else mode, undo)
    if mode is None:
        return stat.S_IMODE(os.stat(root).st_mode) | 0o700
    _widen(root, mode, undo)
    return mode


def _make_target(spec: TargetSpec, root: str, store_id: bytes, mode: int, undo: contextlib.ExitStack) -> TargetEntry:
    _make_directory(spec.path, mode, undo)
    if mode & 0o020:
        with contextlib.suppress(PermissionError):
            os.chown(spec.path, -1, os.stat(root).st_gid)
    _widen(spec.path, mode, undo)
    target = create_target(spec.path, store_id, scope=spec.scope, pool=spec.pool)
    undo.callback(_quietly, os.unlink, os.path.join(spec.path, IDENTITY))
    if mode & 0o022:
        _make_shards(spec.path, mode)
        undo.callback(_quietly, _remove_shards, spec.path)
    fsync_directory(spec.path)
    return TargetEntry(target.id, recorded_path(spec.path, root), spec.scope, spec.pool)


def _widen(path: str, mode: int, undo: contextlib.ExitStack) -> None:
    """Give a directory that was there the store's mode, where it is ours to do so."""
    present = stat.S_IMODE(os.stat(path).st_mode)
    if present != mode:
        with contextlib.suppress(PermissionError):
            os.chmod(path, mode)
            undo.callback(_quietly, lambda path: os.chmod(path, present), path)


def _make_shards(directory: str, mode: int) -> None:
    # Who makes an aa directory owns it and may list it: where several users write, that is to be the store's owner.
    for number in range(256):
        make_shard(os.path.join(directory, f"{number:02x}"), mode & ~0o044)


def _remove_shards(directory: str) -> None:
    for number in range(256):
        os.rmdir(os.path.join(directory, f"{number:02x}"))


def _contains(directory: str, path: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def _upwards(path: str) -> Iterator[str]:
    while True:
        yield path
        if os.path.dirname(path) == path:
            return
        path = os.path.dirname(path)


def _quietly(act: Callable[[str], object], path: str) -> None:
    with contextlib.suppress(OSError):
        act(path)


def _make_meta(root: str, superblock: Superblock, undo: contextlib.ExitStack) -> None:
    draft = os.path.join(root, f"{META}-{secrets.token_hex(8)}")
    mode = superblock.mode
    private = mode & ~0o022  # only files' own directories are for others to write in
    os.mkdir(draft, 0o700)
    undo.callback(_quietly, shutil.rmtree, draft)
    for name in ("superblock", "files"):
        os.mkdir(os.path.join(draft, name))
    os.mkdir(os.path.join(draft, "lost+found"), 0o700)
    files = os.path.join(draft, "files")
    if mode & 0o022:
        _make_shards(files, mode)
    publish_superblock(draft, superblock, 1)
    publish_place(draft)
    os.chmod(os.path.join(draft, "superblock"), private)
    os.chmod(files, private)
    os.chmod(draft, private)
    for directory in (files, draft):
        fsync_directory(directory)
    os.rename(draft, os.path.join(root, META))
    undo.callback(_quietly, shutil.rmtree, os.path.join(root, META))
    fsync_directory(root)
