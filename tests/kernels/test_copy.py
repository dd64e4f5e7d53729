"""Copies of many extents: against the plain-Python twin, at all small lengths; one bad extent and nothing is copied."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pinstripe import kernels
from pinstripe.testing import oracle

NOISE = np.random.default_rng(9).bytes(1 << 16)
INT64 = st.integers(-(2**63), 2**63 - 1)


def offsets(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def split(extents: list[tuple[int, int, int]]) -> tuple[npt.NDArray[np.int64], ...]:
    table = np.array(extents, np.int64).reshape(-1, 3)
    return tuple(np.ascontiguousarray(table[:, column]) for column in range(3))


@st.composite
def good_extents(draw: st.DrawFn, src: int = 500, dst: int = 400) -> list[tuple[int, int, int]]:
    def extent() -> tuple[int, int, int]:
        length = draw(st.integers(0, 100))
        return draw(st.integers(0, src - length)), draw(st.integers(0, dst - length)), length

    return [extent() for _ in range(draw(st.integers(0, 12)))]


@given(good_extents())
def test_it_agrees_with_the_twin_also_where_extents_overlap(extents: list[tuple[int, int, int]]) -> None:
    src_offsets, dst_offsets, lengths = split(extents)
    out = bytearray(400)
    copied = kernels.copy_extents(NOISE[:500], src_offsets, out, dst_offsets, lengths)
    assert copied == lengths.sum()
    assert out == oracle.copy_extents(
        NOISE[:500], src_offsets.tolist(), bytes(400), dst_offsets.tolist(), lengths.tolist()
    )


def test_every_length_from_every_alignment_is_copied_exactly() -> None:
    for length in [*range(300), 1000, 4096, 50_000]:
        start, to = length % 17, length % 13 + 1
        frame = bytearray(length + 20)
        assert kernels.copy_extents(NOISE, offsets(start), frame, offsets(to), offsets(length)) == length
        assert frame == bytes(to) + NOISE[start : start + length] + bytes(20 - to), length


@pytest.mark.parametrize("distance", [1, 3, 8, 15, 31, 40])
def test_within_one_buffer_an_extent_moves_as_by_memmove(distance: int) -> None:
    for length in range(80):
        for start, to in ((0, distance), (distance, 0)):
            buffer = bytearray(NOISE[:200])
            expected = bytearray(NOISE[:200])
            expected[to : to + length] = NOISE[start : start + length]
            kernels.copy_extents(buffer, offsets(start), buffer, offsets(to), offsets(length))
            assert buffer == expected, (length, start, to)


def test_a_gather_and_a_scatter_are_numpys() -> None:
    table = np.frombuffer(NOISE, np.uint8).reshape(-1, 64)
    rows = np.arange(len(table), dtype=np.int64)
    gathered = np.zeros((len(table), 8), np.uint8)
    eights = np.full(len(table), 8, np.int64)
    kernels.copy_extents(table, rows * 64 + 24, gathered, rows * 8, eights)
    assert (gathered == table[:, 24:32]).all()
    scattered = np.zeros_like(table)
    kernels.copy_extents(gathered, rows * 8, scattered, rows * 64 + 24, eights)
    assert (scattered[:, 24:32] == gathered).all()
    assert not scattered[:, :24].any()
    assert not scattered[:, 32:].any()


@given(good_extents(), st.tuples(INT64, INT64, INT64), st.integers(0, 12))
def test_one_bad_extent_is_an_error_that_names_it_and_nothing_is_copied(
    extents: list[tuple[int, int, int]], extra: tuple[int, int, int], place: int
) -> None:
    start, to, length = extra
    place = min(place, len(extents))
    extents.insert(place, extra)
    assume(length < 0 or not (0 <= start <= 500 - length and 0 <= to <= 400 - length))
    out = bytearray(400)
    src_offsets, dst_offsets, lengths = split(extents)
    with pytest.raises(IndexError, match=f"extent {place}: {length} bytes at {start} of 500 to {to} of 400"):
        kernels.copy_extents(NOISE[:500], src_offsets, out, dst_offsets, lengths)
    assert not any(out)


@pytest.mark.parametrize(
    ("start", "to", "length"),
    [
        (0, 0, 11),
        (1, 0, 10),
        (11, 0, 0),
        (0, 11, 0),
        (0, 2, 9),
        (-1, 0, 1),
        (0, -1, 1),
        (0, 0, -1),
        (2**63 - 1, 0, 2**63 - 1),
    ],
)
def test_an_extent_that_leaves_its_buffer_by_one_byte_is_refused(start: int, to: int, length: int) -> None:
    with pytest.raises(IndexError, match="extent 0"):
        kernels.copy_extents(bytes(10), offsets(start), bytearray(10), offsets(to), offsets(length))


def test_extents_that_just_fit_are_copied() -> None:
    out = bytearray(10)
    assert kernels.copy_extents(NOISE[:10], offsets(0, 10, 0), out, offsets(0, 0, 10), offsets(10, 0, 0)) == 10
    assert out == NOISE[:10]


def test_no_extents_copy_nothing() -> None:
    assert kernels.copy_extents(b"", offsets(), bytearray(), offsets(), offsets()) == 0


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 and 2 offsets, but 2 lengths"):
        kernels.copy_extents(bytes(9), offsets(0), bytearray(9), offsets(0, 1), offsets(1, 1))


def test_offsets_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="dtype mismatch"):
        kernels.copy_extents(bytes(9), np.zeros(1, np.int32), bytearray(9), offsets(0), offsets(1))


def test_a_read_only_destination_is_refused() -> None:
    with pytest.raises(BufferError):
        kernels.copy_extents(bytes(9), offsets(0), bytes(9), offsets(0), offsets(1))
