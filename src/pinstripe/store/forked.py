"""What a forked child may do with the files that its parent holds open: nothing.

A transaction belongs to one process. The child's calls are shadowed right after the fork, on each object, so that buffers take nothing in that
would silently be lost, and the parent's calls cost nothing more.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, NoReturn

from ..errors import ForkedError

__all__ = ["release", "watch"]

_CALLS = (
    *("discard", "flush", "peek", "pread", "preadinto", "pwrite", "read", "read1", "readall", "readinto"),
    *("readinto1", "readline", "readlines", "seek", "sync", "tell", "truncate", "write", "writelines"),
)

_watched: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(file: Any) -> None:
    """Let every call of this object raise in a forked child, until it is closed there."""
    _watched.add(file)


def release(file: Any) -> None:
    """Give an object its calls back, so that it can be closed."""
    for name in _CALLS:
        file.__dict__.pop(name, None)


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise ForkedError("this file was opened by the parent process: open it anew in this one")


def _shadow() -> None:
    for file in list(_watched):
        file.__dict__.update(dict.fromkeys(_CALLS, _refuse))


os.register_at_fork(after_in_child=_shadow)
