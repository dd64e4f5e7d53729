"""Gather: the rounds of a shared read. Each stripe's owner reads and decodes it once and sends every rank its pieces."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ..kernels import copy_extents, crc64
from .agree import Operation, agree
from .exchange import Bytes, Call, Failure, Source, Travel, damaged, groups, room
from .extents import Offsets
from .messages import irecv, isend
from .plan import merged
from .scatter import agree_on_rounds

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
        self._request_tag, self._reply_tag = call.channel.next_tag(), call.channel.next_tag()
        self._decoded = np.empty(0, np.uint8)

    def run(self) -> None:
        call = self._call
        cuts = agree_on_rounds(call)
        rounds = cuts.size - 1
        error: BaseException | None = None
        wanted = np.zeros((call.channel.size, rounds, 2), np.int64)
        try:
            self._travel = Travel(call, cuts)
            wanted = self._travel.counts
        except BaseException as caught:
            error = caught
        self._wanted, self._asked = wanted, np.empty_like(wanted)
        call.channel.comm.Alltoall(wanted, self._asked)
        try:
            if error is None:
                slots = min(2, rounds)
                self._requests = [np.empty(self._most(self._tables(wanted)), np.int64) for _ in range(slots)]
                self._questions = [np.empty(self._most(self._tables(self._asked)), np.int64) for _ in range(slots)]
                self._landing = [np.empty(self._most(self._replies(wanted)), np.uint8) for _ in range(slots)]
                self._answers = np.empty(self._most(self._replies(self._asked)), np.uint8)
        except BaseException as caught:
            error = caught
        agree(call.channel, Operation.transfer, error=error)
        call.stages.rounds += rounds
        self._arriving: list[list[MPI.Request]] = [[], []]
        self._landed: list[list[MPI.Request]] = [[], []]
        self._leaving: list[list[MPI.Request]] = [[], []]
        answers: list[MPI.Request] = []
        if rounds:
            self._ask(0)
        for number in range(rounds):
            if number + 1 < rounds:
                self._ask(number + 1)
            self._wait(self._arriving[number % 2])
            self._wait(answers)
            answers = self._answer(number)
            self._wait(self._landed[number % 2])
            with self._failure:
                if not self._failure:
                    self._take(number)
            self._wait(self._leaving[number % 2])
        self._wait(answers)
        self._failure.reraise()

    def _wait(self, requests: list[MPI.Request]) -> None:
        began = time.perf_counter_ns()
        MPI.Request.Waitall(requests)
        self._call.stages.exchange_ns += time.perf_counter_ns() - began

    def _tables(self, counts: npt.NDArray[np.int64]) -> Offsets:
        """Return the int64 numbers in the request to or from each rank."""
        sizes = 2 * counts[..., 0]
        sizes[self._call.rank] = 0
        return sizes

    def _replies(self, counts: npt.NDArray[np.int64]) -> Offsets:
        """Return the bytes of the reply from or to each rank."""
        sizes = np.where(counts[..., 0] > 0, _HEADER + room(counts[..., 1]), 0)
        sizes[self._call.rank] = 0
        return np.asarray(sizes, np.int64)

    @staticmethod
    def _most(sizes: Offsets) -> int:
        return int(sizes.sum(axis=0).max(initial=0))

    def _ask(self, number: int) -> None:
        """Start one round: requests out, room for requests and replies of others."""
        comm, slot = self._call.channel.comm, number % 2
        self._arriving[slot], self._landed[slot], self._leaving[slot] = [], [], []
        for buffer, sizes, requests, tag in (
            (self._questions[slot], self._tables(self._asked[:, number]), self._arriving[slot], self._request_tag),
            (self._landing[slot], self._replies(self._wanted[:, number]), self._landed[slot], self._reply_tag),
        ):
            places = np.cumsum(sizes) - sizes
            for rank in np.flatnonzero(sizes).tolist():
                part = buffer[places[rank] : places[rank] + sizes[rank]].view(np.uint8)
                requests += irecv(comm, part, rank, tag)
        sizes = self._tables(self._wanted[:, number])
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

    def _answer(self, number: int) -> list[MPI.Request]:
        """Read what was asked of this rank, once, and start to send it."""
        call = self._call
        sizes = self._replies(self._asked[:, number])
        places = np.cumsum(sizes) - sizes
        with self._failure:
            if not self._failure:
                self._read(number, sizes, places)
        began = time.perf_counter_ns()
        requests: list[MPI.Request] = []
        for rank in np.flatnonzero(sizes).tolist():
            part = self._answers[places[rank] : places[rank] + sizes[rank]]
            header = part[:_HEADER].view(np.uint64)
            header[1] = bool(self._failure)
            if not self._failure:
                header[0] = crc64(part[_HEADER : _HEADER + int(self._asked[rank, number, 1])])
            requests += isend(call.channel.comm, part, rank, self._reply_tag)
            call.stages.exchange_bytes += int(sizes[rank])
            call.stages.messages += 1
        call.stages.exchange_ns += time.perf_counter_ns() - began
        return requests

    def _read(self, number: int, sizes: Offsets, places: Offsets) -> None:
        call = self._call
        pieces, peers, _ = self._travel.round(number)
        own = pieces.take(peers == call.rank)
        tables = self._tables(self._asked[:, number])
        begins = np.cumsum(tables) - tables
        offsets, lengths, targets = [own.offsets], [own.lengths], [own.places]
        for rank in np.flatnonzero(sizes).tolist():
            table = self._questions[number % 2][begins[rank] : begins[rank] + tables[rank]]
            count = table.size // 2
            offsets.append(table[:count])
            lengths.append(table[count:])
            targets.append(places[rank] + _HEADER + np.cumsum(table[count:]) - table[count:])
        all_offsets, all_lengths = np.concatenate(offsets), np.concatenate(lengths)
        # Gaps of less than a block are decoded anyway.
        starts, stops = merged(all_offsets, all_offsets + all_lengths, call.rule.block_bytes - 1)
        if not starts.size:
            return
        begin = np.cumsum(stops - starts) - (stops - starts)
        if self._decoded.size < int((stops - starts).sum()):
            self._decoded = np.empty(int((stops - starts).sum()), np.uint8)
        data = self._decoded
        self._source.read_pieces(starts, stops - starts, data, begin)
        run = np.maximum(np.searchsorted(starts, all_offsets, "right") - 1, 0)
        from_places = begin[run] + all_offsets - starts[run]
        count = len(own)
        copy_extents(data, from_places[:count], self._out, targets[0], all_lengths[:count])
        copy_extents(
            data, from_places[count:], self._answers, np.concatenate([*targets[1:], _EMPTY]), all_lengths[count:]
        )

    def _take(self, number: int) -> None:
        """Check the replies and put their bytes where the caller wants them."""
        began = time.perf_counter_ns()
        call, landing = self._call, self._landing[number % 2]
        sizes = self._replies(self._wanted[:, number])
        places = np.cumsum(sizes) - sizes
        for rank in np.flatnonzero(sizes).tolist():
            header = landing[places[rank] : places[rank] + _HEADER].view(np.uint64)
            if header[1]:
                return  # the owner had failed, and will say so
            begin = int(places[rank]) + _HEADER
            found = crc64(landing[begin : begin + int(self._wanted[rank, number, 1])])
            if int(header[0]) != found:
                raise damaged(rank, int(header[0]), found)
        pieces, peers, _ = self._travel.round(number)
        starts = groups(peers, call.channel.size)
        before = np.concatenate(([0], np.cumsum(pieces.lengths)))
        away = peers != call.rank
        from_places = places[peers] + _HEADER + before[:-1] - before[starts[peers]]
        copy_extents(landing, from_places[away], self._out, pieces.places[away], pieces.lengths[away])
        call.stages.exchange_ns += time.perf_counter_ns() - began


_EMPTY = np.zeros(0, np.int64)
