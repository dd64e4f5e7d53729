"""The split collective calls of `File`: a beginning, anything that is not collective on this file, the end.

One at a time. The beginning of a write exchanges, and a thread writes until the end; a read is done at its beginning. What does not belong
together is the same error on all ranks.
"""

from __future__ import annotations

from typing import Any

from mpi4py import MPI

from .agree import Operation
from .calls import told
from .collective import SplitError
from .memory import memory_of
from .shared_calls import SharedCalls

__all__ = ["SplitCalls"]


class SplitCalls(SharedCalls):
    """Both halves are collective; an error on one rank is raised on all. The end takes the buffer of the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: tuple[Any, int] | None = None

    def Read_at_all_begin(self, offset: int, buf: Any) -> None:
        """Collective. Begin `Read_at_all`."""
        self._began("Read_at_all", buf, self._read_together(Operation.read_at_all, offset, buf))

    def Read_at_all_end(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. End it."""
        self._end("Read_at_all", buf, status)

    def Write_at_all_begin(self, offset: int, buf: Any) -> None:
        """Collective. Begin `Write_at_all`; the buffer stays untouched until the end."""
        self._began("Write_at_all", buf, self._write_together(Operation.write_at_all, offset, buf, deferred=True))

    def Write_at_all_end(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. End it."""
        self._end("Write_at_all", buf, status)

    def Read_all_begin(self, buf: Any) -> None:
        """Collective. Begin `Read_all`; each rank's position moves."""
        nbytes = self._read_together(Operation.read_all, self._position, buf)
        self._position += self._etypes(nbytes)
        self._began("Read_all", buf, nbytes)

    def Read_all_end(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. End it."""
        self._end("Read_all", buf, status)

    def Write_all_begin(self, buf: Any) -> None:
        """Collective. Begin `Write_all`; each rank's position moves, and the buffer stays untouched until the end."""
        nbytes = self._write_together(Operation.write_all, self._position, buf, deferred=True)
        self._position += self._etypes(nbytes)
        self._began("Write_all", buf, nbytes)

    def Write_all_end(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. End it."""
        self._end("Write_all", buf, status)

    def Read_ordered_begin(self, buf: Any) -> None:
        """Collective. Begin `Read_ordered`; the shared pointer moves."""
        self._began("Read_ordered", buf, self._read_ordered(buf))

    def Read_ordered_end(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. End it."""
        self._end("Read_ordered", buf, status)

    def Write_ordered_begin(self, buf: Any) -> None:
        """Collective. Begin `Write_ordered`; the shared pointer moves, and the buffer stays untouched until the end."""
        self._began("Write_ordered", buf, self._write_ordered(buf, deferred=True))

    def Write_ordered_end(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. End it."""
        self._end("Write_ordered", buf, status)

    def _began(self, name: str, buf: Any, nbytes: int) -> None:
        shared = self._open()
        shared.split = name
        self._begun = buf, nbytes

    def _end(self, name: str, buf: Any, status: MPI.Status | None) -> None:
        shared = self._open()

        def prepare() -> None:
            if self._begun is None:
                raise SplitError(f"{name}_end: no {name}_begin was called")
            if shared.split != name:
                raise SplitError(f"{name}_end: {shared.split}_begin was called, and {shared.split}_end must come first")
            if _memory(buf) != _memory(self._begun[0]):
                raise SplitError(f"{name}_end: another buffer than that of {name}_begin")

        shared.agree_on(Operation.split_end, prepare)
        assert self._begun is not None
        _, nbytes = self._begun
        shared.split, self._begun = "", None
        told(status, nbytes)


def _memory(buf: Any) -> tuple[int, int]:
    """Where a buffer is, and how much of it is meant."""
    memory = memory_of(buf, write=False)
    return (memory.data.ctypes.data if memory.nbytes else 0), memory.nbytes
