"""LZ4 blocks: the kernel against the plain-Python twin and the lz4 package, both ways, and on damaged input."""

import re
import subprocess
import sys

import lz4.block
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe import kernels
from pinstripe.testing import oracle

TEXT = b"".join(b"line %d of a text that repeats itself; " % (n % 321) for n in range(3000))
# Random bytes hardly repeat; lists of a few pieces, over and over, do.
COMPRESSIBLE = st.builds(
    lambda pieces, order: b"".join(pieces[i % len(pieces)] for i in order),
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5),
    st.lists(st.integers(0, 4), max_size=60),
)
DATA = st.binary(max_size=1200) | COMPRESSIBLE


def compressed(data: bytes, acceleration: int = 1) -> bytes:
    out = bytearray(kernels.lz4_bound(len(data)))
    return bytes(out[: kernels.lz4_compress(data, out, acceleration)])


def decompressed(block: bytes, room: int) -> bytes:
    out = bytearray(room)
    return bytes(out[: kernels.lz4_decompress(block, out)])


@given(DATA, st.integers(1, 100))
def test_what_it_compresses_the_twin_and_the_package_read(data: bytes, acceleration: int) -> None:
    block = compressed(data, acceleration)
    assert oracle.lz4_decompress(block, len(data)) == data
    assert lz4.block.decompress(block, uncompressed_size=len(data)) == data


@given(DATA)
def test_it_reads_what_the_twin_and_the_package_compress(data: bytes) -> None:
    assert decompressed(oracle.lz4_compress(data), len(data)) == data
    assert decompressed(lz4.block.compress(data, store_size=False), len(data)) == data


@pytest.mark.parametrize("data", [TEXT, bytes(100_000), np.random.default_rng(1).bytes(100_000)])
def test_large_blocks_come_back(data: bytes) -> None:
    assert decompressed(compressed(data), len(data)) == data


def test_text_becomes_smaller_and_acceleration_costs_space() -> None:
    assert len(compressed(TEXT)) < len(TEXT) / 4
    assert len(compressed(TEXT)) <= len(compressed(TEXT, 50)) < len(TEXT)


def test_the_state_carries_nothing_from_one_block_to_the_next() -> None:
    first = compressed(TEXT)
    compressed(np.random.default_rng(2).bytes(65_536))
    assert compressed(TEXT) == first


@given(DATA)
def test_a_destination_that_is_too_small_gives_zero_and_is_not_overrun(data: bytes) -> None:
    needed = len(compressed(data))
    for room in {0, needed // 2, needed - 1}:
        frame = bytearray(b"\xaa" * (needed + 64))
        assert kernels.lz4_compress(data, memoryview(frame)[:room]) == 0
        assert frame[room:] == b"\xaa" * (needed + 64 - room)


@given(DATA, st.integers(0, 64))
def test_a_larger_destination_is_written_no_further_than_the_data(data: bytes, more: int) -> None:
    assert decompressed(compressed(data), len(data) + more) == data


@given(st.binary(max_size=300), st.integers(0, 2000))
def test_what_the_twin_refuses_is_refused_and_what_both_take_is_the_same(block: bytes, room: int) -> None:
    frame = bytearray(room + 64)
    try:
        expected = oracle.lz4_decompress(block, room)
    except ValueError:
        with pytest.raises(ValueError, match=f"the {len(block)} bytes are no LZ4 block of at most {room} raw bytes"):
            kernels.lz4_decompress(block, memoryview(frame)[:room])
    else:
        try:
            size = kernels.lz4_decompress(block, memoryview(frame)[:room])
        except ValueError:
            pass  # LZ4 may insist on the rules for the last bytes of a block, which the twin does not check
        else:
            assert frame[:size] == expected
    assert not any(frame[room:])


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_never_writes_past_the_destination(place: int, flip: int) -> None:
    block = bytearray(compressed(TEXT[:20_000]))
    block[place % len(block)] ^= flip
    frame = bytearray(20_064)
    try:
        assert kernels.lz4_decompress(block, memoryview(frame)[:20_000]) <= 20_000
    except ValueError as error:
        assert "no LZ4 block" in str(error)  # noqa: PT017
    assert not any(frame[20_000:])


def test_an_empty_block_is_no_block_but_nothing_has_one() -> None:
    with pytest.raises(ValueError, match="the 0 bytes are no LZ4 block"):
        kernels.lz4_decompress(b"", bytearray(10))
    assert compressed(b"") == b"\0"
    assert decompressed(b"\0", 0) == b""
    assert decompressed(b"\0", 5) == b""


def test_the_bound_holds_and_has_limits() -> None:
    assert kernels.lz4_bound(0) >= 1
    for length in (1, 255, 65_536, 1 << 20):
        assert length < len(compressed(np.random.default_rng(length).bytes(length))) <= kernels.lz4_bound(length)
    for length in (-1, 0x7E000001, 1 << 40):
        with pytest.raises(ValueError, match=f"LZ4 takes 0 to {0x7E000000} bytes, not {length}"):
            kernels.lz4_bound(length)


def test_overlapping_and_read_only_buffers_are_refused() -> None:
    buffer = memoryview(bytearray(b"\0" * 64))
    with pytest.raises(ValueError, match="overlap"):
        kernels.lz4_compress(buffer[:32], buffer[16:])
    with pytest.raises(ValueError, match="overlap"):
        kernels.lz4_decompress(buffer[:32], buffer[16:])
    with pytest.raises(BufferError):
        kernels.lz4_compress(b"abc", bytes(64))


def test_it_tells_which_library_it_took() -> None:
    assert re.fullmatch(r"lz4 \d+\.\d+\.\d+ \((lz4 package|system)\)", kernels.lz4_library())


@pytest.mark.skipif("system" in kernels.lz4_library(), reason="LZ4 is linked")
def test_without_the_package_the_import_says_what_to_install() -> None:
    program = "import sys; sys.modules['lz4.block'] = None; import pinstripe.kernels"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: pinstripe takes LZ4 from the lz4 package: pip install lz4" in done.stderr


@pytest.mark.skipif("system" in kernels.lz4_library(), reason="LZ4 is linked")
def test_a_package_that_exports_no_lz4_is_named() -> None:
    program = "import lz4.block, math; lz4.block._block.__file__ = math.__file__; import pinstripe.kernels"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"ImportError: .*math.*\.so exports no LZ4_versionString: install another build", done.stderr)
