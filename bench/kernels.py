"""The primitive kernels beside their peers and limits: ``python -m bench.kernels [--runs N] [--json]``."""

import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lz4.block
import numpy as np
import numpy.typing as npt

from bench.harness import Case, Missing, Table, compare, main
from pinstripe import kernels

BLOCK = 65_536
STRIPE = 1 << 20
LARGE = 64 << 20  # beyond any cache

Bytes = npt.NDArray[np.uint8]


def noise(length: int) -> Bytes:
    return np.random.default_rng(length).integers(0, 256, length, np.uint8)


def field() -> npt.NDArray[np.float64]:
    """A block of a smooth field with a little noise."""
    x = np.arange(BLOCK // 8)
    return 3 * np.sin(x / 500) + np.cos(x / 77) + 0.001 * np.random.default_rng(1).normal(size=len(x))


def text() -> Bytes:
    """A block of words, some of them much more frequent than others."""
    words = [bytes(word) for word in np.random.default_rng(7).integers(97, 123, (4000, 6), np.uint8)]
    chosen = (words[n] for n in np.random.default_rng(8).zipf(1.3, BLOCK) if n < len(words))
    return np.frombuffer(b" ".join(chosen)[:BLOCK], np.uint8)


def shuffled(data: npt.NDArray[np.generic], width: int) -> Bytes:
    out = np.empty(data.nbytes, np.uint8)
    kernels.shuffle(data, out, width)
    return out


def checksum(runs: int, length: int, where: str) -> Table:
    data = noise(length)
    words = data.view(np.uint64)
    cases: dict[str, Case | Missing] = {"pinstripe crc64": lambda: kernels.crc64(data)}
    try:
        import google_crc32c
    except ImportError:
        cases["google-crc32c"] = Missing("pip install google-crc32c")
    else:
        whole = data.tobytes()
        cases["google-crc32c (CRC-32C)"] = lambda: google_crc32c.value(whole)
    try:
        from awscrt import checksums
    except ImportError:
        cases["awscrt crc64nvme"] = Missing("pip install awscrt")
    else:
        cases["awscrt crc64nvme"] = lambda: checksums.crc64nvme(data)
    cases["limit: numpy sum of uint64"] = lambda: words.sum()
    return compare(cases, runs, title=f"checksum of {length >> 10} KiB, {where}", moved_bytes=length)


def checksum_implementations(runs: int) -> Table:
    data = noise(BLOCK)

    def use(name: str) -> Case:
        def case() -> None:
            before = kernels.crc64_use(name)
            kernels.crc64(data)
            kernels.crc64_use(before)

        return case

    cases: dict[str, Case | Missing] = {name: use(name) for name in reversed(kernels.crc64_implementations())}
    return compare(cases, runs, title="checksum of 64 KiB, each implementation", moved_bytes=BLOCK)


def checksum_fold(runs: int) -> Table:
    count = 4096
    crcs = np.random.default_rng(2).integers(0, 2**63, count).astype(np.uint64)
    equal = np.full(count, BLOCK, np.int64)
    different = np.random.default_rng(3).integers(1, STRIPE, count)
    cases: dict[str, Case | Missing] = {
        "pinstripe crc64_fold, equal lengths": lambda: kernels.crc64_fold(crcs, equal),
        "pinstripe crc64_fold, different lengths": lambda: kernels.crc64_fold(crcs, different),
    }
    try:
        from awscrt import checksums

        combine = checksums.combine_crc64nvme
    except (ImportError, AttributeError):
        cases["awscrt combine_crc64nvme"] = Missing("pip install 'awscrt>=0.28'")
    else:
        pairs = [(int(crc), int(length)) for crc, length in zip(crcs, different, strict=True)]

        def fold() -> None:
            total = 0
            for crc, length in pairs:
                total = combine(total, crc, length)

        cases["awscrt combine_crc64nvme, different lengths, one call each"] = fold
    return compare(cases, runs, title="combine 4096 checksums", items=count, item="checksum")


def compress(runs: int, kind: str, data: npt.NDArray[np.generic]) -> Table:
    out = bytearray(kernels.lz4_bound(data.nbytes))
    raw = data.tobytes()
    share = kernels.lz4_compress(raw, out) / len(raw)
    cases: dict[str, Case | Missing] = {
        "pinstripe lz4_compress": lambda: kernels.lz4_compress(raw, out),
        "lz4.block.compress": lambda: lz4.block.compress(raw, mode="fast", acceleration=1, store_size=False),
        "limit: numpy copy": _copy(data),
    }
    return compare(cases, runs, title=f"LZ4 of 64 KiB, {kind} (to {share:.3f})", moved_bytes=len(raw))


def decompress(runs: int, kind: str, data: npt.NDArray[np.generic]) -> Table:
    raw = data.tobytes()
    block = lz4.block.compress(raw, store_size=False)
    out = bytearray(len(raw))
    cases: dict[str, Case | Missing] = {
        "pinstripe lz4_decompress": lambda: kernels.lz4_decompress(block, out),
        "lz4.block.decompress": lambda: lz4.block.decompress(block, uncompressed_size=len(raw)),
        "limit: numpy copy": _copy(data),
    }
    return compare(cases, runs, title=f"LZ4 back to 64 KiB, {kind}", moved_bytes=len(raw))


def byte_shuffle(runs: int, width: int, back: bool) -> Table:
    data, out = noise(BLOCK), np.empty(BLOCK, np.uint8)
    ours = partial(kernels.unshuffle if back else kernels.shuffle, data, out, width)
    cases: dict[str, Case | Missing] = {"pinstripe": ours}
    blosc = _blosc()
    if isinstance(blosc, Missing):
        cases["blosc2"] = blosc
    else:
        function = blosc.blosc2_unshuffle if back else blosc.blosc2_shuffle
        cases["blosc2's C function"] = partial(
            function, width, BLOCK, ctypes.c_void_p(data.ctypes.data), ctypes.c_void_p(out.ctypes.data)
        )
    cases["limit: numpy copy"] = _copy(data)
    title = f"{'unshuffle' if back else 'shuffle'} of 64 KiB, width {width}"
    return compare(cases, runs, title=title, moved_bytes=BLOCK)


def probe(runs: int) -> Table:
    random, smooth, words, stripe = noise(BLOCK), field(), text(), noise(STRIPE)
    cases: dict[str, Case | Missing] = {
        "random bytes": lambda: kernels.probe(random),
        "random bytes, width 8 known": lambda: kernels.probe(random, 8),
        "float64 field": lambda: kernels.probe(smooth),
        "float64 field, width known": lambda: kernels.probe(smooth, 8),
        "text": lambda: kernels.probe(words),
        "limit: checksum of a stripe of 1 MiB": lambda: kernels.crc64(stripe),
    }
    return compare(cases, runs, title="probe of a block of 64 KiB")


def extents(runs: int, length: int) -> Table:
    count = (4 << 20) // length
    src, dst = noise(2 * count * length), np.empty(count * length, np.uint8)
    places = np.arange(count, dtype=np.int64) * length
    lengths = np.full(count, length, np.int64)
    rows, out = src.reshape(count, 2 * length)[:, :length], dst.reshape(count, length)
    cases: dict[str, Case | Missing] = {
        "pinstripe copy_extents": lambda: kernels.copy_extents(src, 2 * places, dst, places, lengths),
        "numpy copy of a strided view": lambda: np.copyto(out, rows),
        "limit: numpy copy, contiguous": _copy(dst),
    }
    return compare(cases, runs, title=f"gather 4 MiB in extents of {length} bytes", moved_bytes=count * length)


def _copy(data: npt.NDArray[np.generic]) -> Case:
    out = np.empty_like(data)
    return lambda: np.copyto(out, data)


def _blosc() -> ctypes.CDLL | Missing:
    try:
        import blosc2
    except ImportError:
        return Missing("pip install blosc2")
    libraries = [*Path(blosc2.__file__).with_name("lib").glob("libblosc2.so*")]
    return ctypes.CDLL(str(libraries[0])) if libraries else Missing("a blosc2 wheel that ships libblosc2.so")


def tables(runs: int) -> list[Callable[[], Table]]:
    kinds = {"text": text(), "float64 field, shuffled": shuffled(field(), 8), "random": noise(BLOCK)}
    return [
        partial(checksum, runs, BLOCK, "in cache"),
        partial(checksum, runs, STRIPE, "in cache"),
        partial(checksum, runs, LARGE, "from memory"),
        partial(checksum_implementations, runs),
        partial(checksum_fold, runs),
        *(partial(compress, runs, kind, data) for kind, data in kinds.items()),
        *(partial(decompress, runs, kind, data) for kind, data in kinds.items()),
        *(partial(byte_shuffle, runs, width, back) for back in (False, True) for width in (2, 4, 8)),
        partial(probe, runs),
        *(partial(extents, runs, length) for length in (8, 64, 4096)),
    ]


if __name__ == "__main__":
    main(tables, {"crc64": kernels.crc64_implementation(), "lz4": kernels.lz4_library()})
