"""The probe: it decides as the plain-Python twin does, and well: near the best codec and width for many kinds."""

import base64
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe import kernels
from pinstripe.testing import oracle

RAW, LZ4, ZERO, PLANES = range(4)
BYTES = 65_536
WORDS = [bytes(word) for word in np.random.default_rng(7).integers(97, 123, (4000, 6), np.uint8)]
TEXT = b" ".join(WORDS[n] for n in np.random.default_rng(8).zipf(1.3, BYTES // 2) if n < len(WORDS))[:BYTES]


def noise(count: int = BYTES) -> bytes:
    return np.random.default_rng(count).bytes(count)


def field(dtype: str, amplitude: float) -> npt.NDArray[np.float64]:
    """A smooth field with noise on it."""
    x = np.arange(BYTES // np.dtype(dtype).itemsize)
    smooth = 3 * np.sin(x / 500) + np.cos(x / 77)
    return (smooth + amplitude * np.random.default_rng(3).normal(size=len(x))).astype(dtype)


def stored_bytes(data: bytes, width: int) -> int:
    """Bytes of the block as planes, or as LZ4 if `width` is 0."""
    if width:
        return min(kernels.planes_compress(data, bytearray(kernels.planes_bound(len(data))), width), len(data))
    return min(kernels.lz4_compress(data, bytearray(kernels.lz4_bound(len(data)))), len(data))


KINDS: dict[str, tuple[Callable[[], npt.NDArray[np.generic] | bytes], tuple[int, int]]] = {
    "text": (lambda: TEXT, (LZ4, 0)),
    "random": (noise, (RAW, 0)),
    "compressed": (lambda: zlib.compress(TEXT * 2 + noise(), 9)[-BYTES:], (RAW, 0)),
    "base64 of random": (lambda: base64.b64encode(noise())[:BYTES], (RAW, 0)),
    "zeros": (lambda: bytes(BYTES), (ZERO, 0)),
    "float64 smooth": (lambda: field("f8", 0), (PLANES, 8)),
    "float64 with noise": (lambda: field("f8", 0.001), (PLANES, 8)),
    "float32 smooth": (lambda: field("f4", 0), (PLANES, 4)),
    "float32 with noise": (lambda: field("f4", 0.001), (PLANES, 4)),
    "float16 with noise": (lambda: field("f2", 0.01), (PLANES, 2)),
    "int16 with noise": (lambda: (1000 * field("f2", 0.01)).astype("i2"), (PLANES, 2)),
    "int32 ramp": (lambda: np.arange(BYTES // 4, dtype="i4"), (PLANES, 4)),
    "int64 ramp": (lambda: np.arange(BYTES // 8, dtype="i8"), (PLANES, 8)),
    "int64 steps": (lambda: np.arange(BYTES // 8, dtype="i8") * 7 + 10**12, (PLANES, 8)),
    "uint8 ramp": (lambda: np.arange(BYTES).astype("u1"), (LZ4, 0)),
    "decimals": (lambda: np.round(field("f8", 0.01), 2), (LZ4, 0)),
    "half random, half text": (lambda: noise(BYTES // 2) + TEXT[: BYTES // 2], (LZ4, 0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_choice_is_the_expected_one_and_near_the_best(kind: str) -> None:
    make, expected = KINDS[kind]
    data = memoryview(make()).cast("B").tobytes()
    assert kernels.probe(data) == expected
    codec, width = expected
    if codec != ZERO:
        best = min(stored_bytes(data, candidate) for candidate in (0, 2, 4, 8))
        assert (len(data) if codec == RAW else stored_bytes(data, width)) <= 1.05 * best


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("length", [100, 16_384, BYTES])
def test_it_decides_as_the_twin_does(kind: str, width: int, length: int) -> None:
    data = memoryview(KINDS[kind][0]()).cast("B").tobytes()[:length]
    assert kernels.probe(data, width) == oracle.probe(data, width)


PIECES = {
    "noise": noise(1 << 12),
    "text": TEXT[:4096],
    "zeros": bytes(2048),
    "field": field("f8", 0.001).tobytes()[:8192],
    "byte": b"x",
}


@given(st.lists(st.sampled_from(sorted(PIECES)), max_size=8), st.sampled_from([0, 1, 2, 4, 8, 3, 16]))
def test_it_decides_as_the_twin_does_on_mixed_blocks(pieces: list[str], width: int) -> None:
    data = b"".join(PIECES[piece] for piece in pieces)
    assert kernels.probe(data, width) == oracle.probe(data, width)


@given(st.binary(max_size=600), st.sampled_from([0, 1, 2, 4, 8]))
def test_it_decides_as_the_twin_does_on_short_blocks(data: bytes, width: int) -> None:
    assert kernels.probe(data, width) == oracle.probe(data, width)


def test_a_known_width_is_used_or_no_planes_at_all() -> None:
    smooth = field("f8", 0)
    assert kernels.probe(smooth, 8) == (PLANES, 8)
    assert kernels.probe(TEXT, 4) == (LZ4, 0)
    assert kernels.probe(noise(), 8) == (RAW, 0)
    for data in (smooth, TEXT, np.arange(9999)):
        for width in (2, 4, 8):
            assert kernels.probe(data, width)[1] in (0, width)


def test_bytes_are_never_taken_for_planes() -> None:
    assert kernels.probe(field("f8", 0), 1) == (RAW, 0)
    assert kernels.probe(np.arange(8192), 1) == (LZ4, 0)


def test_the_planes_are_what_makes_a_smooth_field_smaller() -> None:
    smooth = field("f8", 0).tobytes()
    assert stored_bytes(smooth, 0) == len(smooth)
    assert stored_bytes(smooth, 8) < 0.85 * len(smooth)


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 16_384, 100_001, 1 << 20])
def test_only_a_block_of_zeros_is_zero_wherever_the_other_byte_is(length: int) -> None:
    block = bytearray(length)
    assert kernels.probe(block) == (ZERO, 0)
    for place in {0, 1, 7, 8, 254, 255, 256, length // 2, length - 2, length - 1} & set(range(length)):
        block[place] = 1
        assert kernels.probe(block)[0] != ZERO, place
        block[place] = 0


def test_a_field_is_found_at_any_offset_in_its_element() -> None:
    data = field("f8", 0.001).tobytes()
    for start in range(1, 8):
        assert kernels.probe(data[start:]) == (PLANES, 8)
