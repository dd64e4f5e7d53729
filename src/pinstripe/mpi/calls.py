"""Calls: what all data calls of `File` do, whatever moves the position: buffers, views, status."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ..errors import ArgumentError
from .agree import Operation
from .collective import CollectiveFile, Prepared
from .extents import Access
from .memory import Memory, memory_of
from .pointer import SharedPointer
from .rank_error import MPIError, located
from .request import Request
from .view import View

__all__ = ["Calls", "told"]


class Calls:
    """The state of an open file, and the four kinds of access. `File` is made of it and of the families of calls."""

    def __init__(self) -> None:
        self._shared: CollectiveFile | None = None
        self._view = View()
        self._position = 0
        self._pointer: SharedPointer | None = None

    def __bool__(self) -> bool:
        return self._shared is not None

    def _open(self) -> CollectiveFile:
        if self._shared is None:
            raise located(MPIError("the file is null", MPI.ERR_FILE), 0, MPI.Get_processor_name())
        return self._shared

    def _wrong(self, text: str) -> Exception:
        shared = self._open()
        return located(ArgumentError(text), shared.rank, shared.host)

    def _etypes(self, nbytes: int) -> int:
        return -(-nbytes // self._view.etype_bytes)

    def _access(self, offset: int, memory: Memory) -> Access:
        if offset < 0:
            raise ArgumentError(f"offset={offset}: must be 0 or more")
        if memory.nbytes % self._view.etype_bytes:
            raise MPIError(
                f"{memory.nbytes} bytes are no whole elementary types of {self._view.etype_bytes} bytes", MPI.ERR_TYPE
            )
        return self._view.access(int(offset), memory.nbytes)

    # --- writing: the bytes given ---

    def _write_together(
        self, operation: Operation, offset: int, buf: Any, status: MPI.Status | None = None, *, deferred: bool = False
    ) -> int:
        nbytes: list[int] = []

        def prepare() -> Prepared:
            memory = memory_of(buf, write=False)
            nbytes.append(memory.nbytes)
            return self._access(offset, memory), memory.packed(), memory.width

        self._open().write_all(operation, prepare, deferred=deferred)
        return told(status, nbytes[0])

    def _write_alone(self, offset: int, buf: Any, status: MPI.Status | None = None, *, deferred: bool = False) -> int:
        shared = self._open()
        shared.check()
        try:
            memory = memory_of(buf, write=False)
            access, data = self._access(offset, memory), memory.packed()
        except Exception as error:
            raise located(error, shared.rank, shared.host) from error
        shared.write(access, data, memory.width, deferred=deferred)
        return told(status, memory.nbytes)

    # --- reading: the bytes that there were ---

    def _read_together(self, operation: Operation, offset: int, buf: Any, status: MPI.Status | None = None) -> int:
        landings: list[tuple[Memory, npt.NDArray[np.uint8]]] = []

        def prepare() -> tuple[Access, npt.NDArray[np.uint8]]:
            memory = memory_of(buf, write=True)
            landings.append((memory, memory.landing()))
            return self._access(offset, memory), landings[0][1]

        count = self._open().read_all(operation, prepare)
        memory, landing = landings[0]
        memory.unpack(landing, count)
        return told(status, count)

    def _read_alone(self, offset: int, buf: Any, status: MPI.Status | None = None) -> int:
        shared = self._open()
        shared.check()
        try:
            memory = memory_of(buf, write=True)
            access, landing = self._access(offset, memory), memory.landing()
        except Exception as error:
            raise located(error, shared.rank, shared.host) from error
        count = shared.read(access, landing)
        memory.unpack(landing, count)
        return told(status, count)

    # --- requests ---

    def _request(self, nbytes: int) -> Request:
        """Return the request of what was put into the backlog last; if nothing waits there, it is complete."""
        shared = self._open()
        return Request._of(shared, shared.backlog.last, nbytes)

    def _complete(self, nbytes: int) -> Request:
        """Return a request that is complete."""
        return Request._of(self._open(), 0, nbytes)


def told(status: MPI.Status | None, nbytes: int) -> int:
    """Tell a status how many bytes were moved."""
    if status is not None:
        status.Set_elements(MPI.BYTE, nbytes)
        status.Set_cancelled(False)
    return nbytes
