"""Frames beside their peers: encode, write, read whole and in pieces: ``python -m bench.frames [--runs N] [--json]``.

Peers get the same 64 KiB blocks, one thread each, and make no checksum. Files are on tmpfs, so that the disk is not what is measured.
"""

import ctypes
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import numpy.typing as npt

from bench.harness import Case, Missing, Table, compare, main
from pinstripe import kernels
from pinstripe.kernels import CODEC_AUTO, CODEC_LZ4, CODEC_RAW, Encoder, FrameBatch

BLOCK = 64 << 10
STRIPE = 1 << 20
COUNT = 16  # stripes of a batch
BYTES = COUNT * STRIPE
FILE_ID, TX = bytes(16), bytes(range(16))
OFFSETS = np.arange(COUNT, dtype=np.int64) * STRIPE
LENGTHS = np.full(COUNT, STRIPE, np.int64)
STRIPES = np.arange(COUNT, dtype=np.uint64)
TMPFS = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()

Array = npt.NDArray[Any]


def noise() -> Array:
    return np.frombuffer(np.random.default_rng(1).bytes(BYTES), np.uint8)


def field(dtype: str = "float64") -> Array:
    """A smooth field with a little noise."""
    x = np.arange(BYTES // np.dtype(dtype).itemsize)
    smooth = 3 * np.sin(x / 500) + np.cos(x / 77)
    return (smooth + 0.001 * np.random.default_rng(1).normal(size=len(x))).astype(dtype)


def text() -> Array:
    """Words, some of them much more frequent than others."""
    words = [bytes(word) for word in np.random.default_rng(7).integers(97, 123, (4000, 6), np.uint8)]
    chosen = (words[n] for n in np.random.default_rng(8).zipf(1.3, BYTES // 5) if n < len(words))
    return np.frombuffer(b" ".join(chosen)[:BYTES].ljust(BYTES, b"."), np.uint8)


def encoded(data: Array, codec: int = CODEC_AUTO, width: int = 0, acceleration: int = 1) -> FrameBatch:
    return Encoder(FILE_ID, TX, BLOCK, codec, acceleration=acceleration).encode(data, OFFSETS, LENGTHS, STRIPES, width)


def encoding(data: Array, codec: int, width: int = 0, threads: int = 1, acceleration: int = 1) -> Case:
    encoder = Encoder(FILE_ID, TX, BLOCK, codec, threads=threads, acceleration=acceleration)

    def case() -> None:
        encoder.encode(data, OFFSETS, LENGTHS, STRIPES, width).release()

    return case


def blocks_of(data: Array) -> list[memoryview]:
    whole = memoryview(data.view(np.uint8))
    return [whole[start : start + BLOCK] for start in range(0, BYTES, BLOCK)]


def nameless() -> int:
    """A file without a name, on tmpfs; it goes with the process."""
    return os.open(TMPFS, os.O_TMPFILE | os.O_RDWR)


class Blosc:
    """Blosc2's C functions, called as its Python ones are slower: they clear what they compress into, and copy it."""

    def __init__(self) -> None:
        import blosc2

        (library,) = Path(blosc2.__file__).with_name("lib").glob("libblosc2.so")
        self._functions = ctypes.CDLL(str(library))
        self._functions.blosc2_init()
        self._functions.blosc1_set_compressor(b"lz4")
        self._functions.blosc1_set_blocksize(ctypes.c_size_t(BLOCK))
        self._functions.blosc2_set_nthreads(ctypes.c_int16(1))
        self.room = np.empty(BYTES + 4096, np.uint8)

    def compress(self, data: Array, level: int) -> int:
        """LZ4 behind the byte shuffle, in blocks of ours; LZ4's acceleration is 10 - level. The bytes stand in `room`."""
        made: int = self._functions.blosc2_compress(
            level, 1, data.itemsize, _pointer(data), data.nbytes, _pointer(self.room), self.room.nbytes
        )
        return made

    def decompress(self, chunk: Array, out: Array) -> None:
        done = self._functions.blosc2_decompress(_pointer(chunk), chunk.nbytes, _pointer(out), out.nbytes)
        assert done == out.nbytes


def _pointer(data: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(data.ctypes.data)


def _blosc() -> Blosc | Missing:
    try:
        return Blosc()
    except (ImportError, ValueError, OSError):
        return Missing("pip install blosc2, a build with its C library")


def encode_text(runs: int) -> Table:
    data = text()
    blocks = blocks_of(data)
    cases: dict[str, Case | Missing] = {
        "Encoder, lz4": encoding(data, CODEC_LZ4),
        "Encoder, auto": encoding(data, CODEC_AUTO),
        "lz4.block.compress, each block": lambda: [lz4.block.compress(block, store_size=False) for block in blocks],
    }
    share = encoded(data, CODEC_LZ4).stored_bytes / BYTES
    return compare(cases, runs, title=f"encode text (to {share:.3f})", moved_bytes=BYTES)


def encode_field(runs: int, dtype: str) -> Table:
    data = field(dtype)
    cases: dict[str, Case | Missing] = {}
    known = data.itemsize
    for codec, width, acceleration in (("auto", known, 1), ("auto", 0, 1), ("lz4", known, 1), ("auto", known, 5)):
        number = {"auto": CODEC_AUTO, "lz4": CODEC_LZ4}[codec]
        share = encoded(data, number, width, acceleration).stored_bytes / BYTES
        name = (
            f"Encoder, {codec}, width {width or 'unknown'}: acceleration {acceleration} (to {share:.4f}, with headers)"
        )
        cases[name] = encoding(data, number, width, acceleration=acceleration)
    blosc = _blosc()
    for level in (9, 5):
        name = f"blosc2, LZ4 and shuffle, level {level}: acceleration {10 - level}"
        if isinstance(blosc, Missing):
            cases[name] = blosc
        else:
            cases[f"{name} (to {blosc.compress(data, level) / BYTES:.4f})"] = partial(blosc.compress, data, level)
    return compare(cases, runs, title=f"encode a smooth {data.dtype} field with noise", moved_bytes=BYTES)


def encode_noise(runs: int) -> Table:
    data = noise()
    blocks = blocks_of(data)
    out = np.empty_like(data)
    cases: dict[str, Case | Missing] = {
        "Encoder, raw": encoding(data, CODEC_RAW),
        "Encoder, auto": encoding(data, CODEC_AUTO),
        "Encoder, auto, width 8": encoding(data, CODEC_AUTO, 8),
        "crc64 of each block": lambda: [kernels.crc64(block) for block in blocks],
        "limit: numpy copy": lambda: np.copyto(out, data),
    }
    return compare(cases, runs, title="encode random bytes", moved_bytes=BYTES)


class _Segment:
    """A batch in a file without a name, and what reads it back."""

    def __init__(self, data: Array, width: int = 0) -> None:
        self.fd = nameless()
        batch = encoded(data, width=width)
        batch.write(self.fd, 64, 0, COUNT)
        self.records = batch.records.copy()
        self.records["segment"], self.records["offset"] = 1, batch.place(0, COUNT, 64)
        self.stored_bytes = batch.stored_bytes
        self.frames = [os.pread(self.fd, int(r["frame_bytes"]), int(r["offset"])) for r in self.records]

    def __del__(self) -> None:
        os.close(self.fd)

    def reading(self, stripes: Array, first: Array, count: Array, out: Array, threads: int = 1) -> Case:
        n = len(stripes)
        fds, records, txs = np.full(n, self.fd, np.int32), self.records[stripes], np.frombuffer(TX * n, np.uint8)
        numbers, offsets = stripes.astype(np.uint64), np.cumsum(count) - count
        status, seen = np.zeros(n, np.int32), np.zeros(n, np.uint64)

        def case() -> None:
            bad = kernels.read_frames(
                fds,
                records,
                numbers,
                first,
                count,
                out,
                offsets,
                FILE_ID,
                txs.reshape(n, 16),
                status,
                seen,
                threads=threads,
            )
            assert bad == 0

        return case

    def decoding(self, out: Array) -> Case:
        txs = np.frombuffer(TX * COUNT, np.uint8).reshape(COUNT, 16)
        status, seen = np.zeros(COUNT, np.int32), np.zeros(COUNT, np.uint64)
        first = np.zeros(COUNT, np.int64)
        pieces = (self.records, STRIPES, first, LENGTHS, out, OFFSETS, FILE_ID, txs, status, seen)
        return lambda: kernels.decode_frames(self.frames, *pieces)

    def whole(self, out: Array, threads: int = 1) -> Case:
        return self.reading(np.arange(COUNT), np.zeros(COUNT, np.int64), LENGTHS, out, threads)


def read_text(runs: int) -> Table:
    segment, out = _Segment(text(), width=1), np.empty(BYTES, np.uint8)
    places, entries = (
        [],
        np.dtype([("crc64", "<u8"), ("stored", "<u4"), ("codec", "u1"), ("width", "u1"), ("zero", "<u2")]),
    )
    for record, frame in zip(segment.records, segment.frames, strict=True):
        at = int(record["offset"]) + int(record["header64"]) * 64
        for entry in np.frombuffer(frame, entries, STRIPE // BLOCK, 128):
            places.append((at, int(entry["stored"])))
            at += int(entry["stored"])

    def peer() -> None:
        for at, stored in places:
            lz4.block.decompress(os.pread(segment.fd, stored, at), uncompressed_size=BLOCK)

    cases: dict[str, Case | Missing] = {
        "read_frames": segment.whole(out),
        "pread and lz4.block.decompress, each block": peer,
    }
    return compare(cases, runs, title=f"read text (from {segment.stored_bytes / BYTES:.3f})", moved_bytes=BYTES)


def read_field(runs: int) -> Table:
    data = field()
    segment, out = _Segment(data, width=8), np.empty(BYTES, np.uint8)
    cases: dict[str, Case | Missing] = {
        "decode_frames, from memory": segment.decoding(out),
        "read_frames, from tmpfs": segment.whole(out),
    }
    blosc = _blosc()
    if isinstance(blosc, Missing):
        cases["blosc2"] = blosc
    else:
        chunk = blosc.room[: blosc.compress(data, 9)].copy()

        def verified() -> None:
            blosc.decompress(chunk, out)
            kernels.crc64(out)

        cases["blosc2, from memory, unverified"] = partial(blosc.decompress, chunk, out)
        cases["blosc2, from memory, then our crc64"] = verified
    return compare(cases, runs, title="read a smooth float64 field with noise", moved_bytes=BYTES)


def read_noise(runs: int) -> Table:
    segment = _Segment(noise())
    room = np.zeros(BYTES + 2 * 4096, np.uint8)
    shift = -room.ctypes.data % 4096
    like_numpy, on_page = room[shift + 16 :][:BYTES], room[shift:][:BYTES]
    plain = nameless()
    os.pwrite(plain, memoryview(noise()), 0)

    def pread(out: Array, then: Callable[[Array], object] | None = None) -> Case:
        def case() -> None:
            for at in range(0, BYTES, 8 << 20):
                os.preadv(plain, [memoryview(out)[at : at + (8 << 20)]], at)
                if then is not None:
                    then(out[at : at + (8 << 20)])

        return case

    cases: dict[str, Case | Missing] = {
        "read_frames, into memory as numpy gives it": segment.whole(like_numpy),
        "read_frames, into pages": segment.whole(on_page),
        "preadv of 8 MiB, into memory as numpy gives it": pread(like_numpy),
        "preadv of 8 MiB, into pages": pread(on_page),
        "preadv of 8 MiB, into pages, and crc64": pread(on_page, kernels.crc64),
    }
    return compare(cases, runs, title="read random bytes, stored raw", moved_bytes=BYTES)


def write_noise(runs: int) -> Table:
    data = noise()
    batch = encoded(data)
    framed, plain = nameless(), nameless()

    def pwrite() -> None:
        os.ftruncate(plain, 0)
        for at in range(0, BYTES, 8 << 20):
            os.pwrite(plain, memoryview(data)[at : at + (8 << 20)], at)

    def write() -> None:
        os.ftruncate(framed, 0)
        batch.write(framed, 64, 0, COUNT)

    cases: dict[str, Case | Missing] = {"FrameBatch.write": write, "pwrite of 8 MiB": pwrite}
    return compare(cases, runs, title="write random bytes to a new file", moved_bytes=BYTES)


def read_pieces(runs: int, kind: str, data: Array, length: int) -> Table:
    segment = _Segment(data)
    n = min(2000, 4 * BYTES // length)
    rng = np.random.default_rng(3)
    stripes = rng.integers(0, COUNT, n)
    first = rng.integers(0, (STRIPE - length) // 4096 + 1, n) * 4096
    out = np.empty(n * length, np.uint8)
    places = (segment.records["offset"][stripes].astype(np.int64) % (BYTES // 4) + first).tolist()
    views = [memoryview(out)[at : at + length] for at in range(0, n * length, length)]

    def peer() -> None:
        for view, at in zip(views, places, strict=True):
            os.preadv(segment.fd, [view], at)

    counts = np.full(n, length, np.int64)
    cases: dict[str, Case | Missing] = {
        "read_frames": segment.reading(stripes, first, counts, out),
        "read_frames, 2 threads": segment.reading(stripes, first, counts, out, threads=2),
        "preadv, unverified": peer,
    }
    title = f"read {length >> 10} KiB pieces at random, {kind}"
    return compare(cases, runs, title=title, items=n, item="piece")


def tables(runs: int) -> list[Callable[[], Table]]:
    return [
        *(partial(table, runs) for table in (encode_text, encode_noise, write_noise)),
        *(partial(encode_field, runs, dtype) for dtype in ("float64", "float32")),
        *(partial(table, runs) for table in (read_text, read_field, read_noise)),
        *(
            partial(read_pieces, runs, kind, make(), length)
            for kind, make in (("raw", noise), ("text", text))
            for length in (4 << 10, 256 << 10)
        ),
    ]


if __name__ == "__main__":
    main(tables, {"crc64": kernels.crc64_implementation(), "lz4": kernels.lz4_library()})
