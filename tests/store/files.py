"""What tests of files in a small store share."""

from __future__ import annotations

from pathlib import Path

import pinstripe
from pinstripe import Store

__all__ = ["LARGE", "STRIPE", "read", "segments_of", "write"]

STRIPE = 64 << 10
LARGE = bytes(range(256)) * (5 * STRIPE // 256) + b"tail"


def read(path: str, **options: object) -> bytes:
    """The whole file."""
    with pinstripe.open(path, "rb", **options) as file:
        return bytes(file.read())


def write(path: str, data: bytes, mode: str = "wb", **options: object) -> int:
    """Write and commit; the generation."""
    with pinstripe.open(path, mode, **options) as file:
        file.write(data)
    return int(file.generation)


def segments_of(store: Store) -> list[str]:
    """Every segment on the targets, copies of manifests left out."""
    places = [Path(target.path) for target in store.targets]
    return [str(found) for place in places for found in place.rglob("*.*.*")]
