"""CRC-64/NVME: every implementation of this processor against known answers, the plain-Python twin and awscrt."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pinstripe import kernels
from pinstripe.testing import oracle

CHECKSUMS = st.integers(0, 2**64 - 1)
LENGTHS = st.integers(0, 2**63 - 1)
NOISE = np.random.default_rng(64).bytes(1 << 20)


@pytest.fixture(params=kernels.crc64_implementations(), autouse=True)
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    before = kernels.crc64_use(request.param)
    yield request.param
    kernels.crc64_use(before)


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xAE8B14860A799888),
        (bytes(4096), 0x6482D367EB22B64E),  # this and the next: the NVM Express specification, 64b CRC test cases
        (b"\xff" * 4096, 0xC0DDBA7302ECA3AC),
        (bytes(range(256)) * 16, 0x3E729F5F6750449C),
        (bytes(range(255, -1, -1)) * 16, 0x9A2DF64B8E9E517E),
    ],
    ids=["nothing", "check value", "zeros", "ones", "up", "down"],
)
def test_known_answers_hold(data: bytes, crc: int) -> None:
    assert kernels.crc64(data) == crc


def test_every_length_at_every_alignment_agrees_with_the_twin() -> None:
    for length in range(1100):
        start = length % 64
        data = memoryview(NOISE)[start : start + length]
        assert kernels.crc64(data) == oracle.crc64(bytes(data)), length
    for start in range(65):
        data = memoryview(NOISE)[start : start + 777]
        assert kernels.crc64(data) == oracle.crc64(bytes(data)), start


@given(st.binary(max_size=1200), CHECKSUMS)
def test_going_on_from_a_checksum_agrees_with_the_twin(data: bytes, crc: int) -> None:
    assert kernels.crc64(data, crc) == oracle.crc64(data, crc)


@pytest.mark.parametrize("length", [4096, 65_536, 65_537, 100_003])
def test_long_data_agrees_with_the_twin(length: int) -> None:
    assert kernels.crc64(memoryview(NOISE)[5 : 5 + length]) == oracle.crc64(NOISE[5 : 5 + length])


@given(st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_it_agrees_with_awscrt(start: int, length: int) -> None:
    checksums = pytest.importorskip("awscrt.checksums", reason="pip install awscrt")
    data = NOISE[start : start + length]
    assert kernels.crc64(data) == checksums.crc64nvme(data)


def test_every_single_bit_counts() -> None:
    data = bytearray(NOISE[:600])
    seen = {kernels.crc64(data)}
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        seen.add(kernels.crc64(data))
        data[bit // 8] ^= 1 << bit % 8
    assert len(seen) == 8 * len(data) + 1


@given(st.binary(max_size=600), st.binary(max_size=600))
def test_combining_gives_the_checksum_of_the_concatenation(a: bytes, b: bytes) -> None:
    assert kernels.crc64_combine(kernels.crc64(a), kernels.crc64(b), len(b)) == kernels.crc64(a + b)


@given(CHECKSUMS, CHECKSUMS, st.integers(0, 2**64 - 1))
@example(1, 0, 0)
@example(1, 0, 1)
@example(1, 0, 2**64 - 1)
def test_combining_agrees_with_the_twin_for_any_length(crc_a: int, crc_b: int, length: int) -> None:
    assert kernels.crc64_combine(crc_a, crc_b, length) == oracle.crc64_combine(crc_a, crc_b, length)


@given(st.binary(max_size=100), st.integers(0, 1500))
def test_zeros_are_what_zero_bytes_give(data: bytes, length: int) -> None:
    assert kernels.crc64_zeros(length, kernels.crc64(data)) == kernels.crc64(data + bytes(length))


@given(CHECKSUMS, st.integers(0, 2**64 - 1))
def test_zeros_agree_with_the_twin_for_any_length(crc: int, length: int) -> None:
    assert kernels.crc64_zeros(length, crc) == oracle.crc64_zeros(length, crc)


@given(st.lists(st.tuples(CHECKSUMS, st.sampled_from([0, 1, 65_536, 1 << 20]) | LENGTHS), max_size=20), CHECKSUMS)
def test_a_fold_is_the_combination_in_order(pieces: list[tuple[int, int]], crc: int) -> None:
    crcs = np.array([piece for piece, _ in pieces], np.uint64)
    lengths = np.array([length for _, length in pieces], np.int64)
    assert kernels.crc64_fold(crcs, lengths, crc) == oracle.crc64_fold(crcs.tolist(), lengths.tolist(), crc)


def test_a_fold_of_pieces_is_the_checksum_of_the_whole() -> None:
    pieces = [NOISE[i : i + 65_536] for i in range(0, 1_000_000, 65_536)]
    crcs = np.array([kernels.crc64(piece) for piece in pieces], np.uint64)
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    assert kernels.crc64_fold(crcs, lengths) == kernels.crc64(b"".join(pieces))


def test_a_fold_refuses_a_negative_length() -> None:
    with pytest.raises(ValueError, match="length 1 is negative: -5"):
        kernels.crc64_fold(np.zeros(2, np.uint64), np.array([3, -5]))


def test_a_fold_refuses_arrays_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="2 checksums but 3 lengths"):
        kernels.crc64_fold(np.zeros(2, np.uint64), np.zeros(3, np.int64))


@pytest.mark.parametrize("crc", [-1, 2**64])
def test_a_checksum_out_of_range_is_refused(crc: int) -> None:
    with pytest.raises(OverflowError):
        kernels.crc64(b"", crc)


def test_the_bytes_of_any_contiguous_buffer_are_taken() -> None:
    array = np.frombuffer(NOISE[:480], "f8").reshape(5, 12)
    record = np.frombuffer(NOISE[:480], [("a", "i4"), ("b", "f8")])
    expected = kernels.crc64(NOISE[:480])
    for buffer in (array, record, bytearray(NOISE[:480]), memoryview(array), array.astype(array.dtype)):
        assert kernels.crc64(buffer) == expected
    assert kernels.crc64(np.empty((0, 3))) == 0


def test_a_strided_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        kernels.crc64(np.zeros((4, 4))[:, 1])


def test_what_is_no_buffer_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        kernels.crc64("text")


def test_the_implementation_in_use_is_told(implementation: str) -> None:
    assert kernels.crc64_implementation() == implementation


def test_an_unknown_implementation_is_refused_and_changes_nothing(implementation: str) -> None:
    with pytest.raises(ValueError, match="no implementation 'abacus' on this processor, but portable"):
        kernels.crc64_use("abacus")
    assert kernels.crc64_implementation() == implementation
