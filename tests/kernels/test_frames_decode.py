"""Reading and decoding frames: what the twin makes, the kernel reads, whole and in pieces; never what is damaged."""

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinstripe import kernels
from pinstripe.kernels import CODEC_RAW, DAMAGE, RECORD, Encoder
from pinstripe.testing import frame_oracle
from pinstripe.testing.frame_oracle import LZ4, PLANES, RAW, ZERO
from pinstripe.testing.samples import KINDS, sample

FILE_ID, TX = b"file id, 16 byte", b"transaction, 16 "
BLOCK = 16 << 10
STRIPE = 42
CHOICES = [(RAW, 0), (LZ4, 0), (PLANES, 2), (PLANES, 4), (PLANES, 8), (ZERO, 0)]
GUARD = 40
Array = npt.NDArray[Any]


def frame_of(
    raw: bytes, blocks: Sequence[tuple[int, int]] = ((LZ4, 0),), extents: Sequence[tuple[int, int]] = ()
) -> tuple[bytes, Array]:
    return frame_oracle.encode_frame(
        raw, blocks, block_bytes=BLOCK, file_id=FILE_ID, tx=TX, stripe=STRIPE, extents=extents
    )


MIXED = b"".join(sample(kind, BLOCK, n) for n, kind in enumerate(("text", "zeros", "noise", "float64", "noise")))
FRAMES = {
    "raw": frame_of(sample("noise", 5 * BLOCK + 100), [(RAW, 0)]),
    "compressed": frame_of(sample("text", 5 * BLOCK + 100), [(LZ4, 0)]),
    "planes": frame_of(sample("float64", 5 * BLOCK + 101), [(PLANES, 8)]),
    "mixed": frame_of(MIXED + MIXED[:100], [(LZ4, 0), (ZERO, 0), (RAW, 0), (PLANES, 8), (RAW, 0), (RAW, 0)]),
    "big raw": frame_of(sample("noise", 20 * BLOCK + 5), [(RAW, 0)]),
    "big mixed": frame_of((MIXED * 5)[: 23 * BLOCK + 77], [(LZ4, 0), (ZERO, 0), (RAW, 0), (PLANES, 8), (RAW, 0)]),
    "tiny": frame_of(b"x", [(RAW, 0)]),
}
RAWS = {name: frame_oracle.decode_frame(frame).raw for name, (frame, _) in FRAMES.items()}


class Reader:
    """Calls the kernel for pieces, from a file or from memory, and checks that nothing beside the pieces was touched."""

    def __init__(self, path: Path, *, memory: bool) -> None:
        self.memory = memory
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)

    def put(self, frame: bytes, offset: int = 64) -> None:
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, frame, offset)

    def read(
        self,
        frame: bytes,
        record: Array,
        pieces: Sequence[tuple[int, int]],
        *,
        stripe: int = STRIPE,
        file_id: bytes = FILE_ID,
        tx: bytes = TX,
        shift: int = 0,
        threads: int = 1,
    ) -> tuple[list[int], list[bytes]]:
        """Status and bytes of each piece (first, count). The frame must have been `put`."""
        n = len(pieces)
        first = np.array([piece[0] for piece in pieces], np.int64)
        count = np.array([piece[1] for piece in pieces], np.int64)
        offsets = np.cumsum(count + GUARD) - count + shift
        out = np.full(int(offsets[-1] + count[-1]) + GUARD, 0xAA, np.uint8)
        status, seen = np.full(n, 99, np.int32), np.full(n, 99, np.uint64)
        records = np.repeat(record, n)
        shared = (np.full(n, stripe, np.uint64), first, count, out, offsets, file_id, transactions(n, tx), status, seen)
        if self.memory:
            bad = kernels.decode_frames([frame] * n, records, *shared)
        else:
            records["offset"] = np.where(records["offset"] == 0, 64, records["offset"])
            bad = kernels.read_frames(np.full(n, self.fd, np.int32), records, *shared, threads=threads)
            together = out.copy()
            for k in range(n):
                piece = out[offsets[k] : offsets[k] + count[k]]
                piece[:] = 0xAA
                alone = kernels.read_frame(self.fd, records[k : k + 1], stripe, first[k], piece, file_id, tx)
                assert alone == (status[k], seen[k])
            assert (out == together).all()
        assert bad == np.count_nonzero(status)
        assert all(code >= 0 or code in DAMAGE for code in status.tolist())
        found = [bytes(out[at : at + length]) for at, length in zip(offsets, count, strict=True)]
        for at, length in zip(offsets, count, strict=True):
            out[at : at + length] = 0xAA
        assert (out == 0xAA).all()
        return status.tolist(), found

    def one(self, frame: bytes, record: Array, first: int, count: int, **more: Any) -> tuple[int, bytes]:
        (status,), (found,) = self.read(frame, record, [(first, count)], **more)
        return status, found


def transactions(n: int, tx: bytes = TX) -> npt.NDArray[np.uint8]:
    return np.frombuffer(tx * n, np.uint8).reshape(n, 16)


@pytest.fixture(params=["file", "memory"], scope="module")
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    one = Reader(tmp_path_factory.mktemp("frames") / "segment", memory=request.param == "memory")
    yield one
    os.close(one.fd)


def boundaries(raw_bytes: int) -> list[int]:
    near = (0, BLOCK, 2 * BLOCK, raw_bytes // BLOCK * BLOCK, raw_bytes)
    found = {at + by for at in near for by in (-1, 0, 1)} | {raw_bytes + 3 * BLOCK}
    return sorted(at for at in found if at >= 0)


# --- what is good ----------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    raw=st.lists(
        st.builds(sample, st.sampled_from(KINDS), st.integers(1, 40_000), st.integers(0, 3)), min_size=1, max_size=4
    ).map(b"".join),
    blocks=st.lists(st.sampled_from(CHOICES), min_size=1, max_size=5),
    block_bytes=st.sampled_from([BLOCK, 2 * BLOCK, 1 << 20]),
    offset=st.integers(1, 200).map(lambda n: n * 64),
    data=st.data(),
)
def test_it_reads_what_the_twin_makes(
    reader: Reader, raw: bytes, blocks: list[tuple[int, int]], block_bytes: int, offset: int, data: st.DataObject
) -> None:
    frame, record = frame_oracle.encode_frame(
        raw, blocks, block_bytes=block_bytes, file_id=FILE_ID, tx=TX, stripe=STRIPE
    )
    record["offset"] = offset
    reader.put(frame, offset)
    pieces = data.draw(st.lists(st.tuples(st.integers(0, len(raw) + 9), st.integers(0, len(raw) + 9)), max_size=4))
    pieces.append((0, len(raw)))
    status, found = reader.read(frame, record, pieces)
    assert status == [0] * len(pieces)
    assert found == [expected(raw, *piece) for piece in pieces]


def expected(raw: bytes, first: int, count: int) -> bytes:
    return raw[first : first + count].ljust(count, b"\0")


@pytest.mark.parametrize("name", FRAMES)
def test_every_piece_from_boundary_to_boundary_is_right(reader: Reader, name: str) -> None:
    (frame, record), raw = FRAMES[name], RAWS[name]
    reader.put(frame)
    edges = boundaries(len(raw))
    pieces = [(first, last - first) for first in edges for last in edges if first <= last]
    for threads in (1, 3):
        status, found = reader.read(frame, record, pieces, threads=threads)
        assert status == [0] * len(pieces)
        assert found == [expected(raw, *piece) for piece in pieces]
    for piece in pieces[:: len(pieces) // 20 + 1]:  # alone: no header is known from the piece before
        assert reader.one(frame, record, *piece) == (0, expected(raw, *piece))


@pytest.mark.parametrize("name", ["raw", "big raw", "big mixed"])
def test_every_alignment_of_file_and_buffer_gives_the_same(reader: Reader, name: str) -> None:
    (frame, record), raw = FRAMES[name], RAWS[name]
    for offset in (64, 128, 4096 - 192 - 64, 4096 - 512, 4096, 8192 - 64):
        record = record.copy()
        record["offset"] = offset
        reader.put(frame, offset)
        for shift in (0, 1, 8, 16, 40, 64, 100, 2048):
            assert reader.one(frame, record, 0, len(raw), shift=shift) == (0, raw)
            assert reader.one(frame, record, 100, 2 * BLOCK, shift=shift) == (0, raw[100 : 100 + 2 * BLOCK])


def test_a_hole_reads_as_zeros_without_a_file() -> None:
    out = bytearray(b"x" * 100)
    n = 2
    status, seen = np.zeros(n, np.int32), np.zeros(n, np.uint64)
    int64 = np.array([0, 50], np.int64)
    bad = kernels.read_frames(
        np.full(n, -1, np.int32),
        np.zeros(n, RECORD),
        np.zeros(n, np.uint64),
        int64,
        np.full(n, 50, np.int64),
        out,
        int64,
        FILE_ID,
        transactions(n),
        status,
        seen,
    )
    assert bad == 0
    assert out == bytes(100)
    out = bytearray(b"x" * 100)
    assert kernels.read_frame(-1, np.zeros(1, RECORD), 0, 50, out, FILE_ID, TX) == (0, 0)
    assert out == bytes(100)


def test_what_the_encoder_writes_is_read_back_by_any_number_of_threads(tmp_path: Path) -> None:
    data = b"".join(sample(KINDS[n % 4], 300_000, n) for n in range(40))
    lengths = np.full(12, 1_000_000, np.int64)
    offsets = np.arange(12, dtype=np.int64) * 1_000_000
    stripes = np.arange(12, dtype=np.uint64)
    batch = Encoder(FILE_ID, TX, 64 << 10).encode(data, offsets, lengths, stripes)
    fd = os.open(tmp_path / "segment", os.O_RDWR | os.O_CREAT)
    try:
        batch.write(fd, 64, 0, 12)
        records = batch.records.copy()
        records["segment"], records["offset"] = 1, batch.place(0, 12, 64)
        for threads in (1, 2, 3, 20):
            out = np.empty(len(data), np.uint8)
            status, seen = np.ones(12, np.int32), np.ones(12, np.uint64)
            bad = kernels.read_frames(
                np.full(12, fd, np.int32),
                records,
                stripes,
                np.zeros(12, np.int64),
                lengths,
                out,
                offsets,
                FILE_ID,
                transactions(12),
                status,
                seen,
                threads=threads,
            )
            assert bad == 0
            assert not status.any()
            assert not seen.any()
            assert out.tobytes() == data
    finally:
        os.close(fd)


# --- what is not -----------------------------------------------------------------------------------------------------


def flips(frame: bytes, header_bytes: int) -> Iterator[tuple[int, int]]:
    """Each bit of header and tables, and of some payload bytes: the first and last, and of every block in between."""
    for place in range(header_bytes):
        yield from ((place, 1 << bit) for bit in range(8))
    payload = range(header_bytes, len(frame))
    for place in {*payload[:20], *payload[-20:], *payload[:: max(1, len(payload) // 60)]}:
        yield place, 1 << place % 8


@pytest.mark.parametrize("name", ["raw", "compressed", "planes", "mixed", "big raw", "tiny"])
def test_a_changed_bit_is_found_and_its_bytes_are_not_given(reader: Reader, name: str) -> None:
    (frame, record), raw = FRAMES[name], RAWS[name]
    header_bytes = int(record["header64"][0]) * 64
    padding = range(
        128 + 16 * struct.unpack_from("<I", frame, 20)[0], header_bytes
    )  # under no checksum: nothing is there
    for place, mask in flips(frame, header_bytes):
        damaged = bytearray(frame)
        damaged[place] ^= mask
        reader.put(bytes(damaged))
        status, found = reader.one(bytes(damaged), record, 0, len(raw))
        if place in padding:
            assert (status, found) == (0, raw)
            continue
        assert status < 0, place
        assert found == bytes(len(raw)), place
        first, count = len(raw) // 3, len(raw) // 2 + 1
        status, found = reader.one(bytes(damaged), record, first, count)
        assert found == (bytes(count) if status else expected(raw, first, count)), place
        assert status < 0 or place >= header_bytes


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_is_cut_off_is_the_end_of_the_file(reader: Reader, name: str) -> None:
    (frame, record), raw = FRAMES[name], RAWS[name]
    header_bytes = int(record["header64"][0]) * 64
    cuts = {0, 1, 127, 128, header_bytes - 1, header_bytes, header_bytes + 1, len(frame) // 2, len(frame) - 1}
    for cut in sorted(cut for cut in cuts if cut < len(frame)):
        reader.put(frame[:cut])
        status, found = reader.one(frame[:cut], record, 0, len(raw))
        assert (DAMAGE[status], found) == ("end of file", bytes(len(raw)))
        status, found = reader.one(frame[:cut], record, len(raw) - 1, 1)
        assert (DAMAGE[status], found) == ("end of file", b"\0")


HEADER_FIELDS = {"flags": (4, "H"), "block_log2": (6, "B"), "header_bytes": (8, "I"), "raw_bytes": (12, "I")} | {
    name: (16 + 4 * i, "I") for i, name in enumerate(("payload_bytes", "block_count", "extent_count"))
}
HOSTILE = [
    0,
    1,
    2,
    5,
    13,
    15,
    21,
    63,
    64,
    127,
    128,
    191,
    193,
    2**14,
    2**15 - 1,
    2**16 - 1,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
]


@pytest.mark.parametrize("field", HEADER_FIELDS)
@pytest.mark.parametrize("name", ["mixed", "raw", "tiny"])
def test_hostile_lengths_under_a_good_checksum_are_refused(reader: Reader, name: str, field: str) -> None:
    (frame, record), raw = FRAMES[name], RAWS[name]
    place, code = HEADER_FIELDS[field]
    good = struct.unpack_from("<" + code, frame, place)[0]
    for value in (*HOSTILE, good - 1, good + 1, good + 64, good - 64):
        if value == good or not 0 <= value < 1 << 8 * struct.calcsize(code):
            continue
        hostile = bytearray(frame)
        struct.pack_into("<" + code, hostile, place, value)
        sealed = frame_oracle.seal(bytes(hostile))
        for record_agrees in (False, True):
            told = record.copy()
            if record_agrees and field == "header_bytes":
                told["header64"] = value // 64 % 2**16
            if record_agrees and field == "raw_bytes":
                told["raw_bytes"] = value
            reader.put(sealed)
            status, found = reader.one(sealed, told, 0, len(raw))
            if field == "raw_bytes" and value == 0 and record_agrees:
                assert (status, found) == (0, bytes(len(raw)))  # a record of no bytes asks for no frame
            elif field == "block_log2" and len(raw) == 1 and 14 <= value <= 20:
                assert (status, found) == (0, raw)  # that one block, whatever it might have been
            else:
                assert status < 0, value
                assert found == bytes(len(raw))


@pytest.mark.parametrize("block", [0, 1, 2, 5])
def test_a_hostile_block_table_under_a_good_checksum_is_refused(reader: Reader, block: int) -> None:
    (frame, record), raw = FRAMES["mixed"], RAWS["mixed"]
    entry = 128 + 16 * block
    stored, codec, width = struct.unpack_from("<IBB", frame, entry + 8)
    for change in (
        *((value, codec, width) for value in (*HOSTILE, stored - 1, stored + 1)),
        *((stored, value, width) for value in (0, 1, 2, 3, 255)),
        *((stored, codec, value) for value in (1, 2, 3, 4, 8, 16, 255)),
    ):
        if change == (stored, codec, width) or min(change) < 0:
            continue
        hostile = bytearray(frame)
        struct.pack_into("<IBB", hostile, entry + 8, *change)
        sealed = frame_oracle.seal(bytes(hostile))
        reader.put(sealed)
        status, found = reader.one(sealed, record, 0, len(raw))
        assert status < 0, change
        assert found == bytes(len(raw))


@settings(max_examples=300)
@given(data=st.data())
def test_no_payload_makes_it_write_elsewhere_or_give_wrong_bytes(reader: Reader, data: st.DataObject) -> None:
    (frame, record), raw = FRAMES["planes"], RAWS["planes"]
    header_bytes = int(record["header64"][0]) * 64
    payload = bytearray(frame[header_bytes:])
    for place, new in data.draw(
        st.lists(
            st.tuples(st.integers(0, len(payload) - 1), st.binary(min_size=1, max_size=20)), min_size=1, max_size=5
        )
    ):
        payload[place : place + len(new)] = new[: len(payload) - place]
    hostile = frame[:header_bytes] + bytes(payload)
    reader.put(hostile)
    status, found = reader.one(hostile, record, 0, len(raw))
    assert (status, found) == (0, raw) if hostile == frame else found == bytes(len(raw)) and status in (-5, -6)


@settings(max_examples=300)
@given(data=st.data())
def test_no_record_makes_it_crash_or_give_wrong_bytes(reader: Reader, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FRAMES)))
    (frame, record), raw = FRAMES[name], RAWS[name]
    reader.put(frame)
    record = record.copy()
    for field in data.draw(st.sets(st.sampled_from(RECORD.names), min_size=1, max_size=3)):
        limit = 1 << 8 * RECORD[field].itemsize
        good = int(record[field][0])
        near = [(good + by) % limit for by in (-64, -1, 1, 64)]
        record[field] = data.draw(st.integers(0, limit - 1) | st.sampled_from([0, 1, limit - 1, limit // 2, *near]))
    first = data.draw(st.integers(0, len(raw)))
    count = data.draw(st.integers(0, len(raw)))
    status, found = reader.one(frame, record, first, count)
    if status or int(record["segment"][0]) == 0 or first >= int(record["raw_bytes"][0]):
        assert found == bytes(count)
    else:
        assert found == expected(raw, first, count)


def test_a_frame_of_another_stripe_file_or_transaction_is_refused(reader: Reader) -> None:
    (frame, record), raw = FRAMES["mixed"], RAWS["mixed"]
    reader.put(frame)
    for other in ({"stripe": 43}, {"file_id": TX}, {"tx": FILE_ID}):
        status, found = reader.one(frame, record, 0, len(raw), **other)
        assert DAMAGE[status].startswith("identity")
        assert found == bytes(len(raw))


def test_a_whole_frame_that_is_not_the_one_recorded_is_refused(reader: Reader) -> None:
    _, record = FRAMES["mixed"]
    older, _ = frame_of(MIXED + b"?" * 100, [(LZ4, 0), (ZERO, 0), (RAW, 0), (PLANES, 8), (RAW, 0), (RAW, 0)])
    reader.put(older)
    status, found = reader.one(older, record, 0, 100)
    assert status < 0
    assert found == bytes(100)


def test_a_header_whose_blocks_do_not_combine_to_its_checksum_is_refused_by_a_whole_read(reader: Reader) -> None:
    (frame, record), raw = FRAMES["mixed"], RAWS["mixed"]
    record = record.copy()
    record["crc64"] ^= 1
    forged = frame_oracle.seal(frame[:72] + int(record["crc64"][0]).to_bytes(8, "little") + frame[80:])
    reader.put(forged)
    assert reader.one(forged, record, 0, len(raw)) == (-2, bytes(len(raw)))


def test_a_part_is_not_taken_for_a_stripe(reader: Reader) -> None:
    frame, record = frame_of(sample("text", 1000), extents=[(0, 1000)])
    reader.put(frame)
    status, found = reader.one(frame, record, 0, 1000)
    assert DAMAGE[status].startswith("identity")
    assert found == bytes(1000)


def test_one_bad_piece_does_not_stop_the_others(tmp_path: Path) -> None:
    stripes = [sample("noise", 50_000, n) for n in range(4)]
    frames = [
        frame_oracle.encode_frame(raw, [(RAW, 0)], block_bytes=BLOCK, file_id=FILE_ID, tx=TX, stripe=n)
        for n, raw in enumerate(stripes)
    ]
    segment = bytearray(b"".join(frame.ljust(51_200, b"\0") for frame, _ in frames))
    segment[51_200 + 1000] ^= 1
    records = np.concatenate([record for _, record in frames])
    records["offset"] = np.arange(4) * 51_200
    path = tmp_path / "segment"
    path.write_bytes(segment)
    fd = os.open(path, os.O_RDONLY)
    fds = np.array([fd, fd, -1, fd], np.int32)
    out = np.ones(200_000, np.uint8)
    status, seen = np.zeros(4, np.int32), np.zeros(4, np.uint64)
    offsets = np.arange(4, dtype=np.int64) * 50_000
    try:
        bad = kernels.read_frames(
            fds,
            records,
            np.arange(4, dtype=np.uint64),
            np.zeros(4, np.int64),
            np.full(4, 50_000, np.int64),
            out,
            offsets,
            FILE_ID,
            transactions(4),
            status,
            seen,
        )
    finally:
        os.close(fd)
    assert bad == 2
    assert status.tolist() == [0, -6, errno.EBADF, 0]
    damaged = segment[51_200 + 192 :][:BLOCK]
    assert seen.tolist() == [0, kernels.crc64(damaged), 0, 0]
    assert out.tobytes() == stripes[0] + bytes(100_000) + stripes[3]


# --- arguments -------------------------------------------------------------------------------------------------------


def test_pieces_that_leave_the_buffer_are_refused_before_anything_is_read() -> None:
    frame, record = FRAMES["tiny"]
    biggest = 2**63 - 1

    def call(begin: int, length: int, offset: int, **other: Any) -> int:
        arguments = dict(
            records=record,
            stripes=np.array([STRIPE], np.uint64),
            first=np.array([begin], np.int64),
            count=np.array([length], np.int64),
            out=bytearray(10),
            out_offsets=np.array([offset], np.int64),
            file_id=FILE_ID,
            txs=transactions(1),
            status=np.zeros(1, np.int32),
            seen=np.zeros(1, np.uint64),
        )
        return kernels.decode_frames([frame], **arguments | other)

    assert call(0, 10, 0) == 0
    assert call(biggest - 10, 10, 0) == 0
    assert call(0, 0, 10) == 0
    for first, count, offset in (
        (0, 11, 0),
        (0, 1, 10),
        (0, 5, 6),
        (0, 0, 11),
        (-1, 1, 0),
        (0, -1, 0),
        (0, 1, -1),
        (0, biggest, 1),
        (0, 1, biggest),
        (biggest, 1, 0),
    ):
        with pytest.raises(ValueError):
            call(first, count, offset)
    two: dict[str, Callable[[], Any]] = {
        "records": lambda: np.repeat(record, 2),
        "first": lambda: np.zeros(2, np.int64),
        "count": lambda: np.zeros(2, np.int64),
        "out_offsets": lambda: np.zeros(2, np.int64),
        "txs": lambda: transactions(2),
        "status": lambda: np.zeros(2, np.int32),
        "seen": lambda: np.zeros(2, np.uint64),
    }
    for name, value in two.items():
        with pytest.raises(ValueError):
            call(0, 1, 0, **{name: value()})
    for name, value in {
        "file_id": b"short",
        "txs": np.zeros((1, 15), np.uint8),
        "stripes": np.zeros(1, np.int32),
    }.items():
        with pytest.raises(ValueError):
            call(0, 1, 0, **{name: value})
    with pytest.raises(TypeError, match="RECORD"):
        call(0, 1, 0, records=np.zeros(1, "V40"))
    with pytest.raises(BufferError):
        call(0, 1, 0, out=bytes(10))


def test_one_piece_that_no_stripe_can_have_is_refused_before_anything_is_read() -> None:
    _, record = FRAMES["tiny"]
    out = bytearray(b"x" * 10)
    good: dict[str, Any] = dict(record=record, stripe=STRIPE, first=0, out=out, file_id=FILE_ID, tx=TX)
    for name, values in {
        "record": [np.repeat(record, 2), record[:0]],
        "first": [-1, 2**63 - 10],
        "file_id": [b"short", bytearray(16)],
        "tx": [b"short", transactions(1)],
    }.items():
        for value in values:
            with pytest.raises(ValueError):
                kernels.read_frame(-1, **good | {name: value})
    with pytest.raises(TypeError, match="RECORD"):
        kernels.read_frame(-1, **good | {"record": np.zeros(1, "V40")})
    with pytest.raises(BufferError):
        kernels.read_frame(-1, **good | {"out": bytes(10)})
    with pytest.raises(OverflowError):
        kernels.read_frame(-1, **good | {"stripe": -1})
    assert out == b"x" * 10
    assert kernels.read_frame(-1, **good) == (errno.EBADF, 0)
    assert kernels.read_frame(-1, **good | {"first": 2**63 - 11}) == (0, 0)
    assert out == bytes(10)


# --- parts -----------------------------------------------------------------------------------------------------------


def test_a_damaged_or_foreign_part_leaves_the_stripe_alone() -> None:
    extents = [(10, 500), (1000, 40_000)]
    frame, _ = frame_of(sample("text", 40_500), extents=extents)
    stripe = bytearray(41_000)
    assert kernels.decode_part(frame, stripe, FILE_ID, TX)[:2] == (0, STRIPE)
    assert stripe == bytes(10) + sample("text", 40_500)[:500].ljust(990, b"\0") + sample("text", 40_500)[500:]
    whole, _ = frame_of(sample("text", 1000))
    too_far = frame_oracle.seal(
        frame[: 128 + 48] + struct.pack("<IIII", 10, 500, 2**32 - 1, 40_000) + frame[128 + 64 :]
    )
    cases = [
        (bytes(200), stripe, FILE_ID, TX, -1),
        (frame[:100], stripe, FILE_ID, TX, -7),
        (frame[:-1], stripe, FILE_ID, TX, -7),
        (frame + b"?", stripe, FILE_ID, TX, -4),
        (too_far, stripe, FILE_ID, TX, -4),
        (frame, bytearray(40_999), FILE_ID, TX, -4),
        (frame, stripe, TX, TX, -3),
        (frame, stripe, FILE_ID, FILE_ID, -3),
        (whole, stripe, FILE_ID, TX, -3),
    ]
    for place in (130, 128 + 48, len(frame) - 30):
        changed = bytearray(frame)
        changed[place] ^= 1
        cases.append((bytes(changed), stripe, FILE_ID, TX, 0))
    for bad, out, file_id, tx, code in cases:
        out[:] = b"!" * len(out)
        status, number, found = kernels.decode_part(bad, out, file_id, tx)
        assert status < 0
        assert code in (0, status)
        assert (number, found.tolist()) == (0, [])
        assert out == b"!" * len(out)


# --- scan ------------------------------------------------------------------------------------------------------------


def test_a_scan_finds_whole_headers_and_passes_parts_and_what_lies_inside_frames() -> None:
    inner, _ = frame_of(b"inner" * 100, [(RAW, 0)])
    outer, _ = frame_of(bytes(64 - 192 % 64) + inner + sample("noise", 1000), [(RAW, 0)])
    part, _ = frame_of(sample("text", 1000), extents=[(0, 1000)])
    damaged = bytearray(inner)
    damaged[20] ^= 1
    segment = bytearray(b"PSSEGM1\n".ljust(64, b"\0"))
    places = []
    for frame in (outer, part, bytes(damaged), inner, bytes(192), inner):
        segment += bytes(-len(segment) % 64)
        places.append(len(segment))
        segment += frame
    found = kernels.scan_frames(segment)
    assert [entry[0] for entry in found] == [places[0], places[3], places[5]]
    assert found[0] == (64, len(outer), STRIPE, len(outer) - 192, FILE_ID, TX)
    assert kernels.scan_frames(segment, 65)[0][0] > 64  # inside the first: what lies there is found
    assert [entry[0] for entry in kernels.scan_frames(segment[: places[5] + 200])] == [entry[0] for entry in found]
    assert [entry[0] for entry in kernels.scan_frames(segment[: places[5] + 191])] == [entry[0] for entry in found[:2]]
    assert kernels.scan_frames(b"") == kernels.scan_frames(bytes(10), 5) == kernels.scan_frames(bytes(10), 2**40) == []
    with pytest.raises(ValueError):
        kernels.scan_frames(segment, -1)


@given(st.binary(max_size=500), st.integers(0, 600))
def test_a_scan_of_anything_finds_only_what_lies_in_it(data: bytes, start: int) -> None:
    found = kernels.scan_frames(data, start)
    assert all(start <= offset and offset + size <= len(data) for offset, size, *_ in found)


def test_a_scan_of_an_encoders_batch_finds_every_frame() -> None:
    data = sample("noise", 1_000_000)
    offsets = np.arange(10, dtype=np.int64) * 100_000
    batch = Encoder(FILE_ID, TX, BLOCK, CODEC_RAW).encode(
        data, offsets, np.full(10, 100_000, np.int64), np.arange(10, dtype=np.uint64)
    )
    segment = bytes(64) + batch.tobytes(64, 0, 10)
    assert [entry[0] for entry in kernels.scan_frames(segment)] == batch.place(0, 10, 64).tolist()
