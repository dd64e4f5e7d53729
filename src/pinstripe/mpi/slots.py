"""Slots: memory that all ranks of a host reach, for the rounds of an exchange. Two for each rank, kept by the channel.

Each rank makes one anonymous file in memory (memfd_create(2)) and the others of its host map it by way of
``/proc/PID/fd``: no name to clean up, no limit of /dev/shm, nothing for other users to open.
"""

from __future__ import annotations

import mmap
import os
import secrets
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ..kernels import crc64
from ..store.writer_identity import this_writer
from .channel import Channel

__all__ = ["SLOT_BYTES_MOST", "Slots", "slots_of"]

SLOT_BYTES_MOST = 64 << 20
"""Largest slot; a call that needs larger ones is exchanged in messages."""

Bytes = npt.NDArray[np.uint8]

_PAGE = mmap.PAGESIZE  # before the slots; holds the cookie


class Slots:
    """Two slots of each rank on this host, mapped here.

    Attributes
    ----------
    nbytes : int
        Of one slot.
    near : bool array
        Which ranks of the communicator have theirs mapped here; this rank is one of them.
    """

    def __init__(self, nbytes: int, memory: dict[int, mmap.mmap], ranks: int) -> None:
        self.nbytes = nbytes
        self.near = np.zeros(ranks, np.bool_)
        self.near[list(memory)] = True
        self._data = {rank: np.frombuffer(mapped, np.uint8)[_PAGE:] for rank, mapped in memory.items()}

    def of(self, rank: int, number: int) -> Bytes:
        """Return the slot of `rank` that round `number` uses."""
        begin = number % 2 * self.nbytes
        return self._data[rank][begin : begin + self.nbytes]


def slots_of(channel: Channel, nbytes: int) -> Slots | None:
    """Collective. Return slots of at least `nbytes` (alike on all ranks), or None where some ranks of a host cannot share memory.

    Made once and kept; made anew where larger ones are needed.
    """
    if channel.size == 1 or nbytes > SLOT_BYTES_MOST or channel.cannot_share:
        return None
    if channel.slots is None or channel.slots.nbytes < nbytes:
        channel.slots = None  # its memory goes first
        channel.slots = _share(channel, nbytes)
        channel.cannot_share = channel.slots is None
    return channel.slots


def _share(channel: Channel, nbytes: int) -> Slots | None:
    """Collective. Make this rank's memory, map the others'; None where it failed on any rank, or no two share a host."""
    length = _PAGE + 2 * nbytes
    mine = np.zeros(4, np.int64)  # node, process, descriptor, cookie; all zero = cannot
    memory: dict[int, mmap.mmap] = {}
    fd = -1
    with suppress(OSError, AttributeError, ValueError):
        fd = os.memfd_create("pinstripe-slots", os.MFD_CLOEXEC)
        os.ftruncate(fd, length)
        memory[channel.rank] = mmap.mmap(fd, length)
        mine[:] = _node(channel), os.getpid(), fd, 1 + secrets.randbits(62)
        memory[channel.rank][:8] = mine[3:].tobytes()
    told = np.empty((channel.size, 4), np.int64)
    channel.comm.Allgather(mine, told)
    good = np.array([mine[3] != 0], np.int64)
    for rank in np.flatnonzero(told[:, 0] == mine[0]).tolist():
        if rank != channel.rank and good[0]:
            try:
                memory[rank] = _mapped(told[rank], length)
            except (OSError, ValueError):
                good[0] = 0
    channel.comm.Allreduce(MPI.IN_PLACE, good, MPI.MIN)
    if fd >= 0:
        os.close(fd)
    if not good[0] or np.unique(told[:, 0]).size == channel.size:
        return None
    return Slots(nbytes, memory, channel.size)


def _node(channel: Channel) -> int:
    """Return a number that ranks have in common which see the same processes under the same numbers."""
    here = this_writer()
    return crc64(f"{channel.hosts[channel.rank]} {here.boot} {here.pidns}".encode()) >> 1


def _mapped(told: npt.NDArray[np.int64], length: int) -> mmap.mmap:
    """Map another process's memory, of which it told the numbers.

    Raises
    ------
    OSError
        It cannot be reached.
    ValueError
        What lies there is something else.
    """
    _, pid, fd, cookie = told.tolist()
    with open(f"/proc/{pid}/fd/{fd}", "r+b", buffering=0) as file:
        mapped = mmap.mmap(file.fileno(), length)
    if int.from_bytes(mapped[:8], "little") != cookie:
        raise ValueError("another file")
    return mapped
