"""SharedPointer: one position for all ranks of an open file, in a small locked file of the store."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from ..store.shared_file import SHARED_HEAD_BYTES, SharedFile

__all__ = ["SharedPointer"]

_STATE = struct.Struct("<QQ")


class SharedPointer:
    """The position, in etypes of the view, which is the same on all ranks.

    A view sets it back to 0 without a message: each rank counts the views, the file holds the count at which its position was written, and
    an older position counts as 0.

    Parameters
    ----------
    file : SharedFile or None
        None where there is one rank: then the position is in memory.
    start : int
        Where it begins.
    """

    def __init__(self, file: SharedFile | None, start: int) -> None:
        self._file = file
        self._start = self._position = start
        self._views = 0

    def reset(self) -> None:
        """Set it to 0: a new view, on all ranks alike."""
        self._views += 1
        self._start = self._position = 0

    def get(self) -> int:
        """Return it."""
        return self.change(lambda position: position)

    def advance(self, etypes: int) -> int:
        """Move it on, and return where it was: no other call gets that place."""
        return self.change(lambda position: position + etypes)

    def change(self, to: Callable[[int], int]) -> int:
        """Change it, alone, and return where it was.

        Raises
        ------
        UnsupportedError
            The file cannot be made, or cannot be locked.
        """
        if self._file is None:
            was, self._position = self._position, to(self._position)
            return was
        with self._file.locked() as fd:
            views, position = _STATE.unpack(os.pread(fd, _STATE.size, SHARED_HEAD_BYTES).ljust(_STATE.size, b"\0"))
            was = int(position) if views == self._views + 1 else self._start
            becomes = to(was)
            if becomes != was or views != self._views + 1:
                os.pwrite(fd, _STATE.pack(self._views + 1, becomes), SHARED_HEAD_BYTES)
        return was

    def close(self, *, remove: bool) -> None:
        """Give the file back; `remove` it when no rank will begin to use it."""
        if self._file is not None:
            self._file.close(remove=remove)
