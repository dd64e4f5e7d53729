"""Scatter: the rounds of an interleaved write. Every piece goes to its stripe's owner, who puts stripes together.

While the stripes of one round are encoded, the messages of the next are under way. A message is a header, a table of
extents, the bytes. A rank that holds a stripe whole writes it where it is and sends its owner a claim instead of the
bytes; so an owner sees every overlap, and forgets what it holds of that stripe from earlier calls.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ..errors import ArgumentError
from ..kernels import copy_extents, crc64
from .agree import Operation, agree
from .exchange import Bytes, Call, Failure, Sink, Travel, damaged, groups, room
from .extents import Offsets
from .messages import irecv, isend
from .plan import Pieces, cut_rounds, histogram_edges, overlap_of, stripes_alone

__all__ = ["agree_on_rounds", "scatter"]

_HEADER = 32  # checksum of the rest; extents; bytes; whether the sender had failed
_CLAIM = -1  # a length that says: the sender writes this stripe itself


def agree_on_rounds(call: Call) -> Offsets:
    """Collective. Cut the call into rounds; where the data is sparse, its bytes are counted first by one Allreduce."""
    rule = call.rule
    bins = histogram_edges(*call.spans, rule.stripe_bytes, rule.ownership, rule.batch_bytes)
    weights = None
    if bins is not None:
        weights = np.diff(call.access.below(bins * rule.stripe_bytes))
        call.channel.comm.Allreduce(MPI.IN_PLACE, weights)
    return cut_rounds(*call.spans, rule.stripe_bytes, rule.ownership, rule.batch_bytes, bins, weights)


def scatter(call: Call, data: Bytes, sink: Sink) -> None:
    """Collective. Carry out an interleaved write.

    A failure on this rank is raised when all its messages are done; the others learn of it in the agreement that follows.

    Parameters
    ----------
    data : uint8 array
        This rank's bytes, as ``call.access`` orders them.
    sink : Sink
        Takes whole stripes, and extents of stripes that this rank owns.

    Raises
    ------
    ArgumentError
        Ranks overlap, and the rule forbids it; raised by the owner that sees it.
    """
    _Scatter(call, data, sink).run()


class _Scatter:
    def __init__(self, call: Call, data: Bytes, sink: Sink) -> None:
        self._call, self._data, self._sink = call, data, sink
        self._failure = Failure()
        self._tag = call.channel.next_tag()
        self._stripes = np.empty(0, np.uint8)  # fresh memory for each round would be paid in page faults

    def run(self) -> None:
        call = self._call
        cuts = agree_on_rounds(call)
        rounds = cuts.size - 1
        error: BaseException | None = None
        sent = np.zeros((call.channel.size, rounds, 2), np.int64)
        try:
            self._travel = Travel(call, cuts, self._stay)
            sent = self._travel.counts
        except BaseException as caught:
            error = caught
        self._sent, self._due = sent, np.empty_like(sent)
        if call.channel.size > 1:
            call.channel.comm.Alltoall(sent, self._due)
        else:
            self._due[:] = sent
        try:
            if error is None:
                slots = min(2, rounds)
                self._outgoing = [np.empty(self._most(self._sent), np.uint8) for _ in range(slots)]
                self._incoming = [np.empty(self._most(self._due), np.uint8) for _ in range(slots)]
        except BaseException as caught:
            error = caught
        # From here on the messages of all ranks depend on each other; memory was the last thing that could be missing.
        agree(call.channel, Operation.transfer, error=error)
        call.stages.rounds += rounds
        self._arriving: list[list[MPI.Request]] = [[], []]
        self._leaving: list[list[MPI.Request]] = [[], []]
        if rounds:
            self._post(0)
        for number in range(rounds):
            if number + 1 < rounds:
                self._post(number + 1)
            began = time.perf_counter_ns()
            MPI.Request.Waitall(self._arriving[number % 2])
            call.stages.exchange_ns += time.perf_counter_ns() - began
            with self._failure:
                if not self._failure:
                    self._deliver(number)
            began = time.perf_counter_ns()
            MPI.Request.Waitall(self._leaving[number % 2])
            call.stages.exchange_ns += time.perf_counter_ns() - began
        self._failure.reraise()

    # --- sending ---

    def _stay(self, pieces: Pieces) -> tuple[Pieces, Pieces]:
        """Divide pieces into those that travel (claims among them) and whole stripes that this rank writes itself."""
        rule, rank = self._call.rule, self._call.rank
        kept = pieces.whole(rule.stripe_bytes)
        if not (rule.in_place and rule.ownership.owns(rank)):
            kept[:] = False
        if not kept.any():
            return pieces, pieces.take(kept)
        if rule.overlap != "error":  # where others come near, only the owner can let the higher rank win
            kept &= stripes_alone(pieces.stripes, *self._call.spans, rule.stripe_bytes, rank)
        staying = pieces.take(kept)
        lengths = np.where(kept, _CLAIM, pieces.lengths)
        return Pieces(pieces.offsets, lengths, pieces.places, pieces.stripes), staying

    def _sizes(self, counts: npt.NDArray[np.int64]) -> Offsets:
        """Return the bytes of the message to or from each rank, per round; none to oneself, none without pieces."""
        sizes = np.where(counts[..., 0] > 0, _HEADER + 16 * counts[..., 0] + room(counts[..., 1]), 0)
        sizes[self._call.rank] = 0
        return np.asarray(sizes, np.int64)

    def _most(self, counts: npt.NDArray[np.int64]) -> int:
        return int(self._sizes(counts).sum(axis=0).max(initial=0))

    def _post(self, number: int) -> None:
        """Start all messages of one round: first ours to receive, then pack, then send."""
        began = time.perf_counter_ns()
        call, slot = self._call, number % 2
        sizes = self._sizes(self._due[:, number])
        places = np.cumsum(sizes) - sizes
        self._arriving[slot] = []
        for rank in np.flatnonzero(sizes).tolist():
            part = self._incoming[slot][places[rank] : places[rank] + sizes[rank]]
            self._arriving[slot] += irecv(call.channel.comm, part, rank, self._tag)
        sizes = self._sizes(self._sent[:, number])
        places = np.cumsum(sizes) - sizes
        buffer = self._outgoing[slot]
        with self._failure:
            if not self._failure:
                self._pack(number, buffer, places, sizes)
        self._leaving[slot] = []
        for rank in np.flatnonzero(sizes).tolist():
            part = buffer[places[rank] : places[rank] + sizes[rank]]
            header = part[:_HEADER].view(np.int64)
            header[3] = bool(self._failure)
            if not self._failure:
                header[:1].view(np.uint64)[0] = crc64(part[8:])
            self._leaving[slot] += isend(call.channel.comm, part, rank, self._tag)
            call.stages.exchange_bytes += int(sizes[rank])
            call.stages.messages += 1
        call.stages.exchange_ns += time.perf_counter_ns() - began

    def _pack(self, number: int, buffer: Bytes, places: Offsets, sizes: Offsets) -> None:
        pieces, peers, _ = self._travel.round(number)
        starts = groups(peers, self._call.channel.size)
        lengths = np.maximum(pieces.lengths, 0)
        before = np.concatenate(([0], np.cumsum(lengths)))
        tables = places + _HEADER
        payloads = tables + 16 * np.diff(starts)
        for rank in np.flatnonzero(sizes).tolist():
            first, last = starts[rank], starts[rank + 1]
            header = buffer[places[rank] : tables[rank]].view(np.int64)
            header[1], header[2] = last - first, before[last] - before[first]
            table = buffer[tables[rank] : payloads[rank]].view(np.int64)
            table[: last - first] = pieces.offsets[first:last]
            table[last - first :] = pieces.lengths[first:last]
        away = (peers != self._call.rank) & (pieces.lengths > 0)
        targets = payloads[peers] + before[:-1] - before[starts[peers]]
        copy_extents(self._data, pieces.places[away], buffer, targets[away], lengths[away])

    # --- receiving ---

    def _deliver(self, number: int) -> None:
        """Check what came in one round, put stripes together, give all to the sink."""
        began = time.perf_counter_ns()
        call, rule, rank = self._call, self._call.rule, self._call.rank
        pieces, peers, staying = self._travel.round(number)
        own = pieces.take(peers == rank)
        incoming = self._incoming[number % 2]
        sizes = self._sizes(self._due[:, number])
        places = np.cumsum(sizes) - sizes
        parts: list[tuple[int, Bytes, Pieces]] = []
        for source in range(call.channel.size):
            if source == rank and len(own):
                parts.append((rank, self._data, own))
            elif sizes[source]:
                came = self._read(incoming, int(places[source]), int(sizes[source]), source)
                if came is None:  # it had failed, and will say so
                    call.stages.exchange_ns += time.perf_counter_ns() - began
                    return
                parts.append((source, incoming, came))
        self._check_overlap(parts)
        claims = [some.stripes[some.lengths == _CLAIM] for _, _, some in parts]
        claimed = np.concatenate([*claims, np.zeros(0, np.int64)])
        if claimed.size:
            self._sink.take_partial(lambda held: ~np.isin(held, claimed))
        stripes, covered = _coverage(parts, rule.stripe_bytes)
        whole = stripes[covered == rule.stripe_bytes]
        joined = _joined(parts, rank)
        if self._stripes.size < whole.size * rule.stripe_bytes:
            self._stripes = np.empty(whole.size * rule.stripe_bytes, np.uint8)
        stripe_data = self._stripes
        left: list[tuple[Bytes, Pieces]] = []
        for source_data, some in joined:
            slot = np.searchsorted(whole, some.stripes)
            inside = np.zeros(len(some), np.bool_)
            if whole.size:
                inside = whole[np.minimum(slot, whole.size - 1)] == some.stripes
            to = slot[inside] * rule.stripe_bytes + some.offsets[inside] % rule.stripe_bytes
            copy_extents(source_data, some.places[inside], stripe_data, to, some.lengths[inside])
            if not inside.all():
                left.append((source_data, some.take(~inside)))
        call.stages.exchange_ns += time.perf_counter_ns() - began
        if len(staying):
            raw = np.full(len(staying), rule.stripe_bytes, np.int64)
            self._sink.write_stripes(staying.stripes, self._data, staying.places, raw, rule.width)
            call.stages.stripes_in_place += len(staying)
        if whole.size:
            raw = np.full(whole.size, rule.stripe_bytes, np.int64)
            self._sink.write_stripes(whole, stripe_data, np.arange(whole.size) * rule.stripe_bytes, raw, rule.width)
            call.stages.stripes_assembled += whole.size
        for source_data, some in left:
            self._sink.write_extents(some.offsets, source_data, some.places, some.lengths)

    def _read(self, incoming: Bytes, place: int, size: int, source: int) -> Pieces | None:
        message = incoming[place : place + size]
        header = message[:_HEADER].view(np.int64)
        if header[3]:
            return None
        told, found = int(header[:1].view(np.uint64)[0]), crc64(message[8:])
        if told != found:
            raise damaged(source, told, found)
        count = int(header[1])
        table = message[_HEADER : _HEADER + 16 * count].view(np.int64)
        lengths = table[count:]
        taken = np.maximum(lengths, 0)
        places = place + _HEADER + 16 * count + np.cumsum(taken) - taken
        return Pieces(table[:count], lengths, places, table[:count] // self._call.rule.stripe_bytes)

    def _check_overlap(self, parts: list[tuple[int, Bytes, Pieces]]) -> None:
        if len(parts) < 2:
            return
        rule = self._call.rule
        offsets = np.concatenate([some.offsets for _, _, some in parts])
        lengths = np.concatenate([some.lengths for _, _, some in parts])
        lengths = np.where(lengths == _CLAIM, rule.stripe_bytes, lengths)
        sources = np.concatenate([np.full(len(some), source) for source, _, some in parts])
        overlap = overlap_of(offsets, offsets + lengths, sources)
        if overlap is None:
            return
        if rule.overlap == "error":
            raise ArgumentError(str(overlap))
        self._call.stages.overlaps += 1


def _coverage(parts: list[tuple[int, Bytes, Pieces]], stripe_bytes: int) -> tuple[Offsets, Offsets]:
    """Return the stripes that anything came for, and how many of their bytes came; claimed ones are left out."""
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    offsets = np.concatenate([some.offsets for _, _, some in parts])
    lengths = np.concatenate([some.lengths for _, _, some in parts])
    order = np.argsort(offsets, kind="stable")
    order = order[lengths[order] > 0]
    starts, stops = offsets[order], offsets[order] + lengths[order]
    if not starts.size:
        return starts, stops
    # Bytes that came twice count once. Pieces end with their stripe, so the reach of the others does not enter it.
    reach = np.concatenate(([0], np.maximum.accumulate(stops)[:-1]))
    fresh = np.maximum(stops - np.maximum(starts, reach), 0)
    stripes = starts // stripe_bytes
    first = np.flatnonzero(np.concatenate(([True], stripes[1:] != stripes[:-1])))
    return stripes[first], np.add.reduceat(fresh, first)


def _joined(parts: list[tuple[int, Bytes, Pieces]], rank: int) -> list[tuple[Bytes, Pieces]]:
    """Join what neighbours in rank order have in one buffer: below this rank, this rank, above it. Claims go."""
    joined: list[tuple[Bytes, Pieces]] = []
    for which in (
        [part for part in parts if part[0] < rank],
        [part for part in parts if part[0] == rank],
        [part for part in parts if part[0] > rank],
    ):
        if which:
            fields = [
                np.concatenate([getattr(some, name) for _, _, some in which])
                for name in ("offsets", "lengths", "places", "stripes")
            ]
            some = Pieces(*fields)
            joined.append((which[0][1], some.take(some.lengths > 0)))
    return joined
