"""Encoding, placing and writing frames: what the kernel makes, the plain-Python twin reads; codecs; errors."""

import errno
import os
import resource
import struct
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinstripe import kernels
from pinstripe.kernels import CODEC_AUTO, CODEC_LZ4, CODEC_RAW, Elsewhere, Encoder, FrameBatch
from pinstripe.testing import frame_oracle
from pinstripe.testing.frame_oracle import LZ4, PLANES, RAW, ZERO
from pinstripe.testing.samples import KINDS, sample

FILE_ID, TX = b"file id, 16 byte", b"transaction, 16 "
BLOCK = 16 << 10
PAGE = 4096

pieces = st.lists(
    st.builds(sample, st.sampled_from(KINDS), st.integers(1, 40_000), st.integers(0, 3)), min_size=1, max_size=4
)


def encode(
    encoder: Encoder, stripes: Sequence[bytes], numbers: Sequence[int] | None = None, width: int = 0
) -> FrameBatch:
    """The stripes, joined, with a byte between that belongs to none."""
    data = b"?".join(stripes)
    lengths = np.array([len(stripe) for stripe in stripes], np.int64)
    offsets = np.cumsum(lengths + 1) - lengths - 1
    return encoder.encode(
        data, offsets, lengths, np.array(range(len(stripes)) if numbers is None else numbers, np.uint64), width
    )


def encoder(codec: int = CODEC_AUTO, block_bytes: int = BLOCK, threads: int = 1) -> Encoder:
    return Encoder(FILE_ID, TX, block_bytes, codec, threads=threads)


def frames_of(batch: FrameBatch, start: int = 64) -> list[bytes]:
    run = batch.tobytes(start, 0, len(batch))
    return [
        run[int(at) - start :][: int(record["frame_bytes"])]
        for at, record in zip(batch.place(0, len(batch), start), batch.records, strict=True)
    ]


def codecs_of(stripe: bytes, codec: int = CODEC_AUTO, width: int = 0) -> list[tuple[int, int]]:
    (frame,) = frames_of(encode(encoder(codec), [stripe], width=width))
    return list(frame_oracle.decode_frame(frame).blocks)


# --- encode ----------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    st.lists(pieces, min_size=1, max_size=4),
    st.sampled_from([CODEC_AUTO, CODEC_LZ4, CODEC_RAW]),
    st.sampled_from([0, 1, 2, 4, 8, 16, 3, -1]),
    st.sampled_from([BLOCK, 2 * BLOCK, 1 << 20]),
    st.integers(0, 2**40),
)
def test_the_twin_reads_what_the_encoder_makes(
    parts: list[list[bytes]], codec: int, width: int, block_bytes: int, start: int
) -> None:
    stripes = [b"".join(part) for part in parts]
    numbers = [2**63 + 5 * n for n in range(len(stripes))]
    batch = encode(encoder(codec, block_bytes), stripes, numbers, width)
    assert len(batch) == len(stripes)
    for frame, stripe, number, record in zip(
        frames_of(batch, start), stripes, numbers, batch.records.tolist(), strict=True
    ):
        found = frame_oracle.decode_frame(frame)
        assert found.raw == stripe
        assert (found.file_id, found.tx, found.stripe) == (FILE_ID, TX, number)
        assert found.crc64 == kernels.crc64(stripe)
        raw, zero = found.blocks.count((RAW, 0)), found.blocks.count((ZERO, 0))
        plain = found.blocks.count((LZ4, 0))
        counts = (raw, plain, len(found.blocks) - raw - zero - plain, zero)
        assert record[1:2] + record[3:] == (
            len(frame),
            found.crc64,
            len(stripe),
            found.header_bytes // 64,
            *counts,
            0,
        )
    assert batch.raw_bytes == sum(map(len, stripes))
    assert batch.stored_bytes == batch.records["frame_bytes"].sum()
    assert batch.records["offset"].tolist() == batch.place(0, len(batch), 0).tolist()


@pytest.mark.parametrize("length", [1, 2, 63, 64, 255, 256, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 7])
@pytest.mark.parametrize("kind", KINDS)
def test_every_odd_size_comes_back(kind: str, length: int) -> None:
    for codec in (CODEC_AUTO, CODEC_LZ4, CODEC_RAW):
        (frame,) = frames_of(encode(encoder(codec), [sample(kind, length)]))
        assert frame_oracle.decode_frame(frame).raw == sample(kind, length)


@settings(max_examples=150)
@given(
    st.lists(pieces, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 60_000)), max_size=30),
    st.sampled_from([CODEC_AUTO, CODEC_LZ4, CODEC_RAW]),
    st.sampled_from([0, 1, 8]),
    st.integers(0, 2**20),
)
def test_where_the_bytes_lie_does_not_change_the_frames(
    parts: list[list[bytes]], gaps: list[tuple[int, int]], codec: int, width: int, start: int
) -> None:
    stripes = [b"".join(part) for part in parts]
    joined = b"?".join(stripes)
    data, other = np.frombuffer(joined, np.uint8).copy(), np.full(len(joined), 255, np.uint8)
    extents, at = [], 0
    for gap, length in gaps:
        at, stop = at + gap, min(at + gap + length, len(joined))
        if at < stop:
            other[len(joined) - stop : len(joined) - at] = data[at:stop]
            data[at:stop] = 254
            extents.append((at, len(joined) - stop, stop - at))
        at = stop
    elsewhere = Elsewhere(other, *np.array(extents, np.int64).reshape(-1, 3).T)
    lengths = np.array([len(stripe) for stripe in stripes], np.int64)
    numbers = np.arange(len(stripes), dtype=np.uint64)
    batch = encoder(codec).encode(data, np.cumsum(lengths + 1) - lengths - 1, lengths, numbers, width, elsewhere)
    want = encode(encoder(codec), stripes, width=width)
    assert batch.records.tobytes() == want.records.tobytes()
    assert batch.tobytes(start, 0, len(batch)) == want.tobytes(start, 0, len(want))
    with tempfile.TemporaryFile() as file:
        batch.write(file.fileno(), start, 0, len(batch))
        at = int(batch.place(0, 1, start)[0])
        assert contents(file.fileno(), at) == want.tobytes(start, 0, len(want))[at - start :]


def test_what_lies_elsewhere_lies_somewhere_and_in_order() -> None:
    def make(*extents: tuple[int, int, int], length: int = 100) -> Elsewhere:
        return Elsewhere(bytes(length), *np.array(extents, np.int64).T)

    made = make((0, 0, 100), (100, 0, 1))
    assert (made.places.tolist(), made.offsets.tolist(), made.lengths.tolist()) == ([0, 100], [0, 0], [100, 1])
    for wrong in ((0, 0, 101), (0, 100, 1), (0, -1, 1), (0, 0, 0), (0, 0, -1), (0, 2**63 - 1, 1)):
        with pytest.raises(ValueError, match="leaves the buffer"):
            make(wrong)
    for wrong in ((-1, 0, 1), (2**63 - 1, 0, 1)):
        with pytest.raises(ValueError, match="before the one before ends"):
            make(wrong)
    with pytest.raises(ValueError, match="before the one before ends"):
        make((0, 0, 10), (9, 20, 10))
    with pytest.raises(ValueError, match="1 places, 2 offsets"):
        Elsewhere(b"x", np.zeros(1, np.int64), np.zeros(2, np.int64), np.ones(1, np.int64))


def test_threads_change_neither_the_frames_nor_what_comes_after() -> None:
    mixed = [sample(KINDS[n * n % 4], 700_000 + n, n) for n in range(24)]
    made = []
    for threads in (1, 3):
        one = encoder(block_bytes=64 << 10, threads=threads)
        made.append([])
        for _ in range(2):
            batch = encode(one, mixed)
            made[-1].append((batch.tobytes(0, 0, len(batch)), batch.records.tobytes()))
            batch.release()
    assert made[0] == made[1]


def test_auto_stores_each_kind_as_it_should() -> None:
    assert set(codecs_of(sample("noise", 8 * BLOCK))) == {(RAW, 0)}
    assert set(codecs_of(sample("text", 8 * BLOCK))) == {(LZ4, 0)}
    assert set(codecs_of(sample("float64", 8 * BLOCK))) == {(PLANES, 8)}
    assert set(codecs_of(sample("float64", 8 * BLOCK), width=8)) == {(PLANES, 8)}
    assert set(codecs_of(sample("zeros", 8 * BLOCK))) == {(ZERO, 0)}


def test_a_pair_of_floats_is_shuffled_as_floats_are() -> None:
    assert set(codecs_of(sample("float64", 8 * BLOCK), CODEC_LZ4, width=16)) == {(PLANES, 8)}
    assert set(codecs_of(sample("text", 8 * BLOCK), CODEC_LZ4, width=24)) == {(LZ4, 0)}


def test_bytes_are_never_shuffled() -> None:
    for codec in (CODEC_AUTO, CODEC_LZ4):
        for kind in KINDS:
            assert all(width == 0 for _, width in codecs_of(sample(kind, 8 * BLOCK), codec, width=1))


def test_lz4_is_tried_on_every_block_and_raw_keeps_even_zeros() -> None:
    mixed = b"".join(sample(kind, BLOCK) for kind in ("noise", "text", "float64", "zeros") * 2)
    assert codecs_of(mixed, CODEC_LZ4, width=1) == [(RAW, 0), (LZ4, 0), (RAW, 0), (ZERO, 0)] * 2
    assert codecs_of(mixed, CODEC_LZ4, width=8)[2::4] == [(PLANES, 8)] * 2
    assert codecs_of(mixed, CODEC_RAW) == [(RAW, 0)] * 8


def test_a_block_that_is_not_quite_zero_is_not_taken_for_zero() -> None:
    for place in (0, 63, 64, BLOCK // 2, BLOCK - 1):
        stripe = bytearray(BLOCK)
        stripe[place] = 1
        assert codecs_of(bytes(stripe)) != [(ZERO, 0)]
        assert codecs_of(bytes(stripe), CODEC_LZ4) == [(LZ4, 0)]


def test_auto_notices_when_the_data_changes() -> None:
    noise, text, field = (sample(kind, 64 * BLOCK) for kind in ("noise", "text", "float64"))
    found = codecs_of(text + field)
    assert found == [(LZ4, 0)] * 64 + [(PLANES, 8)] * 64
    found = codecs_of(field + text)
    assert found.count((LZ4, 0)) >= 60
    found = codecs_of(noise + text)  # it looks again after 1, 2, 4 ... 64 blocks
    assert found[:64] == [(RAW, 0)] * 64
    assert found[-1] == (LZ4, 0)


def stored_bytes_of(stripe: bytes, codec: int, width: int) -> list[int]:
    """Of each block, from its table."""
    (frame,) = frames_of(encode(encoder(codec), [stripe], width=width))
    count = len(frame_oracle.decode_frame(frame).blocks)
    return [struct.unpack_from("<I", frame, 128 + 16 * n + 8)[0] for n in range(count)]


def test_auto_tries_again_the_planes_that_did_not_compress() -> None:
    noise = np.random.default_rng(3)
    values = np.zeros((64 * BLOCK // 8, 8), np.uint8)
    values[:, :5] = noise.integers(0, 256, (len(values), 5))
    values[:, 6:] = 63
    values[len(values) * 3 // 8 :, 2] = 7  # from block 24 on
    auto, tried = (stored_bytes_of(values.tobytes(), codec, 8) for codec in (CODEC_AUTO, CODEC_LZ4))
    assert auto[:24] == tried[:24]
    assert auto[40:] == tried[40:]
    assert all(ours in (theirs, theirs + BLOCK // 8 - 1) for ours, theirs in zip(auto, tried, strict=True))


def test_a_new_batch_is_looked_at_whatever_came_before() -> None:
    one = encoder()
    for _ in range(20):
        encode(one, [sample("noise", 64 * BLOCK)]).release()
    (frame,) = frames_of(encode(one, [sample("text", 8 * BLOCK)]))
    assert set(frame_oracle.decode_frame(frame).blocks) == {(LZ4, 0)}


def test_lz4_is_kept_only_where_it_saves_a_32nd() -> None:
    for share in range(0, 100, 3):
        stripe = sample("noise", BLOCK * (100 - share) // 100, share).ljust(BLOCK, b".")
        batch = encode(encoder(CODEC_LZ4), [stripe])
        stored = int(batch.stored_bytes) - 192
        assert stored == BLOCK or stored <= BLOCK - BLOCK // 32
        if share == 99:
            assert stored < BLOCK


def test_a_part_carries_its_extents() -> None:
    extents = np.array([[100_000, 20_000], [0, 7], [50, 0], [60, 30_001]], np.uint32)
    data = sample("text", 50_008)
    batch = encoder().encode_part(data, 77, extents)
    (frame,) = frames_of(batch)
    found = frame_oracle.decode_frame(frame)
    assert (found.raw, found.stripe) == (data, 77)
    assert found.extents == tuple(map(tuple, extents.tolist()))

    stripe = bytearray(b"!" * 130_000)
    status, number, back = kernels.decode_part(frame, stripe, FILE_ID, TX)
    assert (status, number, back.tolist()) == (0, 77, extents.tolist())
    expected = bytearray(b"!" * 130_000)
    expected[100_000:120_000], expected[:7], expected[60:30_061] = data[:20_000], data[20_000:20_007], data[20_007:]
    assert stripe == expected


def test_wrong_arguments_are_refused() -> None:
    one = encoder()
    numbers = np.zeros(1, np.uint64)

    def int64(value: int) -> npt.NDArray[np.int64]:
        return np.array([value], np.int64)

    biggest = 2**63 - 1
    for offset, length in (
        (0, 0),
        (0, -1),
        (0, 11),
        (-1, 5),
        (6, 5),
        (11, 1),
        (biggest, 1),
        (1, biggest),
        (0, 2**26 + 1),
    ):
        with pytest.raises(ValueError):
            one.encode(bytes(10), int64(offset), int64(length), numbers)
    with pytest.raises(ValueError):
        one.encode(bytes(10), int64(0), np.ones(2, np.int64), numbers)
    for extents in ([[0, 9]], [[0, 10], [2**32 - 1, 0]], [[2**26, 10]], [[0, 10], [0, 1]], []):
        with pytest.raises(ValueError):
            one.encode_part(bytes(10), 0, np.array(extents, np.uint32).reshape(-1, 2))
    with pytest.raises(ValueError, match="too many"):
        one.encode_part(bytes(10), 0, np.array([[0, 10]] + [[0, 0]] * 600_000, np.uint32))
    for block_bytes in (0, 8192, 3 << 14, 2 << 20, -1):
        with pytest.raises(ValueError):
            encoder(block_bytes=block_bytes)
    with pytest.raises(ValueError):
        encoder(3)
    with pytest.raises(ValueError):
        encoder(threads=0)
    with pytest.raises(ValueError):
        Encoder(FILE_ID[1:], TX, BLOCK)


def test_an_empty_batch_is_a_batch() -> None:
    batch = encode(encoder(), [])
    assert len(batch) == 0
    assert batch.tobytes(5, 0, 0) == b""
    batch.write(-1, 0, 0, 0)


def test_no_more_batches_are_open_than_were_agreed() -> None:
    one = encoder()
    first, second = encode(one, [b"1"]), encode(one, [b"2"])
    with pytest.raises(RuntimeError, match="release"):
        encode(one, [b"3"])
    first.release()
    first.release()
    encode(one, [b"4"])
    assert frame_oracle.decode_frame(frames_of(second)[0]).raw == b"2"
    del second
    encode(one, [b"5"])


def test_a_released_batch_cannot_be_used() -> None:
    batch = encode(encoder(), [b"1"])
    batch.release()
    for use in (lambda: batch.tobytes(0, 0, 1), lambda: batch.write(1, 0, 0, 1), lambda: batch.place(0, 1, 0)):
        with pytest.raises(ValueError, match="released"):
            use()
    assert len(batch) == 1


def test_a_batch_holds_the_callers_buffer_until_it_is_released() -> None:
    data = bytearray(sample("noise", 100))
    zero = np.zeros(1, np.int64)
    batch = encoder().encode(data, zero, zero + 100, zero.astype(np.uint64))
    with pytest.raises(BufferError):
        data.clear()
    batch.release()
    data.clear()


# --- place -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**45), st.lists(st.sampled_from(["noise", "text", "zeros", "few"]), min_size=1, max_size=8))
def test_frames_are_packed_and_big_raw_payloads_keep_off_page_borders(start: int, kinds: list[str]) -> None:
    stripes = [sample("noise", 1000) if kind == "few" else sample(kind, 5 * BLOCK) for kind in kinds]
    batch = encode(encoder(CODEC_LZ4), stripes)
    offsets = batch.place(0, len(batch), start).tolist()
    end = start
    for kind, offset, record in zip(kinds, offsets, batch.records, strict=True):
        assert offset % 64 == 0
        packed = (end + 63) // 64 * 64
        if kind == "noise":
            payload = (offset + int(record["header64"]) * 64) % PAGE
            assert 128 <= payload <= PAGE - 128
            assert packed <= offset <= packed + 192
        else:
            assert offset == packed
        end = offset + int(record["frame_bytes"])
    assert batch.placed_bytes(0, len(batch), start) == end - start
    assert batch.placed_bytes(1, 1, start) == 0
    assert batch.place(1, len(batch), offsets[0] + int(batch.records["frame_bytes"][0])).tolist() == offsets[1:]


def test_a_range_that_is_none_is_refused() -> None:
    batch = encode(encoder(), [b"1", b"2"])
    for first, last in ((0, 3), (-1, 1), (2, 1)):
        with pytest.raises(IndexError):
            batch.place(first, last, 0)
        with pytest.raises(IndexError):
            batch.write(1, 0, first, last)
    with pytest.raises(ValueError):
        batch.placed_bytes(0, 1, -1)


# --- write -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "segment", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def contents(fd: int, start: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, start)


@pytest.mark.parametrize("codec", [CODEC_AUTO, CODEC_LZ4, CODEC_RAW])
def test_what_is_written_is_what_tobytes_says(fd: int, codec: int) -> None:
    stripes = [sample(KINDS[n % 4], 3 * BLOCK + n, n) + sample(KINDS[n // 4], BLOCK, n) for n in range(16)]
    batch = encode(encoder(codec), stripes)
    for start in (64, 65, 4000, 12_345):
        for first, last in ((0, 16), (3, 4), (5, 12), (7, 7)):
            os.ftruncate(fd, 0)
            batch.write(fd, start, first, last)
            run = batch.tobytes(start, first, last)
            assert len(run) == batch.placed_bytes(first, last, start)
            assert contents(fd, start) == run
            for frame, offset in zip(range(first, last), batch.place(first, last, start).tolist(), strict=True):
                found = run[offset - start :][: int(batch.records["frame_bytes"][frame])]
                assert frame_oracle.decode_frame(found).raw == stripes[frame]


def test_more_pieces_than_one_call_takes_are_written(fd: int) -> None:
    alternating = b"".join(sample(("noise", "text")[n % 2], BLOCK, n % 7) for n in range(2500))
    batch = encode(encoder(CODEC_LZ4), [alternating, alternating])
    assert batch.records["raw_blocks"].tolist() == [1250, 1250]
    batch.write(fd, 64, 0, 2)
    assert contents(fd, 64) == batch.tobytes(64, 0, 2)
    assert frame_oracle.decode_frame(frames_of(batch)[1]).raw == alternating


def test_a_short_write_goes_on_and_its_error_is_raised(fd: int) -> None:
    batch = encode(encoder(), [sample("noise", 300_000), sample("text", 300_000)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_001, hard))
    try:
        with pytest.raises(OSError, match="large") as raised:
            batch.write(fd, 64, 0, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert os.fstat(fd).st_size == 200_001
    batch.write(fd, 64, 0, 2)
    assert contents(fd, 64) == batch.tobytes(64, 0, 2)


def test_errors_of_the_target_come_with_their_errno(tmp_path: Path) -> None:
    batch = encode(encoder(), [b"1"])
    full = os.open("/dev/full", os.O_WRONLY)
    readable = os.open(tmp_path, os.O_RDONLY)
    reading, writing = os.pipe()
    try:
        for descriptor, code in (
            (full, errno.ENOSPC),
            (-1, errno.EBADF),
            (readable, errno.EBADF),
            (writing, errno.ESPIPE),
        ):
            with pytest.raises(OSError, match=r"^\[Errno") as raised:
                batch.write(descriptor, 64, 0, 1)
            assert raised.value.errno == code
        with pytest.raises(OSError, match=r"^\[Errno") as raised:
            batch.write(full, 2**63 - 100, 0, 1)
        assert raised.value.errno == errno.EFBIG
    finally:
        for descriptor in (full, readable, reading, writing):
            os.close(descriptor)


def test_several_threads_write_one_batch(fd: int) -> None:
    batch = encode(encoder(), [sample(KINDS[n % 4], 200_000, n) for n in range(32)])
    starts = batch.place(0, 32, 64).tolist()
    writers = [threading.Thread(target=batch.write, args=(fd, starts[n], n, n + 1)) for n in range(32)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    os.ftruncate(fd, max(os.fstat(fd).st_size, 64 + batch.placed_bytes(0, 32, 64)))
    assert contents(fd, 64) == batch.tobytes(64, 0, 32)
