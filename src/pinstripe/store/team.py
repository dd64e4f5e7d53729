"""Team: how work that many ranks can share speaks to them. The serial one is here; the MPI one is in `pinstripe.mpi`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["SERIAL", "SerialTeam", "Team"]

Array = npt.NDArray[Any]


class Team(Protocol):
    """What a collective operation of the store needs of its ranks. Every method is collective; no data is pickled.

    Attributes
    ----------
    rank, size : int
        This rank's number, and how many there are.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...

    def agree(self, error: BaseException | None = None) -> None:
        """Collective. If any rank gives an error, every rank raises it: the lowest rank's, with rank and host named."""

    def broadcast(self, value: bytes | None, root: int = 0) -> bytes:
        """Collective. Give every rank the bytes that `root` has."""
        ...

    def gather(self, array: Array, root: int = 0) -> list[Array] | None:
        """Collective. Give `root` the one-dimensional arrays of all ranks, in rank order; None elsewhere."""
        ...

    def allgather(self, array: Array) -> list[Array]:
        """Collective. Give every rank the one-dimensional arrays of all ranks, in rank order."""
        ...

    def exchange(self, arrays: Sequence[Array]) -> list[Array]:
        """Collective. Send ``arrays[r]`` to rank r; return what each rank sent here, in rank order. One dtype."""
        ...


class SerialTeam:
    """A team of one."""

    rank = 0
    size = 1

    def agree(self, error: BaseException | None = None) -> None:
        """Raise the error, if there is one."""
        if error is not None:
            raise error

    def broadcast(self, value: bytes | None, root: int = 0) -> bytes:
        """Return `value`."""
        assert value is not None
        return value

    def gather(self, array: Array, root: int = 0) -> list[Array] | None:
        """Return the one array."""
        return [array]

    def allgather(self, array: Array) -> list[Array]:
        """Return the one array."""
        return [array]

    def exchange(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the one array."""
        return [np.asarray(array) for array in arrays]


SERIAL = SerialTeam()
