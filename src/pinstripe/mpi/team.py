"""MPITeam: the store's Team contract over a channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from .agree import Operation, agree
from .channel import Channel
from .messages import bcast_bytes, bytes_of, irecv, isend

__all__ = ["MPITeam", "world_team"]

Array = npt.NDArray[Any]

_FIRST_BYTES = 1024


class MPITeam:
    """All ranks of a communicator as a Team. Data is never pickled; every message is bounded.

    Each method is collective and, but for `agree`, assumes that the others are in it too: whoever may fail between two
    of them catches that, goes on, and brings it to the next `agree`.

    Attributes
    ----------
    rank, size : int
        As in the communicator.
    channel : Channel
        Where it talks.
    file : int
        Number of the file it works for; 0 = none yet.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.rank, self.size = channel.rank, channel.size
        self.file = 0

    def agree(self, error: BaseException | None = None) -> None:
        """Collective. If any rank gives an error, every rank raises it: the lowest rank's, with rank and host named."""
        agree(self.channel, Operation.team, self.file, error)

    def barrier(self) -> None:
        """Collective. Return when all ranks have called."""
        if self.size > 1:
            self.channel.comm.Barrier()

    def broadcast(self, value: bytes | None, root: int = 0) -> bytes:
        """Collective. Give every rank the bytes that `root` has. Does not return on any rank if one stays away."""
        data = b""
        if self.rank == root:
            assert value is not None
            data = bytes(value)
        if self.size == 1:
            return data
        # One message where the value is short, as most are: its length and its beginning.
        first = np.zeros(_FIRST_BYTES, np.uint8)
        if self.rank == root:
            first[:8].view(np.int64)[0] = len(data)
            begun = np.frombuffer(data[: _FIRST_BYTES - 8], np.uint8)
            first[8 : 8 + begun.size] = begun
        self.channel.comm.Bcast([first, MPI.BYTE], root)
        length = int(first[:8].view(np.int64)[0])
        if length <= _FIRST_BYTES - 8:
            return first[8 : 8 + length].tobytes()
        rest = bcast_bytes(self.channel.comm, data[_FIRST_BYTES - 8 :], length - _FIRST_BYTES + 8, root)
        return first[8:].tobytes() + rest

    def gather(self, array: Array, root: int = 0) -> list[Array] | None:
        """Collective. Give `root` the one-dimensional arrays of all ranks, in rank order; None elsewhere."""
        array = np.ascontiguousarray(array)
        if self.size == 1:
            return [array]
        lengths = self._lengths(array.size)
        tag = self.channel.next_tag()
        if self.rank != root:
            MPI.Request.Waitall(isend(self.channel.comm, bytes_of(array), root, tag))
            return None
        gathered = [array if rank == root else np.empty(lengths[rank], array.dtype) for rank in range(self.size)]
        requests = []
        for rank, other in enumerate(gathered):
            if rank != root:
                requests += irecv(self.channel.comm, bytes_of(other), rank, tag)
        MPI.Request.Waitall(requests)
        return gathered

    def allgather(self, array: Array) -> list[Array]:
        """Collective. Give every rank the one-dimensional arrays of all ranks, in rank order."""
        array = np.ascontiguousarray(array)
        if self.size == 1:
            return [array]
        lengths = self._lengths(array.size)
        total = np.empty(int(lengths.sum()), array.dtype)
        ends = np.cumsum(lengths)
        # One broadcast a rank would be simpler; a long Allgatherv is what libraries do best, so only its counts are cut.
        step = max(1, (1 << 30) // max(1, array.dtype.itemsize * self.size))
        if int(lengths.max(initial=0)) <= step:
            counts = lengths * array.dtype.itemsize
            self.channel.comm.Allgatherv(
                [bytes_of(array), MPI.BYTE], [bytes_of(total), (counts, np.cumsum(counts) - counts), MPI.BYTE]
            )
        else:
            for rank in range(self.size):
                piece = total[ends[rank] - lengths[rank] : ends[rank]]
                if rank == self.rank:
                    piece[:] = array
                for start in range(0, piece.size, step):
                    self.channel.comm.Bcast([bytes_of(piece[start : start + step]), MPI.BYTE], rank)
        return [total[ends[rank] - lengths[rank] : ends[rank]] for rank in range(self.size)]

    def exchange(self, arrays: Sequence[Array]) -> list[Array]:
        """Collective. Send ``arrays[r]`` to rank r; return what each rank sent here, in rank order. One dtype."""
        given = [np.ascontiguousarray(array) for array in arrays]
        if self.size == 1:
            return given
        comm, tag = self.channel.comm, self.channel.next_tag()
        sent = np.array([array.size for array in given], np.int64)
        due = np.empty_like(sent)
        comm.Alltoall(sent, due)
        received = [np.empty(due[rank], given[rank].dtype) for rank in range(self.size)]
        received[self.rank] = given[self.rank]
        requests = []
        for step in range(1, self.size):
            rank = (self.rank - step) % self.size
            requests += irecv(comm, bytes_of(received[rank]), rank, tag)
        for step in range(1, self.size):
            rank = (self.rank + step) % self.size
            requests += isend(comm, bytes_of(given[rank]), rank, tag)
        MPI.Request.Waitall(requests)
        return received

    def _lengths(self, length: int) -> npt.NDArray[np.int64]:
        lengths = np.empty(self.size, np.int64)
        self.channel.comm.Allgather(np.array([length], np.int64), lengths)
        return lengths


def world_team() -> MPITeam:
    """Collective. Return the team of all ranks of the job."""
    return MPITeam(Channel.of(MPI.COMM_WORLD))
