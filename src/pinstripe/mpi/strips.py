"""Strips: the messages of a contiguous write. Whole stripes stay where they are; only the ends of a rank's extent travel."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from ..kernels import crc64
from .exchange import Bytes, Call, Failure, Sink, damaged, room
from .extents import Offsets
from .messages import irecv, isend
from .plan import Edges, Strips

__all__ = ["send_strips"]

_HEADER = 8  # the checksum


def send_strips(call: Call, plan: Edges, data: Bytes, sink: Sink, write_whole: Callable[[], None]) -> None:
    """Collective. Carry out a contiguous write.

    `write_whole` writes this rank's whole stripes while the strips are under way. A failure on this rank is raised when
    its messages are done; it is known to the others only by the agreement that follows.

    Parameters
    ----------
    plan : Edges
        This rank's.
    data : uint8 array
        This rank's bytes, of which the first belongs at ``call.access.lo``.
    sink : Sink
        Takes the strips that this rank owns.
    """
    failure, stages, tag, base = Failure(), call.stages, call.channel.next_tag(), call.access.lo
    began = time.perf_counter_ns()
    landing, places = _landing(plan.receives)
    arriving: list[MPI.Request] = []
    for rank, place, length in _rows(plan.receives.peers, places, plan.receives.lengths):
        arriving += irecv(call.channel.comm, landing[place : place + _HEADER + length], rank, tag)
    leaving: list[MPI.Request] = []
    for rank, offset, length in _rows(plan.sends.peers, plan.sends.offsets, plan.sends.lengths):
        message, strip = np.empty(_HEADER + length, np.uint8), data[offset - base : offset - base + length]
        message[:_HEADER].view(np.uint64)[0] = crc64(strip)  # of the caller's memory, not of the copy
        message[_HEADER:] = strip
        leaving += isend(call.channel.comm, message, rank, tag)
        stages.exchange_bytes += length
        stages.messages += 1
    stages.exchange_ns += time.perf_counter_ns() - began
    with failure:
        write_whole()
    began = time.perf_counter_ns()
    MPI.Request.Waitall(arriving)
    with failure:
        _check(plan.receives, landing, places)
    stages.exchange_ns += time.perf_counter_ns() - began
    if not failure:
        with failure:
            if plan.kept.offsets.size:
                sink.write_extents(plan.kept.offsets, data, plan.kept.offsets - base, plan.kept.lengths)
            if plan.receives.offsets.size:
                sink.write_extents(plan.receives.offsets, landing, places + _HEADER, plan.receives.lengths)
    MPI.Request.Waitall(leaving)
    failure.reraise()


def _landing(strips: Strips) -> tuple[Bytes, Offsets]:
    taken = room(strips.lengths) + _HEADER
    return np.empty(int(taken.sum()), np.uint8), np.cumsum(taken) - taken


def _check(strips: Strips, landing: Bytes, places: Offsets) -> None:
    for rank, place, length in _rows(strips.peers, places, strips.lengths):
        told = int(landing[place : place + _HEADER].view(np.uint64)[0])
        found = crc64(landing[place + _HEADER : place + _HEADER + length])
        if told != found:
            raise damaged(rank, told, found)


def _rows(*columns: Offsets) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in columns), strict=True))
