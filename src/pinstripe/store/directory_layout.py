"""The layout that new files of a directory inherit: the nearest ``.pinstripe-layout`` upwards, else the store's own."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress

from ..errors import ArgumentError, DamageError, Error
from ..format.layout import Layout
from .fresh import fsync_directory
from .place import AnyPath, Place, locate
from .store import Store

__all__ = ["LAYOUT_NAME", "check_pool_exists", "layout_of", "own_layout", "set_layout"]

LAYOUT_NAME = ".pinstripe-layout"
_BYTES_MOST = 1 << 16


def layout_of(directory: AnyPath) -> Layout:
    """Return the layout that a new file in `directory` gets.

    Raises
    ------
    DamageError, UnsupportedError
        The nearest layout file cannot be read as one; it is not passed over, for data would land elsewhere than meant.
    """
    place = locate(directory)
    current = place.path
    while True:
        layout = _read(os.path.join(current, LAYOUT_NAME))
        if layout is not None:
            return layout
        if current == place.store.root:
            return place.store.layout
        current = os.path.dirname(current)


def own_layout(directory: AnyPath) -> Layout | None:
    """Return the layout that was set on this very directory, if one was."""
    return _read(os.path.join(locate(directory).path, LAYOUT_NAME))


def set_layout(directory: AnyPath, layout: Layout | None) -> None:
    """Set the layout that new files below `directory` inherit; None lets it inherit again.

    Atomic and durable. Files that are there keep theirs.

    Raises
    ------
    ArgumentError
        The layout's pool has no target.
    NotADirectoryError
    """
    place = locate(directory)
    if not os.path.isdir(place.path):
        code = errno.ENOTDIR if os.path.lexists(place.path) else errno.ENOENT
        raise OSError(code, os.strerror(code), place.path)
    path = os.path.join(place.path, LAYOUT_NAME)
    if layout is None:
        with suppress(FileNotFoundError):
            os.unlink(path)
        fsync_directory(place.path)
        return
    check_pool_exists(place.store, layout)
    _publish(place, path, layout)


def check_pool_exists(store: Store, layout: Layout) -> None:
    """Refuse a layout whose pool has no target.

    Raises
    ------
    ArgumentError
    """
    pools = {entry.pool for entry in store.superblock.targets}
    if layout.pool is not None and layout.pool not in pools:
        known = ", ".join(sorted(pool for pool in pools if pool)) or "none"
        raise ArgumentError(f"pool={layout.pool!r}: no target of the store is in that pool (pools: {known})")


def _publish(place: Place, path: str, layout: Layout) -> None:
    aside = f"{path}-{secrets.token_hex(8)}"
    try:
        with open(aside, "x", encoding="utf-8") as file:
            file.write(layout.to_json() + "\n")
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # whoever may make files here must be able to read it, whatever the umask
            os.fsync(file.fileno())
        os.rename(aside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    fsync_directory(place.path)


def _read(path: str) -> Layout | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = os.read(fd, _BYTES_MOST + 1)
    finally:
        os.close(fd)
    if len(data) > _BYTES_MOST:
        raise DamageError("a layout file that is far too long", path=path)
    try:
        return Layout.from_json(data)
    except Error as error:
        if isinstance(error, OSError):
            error.filename = path
        raise
