"""Bytes of known kinds, the same on every call: what compresses, what compresses only shuffled, what does not."""

import numpy as np

KINDS = ("noise", "text", "float64", "zeros")


def sample(kind: str, count: int, seed: int = 0) -> bytes:
    """`count` bytes of one of KINDS."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "noise":
        return rng.bytes(count)
    if kind == "zeros":
        return bytes(count)
    if kind == "float64":  # a smooth field with noise: LZ4 finds nothing in it until it is shuffled
        x = np.arange(count // 8 + 1)
        field = np.sin(x / 500) + 1e-3 * rng.normal(size=len(x))
        return field.tobytes()[:count]
    words = [bytes(word) for word in rng.integers(97, 123, size=(500, 6), dtype=np.uint8)]
    chosen = rng.integers(0, 500, size=count // 7 + 1)
    return b" ".join(words[i] for i in chosen)[:count].ljust(count, b".")
