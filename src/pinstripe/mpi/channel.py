"""Channel: our private duplicate of a communicator, one for each communicator, kept as its attribute and freed with it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from .rank_error import MPIError, located

if TYPE_CHECKING:
    from .slots import Slots

__all__ = ["Channel"]

_TAGS = 1 << 14  # MPI guarantees tags up to 32767


class Channel:
    """One communicator's private duplicate, and what all files opened on that communicator share.

    Messages of ours cannot meet the user's. A file does not duplicate again, so ten thousand opens take one context
    id. Calls on files of one communicator are made in the same order on all ranks, by one thread at a time.

    Attributes
    ----------
    comm : MPI.Intracomm
        The duplicate.
    rank, size : int
        As in the user's communicator.
    hosts : list of str
        Name of each rank's host.
    calls : int
        How many agreements there have been; the same on all ranks.
    slots : Slots or None
        Memory shared with the ranks of this host, once an exchange has needed it.
    cannot_share : bool
        Whether that was tried and failed; the same on all ranks.
    """

    _keyval: int = MPI.KEYVAL_INVALID

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.hosts = _host_names(comm)
        self.calls = 0
        self.slots: Slots | None = None
        self.cannot_share = False
        self._serial = 0
        self._tag = 0
        self._files: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    @classmethod
    def of(cls, comm: MPI.Intracomm) -> Channel:
        """Return the channel of `comm`. Collective on the first use of `comm`, else independent.

        Raises
        ------
        MPIError
            `comm` is null, or no intracommunicator.
        """
        given: object = comm
        if not isinstance(given, MPI.Intracomm) or comm == MPI.COMM_NULL:
            error = MPIError("files are opened on an intracommunicator", MPI.ERR_COMM)
            raise located(error, MPI.COMM_WORLD.Get_rank(), MPI.Get_processor_name())
        if cls._keyval == MPI.KEYVAL_INVALID:
            # No copy function: a duplicate of the user's communicator is another communicator and gets its own.
            cls._keyval = MPI.Comm.Create_keyval(delete_fn=cls._freed)
        channel = comm.Get_attr(cls._keyval)
        if channel is None:
            duplicate = comm.Dup()
            duplicate.Set_errhandler(MPI.ERRORS_RETURN)  # which mpi4py turns into exceptions
            channel = cls(duplicate)
            comm.Set_attr(cls._keyval, channel)
        assert isinstance(channel, cls)
        return channel

    @staticmethod
    def _freed(comm: MPI.Comm, keyval: int, channel: Channel) -> None:
        if channel.comm != MPI.COMM_NULL and not MPI.Is_finalized():
            channel.comm.Free()

    def next_serial(self) -> int:
        """Return a number for a file: the same on all ranks, for opens are collective."""
        self._serial += 1
        return self._serial

    def register(self, serial: int, file: Any) -> None:
        """Make an open file known under its number, for as long as somebody holds it."""
        self._files[serial] = file

    def file(self, serial: int) -> Any | None:
        """Return the open file with this number, if this rank still has it."""
        return self._files.get(serial)

    def next_tag(self) -> int:
        """Return a tag for one exchange. Collective in effect: every rank takes the same ones in the same order."""
        self._tag = (self._tag + 1) % _TAGS
        return self._tag


def _host_names(comm: MPI.Intracomm) -> list[str]:
    names = np.empty(comm.Get_size(), "S64")
    name = np.array([MPI.Get_processor_name().encode()[:64]], "S64")
    comm.Allgather([name.view(np.uint8), MPI.BYTE], [names.view(np.uint8), MPI.BYTE])
    return [host.decode(errors="replace") for host in names.tolist()]
