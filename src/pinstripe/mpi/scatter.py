"""Scatter: the rounds of an interleaved write. Every piece goes to its stripe's owner, who puts stripes together.

In each round a rank sends each owner a table of the pieces that it has for it. Far owners get the bytes in the same
message. Near ones, on the same host, grant a put: the rank copies its pieces straight from the caller's memory to their
places in the owner's slot, and says when it is done. So bytes are copied once. While the stripes of one round are
encoded, the puts and messages of the next are under way.

A rank that holds a stripe whole writes it where it is and sends its owner a claim instead of the bytes; so an owner sees
every overlap, and forgets what it holds of that stripe from earlier calls. Where ranks overlap, and may, the owner takes
the pieces of that round in rank order, one rank at a time.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ..errors import ArgumentError
from ..kernels import Elsewhere, copy_extents, crc64
from .agree import Operation, agree
from .exchange import Bytes, Call, Failure, Sink, Travel, damaged, groups, most, room, rounds_of
from .extents import Offsets
from .messages import irecv, isend
from .plan import Pieces, overlap_of, stripes_alone

__all__ = ["scatter"]

_NOTHING = bytearray()
_HEADER = 32  # checksum of the rest; extents; bytes; whether the sender had failed
_LENT = 4096  # mean bytes of own pieces that are not copied
_CLAIM = -1  # a length that says: the sender writes this stripe itself


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


@dataclasses.dataclass(slots=True)
class _Round:
    """What an owner knows of a round, from its tables until its stripes are written.

    Attributes
    ----------
    parts : list of (rank, memory, Pieces)
        In rank order. Near ranks' pieces are in `buffer`, once they have put them.
    stripes, whole : int64 array, bool array
        Stripes that anything comes for, rising, and whether all of each.
    buffer : uint8 array
        Where stripes are put together.
    elsewhere : Elsewhere or None
        What of them stays in the caller's memory until it is written: this rank's own pieces, unless they are small or overlap
        others.
    overlapping : bool
        Whether ranks overlap.
    turns : list of lists of int
        Ranks that may put next; behind them, those that may when they have.
    here : list of int
        Ranks whose turn it is and whose bytes are in this rank's memory.
    waiting : dict
        Rank whose turn it is, and the request that completes when it has put.
    complete : bool
        Whether the tables of all ranks could be read.
    """

    parts: list[tuple[int, Bytes, Pieces]] = dataclasses.field(default_factory=list)
    stripes: Offsets = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    whole: npt.NDArray[np.bool_] = dataclasses.field(default_factory=lambda: np.zeros(0, np.bool_))
    buffer: Bytes = dataclasses.field(default_factory=lambda: np.zeros(0, np.uint8))
    elsewhere: Elsewhere | None = None
    overlapping: bool = False
    turns: list[list[int]] = dataclasses.field(default_factory=list)
    here: list[int] = dataclasses.field(default_factory=list)
    waiting: dict[int, MPI.Request] = dataclasses.field(default_factory=dict)
    complete: bool = False


class _Scatter:
    def __init__(self, call: Call, data: Bytes, sink: Sink) -> None:
        self._call, self._data, self._sink = call, data, sink
        self._failure = Failure()
        self._table_tag, self._grant_tag, self._done_tag = (call.channel.next_tag() for _ in range(3))
        self._assembled = np.empty(0, np.uint8)  # fresh memory for each round would be paid in page faults
        self._arriving: list[list[MPI.Request]] = [[], []]
        self._leaving: list[list[MPI.Request]] = [[], []]
        self._told: list[MPI.Request] = []

    def run(self) -> None:
        call = self._call
        began = time.perf_counter_ns()
        self._rounds = rounds_of(call)
        rounds = self._rounds.count
        self._near = self._rounds.near
        error: BaseException | None = None
        sent = np.zeros((call.channel.size, rounds, 2), np.int64)
        try:
            self._travel = Travel(call, self._rounds.cuts, self._stay)
            sent = self._travel.counts
        except BaseException as caught:
            error = caught
        self._sent, self._due = sent, np.empty_like(sent)
        if call.channel.size > 1:
            call.channel.comm.Alltoall(sent, self._due)
        else:
            self._due[:] = sent
        self._send_sizes, self._due_sizes = self._sizes(self._sent), self._sizes(self._due)
        try:
            if error is None:
                slots = min(2, rounds)
                self._outgoing = [np.empty(most(self._send_sizes), np.uint8) for _ in range(slots)]
                self._incoming = [np.empty(most(self._due_sizes), np.uint8) for _ in range(slots)]
        except BaseException as caught:
            error = caught
        call.stages.plan_ns += time.perf_counter_ns() - began
        # From here on the messages of all ranks depend on each other; memory was the last thing that could be missing.
        agree(call.channel, Operation.transfer, error=error)
        call.stages.rounds += rounds
        if not rounds:
            return
        self._post(0)
        opened = self._open(0)
        for number in range(rounds):
            if number + 1 < rounds:
                self._post(number + 1)
            self._put(number, opened)
            present = opened
            if number + 1 < rounds:
                opened = self._open(number + 1)
            with self._failure:
                if present.complete and not self._failure:
                    self._deliver(number, present)
        self._wait(self._leaving[0] + self._leaving[1] + self._told)
        self._failure.reraise()

    def _wait(self, requests: list[MPI.Request]) -> None:
        began = time.perf_counter_ns()
        MPI.Request.Waitall(requests)
        self._call.stages.exchange_ns += time.perf_counter_ns() - began

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
        """Return the bytes of the message to or from each rank in each round; none to oneself, none without pieces."""
        payloads = np.where(self._near[:, None], 0, room(counts[..., 1]))
        sizes = np.where(counts[..., 0] > 0, _HEADER + 16 * counts[..., 0] + payloads, 0)
        sizes[self._call.rank] = 0
        return np.asarray(sizes, np.int64)

    def _post(self, number: int) -> None:
        """Start the tables of one round: first ours to receive, then pack, then send."""
        began = time.perf_counter_ns()
        call, slot = self._call, number % 2
        MPI.Request.Waitall(self._leaving[slot])
        self._told = [request for request in self._told if not request.Test()]
        sizes = self._due_sizes[:, number]
        places = np.cumsum(sizes) - sizes
        self._arriving[slot] = []
        for rank in np.flatnonzero(sizes).tolist():
            part = self._incoming[slot][places[rank] : places[rank] + sizes[rank]]
            self._arriving[slot] += irecv(call.channel.comm, part, rank, self._table_tag)
        sizes = self._send_sizes[:, number]
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
            self._leaving[slot] += isend(call.channel.comm, part, rank, self._table_tag)
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
        away = ~self._near[peers] & (peers != self._call.rank) & (pieces.lengths > 0)
        if away.any():
            targets = payloads[peers] + before[:-1] - before[starts[peers]]
            copy_extents(self._data, pieces.places[away], buffer, targets[away], lengths[away])

    # --- putting ---

    def _open(self, number: int) -> _Round:
        """Take the tables of one round, decide who puts when, and let the first ones begin."""
        self._wait(self._arriving[number % 2])
        opened = _Round()
        with self._failure:
            if not self._failure:
                self._take_tables(number, opened)
        near = np.flatnonzero(self._near & (self._due[:, number, 0] > 0)).tolist()
        here = [source for source, _, _ in opened.parts if not self._near[source]]
        opened.turns = [[source] for source in sorted(near + here)] if opened.overlapping else [near + here]
        self._next_turn(opened)
        return opened

    def _next_turn(self, opened: _Round) -> None:
        """Once those whose turn it was have put, let the next ones."""
        while opened.turns and not opened.waiting and not opened.here:
            for source in opened.turns.pop(0):
                if self._near[source]:
                    self._tell(source, self._grant_tag)
                    opened.waiting[source] = self._listen(source, self._done_tag)
                else:
                    opened.here.append(source)

    def _put(self, number: int, opened: _Round) -> None:
        """Put this rank's pieces where near owners let it, and see to it that the others put theirs here."""
        began = time.perf_counter_ns()
        opened.buffer = self._buffer(number, opened)
        owners = np.flatnonzero(self._near & (self._sent[:, number, 0] > 0)).tolist()
        grants = {owner: self._listen(owner, self._grant_tag) for owner in owners}
        while grants or opened.waiting or opened.here:
            if opened.here:
                with self._failure:
                    if not self._failure:
                        self._copy_here(number, opened)
                opened.here = []
            else:
                ranks = [*grants, *opened.waiting]
                ready = MPI.Request.Waitsome([*grants.values(), *opened.waiting.values()]) or []
                granted = [ranks[index] for index in ready if index < len(grants)]
                for rank in [ranks[index] for index in ready if index >= len(grants)]:
                    del opened.waiting[rank]
                for owner in granted:
                    del grants[owner]
                    with self._failure:
                        if not self._failure:
                            self._put_to(number, owner)
                    self._tell(owner, self._done_tag)
            self._next_turn(opened)
        self._call.stages.exchange_ns += time.perf_counter_ns() - began

    def _put_to(self, number: int, owner: int) -> None:
        pieces, peers, _ = self._travel.round(number)
        first, last = np.searchsorted(peers, [owner, owner + 1])
        pieces = pieces.take(slice(int(first), int(last)))
        pieces = pieces.take(pieces.lengths > 0)
        assert self._rounds.slots is not None
        slot = self._rounds.slots.of(owner, number)
        copy_extents(self._data, pieces.places, slot, self._rounds.places(number, pieces), pieces.lengths)
        self._call.stages.count_put(int(pieces.lengths.sum()))

    def _tell(self, rank: int, tag: int) -> None:
        self._told.append(self._call.channel.comm.Isend([_NOTHING, MPI.BYTE], rank, tag))
        self._call.stages.messages += 1

    def _listen(self, rank: int, tag: int) -> MPI.Request:
        return self._call.channel.comm.Irecv([bytearray(), MPI.BYTE], rank, tag)

    # --- putting together ---

    def _take_tables(self, number: int, opened: _Round) -> None:
        """Learn what comes in one round."""
        rule, rank = self._call.rule, self._call.rank
        pieces, peers, _ = self._travel.round(number)
        own = pieces.take(peers == rank)
        incoming = self._incoming[number % 2]
        sizes = self._due_sizes[:, number]
        places = np.cumsum(sizes) - sizes
        for source in range(self._call.channel.size):
            if source == rank and len(own):
                opened.parts.append((rank, self._data, own))
            elif sizes[source]:
                came = self._read(incoming, int(places[source]), int(sizes[source]), source)
                if came is None:  # it had failed, and will say so
                    return
                opened.parts.append((source, incoming, came))
        opened.complete = True
        opened.overlapping = self._overlaps(opened.parts)
        opened.stripes, covered = _coverage(opened.parts, rule.stripe_bytes)
        opened.whole = covered == rule.stripe_bytes

    def _read(self, incoming: Bytes, place: int, size: int, source: int) -> Pieces | None:
        message = incoming[place : place + size]
        header = message[:_HEADER].view(np.int64)
        if header[3]:
            return None
        told, found = int(header[:1].view(np.uint64)[0]), crc64(message[8:])
        if told != found:
            raise damaged(source, told, found)
        count = int(header[1])
        table = message[_HEADER : _HEADER + 16 * count].view(np.int64).copy()
        lengths = table[count:]
        taken = np.maximum(lengths, 0)
        places = place + _HEADER + 16 * count + np.cumsum(taken) - taken
        return Pieces(table[:count], lengths, places, table[:count] // self._call.rule.stripe_bytes)

    def _buffer(self, number: int, opened: _Round) -> Bytes:
        rounds = self._rounds
        if rounds.slots is not None:
            return rounds.slots.of(self._call.rank, number)
        stripes = rounds.each if rounds.even else int(np.count_nonzero(opened.whole))
        if self._assembled.size < stripes * self._call.rule.stripe_bytes:
            self._assembled = np.empty(stripes * self._call.rule.stripe_bytes, np.uint8)
        return self._assembled

    def _places(self, number: int, opened: _Round, pieces: Pieces) -> Offsets:
        """Return where pieces belong in the buffer; -1 = their stripe has no place in it."""
        if self._rounds.even:
            return self._rounds.places(number, pieces)
        whole = opened.stripes[opened.whole]
        if not whole.size:
            return np.full(len(pieces), -1)
        index = np.minimum(np.searchsorted(whole, pieces.stripes), whole.size - 1)
        stripe_bytes = self._call.rule.stripe_bytes
        places = index * stripe_bytes + pieces.offsets % stripe_bytes
        return np.where(whole[index] == pieces.stripes, places, -1)

    def _copy_here(self, number: int, opened: _Round) -> None:
        for source, memory, pieces in opened.parts:
            if source in opened.here:
                places = self._places(number, opened, pieces)
                some = (places >= 0) & (pieces.lengths > 0)
                extents = places[some], pieces.places[some], pieces.lengths[some]
                if memory is self._data and not opened.overlapping and extents[2].sum() >= _LENT * extents[2].size:
                    opened.elsewhere = Elsewhere(memory, *extents)
                else:
                    copy_extents(memory, extents[1], opened.buffer, extents[0], extents[2])

    def _deliver(self, number: int, opened: _Round) -> None:
        """Give what one round put together to the sink."""
        call, rule, sink = self._call, self._call.rule, self._sink
        claims = [some.stripes[some.lengths == _CLAIM] for _, _, some in opened.parts]
        claimed = np.concatenate([*claims, np.zeros(0, np.int64)])
        if claimed.size:
            sink.take_partial(lambda held: ~np.isin(held, claimed))
        _, _, staying = self._travel.round(number)
        if len(staying):
            raw = np.full(len(staying), rule.stripe_bytes, np.int64)
            sink.write_stripes(staying.stripes, self._data, staying.places, raw, rule.width)
            call.stages.stripes_in_place += len(staying)
        whole = opened.stripes[opened.whole]
        if whole.size:
            raw = np.full(whole.size, rule.stripe_bytes, np.int64)
            at = whole * rule.stripe_bytes
            places = self._places(number, opened, Pieces(at, raw, at, whole))
            sink.write_stripes(whole, opened.buffer, places, raw, rule.width, opened.elsewhere)
            call.stages.stripes_assembled += whole.size
        partial = opened.stripes[~opened.whole]
        for source, memory, pieces in opened.parts:
            some = pieces.take(np.isin(pieces.stripes, partial) & (pieces.lengths > 0))
            places = self._places(number, opened, some)
            stays = source == call.rank and opened.elsewhere is not None
            if len(some) and (places >= 0).all() and not stays:
                sink.write_extents(some.offsets, opened.buffer, places, some.lengths)
            elif len(some):
                sink.write_extents(some.offsets, memory, some.places, some.lengths)

    def _overlaps(self, parts: list[tuple[int, Bytes, Pieces]]) -> bool:
        """Tell whether ranks overlap, where they may; raise where they may not."""
        if len(parts) < 2:
            return False
        rule = self._call.rule
        offsets = np.concatenate([some.offsets for _, _, some in parts])
        lengths = np.concatenate([some.lengths for _, _, some in parts])
        lengths = np.where(lengths == _CLAIM, rule.stripe_bytes, lengths)
        sources = np.concatenate([np.full(len(some), source) for source, _, some in parts])
        overlap = overlap_of(offsets, offsets + lengths, sources)
        if overlap is None:
            return False
        if rule.overlap == "error":
            raise ArgumentError(str(overlap))
        self._call.stages.overlaps += 1
        return True


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
