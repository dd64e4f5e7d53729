"""Plans: who sends what to whom, and who writes or reads what. Pure functions of what all ranks said; no MPI, no disk.

Every rank computes the same plan from the same summaries. A stripe has one owner rank for the whole life of an open file:
whatever of a stripe does not make it whole goes to its owner, always, so that pieces of many calls meet in one cache.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import numpy.typing as npt

from .extents import Access, Offsets

__all__ = [
    "Edges",
    "Overlap",
    "Ownership",
    "Pattern",
    "Pieces",
    "Strips",
    "classify",
    "cut_rounds",
    "edges",
    "find_overlap",
    "histogram_edges",
    "lies_in",
    "merged",
    "one_run",
    "route",
    "shared_reads",
    "split",
    "stripes_alone",
]

Bools = npt.NDArray[np.bool_]

_BINS = 4096
_DENSE = 4  # a domain is dense when at least a fourth of it is written


class Pattern(enum.Enum):
    """What the ranks of one call hold together."""

    empty = "empty"
    contiguous = "contiguous"  # each rank one extent, no two overlap
    interleaved = "interleaved"  # anything else


@dataclasses.dataclass(frozen=True, slots=True)
class Ownership:
    """Which rank owns a stripe: ``(stripe mod owners) * step``. Above `max_segments` ranks only every step-th rank owns.

    Attributes
    ----------
    ranks, owners, step : int
    """

    ranks: int
    owners: int
    step: int

    @classmethod
    def make(cls, ranks: int, max_segments: int) -> Ownership:
        """Choose as many owners as there are ranks, at most `max_segments`."""
        owners = max(1, min(ranks, max_segments))
        return cls(ranks, owners, ranks // owners)

    def owner(self, stripes: Offsets) -> Offsets:
        """Return the owner rank of each stripe."""
        return np.asarray(stripes % self.owners * self.step, np.int64)

    def owns(self, rank: int) -> bool:
        """Whether `rank` owns stripes at all, and so may write segments."""
        return rank % self.step == 0 and rank // self.step < self.owners

    @property
    def all_own(self) -> bool:
        """Whether every rank owns stripes."""
        return self.owners == self.ranks


@dataclasses.dataclass(frozen=True, slots=True)
class Overlap:
    """Two ranks gave the same bytes of the file in one call.

    Attributes
    ----------
    ranks : tuple of int
        The two.
    start, stop : int
        The bytes, in the file.
    """

    ranks: tuple[int, int]
    start: int
    stop: int

    def __str__(self) -> str:
        low, high = sorted(self.ranks)
        return f"ranks {low} and {high} both write bytes {self.start} to {self.stop} in one collective call"


def classify(lo: Offsets, hi: Offsets, nbytes: Offsets) -> Pattern:
    """Tell the pattern of a call from the ranks' summaries."""
    busy = nbytes > 0
    if not busy.any():
        return Pattern.empty
    if (hi - lo != nbytes)[busy].any() or find_overlap(lo, hi, nbytes) is not None:
        return Pattern.interleaved
    return Pattern.contiguous


def find_overlap(lo: Offsets, hi: Offsets, nbytes: Offsets) -> Overlap | None:
    """Return an overlap between ranks that hold one run of bytes each, if there is one; other ranks are left out."""
    ranks = np.flatnonzero((nbytes > 0) & (hi - lo == nbytes))
    if ranks.size < 2:
        return None
    return overlap_of(lo[ranks], hi[ranks], ranks)


def overlap_of(starts: Offsets, stops: Offsets, sources: Offsets) -> Overlap | None:
    """Return the first overlap between extents of different sources (those of one source do not overlap)."""
    order = np.argsort(starts, kind="stable")
    starts, stops, sources = starts[order], stops[order], sources[order]
    reach = np.maximum.accumulate(stops)
    hits = np.flatnonzero(starts[1:] < reach[:-1])
    if not hits.size:
        return None
    second = int(hits[0]) + 1
    first = int(np.flatnonzero(stops[:second] > starts[second])[0])
    return Overlap(
        (int(sources[first]), int(sources[second])), int(starts[second]), int(min(stops[first], stops[second]))
    )


# --- contiguous writes ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Strips:
    """Runs of bytes that travel whole, one message each.

    Attributes
    ----------
    peers : int64 array
        The rank at the other end.
    offsets, lengths : int64 arrays
        Where they belong in the file.
    """

    peers: Offsets
    offsets: Offsets
    lengths: Offsets


@dataclasses.dataclass(frozen=True, slots=True)
class Edges:
    """The plan of a contiguous write, as one rank sees it.

    Attributes
    ----------
    start, stop : int
        Bytes of the file that are whole stripes in this rank's hands: encoded where they are.
    sends : Strips
        Ends of this rank's extent that go to another owner, at most two.
    kept : Strips
        Ends that this rank owns itself (`peers` is this rank).
    receives : Strips
        What comes from others, in rank order.
    travelling : int
        How many strips travel between any two ranks: the same on all ranks.
    whole_starts, whole_stops : int64 arrays
        Bytes that some rank writes as whole stripes: rising, disjoint, the same on all ranks.
    """

    start: int
    stop: int
    sends: Strips
    kept: Strips
    receives: Strips
    travelling: int
    whole_starts: Offsets
    whole_stops: Offsets


def edges(lo: Offsets, hi: Offsets, nbytes: Offsets, stripe_bytes: int, ownership: Ownership, rank: int) -> Edges:
    """Plan a contiguous write: whole stripes stay, the ends of each rank's extent go to the owners of their stripes."""
    busy = nbytes > 0
    first = -(-lo // stripe_bytes) * stripe_bytes
    last = hi // stripe_bytes * stripe_bytes
    inside = first > last  # the extent lies within one stripe
    head_stop = np.where(inside, hi, first)
    tail_start = np.where(inside, hi, last)
    senders = np.tile(np.arange(lo.size), 2)
    starts = np.concatenate((lo, tail_start))
    stops = np.concatenate((head_stop, hi))
    some = np.concatenate((busy, busy)) & (stops > starts)
    senders, starts, stops = senders[some], starts[some], stops[some]
    order = np.argsort(senders, kind="stable")
    senders, starts, lengths = senders[order], starts[order], (stops - starts)[order]
    owners = ownership.owner(starts // stripe_bytes)

    def strips(which: Bools, peers: Offsets) -> Strips:
        return Strips(peers[which], starts[which], lengths[which])

    mine, owned, away = senders == rank, owners == rank, owners != senders
    whole = bool(busy[rank]) and first[rank] < last[rank]
    return Edges(
        int(first[rank]) if whole else 0,
        int(last[rank]) if whole else 0,
        strips(mine & away, owners),
        strips(mine & owned, owners),
        strips(owned & away, senders),
        int(np.count_nonzero(away)),
        *merged(np.where(busy, first, 0), np.where(busy, last, 0)),
    )


# --- rounds -----------------------------------------------------------------------------------------------------


def merged(starts: Offsets, stops: Offsets, gap: int = 0) -> tuple[Offsets, Offsets]:
    """Return the union of intervals, sorted; intervals at most `gap` apart become one."""
    some = stops > starts
    starts, stops = starts[some], stops[some]
    if not starts.size:
        return starts, stops
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(stops[order])
    begins = np.concatenate(([True], starts[1:] > reach[:-1] + gap))
    first = np.flatnonzero(begins)
    return starts[first], reach[np.concatenate((first[1:] - 1, [starts.size - 1]))]


def _stripe_domain(lo: Offsets, hi: Offsets, nbytes: Offsets, stripe_bytes: int) -> tuple[Offsets, Offsets]:
    busy = nbytes > 0
    return merged(lo[busy] // stripe_bytes, -(-hi[busy] // stripe_bytes))


def one_run(lo: Offsets, hi: Offsets, nbytes: Offsets, stripe_bytes: int) -> bool:
    """Tell whether the stripes of a call are one run without gaps."""
    return _stripe_domain(lo, hi, nbytes, stripe_bytes)[0].size == 1


def histogram_edges(
    lo: Offsets, hi: Offsets, nbytes: Offsets, stripe_bytes: int, ownership: Ownership, round_bytes: int
) -> Offsets | None:
    """Return stripe numbers between which bytes must be counted before rounds can be cut; None for a dense domain.

    All ranks get the same ones. A dense domain is cut evenly without counting.
    """
    starts, stops = _stripe_domain(lo, hi, nbytes, stripe_bytes)
    total = int((stops - starts).sum())
    if int(nbytes.sum()) * _DENSE >= total * stripe_bytes or total * stripe_bytes <= ownership.owners * round_bytes:
        return None
    return _uncompacted(np.unique(np.linspace(0, total, min(total, _BINS) + 1).astype(np.int64)), starts, stops)


def _uncompacted(places: Offsets, starts: Offsets, stops: Offsets) -> Offsets:
    """Turn places in the domain, its gaps left out, into stripe numbers."""
    before = np.concatenate(([0], np.cumsum(stops - starts)))
    index = np.clip(np.searchsorted(before, places, "right") - 1, 0, starts.size - 1)
    return np.asarray(starts[index] + places - before[index], np.int64)


def cut_rounds(
    lo: Offsets,
    hi: Offsets,
    nbytes: Offsets,
    stripe_bytes: int,
    ownership: Ownership,
    round_bytes: int,
    bins: Offsets | None = None,
    weights: Offsets | None = None,
) -> Offsets:
    """Cut the call's stripes into rounds in each of which an owner gets about `round_bytes`.

    Parameters
    ----------
    lo, hi, nbytes
        The ranks' summaries.
    bins, weights
        What `histogram_edges` asked for, and the bytes of all ranks between each two of them.

    Returns
    -------
    int64 array
        Stripe numbers, rising: round r is stripes ``cuts[r]`` to ``cuts[r + 1]``.
    """
    starts, stops = _stripe_domain(lo, hi, nbytes, stripe_bytes)
    if not starts.size:
        return np.zeros(1, np.int64)
    each = max(1, round_bytes // stripe_bytes) * ownership.owners
    if bins is None or weights is None:
        total = int((stops - starts).sum())
        places = np.minimum(np.arange(-(-total // each) + 1) * each, total)
        cuts = _uncompacted(places, starts, stops)
        cuts[-1] = stops[-1]
        return cuts
    budget = each * stripe_bytes
    parts = np.minimum(np.maximum(1, -(-weights // budget)), np.maximum(1, np.diff(bins)))
    number = np.repeat(np.arange(weights.size), parts)
    within = np.arange(number.size) - np.repeat(np.cumsum(parts) - parts, parts)
    fine = bins[number] + np.diff(bins)[number] * within // parts[number]
    filled = np.cumsum(weights[number] / parts[number])
    begins = np.concatenate(([0.0], filled[:-1])) // budget
    keep = np.concatenate(([True], begins[1:] != begins[:-1]))
    return np.unique(np.concatenate((fine[keep], stops[-1:])))


@dataclasses.dataclass(frozen=True, slots=True)
class Pieces:
    """Extents, none of which crosses a stripe's end.

    Attributes
    ----------
    offsets, lengths : int64 arrays
        In the file, rising.
    places : int64 array
        Where they begin in memory.
    stripes : int64 array
        The stripe of each.
    """

    offsets: Offsets
    lengths: Offsets
    places: Offsets
    stripes: Offsets

    def __len__(self) -> int:
        return int(self.offsets.size)

    def take(self, which: npt.NDArray[np.bool_] | Offsets | slice) -> Pieces:
        """Return some of them."""
        return Pieces(self.offsets[which], self.lengths[which], self.places[which], self.stripes[which])

    def whole(self, stripe_bytes: int) -> Bools:
        """Tell of each piece whether its stripe is covered altogether by these pieces (which do not overlap)."""
        if not len(self):
            return np.zeros(0, np.bool_)
        first = np.flatnonzero(np.concatenate(([True], self.stripes[1:] != self.stripes[:-1])))
        covered = np.add.reduceat(self.lengths, first)
        return np.repeat(covered == stripe_bytes, np.diff(np.concatenate((first, [len(self)]))))


def split(offsets: Offsets, lengths: Offsets, place: int, stripe_bytes: int) -> Pieces:
    """Cut extents at stripe ends. They are non-empty and follow each other in memory from `place` on."""
    places = place + np.cumsum(lengths) - lengths
    first = offsets // stripe_bytes
    counts = (offsets + lengths - 1) // stripe_bytes - first + 1
    if (counts == 1).all():
        return Pieces(offsets, lengths, places, first)
    source = np.repeat(np.arange(offsets.size), counts)
    stripes = first[source] + np.arange(source.size) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.maximum(offsets[source], stripes * stripe_bytes)
    stops = np.minimum((offsets + lengths)[source], (stripes + 1) * stripe_bytes)
    return Pieces(starts, stops - starts, places[source] + starts - offsets[source], stripes)


def stripes_alone(stripes: Offsets, lo: Offsets, hi: Offsets, nbytes: Offsets, stripe_bytes: int, rank: int) -> Bools:
    """Tell of each stripe whether it lies outside the range of every other rank: then nobody else can hold a part of it."""
    others = nbytes > 0
    others[rank] = False
    starts, stops = merged(lo[others], hi[others])
    if not starts.size:
        return np.ones(stripes.size, np.bool_)
    begin, end = stripes * stripe_bytes, (stripes + 1) * stripe_bytes
    return np.asarray(np.searchsorted(starts, end, "left") == np.searchsorted(stops, begin, "right"))


def lies_in(offsets: Offsets, starts: Offsets, stops: Offsets) -> Bools:
    """Tell of each offset whether it lies in one of some rising, disjoint intervals."""
    return np.asarray(np.searchsorted(starts, offsets, "right") > np.searchsorted(stops, offsets, "right"))


def route(access: Access, cuts: Offsets, rounds: tuple[int, int], stripe_bytes: int) -> Pieces:
    """Return the pieces of `access` that lie in stripes ``cuts[rounds[0]]`` to ``cuts[rounds[1]]``."""
    start, stop = access.below(cuts[list(rounds)] * stripe_bytes).tolist()
    offsets, lengths = access.slice(start, stop)
    return split(offsets, lengths, start, stripe_bytes)


# --- reads ------------------------------------------------------------------------------------------------------


def shared_reads(lo: Offsets, hi: Offsets, nbytes: Offsets, touched: Offsets) -> bool:
    """Tell whether owners should read for all: when the ranks together would decode at least twice what there is."""
    busy = nbytes > 0
    starts, stops = merged(lo[busy], hi[busy])
    return bool(np.count_nonzero(busy) > 1 and int(touched[busy].sum()) >= 2 * int((stops - starts).sum()))
