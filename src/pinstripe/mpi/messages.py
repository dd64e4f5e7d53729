"""Messages of bytes, none longer than `MESSAGE_BYTES`: an MPI library may fail above 2 GiB."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

__all__ = ["MESSAGE_BYTES", "bcast_bytes", "bytes_of", "irecv", "isend"]

MESSAGE_BYTES = 512 << 20
"""Longest message; longer ones are cut. Tests set it low."""

Bytes = npt.NDArray[np.uint8]


def bytes_of(buffer: Any) -> Bytes:
    """View any contiguous buffer as flat bytes, without copying."""
    if isinstance(buffer, np.ndarray):
        return buffer.reshape(-1).view(np.uint8)
    return np.frombuffer(buffer, np.uint8)


def isend(comm: MPI.Intracomm, data: Bytes, rank: int, tag: int) -> list[MPI.Request]:
    """Independent. Start to send `data`, in as many messages as it takes; `data` stays untouched until they are done."""
    return [comm.Isend([piece, MPI.BYTE], rank, tag) for piece in _pieces(data)]


def irecv(comm: MPI.Intracomm, data: Bytes, rank: int, tag: int) -> list[MPI.Request]:
    """Independent. Start to receive what `isend` sends: exactly ``len(data)`` bytes, known on both sides."""
    return [comm.Irecv([piece, MPI.BYTE], rank, tag) for piece in _pieces(data)]


def bcast_bytes(comm: MPI.Intracomm, data: bytes, length: int, root: int) -> bytes:
    """Collective. Give every rank the `length` bytes that `root` has; the others' `data` is ignored."""
    if comm.Get_size() == 1:
        return data
    buffer = np.empty(length, np.uint8)
    if comm.Get_rank() == root:
        buffer[:] = np.frombuffer(data, np.uint8)
    for piece in _pieces(buffer):
        comm.Bcast([piece, MPI.BYTE], root)
    return buffer.tobytes()


def _pieces(data: Bytes) -> list[Bytes]:
    return [data[start : start + MESSAGE_BYTES] for start in range(0, data.size, MESSAGE_BYTES)]
