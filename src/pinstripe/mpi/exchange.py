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

from ..errors import DamageError
from .agree import Summaries
from .channel import Channel
from .extents import Access, Offsets
from .plan import Ownership, Pieces, route
from .stages import Stages

__all__ = ["Bytes", "Call", "Failure", "Rule", "Sink", "Source", "Travel", "damaged", "groups", "room"]

Bytes = npt.NDArray[np.uint8]

_CACHED_EXTENTS = 1 << 20


class Sink(Protocol):
    """Where a write's bytes go: the session."""

    def write_stripes(self, stripes: Any, data: Any, data_offsets: Any, raw_bytes: Any, width: int = 0) -> None: ...
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
    """

    stripe_bytes: int
    batch_bytes: int
    block_bytes: int
    ownership: Ownership
    overlap: str = "error"
    in_place: bool = True
    width: int = 0


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


_NOTHING = Pieces(*(np.zeros(0, np.int64),) * 4)


class Travel:
    """This rank's pieces, round by round, sorted by the rank that they go to.

    A small access is cut once and kept; of a large one only a round exists at a time. `stay` takes from a round's pieces
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
        ranks = call.channel.size
        self.counts = np.zeros((ranks, rounds, 2), np.int64)
        if rounds and call.access.extent_count <= _CACHED_EXTENTS:
            self._all = self._cut(0, rounds)
        for number in range(rounds):
            pieces, peers, _ = self.round(number)
            self.counts[:, number, 0] = np.bincount(peers, minlength=ranks)
            self.counts[:, number, 1] = np.bincount(peers, np.maximum(pieces.lengths, 0), ranks)

    def _cut(self, first: int, last: int) -> Pieces:
        return route(self._call.access, self._cuts, (first, last), self._call.rule.stripe_bytes)

    def round(self, number: int) -> tuple[Pieces, Offsets, Pieces]:
        """Return the pieces that go to owners (this rank among them), their owners, and the pieces that stay."""
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
