"""Deferred: a sink that writes later, in a backlog's thread. What it is given it owns, but for the caller's memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ..kernels import Elsewhere, copy_extents
from ..store.session import Session
from .backlog import Backlog
from .exchange import Bytes

__all__ = ["Deferred"]


class Deferred:
    """A session's writing calls, put off.

    Parameters
    ----------
    backlog : Backlog
    session : Session
        Used by the backlog's thread alone until the backlog is drained.
    theirs : uint8 array
        Memory that nobody changes until the request is complete: MPI asks that of the caller. All other data is copied, for an exchange
        uses its buffers again.
    """

    def __init__(self, backlog: Backlog, session: Session, theirs: Bytes) -> None:
        self._backlog, self._session, self._theirs = backlog, session, theirs

    def write(self, offset: int, data: Any, width: int = 0) -> None:
        """Put off `Session.write`."""
        data, held = (data, 0) if self._stays(data) else (data.copy(), data.nbytes)
        self._backlog.put(partial(self._session.write, offset, data, width), held)

    def write_stripes(
        self,
        stripes: Any,
        data: Any,
        data_offsets: Any,
        raw_bytes: Any,
        width: int = 0,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Put off `Session.write_stripes`. What lies elsewhere is put into `data`, where it belongs."""
        if elsewhere is not None:
            copy_extents(elsewhere.data, elsewhere.offsets, data, elsewhere.places, elsewhere.lengths)
        data, places, held = self._kept(data, data_offsets, raw_bytes)
        self._backlog.put(partial(self._session.write_stripes, stripes, data, places, raw_bytes, width), held)

    def write_extents(self, offsets: Any, data: Any, data_offsets: Any, lengths: Any, width: int = 0) -> None:
        """Put off `Session.write_extents`."""
        data, places, held = self._kept(data, data_offsets, lengths)
        self._backlog.put(partial(self._session.write_extents, offsets, data, places, lengths, width), held)

    def take_partial(self, keep: Any = None) -> None:
        """Put off `Session.take_partial`; what it takes is forgotten."""
        self._backlog.put(partial(self._session.take_partial, keep))

    def _stays(self, data: Any) -> bool:
        return bool(np.may_share_memory(data, self._theirs))

    def _kept(self, data: Any, places: Any, lengths: Any) -> tuple[Any, Any, int]:
        if self._stays(data):
            return data, places, 0
        lengths = np.asarray(lengths, np.int64)
        fresh = np.cumsum(lengths) - lengths
        copy = np.empty(int(lengths.sum()), np.uint8)
        copy_extents(data, np.asarray(places, np.int64), copy, fresh, lengths)
        return copy, fresh, copy.nbytes
