"""The byte shuffle: every implementation of this processor against the plain-Python twin."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import blosc2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe import kernels
from pinstripe.testing import oracle

NOISE = np.random.default_rng(5).bytes(1 << 17)


@pytest.fixture(params=kernels.shuffle_implementations(), autouse=True)
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    before = kernels.shuffle_use(request.param)
    yield request.param
    kernels.shuffle_use(before)


widths = pytest.mark.parametrize("width", [2, 4, 8])


def shuffled(data: bytes | memoryview, width: int) -> bytes:
    out = bytearray(len(data))
    kernels.shuffle(data, out, width)
    return bytes(out)


def unshuffled(data: bytes | memoryview, width: int) -> bytes:
    out = bytearray(len(data))
    kernels.unshuffle(data, out, width)
    return bytes(out)


def test_the_planes_come_one_after_the_other_and_the_tail_stays() -> None:
    assert shuffled(b"aAbBcC!", 2) == b"abcABC!"
    assert shuffled(b"0123abcdABCD???", 4) == b"0aA1bB2cC3dD???"


@widths
@given(st.binary(max_size=1200))
def test_it_agrees_with_the_twin(width: int, data: bytes) -> None:
    assert shuffled(data, width) == oracle.shuffle(data, width)
    assert unshuffled(data, width) == oracle.unshuffle(data, width)


@widths
def test_every_length_at_every_alignment_agrees_with_the_twin(width: int) -> None:
    for length in [*range(1100), 65_536, 65_543, 100_001]:
        start = length % 67
        data = NOISE[start : start + length]
        frame = bytearray(length + 100)  # dst at another alignment than src; and nothing beside it is touched
        to = length % 61 + 3
        kernels.shuffle(memoryview(NOISE)[start : start + length], memoryview(frame)[to : to + length], width)
        assert frame[to : to + length] == oracle.shuffle(data, width), length
        assert not any(frame[:to] + frame[to + length :]), length
        kernels.unshuffle(memoryview(NOISE)[start : start + length], memoryview(frame)[to : to + length], width)
        assert frame[to : to + length] == oracle.unshuffle(data, width), length
        assert not any(frame[:to] + frame[to + length :]), length


@widths
@given(st.binary(max_size=5000))
def test_unshuffle_is_the_inverse(width: int, data: bytes) -> None:
    assert unshuffled(shuffled(data, width), width) == data


@widths
def test_an_array_of_elements_is_transposed(width: int) -> None:
    array = np.frombuffer(NOISE, f"u{width}")
    assert shuffled(array.tobytes(), width) == array.view(np.uint8).reshape(-1, width).T.tobytes()


@widths
def test_it_is_the_layout_of_blosc(width: int) -> None:
    libraries = [*Path(blosc2.__file__).with_name("lib").glob("libblosc2.so*")]
    assert libraries, "this blosc2 does not ship its C library"
    for length in (0, 7, 800, 4096 + 5):
        out = ctypes.create_string_buffer(length)
        ctypes.CDLL(str(libraries[0])).blosc2_shuffle(width, length, NOISE[:length], out)
        assert shuffled(NOISE[:length], width) == out.raw, length


@pytest.mark.parametrize("bad", [-1, 0, 1, 3, 16])
def test_another_width_is_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="the width is 2, 4 or 8"):
        kernels.shuffle(b"1234", bytearray(4), bad)
    with pytest.raises(ValueError, match="the width is 2, 4 or 8"):
        kernels.unshuffle(b"1234", bytearray(4), bad)


def test_buffers_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="src has 8 bytes, dst 7"):
        kernels.shuffle(bytes(8), bytearray(7), 2)


def test_overlapping_buffers_are_refused() -> None:
    buffer = memoryview(bytearray(24))
    with pytest.raises(ValueError, match="overlap"):
        kernels.unshuffle(buffer[:16], buffer[8:], 4)
    kernels.shuffle(buffer[:12], buffer[12:], 4)


def test_a_read_only_destination_is_refused() -> None:
    with pytest.raises(BufferError):
        kernels.shuffle(bytes(8), bytes(8), 8)


def test_the_implementation_in_use_is_told(implementation: str) -> None:
    assert kernels.shuffle_implementation() == implementation


def test_an_unknown_implementation_is_refused() -> None:
    with pytest.raises(ValueError, match="no implementation 'abacus' on this processor, but portable"):
        kernels.shuffle_use("abacus")
