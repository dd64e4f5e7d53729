"""Gather: the rounds of a shared read. Each stripe's owner reads and decodes it once and gives every rank its pieces.

In each round a rank sends each owner a table of what it wants. Far ranks get the bytes in a message. For near ones, on
the same host, the owner decodes into its slot and says so; they copy their pieces from there straight to where the caller
wants them, and say when they have.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ..kernels import copy_extents, crc64
from .agree import Operation, agree
from .exchange import Bytes, Call, Failure, Source, Travel, damaged, groups, most, room, rounds_of
from .extents import Offsets
from .messages import irecv, isend
from .plan import Pieces, merged

__all__ = ["gather"]

_HEADER = 16  # checksum of the bytes; whether the owner failed


def gather(call: Call, out: Bytes, source: Source) -> None:
    """Collective. Carry out a shared read.

    A failure on this rank is raised when all its messages are done; the others learn of it in the agreement that follows.

    Parameters
    ----------
    out : uint8 array
        Where this rank's bytes go, as ``call.access`` orders them.
    source : Source
        Reads pieces of stripes that this rank owns.
    """
    _Gather(call, out, source).run()


class _Gather:
    def __init__(self, call: Call, out: Bytes, source: Source) -> None:
        self._call, self._out, self._source = call, out, source
        self._failure = Failure()
        self._request_tag, self._reply_tag, self._taken_tag = (call.channel.next_tag() for _ in range(3))
        self._decoded = np.empty(0, np.uint8)
        self._arriving: list[list[MPI.Request]] = [[], []]
        self._landed: list[list[MPI.Request]] = [[], []]
        self._leaving: list[list[MPI.Request]] = [[], []]
        self._taken: list[list[MPI.Request]] = [[], []]
        self._answered: list[MPI.Request] = []
        self._told: list[MPI.Request] = []

    def run(self) -> None:
        call = self._call
        began = time.perf_counter_ns()
        self._rounds = rounds_of(call)
        rounds = self._rounds.count
        self._near = self._rounds.near
        error: BaseException | None = None
        wanted = np.zeros((call.channel.size, rounds, 2), np.int64)
        try:
            self._travel = Travel(call, self._rounds.cuts)
            wanted = self._travel.counts
        except BaseException as caught:
            error = caught
        self._wanted, self._asked = wanted, np.empty_like(wanted)
        call.channel.comm.Alltoall(wanted, self._asked)
        self._request_sizes, self._question_sizes = self._tables(self._wanted), self._tables(self._asked)
        self._landing_sizes, self._answer_sizes = self._replies(self._wanted), self._replies(self._asked)
        try:
            if error is None:
                slots = min(2, rounds)
                self._requests = [np.empty(most(self._request_sizes), np.int64) for _ in range(slots)]
                self._questions = [np.empty(most(self._question_sizes), np.int64) for _ in range(slots)]
                self._landing = [np.empty(most(self._landing_sizes), np.uint8) for _ in range(slots)]
                self._answers = np.empty(most(self._answer_sizes), np.uint8)
        except BaseException as caught:
            error = caught
        call.stages.plan_ns += time.perf_counter_ns() - began
        agree(call.channel, Operation.transfer, error=error)
        call.stages.rounds += rounds
        if rounds:
            self._ask(0)
        for number in range(rounds):
            if number + 1 < rounds:
                self._ask(number + 1)
            self._wait(self._arriving[number % 2])
            self._wait(self._taken[number % 2])  # by those who read from this slot two rounds ago
            self._wait(self._answered)
            self._answer(number)
            self._wait(self._landed[number % 2])
            with self._failure:
                if not self._failure:
                    self._take(number)
            for rank in np.flatnonzero(self._near & (self._wanted[:, number, 0] > 0)).tolist():
                self._told.append(call.channel.comm.Isend([_NOTHING, MPI.BYTE], rank, self._taken_tag))
                call.stages.messages += 1
        for requests in (*self._leaving, *self._taken, self._answered, self._told):
            self._wait(requests)
        self._failure.reraise()

    def _wait(self, requests: list[MPI.Request]) -> None:
        began = time.perf_counter_ns()
        MPI.Request.Waitall(requests)
        self._call.stages.exchange_ns += time.perf_counter_ns() - began

    def _tables(self, counts: npt.NDArray[np.int64]) -> Offsets:
        """Return the int64 numbers in the request to or from each rank in each round."""
        sizes = 2 * counts[..., 0]
        sizes[self._call.rank] = 0
        return sizes

    def _replies(self, counts: npt.NDArray[np.int64]) -> Offsets:
        """Return the bytes of the reply from or to each rank in each round."""
        payloads = np.where(self._near[:, None], 0, room(counts[..., 1]))
        sizes = np.where(counts[..., 0] > 0, _HEADER + payloads, 0)
        sizes[self._call.rank] = 0
        return np.asarray(sizes, np.int64)

    def _ask(self, number: int) -> None:
        """Start one round: requests out, room for requests and replies of others."""
        comm, slot = self._call.channel.comm, number % 2
        self._wait(self._leaving[slot])
        self._told = [request for request in self._told if not request.Test()]
        self._arriving[slot], self._landed[slot], self._leaving[slot] = [], [], []
        for buffer, sizes, requests, tag in (
            (self._questions[slot], self._question_sizes[:, number], self._arriving[slot], self._request_tag),
            (self._landing[slot], self._landing_sizes[:, number], self._landed[slot], self._reply_tag),
        ):
            places = np.cumsum(sizes) - sizes
            for rank in np.flatnonzero(sizes).tolist():
                part = buffer[places[rank] : places[rank] + sizes[rank]].view(np.uint8)
                requests += irecv(comm, part, rank, tag)
        sizes = self._request_sizes[:, number]
        places = np.cumsum(sizes) - sizes
        table = self._requests[slot]
        with self._failure:
            pieces, peers, _ = self._travel.round(number)
            starts = groups(peers, self._call.channel.size)
            for rank in np.flatnonzero(sizes).tolist():
                first, last = starts[rank], starts[rank + 1]
                table[places[rank] : places[rank] + last - first] = pieces.offsets[first:last]
                table[places[rank] + last - first : places[rank] + sizes[rank]] = pieces.lengths[first:last]
        if self._failure:
            table[: int(sizes.sum())] = 0  # asks for nothing
        for rank in np.flatnonzero(sizes).tolist():
            part = table[places[rank] : places[rank] + sizes[rank]].view(np.uint8)
            self._leaving[slot] += isend(comm, part, rank, self._request_tag)
            self._call.stages.messages += 1

    # --- the owner ---

    def _answer(self, number: int) -> None:
        """Read what was asked of this rank, once, and start to send it, or to say where it is."""
        call = self._call
        sizes = self._answer_sizes[:, number]
        places = np.cumsum(sizes) - sizes
        with self._failure:
            if not self._failure:
                self._read(number, places)
        began = time.perf_counter_ns()
        self._answered, self._taken[number % 2] = [], []
        for rank in np.flatnonzero(sizes).tolist():
            part = self._answers[places[rank] : places[rank] + sizes[rank]]
            header = part[:_HEADER].view(np.uint64)
            header[0], header[1] = 0, bool(self._failure)
            if self._near[rank]:
                self._taken[number % 2].append(call.channel.comm.Irecv([bytearray(), MPI.BYTE], rank, self._taken_tag))
            elif not self._failure:
                header[0] = crc64(part[_HEADER : _HEADER + int(self._asked[rank, number, 1])])
            self._answered += isend(call.channel.comm, part, rank, self._reply_tag)
            call.stages.exchange_bytes += int(sizes[rank])
            call.stages.messages += 1
        call.stages.exchange_ns += time.perf_counter_ns() - began

    def _read(self, number: int, places: Offsets) -> None:
        call, rounds = self._call, self._rounds
        pieces, peers, _ = self._travel.round(number)
        own = pieces.take(peers == call.rank)
        tables = self._question_sizes[:, number]
        begins = np.cumsum(tables) - tables
        offsets, lengths, far = [own.offsets], [own.lengths], []
        for rank in np.flatnonzero(tables).tolist():
            table = self._questions[number % 2][begins[rank] : begins[rank] + tables[rank]]
            count = table.size // 2
            offsets.append(table[:count])
            lengths.append(table[count:])
            if not self._near[rank]:
                targets = places[rank] + _HEADER + np.cumsum(table[count:]) - table[count:]
                far.append((table[:count], table[count:], targets))
        all_offsets, all_lengths = np.concatenate(offsets), np.concatenate(lengths)
        # Gaps of less than a block are decoded anyway; but what is read at once ends with its stripe.
        starts, stops = merged(all_offsets, all_offsets + all_lengths, call.rule.block_bytes - 1)
        if not starts.size:
            return
        if rounds.even:
            sb = call.rule.stripe_bytes
            runs = Pieces(starts, stops - starts, starts, starts // sb)
            begin = rounds.places(number, runs)
            if rounds.slots is not None:
                data = rounds.slots.of(call.rank, number)
            else:
                data = self._room(rounds.each * sb)
        else:
            begin = np.cumsum(stops - starts) - (stops - starts)
            data = self._room(int((stops - starts).sum()))
        self._source.read_pieces(starts, stops - starts, data, begin)
        began = time.perf_counter_ns()

        def copy(offsets: Offsets, lengths: Offsets, out: Bytes, targets: Offsets) -> None:
            some = lengths > 0  # a rank that failed asks for nothing, at no place
            offsets, lengths, targets = offsets[some], lengths[some], targets[some]
            run = np.searchsorted(starts, offsets, "right") - 1
            copy_extents(data, begin[run] + offsets - starts[run], out, targets, lengths)

        copy(own.offsets, own.lengths, self._out, own.places)
        for some, some_lengths, targets in far:
            copy(some, some_lengths, self._answers, targets)
        call.stages.exchange_ns += time.perf_counter_ns() - began

    def _room(self, nbytes: int) -> Bytes:
        if self._decoded.size < nbytes:
            self._decoded = np.empty(nbytes, np.uint8)
        return self._decoded

    # --- the one who asked ---

    def _take(self, number: int) -> None:
        """Check the replies and put their bytes where the caller wants them."""
        began = time.perf_counter_ns()
        call, rounds, landing = self._call, self._rounds, self._landing[number % 2]
        sizes = self._landing_sizes[:, number]
        places = np.cumsum(sizes) - sizes
        for rank in np.flatnonzero(sizes).tolist():
            header = landing[places[rank] : places[rank] + _HEADER].view(np.uint64)
            if header[1]:
                return  # the owner had failed, and will say so
            if self._near[rank]:
                continue
            begin = int(places[rank]) + _HEADER
            found = crc64(landing[begin : begin + int(self._wanted[rank, number, 1])])
            if int(header[0]) != found:
                raise damaged(rank, int(header[0]), found)
        pieces, peers, _ = self._travel.round(number)
        starts = groups(peers, call.channel.size)
        for rank in np.flatnonzero(sizes).tolist():
            some = pieces.take(slice(int(starts[rank]), int(starts[rank + 1])))
            if self._near[rank]:
                assert rounds.slots is not None
                copy_extents(
                    rounds.slots.of(rank, number), rounds.places(number, some), self._out, some.places, some.lengths
                )
                call.stages.count_put(int(some.lengths.sum()))
            else:
                from_places = places[rank] + _HEADER + np.cumsum(some.lengths) - some.lengths
                copy_extents(landing, from_places, self._out, some.places, some.lengths)
        call.stages.exchange_ns += time.perf_counter_ns() - began


_NOTHING = bytearray()
