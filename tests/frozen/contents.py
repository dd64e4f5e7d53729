"""What the frozen files hold, made from nothing but integers: the same on every machine and for ever."""

import hashlib

import numpy as np

STRIPE, BLOCK = 64 << 10, 16 << 10


def noise(length: int, seed: bytes) -> bytes:
    """Bytes that no codec makes smaller: the output of SHAKE-128 (FIPS 202)."""
    return hashlib.shake_128(seed).digest(length)


def text(lines: int) -> bytes:
    return b"".join(b"line %d: %d\n" % (k, k * k) for k in range(lines))


def numbers(dtype: str, count: int) -> bytes:
    """A parabola with a little noise; each value is exact in its type."""
    k = np.arange(count, dtype="i8")
    jitter = np.frombuffer(noise(count, b"jitter"), np.uint8) & 3
    return (((k - count // 2) ** 2 >> 10) + jitter).astype(dtype).tobytes()


def samples(count: int) -> bytes:
    """16-bit numbers that rise slowly in their high bytes and are noise in their low ones."""
    low = np.frombuffer(noise(count, b"samples"), np.uint8).astype("<i2")
    return ((np.arange(count) >> 9 << 8) + low).astype("<i2").tobytes()


def patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


LOG = text(12_000)
CHANGED = patched(patched(LOG, 70_000, b"second generation"), 200_000, noise(5_000, b"third generation"))
BASE = text(9_000)

FILES: dict[str, bytes] = {
    "empty": b"",
    "inline": b"a few bytes, which lie in the name itself\n",
    "log": LOG,
    "changed": CHANGED,  # three generations
    "noise": noise(STRIPE + 1_000, b"noise"),
    "zeros": bytes(3 * STRIPE),  # written, not left out
    "short": bytes(STRIPE) + b"x",
    "numbers/f8": numbers("<f8", 20_000),
    "numbers/f4": numbers("<f4", 20_000),
    "numbers/i2": samples(40_000),
    "cut": BASE[: STRIPE + 4_321],  # truncated into a stripe after a commit
    "kept": patched(BASE, 100, b"the first writer"),  # of two that changed the same bytes
    "unfinished": BASE,  # somebody died while changing it
    "layout/wide/raw": text(9_000),  # the directory says codec raw and larger stripes
}
KEPT = patched(BASE, 100, b"the other writer")

SPARSE_SIZE = 300 << 20  # more than one page of records
SPARSE = {0: b"first", (100 << 20) + 12_345: b"in the middle", SPARSE_SIZE - 4: b"last"}
"""The pieces of the file ``sparse``, by offset; all else is holes."""

SYMLINKS = {"link": "log", "numbers/up": "../changed"}
MODES = {"log": 0o640, "inline": 0o600}
PART_EXTENTS = [(10, 100), (20_000, 3_000), (STRIPE - 7, 7)]
PART = noise(100, b"part") + text(400)[:3_000] + bytes(7)
PART_STRIPE = 5
