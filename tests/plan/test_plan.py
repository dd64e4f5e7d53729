"""Plans: pure functions, against byte-by-byte models."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.mpi import plan
from pinstripe.mpi.extents import Access

SB = 16  # a small stripe


def spans(ranges: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lo, hi = np.array([r[0] for r in ranges], np.int64), np.array([r[1] for r in ranges], np.int64)
    return lo, hi, hi - lo


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_stripe_has_one_owner_among_the_ranks(ranks: int, most: int) -> None:
    own = plan.Ownership.make(ranks, most)
    owners = own.owner(np.arange(200))
    assert owners.min() >= 0
    assert owners.max() < ranks
    assert len(set(owners.tolist())) == own.owners == min(ranks, most)
    assert {rank for rank in range(ranks) if own.owns(rank)} == set(owners.tolist())
    assert own.all_own == (most >= ranks)


def test_one_extent_a_rank_without_overlap_is_contiguous() -> None:
    assert plan.classify(*spans([(0, 10), (20, 30), (10, 20), (5, 5)])) is plan.Pattern.contiguous
    assert plan.classify(*spans([(0, 10), (9, 30)])) is plan.Pattern.interleaved
    assert plan.classify(*spans([(0, 0), (7, 7)])) is plan.Pattern.empty
    lo, hi, nbytes = spans([(0, 10), (20, 30)])
    assert plan.classify(lo, hi, nbytes - 1) is plan.Pattern.interleaved


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=6))
def test_an_overlap_names_two_ranks_and_bytes_that_both_have(pieces: list[tuple[int, int]]) -> None:
    ranges = [(start, start + length) for start, length in pieces]
    found = plan.find_overlap(*spans(ranges))
    sets = [set(range(*r)) for r in ranges]
    clash = any(sets[a] & sets[b] for a in range(len(sets)) for b in range(a))
    assert (found is not None) == clash
    if found is not None:
        a, b = found.ranks
        assert a != b
        assert set(range(found.start, found.stop)) <= sets[a] & sets[b]
        assert found.stop > found.start
        assert f"bytes {found.start} to {found.stop}" in str(found)


@given(st.lists(st.integers(0, 70), min_size=1, max_size=5), st.integers(0, 40), st.randoms(use_true_random=False))
def test_a_contiguous_write_places_every_byte_once(lengths: list[int], start: int, random: object) -> None:
    ranges, at = [], start
    for length in lengths:
        ranges.append((at, at + length))
        at += length
    random.shuffle(ranges)  # type: ignore[attr-defined]
    ranks = len(ranges)
    own = plan.Ownership.make(ranks, 4096)
    plans = [plan.edges(*spans(ranges), SB, own, rank) for rank in range(ranks)]
    seen: list[int] = []
    for rank, one in enumerate(plans):
        assert one.start % SB == one.stop % SB == 0
        seen += range(one.start, one.stop)
        for strips in (one.kept, one.receives):
            for peer, offset, length in zip(strips.peers, strips.offsets, strips.lengths, strict=True):
                seen += range(offset, offset + length)
                assert own.owner(np.array([offset // SB]))[0] == rank
                assert ranges[peer][0] <= offset
                assert offset + length <= ranges[peer][1]
                assert offset // SB == (offset + length - 1) // SB
        assert one.travelling == plans[0].travelling
        assert len(one.sends.peers) <= 2
    assert sorted(seen) == list(range(start, at))
    whole = sorted(b for one in plans for b in range(one.start, one.stop))
    for one in plans:
        assert [b for a, z in zip(one.whole_starts, one.whole_stops, strict=True) for b in range(a, z)] == whole
    for rank, one in enumerate(plans):  # what is sent is expected, in the same order
        for other, two in enumerate(plans):
            sent = [
                (o, n)
                for p, o, n in zip(one.sends.peers, one.sends.offsets, one.sends.lengths, strict=True)
                if p == other
            ]
            due = [
                (o, n)
                for p, o, n in zip(two.receives.peers, two.receives.offsets, two.receives.lengths, strict=True)
                if p == rank
            ]
            assert sent == due
    assert plans[0].travelling == sum(len(one.sends.peers) for one in plans)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(-2, 12)), max_size=8), st.integers(0, 5))
def test_merged_intervals_are_the_union(pieces: list[tuple[int, int]], gap: int) -> None:
    starts, stops = np.array([p[0] for p in pieces], np.int64), np.array([p[0] + p[1] for p in pieces], np.int64)
    union = {b for a, z in zip(starts, stops, strict=True) for b in range(a, z)}
    begin, end = plan.merged(starts, stops, gap)
    covered = [b for a, z in zip(begin, end, strict=True) for b in range(a, z)]
    assert set(covered) >= union
    assert len(covered) == len(set(covered))
    assert (begin[1:] > end[:-1] + gap).all()
    if not gap:
        assert set(covered) == union


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 500)), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(8, 200),
)
def test_rounds_cover_every_stripe_once_and_are_balanced(pieces: list[tuple[int, int]], most: int, batch: int) -> None:
    ranges = [(start, start + length) for start, length in pieces]
    lo, hi, nbytes = spans(ranges)
    own = plan.Ownership.make(len(ranges), most)
    cuts = plan.cut_rounds(lo, hi, nbytes, SB, own, batch)
    touched = {s for a, z in ranges if z > a for s in range(a // SB, -(-z // SB))}
    if not touched:
        assert cuts.size == 1
        return
    assert (np.diff(cuts) > 0).all()
    assert cuts[0] == min(touched)
    assert cuts[-1] == max(touched) + 1
    each = max(1, batch // SB) * own.owners
    counts = [len([s for s in touched if a <= s < z]) for a, z in itertools.pairwise(cuts)]
    assert max(counts) <= each
    assert all(count == each for count in counts[:-1])


def test_a_sparse_domain_is_cut_by_its_bytes() -> None:
    sb, own = 1 << 16, plan.Ownership.make(2, 4096)
    step, count = 1 << 24, 4000  # 8 bytes every 16 MiB, from two ranks
    accesses = [Access.of_extents(np.arange(count) * step + rank * 8, np.full(count, 8)) for rank in range(2)]
    lo, hi, nbytes = (np.array([getattr(a, name) for a in accesses]) for name in ("lo", "hi", "nbytes"))
    bins = plan.histogram_edges(lo, hi, nbytes, sb, own, 8 << 20)
    assert bins is not None
    weights = sum(np.diff(access.below(bins * sb)) for access in accesses)
    assert weights.sum() == 16 * count
    cuts = plan.cut_rounds(lo, hi, nbytes, sb, own, 8 << 20, bins, weights)
    assert cuts.size == 2  # 64 KB in all: one round, not a million
    assert (cuts[0], cuts[-1]) == (lo.min() // sb, -(-hi.max() // sb))


def test_a_domain_with_one_dense_end_is_cut_there() -> None:
    sb, own = 1 << 16, plan.Ownership.make(2, 4096)
    accesses = [Access.contiguous(0, 64 << 20), Access.of_extents(np.arange(2, 1000) * (64 << 20), np.full(998, 8))]
    lo, hi, nbytes = (np.array([getattr(a, name) for a in accesses]) for name in ("lo", "hi", "nbytes"))
    bins = plan.histogram_edges(lo, hi, nbytes, sb, own, 4 << 20)
    assert bins is not None
    weights = sum(np.diff(access.below(bins * sb)) for access in accesses)
    cuts = plan.cut_rounds(lo, hi, nbytes, sb, own, 4 << 20, bins, weights)
    per_round = sum(np.diff(access.below(cuts * sb)) for access in accesses)
    assert per_round.sum() == nbytes.sum()
    assert per_round.max() <= 2 * (8 << 20)
    assert cuts.size <= 20


def test_a_dense_domain_is_not_counted() -> None:
    own = plan.Ownership.make(2, 4096)
    assert plan.histogram_edges(*spans([(0, 1 << 20), (1 << 20, 1 << 21)]), SB, own, 64) is None


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 50)), max_size=8), st.integers(0, 9))
def test_pieces_end_with_their_stripe_and_keep_every_byte(runs: list[tuple[int, int]], place: int) -> None:
    at, offsets, lengths = 0, [], []
    for gap, length in runs:
        offsets.append(at + gap)
        lengths.append(length)
        at += gap + length
    pieces = plan.split(np.array(offsets, np.int64), np.array(lengths, np.int64), place, SB)
    want = [o + k for o, n in zip(offsets, lengths, strict=True) for k in range(n)]
    got = [o + k for o, n in zip(pieces.offsets, pieces.lengths, strict=True) for k in range(n)]
    memory = [p + k for p, n in zip(pieces.places, pieces.lengths, strict=True) for k in range(n)]
    assert got == want
    assert memory == list(range(place, place + len(want)))
    assert (pieces.offsets // SB == pieces.stripes).all()
    assert ((pieces.offsets + pieces.lengths - 1) // SB == pieces.stripes).all()
    whole = pieces.whole(SB)
    for k, stripe in enumerate(pieces.stripes.tolist()):
        assert whole[k] == set(range(stripe * SB, (stripe + 1) * SB)).issubset(want)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 60)), min_size=1, max_size=5), st.data())
def test_a_stripe_is_alone_when_no_other_rank_comes_near(pieces: list[tuple[int, int]], data: st.DataObject) -> None:
    ranges = [(start, start + length) for start, length in pieces]
    rank = data.draw(st.integers(0, len(ranges) - 1))
    stripes = np.arange(12)
    alone = plan.stripes_alone(stripes, *spans(ranges), SB, rank)
    for stripe in stripes.tolist():
        own = set(range(stripe * SB, (stripe + 1) * SB))
        near = any(own & set(range(*r)) for other, r in enumerate(ranges) if other != rank)
        assert alone[stripe] == (not near)


@given(st.integers(0, 100), st.integers(1, 200), st.integers(1, 5))
def test_routed_rounds_make_the_access(start: int, nbytes: int, step: int) -> None:
    access = Access.contiguous(start, nbytes)
    cuts = np.arange(start // SB, -(-(start + nbytes) // SB) + step, step)
    got: list[int] = []
    for number in range(cuts.size - 1):
        pieces = plan.route(access, cuts, (number, number + 1), SB)
        assert ((pieces.stripes >= cuts[number]) & (pieces.stripes < cuts[number + 1])).all()
        assert (pieces.places == pieces.offsets - start).all()
        got += [o + k for o, n in zip(pieces.offsets, pieces.lengths, strict=True) for k in range(n)]
    assert got == list(range(start, start + nbytes))


def test_owners_read_for_all_when_ranks_want_the_same() -> None:
    same = spans([(0, 1000), (0, 1000)])
    apart = spans([(0, 1000), (1000, 2000)])
    assert plan.shared_reads(*same, np.array([1000, 1000]))
    assert not plan.shared_reads(*apart, np.array([1000, 1000]))
    assert not plan.shared_reads(*spans([(0, 1000), (0, 0)]), np.array([5000, 0]))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=6))
def test_an_offset_lies_in_an_interval_or_not(pieces: list[tuple[int, int]]) -> None:
    starts, stops = plan.merged(*(np.array([p[0] + k * p[1] for p in pieces], np.int64) for k in (0, 1)))
    inside = {b for a, z in zip(starts, stops, strict=True) for b in range(a, z)}
    assert plan.lies_in(np.arange(90), starts, stops).tolist() == [b in inside for b in range(90)]
