"""Exchange: what the collective writes and reads have in common. `strips`, `scatter` and `gather` are the three kinds.

Nothing travels to oneself; sizes are known on both sides before anything is sent; each message carries a checksum of its
bytes. An error on a rank never stops its messages: it goes on without looking at data and raises at the end, so that the
others are not left waiting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ..errors import DamageError
from ..kernels import Elsewhere
from .agree import Summaries
from .channel import Channel
from .extents import Access, Offsets
from .plan import Ownership, Pieces, cut_rounds, histogram_edges, one_run, route
from .slots import SLOT_BYTES_MOST, Slots, slots_of
from .stages import Stages

__all__ = [
    "Bytes",
    "Call",
    "Failure",
    "Rounds",
    "Rule",
    "Sink",
    "Source",
    "Travel",
    "damaged",
    "groups",
    "most",
    "room",
    "rounds_of",
]

Bytes = npt.NDArray[np.uint8]

_CACHED_EXTENTS = 1 << 20
_BATCHES = 2  # of a round on one host


class Sink(Protocol):
    """Where a write's bytes go: the session."""

    def write_stripes(
        self,
        stripes: Any,
        data: Any,
        data_offsets: Any,
        raw_bytes: Any,
        width: int = 0,
        elsewhere: Elsewhere | None = None,
    ) -> None: ...
    def write_extents(self, offsets: Any, data: Any, data_offsets: Any, lengths: Any) -> None: ...
    def take_partial(self, keep: Any = None) -> Any: ...


class Source(Protocol):
    """Where a read's bytes come from: the session."""

    def read_pieces(self, offsets: Any, lengths: Any, out: Any, out_offsets: Any) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """How one exchange is done; the same on all ranks.

    Attributes
    ----------
    stripe_bytes, batch_bytes, block_bytes : int
    ownership : Ownership
    overlap : str
        ``error``, or ``higher``: the higher rank wins.
    in_place : bool
        Whether a rank that holds a whole stripe writes it itself.
    width : int
        Element width.
    share_memory : bool
        Whether ranks of one host may exchange through shared memory.
    """

    stripe_bytes: int
    batch_bytes: int
    block_bytes: int
    ownership: Ownership
    overlap: str = "error"
    in_place: bool = True
    width: int = 0
    share_memory: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One rank's side of one collective access.

    Attributes
    ----------
    channel : Channel
    rule : Rule
    summaries : structured array
        What the ranks said of their accesses.
    access : Access
        This rank's.
    stages : Stages
        Where the costs are counted.
    """

    channel: Channel
    rule: Rule
    summaries: Summaries
    access: Access
    stages: Stages

    @property
    def rank(self) -> int:
        return self.channel.rank

    @property
    def spans(self) -> tuple[Offsets, Offsets, Offsets]:
        """The ranks' `lo`, `hi` and `nbytes`, as the plans take them."""
        return self.summaries["lo"], self.summaries["hi"], self.summaries["nbytes"]


class Failure:
    """The first error of a rank in an exchange: a context that keeps errors, so that messages go on."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> Failure:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is not None and self.error is None:
            self.error = error
        return True

    def __bool__(self) -> bool:
        return self.error is not None

    def reraise(self) -> None:
        """Raise what was kept, if anything was."""
        if self.error is not None:
            raise self.error


def damaged(rank: int, expected: int, found: int) -> DamageError:
    """Make the error of bytes that changed between two ranks."""
    return DamageError(
        f"bytes from rank {rank} changed on their way between ranks", expected=f"{expected:016x}", found=f"{found:016x}"
    )


def room(nbytes: Any) -> Any:
    """Round up to 8: messages in one buffer begin aligned."""
    return nbytes + -nbytes % 8


@dataclasses.dataclass(frozen=True, slots=True)
class Rounds:
    """How one call is cut into rounds; the same on all ranks but for the memory.

    Attributes
    ----------
    cuts : int64 array
        Round r is stripes ``cuts[r]`` to ``cuts[r + 1]``.
    even : bool
        Whether every round is one run of stripes, so that each owner has at most `each` of them, at known places.
    each, owners, stripe_bytes : int
    slots : Slots or None
        Where near ranks put and take bytes; None = everything travels in messages.
    near : bool array
        Ranks that share memory with this one; itself not.
    """

    cuts: Offsets
    even: bool
    each: int
    owners: int
    stripe_bytes: int
    slots: Slots | None
    near: npt.NDArray[np.bool_]

    @property
    def count(self) -> int:
        """How many rounds."""
        return max(0, self.cuts.size - 1)

    def places(self, number: int, pieces: Pieces) -> Offsets:
        """Return where pieces of an even round belong in their owner's slot."""
        index = (pieces.stripes - self.cuts[number]) // self.owners
        return np.asarray(index * self.stripe_bytes + pieces.offsets % self.stripe_bytes, np.int64)


def rounds_of(call: Call) -> Rounds:
    """Collective. Cut the call into rounds; where the data is sparse, its bytes are counted first by one Allreduce."""
    rule, channel = call.rule, call.channel
    round_bytes = rule.batch_bytes
    if rule.share_memory and len(set(channel.hosts)) == 1:
        # Nothing is held for messages then. Half the rounds are half the waiting; and a batch is encoded while one is written.
        round_bytes = max(round_bytes, min(_BATCHES * round_bytes, SLOT_BYTES_MOST))
    bins = histogram_edges(*call.spans, rule.stripe_bytes, rule.ownership, round_bytes)
    weights = None
    if bins is not None:
        weights = np.diff(call.access.below(bins * rule.stripe_bytes))
        channel.comm.Allreduce(MPI.IN_PLACE, weights)
    cuts = cut_rounds(*call.spans, rule.stripe_bytes, rule.ownership, round_bytes, bins, weights)
    even = bins is None and one_run(*call.spans, rule.stripe_bytes)
    each = max(1, round_bytes // rule.stripe_bytes)
    slots = slots_of(channel, each * rule.stripe_bytes) if even and rule.share_memory and cuts.size > 1 else None
    near = np.zeros(channel.size, np.bool_)
    if slots is not None:
        near[:] = slots.near
        near[call.rank] = False
    return Rounds(cuts, even, each, rule.ownership.owners, rule.stripe_bytes, slots, near)


_NOTHING = Pieces(*(np.zeros(0, np.int64),) * 4)


class Travel:
    """This rank's pieces, round by round, sorted by the rank that they go to.

    A small access is cut once and kept; of a large one only two rounds exist at a time. `stay` takes from a round's pieces
    those that do not travel; a piece of negative length travels without bytes.

    Attributes
    ----------
    counts : int64 array, ranks x rounds x 2
        Pieces and bytes for each rank in each round.
    """

    def __init__(
        self, call: Call, cuts: Offsets, stay: Callable[[Pieces], tuple[Pieces, Pieces]] | None = None
    ) -> None:
        self._call, self._cuts, self._stay = call, cuts, stay
        rounds = max(0, cuts.size - 1)
        self._all: Pieces | None = None
        self._kept: dict[int, tuple[Pieces, Offsets, Pieces]] = {}
        self._keep = 2
        ranks = call.channel.size
        self.counts = np.zeros((ranks, rounds, 2), np.int64)
        if rounds and call.access.extent_count <= _CACHED_EXTENTS:
            self._all, self._keep = self._cut(0, rounds), rounds
        for number in range(rounds):
            pieces, peers, _ = self.round(number)
            self.counts[:, number, 0] = np.bincount(peers, minlength=ranks)
            self.counts[:, number, 1] = np.bincount(peers, np.maximum(pieces.lengths, 0), ranks)

    def _cut(self, first: int, last: int) -> Pieces:
        return route(self._call.access, self._cuts, (first, last), self._call.rule.stripe_bytes)

    def round(self, number: int) -> tuple[Pieces, Offsets, Pieces]:
        """Return the pieces that go to owners (this rank among them), their owners, and the pieces that stay."""
        if number not in self._kept:
            while len(self._kept) >= self._keep:
                del self._kept[next(iter(self._kept))]
            self._kept[number] = self._make(number)
        return self._kept[number]

    def _make(self, number: int) -> tuple[Pieces, Offsets, Pieces]:
        if self._all is None:
            pieces = self._cut(number, number + 1)
        else:
            first, last = np.searchsorted(self._all.stripes, self._cuts[number : number + 2])
            pieces = self._all.take(slice(int(first), int(last)))
        staying = _NOTHING
        if self._stay is not None:
            pieces, staying = self._stay(pieces)
        peers = self._call.rule.ownership.owner(pieces.stripes)
        order = np.argsort(peers, kind="stable")
        return pieces.take(order), peers[order], staying


def groups(peers: Offsets, ranks: int) -> Offsets:
    """Return where each rank's pieces begin, and where the last one's end, in a sorted list of ranks."""
    return np.searchsorted(peers, np.arange(ranks + 1)).astype(np.int64)


def most(sizes: Offsets) -> int:
    """Return the largest sum of one round, of sizes by rank and round."""
    return int(sizes.sum(axis=0).max(initial=0))
