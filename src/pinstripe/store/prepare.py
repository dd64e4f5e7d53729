"""Preparing a node: its own directories of the targets of scope ``node``."""

from __future__ import annotations

import os

from ..errors import TargetError
from ..targets.posix import IDENTITY, create_target
from .store import Store

__all__ = ["prepare"]


def prepare(store: Store) -> list[str]:
    """Make, on this node, each directory of a target of scope ``node`` that is missing; return their paths.

    Only ever called because a person asked: a target is never made implicitly, or an unmounted disk would be taken for an
    empty one.

    Raises
    ------
    TargetError
        A directory is another target's, not empty, or cannot be made.
    """
    made = []
    for entry in store.missing:
        if entry.scope != "node":
            continue
        path = store.target_path(entry)
        if os.path.lexists(os.path.join(path, IDENTITY)):
            raise store.missing_error(entry)
        try:
            create_target(path, store.id, scope=entry.scope, pool=entry.pool, target_id=entry.id)
        except ValueError as error:
            raise TargetError(str(error), path=path, target=path) from None
        os.chmod(path, store.superblock.mode)
        made.append(path)
    store.reload()
    return made
