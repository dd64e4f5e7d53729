"""The calls of `File` on the shared pointer. All ranks need the same view, as MPI says."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from ..errors import ArgumentError, UnsupportedError
from ..kernels import crc64
from .agree import Operation
from .calls import Calls
from .memory import memory_of
from .pointer import SharedPointer
from .rank_error import located
from .request import Request

__all__ = ["SharedCalls"]


class SharedCalls(Calls):
    """A call moves the pointer by what it asks for, also where the file ends before. A rank's place is its own: nobody else gets it."""

    # --- each rank when it likes ---

    def Read_shared(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Independent. Read at the shared pointer and move it. An error is raised here only."""
        self._read_alone(self._take_place(buf, write=False), buf, status)

    def Write_shared(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Independent. Write at the shared pointer and move it. An error is raised here, and on all ranks at the next collective call."""
        self._write_alone(self._take_place(buf, write=True), buf, status)

    def Iread_shared(self, buf: Any) -> Request:
        """Independent. As `Read_shared`; the request is complete."""
        return self._complete(self._read_alone(self._take_place(buf, write=False), buf))

    def Iwrite_shared(self, buf: Any) -> Request:
        """Independent. Move the shared pointer and begin to write where it was; errors as `Iwrite_at`."""
        return self._request(self._write_alone(self._take_place(buf, write=True), buf, deferred=True))

    # --- in the order of ranks ---

    def Read_ordered(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. Read at the shared pointer, one rank's piece behind the other's. An error on one rank is raised on all."""
        self._read_ordered(buf, status)

    def Write_ordered(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. Write at the shared pointer, one rank's piece behind the other's. An error on one rank is raised on all."""
        self._write_ordered(buf, status)

    def _read_ordered(self, buf: Any, status: MPI.Status | None = None) -> int:
        operation = Operation.read_ordered
        return self._read_together(operation, self._take_places(operation, buf, write=False), buf, status)

    def _write_ordered(self, buf: Any, status: MPI.Status | None = None, *, deferred: bool = False) -> int:
        operation = Operation.write_ordered
        offset = self._take_places(operation, buf, write=True)
        return self._write_together(operation, offset, buf, status, deferred=deferred)

    # --- the pointer itself ---

    def Seek_shared(self, offset: int, whence: int = MPI.SEEK_SET) -> None:
        """Collective. Move the shared pointer, in etypes; the same arguments on all ranks. An error on one rank is raised on all."""
        shared, pointer = self._open(), self._shared_pointer()

        def prepare() -> None:
            if whence not in (MPI.SEEK_SET, MPI.SEEK_CUR, MPI.SEEK_END):
                raise ArgumentError(f"whence={whence}: one of SEEK_SET, SEEK_CUR, SEEK_END")

        summaries = shared.agree_on(Operation.seek_shared, prepare, same=crc64(repr((offset, whence)).encode()) >> 1)
        end = self._view.etypes_below(int(summaries["size"].max()))

        def move(position: int) -> int:
            to = offset + {MPI.SEEK_SET: 0, MPI.SEEK_CUR: position, MPI.SEEK_END: end}[whence]
            if to < 0:
                raise ArgumentError(f"a seek to {to}: must be 0 or more")
            return to

        shared.first_does(lambda: pointer.change(move))

    def Get_position_shared(self) -> int:
        """Independent. Return the shared pointer, in etypes of the view. An error is raised here only."""
        shared = self._open()
        shared.check()
        try:
            return self._shared_pointer().get()
        except Exception as error:
            raise located(error, shared.rank, shared.host) from error

    def _shared_pointer(self) -> SharedPointer:
        self._open()
        assert self._pointer is not None
        return self._pointer

    def _count(self, buf: Any, *, write: bool) -> int:
        """Return how many etypes a call asks for; refuse what cannot be meant before the pointer moves."""
        shared = self._open()
        if not (shared.writable if write else shared.readable):
            words = "reading" if write else "writing"
            raise UnsupportedError(f"the file is open for {words} only", path=shared.session.path)
        memory = memory_of(buf, write=not write)
        self._access(0, memory)
        return memory.nbytes // self._view.etype_bytes

    def _take_place(self, buf: Any, *, write: bool) -> int:
        shared = self._open()
        shared.check()
        try:
            return self._shared_pointer().advance(self._count(buf, write=write))
        except Exception as error:
            raise located(error, shared.rank, shared.host) from error

    def _take_places(self, operation: Operation, buf: Any, *, write: bool) -> int:
        """Collective. Move the pointer once, by what all ranks ask for; return this rank's place."""
        shared, counts = self._open(), [0]
        pointer = self._shared_pointer()
        shared.check()
        error: BaseException | None = None
        try:
            counts[0] = self._count(buf, write=write)
        except BaseException as caught:
            error = caught

        def prepare() -> None:
            if error is not None:
                raise error

        asked = shared.agree_on(operation, prepare, nbytes=counts[0])["nbytes"]
        first = shared.first_does(lambda: pointer.advance(int(asked.sum())))
        return first + int(np.sum(asked[: shared.rank]))
