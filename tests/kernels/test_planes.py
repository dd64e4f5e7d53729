"""Byte planes: the kernel makes the twin's bytes, gives them back, and takes nothing that the twin refuses."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinstripe import kernels
from pinstripe.testing import oracle
from pinstripe.testing.samples import KINDS, sample

RAW, LZ4, CONSTANT = range(3)
WIDTHS = (2, 4, 8)
widths = pytest.mark.parametrize("width", WIDTHS)

blocks = st.one_of(
    st.binary(max_size=300),
    st.builds(sample, st.sampled_from(KINDS), st.integers(0, 40_000), st.integers(0, 3)),
    st.builds(
        lambda kinds, count: interleaved(kinds, count), st.text("rlc", min_size=8, max_size=8), st.integers(0, 5000)
    ),
)


def interleaved(kinds: str, count: int) -> bytes:
    """`count` elements of as many bytes as `kinds` has letters, whose planes are to be raw, LZ4 and constant."""
    planes = {"r": sample("noise", count), "l": sample("text", count), "c": b"c" * count}
    return np.frombuffer(b"".join(planes[kind] for kind in kinds), np.uint8).reshape(len(kinds), count).T.tobytes()


def compressed(data: bytes, width: int) -> bytes:
    out = bytearray(b"\xaa" * (kernels.planes_bound(len(data)) + 64))
    size = kernels.planes_compress(data, memoryview(out)[:-64], width)
    assert out[-64:] == b"\xaa" * 64
    return bytes(out[:size])


def decompressed(stored: bytes, length: int, width: int) -> bytes:
    out = bytearray(b"\xaa" * (length + 64))
    try:
        kernels.planes_decompress(stored, memoryview(out)[:length], width)
    finally:
        assert out[length:] == b"\xaa" * 64
    return bytes(out[:length])


@given(blocks, st.sampled_from(WIDTHS))
def test_it_makes_the_twins_bytes_and_gives_them_back(data: bytes, width: int) -> None:
    stored = compressed(data, width)
    assert stored == oracle.planes_compress(data, width)
    assert len(stored) <= kernels.planes_bound(len(data)) == len(data) + 2
    if len(data) >= width:
        assert decompressed(stored, len(data), width) == oracle.planes_decompress(stored, len(data), width) == data


@widths
@pytest.mark.parametrize("count", [1, 5, 6, 7, 13, 64, 1000, 8192])
def test_each_plane_is_stored_in_its_own_way(width: int, count: int) -> None:
    kinds = "rlcrrllc"[:width]
    for tail in range(width):
        data = interleaved(kinds, count) + b"tail567"[:tail]
        stored = compressed(data, width)
        assert decompressed(stored, len(data), width) == data
        found = [int.from_bytes(stored[:2], "little") >> 2 * plane & 3 for plane in range(width)]
        if count >= 1000:
            assert found == ["rlc".index(kind) for kind in kinds]
        if count == 1:
            assert found == [CONSTANT] * width
        if tail:
            assert stored.endswith(data[-tail:])


def test_the_planes_of_a_ramp_are_nearly_all_constant() -> None:
    assert len(compressed(np.arange(8192).tobytes(), 8)) < 700


@widths
def test_a_plane_is_lz4_only_when_that_is_smaller_with_its_length(width: int) -> None:
    count = 4096
    for repeated in range(0, 200, 3):
        plane = sample("noise", count - repeated, repeated) + b"." * repeated
        data = plane + bytes(count * (width - 1))
        shuffled = oracle.unshuffle(data, width)
        stored = compressed(shuffled, width)
        assert len(stored) - 2 - (width - 1) <= count
        assert stored == oracle.planes_compress(shuffled, width)


@settings(max_examples=300)
@given(blocks, st.sampled_from(WIDTHS), st.data())
def test_what_the_twin_refuses_is_refused_and_what_both_take_is_the_same(
    data: bytes, width: int, draw: st.DataObject
) -> None:
    stored = bytearray(compressed(data, width))
    for place in draw.draw(st.lists(st.integers(0, len(stored) - 1) | st.integers(0, 12), max_size=4)):
        if place < len(stored):
            stored[place] ^= 1 << draw.draw(st.integers(0, 7))
    if draw.draw(st.booleans()):
        stored = stored[: draw.draw(st.integers(0, len(stored)))] + draw.draw(st.binary(max_size=9))
    length = max(0, len(data) + draw.draw(st.sampled_from([0, 0, 0, -1, 1, -width, width])))
    taken: bytes | None = None
    try:
        taken = decompressed(bytes(stored), length, width)
    except ValueError as error:
        assert f"no planes of {length} raw bytes of width {width}" in str(error)  # noqa: PT017
    try:
        expected = oracle.planes_decompress(bytes(stored), length, width)
    except ValueError:
        assert taken is None
    else:
        assert taken in (None, expected)  # LZ4 insists on the rules for a block's last bytes, the twin does not


@pytest.mark.parametrize("value", [0, 1, 999, 1000, 1001, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_hostile_length_is_refused(value: int) -> None:
    data = interleaved("lr", 1000)
    stored = compressed(data, 2)
    good = struct.unpack_from("<I", stored, 2)[0]
    for length in {value, good - 1, good + 1}:
        hostile = stored[:2] + struct.pack("<I", length) + stored[6:]
        with pytest.raises(ValueError, match="no planes"):
            decompressed(hostile, len(data), 2)
        with pytest.raises(ValueError):
            oracle.planes_decompress(hostile, len(data), 2)


@widths
def test_an_unknown_kind_and_kinds_of_planes_that_are_not_there_are_refused(width: int) -> None:
    data = interleaved("r" * width, 100)
    stored = compressed(data, width)
    for bit in range(16):
        for kinds in (1 << bit, 3 << bit & 0xFFFF):
            with pytest.raises(ValueError, match="no planes"):
                decompressed(kinds.to_bytes(2, "little") + stored[2:], len(data), width)


@widths
def test_an_lz4_plane_of_another_length_is_refused(width: int) -> None:
    for count in (999, 1001):
        plane = oracle.lz4_compress(bytes(count))
        stored = (1).to_bytes(2, "little") + struct.pack("<I", len(plane)) + plane + bytes(1000 * (width - 1))
        with pytest.raises(ValueError, match="no planes"):
            decompressed(stored, 1000 * width, width)


def test_the_formats_example_is_what_is_made() -> None:
    assert compressed(b"\x61\0\x72\0\xc3\0\xff", 2) == b"\x08\0\x61\x72\xc3\0\xff"


def test_less_than_an_element_is_no_plane() -> None:
    assert compressed(b"abc", 4) == b"\0\0abc"
    with pytest.raises(ValueError, match="no planes of 3 raw bytes"):
        decompressed(b"\0\0abc", 3, 4)


def test_wrong_arguments_are_refused() -> None:
    buffer = memoryview(bytearray(64))
    for width in (-1, 0, 1, 3, 16):
        with pytest.raises(ValueError, match="the width is 2, 4 or 8"):
            kernels.planes_compress(b"1234", bytearray(6), width)
        with pytest.raises(ValueError, match="the width is 2, 4 or 8"):
            kernels.planes_decompress(b"1234", bytearray(4), width)
    with pytest.raises(ValueError, match="dst has 9 bytes; 8 raw bytes may take 10"):
        kernels.planes_compress(bytes(8), bytearray(9), 2)
    with pytest.raises(ValueError, match="overlap"):
        kernels.planes_compress(buffer[:20], buffer[10:], 2)
    with pytest.raises(ValueError, match="overlap"):
        kernels.planes_decompress(buffer[:20], buffer[10:], 2)
    with pytest.raises(BufferError):
        kernels.planes_decompress(bytes(8), bytes(8), 2)
    with pytest.raises(ValueError, match="LZ4 takes"):
        kernels.planes_bound(-1)
