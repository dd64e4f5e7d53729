"""Extents: type maps and accesses against a byte-by-byte model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.errors import ArgumentError
from pinstripe.mpi.extents import Access, Typemap, coalesced


def bytes_of(offsets: np.ndarray, lengths: np.ndarray) -> list[int]:
    return [start + k for start, length in zip(offsets.tolist(), lengths.tolist(), strict=True) for k in range(length)]


def map_bytes(tile: Typemap) -> list[int]:
    return bytes_of(tile.offsets, tile.lengths)


@st.composite
def tiles(draw: st.DrawFn, *, ordered: bool = True) -> Typemap:
    """A type map of a few runs."""
    gaps = draw(st.lists(st.integers(0 if ordered else -9, 9), min_size=1, max_size=5))
    lengths = draw(st.lists(st.integers(0, 7), min_size=len(gaps), max_size=len(gaps)))
    at, offsets = 0, []
    for gap, length in zip(gaps, lengths, strict=True):
        at = max(0, at + gap)
        offsets.append(at)
        at += length
    runs = coalesced(np.array(offsets, np.int64), np.array(lengths, np.int64))
    return Typemap(*runs, 0, draw(st.integers(1, 12)) + (at if ordered else 0) - 1 or 1, 1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=20))
def test_coalescing_keeps_the_bytes_and_their_order(runs: list[tuple[int, int]]) -> None:
    offsets, lengths = np.array([r[0] for r in runs], np.int64), np.array([r[1] for r in runs], np.int64)
    joined = coalesced(offsets, lengths)
    assert bytes_of(*joined) == bytes_of(offsets, lengths)
    assert (joined[1] > 0).all()
    assert not (joined[0][1:] == joined[0][:-1] + joined[1][:-1]).any()


@given(tiles(), st.lists(st.tuples(st.integers(-20, 200), st.integers(0, 4)), max_size=6))
def test_placed_instances_lie_one_extent_apart(tile: Typemap, blocks: list[tuple[int, int]]) -> None:
    made = tile.placed([b[0] for b in blocks], [b[1] for b in blocks])
    want = [b + start + k * tile.extent for start, count in blocks for k in range(count) for b in map_bytes(tile)]
    assert map_bytes(made) == want


def test_a_subarray_holds_the_elements_that_numpy_selects() -> None:
    whole = np.arange(4 * 5 * 6 * 8, dtype=np.int64).reshape(
        4, 5, 6, 8
    )  # bytes of a (4, 5, 6) array of 8-byte elements
    made = Typemap.basic(8).subarray([4, 5, 6], [2, 3, 6], [1, 2, 0])
    assert map_bytes(made) == whole[1:3, 2:5].reshape(-1).tolist()
    assert made.offsets.size == 2  # full rows of the last two dimensions join
    fortran = Typemap.basic(8).subarray([6, 5, 4], [6, 3, 2], [0, 2, 1], order="F")
    assert map_bytes(fortran) == map_bytes(made)
    assert made.extent == 4 * 5 * 6 * 8


def test_a_block_outside_its_array_is_refused() -> None:
    with pytest.raises(ArgumentError, match="does not lie in an array"):
        Typemap.basic(8).subarray([4, 5], [2, 3], [1, 3])


def test_an_empty_block_has_no_bytes_and_the_whole_extent() -> None:
    made = Typemap.basic(4).subarray([4, 5], [0, 5], [4, 0])
    assert made.size == 0
    assert made.extent == 80


def view_bytes(tile: Typemap, base: int, start: int, nbytes: int) -> list[int]:
    one = map_bytes(tile)
    return [base + k // len(one) * tile.extent + one[k % len(one)] for k in range(start, start + nbytes)]


@given(tiles(), st.integers(0, 30), st.integers(0, 60), st.integers(0, 60), st.data())
def test_an_access_is_the_views_bytes(tile: Typemap, base: int, start: int, nbytes: int, data: st.DataObject) -> None:
    if not tile.size:
        nbytes = 0
    access = Access.through(tile, base, start, nbytes)
    want = view_bytes(tile, base, start, nbytes)
    assert bytes_of(*access.slice(0, nbytes)) == want
    assert access.ordered == all(a < b for a, b in itertools.pairwise(want))
    assert (access.lo, access.hi) == ((min(want), max(want) + 1) if want else (0, 0))
    first = data.draw(st.integers(0, nbytes))
    last = data.draw(st.integers(first, nbytes))
    assert bytes_of(*access.slice(first, last)) == want[first:last]
    assert access.extent_count >= access.slice(0, nbytes)[0].size
    assert access.single == (bool(want) and want == list(range(want[0], want[0] + nbytes))) or not want
    for size in range(0, 120, 7):
        beyond = [k for k, b in enumerate(want) if b >= size]
        assert access.readable(size) == (beyond[0] if beyond else nbytes)
    if access.ordered:
        marks = np.arange(0, 150, 5)
        assert access.below(marks).tolist() == [sum(b < mark for b in want) for mark in marks]
    short = access.head(first)
    assert bytes_of(*short.slice(0, first)) == want[:first]


@given(tiles(ordered=False), st.integers(0, 20), st.integers(1, 40))
def test_an_access_that_goes_back_is_not_ordered(tile: Typemap, start: int, nbytes: int) -> None:
    if not tile.size:
        return
    access = Access.through(tile, 0, start, nbytes)
    want = view_bytes(tile, 0, start, nbytes)
    assert bytes_of(*access.slice(0, nbytes)) == want
    if access.ordered:  # it may be called unordered for what it does not reach of its tile
        assert all(a < b for a, b in itertools.pairwise(want))
    assert (access.lo, access.hi) == (min(want), max(want) + 1)


def test_a_billion_pieces_take_no_memory_until_they_are_asked_for() -> None:
    tile = Typemap.basic(8).placed([0]).resized(0, 64)
    access = Access.through(tile, 4096, 0, 8 << 30)
    assert access.extent_count == 1 << 30
    assert (access.lo, access.hi) == (4096, 4096 + (64 << 30) - 56)
    offsets, lengths = access.slice((4 << 30) - 4, (4 << 30) + 4)
    assert offsets.tolist() == [4096 + (32 << 30) - 64 + 4, 4096 + (32 << 30)]
    assert lengths.tolist() == [4, 4]


def test_reads_of_scattered_pieces_touch_whole_blocks() -> None:
    access = Access.through(Typemap.basic(8).resized(0, 1 << 16), 0, 0, 8 * 1000)
    assert access.touched(1 << 16) == 1000 << 16
    dense = Access.through(Typemap.basic(8).resized(0, 16), 0, 0, 8 << 16)
    assert dense.touched(1 << 16) == pytest.approx(1 << 20, rel=0.1)


def test_bytes_through_an_empty_file_type_are_refused() -> None:
    with pytest.raises(ArgumentError, match="holds none"):
        Access.through(Typemap.basic(0), 0, 0, 5)
