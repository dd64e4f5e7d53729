"""Dealing bytes to ranks: every byte to one, about as much to each."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pinstripe.store.shares import Share, cut, deal


@given(
    st.lists(st.integers(0, 10_000), max_size=30),
    st.integers(1, 7),
    st.integers(1, 3_000),
)
def test_every_byte_of_every_file_is_dealt_once(sizes: list[int], ranks: int, piece: int) -> None:
    dealt = sorted(share for mine in deal(sizes, ranks, piece) for share in mine)
    assert len(deal(sizes, ranks, piece)) == ranks
    for number, size in enumerate(sizes):
        shares = [share for share in dealt if share.file == number]
        assert shares[0].begin == 0
        assert shares[-1].end == size
        assert all(one.end == other.begin for one, other in itertools.pairwise(shares))
        assert all(share.begin % piece == 0 and share.end - share.begin <= piece for share in shares)


def test_large_files_are_spread_and_small_ones_fill_up() -> None:
    sizes = [100, 1, 1, 1, 100]
    loads = [sum(share.end - share.begin for share in mine) for mine in deal(sizes, 2, 1000, overhead_bytes=0)]
    assert sorted(loads) == [101, 102]


def test_an_empty_file_is_one_empty_share() -> None:
    assert deal([0], 2, 10) == [[Share(0, 0, 0)], []]


@given(st.integers(0, 1_000_000), st.integers(1, 9), st.sampled_from([1, 64, 4096]))
def test_one_file_is_cut_into_a_range_for_each_rank(size: int, ranks: int, grain: int) -> None:
    ranges = cut(size, ranks, grain)
    assert len(ranges) == ranks
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ranges))
    assert all(begin % grain == 0 or begin == size for begin, _ in ranges)
    lengths = [end - begin for begin, end in ranges]
    assert max(lengths) - min(lengths) <= 2 * grain
